"""What is in the store, the scripts that work on it, whose fault its errors are, and its users."""
