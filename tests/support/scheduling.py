"""Which tests run in one process of pytest-xdist."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

_SERVING = ("client", "grpc", "open_inference", "openapi", "payloads", "served")
TOGETHER = {f"tests/serving/test_{name}.py": "the servers of tests/serving" for name in _SERVING}
FIRST = ("test_make_serve.py", "test_readme.py")
"""Long tests of one process: begun last, the others would wait for them."""


class TogetherByServer(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file stay in one process, and so do files that share a server.

    pytest-xdist's own ``loadgroup`` writes groups into test ids, which pytest 9 does not let it.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return TOGETHER.get(file, file.rpartition("/")[0] if "/faults/" in file else file)
