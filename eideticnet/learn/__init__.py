"""A training job: epochs, pruning, what it reads, and going on after an interruption."""
