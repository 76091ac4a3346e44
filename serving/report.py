"""What is kept of a deploy: every step with its time, what was proven, how it ended."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eideticnet.serving.files import write_whole


@dataclass
class DeployReport:
    """Filled while the deploy goes on, and written at its end, however it ends."""

    what: str
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    found: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def add(self, name: str, text: str, found: dict[str, Any]) -> None:
        """Note a step that was taken, and what it found."""
        self.steps.append({"step": name, "seconds": round(self.seconds, 3), "text": text})
        self.found |= found

    def write(self, folder: Path, outcome: str) -> Path:
        """The JSON file; its name says when the deploy began."""
        path = folder / f"{self.what}-{self.began:%Y%m%dT%H%M%S.%fZ}.json"
        head = {"what": self.what, "began": self.began.isoformat(), "outcome": outcome}
        body = {**head, **self.found, "steps": self.steps}
        write_whole(path, json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n")
        return path
