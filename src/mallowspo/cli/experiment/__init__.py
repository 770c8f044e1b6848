"""`mallowspo experiment NAME`: the paper's studies, one command each; their options live in `NAME.py`."""

from __future__ import annotations

import typer

from mallowspo.cli.experiment.bandit import bandit
from mallowspo.cli.experiment.controllable import controllable
from mallowspo.cli.experiment.dialogue import dialogue
from mallowspo.cli.experiment.estimator import estimator
from mallowspo.cli.experiment.noise import noise
from mallowspo.cli.experiment.world import world

__all__ = ["experiment"]

experiment = typer.Typer(
    name="experiment",
    help="Run one of the paper's studies: results.json, figures and a report.html, whichever way it goes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
experiment.command()(controllable)
experiment.command()(bandit)
experiment.command()(dialogue)
experiment.command()(estimator)
experiment.command()(noise)
experiment.command()(world)
