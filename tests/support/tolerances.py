"""The tolerances of the project, each named once. What is bit-exact has none."""

EXPORTED = 1e-5
"""|probability or logit| in an exported graph against eager; largest seen 4e-7 at logits below 10."""

HALF = {"float16": 2e-2, "bfloat16": 2e-1}
"""|logit| of a graph in a half type against eager float32; largest seen 2e-3 and 2e-2 at logits below 10."""
