"""`mallowspo experiment NAME`: the paper's studies, one command each; their options live in `NAME.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mallowspo.cli.experiment.bandit import BanditOptions, bandit
from mallowspo.cli.experiment.controllable import ControllableOptions, controllable
from mallowspo.cli.experiment.dialogue import DialogueOptions, dialogue
from mallowspo.cli.experiment.efficiency import EfficiencyOptions, efficiency
from mallowspo.cli.experiment.estimator import EstimatorOptions, estimator
from mallowspo.cli.experiment.noise import NoiseOptions, noise
from mallowspo.cli.experiment.world import WorldOptions, world

__all__ = ["EXPERIMENTS"]

EXPERIMENTS: Mapping[str, tuple[type, Callable[[Any], None]]] = {
    "controllable": (ControllableOptions, controllable),
    "bandit": (BanditOptions, bandit),
    "dialogue": (DialogueOptions, dialogue),
    "efficiency": (EfficiencyOptions, efficiency),
    "estimator": (EstimatorOptions, estimator),
    "noise": (NoiseOptions, noise),
    "world": (WorldOptions, world),
}
