"""From a checkpoint to a bundle, from a bundle to an archive, and proofs of archives."""
