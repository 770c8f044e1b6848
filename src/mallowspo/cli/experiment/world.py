"""`mallowspo experiment world`: the quick start's comparison in full, over worlds, pairs, weights and estimates."""

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
    parts: str | None = option(
        "Parts with commas between them, comparison among them.", None,
        shown="comparison,pairs,rho,estimates,phi", commas=True,
    )  # fmt: skip
    pairs: str | None = option(
        "Numbers of pairs a prompt for the part pairs, beside the 12 of all others.", None, shown="2,4,8,16,32",
        commas=True,
    )  # fmt: skip
    methods: str | None = option(
        "Methods with commas between them, dpo among them.", None, shown="all of these parts", commas=True
    )
    betas: str | None = option("Values of beta with commas between them.", None, shown="0.5,1,2,4", commas=True)
    learning_rate: float | None = option("Peak learning rate.", None, shown="3e-4")


def world(options: WorldOptions) -> None:
    """Run the study."""
    from mallowspo.studies.world.page import headline
    from mallowspo.studies.world.study import WORLD

    base = preset_settings(options, WORLD)
    given: dict[str, Any] = {"workers": options.workers}
    if options.seeds is not None:
        given["seeds"] = tuple(range(base.seeds[0], base.seeds[0] + options.seeds))
    for name in ("parts", "methods"):
        if (text := getattr(options, name)) is not None:
            given[name] = read_names(text)
    if options.pairs is not None:
        given["pairs"] = tuple(map(int, read_numbers("pairs", options.pairs)))
    if options.betas is not None:
        given["betas"] = read_numbers("betas", options.betas)
    if options.learning_rate is not None:
        given["learning_rate"] = options.learning_rate
    run_and_tell("experiment world", WORLD, replace(base, **given), headline)
