"""Graphs in ONNX, without torch: the tail that decides, prefixes, digests, and running one."""
