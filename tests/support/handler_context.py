"""What TorchServe's context offers to a handler, for one batch, as far as this handler uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HTTP = {"Host": "here", "explain": "False"}


class Context:
    """``headers`` are those of each request, as TorchServe's worker makes them of HTTP's and the parts'."""

    def __init__(self, folder: Path, headers: Sequence[dict[str, Any]] = ()) -> None:
        self.system_properties = {"model_dir": str(folder)}
        self.model_yaml_config = {"handler": {"threads": 1}}
        self.headers = headers
        self.statuses = [200] * len(headers)
        self.response_headers: list[dict[str, str]] = [{} for _ in headers]

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self.headers[idx]

    def get_request_id(self, idx: int) -> str:
        return f"server-{idx}"

    def get_request_header(self, idx: int, key: str) -> Any:
        return self.headers[idx].get(key)

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.statuses[idx] = code

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.response_headers[idx][key] = value

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)
