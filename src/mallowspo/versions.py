"""The version of this project, and those of what the numbers of a run depend on, for its record."""

from __future__ import annotations

import platform
from importlib.metadata import version

__all__ = ["__version__", "library_versions"]

__version__ = "0.2.0"  # the one place: the package is built with it, and a test holds CITATION.cff to it

_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy", "scipy")


def library_versions() -> dict[str, str]:
    """Versions of Python, this project and the libraries that numbers depend on."""
    own = {"python": platform.python_version(), "mallowspo": __version__}
    return own | {name: version(name) for name in _PACKAGES}
