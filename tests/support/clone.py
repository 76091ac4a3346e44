"""The project itself: its files, and the folder of each package."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = dict(sorted(PROJECT["tool"]["setuptools"]["package-dir"].items(), reverse=True))
"""By package, the parts of one before itself."""


def tracked() -> list[str]:
    """The names of the project's files, new ones too."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in names if (ROOT / name).is_file()]
