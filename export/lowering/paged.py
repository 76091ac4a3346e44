"""The body in pages, as the network laid its tasks; all in one page is the **dense** layout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from eideticnet import EideticNetwork
from eideticnet.block import Block
from eideticnet.export.lowering.body import owners
from eideticnet.learned import ROUTER
from eideticnet.pages.laying import exact
from eideticnet.pages.passes import Paged
from eideticnet.program import HEAD
from eideticnet.slots import Page


class PagedBody(nn.Module):
    """Raw inputs ``x`` (N, *shape) to the logits that ``Body`` (``body.py``) gives, in its order.

    ``pages``: those in which the tasks lie, the network's own unless given. The router has one of its own
    behind them, which every version replaces."""

    def __init__(self, net: EideticNetwork, pages: Sequence[Page] | None = None) -> None:
        super().__init__()
        self.inputs, self.owners = net.inputs, owners(net)
        blocks = [net.learned.block(owner) for owner in net.learned.blocks]
        alike = _alike(net)
        laid = list(net.pages() if pages is None else pages)
        if not any(ROUTER in page.owners for page in laid):
            laid += [exact([block], range(len(laid))) for block in alike if block.owner == ROUTER]
        self.paged = Paged(net.program, alike, laid)
        self.strangers = [block for block in blocks if block not in alike]
        self.kept = nn.ModuleList(self.strangers)  # where exporters look for weights
        self.by_page = False

    @property
    def joined(self) -> dict[str, dict[str, int]]:
        """What is given first if ``by_page`` is set: the logits of each page, with each owner's number of
        them. A page of one owner alone has its name."""
        named = dict[str, dict[str, int]]()
        for number, of in self.paged.heads.items() if self.by_page else ():
            alone = self.paged.pages[number].whole[HEAD] == max(of.values(), default=0)
            named |= {next(iter(of)) if alone else f"page{number}": of} if of else {}
        return named

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.logits(self.inputs.normalise(x))

    def logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """The same for normalised ``x``."""
        pages, logits = self.paged.by_page(x, self.strangers)
        if self.by_page:
            return (*pages.values(), *(logits[owner] for owner in self.owners if owner in logits))
        logits |= self.paged.apart(pages)
        return tuple(logits[owner] for owner in self.owners)


def dense(net: EideticNetwork) -> PagedBody:
    """Everyone in one page."""
    return PagedBody(net, [exact(_alike(net))])


def _alike(net: EideticNetwork) -> list[Block]:
    """The blocks that have the trunk's steps, but for the head."""
    blocks = [net.learned.block(owner) for owner in net.learned.blocks]
    return [block for block in blocks if block.program.steps[:-1] == net.program.steps[:-1]]
