"""Networks that grow by blocks of random weights: many versions in little time."""

from __future__ import annotations

import random

import onnx
import torch
from torch import Tensor

from eideticnet import EideticNetwork, FittedRouting
from eideticnet.block import Block
from eideticnet.export.bundle.graph_file import Form, onnx_body
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.program import HEAD
from eideticnet.rules import floors


def random_block(net: EideticNetwork, owner: str, reads: tuple[str, ...], own: dict[str, int]) -> Block:
    """A frozen block of random weights and statistics."""
    widths = {o: net.learned.block(o).widths[o] for o in reads} | {owner: own}
    block = Block(net.program, owner, reads, widths)
    with torch.no_grad():
        for weight in block.parameters():
            weight.copy_(torch.randn_like(weight) / 2)
        for name, tensor in block.named_buffers():
            if name.endswith("running_mean"):
                tensor.normal_()
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    block.freeze()
    return block


def grow(
    net: EideticNetwork, rng: random.Random, most: int = 5, reads: float = 1.0, revise: bool = False
) -> None:
    """One more task of up to ``most`` neurons in each group, widening what is full, that reads each of the
    earlier ones with the probability ``reads``; or another revision of the first one."""
    number, least, own = len(net.learned.tasks), floors(net.program), dict[str, int]()
    owned = [net.learned.block(task.owner).own for task in net.learned.tasks]
    for group, total in net.program.groups.items():
        own[group] = max(least[group], rng.randint(1, most))
        lacking = own[group] - (total - sum(widths[group] for widths in owned))
        if lacking > 0:
            net.program = net.program.widened({group: lacking})
    old = net.learned.tasks[0] if revise and number else None
    own[HEAD] = len(old.classes) if old else rng.randint(2, 3)
    read = tuple(task.owner for task in net.learned.tasks if rng.random() < reads)
    name, revision = f"task {number}", 0
    if old is not None:
        name, revision = old.name, len(net.learned.revisions(old.name))
    task = Task(name, f"t{number}", tuple("abc"[: own[HEAD]]), net.inputs.to_try(2), revision)
    net.learned = net.learned.with_task(task, random_block(net, task.owner, read, own))


def routed(net: EideticNetwork, neurons: int = 2) -> Learned:
    """What is learned, with a router of random weights."""
    own = dict.fromkeys(net.program.groups, neurons)
    own[HEAD] = sum(len(task.classes) for task in net.tasks)
    block = random_block(net, ROUTER, tuple(task.owner for task in net.learned.tasks), own)
    return net.learned.with_router(block, FittedRouting("block", "joint"))


def paged_graph(net: EideticNetwork) -> onnx.ModelProto:
    """The network's body in pages as an ONNX graph."""
    return onnx_body(net, Form(layout="paged"))


def rows(net: EideticNetwork, count: int) -> Tensor:
    """Random inputs that the contract allows."""
    return net.inputs.random(count, torch.Generator().manual_seed(count))
