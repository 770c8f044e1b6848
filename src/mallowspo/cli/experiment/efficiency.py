"""`mallowspo experiment efficiency`: how many of DPO's pairs is a weighted pair worth?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mallowspo.cli.experiment.shared import OUTPUT_DIR, StudyOptions, preset_settings, run_and_tell
from mallowspo.cli.options import option

__all__ = ["EfficiencyOptions", "efficiency"]


@dataclass(frozen=True, kw_only=True)
class EfficiencyOptions(StudyOptions):
    """Hold what weights are worth in pairs against G, where prompts share their parameters and the truth is known."""

    output_dir: Path = option(OUTPUT_DIR, Path("output/efficiency"), group="The study")
    repetitions: int | None = option("Data sets of each combination.", None, shown="40; with --fast 6", low=3)


def efficiency(options: EfficiencyOptions) -> None:
    """Run the study."""
    from mallowspo.studies.efficiency.study import EFFICIENCY

    settings = replace(preset_settings(options, EFFICIENCY), workers=options.workers)
    if options.repetitions is not None:
        settings = replace(settings, repetitions=options.repetitions)
    run_and_tell("experiment efficiency", EFFICIENCY, settings)
