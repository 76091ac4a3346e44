"""To and from the Hugging Face Hub: a checkpoint folder with a model card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

from eideticnet.answering import Answering
from eideticnet.checkpoint import MANIFEST
from eideticnet.errors import CheckpointError, DataError, MissingExtraError
from eideticnet.files import write_whole
from eideticnet.names import expected
from eideticnet.users_code import TARGET, unlocated

Network = TypeVar("Network", bound="OnTheHub")
Found = TypeVar("Found")
LIBRARY = "eideticnet"
CARD = "README.md"
FILES = ["*.safetensors", MANIFEST]
"""All that is ever fetched: numbers and JSON, no code."""
_OWN = [
    f"{kind}-{16 * '[0-9a-f]'}.safetensors" for kind in ("t[0-9]*", "router", "probes", "memory", "moments")
]
"""Files that ``save`` writes, and no others that a repository holds."""
_WRITTEN = "<!-- written by eideticnet -->"
"""In a card that may be replaced; one without it is its user's."""


class Accuracies(Protocol):
    """What is known of a task: as ``evaluate`` reports it."""

    @property
    def oracle(self) -> float: ...

    @property
    def routed(self) -> float: ...


class OnTheHub(Answering):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub``, as users of the Hub know them.

    ``reports`` are accuracies by task for the card, as ``evaluate`` gives them; without, those of the run.
    """

    def save_pretrained(
        self, folder: str | PathLike[str], *, reports: Mapping[str, Accuracies] | None = None, **card: Any
    ) -> None:
        """``save``, and a model card beside it, unless somebody else's is there. ``card``: further fields of
        its ``ModelCardData``, such as ``license="apache-2.0"`` or ``datasets=["mnist"]``."""
        path = Path(folder) / CARD
        _check_place(path.parent)
        self._write(folder, path.parent.resolve().name, path, reports, card)

    @classmethod
    def from_pretrained(
        cls: type[Network], name: str | PathLike[str], *, revision: str | None = None, **download: Any
    ) -> Network:
        """The network in a folder, or else in the repository ``name`` on the Hub; ``revision`` is a branch, a
        tag or, for the same bits at any time, a commit. ``download``: further arguments of
        ``huggingface_hub.snapshot_download``, such as ``token``, ``cache_dir`` or ``local_files_only``.

        Only numbers and JSON are fetched and nothing of it is run. Every tensor is compared with the SHA-256
        of when it was frozen."""
        if revision is None and Path(name).is_dir():
            return cls.load(name)
        if _is_path(name):
            what = "a folder has no revisions" if Path(name).is_dir() else "there is no such folder"
            raise CheckpointError(f"{name}: {what}; a repository on the Hub is called USER/NAME")
        with _hub(f"can't fetch {str(name)!r}, which is no folder here") as hub:
            folder = hub.snapshot_download(str(name), revision=revision, allow_patterns=FILES, **download)
        return cls.load(folder)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        message: str = "Push an EideticNetwork",
        reports: Mapping[str, Accuracies] | None = None,
        **card: Any,
    ) -> str:
        """Save into ``repository``, which is made if it is not there, in one commit; its URL. Blocks that are
        there already are not sent again. Examples that the network keeps (``memory``) are sent, too."""
        with _hub(f"can't push to {repository!r}") as hub, TemporaryDirectory() as place:
            self._write(place, repository, Path(place) / CARD, reports, card)
            api = hub.HfApi(token=token)
            repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
            return str(
                api.upload_folder(
                    repo_id=repository,
                    folder_path=place,
                    allow_patterns=[*FILES, CARD],
                    delete_patterns=_OWN,  # of earlier states; what is still used stays
                    commit_message=message,
                    revision=branch,
                )
            )

    def _write(
        self,
        folder: str | PathLike[str],
        name: str,
        path: Path,
        reports: Mapping[str, Accuracies] | None,
        more: Mapping[str, Any],
    ) -> None:
        known = _recorded(self, _known) if reports is None else _checked(self, reports)
        with _hub("can't write a model card"):
            text = card(self, name, known, more)
        self.save(folder)
        try:
            if not path.exists() or _WRITTEN in path.read_text(errors="replace"):
                write_whole(path, text.encode())
        except OSError as error:
            raise CheckpointError(f"can't write {path}: {error.strerror or error}") from error


def _is_path(name: str | PathLike[str]) -> bool:
    """Whether ``name`` can only be meant as a folder: no repository is called so."""
    return not isinstance(name, str) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _check_place(folder: Path) -> None:
    """``CheckpointError`` for a folder of something else. A clone of a repository may hold hidden files, a
    card and a checkpoint."""
    if (folder / MANIFEST).exists() or not folder.is_dir():
        return
    strange = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != CARD)
    if strange:
        raise CheckpointError(f"{folder} holds {strange[0]!r}, and no checkpoint: name a new folder")


def card(net: Answering, name: str, reports: Mapping[str, Accuracies], more: Mapping[str, Any]) -> str:
    """The model card: what a reader of the Hub wants to know of the network before fetching it."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="classification",
            dataset_type="held-out",
            dataset_name=task.name,
            dataset_config=task.name,  # what tells data sets apart
            metric_type="accuracy",
            metric_name=metric,
            metric_value=value,
        )
        for task in net.tasks
        if task.name in reports
        for metric, value in _metrics(reports[task.name])
    ]
    fields: dict[str, Any] = {"tags": ["continual-learning"], **more, "library_name": LIBRARY}
    if results:
        fields |= {"model_name": name, "eval_results": results}
    head = ["---", str(ModelCardData(**fields)), "---", _WRITTEN, ""]
    return "\n".join([*head, *_about(net, name), *_table(net, reports), *_details(net), ""])


def _metrics(report: Accuracies) -> list[tuple[str, float]]:
    return [("task given", report.oracle), ("task found by the network", report.routed)]


def _about(net: Answering, name: str) -> Iterator[str]:
    routed, tasks = net.learned.routing is not None, net.tasks
    yield f"# {name}\n"
    yield f"A network that has learned {len(tasks)} tasks one after another by Eidetic Learning. No earlier"
    yield "task changes by one bit when another is learned on top, and"
    yield "no task id is needed to answer." if routed else "a task has to be named to answer."
    yield "\n```python\nfrom eideticnet import EideticNetwork\n"
    yield f'net = EideticNetwork.from_pretrained("{name}")'
    if tasks:
        call = "net.names(net(x))" if routed else f"net.task_logits(x, {tasks[0].name!r})"
        yield f"{call}  # x (N, {', '.join(map(str, net.inputs.shape))}), raw"
    yield "```\n"


def _table(net: Answering, reports: Mapping[str, Accuracies]) -> Iterator[str]:
    digests, sources = net.digests(), _recorded(net, _sources)
    yield "| task | classes | task given | task found | data | digest |\n|---|---|---|---|---|---|"
    for task in net.tasks:
        found = [f"{value:.4f}" for _, value in _metrics(reports[task.name])] if task.name in reports else []
        cells = [task.name, ", ".join(task.classes), *(found or ["not measured"] * 2)]
        cells += [sources.get(task.name, ""), digests[task.label][:16]]
        yield "| " + " | ".join(escape(cell, quote=False).replace("|", "\\|") for cell in cells) + " |"
    yield "\nAccuracies are means over a task's classes on held-out data. A digest is the SHA-256 of all that"
    yield "a task's logits depend on.\n"


def _details(net: Answering) -> Iterator[str]:
    inputs, learned = net.inputs, net.learned
    yield f"* **Input**: {inputs.dtype} of shape {tuple(inputs.shape)}, from {inputs.low} to {inputs.high}."
    if net.tasks:
        yield f"* **Cost**: {net.capacity().arithmetic}."
    if learned.routing is not None:
        yield f"* **Router**: {learned.routing.router}, decision {learned.routing.decision}."
    if kept := sum(len(task.memory.y) for task in learned.tasks if task.memory is not None):
        yield f"* **Holds training examples**: {kept}, kept for routers to come."
    if learned.moments is not None:
        yield "* **Holds sums** of random features of the training data, for routers to come."


def _sources(net: Answering) -> dict[str, str]:
    """Where the data of a run's tasks came from, by task and without folders of the machine it was on."""
    tasks = net.metadata.get("config", {}).get("tasks", ())
    return {t["name"]: unlocated(d) if TARGET.fullmatch(d := t["data"]) else Path(d).name for t in tasks}


def _known(net: Answering) -> dict[str, Accuracies]:
    """The accuracies that a run has recorded, unless the network has learned something since."""
    if net.metadata.get("measured", now := net.state()) != now:
        return {}
    return {
        name: SimpleNamespace(oracle=float(report["oracle"]), routed=float(report["routed"]))
        for name, report in net.metadata.get("report", {}).items()
    }


def _recorded(net: Answering, read: Callable[[Answering], dict[str, Found]]) -> dict[str, Found]:
    """What a run has left in ``net.metadata``; nothing where somebody keeps other things there."""
    try:
        return read(net)
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _checked(net: Answering, reports: Mapping[str, Accuracies]) -> Mapping[str, Accuracies]:
    """``reports`` as they were given; ``DataError`` if they are none."""
    expected("reports", reports, Mapping)
    for name, report in reports.items():
        net.task(name)
        if not all(isinstance(getattr(report, key, None), float) for key in ("oracle", "routed")):
            raise DataError(f"reports: {name!r} has {report!r}; give what `evaluate` returns")
    return reports


@contextmanager
def _hub(what: str) -> Iterator[Any]:
    """The library, whose errors become one of ours, in a line."""
    try:
        import huggingface_hub as hub  # late: it takes a while, and only the Hub needs it
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its client's
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise MissingExtraError(f"{what} without huggingface_hub: pip install 'eideticnet[hub]'") from None
    try:
        yield hub
    except (HTTPError, OSError, ValueError) as error:  # a bad name is a ValueError
        said = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{what}: {said}") from error
