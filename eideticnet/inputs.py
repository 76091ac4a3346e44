"""The input contract: what every input of a network looks like, fixed with its first task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from eideticnet.errors import DataError

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "int64": torch.int64}


CHANNELS = {"RGB": 3, "L": 1}
RESIZES = ("bilinear", "none")
LAYOUTS = ("CHW", "flat")


@dataclass(frozen=True)
class ImageInput:
    """How a PNG or JPEG file becomes one input; ``eideticnet.images`` does it.

    ``mode`` is Pillow's name of the colours; ``size`` (height, width) in pixels, which an image of another
    size is resized to, or refused for with ``resize`` "none"; ``layout`` is the order of x, channels
    first or the same flattened; every value 0..255 is divided by ``scale``.
    """

    size: tuple[int, int]
    mode: Literal["RGB", "L"] = "RGB"
    resize: Literal["bilinear", "none"] = "bilinear"
    layout: Literal["CHW", "flat"] = "CHW"
    scale: float = 255.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or any(n < 1 for n in self.size):
            raise DataError(f"image size {self.size}: give height and width in pixels")
        for name, value, known in (
            ("mode", self.mode, CHANNELS),
            ("resize", self.resize, RESIZES),
            ("layout", self.layout, LAYOUTS),
        ):
            if value not in known:
                raise DataError(f"image {name} {value!r}: use one of {', '.join(known)}")
        if not 0 < self.scale < float("inf"):
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

    ``mean`` and ``std`` hold one number for all elements or one for each element along the
    first dimension of ``shape`` (a channel). Normalisation is part of the network, so training
    and serving both hand over raw values. ``image`` says how a picture becomes such an input; None
    where inputs are no pictures.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"
    low: float | None = None
    high: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image: ImageInput | None = None

    def __post_init__(self) -> None:
        if not self.shape or any(n < 1 for n in self.shape):
            raise DataError(f"input shape {self.shape}: give one positive size per dimension")
        if self.dtype not in DTYPES:
            raise DataError(f"input dtype {self.dtype!r}: use one of {', '.join(DTYPES)}")
        if (self.mean or self.std) and self.dtype != "float32":
            raise DataError("only float32 inputs can be normalised")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, self.shape[0]):
                raise DataError(f"{name} holds {len(values)} numbers, not 1 or {self.shape[0]}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DataError(f"low {self.low} is above high {self.high}")
        if any(value <= 0 for value in self.std):
            raise DataError("every std must be positive")
        if self.image and (self.shape, self.dtype) != (self.image.shape, "float32"):
            raise DataError(
                f"an image becomes float32 of shape {self.image.shape}, "
                f"and inputs are {self.dtype} of shape {self.shape}"
            )

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
        return cls(**fields)

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

    def check(self, x: Tensor) -> None:
        """Raise ``DataError`` if the batch ``x`` (N, *shape) breaks the contract."""
        if tuple(x.shape[1:]) != self.shape:
            raise DataError(f"inputs have shape {tuple(x.shape[1:])}, expected {self.shape}")
        if x.dtype != DTYPES[self.dtype]:
            raise DataError(f"inputs are {x.dtype}, expected {self.dtype}")
        if self.low is not None and bool((x < self.low).any()):
            raise DataError(f"an input is {float(x.min())}, below the stated low {self.low}")
        if self.high is not None and bool((x > self.high).any()):
            raise DataError(f"an input is {float(x.max())}, above the stated high {self.high}")


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
