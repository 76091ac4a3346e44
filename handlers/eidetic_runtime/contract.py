"""What requests are held against: the bundle's promises about inputs, tasks and limits, looked up once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_PIXELS = 1 << 24
"""Of a picture that is taken, whose decoded part is smaller, unless it was exported for more."""
_PIXELS_FOR_ONE, _FEW_PIXELS = 64, 1 << 18


@dataclass(frozen=True)
class Contract:
    """``shape`` of one instance, ``dtype`` as it is sent (little-endian); ``low`` and ``high`` are finite;
    ``image`` is the bundle's description of pictures, None where inputs are none; a picture may have
    ``max_pixels``, of which ``max_decoded`` are decoded."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: float
    high: float
    max_instances: int
    max_pixels: int
    max_decoded: int
    tasks: dict[str, int]
    threshold: float
    image: dict[str, Any] | None
    size: int

    @classmethod
    def of(cls, bundle: dict[str, Any]) -> Contract:
        spec, limits = bundle["input"], bundle["limits"]
        whole = spec["dtype"] == "int64"
        least, most = (np.iinfo(np.int64).min, np.iinfo(np.int64).max) if whole else _FLOAT32
        low, high = spec.get("low"), spec.get("high")
        return cls(
            shape=tuple(spec["shape"]),
            dtype=np.dtype("<i8" if whole else "<f4"),
            low=least if low is None else max(low, least),
            high=most if high is None else min(high, most),
            max_instances=int(limits["max_instances"]),
            max_pixels=int(limits.get("max_pixels", MAX_PIXELS)),
            max_decoded=int(limits.get("max_decoded_pixels", usual_pixels(spec.get("image")))),
            tasks={task["name"]: index for index, task in enumerate(bundle["tasks"])},
            threshold=float(bundle.get("routing", {}).get("threshold", 0.0)),
            image=spec.get("image"),
            size=prod(spec["shape"]),
        )

    @property
    def numbers(self) -> str:
        """What is expected, in words."""
        return f"{'whole ' if self.dtype.kind == 'i' else ''}numbers of shape {text(self.shape)}"

    def fits(self, x: npt.NDArray[Any]) -> bool:
        """Whether all of ``x`` is finite and in range. (NaN is in no range; both reductions keep it.)"""
        return bool(x.min() >= self.low and x.max() <= self.high)


def usual_pixels(image: Mapping[str, Any] | None) -> int:
    """How many pixels of a picture are decoded: as many as the input has where it is not resized, else 64 for
    each of the input's, and 512 x 512 at least."""
    if image is None:
        return MAX_PIXELS
    needed = int(prod(image["size"]))
    return needed if image["resize"] == "none" else max(_PIXELS_FOR_ONE * needed, _FEW_PIXELS)


_FLOAT32 = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))


def text(shape: tuple[int, ...]) -> str:
    """A shape as error messages write it."""
    return "[" + ", ".join(map(str, shape)) + "]"
