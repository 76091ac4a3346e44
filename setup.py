"""What pyproject.toml can't say: an editable install's finder looks before the path does.

A script beside a clone would take the clone's own folder, which has the package's name, for the package.
"""

from setuptools import setup
from setuptools.command import editable_wheel

editable_wheel._FINDER_TEMPLATE = editable_wheel._FINDER_TEMPLATE.replace(  # type: ignore[attr-defined]
    "sys.meta_path.append(_EditableFinder)", "sys.meta_path.insert(0, _EditableFinder)"
)
setup()
