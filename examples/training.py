import torch
from sklearn.datasets import load_digits
from eideticnet import EideticNetwork, Inputs, Pruning, batches, evaluate
from eideticnet.models import mlp

x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
x = x.float()
net = EideticNetwork(mlp(64, (64, 64)), x[:2], inputs=Inputs((64,), low=0, high=16, std=(16,)))

loaders = {}
for first in (0, 2, 4):
    mine = (y == first) | (y == first + 1)
    name = f"{first} or {first + 1}"
    loaders[name] = batches(x[mine], y[mine] - first)
    net.train_task(name, loaders[name], [str(first), str(first + 1)], pruning=Pruning(step=0.25))
net.fit_router(loaders)

out = net(x[:5])  # out.task, out.label (N,), out.task_probs (N, T), ...
net.names(out)  # [Named(task="0 or 1", label="0"), ...]
evaluate(net, loaders)  # oracle and routed accuracy by task; held-out loaders, in earnest
net.task_logits(x[:5], "0 or 1")  # one task, running only what it reads; x may be an array or a list
net.capacity()  # owned and free neurons, by layer and task; the router's apart
net.capacity().arithmetic  # multiply-adds of an answer, beside a plain network's
net.save("runs/three")
net = EideticNetwork.load("runs/three")
