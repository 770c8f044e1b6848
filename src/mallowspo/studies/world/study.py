"""The study `world`, of which the quick start is a preset: does it help to know how much people agree?

In small generated languages whose truth is known, DPO, IPO and MallowsPO with estimated and with true index train from
one reference through `MallowsPOTrainer`, at every β and learning rate, and are measured exactly: against each other
at equal KL, at the settings that selection prompts choose, and against the best that any policy could do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mallowspo.errors import InputError
from mallowspo.files import write_text
from mallowspo.studies.policies import Grid, Job, check_grid
from mallowspo.studies.study import Done, Results, Study
from mallowspo.studies.world.bench import WorldSetup, open_world, pairs_of_seed, run_job, world_folder
from mallowspo.studies.world.page import figures, page
from mallowspo.studies.world.stages import WORLDS, runs_stage
from mallowspo.studies.world.summary import summarise
from mallowspo.world.reference import ReferenceTraining

__all__ = ["QUICKSTART_METHODS", "WORLD", "WORLD_METHODS", "WorldSettings"]

WORLD_METHODS = ("dpo", "ipo", "mallows_theta", "mallows_phi", "mallows_theta_true", "mallows_phi_true")
QUICKSTART_METHODS = ("dpo", "mallows_theta", "mallows_phi", "mallows_theta_true")


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """The settings of the study."""

    output_dir: str = "output/world"  # folder for everything that is written; the references lie in it
    setup: WorldSetup = field(default_factory=WorldSetup)
    # One set of pairs and one order of training each, the same for all methods; by default a world each
    seeds: tuple[int, ...] = tuple(range(5, 17))
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


def _runs(settings: WorldSettings, done: Done) -> Sequence[Job]:
    return settings.grid.jobs


def _finish(settings: WorldSettings, folder: Path, results: Results) -> None:
    """Write the first seed's pairs as text, the layout that `mallowspo train` and `trl dpo` read."""
    seed = settings.seeds[0]
    bench = open_world(settings.setup, settings.setup.world_of(seed), folder)
    lines = []
    for pair in pairs_of_seed(bench, seed):
        prompt = bench.world.train[pair.prompt]
        sides = {"chosen": f" {prompt.candidates[pair.chosen]}", "rejected": f" {prompt.candidates[pair.rejected]}"}
        lines.append(json.dumps({"prompt": prompt.text, **sides}, ensure_ascii=False))
    write_text(folder / "preferences.jsonl", "\n".join(lines) + "\n")
    for world in map(settings.setup.world_of, settings.seeds):
        with contextlib.suppress(OSError):
            # The trainer makes it and, as nothing is saved, leaves it empty.
            (world_folder(folder, world) / "runs").rmdir()


def _default(output_dir: str) -> WorldSettings:
    return WorldSettings(output_dir=output_dir)


def _fast(output_dir: str) -> WorldSettings:
    """Every part of the study within seconds; it resolves nothing."""
    reference = ReferenceTraining(steps=60)
    setup = WorldSetup(train_prompts=96, selection_prompts=24, heldout_prompts=30, reference=reference)
    return WorldSettings(output_dir=output_dir, setup=setup, seeds=(1, 2), betas=(0.5, 2.0), learning_rates=(8e-4,))


def _quickstart(output_dir: str) -> WorldSettings:
    """One world, five sets of pairs, about four minutes on two cores."""
    setup = WorldSetup(world_seed=0, train_prompts=456, selection_prompts=0, epochs=2, examples=True)
    return WorldSettings(
        output_dir=output_dir,
        setup=setup,
        seeds=(0, 1, 2, 3, 4),
        methods=QUICKSTART_METHODS,
        betas=(0.5, 1.0, 2.0, 4.0),
        learning_rates=(2e-4, 4e-4),
        workers=2,
    )


def _quickstart_fast(output_dir: str) -> WorldSettings:
    setup = WorldSetup(
        world_seed=0,
        train_prompts=120,
        selection_prompts=0,
        heldout_prompts=30,
        examples=True,
        reference=ReferenceTraining(steps=60),
    )
    return WorldSettings(
        output_dir=output_dir,
        setup=setup,
        seeds=(0,),
        methods=QUICKSTART_METHODS,
        betas=(0.5, 2.0),
        learning_rates=(4e-4,),
    )


WORLD: Study[WorldSettings] = Study(
    name="world",
    version=1,
    stages=(WORLDS, runs_stage(_runs, run_job)),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={
        "default": _default,
        "fast": _fast,
        "quickstart": _quickstart,
        "quickstart_fast": _quickstart_fast,
    },
    finish=_finish,
)
"""The declaration; `mallowspo experiment world` and `mallowspo quickstart` run it."""
