"""The locust file: users of each kind, the shape of the load, and every request written down."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import grpc.experimental.gevent  # type: ignore[import-not-found]
import numpy as np
from locust import FastHttpUser, LoadTestShape, User, constant, events, task

from eideticnet.client import GrpcClient
from eideticnet.loadtest.objectives import read_plan
from eideticnet.loadtest.payloads import Checked, RequestMaker
from eideticnet.loadtest.shapes import users_at
from eideticnet.serving.errors import ServingError
from eideticnet.serving.key import Key

grpc.experimental.gevent.init_gevent()
PLAN = read_plan(Path(os.environ["EIDETIC_PLAN"]))
INPUTS, MODEL = RequestMaker.from_environment(), os.environ["EIDETIC_MODEL"]
KEYS = Path(os.environ["EIDETIC_KEYS"])
_SECONDS = 30.0


class Planned(LoadTestShape):
    """The plan's shape, which locust asks every second."""

    def tick(self) -> tuple[int, float] | None:
        count = users_at(PLAN.shape, self.get_run_time(), PLAN.users, PLAN.seconds)  # type: ignore[no-untyped-call]
        return None if count is None else (count, float(PLAN.users))


class HttpUser(FastHttpUser):
    """Sends one instance after another, each different, and checks every answer."""

    abstract = True
    wait_time = constant(0)
    network_timeout = connection_timeout = _SECONDS
    kind, content_type = "", ""

    def on_start(self) -> None:
        """Each user makes inputs of its own."""
        self.rng, self.checked = np.random.default_rng(), Checked()
        self.headers = {"Authorization": Key(KEYS).header(), "Content-Type": self.content_type}

    @task
    def predict(self) -> None:
        """One request; another status, or an answer that can't be right, is a failure."""
        body = self.checked.again() or getattr(INPUTS, self.kind)(self.rng)
        options: dict[str, Any] = {"headers": self.headers, "name": self.kind, "catch_response": True}
        with self.client.post(f"/predictions/{MODEL}", data=body, **options) as response:
            answer = _json(response.text)
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {response.text}")
            elif problem := self.checked.problem(body, answer):
                response.failure(problem)
            else:
                response.request_meta["context"]["version"] = answer["model_version"]


class JsonUser(HttpUser):
    """JSON, as from a shell."""

    abstract, weight = "json" not in PLAN.kinds, PLAN.kinds.get("json", 1)
    kind, content_type = "json", "application/json"


class RawUser(HttpUser):
    """Raw numbers, little-endian."""

    abstract, weight = "raw" not in PLAN.kinds, PLAN.kinds.get("raw", 1)
    kind, content_type = "raw", "application/octet-stream"


class ImageUser(HttpUser):
    """PNG files."""

    abstract, weight = "image" not in PLAN.kinds, PLAN.kinds.get("image", 1)
    kind, content_type = "image", "image/png"


class GrpcUser(User):
    """Raw numbers over gRPC, by our own client without retries."""

    abstract, weight = "grpc" not in PLAN.kinds, PLAN.kinds.get("grpc", 1)
    wait_time = constant(0)

    def on_start(self) -> None:
        self.rng, self.checked = np.random.default_rng(), Checked()
        self.grpc = GrpcClient(os.environ["EIDETIC_GRPC"], KEYS, timeout=_SECONDS)

    def on_stop(self) -> None:
        self.grpc.close()

    @task
    def predict(self) -> None:
        """As ``HttpUser.predict``."""
        body = self.checked.again() or INPUTS.raw(self.rng)
        failure: Exception | None = None
        context: dict[str, str] = {}
        started, clock = time.time(), time.perf_counter()
        try:
            (answer,) = self.grpc.predict(MODEL, body, content_type="application/octet-stream")
            told = vars(answer)
            context["version"] = answer.model_version
            if problem := self.checked.problem(body, told):
                failure = ValueError(problem)
        except ServingError as error:
            failure = error
        self.environment.events.request.fire(
            request_type="gRPC",
            name="grpc",
            start_time=started,
            response_time=(time.perf_counter() - clock) * 1000,
            response_length=0,
            exception=failure,
            context=context,
        )


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        return None


class Log:
    """Every request as a line of ``samples.csv``: when it began (Unix time), how long it took."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(("started", "kind", "ms", "version", "failure"))
        self._file.flush()

    def write(
        self, name: str, response_time: float, exception: Any, start_time: float, context: Any, **_: Any
    ) -> None:
        version = (context or {}).get("version", "")
        failure = "" if exception is None else str(exception)[:300]
        self._rows.writerow((f"{start_time:.6f}", name, f"{response_time:.3f}", version, failure))

    def close(self, **_: Any) -> None:
        self._file.close()


LOG = Log(Path(os.environ["EIDETIC_SAMPLES"]))
events.request.add_listener(LOG.write)
events.quit.add_listener(LOG.close)
