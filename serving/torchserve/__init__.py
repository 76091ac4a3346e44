"""TorchServe as an engine: all of serving that knows it."""
