"""`mallowspo experiment noise`: what flipped labels do to each method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mallowspo.cli.experiment.shared import OUTPUT_DIR, StudyOptions, preset_settings, run_and_tell
from mallowspo.cli.options import option

__all__ = ["NoiseOptions", "noise"]


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(StudyOptions):
    """Compare DPO, cDPO, IPO and MallowsPO with 0 to 40% of the labels flipped, in small worlds of known truth."""

    output_dir: Path = option(OUTPUT_DIR, Path("output/noise"), group="The study")
    seeds: int | None = option("Worlds, each with its own pairs and flips.", None, shown="6; with --fast 2", low=1)


def noise(options: NoiseOptions) -> None:
    """Run the study."""
    from mallowspo.studies.noise.study import NOISE

    base = preset_settings(options, NOISE)
    settings = replace(base, workers=options.workers)
    if options.seeds is not None:
        settings = replace(settings, seeds=tuple(range(settings.seeds[0], settings.seeds[0] + options.seeds)))
    run_and_tell("experiment noise", NOISE, settings)
