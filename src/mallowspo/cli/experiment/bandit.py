"""`mallowspo experiment bandit`: reward collapse where everything can be computed exactly, and the paper's bandit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mallowspo.cli.experiment.shared import StudyOptions, preset_settings, run_and_tell
from mallowspo.cli.options import option
from mallowspo.errors import InputError

__all__ = ["BanditOptions", "bandit"]


@dataclass(frozen=True, kw_only=True)
class BanditOptions(StudyOptions):
    """Compare DPO, IPO and MallowsPO on bandits whose people are known: what do they gain, do they collapse?"""

    output_dir: Path = option("Where report.html and results.json go.", Path("output/bandit"), group="The study")
    preset: str | None = option(
        "Settings under a name: default, fast; paper, the paper's own bandit, and paper_fast.", None, shown="default"
    )
    seeds: int | None = option(
        "Data sets at the exact minimiser.", None, shown="200; with paper, sets of 16 pairs drawn anew: 500", low=2
    )
    training_seeds: int | None = option("Data sets that are trained on.", None, shown="120", low=2)
    seed: int = option("The first seed; the others follow it.", 0, low=0)
    arms: int | None = option("Arms of every state, 3 to 6.", None, shown="5")
    phi: tuple[float, ...] = option(
        "Dispersion of a study with one state; give it once for each.", (), shown="0.3, 0.5, 0.8"
    )
    pairs: tuple[int, ...] = option(
        "Pairs of a state at the exact minimiser; give it once for each.", (), shown="16, 64, 256, 1024"
    )


def bandit(options: BanditOptions) -> None:
    """Run the study."""
    from mallowspo.studies.bandit.bench import BanditDesign
    from mallowspo.studies.bandit.study import BANDIT

    base = preset_settings(options, BANDIT)
    given: dict[str, Any] = {
        "seeds": options.seeds,
        "training_seeds": options.training_seeds,
        "arms": options.arms,
        "phi": options.phi or None,
        "pairs": options.pairs or None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not isinstance(base.design, BanditDesign):
        changes = {{"seeds": "sets"}.get(name, name): value for name, value in changes.items()}
        for name in changes.keys() - {"sets"}:
            raise InputError(f"{name}: the preset {options.preset} takes it from the paper; leave it out")
    elif phis := changes.pop("phi", ()):
        if not all(0 < value < 1 for value in phis):
            raise InputError(f"phi: got {', '.join(f'{value:g}' for value in phis)}, expected numbers in (0, 1)")
        # The training runs follow, where they would train on a dispersion that is no longer there.
        kept = tuple(value for value in base.design.training_single_phis if value in phis)
        changes |= {"single_phis": phis, "training_single_phis": kept or phis[:2]}
    changes["first_seed"] = options.seed
    settings = replace(base, workers=options.workers, design=replace(base.design, **changes))
    run_and_tell("experiment bandit", BANDIT, settings)
