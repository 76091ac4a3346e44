"""A network's blocks as a graph of a format, a layout and a precision."""
