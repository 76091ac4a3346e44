import json
from pathlib import Path
import numpy as np
from eideticnet.client import Client  # AsyncClient, GrpcClient, AsyncGrpcClient have the same predict

home = Path("server_home")
if not (home / "server.json").exists():
    raise SystemExit("no server runs in this folder: make serve, or eidetic serve ARCHIVE, comes first")
url = json.loads((home / "server.json").read_text())["inference"]  # of a server on this machine
with Client(url, home / "keys.json", retries=3) as client:
    for answer in client.predict("digits", np.zeros((5, 64), np.float32), top_k=2, deadline=2.0):
        print(answer.task, answer.label, answer.unknown, answer.top)
