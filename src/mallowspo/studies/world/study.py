"""The study `world`, of which the quick start is a preset: does it help to know how much people agree?

In small generated languages whose truth is known, DPO, IPO and MallowsPO train from one reference through
`MallowsPOTrainer` and are measured exactly by two yardsticks: how near their answers are to the consensus, and how
often a random person agrees with them. Methods are compared at equal KL. The parts of the study vary the number of
pairs, the power of the weight and where the index comes from; each can be run without the others.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from mallowspo.errors import InputError
from mallowspo.files import write_lines
from mallowspo.studies.policies import BASELINE, check_grid, check_known, check_positive
from mallowspo.studies.study import Results, Stage, Study
from mallowspo.studies.world.bench import (
    PARTS,
    WORLDS,
    PolicyJob,
    WorldSetup,
    open_world,
    pairs_of_seed,
    run_policy,
    runs_stage,
    world_folder,
)
from mallowspo.studies.world.page import figures, page
from mallowspo.studies.world.summary import summarise
from mallowspo.world.reference import ReferenceTraining

__all__ = ["QUICKSTART_METHODS", "WORLD", "WORLD_METHODS", "WorldSettings"]

WORLD_METHODS = tuple(dict.fromkeys(method for methods in PARTS.values() for method in methods))
QUICKSTART_METHODS = (BASELINE, "mallows_theta", "theta_true_50", "mallows_theta_true")

# IPO's β is in other units, those of agreement: its target for a pair is a gap of 1/(2β) nats.
_IPO_BETA = 1 / 4


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """The settings of the study.

    The learning rate and the range of β were fixed on plain DPO in world 100, which no preset uses
    (docs/experiments/world/learning_rate.py).
    """

    output_dir: str = "output/world"  # folder for everything that is written; the references lie in it
    setup: WorldSetup = field(default_factory=WorldSetup)
    seeds: tuple[int, ...] = tuple(range(31, 43))  # one set of pairs each, the same for all methods
    parts: tuple[str, ...] = tuple(PARTS)  # names in `PARTS`, `comparison` among them
    methods: tuple[str, ...] = WORLD_METHODS  # names in `WORLD_METHODS`, of which each part trains its own
    pairs: tuple[int, ...] = (2, 4, 8, 16, 32)  # of the part `pairs`: pairs a prompt beside those of the setup
    betas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)  # IPO's are a quarter of these
    learning_rate: float = 3e-4  # peak learning rate of the preference training
    workers: int = 0  # processes that train side by side; 0 trains in the calling process. It changes no result

    def __post_init__(self) -> None:
        check_grid(self, WORLD_METHODS)
        check_positive(self, "learning_rate")
        if len(self.betas) < 2:
            raise InputError(f"betas: got {self.betas}; a comparison at equal KL needs at least 2 values")
        check_known(self, "parts", PARTS)
        if "comparison" not in self.parts:
            raise InputError(
                f"parts: got {', '.join(self.parts)}; every part is read beside comparison, so give it too"
            )
        if "pairs" in self.parts:
            check_positive(self, "pairs")
            for pairs in self.pairs:
                if not 1 <= pairs <= self.setup.pairs_drawn or pairs == self.setup.pairs_per_prompt:
                    raise InputError(
                        f"pairs: got {pairs}, expected 1 to {self.setup.pairs_drawn} and not "
                        f"{self.setup.pairs_per_prompt}, which the comparison has"
                    )

    def betas_of(self, method: str) -> tuple[float, ...]:
        """The values of β that a method is trained at."""
        return tuple(beta * _IPO_BETA for beta in self.betas) if method == "ipo_sum" else self.betas

    def jobs_of(self, part: str) -> list[PolicyJob]:
        """The runs of a part, world by world; of `pairs` the fewest pairs first."""
        if part not in self.parts:
            return []
        return [
            PolicyJob(seed=seed, method=method, beta=beta, learning_rate=self.learning_rate, pairs=pairs)
            for pairs in (self.pairs if part == "pairs" else (self.setup.pairs_per_prompt,))
            for seed in self.seeds
            for method in PARTS[part]
            if method in self.methods
            for beta in self.betas_of(method)
        ]


def _stage(part: str, title: str) -> Stage[WorldSettings]:
    return runs_stage(lambda settings, done: settings.jobs_of(part), run_policy, part, title)


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
    write_lines(folder / "preferences.jsonl", rows)
    for world in map(settings.setup.world_of, settings.seeds):
        with contextlib.suppress(OSError):
            # The trainer makes it and, as nothing is saved, leaves it empty.
            (world_folder(folder, world) / "runs").rmdir()


_FAST = WorldSetup(
    train_prompts=96, heldout_prompts=30, pairs_per_prompt=2, pairs_drawn=3, batch_size=32,
    reference=ReferenceTraining(steps=60), voted_prompts=24, voted_pairs=1,
)  # fmt: skip

WORLD: Study[WorldSettings] = Study(
    name="world",
    version=2,
    stages=(
        WORLDS,
        _stage("comparison", "Training the policies"),
        _stage("pairs", "With fewer and more pairs"),
        _stage("rho", "With tempered weights"),
        _stage("estimates", "With other estimates"),
        _stage("phi", "With the other link"),
    ),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={
        "default": lambda folder: WorldSettings(output_dir=folder),
        # Every part within a minute; it resolves nothing.
        "fast": lambda folder: WorldSettings(
            output_dir=folder,
            setup=_FAST,
            seeds=(1, 2),
            pairs=(3,),
            betas=(0.5, 2.0),
            learning_rate=8e-4,
            methods=(BASELINE, "theta_best", "mallows_theta_true", "theta_true_25", "theta_best_shrunk"),
        ),  # fmt: skip
        # Five worlds, within four minutes on two cores.
        "quickstart": lambda folder: WorldSettings(
            output_dir=folder,
            setup=WorldSetup(pairs_drawn=12, examples=True),
            seeds=(0, 1, 2, 3, 4),
            parts=("comparison",),
            methods=QUICKSTART_METHODS,
            betas=(1.0, 2.0, 4.0),
            workers=2,
        ),
        "quickstart_fast": lambda folder: WorldSettings(
            output_dir=folder,
            setup=replace(_FAST, train_prompts=120, examples=True),
            seeds=(0,),
            parts=("comparison",),
            methods=QUICKSTART_METHODS,
            betas=(0.5, 2.0),
            learning_rate=8e-4,
        ),
    },
    finish=_finish,
)
"""The declaration; `mallowspo experiment world` and `mallowspo quickstart` run it."""
