"""`mallowspo experiment noise`: what flipped labels do to each method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mallowspo.cli.experiment.shared import run_and_tell

__all__ = ["noise"]


def noise(
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="Where everything goes; the same folder goes on.")
    ] = Path("output/noise"),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Worlds, each with its own pairs and flips [default: 6; with --fast 2].")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that train side by side; changes no result.")] = 0,
    fast: Annotated[bool, typer.Option(help="A run of seconds that shows every part and resolves nothing.")] = False,
) -> None:
    """Compare DPO, cDPO, IPO and MallowsPO with 0 to 40% of the labels flipped, in small worlds of known truth."""
    from dataclasses import replace

    from mallowspo.studies.noise.study import NOISE

    settings = replace(NOISE.presets["fast" if fast else "default"](str(output_dir)), workers=workers)
    if seeds is not None:
        settings = replace(settings, seeds=tuple(range(settings.seeds[0], settings.seeds[0] + seeds)))
    run_and_tell("experiment noise", NOISE, settings)
