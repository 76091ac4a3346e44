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
from pydantic import ValidationError

from eideticnet.contract.answers import Answer

REPEATED = 20
"""One request in this many repeats an earlier one, whose answer has to be the same."""


@dataclass(frozen=True)
class RequestMaker:
    """``example``: one instance (*shape). ``spec``: the bundle's description of inputs."""

    example: npt.NDArray[Any]
    spec: dict[str, Any]

    @classmethod
    def from_environment(cls) -> RequestMaker:
        """What ``eidetic serve --run`` says about the served model."""
        example = np.load(os.environ["EIDETIC_EXAMPLE"], allow_pickle=False)
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
            return (
                "" if same and _close(before, answer) else f"two answers to one request: {before}, {answer}"
            )
        if len(self.seen) < self.keep:
            self.seen[payload] = answer
        return ""


def is_answer(answer: Any) -> bool:
    """Whether it is one of the contract."""
    try:
        Answer.model_validate(answer)
    except ValidationError:
        return False
    return True


def _close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the labels' probabilities of two answers with the same label are the same, as far as the
    sizes of their batches let them."""
    return bool(one["unknown"] or abs(one["label_probability"] - other["label_probability"]) < 1e-4)
