"""The study `world`, of which the quick start is a preset: does it help to know how much people agree?

In small generated languages whose truth is known, DPO, IPO and MallowsPO with estimated and with true index train from
one reference through `MallowsPOTrainer`, at every β and learning rate, and are measured exactly: against each other
at equal KL, at the settings that selection prompts choose, and against the best that any policy could do.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from mallowspo.errors import InputError
from mallowspo.studies.policies import Grid, check_grid, write_preferences
from mallowspo.studies.study import Results, Study
from mallowspo.studies.world.bench import (
    WORLDS,
    WorldSetup,
    open_world,
    pairs_of_seed,
    run_job,
    runs_stage,
    world_folder,
)
from mallowspo.studies.world.page import figures, page
from mallowspo.studies.world.summary import summarise
from mallowspo.world.reference import ReferenceTraining

__all__ = ["QUICKSTART_METHODS", "WORLD", "WORLD_METHODS", "WorldSettings"]

WORLD_METHODS = ("dpo", "ipo", "mallows_theta", "mallows_phi", "mallows_theta_true", "mallows_phi_true")
QUICKSTART_METHODS = ("dpo", "mallows_theta", "mallows_phi", "mallows_theta_true")


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """The settings of the study.

    Learning rates, epochs and the range of β were fixed on plain DPO in world 100, which no preset uses, so that DPO
    rises to its peak within them and falls behind it.
    """

    output_dir: str = "output/world"  # folder for everything that is written; the references lie in it
    setup: WorldSetup = field(default_factory=WorldSetup)
    seeds: tuple[int, ...] = tuple(range(5, 17))  # one set of pairs each, the same for all methods
    methods: tuple[str, ...] = WORLD_METHODS  # names in `WORLD_METHODS`; DPO, the baseline, among them
    betas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    learning_rates: tuple[float, ...] = (2e-4, 4e-4, 8e-4)  # peak learning rates of the preference training
    workers: int = 0  # processes that train side by side; 0 trains in the calling process. It changes no result

    def __post_init__(self) -> None:
        check_grid(self, WORLD_METHODS, names=("seeds", "betas", "learning_rates"))
        if len(self.betas) < 2:
            raise InputError(f"betas: got {self.betas}; a comparison at equal KL needs at least 2 values")

    @property
    def grid(self) -> Grid:
        """Every setting that a method is trained at."""
        return Grid(seeds=self.seeds, methods=self.methods, betas=self.betas, learning_rates=self.learning_rates)


def _finish(settings: WorldSettings, folder: Path, results: Results) -> None:
    """Leave the first seed's pairs."""
    seed = settings.seeds[0]
    bench = open_world(settings.setup, settings.setup.world_of(seed), folder)
    rows = [
        {"prompt": prompt.text}
        | {side: f" {prompt.candidates[getattr(pair, side)]}" for side in ("chosen", "rejected")}
        for pair in pairs_of_seed(bench, seed)
        for prompt in [bench.world.train[pair.prompt]]
    ]
    write_preferences(folder, rows)
    for world in map(settings.setup.world_of, settings.seeds):
        with contextlib.suppress(OSError):
            # The trainer makes it and, as nothing is saved, leaves it empty.
            (world_folder(folder, world) / "runs").rmdir()


_FAST = WorldSetup(train_prompts=96, selection_prompts=24, heldout_prompts=30, reference=ReferenceTraining(steps=60))
_QUICKSTART = WorldSetup(world_seed=0, train_prompts=456, selection_prompts=0, epochs=2, examples=True)

WORLD: Study[WorldSettings] = Study(
    name="world",
    version=1,
    stages=(WORLDS, runs_stage(lambda settings, done: settings.grid.jobs, run_job)),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={
        "default": lambda folder: WorldSettings(output_dir=folder),
        # Every part within seconds; it resolves nothing.
        "fast": lambda folder: WorldSettings(
            output_dir=folder, setup=_FAST, seeds=(1, 2), betas=(0.5, 2.0), learning_rates=(8e-4,)
        ),
        # One world, five sets of pairs, about four minutes on two cores.
        "quickstart": lambda folder: WorldSettings(
            output_dir=folder,
            setup=_QUICKSTART,
            seeds=(0, 1, 2, 3, 4),
            methods=QUICKSTART_METHODS,
            betas=(0.5, 1.0, 2.0, 4.0),
            learning_rates=(2e-4, 4e-4),
            workers=2,
        ),
        "quickstart_fast": lambda folder: WorldSettings(
            output_dir=folder,
            setup=replace(_FAST, world_seed=0, train_prompts=120, selection_prompts=0, examples=True),
            seeds=(0,),
            methods=QUICKSTART_METHODS,
            betas=(0.5, 2.0),
            learning_rates=(4e-4,),
        ),
    },
    finish=_finish,
)
"""The declaration; `mallowspo experiment world` and `mallowspo quickstart` run it."""
