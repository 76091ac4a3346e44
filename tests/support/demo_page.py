"""The page of ``eidetic demo`` in a process of its own, and a real browser that uses it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.example_counts import ALL
from tests.support.served_process import ROOT
from tests.support.waiting import PATIENCE, until

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("HYPOTHESIS_PROFILE") != ALL,
    reason="no Chromium here (apt install chromium); where HYPOTHESIS_PROFILE is all this is a failure",
)
_CODE = """
import sys
from eideticnet.__main__ import main

def note(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        print("connects to", arguments[1][0], file=sys.stderr, flush=True)
    if event == "socket.getaddrinfo":
        print("looks up", arguments[0], file=sys.stderr, flush=True)

sys.addaudithook(note)
main()
"""
STROKES = {
    "0": [[(0.5, 0.2), (0.32, 0.35), (0.32, 0.65), (0.5, 0.8), (0.68, 0.65), (0.68, 0.35), (0.5, 0.2)]],
    "1": [[(0.38, 0.3), (0.52, 0.18), (0.52, 0.82)]],
    "4": [[(0.55, 0.18), (0.28, 0.6), (0.75, 0.6)], [(0.6, 0.4), (0.6, 0.85)]],
}
"""Digits as a person draws them, (x, y) from 0 to 1."""


class DemoPage:
    """``eidetic demo`` with ``arguments``, which has told its ``address``. A context manager."""

    def __init__(self, log: Path, *arguments: Any, env: dict[str, str] | None = None) -> None:
        self._log = log
        with log.open("w") as file:
            command = [sys.executable, "-c", _CODE, "demo", *map(str, arguments)]
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, **(env or {})}
            )
        until(lambda: "open http" in self.output() or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise AssertionError(self.output())
        self.address = address_in(self.output())

    def output(self) -> str:
        return self._log.read_text()

    def reached(self) -> set[str]:
        """The hosts that the process has connected to, or asked the addresses of."""
        return set(re.findall(r"(?:connects to|looks up) (\S+)", self.output()))

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> DemoPage:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def address_in(output: str) -> str:
    """The page's address in what its command has told."""
    (found,) = re.findall(r"^open (http://127\.0\.0\.1:\d+/\S+/) in a browser", output, re.MULTILINE)
    return str(found)


class Browsing:
    """A tab of a real browser with the page in it: what it asks for, is told and complains of."""

    def __init__(self, tab: Any, address: str) -> None:
        self.tab, self.hosts, self.complaints, self.finished = tab, set[str](), list[str](), list[Any]()
        tab.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        tab.on("requestfinished", lambda request: self.finished.append(request))
        tab.set_default_timeout(1000 * PATIENCE)
        tab.goto(address)
        tab.get_by_text("Live", exact=True).wait_for()

    def draw(self, digit: str) -> None:
        """With the mouse, into the empty field."""
        field = self.tab.locator("canvas")
        self.tab.get_by_role("button", name="Clear the field").click()
        box = field.bounding_box()
        for stroke in STROKES[digit]:
            points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
            self.tab.mouse.move(*points[0])
            self.tab.mouse.down()
            for point in points[1:]:
                self.tab.mouse.move(*point, steps=5)
            self.tab.mouse.up()

    def choose(self, label: str, option: str) -> None:
        """Open the list whose label begins so, and click on an option."""
        self.tab.get_by_label(re.compile(rf"^{label}( |$)")).click()
        self.tab.get_by_role("option", name=option).click()

    def upload(self, path: Path) -> None:
        """Into the field for files, in the place of what was there."""
        clear = self.tab.get_by_role("tabpanel").get_by_role("button", name=re.compile("Clear|Remove"))
        if clear.count():
            clear.first.click()
            self.says("No file is chosen.")
        self.tab.locator("input[type=file]").first.set_input_files(path)

    def says(self, text: str) -> None:
        """Wait until the answer has it."""
        self.tab.locator("#answer").get_by_text(text).first.wait_for()

    def answer(self) -> str:
        return str(self.tab.locator("#answer").inner_text())


@contextmanager
def browsing(address: str, **options: Any) -> Iterator[Browsing]:
    """A browser of its own at ``address``; its sandbox is off, since tests may run as root."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no Chromium here: apt install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield Browsing(browser.new_page(**options), address)
        finally:
            browser.close()
