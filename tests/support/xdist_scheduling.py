"""Which tests run in one process of pytest-xdist, and which begin first."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadFileScheduling

_SHARED = {
    "servers": {"serving": ["client", "grpc", "open_inference", "openapi", "payloads", "served"]},
    "servers to harm": {"faults": ["clients", "fuzz", "processes"]},
    "archives of networks with a past": {
        "export": [
            *("command_line", "delta", "dishonest", "hostile_pages"),
            *("older_and_stranger", "releases", "routing_check", "verify"),
        ],
    },
    "networks of the zoo": {
        "eideticnet": ["arithmetic", "disturbances", "every_layer", "life", "values"],
        "export": ["layouts"],
    },
}
TOGETHER = {
    f"tests/{folder}/test_{name}.py": what
    for what, folders in _SHARED.items()
    for folder, names in folders.items()
    for name in names
}
_LONG = {
    "serving": ["ray_cluster", "client", "demo_page", "supervisor", "deploy", "desired", "ray_engine"],
    "security": ["edge", "signatures"],
    "faults": ["files", "clients"],
    "": ["wheel", "make_serve", "examples"],
    "eideticnet": ["values", "command_line", "seeding", "loaders", "operations"],
    "export": ["pages", "command_line", "formats_agree", "precisions", "archive"],
    "loadtest": ["loadtest"],
}
_BEGIN = [f"{folder}/test_{name}.py".lstrip("/") for folder, names in _LONG.items() for name in names]


def begins(path: Path) -> int:
    """The place of a file among those that are run: the long ones first, since all would wait for one that
    is begun last."""
    names = [name for name in _BEGIN if path.match(f"tests/{name}")]
    return _BEGIN.index(names[0]) if names else len(_BEGIN)


class Together(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file stay in one process, and so do files that share servers or networks.

    pytest-xdist's own ``loadgroup`` writes groups into test ids, which pytest 9 does not let it.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)
