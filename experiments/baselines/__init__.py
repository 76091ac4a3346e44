"""What a network is compared with: other methods, with the same trunk, tasks, data and recipe."""
