"""The studies: what each one asks is a declaration, how it runs is `mallowspo.studies.study`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["STUDIES"]


def _loader(module: str, name: str) -> Callable[[], Any]:
    """A study is imported when it is asked for: training libraries are heavy."""
    return lambda: getattr(importlib.import_module(module), name)


STUDIES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "bandit": _loader("mallowspo.studies.bandit.study", "BANDIT"),
        "controllable": _loader("mallowspo.studies.controllable.study", "CONTROLLABLE"),
        "dialogue": _loader("mallowspo.studies.dialogue.study", "DIALOGUE"),
        "efficiency": _loader("mallowspo.studies.efficiency.study", "EFFICIENCY"),
        "estimator": _loader("mallowspo.studies.estimator.study", "ESTIMATOR"),
        "noise": _loader("mallowspo.studies.noise.study", "NOISE"),
        "world": _loader("mallowspo.studies.world.study", "WORLD"),
    }
)
"""Name on the command line → its declaration."""
