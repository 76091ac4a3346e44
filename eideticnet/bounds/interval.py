"""An interval for each number of a value, and how much wider than computed it has to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf

import torch
from torch import Tensor, nn

from eideticnet.program import Step

LARGEST = 1e18
"""Of a value; its square is a number of float32 too."""
WEIGHT = 1e12
"""Of what a layer holds: with a norm folded into it a weight is still a number."""
ROOM = 1e36
"""Of a sum of squares or products of such values, which no one sees but the kernel."""
ROUNDING = 2.0**-7
"""By which share of all that was added a sum may be off: in float32 one of 2**16 numbers in any order, of
products of which a graphics card reads 10 bits, or by Winograd's tiles."""
FINE = 2.0**-16
"""By which share of itself the result of one operation may be off, an approximated function's too."""
TINY = float(torch.finfo(torch.float32).tiny)
"""What is nearer to zero may be taken for zero."""


def rounding(terms: float) -> float:
    """The share for a sum of so many numbers."""
    return max(ROUNDING, terms * 2.0**-23)


@dataclass(frozen=True)
class Interval:
    """``low`` and ``high`` have the shape of a value with a batch of one. Numbers are float64, also where the
    value's are whole; of truth values both are truth values."""

    low: Tensor
    high: Tensor

    @classmethod
    def over(cls, *values: Tensor) -> Interval:
        """The least that holds all of these, number by number."""
        values = tuple(v if v.dtype == torch.bool else v.double() for v in values)
        return cls(reduce(torch.minimum, values), reduce(torch.maximum, values))

    @classmethod
    def within(cls, low: float, high: float, shape: Sequence[int]) -> Interval:
        """The same for all numbers of a value of that shape."""
        return cls(*(torch.full(tuple(shape), float(end), dtype=torch.float64) for end in (low, high)))

    @property
    def most(self) -> Tensor:
        """How far from zero it reaches."""
        return torch.maximum(self.low.double().abs(), self.high.double().abs())

    @property
    def least(self) -> Tensor:
        """How near to zero it comes."""
        ends = torch.minimum(self.low.double().abs(), self.high.double().abs())
        return torch.where((self.low <= 0) & (self.high >= 0), torch.zeros_like(ends), ends)

    @property
    def centre(self) -> Tensor:
        return self.low.double() / 2 + self.high.double() / 2

    @property
    def radius(self) -> Tensor:
        return self.high.double() / 2 - self.low.double() / 2

    @property
    def known(self) -> bool:
        """Whether it leaves no choice."""
        return torch.equal(self.low, self.high)

    def rounded(self, share: float = ROUNDING, slack: Tensor | float = 0.0) -> Interval:
        """Wider by a share of its ends, and by ``slack``."""
        if self.low.dtype == torch.bool:
            return self
        low = self.low - share * self.low.abs() - slack
        high = self.high + share * self.high.abs() + slack
        low = torch.where((low > 0) & (low < TINY), 0.0, low)
        high = torch.where((high < 0) & (high > -TINY), 0.0, high)
        return Interval(low, torch.where(self.high == -inf, -inf, high))

    def alike_along(self, dims: Sequence[int]) -> Interval:
        """The same interval at all places along these dimensions, in little memory."""
        if not dims:
            return self
        low, high = self.low.amin(tuple(dims), keepdim=True), self.high.amax(tuple(dims), keepdim=True)
        return Interval(low.expand_as(self.low), high.expand_as(self.high))

    @property
    def hides(self) -> bool:
        """Whether it is of a mask: there is minus infinity in it, of which a softmax makes zero."""
        return self.low.dtype != torch.bool and bool((self.low == -inf).any())

    def hidden(self) -> Interval:
        """The same with minus infinity for what is far below all others, as the least number of a type is."""
        if self.low.dtype == torch.bool:
            return self
        return Interval(*(torch.where(end < -LARGEST, -inf, end) for end in (self.low, self.high)))

    @property
    def bounded(self) -> bool:
        """Whether it holds no number above ``LARGEST``, and no NaN."""
        return self.low.dtype == torch.bool or bool((self.most <= LARGEST).all())


Bound = Callable[[Step, nn.Module | None, list[Interval]], Interval | None]
"""What a rule makes of intervals, with a layer in float64; None where that is not known."""
