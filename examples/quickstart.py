import torch
from sklearn.datasets import load_digits
from eideticnet import EideticNetwork, Inputs, batches
from eideticnet.models import mlp

x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
x = x.float()
net = EideticNetwork(mlp(64, (64, 64)), x[:2], inputs=Inputs((64,), low=0, high=16, std=(16,)))
loaders = {}
for first in (0, 2, 4):
    name, mine = f"{first} or {first + 1}", (y == first) | (y == first + 1)
    loaders[name] = batches(x[mine], y[mine] - first)
    net.train_task(name, loaders[name], [str(first), str(first + 1)])
net.fit_router(loaders)
print(net.names(net(x[:5])))  # [Named(task='0 or 1', label='0'), ...]
net.save("runs/three")
