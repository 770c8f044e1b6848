"""`mallowspo experiment bandit`: reward collapse where everything can be computed exactly."""

from __future__ import annotations

from pathlib import Path

import typer

from mallowspo.cli.experiment.shared import run_and_tell

__all__ = ["bandit"]


def bandit(
    output_dir: Path = typer.Option(
        Path("output/bandit"), "--output_dir", help="Where report.html and results.json go."
    ),
    seeds: int = typer.Option(None, min=2, help="Data sets at the exact minimiser.", show_default="200"),
    training_seeds: int = typer.Option(
        None, "--training_seeds", min=2, help="Data sets that are trained on.", show_default="120"
    ),
    seed: int = typer.Option(0, min=0, help="The first seed; the others follow it."),
    arms: int = typer.Option(5, help="Arms of every state, 3 to 6."),
    phi: list[float] = typer.Option(
        None, help="Dispersion of a study with one state; give it once for each.", show_default="0.3, 0.5, 0.8"
    ),
    pairs: list[int] = typer.Option(
        None, help="Pairs of a state at the exact minimiser; give it once for each.", show_default="16, 64, 256, 1024"
    ),
    workers: int = typer.Option(0, min=0, help="Processes side by side; changes no result."),
    fast: bool = typer.Option(False, help="A run of seconds that shows every part and resolves nothing."),
) -> None:
    """Compare DPO, IPO and MallowsPO on bandits whose people are known: do they collapse, and when?"""
    from dataclasses import replace
    from typing import Any

    from mallowspo.errors import InputError
    from mallowspo.studies.bandit.study import BANDIT

    base = BANDIT.presets["fast" if fast else "default"](str(output_dir))
    changes: dict[str, Any] = {"first_seed": seed, "arms": arms}
    changes |= {name: value for name, value in (("seeds", seeds), ("training_seeds", training_seeds)) if value}
    if phi:
        if not all(0 < value < 1 for value in phi):
            raise InputError(f"phi: got {', '.join(f'{value:g}' for value in phi)}, expected numbers in (0, 1)")
        # The training runs follow, where they would train on a dispersion that is no longer there.
        kept = tuple(value for value in base.design.training_single_phis if value in phi)
        changes |= {"single_phis": tuple(phi), "training_single_phis": kept or tuple(phi[:2])}
    if pairs:
        changes["pairs"] = tuple(pairs)
    settings = replace(base, workers=workers, design=replace(base.design, **changes))
    run_and_tell("experiment bandit", BANDIT, settings)
