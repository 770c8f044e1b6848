"""`mallowspo quickstart`: the embedded world, four ways of training on it, one report."""

from __future__ import annotations

from pathlib import Path

import typer

from mallowspo.cli.experiment.shared import run_and_tell

__all__ = ["quickstart"]


def quickstart(
    output_dir: Path = typer.Option(
        Path("output/quickstart"), "--output_dir", help="Where report.html and results.json go."
    ),
    seeds: int = typer.Option(
        None,
        min=1,
        help="Sets of preference pairs drawn; more make the intervals narrower.",
        show_default="5, with --fast 1",
    ),
    workers: int = typer.Option(
        None, min=0, help="Processes that train side by side; changes no result.", show_default="2, with --fast 0"
    ),
    fast: bool = typer.Option(False, help="A run of seconds that shows every part and resolves nothing."),
) -> None:
    """Compare DPO, MallowsPO-theta and MallowsPO-phi on a generated language whose truth is known."""
    from dataclasses import replace

    from mallowspo.studies.world.study import WORLD

    settings = WORLD.presets["quickstart_fast" if fast else "quickstart"](str(output_dir))
    if seeds is not None:
        settings = replace(settings, seeds=tuple(range(seeds)))
    if workers is not None:
        settings = replace(settings, workers=workers)
    run_and_tell("quickstart", WORLD, settings)
