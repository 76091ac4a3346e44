"""Archives: the file that a server serves, what it may hold, and the contract with training."""
