"""A run from the command line: its configuration and data, its progress, history and report."""
