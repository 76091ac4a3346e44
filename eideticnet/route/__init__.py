"""How a network finds the task: what is asked for, the router's training, its probabilities."""
