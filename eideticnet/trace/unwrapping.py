"""The plain module inside what users wrap around it, or why it can't be had."""

from __future__ import annotations

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from eideticnet.errors import UnsupportedError


def unwrapped(trunk: nn.Module) -> nn.Module:
    """``trunk`` without ``torch.compile``, ``DataParallel`` and its like, or an average around it.

    Raises ``UnsupportedError`` for what is scripted, lazy, or computes in another type than float32.
    """
    while isinstance(trunk, OptimizedModule | nn.DataParallel | DistributedDataParallel | AveragedModel):
        trunk = trunk._orig_mod if isinstance(trunk, OptimizedModule) else trunk.module
    for path, module in trunk.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"layer {path!r}" if path else "the trunk"
            raise UnsupportedError(f"{where} is scripted; use the nn.Module that it was made from")
    for path, weight in trunk.named_parameters():
        if is_lazy(weight):
            raise UnsupportedError(
                f"{path!r} has no size yet; run the trunk once, trunk(example_input), before it is given here"
            )
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise UnsupportedError(
                f"{path!r} is {weight.dtype}; networks compute in float32: use trunk.float(), and "
                "torch.set_default_dtype(torch.float32) where that was changed"
            )
    return trunk
