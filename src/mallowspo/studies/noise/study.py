"""The study `noise`: what flipped labels do to each method, in the embedded worlds where the truth is known.

A share of the pairs, drawn evenly, has its labels exchanged, as careless annotators do. A weight that rises where
people agree also rises where a flipped label does most harm; a smoothed label expects flips everywhere. Every method
sees the same pairs with the same flips, and more flips contain the fewer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mallowspo.errors import InputError
from mallowspo.studies.noise.page import figures, page
from mallowspo.studies.policies import Grid, Job, check_distinct, check_grid, compare_at_equal_kl, select_runs
from mallowspo.studies.study import Done, Results, Study
from mallowspo.studies.world.bench import WORLDS, Bench, WorldSetup, pairs_of_seed, run_job, runs_stage
from mallowspo.studies.world.summary import QUANTITIES
from mallowspo.world.population import PreferencePair
from mallowspo.world.reference import ReferenceTraining

__all__ = ["NOISE", "NOISE_METHODS", "NoiseSettings", "flip"]

NOISE_METHODS = ("dpo", "cdpo", "ipo", "mallows_theta", "mallows_phi")
_COMPARED = ("agreement", "agreement_agreed", "agreement_contested", "share_of_optimum")


@dataclass(frozen=True, kw_only=True)
class NoiseJob(Job):
    """A run on pairs of which a share is flipped."""

    flipped: float


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """The settings of the study."""

    output_dir: str = "output/noise"  # folder for everything that is written
    # What all runs share; nobody writes the corpus carelessly
    setup: WorldSetup = field(
        default_factory=lambda: WorldSetup(careless=0.0, pairs_per_prompt=4, pairs_drawn=4, batch_size=32)
    )
    seeds: tuple[int, ...] = (21, 22, 23, 24, 25, 26)  # a world, pairs and flips each, the same for all methods
    methods: tuple[str, ...] = NOISE_METHODS  # names in `NOISE_METHODS`; DPO, the baseline, among them
    flipped: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)  # shares of flipped labels, in [0, ½)
    betas: tuple[float, ...] = (0.25, 1.0, 4.0)
    learning_rate: float = 4e-4  # peak learning rate
    workers: int = 0  # processes that train side by side; 0 trains in the calling process. It changes no result

    def __post_init__(self) -> None:
        check_grid(self, NOISE_METHODS)
        check_distinct(self, "flipped")
        if not all(0 <= share < 0.5 for share in self.flipped):
            raise InputError(f"flipped: got {self.flipped}, expected shares in [0, 0.5)")

    @property
    def grid(self) -> Grid:
        """What every method is trained at, at each share of flips."""
        return Grid(seeds=self.seeds, methods=self.methods, betas=self.betas, learning_rate=self.learning_rate)


def flip(pairs: Sequence[PreferencePair], share: float, seed: int) -> list[PreferencePair]:
    """Exchange chosen and rejected in a share of the pairs; a larger share flips all that a smaller one does."""
    drawn = np.random.default_rng([seed, 41]).random(len(pairs))
    return [
        PreferencePair(pair.prompt, pair.rejected, pair.chosen) if one < share else pair
        for pair, one in zip(pairs, drawn, strict=True)
    ]


def _run(bench: Bench, job: NoiseJob) -> Results:
    return run_job(bench, job, flip(pairs_of_seed(bench, job.seed), job.flipped, job.seed))


def _summarise(settings: NoiseSettings, done: Done) -> Results:
    """Differences from DPO at equal KL for each share of flips, and what each method loses against no flips."""
    kept = ("seed", "method", "beta", "flipped", "agreement", "kl", "share_of_agreement")
    rows: list[dict[str, Any]] = []
    for share in settings.flipped:
        runs = select_runs(done["runs"], flipped=share)
        compared = {name: QUANTITIES[name] for name in _COMPARED}
        found = compare_at_equal_kl(settings.grid, runs, compared)
        rows += [row | {"flipped": share} for row in found]
    return {
        "comparisons": rows,
        "cpu_seconds": float(sum(run["cpu_seconds"] for run in done["runs"])),
        "runs": [{key: run[key] for key in kept} for run in done["runs"]],
    }


_FAST = WorldSetup(
    train_prompts=96, heldout_prompts=30, careless=0.0, pairs_per_prompt=2, pairs_drawn=2, batch_size=32,
    reference=ReferenceTraining(steps=60),
)  # fmt: skip

NOISE: Study[NoiseSettings] = Study(
    name="noise",
    version=1,
    stages=(
        WORLDS,
        runs_stage(
            lambda settings, done: [
                NoiseJob(**vars(job), flipped=share) for job in settings.grid.jobs for share in settings.flipped
            ],
            _run,
        ),
    ),
    summarise=_summarise,
    figures=figures,
    page=page,
    presets={
        "default": lambda folder: NoiseSettings(output_dir=folder),
        # Every part within seconds; it resolves nothing.
        "fast": lambda folder: NoiseSettings(
            output_dir=folder, setup=_FAST, seeds=(1, 2), flipped=(0.0, 0.4), betas=(0.5, 2.0), learning_rate=8e-4
        ),
    },
)
"""The declaration; `mallowspo experiment noise` runs it."""
