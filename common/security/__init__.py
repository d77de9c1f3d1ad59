"""Who may do what, and how it is kept from others: API keys, CURVE, exposure."""
