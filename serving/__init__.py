"""Run TorchServe with our model archives: start, watch, stop. Never imports torch or eideticnet."""
