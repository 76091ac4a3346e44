"""What is measured, with which command, and the results."""
