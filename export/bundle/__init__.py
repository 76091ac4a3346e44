"""The bundle: the folder between a network and its archive, written and tried on this machine."""
