"""ShuffleNets as people write them, small: units of both papers, whose channels are shuffled in many ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shuffle = Callable[[Tensor, int], Tensor]
Split = Callable[[Tensor], tuple[Tensor, ...]]


def pixels(rows: int) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows))


def by_transpose(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.size()
    return torch.transpose(x.view(n, groups, c // groups, h, w), 1, 2).contiguous().view(n, -1, h, w)


def by_permute(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def by_unflatten(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def of_lines(x: Tensor, groups: int) -> Tensor:
    return x.flatten(2).unflatten(1, (groups, -1)).swapaxes(1, 2).reshape(x.shape)


class Unit1(nn.Module):
    """ShuffleNet's unit: grouped convolutions with a shuffle between them, beside the input or after it."""

    def __init__(self, read: int, written: int, groups: int, stride: int, shuffle: Shuffle) -> None:
        super().__init__()
        self.stride, self.groups, self.shuffle, mid = stride, groups, shuffle, written // 2
        self.compress = nn.Conv2d(read, mid, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(mid)
        self.deep = nn.Conv2d(mid, mid, 3, stride, 1, groups=mid)
        self.expand = nn.Conv2d(mid, written - read * (stride == 2), 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(F.relu(self.norm(self.compress(x))), self.groups)
        y = self.expand(self.deep(y))
        if self.stride == 1:
            return F.relu(x + y)
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))


class Shuffle1(nn.Module):
    """A unit of each stride in some stages, after a convolution of all channels."""

    def __init__(self, groups: int, shuffle: Shuffle = by_transpose, stages: int = 1) -> None:
        super().__init__()
        c = 2 * groups
        self.stem = nn.Conv2d(3, c, 3, 1, 1)
        sizes = [(c, 4 * c, 2), (4 * c, 4 * c, 1), (4 * c, 8 * c, 2), (8 * c, 8 * c, 1)]
        units = (Unit1(a, b, groups, stride, shuffle) for a, b, stride in sizes[: 2 * stages])
        self.units = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.units(F.relu(self.stem(x))).mean([2, 3])


def chunked(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2, dim=1)
    return first, second


def sliced(x: Tensor) -> tuple[Tensor, Tensor]:
    half = int(x.size(1) * 0.5)
    return x[:, :half, :, :], x[:, half:, :, :]


def every_second(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, ::2], x[:, 1::2]


def by_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd channels, as the authors of ShuffleNet v2 take them apart."""
    n, c, h, w = x.shape
    x = x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
    return x[0], x[1]


class Unit2(nn.Module):
    """ShuffleNet v2's unit: half of the channels pass, the other half goes through a branch, and all are
    shuffled, so that half of both pass the next one; with stride 2 both halves are branches of everything."""

    def __init__(self, read: int, half: int, stride: int, split: Split) -> None:
        super().__init__()
        self.split = split if stride == 1 else lambda x: (x, x)
        self.short = (
            nn.Sequential(nn.Conv2d(read, half, 3, 2, 1), nn.ReLU()) if stride == 2 else nn.Identity()
        )
        self.deep = nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False)
        self.first, self.norm = nn.Conv2d(read // (3 - stride), half, 1), nn.BatchNorm2d(half)
        self.last = nn.Conv2d(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed, taken = self.split(x)
        taken = self.last(self.norm(self.deep(F.relu(self.first(taken))))).relu()
        return torch.cat((self.short(passed), taken), dim=1)


class Shuffle2(nn.Module):
    """Three units in each of some stages: 14 channels are halved to seven, four and two, which is uneven."""

    def __init__(self, split: Split = chunked, shuffle: Shuffle = by_transpose, stages: int = 1) -> None:
        super().__init__()
        self.stem, self.shuffle = nn.Conv2d(3, 4, 3, 1, 1), shuffle
        sizes = [(4, 7, 2), (14, 7, 1), (14, 7, 1), (14, 10, 2), (20, 10, 1), (20, 10, 1)]
        self.units = nn.ModuleList(
            Unit2(read, half, stride, split) for read, half, stride in sizes[: 3 * stages]
        )
        self.fc = nn.Linear(8 + 6 * stages, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            x = self.shuffle(unit(x), 2)
        return self.fc(x.mean([2, 3]))


def unshuffled(x: Tensor, groups: int) -> Tensor:
    """For splits that shuffle."""
    return x


class Excited(nn.Module):
    """Shuffled channels that are weighed, normalised by themselves and flattened with their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 4, 1)
        self.squeeze, self.excite = nn.Conv2d(10, 3, 1), nn.Conv2d(3, 10, 1)
        self.slope, self.scale = nn.PReLU(10), nn.Parameter(torch.rand(10, 1, 1))
        self.norm = nn.InstanceNorm2d(10, affine=True)
        self.fc, self.last = nn.Linear(160, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        x = F.channel_shuffle(torch.cat([a, self.b(F.relu(a))], 1), 5)
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.norm(self.slope(x)) * self.scale
        return self.last(self.fc(x.flatten(1)).relu())


KINDS: dict[str, Callable[[], nn.Module]] = {
    **{f"v1, {g} groups": lambda g=g: Shuffle1(g) for g in (1, 4)},
    "v1, 3 groups": lambda: Shuffle1(3, stages=2),
    "v1, by permute": lambda: Shuffle1(2, by_permute),
    "v1, by unflatten": lambda: Shuffle1(2, by_unflatten),
    "v1, by channel_shuffle": lambda: Shuffle1(2, F.channel_shuffle),
    "v1, of lines": lambda: Shuffle1(2, of_lines),
    "v2": lambda: Shuffle2(stages=2),
    "v2, by slices": lambda: Shuffle2(sliced, by_permute),
    "v2, every second": lambda: Shuffle2(every_second, unshuffled),
    "v2, by rows": lambda: Shuffle2(by_rows, unshuffled),
    "excited": Excited,
}
