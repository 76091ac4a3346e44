import os
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported
import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

model = Path("my-bundle/model.onnx")
if not model.exists():
    raise SystemExit(f"there is no {model}: eidetic export runs/digits --bundle my-bundle comes first")
x = load_digits().data[:5].astype(np.float32)  # raw inputs (N, 64)
session = onnxruntime.InferenceSession(model)
feeds = {"x": x, "pinned_task": np.full(len(x), -1), "threshold": np.zeros(len(x), np.float32)}
task, label, task_probs, label_probs, logits = session.run(None, feeds)
