"""Slots: which owners lie in which page, as data. ``pages/`` lays them and runs them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from eideticnet.program import Widths


@dataclass(frozen=True)
class Page:
    """A fixed number of ``slots`` in each feature group, and of classes under ``HEAD``, for ``owners`` that
    lie side by side in them, in the order of learning. Slots behind the last of them are free.

    ``sources`` are the numbers of the earlier pages that it reads, and ``most`` is the number of owners that
    may lie in it. None of these changes once the page is open, so whoever joins it changes no shape and no
    operation of those that lie there.
    """

    slots: Widths
    sources: tuple[int, ...]
    owners: tuple[str, ...]
    most: int = 1

    def with_owner(self, owner: str) -> Page:
        """The same page, with one owner more behind the others."""
        return Page(self.slots, self.sources, (*self.owners, owner), self.most)

    def has_room(self, *owners: Widths) -> bool:
        """Whether owners of these widths fit in it together, in every group."""
        groups = {group for widths in owners for group in widths}
        taken = {group: sum(widths.get(group, 0) for widths in owners) for group in groups}
        return len(owners) <= self.most and all(n <= self.slots.get(g, 0) for g, n in taken.items())

    def to_json(self) -> dict[str, Any]:
        return {
            "slots": dict(self.slots),
            "sources": list(self.sources),
            "owners": list(self.owners),
            "most": self.most,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        slots = {str(group): int(count) for group, count in data["slots"].items()}
        return cls(
            slots, tuple(map(int, data["sources"])), tuple(map(str, data["owners"])), int(data["most"])
        )


def page_of(pages: Sequence[Page]) -> dict[str, int]:
    """The number of the page in which each owner lies."""
    return {owner: number for number, page in enumerate(pages) for owner in page.owners}


def check_pages(
    pages: Sequence[Page], widths: Mapping[str, Widths], reads: Mapping[str, Collection[str]]
) -> None:
    """Raise ``ValueError`` unless the pages hold owners that there are, each once and with room for all of
    its neurons, and read whom these read."""
    lie = page_of(pages)
    if len(lie) < sum(len(page.owners) for page in pages) or not set(lie) <= set(widths):
        raise ValueError("its pages hold an owner twice, or one that is not there")
    for number, page in enumerate(pages):
        seen = {number, *page.sources}
        if any(not 0 <= source < number for source in page.sources):
            raise ValueError(f"its page {number} reads a page that is not before it")
        read = {lie.get(earlier) for owner in page.owners for earlier in reads[owner]}
        if not page.has_room(*(widths[owner] for owner in page.owners)) or not read <= seen:
            raise ValueError(f"its page {number} lacks slots for its owners, or pages that they read")
