"""A batch as users give it, made into the tensors that are meant; what can't be right is refused."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eideticnet.errors import DataError
from eideticnet.inputs import DTYPES, Inputs, refuse


def pair(x: object, y: object, inputs: Inputs, classes: int) -> tuple[Tensor, Tensor]:
    """``x`` (N, *shape) in the contract's type, and ``y`` (N,) int64 from 0 to ``classes - 1``.

    Arrays, lists, other types of numbers, labels (N, 1) or one-hot (N, ``classes``) are converted. The rest
    is a ``DataError``, and a ``RowError`` where one row is to blame. No row at all is fitting.
    """
    x, y = as_tensor("x", x), as_tensor("y", y)
    if len(x) != len(y):
        raise DataError(f"{len(x)} inputs and {len(y)} labels; expected as many of one as of the other")
    if not len(x):
        return x, y
    return fitting(x, inputs), _labels(y, classes)


def fitting(x: object, inputs: Inputs) -> Tensor:
    """``x`` (N, *shape) as the contract wants it, to learn from."""
    return asked(as_tensor("x", x), inputs)


def asked(x: object, inputs: Inputs) -> Tensor:
    """``x`` (N, *shape) as the contract wants it, with its gradient if it has one."""
    x = _cast("x", _ordinary("x", x), DTYPES[inputs.dtype])
    inputs.check(x)
    return x


def for_each(name: str, given: object, like: Tensor, within: tuple[float, float]) -> Tensor:
    """``given`` as one number for each row, of the type of ``like`` (N,): as many, or one for all."""
    low, high = within
    what = "whole numbers" if not like.is_floating_point() else "numbers"
    expected = f"expected {what} from {low} to {high}, one for each of {len(like)} rows"
    try:
        values = torch.as_tensor(given, device=like.device).expand_as(like)
        values = _cast(name, values, like.dtype)
    except (TypeError, ValueError, RuntimeError):
        shape = f" of shape {tuple(given.shape)}" if isinstance(given, Tensor | np.ndarray) else ""
        raise DataError(f"{name} is a {type(given).__name__}{shape}; {expected}") from None
    refuse(values, ~((values >= low) & (values <= high)), f"{name} is {{}}; {expected}")
    return values


def as_tensor(name: str, values: object) -> Tensor:
    """``values`` as a plain tensor (N, ...) of numbers; ``DataError`` if they are something else."""
    values = _ordinary(name, values).detach().as_subclass(Tensor)
    return values.clone() if values.is_inference() else values  # from which nothing could be learned


def _ordinary(name: str, values: object) -> Tensor:
    if not isinstance(values, Tensor):
        values = _from_array(name, values)
    elif values.layout != torch.strided or values.is_quantized or values.is_nested or values.is_meta:
        raise DataError(f"{name} is a sparse, nested, quantized or meta tensor; give an ordinary one")
    if values.ndim == 0 or values.is_complex():
        kind = "complex numbers" if values.is_complex() else "a single number"
        raise DataError(f"{name} is {kind}; expected a batch of rows")
    return values


def _from_array(name: str, values: object) -> Tensor:
    if np.ma.is_masked(values):
        raise DataError(
            f"{name} is an array with masked values; give numbers instead, or leave out such rows"
        )
    try:
        array = np.asarray(values)
        if array.dtype.kind in "SU":
            text = "".join(array.ravel()[:1].tolist())
            where = ", for classes from 0" if name == "y" else ""
            raise DataError(f"{name} holds text ({text!r}); give numbers{where}")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError):
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{name} is {kind}; expected a tensor or an array of numbers") from None


def _cast(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` as ``dtype``; whole numbers have to be whole before."""
    if not dtype.is_floating_point and values.is_floating_point():
        broken = (values != values.round()) | ~torch.isfinite(values)
        refuse(values, broken, f"{name} holds fractions ({{}}) where whole numbers are needed")
    return values.to(dtype)


def _labels(y: Tensor, classes: int) -> Tensor:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    elif y.ndim == 2 and y.shape[1] == classes and bool(((y == 0) | (y == 1)).all() & (y.sum(1) == 1).all()):
        y = y.to(torch.int64).argmax(1)
    if y.ndim != 1:
        raise DataError(f"labels have shape {tuple(y.shape)}; expected one class number to a row, (N,)")
    y = _cast("y", y, torch.int64)
    strange = (y < 0) | (y >= classes)
    if bool(strange.any()):
        what = (
            f"labels run from {int(y.min())} to {int(y.max())}, but its {classes} classes "
            f"are numbered 0 to {classes - 1}; number each task's classes from 0"
        )
        refuse(y, strange, what)
    return y
