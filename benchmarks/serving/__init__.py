"""``make bench-serving``: our server beside mosec, FastAPI and bare ONNX Runtime, on the same graph."""
