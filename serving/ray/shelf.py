"""Archives in Ray's own memory: an actor that hands them to replicas on nodes that share no folder."""

from __future__ import annotations

from typing import Any

import ray

NAMESPACE = "eidetic"
_NAME = "archives"
_ANSWER_SECONDS = 60.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Shelf:
    """Archives by their SHA-256. After a restart it has none, and is given them again."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}

    def put(self, sha256: str, data: bytes) -> None:
        self._held[sha256] = data

    def get(self, sha256: str) -> bytes | None:
        return self._held.get(sha256)

    def keep(self, wanted: list[str]) -> list[str]:
        """Let the others go; those of ``wanted`` that are missing."""
        self._held = {key: data for key, data in self._held.items() if key in wanted}
        return [key for key in wanted if key not in self._held]


def shelf() -> Any:
    """The actor, which outlives who made it."""
    return Shelf.options(  # type: ignore[attr-defined]
        name=_NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote()


def from_shelf(sha256: str) -> bytes | None:
    """An archive; None where it is not there."""
    try:
        actor = ray.get_actor(_NAME, namespace=NAMESPACE)
    except ValueError:  # there is no such actor
        return None
    found: Any = ray.get(actor.get.remote(sha256), timeout=_ANSWER_SECONDS)
    return None if found is None else bytes(found)
