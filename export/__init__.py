"""From a checkpoint to a bundle, and from a bundle to a model archive."""
