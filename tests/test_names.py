"""Modules, files, functions and classes that docstrings and documents name are there."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
CODE = [name for name in FILES if name.endswith(".py") and not name.startswith("tests/")]
PAGES = [name for name in FILES if name.endswith(".md") and name != "CHANGELOG.md"]
FOLDERS = {"eideticnet.client": "serving/client", "eidetic_runtime": "handlers/eidetic_runtime"}
FOLDERS |= {
    f"eideticnet.{part}": part for part in ("export", "serving", "loadtest", "handlers", "experiments")
}
OURS = ("eideticnet", "eidetic_runtime", "benchmarks", "experiments")
QUOTED = re.compile(r"(?<!`)(?:``([^`\n]+)``|`([^`\n]+)`)(?!`)")


@cache
def syntax(name):
    return ast.parse((ROOT / name).read_text())


@cache
def classes():
    """Of each class its own names, and its bases."""
    found = {}
    for name in CODE:
        for node in ast.walk(syntax(name)):
            if isinstance(node, ast.ClassDef):
                held, bases = found.setdefault(node.name, (set(), set()))
                bases |= {ast.unparse(base).split("[")[0].rpartition(".")[2] for base in node.bases}
                for part in ast.walk(node):
                    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                        held.add(part.name)
                    elif isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Store):
                        held.add(part.id if isinstance(part, ast.Name) else part.attr)
    return found


def has(owner, name):
    """Whether a class has it; one with a base that is not ours may have anything."""
    if owner not in classes():
        return True
    held, bases = classes()[owner]
    inherited = bases - {"Protocol", "NamedTuple", "ABC", "object"}
    return name in held or any(has(base, name) for base in inherited)


def module_file(dotted):
    """The file of a module or package by its dotted name; None if there is none."""
    package = max((p for p in FOLDERS if f"{dotted}.".startswith(f"{p}.")), key=len, default="")
    path = (FOLDERS.get(package, "") + dotted.removeprefix(package).replace(".", "/")).strip("/")
    return next((f for f in (f"{path}.py", f"{path}/__init__.py", f"{path}/__main__.py") if f in FILES), None)


def defined(name):
    """The names that a module defines or imports."""
    found = set()
    for node in ast.walk(syntax(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found | {value.value for value in ast.walk(syntax(name)) if isinstance(value, ast.Constant)}


def is_there(word):
    """Whether a quoted word, if it names a piece of this project, names one that is there."""
    if re.fullmatch(r"[\w./-]*\w\.py", word):
        known = (name for name in FILES if f"/{name}".endswith(f"/{word}"))
        return any(known) or module_file(word.removesuffix(".py").replace("/", ".")) is not None
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(\(\))?", word):
        return True
    owner, _, name = word.removesuffix("()").rpartition(".")
    if word.split(".")[0] not in OURS:
        return has(owner, name) if owner in classes() else True
    if module_file(f"{owner}.{name}") or (ROOT / f"{owner}.{name}".replace(".", "/")).is_dir():
        return True
    file = module_file(owner)
    if file is None:  # an attribute of a class of a module
        module, _, owner = owner.rpartition(".")
        return module_file(module) is not None and has(owner, name)
    return name in defined(file)


def texts(name):
    if name.endswith(".md"):
        text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
        return [text]
    strings = (node.value for node in ast.walk(syntax(name)) if isinstance(node, ast.Expr))
    return [s.value for s in strings if isinstance(s, ast.Constant) and isinstance(s.value, str)]


@pytest.mark.parametrize("name", [*PAGES, *sorted({name.partition("/")[0] for name in CODE})])
def test_what_docstrings_and_documents_name_is_there(name):
    files = [name] if name in PAGES else [file for file in CODE if file.startswith(name)]
    words = {(file, a or b) for file in files for text in texts(file) for a, b in QUOTED.findall(text)}
    assert [(file, word) for file, word in sorted(words) if not is_there(word)] == []


@pytest.mark.parametrize(
    "word",
    [
        "eideticnet.pulse",
        "eideticnet.files.write_half",
        "serving/judgement.py",
        "Rows.shuffle",
        "benchmarks.x",
    ],
)
def test_a_name_that_is_gone_is_found(word):
    assert not is_there(word)
