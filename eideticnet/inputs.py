"""The input contract: what every input of a network looks like, fixed with its first task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, floor, inf, prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from eideticnet.errors import DataError, RowError
from eideticnet.names import plain, whole

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "int64": torch.int64}


LARGEST, MOST_DIMENSIONS, MOST_PIXELS = 1 << 30, 16, 1 << 16
"""Of a shape, and of a picture's height and width: the contract with servers has no more."""
INT64, FLOAT32 = torch.iinfo(torch.int64), torch.finfo(torch.float32)

CHANNELS = {"RGB": 3, "L": 1}
RESIZES = ("bilinear", "none")
LAYOUTS = ("CHW", "flat")


@dataclass(frozen=True)
class ImageInput:
    """How a PNG or JPEG file becomes one input; ``eideticnet.runs.images`` does it."""

    size: tuple[int, int]
    """Height and width of the input, in pixels."""
    mode: Literal["RGB", "L"] = "RGB"
    """Colours, or shades of grey, as Pillow names them."""
    resize: Literal["bilinear", "none"] = "bilinear"
    """How a picture of another size gets there; `none` refuses it."""
    layout: Literal["CHW", "flat"] = "CHW"
    """Channels first, or one long vector."""
    scale: float = 255.0
    """What each value from 0 to 255 is divided by."""

    def __post_init__(self) -> None:
        sizes = plain(self.size)
        if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
            raise DataError(f"image size {sizes!r}: give height and width in pixels")
        size = tuple(whole(n, "image size", least=1) for n in sizes)
        if max(size) > MOST_PIXELS:
            raise DataError(f"image size {size}: give height and width of up to {MOST_PIXELS} pixels")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "scale", plain(self.scale))
        for name, value, known in (
            ("mode", self.mode, CHANNELS),
            ("resize", self.resize, RESIZES),
            ("layout", self.layout, LAYOUTS),
        ):
            if value not in known:
                raise DataError(f"image {name} {value!r}: use one of {', '.join(known)}")
        _check_number("image scale", self.scale, "float32")
        if self.scale <= 0:
            raise DataError(f"image scale {self.scale}: give a positive number")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x that it becomes."""
        height, width = self.size
        shape = (CHANNELS[self.mode], height, width)
        return shape if self.layout == "CHW" else (prod(shape),)


@dataclass(frozen=True)
class Inputs:
    """Shape of one instance, its type, its range, and how it is normalised.

    Normalisation is part of the network, so training and serving both hand over raw values. A channel is a
    place in the first dimension of ``shape``.
    """

    shape: tuple[int, ...]
    """Of one input, without the batch."""
    dtype: Literal["float32", "int64"] = "float32"
    """`int64` for tokens."""
    low: float | None = None
    """The least number that an input may hold; requests below are refused."""
    high: float | None = None
    """The greatest."""
    mean: tuple[float, ...] = ()
    """Subtracted from each input: one number, or one for each channel or feature."""
    std: tuple[float, ...] = ()
    """What it is divided by then, likewise."""
    image: ImageInput | None = None
    """How a picture becomes such an input, where inputs are pictures: in TOML the table `[input.image]`."""

    def __post_init__(self) -> None:
        for name, value in self._converted().items():
            object.__setattr__(self, name, value)
        if not 1 <= len(self.shape) <= MOST_DIMENSIONS or not all(1 <= n <= LARGEST for n in self.shape):
            raise DataError(
                f"input shape {self.shape}: give one size from 1 to {LARGEST} for each of up to "
                f"{MOST_DIMENSIONS} dimensions, without the batch"
            )
        if self.dtype not in DTYPES:
            raise DataError(f"input dtype {self.dtype!r}: use one of {', '.join(DTYPES)}")
        if (self.mean or self.std) and self.dtype != "float32":
            raise DataError("only float32 inputs can be normalised")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, self.shape[0]):
                raise DataError(f"{name} holds {len(values)} numbers, not 1 or {self.shape[0]}")
        for name, number in self._numbers():
            _check_number(name, number, self.dtype)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DataError(f"low {self.low} is above high {self.high}")
        if self.image and (self.shape, self.dtype) != (self.image.shape, "float32"):
            raise DataError(
                f"an image becomes float32 of shape {self.image.shape}, "
                f"and inputs are {self.dtype} of shape {self.shape}"
            )

    def _converted(self) -> dict[str, Any]:
        """What was given as tensors, arrays or torch's names of types, as plain values. A bound that
        is infinite is none."""
        shape = plain(self.shape)
        sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
        low, high = plain(self.low), plain(self.high)
        return {
            "shape": tuple(whole(n, "input shape") for n in sizes),
            "dtype": _dtype_name(self.dtype),
            "low": None if low == -inf else _of_json(low),
            "high": None if high == inf else _of_json(high),
            "mean": _numbers_of(self.mean),
            "std": _numbers_of(self.std),
        }

    def _numbers(self) -> list[tuple[str, Any]]:
        """All numbers of the contract, each with its name."""
        bounds = [(name, v) for name, v in (("low", self.low), ("high", self.high)) if v is not None]
        lists = (("mean", self.mean), ("std", self.std))
        return bounds + [(f"{name}[{i}]", v) for name, values in lists for i, v in enumerate(values)]

    @classmethod
    def like(cls, example: Tensor) -> Inputs:
        """The contract that ``example`` (N, ...) implies: no range, no normalisation."""
        names = {dtype: name for name, dtype in DTYPES.items()}
        if example.dtype not in names:
            raise DataError(f"example_input is {example.dtype}: use float32 or int64")
        return cls(tuple(example.shape[1:]), names[example.dtype])  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Inputs:
        """The inverse of ``to_json``, also after JSON turned its tuples into lists."""
        fields = _with_tuples(data)
        if "image" in fields:
            fields["image"] = ImageInput(**_with_tuples(fields["image"]))
        inputs = cls(**fields)
        for name in ("low", "high"):  # an infinite one of before is part of the digests
            object.__setattr__(inputs, name, fields.get(name))
        return inputs

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``image`` stands there only if inputs are pictures."""
        fields = asdict(self)
        return {name: value for name, value in fields.items() if name != "image" or value is not None}

    def bounds(self) -> tuple[float, float]:
        """A finite range of inputs that fit: the stated one, or of width 1 where it is open."""
        low, high = self.low, self.high
        if low is None:
            low = 0.0 if high is None else high - 1.0
        return low, low + 1.0 if high is None else high

    def random(self, count: int, generator: torch.Generator) -> Tensor:
        """Synthetic inputs (count, *shape) within ``bounds``."""
        (low, high), shape = self.bounds(), (count, *self.shape)
        if self.dtype == "int64":
            low, high = min(ceil(low), INT64.max - 1), min(floor(high), INT64.max - 1)
            return torch.randint(low, max(low, high) + 1, shape, generator=generator)
        share = torch.rand(shape, generator=generator)
        if high - low > FLOAT32.max:
            return low * (1 - share) + high * share
        return (low + (high - low) * share).clamp(low, high)

    def to_try(self, count: int) -> Tensor:
        """Synthetic inputs (count, *shape), normalised, and always the same ones."""
        return self.normalise(self.random(count, torch.Generator().manual_seed(0)))

    def normalise(self, x: Tensor) -> Tensor:
        """``(x - mean) / std`` on raw ``x`` (N, *shape)."""
        if self.mean:
            x = x - self._along_first_dimension(self.mean, x)
        if self.std:
            x = x / self._along_first_dimension(self.std, x)
        return x

    def _along_first_dimension(self, values: tuple[float, ...], x: Tensor) -> Tensor:
        shape = (1, len(values), *[1] * (len(self.shape) - 1))
        return torch.tensor(values, dtype=x.dtype, device=x.device).reshape(shape)

    def check_shape(self, x: Tensor) -> None:
        """Raise ``DataError`` unless ``x`` is a batch (N, *shape)."""
        if not isinstance(x, Tensor):
            raise DataError(f"inputs are a {type(x).__name__}; expected a tensor (N, *{self.shape})")
        if tuple(x.shape) == self.shape:
            raise DataError(f"inputs are one row of shape {self.shape}; give a batch (N, ...), as x[None]")
        if not x.ndim or tuple(x.shape[1:]) != self.shape:
            raise DataError(f"inputs have shape {tuple(x.shape[1:])}, expected {self.shape} for each row")

    def check(self, x: Tensor) -> None:
        """Raise ``DataError`` if the batch ``x`` (N, *shape) breaks the contract (``RowError``: a row)."""
        self.check_shape(x)
        if x.dtype != DTYPES[self.dtype]:
            raise DataError(f"inputs are {x.dtype}, expected {self.dtype}")
        if self._surely_holds(x):
            return
        refuse(x, ~torch.isfinite(x), "an input is {}; expected finite numbers")
        if self.low is not None:
            refuse(x, x < self.low, f"an input is {{}}, below the stated low {self.low}")
        if self.high is not None:
            refuse(x, x > self.high, f"an input is {{}}, above the stated high {self.high}")

    def _surely_holds(self, x: Tensor) -> bool:
        """Whether the least and the greatest number of ``x`` are well within the range: quickly told."""
        if not x.numel() or is_traced(x):
            return True
        info = FLOAT32 if x.is_floating_point() else INT64
        low = info.min if self.low is None else max(self.low, info.min)
        high = info.max if self.high is None else min(self.high, info.max)
        least, most = (value.item() for value in x.detach().aminmax())
        return bool(low <= least and most <= high)


class Ids(Inputs):
    """Whole numbers that are looked up in an embedding: within what the contract says, and its rows."""

    @classmethod
    def of(cls, inputs: Inputs, rows: int) -> Ids:
        """Those of ``inputs``, looked up in an embedding of ``rows`` rows."""
        low, high = inputs.low or 0, rows - 1 if inputs.high is None else min(inputs.high, rows - 1)
        return cls(**{**vars(inputs), "low": max(low, 0), "high": high})

    def check(self, x: Tensor) -> None:
        try:
            super().check(x)
        except RowError as error:
            raise RowError(error.row, f"{error.what}; an embedding of the trunk reads it") from None


def refuse(values: Tensor, bad: Tensor, what: str) -> None:
    """``RowError`` for the first row of ``values`` (N, ...) of which something is ``bad``, a mask of the same
    shape; ``{}`` in ``what`` becomes the number that is."""
    if not is_traced(bad) and bool(bad.any()):
        row = int(bad.flatten(1).any(1).nonzero()[0]) if bad.ndim > 1 else int(bad.nonzero()[0])
        raise RowError(row, what.format(values[row][bad[row]].flatten()[0].item()))


def is_traced(x: Tensor) -> bool:
    """Whether ``x`` has no numbers yet, for what reads it is compiled, exported or vectorised."""
    return torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)


def _numbers_of(values: Any) -> tuple[Any, ...]:
    """``mean`` or ``std`` as a tuple: one number, or nested lists of them in which one dimension counts."""
    values = plain(values)
    if not isinstance(values, (list, tuple)):
        return (values,)
    flat: list[Any] = []
    for value in map(plain, values):
        flat += _numbers_of(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(flat)


def _of_json(value: Any) -> Any:
    """A whole number of more than 64 bits as a float, since that is what servers read."""
    wide = isinstance(value, int) and INT64.max < abs(value) < FLOAT32.max
    return float(value) if wide else value


def _dtype_name(dtype: Any) -> Any:
    """The name of a type of torch's or numpy's."""
    if isinstance(dtype, torch.dtype):
        return str(dtype).removeprefix("torch.")
    if isinstance(dtype, (type, np.dtype)):
        return np.dtype(dtype).name
    return dtype


def _check_number(name: str, value: Any, dtype: str) -> None:
    """Raise ``DataError`` for what no input of this type can be held against."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{name} is {value!r}: give a number")
    info = FLOAT32 if dtype == "float32" else INT64
    if not info.min <= value <= info.max:  # NaN neither
        raise DataError(f"{name} is {value}, which no {dtype} can be; leave it out where there is no bound")
    if name.startswith("std") and value < FLOAT32.tiny:
        raise DataError(f"every std must be positive, {name} is {value}; use 1 for what is constant")


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
