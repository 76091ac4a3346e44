"""Versions take over from each other: from what is to be served to what an engine holds."""
