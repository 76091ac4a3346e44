"""The tolerances of the project, each named once. What is bit-exact has none."""

EXPORTED = 1e-5
"""|probability or logit| in an exported graph against eager; largest seen 4e-7 at logits below 10."""
