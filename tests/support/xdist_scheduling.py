"""Which tests run in one process of pytest-xdist, and which begin first."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

_SHARED = {
    "servers": {"serving": ["client", "grpc", "open_inference", "openapi", "payloads", "served"]},
    "servers to harm": {"faults": ["clients", "fuzz", "processes"]},
    "networks of the zoo": {
        "eideticnet": ["disturbances", "every_layer", "life", "values"],
        "export": ["layouts"],
    },
}
TOGETHER = {
    f"tests/{folder}/test_{name}.py": what
    for what, folders in _SHARED.items()
    for folder, names in folders.items()
    for name in names
}
FIRST = ("test_make_serve.py", "test_readme.py")
"""Long tests of one process: begun last, the others would wait for them."""


class Together(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file stay in one process, and so do files that share servers or networks.

    pytest-xdist's own ``loadgroup`` writes groups into test ids, which pytest 9 does not let it.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)
