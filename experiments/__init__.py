"""Data and configurations of the experiments."""
