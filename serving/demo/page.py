"""The page itself: what is on it, and what happens when it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt

from eideticnet.export.errors import ArchiveError
from eideticnet.files import read_regular
from eideticnet.serving.demo import live, shown
from eideticnet.serving.demo.asking import Asking
from eideticnet.serving.demo.deploying import Deploys
from eideticnet.serving.demo.drawing import drawn, expected, frame, pasted, uploaded
from eideticnet.serving.demo.served import Described, Place, described
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.errors import MOST_BYTES, ServingError

_WRONG = (ServingError, ArchiveError, OSError)
_FIND = "Let the network find it"
_SECONDS = 2.0
_MOST_SLIDERS, _MOST_SHOWN = 16, 4096
_STEPS = 100
_KEPT = (60, 3600)
"""Seconds between looks for uploads that are old, and how old that is."""
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
STYLE = files(__package__).joinpath("page.css").read_text()


class Page:
    """Of one model at ``place``; ``first`` is what it was when the page began, ``store`` a folder of archives
    that may be deployed where the server runs on this machine."""

    def __init__(self, place: Place, first: Described, store: Path, policy: Policy) -> None:
        self._place, self._model, self._store, self._policy = place, first, store, policy
        self.asking = Asking(place)
        self._live = live.Live(place)
        self.deploys = Deploys(place.home, self.asking, place.model) if place.home else None

    def blocks(self) -> gr.Blocks:
        """All of it."""
        found: gr.Blocks
        with gr.Blocks(
            title=f"{self._place.model} - EideticNet", analytics_enabled=False, delete_cache=_KEPT
        ) as found:
            title = gr.HTML(shown.heading(self._place, self._model), elem_id="heading")
            last = gr.State(None)
            with gr.Row():
                with gr.Column():
                    inputs = self._inputs()
                    task = gr.Dropdown(self._tasks(), value="", label="Task")
                    threshold = gr.Slider(
                        0,
                        1,
                        value=min(self._model.threshold, 1.0),
                        step=0.01,
                        label="Threshold",
                        info='Less sure of the task than this, and the answer is "unknown".',
                    )
                with gr.Column():
                    answers = self._answers()
            self._wire(inputs, [task, threshold], [*answers, inputs["text"], last])
            self._watch(title, task)
            if self.deploys:
                self._deploy(found, self.deploys, last)
        return found

    def close(self) -> None:
        """Once a deploy that goes on has ended."""
        if self.deploys:
            self.deploys.close()
        self.asking.close()

    def _tasks(self) -> list[tuple[str, str]]:
        return [(_FIND, ""), *((task.name, task.name) for task in self._model.tasks)]

    def _inputs(self) -> dict[str, Any]:
        """The ways to give an input: drawn, uploaded, as numbers."""
        spec, found = self._model.input, dict[str, Any]()
        with gr.Tabs():
            if frame(spec):
                with gr.Tab("Draw"):
                    text, script = (
                        files(__package__).joinpath(f"pen.{kind}").read_text() for kind in ("html", "js")
                    )
                    found["drawn"] = gr.HTML("[]", html_template=text, js_on_load=script, elem_id="pen")
            with gr.Tab("Upload"):
                kinds = "A PNG or JPEG of one character or thing, or .npy" if frame(spec) else "A .npy file"
                found["file"] = gr.File(
                    label=kinds, file_types=[".png", ".jpg", ".jpeg", ".npy", ".npz"], height=140
                )
            with gr.Tab("Numbers"):
                if slid := self._sliders():
                    found["slid"] = slid
                found["text"] = gr.Textbox(label=expected(spec), lines=6, max_lines=12, elem_id="numbers")
                found["ask"] = gr.Button("Ask about these numbers")
        if frame(spec) and spec.image is None:
            found["dark"] = gr.Checkbox(label="Dark on bright: a pen has the low numbers")
        return found

    def _sliders(self) -> list[gr.Slider]:
        spec = self._model.input
        count, low, high = math.prod(spec.shape), spec.low, spec.high
        if count > _MOST_SLIDERS or low is None or high is None or not low < high:
            return []
        step = 1 if spec.dtype == "int64" else (high - low) / _STEPS
        return [gr.Slider(low, high, value=low, step=step, label=f"Number {i + 1}") for i in range(count)]

    def _answers(self) -> list[Any]:
        said = gr.HTML(shown.hint("Give an input: the answer stands here."), elem_id="answer", padding=True)
        seen = gr.HTML(elem_id="seen")
        tasks = gr.Label(label="Tasks", show_heading=False, elem_id="tasks")
        labels = gr.Label(label="Labels of that task", show_heading=False, elem_id="labels")
        return [said, seen, tasks, labels]

    def _wire(self, inputs: dict[str, Any], options: list[Any], outputs: list[Any]) -> None:
        """Every change of an input, of the task or of the threshold is asked about."""
        spec, into, last = self._model.input, frame(self._model.input), outputs[-1]
        dark = [inputs["dark"]] if "dark" in inputs else []
        shared: dict[str, Any] = {"outputs": outputs, "trigger_mode": "always_last", **_QUIET}

        def draw(strokes: str, *asked: Any) -> list[Any]:
            if not into or strokes in ("", "[]"):
                return _nothing("The field is empty: draw something.")
            return self._ask(lambda: drawn(strokes, into, any(asked[2:])), asked)

        def upload(path: str | None, *asked: Any) -> list[Any]:
            if path is None:
                return _nothing("No file is chosen.")
            return self._ask(
                lambda: uploaded(read_regular(Path(path), MOST_BYTES), spec, any(asked[2:])), asked
            )

        def paste(text: str, *asked: Any) -> list[Any]:
            return self._ask(lambda: pasted(text, spec), asked)

        def slide(*asked: Any) -> list[Any]:
            return self._ask(lambda: pasted(" ".join(map(str, asked[2:])), spec), asked)

        def again(x: Any, *asked: Any) -> list[Any]:
            return [gr.skip()] * len(outputs) if x is None else self._ask(lambda: x, asked)

        if "drawn" in inputs:
            gr.on(
                [each.change for each in (inputs["drawn"], *dark)],
                draw,
                [inputs["drawn"], *options, *dark],
                **shared,
            )
        inputs["file"].change(upload, [inputs["file"], *options, *dark], **shared)
        inputs["ask"].click(paste, [inputs["text"], *options], **shared)
        if sliders := inputs.get("slid"):
            gr.on([slider.change for slider in sliders], slide, [*options, *sliders], **shared)
        gr.on([option.change for option in options], again, [last, *options], **shared)

    def _ask(self, made: Callable[[], Any], asked: Sequence[Any]) -> list[Any]:
        """The answer, the picture that was sent, both probabilities, the numbers, and the input itself;
        ``asked`` are the task and the threshold, and what else an event brings."""
        task, threshold, *_ = asked
        try:
            x = made()
            found = self.asking.ask(x, task or None, float(threshold))
        except _WRONG as error:
            return [shown.problem(error), "", None, None, gr.skip(), gr.skip()]
        few = isinstance(x, np.ndarray) and x.size <= _MOST_SHOWN
        answer = found.answer
        said = [
            shown.answer(found),
            self._seen(x),
            answer.task_probabilities,
            answer.label_probabilities or None,
        ]
        return [*said, shown.numbers(x) if few else "", x]

    def _seen(self, x: npt.NDArray[Any] | bytes) -> str:
        into = frame(self._model.input)
        return shown.picture(into.shades(x)) if into and isinstance(x, np.ndarray) else ""

    def _watch(self, title: Any, task: Any) -> None:
        """The live part: what is served, and what it does."""
        gr.HTML("<h2>Live</h2>")
        source = gr.HTML(elem_id="source")
        with gr.Row():
            bars: dict[str, Any] = {"height": 240, "y_lim": [0, None]}
            tasks = gr.BarPlot(
                x="task", y=live.REQUESTS, title="Answers by task", sort=None, x_label_angle=-45, **bars
            )
            sure = gr.BarPlot(
                x=live.CONFIDENCE,
                y=live.ANSWERS,
                title="Routing confidence",
                sort=None,
                x_label_angle=-45,
                **bars,
            )
            speed = gr.LinePlot(
                x=live.WHEN,
                y=live.LATENCY,
                color=live.WHERE,
                color_map=live.COLOURS,
                title="Latency",
                height=240,
            )

        def look() -> list[Any]:
            before, wrong = self._model, ""
            try:
                self._model = described(self._place)
            except ServingError as error:
                wrong = shown.problem(error)
            plots = self._live.look([each.name for each in self._model.tasks], list(self.asking.asked))
            told = [shown.heading(self._place, self._model) + wrong, shown.hint(plots.source)]
            choices = gr.skip() if self._model == before else gr.Dropdown(self._tasks())
            return [*told, plots.tasks, plots.confidence, plots.latency, choices]

        outputs = [title, source, tasks, sure, speed, task]
        gr.Timer(_SECONDS).tick(look, None, outputs, **_QUIET)

    def _deploy(self, page: gr.Blocks, deploys: Deploys, last: Any) -> None:
        """The part that lets another version take over."""
        gr.HTML("<h2>A new version</h2>")
        with gr.Row():
            stored = gr.Dropdown(self._archives(), label=f"An archive in {self._store}", value=None)
            file = gr.File(label="Or one that is uploaded (.mar)", file_types=[".mar"], height=140)
        unmeasured = gr.Checkbox(
            label="Deploy it although its routing can't be measured (--accept-unmeasured-routing)"
        )
        start = gr.Button("Prove and deploy it", variant="primary", elem_id="deploy")
        outputs = [start, gr.HTML(elem_id="steps"), gr.HTML(elem_id="logits")]

        def follow() -> Iterator[list[Any]]:
            yield [gr.skip()] * len(outputs)
            for found in deploys.follow():
                yield [
                    gr.Button(interactive=bool(found.outcome)),
                    shown.deploying(found),
                    shown.logits(found),
                ]

        def deploy(name: str | None, path: str | None, accept: bool, x: Any) -> Iterator[list[Any]]:
            policy = replace(self._policy, accept_unmeasured_routing=accept)
            try:
                deploys.begin(self._chosen(name, path), x, self._model.zeros(), policy)
            except _WRONG as error:
                yield [gr.skip(), shown.problem(error), ""]
            else:
                yield from follow()

        stored.focus(lambda: gr.Dropdown(self._archives()), None, stored, **_QUIET)
        start.click(deploy, [stored, file, unmeasured, last], outputs, **_QUIET)
        page.load(follow, None, outputs, **_QUIET)

    def _chosen(self, name: str | None, path: str | None) -> Path:
        """The archive to deploy: the one that was uploaded, or one of those in the store."""
        if path is not None:
            return Path(path)
        if name not in self._archives():  # a browser may send any name
            raise ServingError("which archive? Choose one of the store, or upload one")
        return self._store / name

    def _archives(self) -> list[str]:
        return sorted(path.name for path in self._store.glob("*.mar") if path.is_file())


def _nothing(text: str) -> list[Any]:
    return [shown.hint(text), "", None, None, "", None]
