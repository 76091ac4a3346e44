"""Other servers with the same graph, run by the environment of ``requirements.txt`` alone."""
