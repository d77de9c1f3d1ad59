"""How a batch of requests becomes outcomes, step by step and round by round."""
