"""Where the cluster grows: a queueing model with measured costs, and its check against a real cluster."""
