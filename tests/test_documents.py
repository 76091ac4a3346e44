"""What the documents show is true: links lead somewhere, code runs, generated pages are those of the code."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {path.read_text() for path in (ROOT / "examples").rglob("*.*") if path.suffix in (".py", ".toml")}
"""Code that `test_examples.py` runs."""


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return [text for info, text in BLOCK.findall(page.read_text()) if info == language]


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    text = re.sub(BLOCK, "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if heading:
            assert heading in anchors(file), target
        if page.is_relative_to(ROOT / "docs"):
            assert file.resolve().is_relative_to(ROOT / "docs"), f"{target} is no page of the site"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_code_is_an_example_that_runs_or_is_marked(page):
    for info, text in BLOCK.findall(page.read_text()):
        language, _, mark = info.partition(" ")
        if language in ("python", "toml") and mark != "no-run":
            assert text in EXAMPLES, text
        assert mark in ("", "no-run")
        assert language in ("", "python", "toml", "sh", "json", "console", "bibtex"), info


def test_every_command_that_the_documents_show_is_there_with_its_options():
    from eideticnet.menu import command

    shown = [
        line
        for page in PAGES
        for language in ("sh", "sh no-run", "")
        for text in blocks(page, language)
        for line in text.splitlines()
        if line.startswith("eidetic ")
    ]
    assert len(shown) > 15
    for line in shown:
        _, name, *words = line.partition("  #")[0].split()
        known = {option for p in command(name).params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_generated_pages_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for name, text in reference.pages().items():
        assert (ROOT / "docs" / name).read_text() == text, f"docs/{name} is old; run make docs"


def test_the_site_is_built_without_a_warning(tmp_path):
    assert (ROOT / ".venv/types").exists(), "run `make types`, which make test does"
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    for page in sorted((ROOT / "docs").rglob("*.md")):
        place = page.relative_to(ROOT / "docs").with_suffix("")
        built = tmp_path / "site" / (place.parent if place.name == "index" else place) / "index.html"
        assert built.exists(), page


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_a_stranger_reads_it_in_minutes(page):
    assert len((ROOT / page).read_text().splitlines()) <= 150


def test_the_error_that_the_documents_show_is_what_the_handler_says():
    import json

    from eidetic_runtime.contract import Contract
    from eidetic_runtime.errors import BadRequest
    from eidetic_runtime.headers import read_headers
    from eidetic_runtime.requests import parse

    spec = {"shape": [64], "dtype": "float32", "low": 0, "high": 16}
    contract = Contract.of({"input": spec, "limits": {"max_instances": 1}, "tasks": []})
    with pytest.raises(BadRequest) as error:
        parse({"body": json.dumps({"data": [0] * 63}).encode()}, read_headers({}), contract)
    assert json.dumps(error.value.to_json()) in (ROOT / "docs/http.md").read_text()
