"""The property test can fail: on copies of the code that break the guarantee, it does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.example_counts import ALL

ROOT = Path(__file__).parents[2]
HERE = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
import eideticnet
assert eideticnet.__file__.startswith(__file__.removesuffix("conftest.py"))
"""
"""The package is the copy, and not the one that is installed here from its sources."""
# After each hidden layer, what the last block computed is mixed into what the earlier ones did: recycled
# neurons feed frozen ones.
RESISTANCE = [
    (
        "learned.py",
        "        return tuple(o for o in self.blocks if o in needed)",
        "        return tuple(self.blocks)",
    ),
    (
        "block.py",
        "        for name in names:\n            if name not in keep:\n",
        "        *earlier, last = pieces.values()\n"
        "        if step.rule == 'linear' and step.name in last and step.name != HEAD:\n"
        "            for own in earlier:\n"
        "                own[step.name] = own[step.name] + last[step.name].mean()\n"
        "        for name in names:\n            if name not in keep:\n",
    ),
]
PERSISTENCE = [("block.py", "tensor.detach().clone()", "tensor.detach()")]
EVALUATION = [
    ("block.py", "super().train(mode and not self.frozen)", "super().train(mode)"),
    ("block.py", "if self.frozen and any(", "if False and any("),
]


@pytest.mark.parametrize(
    "edits",
    [RESISTANCE, *(pytest.param(edits, marks=pytest.mark.slow) for edits in (PERSISTENCE, EVALUATION))],
    ids=["new neurons feed frozen ones", "frozen weights are not new tensors", "frozen norms wake up"],
)
def test_the_property_test_fails_on_code_that_breaks_the_guarantee(edits, tmp_path):
    result = run_property_test(tmp_path, edits)
    assert result.returncode == 1, result.stdout[-2000:]
    assert "1 failed" in result.stdout
    assert "assert torch.equal(" in result.stdout or "DamagedError" in result.stdout, result.stdout[-2000:]


def run_property_test(folder: Path, edits: list[tuple[str, str, str]]) -> subprocess.CompletedProcess[str]:
    shutil.copytree(ROOT / "eideticnet", folder / "eideticnet")
    for file, old, new in edits:
        path = folder / "eideticnet" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has changed; adapt this test: {old!r}"
        path.write_text(text.replace(old, new))
    shutil.copytree(ROOT / "tests/support", folder / "tests/support")
    shutil.copy(ROOT / "tests/eideticnet/test_never_forgets.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(HERE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--show-capture=no",
        "-k",
        "never_change_by_one_bit",
    ]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": ALL}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
