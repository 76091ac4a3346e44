"""A trunk in normal form: composite stock layers replaced by the simple ones that they consist of.

What is replaced computes the same numbers. Attention becomes linear layers for queries, keys and
values; a recurrent layer of several layers and directions becomes one for each of them.
"""

from __future__ import annotations

import copy
from itertools import product
from types import CellType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from eideticnet.errors import UnsupportedError
from eideticnet.rules.calls import hooked
from eideticnet.rules.recurrent import Recurrent

_COMPUTES: dict[type, str] = {
    SpectralNorm: "remove_spectral_norm",
    WeightNorm: "remove_weight_norm",
    BasePruningMethod: "prune.remove",
}
"""Hooks that compute weights, and what makes plain ones of them."""


def as_named(trunk: nn.Module) -> nn.Module:
    """The trunk in normal form, with a name for each layer, as blocks know them; in evaluation mode."""
    _refuse_computed(trunk)
    if not list(trunk.children()):
        trunk = nn.Sequential(trunk)  # a trunk that is one layer needs a name for it
    try:
        return in_mode(normal_form(trunk), training=False)
    except RuntimeError as error:
        raise UnsupportedError(
            f"the trunk can't be copied, which training needs: {str(error).splitlines()[0]}"
        ) from error


def _refuse_computed(trunk: nn.Module) -> None:
    """Refuse weights that hooks compute, as utilities of torch from before parametrizations do."""
    found = ((p, h) for p, module in trunk.named_modules() for h in module._forward_pre_hooks.values())
    for path, hook in found:
        undone = next((name for kind, name in _COMPUTES.items() if isinstance(hook, kind)), "")
        if undone:
            weight = getattr(hook, "name", getattr(hook, "_tensor_name", "weight"))
            where = f"layer {path!r}" if path else "the trunk"
            advice = f"torch.nn.utils.{undone}(layer, {weight!r})"
            raise UnsupportedError(f"{where} computes its {weight!r} by a hook; use {advice} first")


def fixed(trunk: nn.Module) -> set[str]:
    """Bare parameters that are never taught, in a trunk whose layers all are: constants, as positions in
    sines are. Where layers are not taught either, what was learned was frozen."""
    frozen = {name for name, weight in trunk.named_parameters() if not weight.requires_grad}
    layers = {name for name in frozen if name.rpartition(".")[2].startswith(("weight", "bias", "in_proj"))}
    return set() if layers else frozen


def in_mode(module: nn.Module, training: bool) -> nn.Module:
    """``module`` itself, newly put into this mode, which empties what it keeps while it is in the other; its
    own ``train`` may return nothing."""
    module.train(not training)
    module.train(training)
    return module


def normal_form(trunk: nn.Module) -> nn.Module:
    """A copy of ``trunk`` without composite layers, its weights carried over."""
    trunk = copy.deepcopy(trunk)
    made: dict[nn.Module, nn.Module] = {}
    for path, module in list(trunk.named_modules(remove_duplicate=False)):
        replacement = made.get(module) or _simple(path, module)
        if replacement is not None:
            if hooked(module):
                raise UnsupportedError(
                    f"layer {path!r} has hooks or a parametrization; use one without, and modules around it"
                )
            made[module] = replacement
            parent, _, name = path.rpartition(".")
            setattr(trunk.get_submodule(parent), name, replacement)
    return trunk


def _simple(path: str, module: nn.Module) -> nn.Module | None:
    simple: Any = SelfAttention if isinstance(module, nn.MultiheadAttention) else Recurrence
    stock = next((kind for kind in _STOCK if isinstance(module, kind)), None)
    if stock is None:
        return None
    if type(module).forward is stock.forward:
        return simple(path, module)  # type: ignore[no-any-return]
    return _with_its_own(path, module, stock, simple)


_STOCK: tuple[type[nn.Module], ...] = (nn.MultiheadAttention, nn.RNN, nn.LSTM, nn.GRU)


def _with_its_own(path: str, module: nn.Module, stock: type[nn.Module], simple: type[nn.Module]) -> nn.Module:
    """``module``, whose forward does something around its stock layer's, on the simple layers instead."""
    kinds = type(module).mro()[: type(module).mro().index(stock)]
    if not all("forward" not in vars(k) or "__class__" in _free(vars(k)["forward"]) for k in kinds):
        raise UnsupportedError(
            f"layer {path!r} is an nn.{stock.__name__} with a forward of its own that is more than "
            f"super().forward(...) and what surrounds it; use nn.{stock.__name__} in a module instead"
        )
    for kind in reversed(kinds):
        simple = _moved(kind, simple)
    replacement = simple(path, module)
    for name, part in (*module.named_children(), *module.named_parameters(recurse=False)):
        if not hasattr(replacement, name) and not name.startswith(("weight_", "bias_", "in_proj_")):
            setattr(replacement, name, part)
    return replacement


def _moved(kind: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """The class ``kind`` with another base, which ``super()`` means in its methods then."""
    moved = type(kind.__name__, (base,), {})
    for name, method in vars(kind).items():
        if not name.startswith("__"):
            free = _free(method)
            if "__class__" in free:
                cells = list(method.__closure__)
                cells[free.index("__class__")] = CellType(moved)
                parts = method.__code__, method.__globals__, name, method.__defaults__, tuple(cells)
                keywords, method = method.__kwdefaults__, FunctionType(*parts)
                method.__kwdefaults__ = keywords
            setattr(moved, name, method)
    return moved


def _free(method: Any) -> tuple[str, ...]:
    """The variables that a method has from around it."""
    return method.__code__.co_freevars if isinstance(method, FunctionType) else ()


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of one sequence with itself, or of another one with it."""

    in_proj_bias = None  # torch's encoder layer looks here whether it may take a shortcut
    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool
    _qkv_same_embed_dim: bool

    def __init__(self, path: str, stock: nn.MultiheadAttention) -> None:
        super().__init__()
        if stock.bias_k is not None or stock.add_zero_attn or not stock._qkv_same_embed_dim:
            raise UnsupportedError(
                f"layer {path!r}: attention with extra keys, or with keys and values of other widths; "
                "use nn.MultiheadAttention(width, heads)"
            )
        _carry_over(stock, self)
        self.path = path
        width = stock.embed_dim
        self.q, self.k, self.v = (nn.Linear(width, width, stock.in_proj_bias is not None) for _ in range(3))
        self.out_proj = nn.Linear(width, width, stock.out_proj.bias is not None)
        self.out_proj.load_state_dict(stock.out_proj.state_dict())
        with torch.no_grad():
            for i, part in enumerate((self.q, self.k, self.v)):
                part.weight.copy_(stock.in_proj_weight[i * width : (i + 1) * width])
                if stock.in_proj_bias is not None:
                    part.bias.copy_(stock.in_proj_bias[i * width : (i + 1) * width])

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """As in nn.MultiheadAttention; the averaged attention weights are not computed."""
        if key is not value or (attn_mask is not None and attn_mask.ndim != 2):
            raise UnsupportedError(
                f"layer {self.path!r}: attention is supported of one sequence with itself or with another, "
                "with at most one mask for all rows and heads, and one of what is padded"
            )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = attn_mask.logical_not()  # here True hides, in the function below it shows
        if is_causal and not need_weights:
            attn_mask = None  # the stock layer takes the caller's word that the mask is the causal one
        causal = is_causal and attn_mask is None
        if key_padding_mask is not None:
            attn_mask, causal = self._masks(key_padding_mask, attn_mask, causal), False
        asked, x = (v if self.batch_first else v.transpose(0, 1) for v in (query, key))
        q, k, v = self._heads(self.q(asked)), self._heads(self.k(x)), self._heads(self.v(x))
        p = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask, p, causal)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _masks(self, padded: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """The mask (N, S) of what is padded, True or minus infinity there, and that of all rows as one."""
        keys = padded[:, None, None]
        keys = keys.logical_not() if keys.dtype == torch.bool else keys
        if causal:
            mask = torch.ones(padded.shape[1], padded.shape[1], dtype=torch.bool, device=padded.device).tril()
        if mask is None:
            return keys
        both = keys.dtype == mask.dtype == torch.bool
        return keys.logical_and(mask) if both else _added(keys) + _added(mask)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self.num_heads, self.head_dim))
        return heads.transpose(1, 2)


def _added(mask: Tensor) -> Tensor:
    """A mask as numbers to add; a boolean one is True where it shows."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask.logical_not(), -torch.inf)


def _carry_over(stock: nn.Module, simple: nn.Module) -> None:
    """Give ``simple`` the settings of ``stock``, which the code around it may ask for."""
    for name, value in vars(stock).items():
        if isinstance(value, bool | int | float | str):
            setattr(simple, name, value)


class States(tuple[Tensor, ...]):
    """Final hidden states (N, H), one for each layer and direction; ``h[i]`` is one of them."""

    def squeeze(self, dim: int = 0) -> Tensor:
        """The only state of a recurrent layer with one layer and one direction."""
        (state,) = self
        return state


class Recurrence(nn.Module):
    """nn.RNN, nn.LSTM or nn.GRU as single layers and directions. It starts from zeros."""

    mode: str
    num_layers: int
    dropout: float
    batch_first: bool

    def __init__(self, path: str, stock: nn.RNNBase) -> None:
        super().__init__()
        if stock.proj_size:
            raise UnsupportedError(f"layer {path!r}: proj_size is not supported; use a Linear after it")
        _carry_over(stock, self)
        self.path, self.directions = path, 2 if stock.bidirectional else 1
        for layer, way in product(range(self.num_layers), ("", "_reverse")[: self.directions]):
            self.add_module(f"l{layer}{way}", _single(stock, f"l{layer}{way}"))

    def flatten_parameters(self) -> None:
        """As in nn.LSTM, where weights may lie apart; here they don't."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Output (N, S, directions * H) and the final hidden states."""
        if state is not None:
            raise UnsupportedError(f"layer {self.path!r}: a state of its own is not supported; leave it out")
        if isinstance(x.shape[1 if self.batch_first else 0], torch.SymInt):  # a size that is not fixed
            use = "x.transpose(0, 1) first" if self.batch_first else "batch_first=True"
            raise UnsupportedError(f"layer {self.path!r} runs along the rows of the batch; use {use}")
        x = x if self.batch_first else x.transpose(0, 1)
        final: list[Tensor] = []
        for i in range(self.num_layers):
            if i:
                x = F.dropout(x, self.dropout, self.training)
            outs = [self.get_submodule(f"l{i}")(x)]
            final.append(outs[0][:, -1])
            if self.directions == 2:
                outs.append(self.get_submodule(f"l{i}_reverse")(x.flip(1)).flip(1))
                final.append(outs[1][:, 0])
            x = torch.cat(outs, -1) if len(outs) > 1 else outs[0]
        out = x if self.batch_first else x.transpose(0, 1)
        return out, (States(final), None) if self.mode == "LSTM" else States(final)


def _single(stock: nn.RNNBase, suffix: str) -> Recurrent:
    """One layer and direction of ``stock``."""
    weights = {
        f"{kind}_l0": getattr(stock, f"{kind}_{suffix}")
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        if hasattr(stock, f"{kind}_{suffix}")
    }
    columns = weights["weight_ih_l0"].shape[1]
    single = Recurrent(stock.mode.lower(), columns, stock.hidden_size, stock.bias)
    single.load_state_dict(weights)
    return single
