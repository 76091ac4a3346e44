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

    ``sources`` are the numbers of the earlier pages that it reads. Slots and sources never change once the
    page is open, so whoever joins it changes no shape and no operation of those that lie there.
    """

    slots: Widths
    sources: tuple[int, ...]
    owners: tuple[str, ...]

    def with_owner(self, owner: str) -> Page:
        """The same page, with one owner more behind the others."""
        return Page(self.slots, self.sources, (*self.owners, owner))

    def has_room(self, new: Widths, there: Mapping[str, Widths]) -> bool:
        """Whether an owner of these ``new`` widths fits behind those that are ``there``, in every group."""
        all_of_them = [new, *(there[owner] for owner in self.owners)]
        groups = {group for widths in all_of_them for group in widths}
        return all(sum(w.get(g, 0) for w in all_of_them) <= self.slots.get(g, 0) for g in groups)

    def to_json(self) -> dict[str, Any]:
        return {"slots": dict(self.slots), "sources": list(self.sources), "owners": list(self.owners)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        slots = {str(group): int(count) for group, count in data["slots"].items()}
        return cls(slots, tuple(map(int, data["sources"])), tuple(map(str, data["owners"])))


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
        if not page.has_room({}, widths) or not read <= seen:
            raise ValueError(f"its page {number} lacks slots for its owners, or pages that they read")
