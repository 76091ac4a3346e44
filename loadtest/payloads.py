"""What users send: ever new inputs made of an example, and what they accept as an answer."""

from __future__ import annotations

import io
import json
import os
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

REPEATED = 20
"""One request in so many is an earlier one, whose answer has to be the same."""


@dataclass(frozen=True)
class Inputs:
    """``example``: one instance, as JSON gives it. ``spec``: the bundle's description of inputs."""

    example: npt.NDArray[Any]
    spec: dict[str, Any]

    @classmethod
    def from_environment(cls) -> Inputs:
        """What ``serving start --run`` says about the served model."""
        example = np.asarray(json.loads(os.environ["EIDETIC_REQUEST"])["data"])
        return cls(example, json.loads(os.environ.get("EIDETIC_INPUT", "{}")))

    def array(self, rng: np.random.Generator) -> npt.NDArray[Any]:
        """The example's numbers in another order, so they stay in range; in the contract's type."""
        mixed = rng.permutation(self.example.ravel()).reshape(self.example.shape)
        return mixed.astype(self.spec.get("dtype", "float32"))

    def json(self, rng: np.random.Generator) -> bytes:
        mixed = rng.permutation(self.example.ravel()).reshape(self.example.shape)
        return json.dumps({"data": mixed.tolist()}).encode()

    def raw(self, rng: np.random.Generator) -> bytes:
        return self.array(rng).tobytes()

    def image(self, rng: np.random.Generator) -> bytes:
        """A PNG of noise, of the size that the network takes."""
        from PIL import Image

        channels = (3,) if self.spec["image"]["mode"] == "RGB" else ()
        pixels = rng.integers(0, 256, (*self.spec["image"]["size"], *channels), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


@dataclass
class Checked:
    """A user's memory of what it was answered."""

    seen: dict[Any, dict[str, Any]] = field(default_factory=dict)
    keep: int = 50

    def again(self) -> Any:
        """Now and then an earlier payload, otherwise None."""
        return random.choice(list(self.seen)) if self.seen and random.randrange(REPEATED) == 0 else None

    def problem(self, payload: Any, answer: Any) -> str:
        """What is wrong with ``answer``, "" if nothing. Two answers of one version must be the same."""
        if not is_answer(answer):
            return f"no answer: {str(answer)[:200]}"
        before = self.seen.get(payload)
        if before and before["model_version"] == answer["model_version"]:
            same = all(before[name] == answer[name] for name in ("task", "label", "unknown"))
            close = abs(before["label_probability"] - answer["label_probability"]) < 1e-4
            return "" if same and close else f"two answers to one request: {before}, {answer}"
        if len(self.seen) < self.keep:
            self.seen[payload] = answer
        return ""


def is_answer(answer: Any) -> bool:
    """Whether it names a task, a label and a probability."""
    if not isinstance(answer, dict):
        return False
    probability = answer.get("label_probability")
    named = isinstance(answer.get("label"), str) and isinstance(answer.get("task"), str)
    versioned = isinstance(answer.get("model_version"), str)
    return named and versioned and isinstance(probability, float) and 0 <= probability <= 1
