"""Ray Serve as an engine: on this machine, or on a cluster of any size.

``serve run eideticnet.serving.ray:app`` needs nothing else of this package.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import Ray, which takes a second, only for who asks for the application."""
    if name != "app":
        raise AttributeError(name)
    from eideticnet.serving.ray.deployment import app

    return app
