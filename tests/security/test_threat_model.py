"""Every line of docs/threat-model.md names a test that exists, or says why a threat is accepted."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lines():
    rows = [r for r in (ROOT / "docs/threat-model.md").read_text().splitlines() if r.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1:]]


def functions(path):
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("cells", lines(), ids=lambda cells: cells[0][:40])
def test_a_line_has_a_test_that_exists_or_a_reason_to_accept_it(cells):
    threat, defence, test = cells
    assert threat
    assert defence
    if test == "accepted":
        assert re.search(r"accepted[^:]*: .{20}", defence), "no reason is given"
        return
    path, _, name = test.strip("`").partition("::")
    assert name in functions(ROOT / path)


def test_every_test_of_security_is_in_the_page():
    page = (ROOT / "docs/threat-model.md").read_text()
    beside = {"test_threat_model.py"}
    for path in Path(__file__).parent.glob("test_*.py"):
        source = ast.parse(path.read_text())
        tests = [n for n in source.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
        quick = [t.name for t in tests if not any("slow" in ast.unparse(d) for d in t.decorator_list)]
        if path.name not in beside:
            assert [name for name in quick if f"{path.name}::{name}`" not in page] == []


def test_every_dependency_has_one_pinned_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[<>=!~\[; ]", each)[0].lower().replace("_", "-") for each in wanted}
    pinned = (ROOT / "requirements/constraints.txt").read_text().lower().replace("_", "-")
    found = re.findall(r"^([a-z0-9.-]+)==[^\s*]+$", pinned, re.MULTILINE)
    assert names - set(found) <= {"onnxruntime-gpu"}
    assert len(found) == len(set(found))
