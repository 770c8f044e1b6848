"""`mallowspo experiment bandit`: reward collapse where everything can be computed exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mallowspo.cli.experiment.shared import StudyOptions, run_and_tell
from mallowspo.cli.options import option
from mallowspo.errors import InputError

__all__ = ["BanditOptions", "bandit"]


@dataclass(frozen=True, kw_only=True)
class BanditOptions(StudyOptions):
    """Compare DPO, IPO and MallowsPO on bandits whose people are known: do they collapse, and when?"""

    output_dir: Path = option("Where report.html and results.json go.", Path("output/bandit"), group="The study")
    seeds: int | None = option("Data sets at the exact minimiser.", None, shown="200", low=2)
    training_seeds: int | None = option("Data sets that are trained on.", None, shown="120", low=2)
    seed: int = option("The first seed; the others follow it.", 0, low=0)
    arms: int = option("Arms of every state, 3 to 6.", 5)
    phi: tuple[float, ...] = option(
        "Dispersion of a study with one state; give it once for each.", (), shown="0.3, 0.5, 0.8"
    )
    pairs: tuple[int, ...] = option(
        "Pairs of a state at the exact minimiser; give it once for each.", (), shown="16, 64, 256, 1024"
    )


def bandit(options: BanditOptions) -> None:
    """Run the study."""
    from mallowspo.studies.bandit.study import BANDIT

    base = BANDIT.presets["fast" if options.fast else "default"](str(options.output_dir))
    changes: dict[str, Any] = {"first_seed": options.seed, "arms": options.arms}
    for name, value in (("seeds", options.seeds), ("training_seeds", options.training_seeds)):
        if value is not None:
            changes[name] = value
    if options.phi:
        if not all(0 < value < 1 for value in options.phi):
            raise InputError(
                f"phi: got {', '.join(f'{value:g}' for value in options.phi)}, expected numbers in (0, 1)"
            )
        # The training runs follow, where they would train on a dispersion that is no longer there.
        kept = tuple(value for value in base.design.training_single_phis if value in options.phi)
        changes |= {"single_phis": options.phi, "training_single_phis": kept or options.phi[:2]}
    if options.pairs:
        changes["pairs"] = options.pairs
    settings = replace(base, workers=options.workers, design=replace(base.design, **changes))
    run_and_tell("experiment bandit", BANDIT, settings)
