"""`mallowspo experiment world`: the quick start's comparison in full, over worlds, methods and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mallowspo.cli.experiment.shared import read_numbers, run_and_tell

__all__ = ["world"]


def world(
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="Where everything goes; the same folder goes on.")
    ] = Path("output/world"),
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Worlds, each with its own reference and pairs [default: 12; with --fast 2]."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods with commas between them, dpo among them [default: all six].")
    ] = None,
    betas: Annotated[
        str | None, typer.Option(help="Values of beta with commas between them [default: 0.25,0.5,1,2,4].")
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option("--learning_rates", help="Peak learning rates, likewise [default: 2e-4,4e-4,8e-4]."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that train side by side; changes no result.")] = 0,
    fast: Annotated[bool, typer.Option(help="A run of seconds that shows every part and resolves nothing.")] = False,
) -> None:
    """Compare DPO, IPO and MallowsPO with estimated and true index in many small worlds, against the exact optimum."""
    from dataclasses import replace
    from typing import Any

    from mallowspo.studies.world.study import WORLD

    base = WORLD.presets["fast" if fast else "default"](str(output_dir))
    given: dict[str, Any] = {"workers": workers}
    if seeds is not None:
        given["seeds"] = tuple(range(base.seeds[0], base.seeds[0] + seeds))
    if methods is not None:
        given["methods"] = tuple(name.strip() for name in methods.split(","))
    for name, text in (("betas", betas), ("learning_rates", learning_rates)):
        if text is not None:
            given[name] = read_numbers(name, text)
    run_and_tell("experiment world", WORLD, replace(base, **given))
