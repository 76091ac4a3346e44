"""Trunks with every operation that a trunk may use, as users write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 8


def images(rows=3):
    return torch.randn(rows, 3, 6, 6)


class Net(nn.Module):
    """A convolution to (N, 8, 6, 6), some layers, and a function of both."""

    def __init__(self, function, **layers):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, WIDTH, 1), function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self.conv(x), self).flatten(1)


def of(function, **layers):
    return lambda: Net(lambda h, m: function(h), **layers)


def with_layers(function, **layers):
    return lambda: Net(function, **{name: make() for name, make in layers.items()})


def tokens(h):
    """Its 36 positions (N, 36, 8)."""
    return h.flatten(2).transpose(1, 2)


def heads(h):
    """Four heads of two (N, 4, positions, 2)."""
    return tokens(h).unflatten(2, (4, 2)).transpose(1, 2)


def asked(h, q):
    """What queries (N, 4, 3, 2) find in ``h``, by hand."""
    return (q @ heads(h).mT).softmax(-1) @ heads(h.sin())


def by_einsum(h):
    """Attention written with sums over letters."""
    q, k, v = (p.flatten(2).unflatten(1, (4, 2)) for p in (h, h.sin(), h.tanh()))
    weights = torch.einsum("b h d q, b h d k -> b h q k", q, k).softmax(-1)
    return torch.einsum("bhqk,bhdk->bqhd", weights, v)


def cross_attended(h, m):
    """Queries that are learned, normalised, asked and added, as in a Perceiver."""
    q, x = m.q.repeat(h.shape[0], 1, 1), tokens(h)
    return q + m.attention(m.norm(q), x, x)[0]


def normed(h):
    """A layer norm over channels, as ConvNeXt writes it."""
    u = h.mean(1, keepdim=True)
    return (h - u) / torch.sqrt((h - u).pow(2).mean(1, keepdim=True) + 1e-6)


def responses(h):
    """The global response norm of ConvNeXt V2."""
    size = h.norm(p=2, dim=(2, 3), keepdim=True)
    return h * (size / (size.mean(1, keepdim=True) + 1e-6)) + h


def biased(h, bias):
    """Attention with a number for each head, query and key."""
    return F.scaled_dot_product_attention(heads(h), heads(h), heads(h), bias[None])


def partly(h, m):
    """A part convolved, one in groups, and one as it is, as in FasterNet and InceptionNeXt."""
    a, b, c = torch.split(h, (2, 3, 3), 1)
    return torch.cat([m.one(a), m.two(b), c], 1) + h + h.narrow(1, -5, 2).sum(1, keepdim=True)


def mask_written(h):
    mask = torch.zeros(6, 6)
    mask[2:, 1] = 5
    mask[:1] = h.new_ones(6)
    return mask


BUCKETS = torch.arange(36 * 36).view(36, 36) % 10


def parameter(*shape):
    return lambda: nn.Parameter(torch.rand(shape))


class OfInput(nn.Module):
    """A product of the raw input and a parameter."""

    def __init__(self):
        super().__init__()
        self.p = parameter(108, 4)()

    def forward(self, x):
        return x.flatten(1) @ self.p


FUNCTIONS = {
    "masks as numbers": lambda h: h + (h > 0).float() + (h != 0).to(h.dtype) + (h < 1).type_as(h),
    "masked_fill": lambda h: h.masked_fill(h > 1, -3.0),
    "where": lambda h: torch.where(h > 0, h, torch.zeros_like(h)) + torch.where(h < 0, h, 0.5),
    "truth": lambda h: torch.where((h > 0) & ~(h > 1) | torch.isnan(h), h, -h),
    "stack": lambda h: torch.stack([h, 2 * h], 1) + torch.stack([h, h.sin()], -1).mean(-1).unsqueeze(1),
    "squeeze": lambda h: h.mean((2, 3), keepdim=True).squeeze() + h.mean(3).unsqueeze(1).squeeze().amax(-1),
    "glu": lambda h: F.glu(h, 1) + F.glu(h, 1).tanh(),
    "glu over positions": lambda h: F.glu(h, 2),
    "expand": lambda h: h.mean((2, 3), keepdim=True).expand_as(h) + h[:, :, :1].expand(-1, -1, 6, -1),
    "repeat": lambda h: h.repeat(1, 1, 2, 1),
    "roll": lambda h: h.roll((1, -2), (2, 3)),
    "deviations": lambda h: (
        h.var((2, 3)) + h.std(2).mean(-1) + h.var(2, unbiased=False, keepdim=True).sum((2, 3))
    ),
    "norms": lambda h: h.norm(dim=2) + torch.linalg.vector_norm(h, 1, dim=3),
    "normalize": lambda h: F.normalize(h, dim=2) + F.normalize(h.flatten(2), dim=-1).unflatten(2, (6, 6)),
    "extremes": lambda h: h.max(2).values + h.min(3)[0],
    "sort, topk": lambda h: h.sort(3)[0][..., 1] + h.topk(2, 3)[0][..., 1],
    "sums": lambda h: h.logsumexp(2) + h.cumsum(3)[..., 1],
    "softmax over positions": lambda h: F.softmin(h, 2) + h.softmax(3, dtype=torch.float32),
    "power pools": lambda h: F.lp_pool2d(h, 2, 2) + nn.functional.avg_pool2d(h, 2, count_include_pad=False),
    "pads": lambda h: F.pad(h, (1, 2, 1, 1), mode="reflect") + F.pad(h, (2, 1, 1, 1), mode="replicate"),
    "pads of none": lambda h: F.pad(h.movedim(1, -1), (0, 0, 1, 0, 0, 2)),
    "pads around": lambda h: F.pad(h, (1, 1, 1, 1), mode="circular") + F.pad(h, (2, 0, 1, 1), value=3.0),
    "scale_factor": lambda h: (
        F.interpolate(h, scale_factor=2) + F.interpolate(h, size=12, mode="nearest-exact")
    ),
    "sizes": lambda h: (
        F.interpolate(h, (5, 7), mode="bilinear", align_corners=True) + F.interpolate(h, (5, 7))
    ),
    "cubic": lambda h: F.interpolate(h, scale_factor=2, mode="bicubic"),
    "lines": lambda h: (
        F.interpolate(h.flatten(2), scale_factor=2, mode="linear") + F.interpolate(h.flatten(2), 72)
    ),
    "volumes": lambda h: F.interpolate(h.unsqueeze(2), scale_factor=2, mode="trilinear"),
    "constant indices": lambda h: (
        h[:, :, torch.tensor([0, 2, 5])] + h.index_select(2, torch.tensor([1, 1, 0]))
    ),
    "differences and steps": lambda h: h.diff(dim=2)[..., ::2] + h.narrow(2, 1, 5)[..., 1::2],
    "pixels": lambda h: (
        F.pixel_unshuffle(h, 2) + F.pixel_unshuffle(F.pixel_unshuffle(F.pixel_shuffle(h, 2), 2), 2)
    ),
    "axes": lambda h: h.swapaxes(1, 2).movedim(2, 1) + h.movedim((2, 3), (1, 2)).moveaxis(-1, 1) + h.mT,
    "positions by number": lambda h: (
        h + torch.arange(h.shape[-1]) + torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")[0]
    ),
    "arithmetic": lambda h: torch.lerp(h, 2 * h, 0.5) + torch.addcmul(h, h, h) + h % 2 + h.floor(),
    "bounds": lambda h: F.threshold(h, 0.1, 2.0) + h.clamp(min=torch.tensor(0.0)) + F.hardtanh(h, -0.2, 0.3),
    "logarithms": lambda h: (h.abs() + 1).log() + h.expm1() + h.sinh().atan() + h.sign() + h.erf(),
    "more arithmetic": lambda h: (
        h.exp2() + (h.abs() + 1).log2() + (h.abs() + 1).log10() + h.asinh() + h.cosh()
    ),
    "and more": lambda h: h.erfc() + h.sigmoid().logit() + h.trunc() + h.frac() + h.round() + h.ceil() + 2**h,
    "of two": lambda h: torch.addcdiv(h, h, h.abs() + 1) + h.abs() ** h.cos() + torch.minimum(h, h.sin()),
    "more truth": lambda h: (
        h
        + (
            (
                torch.logical_and(h > 0, h.ge(0.1)).logical_xor(h.le(h.sin()))
                | h.isinf()
                | h.eq(2) ^ h.lt(h.cos())
            ).float()
            * torch.full_like(h, 2.0)
            + torch.ones_like(h).masked_fill(h.ne(h).logical_not(), 4)
        )
    ),
    "any and all": lambda h: (
        h.sum(2) + torch.where((h > 0).any(2) & (h < 9).all(2), h.argmax(2).float(), h.argmin(2).float())
    ),
    "smooth sizes": lambda h: F.interpolate(h, scale_factor=0.5, mode="bilinear", antialias=True),
    "other sizes": lambda h: (
        F.interpolate(h.flatten(2), 9, mode="nearest-exact").sum(-1, keepdim=True).unsqueeze(2)
        + F.interpolate(h.unsqueeze(2), scale_factor=2, mode="nearest-exact").mean(2)
        + F.interpolate(h.unsqueeze(2), scale_factor=2).mean(2)
    ),
    "indices of maxima": lambda h: F.max_pool2d(h, 2, return_indices=True)[0] + F.adaptive_max_pool2d(h, 3),
    "uneven maxima": lambda h: (
        F.adaptive_max_pool2d(h, (4, 5)) + F.adaptive_max_pool1d(h.flatten(2), 5).unsqueeze(2)
    ),
    "uneven means": lambda h: (
        F.adaptive_avg_pool2d(h, (4, 5)) + F.adaptive_avg_pool1d(h.flatten(2), 5).unsqueeze(2)
    ),
    "uneven volumes": lambda h: (
        F.adaptive_avg_pool3d(h.unsqueeze(-1).expand(-1, -1, -1, -1, 4), (4, 6, 3)).mean(-1)
        + F.adaptive_max_pool3d(h.unsqueeze(-1).expand(-1, -1, -1, -1, 4), (4, 6, 3)).mean(-1)
    ),
    "channels shuffled": lambda h: F.channel_shuffle(h.tanh(), 2),
    "channels shuffled by hand": lambda h: (
        h.view(h.shape[0], 2, 4, 6, 6).transpose(1, 2).contiguous().view(h.shape)
    ),
    "bounds that are tensors": lambda h: h.clamp(torch.tensor(-0.3), torch.tensor(0.4)),
    "corrections": lambda h: h.var((2, 3), correction=2) + h.std(2, correction=0).sum(-1),
    "rrelu": lambda h: F.rrelu(h, 0.1, 0.3),
    "attention by letters": by_einsum,
    "one mean, by letters": lambda h: torch.einsum("bchw->bc", h),
    "norms without weights": lambda h: F.instance_norm(h) + F.layer_norm(h, (6,)) + F.layer_norm(h, (6, 6)),
    "a mask that is written into": lambda h: h + mask_written(h),
    "a square of numbers by hand": lambda h: h.pow(2).mean((2, 3), keepdim=True).rsqrt() * h,
}
LAYERED = {
    "PReLU of all": with_layers(lambda h, m: m.p(h), p=lambda: nn.PReLU(init=0.1)),
    "PReLU by channel": with_layers(lambda h, m: m.p(h), p=lambda: nn.PReLU(WIDTH)),
    "PReLU by position": with_layers(lambda h, m: m.p(h.transpose(1, 2)), p=lambda: nn.PReLU(6)),
    "RMSNorm": with_layers(lambda h, m: m.n(h.movedim(1, -1)), n=lambda: nn.RMSNorm(WIDTH, eps=1e-3)),
    "RMSNorm of positions": with_layers(lambda h, m: m.n(h), n=lambda: nn.RMSNorm((6, 6))),
    "LayerNorm of positions": with_layers(lambda h, m: m.n(h), n=lambda: nn.LayerNorm(6)),
    "transposed convolution": with_layers(
        lambda h, m: m.c(h), c=lambda: nn.ConvTranspose2d(WIDTH, 6, 3, 2, 1, output_padding=1, dilation=2)
    ),
    "transposed convolution in groups": with_layers(
        lambda h, m: m.c(h), c=lambda: nn.ConvTranspose2d(WIDTH, 12, 2, groups=4)
    ),
    "transposed convolution of lines": with_layers(
        lambda h, m: m.c(h.flatten(2)), c=lambda: nn.ConvTranspose1d(WIDTH, 4, 2, bias=False)
    ),
    "tokens mixed": with_layers(lambda h, m: m.t(h.flatten(2)), t=lambda: nn.Linear(36, 5)),
    "tokens mixed by a convolution": with_layers(
        lambda h, m: m.t(h.flatten(2).transpose(1, 2)), t=lambda: nn.Conv1d(36, 5, 1)
    ),
    "layer scale": with_layers(lambda h, m: h * m.gamma[:, None, None], gamma=parameter(WIDTH)),
    "channels shuffled before a depthwise convolution": with_layers(
        lambda h, m: m.last(m.deep(F.channel_shuffle(h, 4))),
        deep=lambda: nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH),
        last=lambda: nn.Conv2d(WIDTH, 4, 1),
    ),
    "bmm": with_layers(
        lambda h, m: torch.bmm(m.w.expand(h.shape[0], -1, -1), tokens(h)) / 9, w=parameter(1, 4, 36)
    ),
    "positions mixed by parameters": with_layers(
        lambda h, m: (
            (
                m.w @ tokens(h)
                + torch.einsum("bcn,nm->bmc", h.flatten(2), m.v)
                + torch.einsum("...ni,inm->...mi", tokens(h), m.each)
                + torch.einsum("bnc,bmc,nm->bc", tokens(h), tokens(h), m.u)[:, None]
            )
            / 100
        ),
        w=parameter(4, 36),
        v=parameter(36, 4),
        each=parameter(WIDTH, 36, 4),
        u=parameter(36, 36),
    ),
    "queries that are learned": with_layers(
        lambda h, m: asked(h, m.q.view(1, 3, 4, 2).transpose(1, 2)), q=parameter(1, 3, 8)
    ),
    "learned queries of attention": with_layers(
        lambda h, m: F.scaled_dot_product_attention(
            m.q.view(3, 4, 2).transpose(0, 1).expand(h.shape[0], -1, -1, -1), heads(h), heads(h)
        ),
        q=parameter(3, 8),
    ),
    "learned queries of a layer": with_layers(
        cross_attended,
        q=parameter(3, 8),
        norm=lambda: nn.LayerNorm(8),
        attention=lambda: nn.MultiheadAttention(8, 4, batch_first=True),
    ),
    "a learned query for each neuron": with_layers(
        lambda h, m: ((tokens(h) * m.q).softmax(1) * tokens(h)).sum(1), q=parameter(WIDTH)
    ),
    "a grouped convolution of the input": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.PReLU(6), nn.Conv2d(6, 4, 1), nn.Flatten()
    ),
    "attention pooling": with_layers(
        lambda h, m: torch.einsum("bn,bnd->bd", m.s(m.u(tokens(h)).tanh()).squeeze(-1).softmax(1), tokens(h)),
        s=lambda: nn.Linear(6, 1),
        u=lambda: nn.Linear(WIDTH, 6),
    ),
    "one gate for all": with_layers(
        lambda h, m: m.s(tokens(h)).sigmoid() * tokens(h), s=lambda: nn.Linear(WIDTH, 1)
    ),
    "RMSNorm by hand": of(lambda h: h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-6)),
    "LayerNorm by hand": with_layers(lambda h, m: normed(h) * m.w[:, None, None], w=parameter(WIDTH)),
    "LayerNorm as in early BERT": of(lambda h: (h - h.mean(1, True)) / (h.std(1, keepdim=True) + 1e-6)),
    "responses": of(responses),
    "unit length": of(lambda h: F.normalize(h, dim=1) + h / (tokens(h).amax(-1).view(-1, 1, 6, 6) + 9)),
    "unequal parts": with_layers(
        partly, one=lambda: nn.Conv2d(2, 2, 3, padding=1), two=lambda: nn.Conv2d(3, 3, 1, groups=3)
    ),
    "halves of halves": with_layers(
        lambda h, m: m.last(torch.cat([h, *m.b(h.chunk(2, 1)[1]).chunk(2, 1)], 1)),
        b=lambda: nn.Conv2d(4, 6, 1),
        last=lambda: nn.Conv2d(14, 4, 1),
    ),
    "a layer and what is made of it, side by side": with_layers(
        lambda h, m: torch.cat([m.few(h), m.more(m.few(h))], 1)[:, :WIDTH] + h,
        few=lambda: nn.Conv2d(WIDTH, 4, 1),
        more=lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    ),
    "halves, shuffled twice": with_layers(
        lambda h, m: (lambda a, b: F.channel_shuffle(torch.cat([a, m.b(b)], 1), 2))(
            *F.channel_shuffle(torch.cat([h[:, :4], m.a(h[:, 4:])], 1), 2).chunk(2, 1)
        ),
        a=lambda: nn.Conv2d(4, 4, 1),
        b=lambda: nn.Conv2d(4, 4, 1),
    ),
    "queries, keys and values sliced": with_layers(
        lambda h, m: F.scaled_dot_product_attention(
            *(m.qkv(h)[:, a : a + 8].flatten(2).unflatten(1, (4, 2)).mT for a in (0, 8, 16))
        ),
        qkv=lambda: nn.Conv2d(WIDTH, 24, 1),
    ),
    "attention over space": with_layers(
        lambda h, m: h * m.c(torch.cat([h.mean(1, keepdim=True), h.max(1, keepdim=True)[0]], 1)).sigmoid(),
        c=lambda: nn.Conv2d(2, 1, 3, padding=1),
    ),
    "functions of parameters": with_layers(
        lambda h, m: h * (2 * m.p.sigmoid() + m.q.exp())[:, None, None] * m.mix.softmax(0)[1],
        p=parameter(WIDTH),
        q=parameter(1),
        mix=parameter(3),
    ),
    "parts of a parameter": with_layers(
        lambda h, m: h * m.p[0][:, None, None] + m.p[1][:, None, None], p=parameter(2, WIDTH)
    ),
    "a parameter repeated": with_layers(lambda h, m: tokens(h) + m.p.repeat(1, 12, 1), p=parameter(1, 3, 8)),
    "positions joined and resized": with_layers(
        lambda h, m: (
            F.interpolate(m.p.view(1, 3, 3, 8).permute(0, 3, 1, 2), (6, 6), mode="bilinear")
            + h
            + torch.cat([m.first, m.rest], 1).transpose(1, 2).unflatten(2, (6, 6))
        ),
        p=parameter(1, 9, 8),
        first=parameter(1, 1, 8),
        rest=parameter(1, 35, 8),
    ),
    "a table of relative positions": with_layers(
        lambda h, m: biased(h, m.table[BUCKETS.view(-1)].view(36, 36, -1).permute(2, 0, 1) * m.scale.exp()),
        table=parameter(10, 4),
        scale=parameter(4, 1, 1),
    ),
    "embedded relative positions": with_layers(
        lambda h, m: biased(h, m.e(BUCKETS).permute(2, 0, 1)), e=lambda: nn.Embedding(10, 4)
    ),
    "relative positions by a network": with_layers(
        lambda h, m: biased(
            h, 2 * m.b(m.a(torch.linspace(0, 1, 20).view(10, 2)).relu())[BUCKETS].permute(2, 0, 1)
        ),
        a=lambda: nn.Linear(2, 8),
        b=lambda: nn.Linear(8, 4, bias=False),
    ),
    "one number": with_layers(lambda h, m: h * m.scale + m.shift, scale=parameter(1), shift=parameter()),
    "a list of parameters": with_layers(
        lambda h, m: sum(p.view(1, -1, 1, 1) * h for p in m.all),
        all=lambda: nn.ParameterList([parameter(WIDTH)() for _ in range(2)]),
    ),
}
BY_HAND = {
    "a product": with_layers(lambda h, m: tokens(h) @ m.p + m.q, p=parameter(WIDTH, 5), q=parameter(5)),
    "F.linear": with_layers(
        lambda h, m: F.linear(tokens(h), m.p, m.q) + F.linear(tokens(h), m.r.t()),
        p=parameter(5, WIDTH),
        q=parameter(5),
        r=parameter(WIDTH, 5),
    ),
    "letters": with_layers(
        lambda h, m: (
            torch.einsum("bnd,de->bne", tokens(h), m.p) + torch.einsum("ed,bnd->bne", m.q, tokens(h))
        ),
        p=parameter(WIDTH, 5),
        q=parameter(5, WIDTH),
    ),
    "of the input": OfInput,
}
"""Linear layers written by hand, with bare parameters for weights."""
KINDS = {**{name: of(function) for name, function in FUNCTIONS.items()}, **LAYERED}
