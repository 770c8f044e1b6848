"""`mallowspo experiment world`: the quick start's comparison in full, over worlds, methods and settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mallowspo.cli.experiment.shared import (
    OUTPUT_DIR,
    StudyOptions,
    preset_settings,
    read_names,
    read_numbers,
    run_and_tell,
)
from mallowspo.cli.options import option

__all__ = ["WorldOptions", "world"]


@dataclass(frozen=True, kw_only=True)
class WorldOptions(StudyOptions):
    """Compare DPO, IPO and MallowsPO with estimated and true index in many small worlds, against the exact optimum."""

    output_dir: Path = option(OUTPUT_DIR, Path("output/world"), group="The study")
    preset: str | None = option(
        "Settings under a name: default, fast; quickstart and quickstart_fast, as `mallowspo quickstart` runs.",
        None,
        shown="default",
    )
    seeds: int | None = option(
        "Worlds, each with its own reference and pairs.", None, shown="12; with --fast 2", low=1
    )
    methods: str | None = option(
        "Methods with commas between them, dpo among them.", None, shown="all six", commas=True
    )
    betas: str | None = option("Values of beta with commas between them.", None, shown="0.25,0.5,1,2,4", commas=True)
    learning_rates: str | None = option("Peak learning rates, likewise.", None, shown="2e-4,4e-4,8e-4", commas=True)


def world(options: WorldOptions) -> None:
    """Run the study."""
    from mallowspo.studies.world.study import WORLD

    base = preset_settings(options, WORLD)
    given: dict[str, Any] = {"workers": options.workers}
    if options.seeds is not None:
        given["seeds"] = tuple(range(base.seeds[0], base.seeds[0] + options.seeds))
    if options.methods is not None:
        given["methods"] = read_names(options.methods)
    for name, text in (("betas", options.betas), ("learning_rates", options.learning_rates)):
        if text is not None:
            given[name] = read_numbers(name, text)
    run_and_tell("experiment world", WORLD, replace(base, **given))
