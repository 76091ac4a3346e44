"""The oracle: the plain trunk with dense weights in which everything forbidden is zero.

Slow and obvious: one dense layer for all owners, in double precision. A neuron's row holds
weights for the columns of the owners that its own owner reads, and zeros everywhere else. Two layers
have no dense form and are written as what they are defined to be: a layer norm takes each owner's
moments over what that owner reads, and the reset gate of a GRU covers the owner's own units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eideticnet import EideticNetwork
from eideticnet.program import HEAD, Features, Step
from eideticnet.trace.normal import as_named


def masked_logits(net: EideticNetwork, trunk: Callable[[], nn.Module], x: Tensor) -> dict[str, Tensor]:
    """Logits of every owner's head, computed by the plain ``trunk``; ``x`` normalised."""
    twin = Twin(net, as_named(trunk()).double())
    with torch.no_grad():
        features = twin.plain(x.double() if x.is_floating_point() else x)
    return {owner: twin.head(owner, features) for owner in net.learned.blocks}


class Twin:
    """``plain``, filled with the numbers of all blocks."""

    def __init__(self, net: EideticNetwork, plain: nn.Module) -> None:
        self.net, self.program, self.plain = net, net.program, plain
        for parameter in plain.parameters():
            parameter.data.zero_()
        for path, step in self.program.layers.items():
            if path != HEAD:
                getattr(self, f"fill_{step.rule}")(path, step)

    def owners(self, path):
        blocks = [self.net.learned.block(o) for o in self.net.learned.blocks]
        return [(b, b.layer(path)) for b in blocks if b.layer(path) is not None]

    def columns(self, features: Features, owner: str) -> Tensor:
        """Where the owner's columns are in the dense tensor, in the order of its piece."""
        owned, found, start = self.net.learned.owned(), [], 0
        if features.placed:
            return self.places(features, owner)
        for run in features.runs:
            before = sum(owned[o][run.group] for o in list(owned)[: list(owned).index(owner)])
            mine = range(before, before + owned[owner][run.group])
            found += [start + n * run.repeat + i for n in mine for i in range(run.repeat)]
            start += self.program.groups[run.group] * run.repeat
        return torch.tensor([t * start + c for t in range(features.tile) for c in found], dtype=torch.long)

    def places(self, features: Features, owner: str) -> Tensor:
        """The same where runs lie among one another: a piece is in the order of the trunk's first columns."""
        owned, found = self.net.learned.owned(), []
        for run in features.runs:
            first = run.repeat * sum(owned[o][run.group] for o in list(owned)[: list(owned).index(owner)])
            mine = range(run.repeat * owned[owner][run.group])
            found += [(run.places[c], run.places[first + c]) for c in mine]
        return torch.tensor([column for _, column in sorted(found)], dtype=torch.long)

    def read(self, block, step: Step, features: Features) -> Tensor:
        owners = [*block.read_in(step), block.owner]
        return torch.cat([self.columns(features, o) for o in owners])

    def source(self, step: Step) -> Features:
        return self.program.features[step.inputs[0]]

    def fill_linear(self, path: str, step: Step) -> None:
        dense = self.plain.get_submodule(path)
        for block, layer in self.owners(path):
            rows, source = self.columns(step.features, block.owner), self.source(step)
            read = torch.arange(dense.weight.shape[1]) if source.raw else self.read(block, step, source)
            dense.weight.data[rows[:, None], read] = layer.weight.double()
            if dense.bias is not None:
                dense.bias.data[rows] = layer.bias.double()

    fill_conv = fill_linear

    def fill_conv_part(self, path: str, step: Step) -> None:
        whole, _, k = path.rpartition(".")
        dense, parts = self.plain.get_submodule(whole), step.options["parts"]
        weight, bias = (t if t is None else t.data.chunk(parts)[int(k)] for t in (dense.weight, dense.bias))
        for block, layer in self.owners(path):
            rows = self.columns(step.features, block.owner)
            weight[rows[:, None], self.read(block, step, self.source(step))] = layer.weight.double()
            if bias is not None:
                bias[rows] = layer.bias.double()

    def fill_narrow(self, path: str, step: Step) -> None:
        """The plain trunk does it by itself."""

    fill_choose = fill_narrow

    def fill_vectors(self, path: str, step: Step) -> None:
        dense = self.plain.get_submodule(path)
        for block, layer in self.owners(path):
            raw = step.features.raw
            for name, values in layer.state_dict().items():
                where = slice(None) if raw else self.columns(step.features, block.owner)
                if values.ndim:
                    dense.state_dict()[name][where] = values.double()

    fill_grouped_conv = fill_batch_norm = fill_instance_norm = fill_group_norm = fill_layer_norm = (
        fill_prelu
    ) = fill_vectors

    def fill_embedding(self, path: str, step: Step) -> None:
        dense = self.plain.get_submodule(path)
        for block, layer in self.owners(path):
            dense.weight.data[:, self.columns(step.features, block.owner)] = layer.weight.double()

    def fill_parameter(self, path: str, step: Step) -> None:
        dense = self.plain.get_parameter(path).data
        for block, layer in self.owners(path):
            columns = self.columns(step.features, block.owner)
            shape = dense.index_select(step.features.dim, columns).shape
            dense.index_copy_(step.features.dim, columns, layer.weight.double().reshape(shape))

    def fill_prefix_norm(self, path: str, step: Step) -> None:
        norm = CumulativeNorm(self.program.layers[path].options)
        for block, layer in self.owners(path):
            norm.parts.append(
                (self.read(block, step, step.features), self.columns(step.features, block.owner), layer)
            )
        self.replace(path, norm)

    def fill_recurrent(self, path: str, step: Step) -> None:
        dense, source = self.plain.get_submodule(path), self.source(step)
        if step.options["kind"] == "gru":
            self.fill_gru(path, step)
            return
        for block, layer in self.owners(path):
            hidden = dense.hidden
            mine = self.columns(step.features, block.owner)
            rows = torch.cat([g * hidden + mine for g in range(dense.weight_ih_l0.shape[0] // hidden)])
            read = self.read(block, step, source)
            back = self.read(block, step, step.features)[: -len(mine)]
            weight = layer.weight_ih_l0.double()
            dense.weight_ih_l0.data[rows[:, None], read] = weight[:, : len(read)]
            dense.weight_hh_l0.data[rows[:, None], back] = weight[:, len(read) :]
            dense.weight_hh_l0.data[rows[:, None], mine] = layer.weight_hh_l0.double()
            for name in ("bias_ih_l0", "bias_hh_l0") if step.options["bias"] else ():
                getattr(dense, name).data[rows] = getattr(layer, name).double()

    def fill_gru(self, path: str, step: Step) -> None:
        gru = OwnersGru(self.program.groups[step.features.runs[0].group] * step.features.runs[0].repeat)
        for block, layer in self.owners(path):
            mine = self.columns(step.features, block.owner)
            back = self.read(block, step, step.features)[: -len(mine)]
            gru.parts.append((self.read(block, step, self.source(step)), back, mine, layer))
        self.replace(path, gru)

    def replace(self, path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.plain.get_submodule(parent), name, module)

    def head(self, owner: str, features: Tensor) -> Tensor:
        block = self.net.learned.block(owner)
        head, step = block.layer(HEAD), self.program.steps[-1]
        read = self.read(block, step, self.source(step))
        return features[:, read] @ head.weight.double().T + head.bias.double()


class CumulativeNorm(nn.Module):
    """For each owner, mean and variance over the columns that it reads; affine on its own."""

    def __init__(self, options) -> None:
        super().__init__()
        self.eps, self.dim, self.parts = options["eps"], 1 if options["positions"] else -1, []

    def forward(self, x: Tensor) -> Tensor:
        out, dims = torch.zeros_like(x), tuple(range(1, x.ndim)) if self.dim == 1 else -1
        for read, own, layer in self.parts:
            seen = x.index_select(self.dim, read)
            mean, var = seen.mean(dims, keepdim=True), seen.var(dims, correction=0, keepdim=True)
            values = (x.index_select(self.dim, own) - mean) / (var + self.eps).sqrt()
            shape = [1] * x.ndim
            shape[self.dim] = -1
            if layer.weight is not None:
                values = values * layer.weight.double().reshape(shape)
            if layer.bias is not None:
                values = values + layer.bias.double().reshape(shape)
            out = out.index_copy(self.dim, own, values)
        return out


class OwnersGru(nn.Module):
    """A GRU step by step, owner by owner."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden, self.parts = hidden, []

    def forward(self, x: Tensor) -> Tensor:
        h, outs = x.new_zeros(len(x), self.hidden), []
        for s in range(x.shape[1]):
            new = h.clone()
            for read, back, mine, layer in self.parts:
                bias_in, bias_h = 0.0, 0.0
                if len(layer.names) > 2:
                    bias_in, bias_h = layer.bias_ih_l0.double(), layer.bias_hh_l0.double()
                seen = torch.cat([x[:, s, read], h[:, back]], 1)
                from_in = seen @ layer.weight_ih_l0.double().T + bias_in
                from_h = h[:, mine] @ layer.weight_hh_l0.double().T + bias_h
                (ri, zi, ni), (rh, zh, nh) = from_in.chunk(3, 1), from_h.chunk(3, 1)
                reset, update = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
                candidate = torch.tanh(ni + reset * nh)
                new[:, mine] = (1 - update) * candidate + update * h[:, mine]
            h = new
            outs.append(h)
        return torch.stack(outs, 1)
