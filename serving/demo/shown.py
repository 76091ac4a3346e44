"""Answers, steps and logits as HTML: plain tables and sentences, in which every name is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eideticnet.serving.demo.asking import Asked
from eideticnet.serving.demo.deploying import Deploying
from eideticnet.serving.demo.served import Described, Place

_MOST_LOGITS = 12
"""Of a task, in a line."""


def heading(place: Place, model: Described) -> str:
    """Which model, version and server this is."""
    tasks = f"{len(model.tasks)} task{'s' if len(model.tasks) != 1 else ''}"
    name, version, url = (escape(text) for text in (place.model, model.version, place.target.url))
    return f"<h1>{name}</h1><p>Version <strong>{version}</strong>, {tasks}, served at {url}</p>"


def problem(error: object) -> str:
    """What went wrong, in a sentence that is read out at once."""
    return f'<p role="alert" class="problem">{escape(str(error))}</p>'


def hint(text: str) -> str:
    """What to do."""
    return f"<p>{escape(text)}</p>"


def answer(asked: Asked) -> str:
    """What the network says, how sure it is, which version, and how long it took."""
    found = asked.answer
    if found.unknown:
        said = "Unknown: no task claims this"
    else:
        said = f"It is {found.label}, of the task {found.task}" + (" (pinned)" if found.pinned else "")
    sure = [("task", found.task_probability), ("label", found.label_probability)]
    shares = [f"{what} {_percent(share)}" for what, share in sure if share is not None]
    told = [*shares, f"version {found.model_version}", f"{asked.milliseconds:.1f} ms"]
    return f'<p class="said">{escape(said)}</p><p>{escape(", ".join(told))}</p>'


def picture(shades: npt.NDArray[np.uint8]) -> str:
    """What the model is given, (height, width) from 0 to 255, enlarged without smoothing."""
    file = io.BytesIO()
    Image.fromarray(shades).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    size = f"{shades.shape[1]} x {shades.shape[0]}"
    text = f"What the model is given: {size} pixels"
    return (
        f'<figure><img class="seen" alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def deploying(found: Deploying) -> str:
    """The steps so far, how it ended, and what became of the requests that were sent meanwhile."""
    parts = [_table(f"Steps of the deploy of {found.archive}", ("seconds", "step"), _steps(found))]
    if found.problem:
        parts.append(problem(f"Not deployed: {found.problem}"))
    elif found.outcome:
        parts.append('<p role="status" class="said">Deployed</p>')
    else:
        parts.append('<p role="status">It goes on.</p>')
    traffic = found.traffic
    shares = ", ".join(f"{count} by version {version}" for version, count in sorted(traffic.answered.items()))
    counts = f"{traffic.sent} requests sent by this page meanwhile, {len(traffic.failed)} failed"
    counts += f"; answered: {shares}" if shares else ""
    parts.append(f'<p class="traffic">{escape(counts)}</p>')
    parts += [problem(f"The first that failed: {traffic.failed[0]}")] if traffic.failed else []
    return "".join(parts)


def _steps(found: Deploying) -> Iterable[Sequence[str]]:
    return [(f"{seconds:.1f}", text) for seconds, text in found.steps]


def logits(found: Deploying) -> str:
    """The logits of every earlier task, before and after, and whether their bits are the same."""
    if not found.probes:
        return ""
    rows = []
    for mine, probes in zip(found.mine or found.probes, found.probes, strict=True):
        same = f"{probes.same} of {len(probes.before)} probes"
        same += f", {'also' if mine.same else 'NOT'} your input" if found.mine else ""
        rows.append((mine.task, _logits(mine.before[0]), _logits(mine.after[0]), same))
    whose = "your last input" if found.mine else "a probe of each"
    caption = f"Logits of the earlier tasks, the task given, for {whose}"
    table = _table(caption, ("task", "before", "after", "the same bits"), rows)
    if all(each.same == len(each.before) for each in [*found.mine, *found.probes]):
        return f'{table}<p class="said">Bit-equal: no logit of an earlier task has moved.</p>'
    return table + problem("Logits of earlier tasks have moved.")


def _logits(row: npt.NDArray[Any]) -> str:
    """As short as they can be written without losing a bit."""
    return "  ".join(map(str, row[:_MOST_LOGITS])) + (" ..." if len(row) > _MOST_LOGITS else "")


def numbers(x: npt.NDArray[Any]) -> str:
    """An instance as it may be pasted."""
    return " ".join(f"{value:g}" for value in x.ravel().tolist())


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
