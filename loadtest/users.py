"""Locust users: what one client sends, and what it accepts as an answer."""

from __future__ import annotations

import json
import os
import random
from typing import Any

from locust import FastHttpUser, constant, events, task

from loadtest.objectives import Measured, Objectives


class JsonUser(FastHttpUser):
    """Sends one instance after another as JSON, each different, and checks every answer."""

    wait_time = constant(0)
    network_timeout = 30.0
    connection_timeout = 30.0

    def on_start(self) -> None:
        """Read where to send, and an example whose values are shuffled into new requests."""
        self.path = f"/predictions/{os.environ['EIDETIC_MODEL']}"
        self.headers = {
            "Authorization": f"Bearer {os.environ['EIDETIC_KEY']}",
            "Content-Type": "application/json",
        }
        self.example: list[Any] = json.loads(os.environ["EIDETIC_REQUEST"])["data"]

    @task
    def predict(self) -> None:
        """One request; an answer without a label or with another status is a failure."""
        body = json.dumps({"data": random.sample(self.example, len(self.example))})
        with self.client.post(self.path, data=body, headers=self.headers, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {response.text}")
            elif not _is_answer(response.text):
                response.failure(f"no answer: {response.text}")


def _is_answer(text: str | None) -> bool:
    try:
        answer = json.loads(text or "")
    except ValueError:
        return False
    probability = answer.get("label_probability")
    return isinstance(answer.get("label"), str) and isinstance(probability, float) and 0 <= probability <= 1


def fail_when_missed(environment: Any, **_: Any) -> None:
    """Make locust's exit status 1, and say why, when an objective was missed."""
    wanted = Objectives(**json.loads(os.environ["EIDETIC_OBJECTIVES"]))
    total = environment.stats.total
    percentile = total.get_response_time_percentile
    measured = Measured(total.num_requests, total.num_failures, percentile(0.5) or 0, percentile(0.99) or 0)
    missed = wanted.missed(measured)
    for line in missed:
        print(f"objective missed: {line}")
    if not missed:
        print(f"all objectives met: {measured}")
    environment.process_exit_code = 1 if missed else 0


events.quitting.add_listener(fail_when_missed)
