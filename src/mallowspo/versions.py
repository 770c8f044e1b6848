"""Versions of what the numbers of a run depend on, for its record."""

from __future__ import annotations

import platform
from importlib.metadata import version

__all__ = ["library_versions"]

_PACKAGES = ("mallowspo", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy", "scipy")


def library_versions() -> dict[str, str]:
    """Versions of Python, this project and the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
