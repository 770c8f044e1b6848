"""Is there an index that survives? Every index of the family under stress, and against people.

Four parts: the paper's check, which is exact; every index of many small references, each under a condition that
misleads some of them; what an index is worth in training; and, for a model that is given, people's votes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError
from mallowspo.studies.estimator.bench import (
    DownstreamSettings,
    WorldJob,
    WorldSettings,
    run_downstream_job,
    run_world_job,
)
from mallowspo.studies.estimator.page import figures, page
from mallowspo.studies.estimator.people import PeopleSettings, people_stages
from mallowspo.studies.estimator.summary import (
    JudgeJob,
    JudgeSetup,
    downstream_summary,
    judge,
    paper_check,
    stress_summary,
    survival,
)
from mallowspo.studies.policies import check_at_least, check_distinct
from mallowspo.studies.study import Done, Results, Stage, Study
from mallowspo.world.conditions import CONDITIONS, condition_named
from mallowspo.world.reference import ReferenceTraining

__all__ = ["COMBINATIONS", "ESTIMATOR", "EstimatorSettings"]

COMBINATIONS = (
    "style_agreed+prefix_contested",
    "style_agreed+shared_first_word",
    "rare_style_agreed+one_word",
    "style_agreed+contested_longer",
    "careless+style_agreed",
    "narrow_phi+style_agreed",
    "rare_style_agreed+prefix_contested",
)
"""Two conditions at once: those that mislead different indexes."""

# One layer and fewer steps than the quick start's reference: half the price, and as near to the population.
_REFERENCE = ReferenceTraining(layers=1, steps=250, prompts_per_step=24)


@dataclass(frozen=True, kw_only=True)
class EstimatorSettings:
    """The study's settings."""

    output_dir: str = "output/estimator"
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)  # one world each; the indexes were designed on seed 0
    conditions: tuple[str, ...] = (*CONDITIONS, *COMBINATIONS)  # `a+b` for two at once
    world: WorldSettings = field(default_factory=lambda: WorldSettings(reference=_REFERENCE))  # world and reference
    voted_prompts: int = 50  # training prompts on which people vote
    members: int = 5  # votes a pair
    alternatives: int = 5  # N, told to the maps and the panels; a world has 5 answers a prompt
    paper_sizes: tuple[int, ...] = (3, 4, 5, 6, 7, 8, 9, 10)  # numbers of items of the paper's check
    downstream_conditions: tuple[str, ...] = ("contested_longer", "style_agreed")  # where θ is trained
    downstream: DownstreamSettings = field(
        default_factory=lambda: DownstreamSettings(world=WorldSettings(reference=_REFERENCE))
    )
    downstream_seeds: tuple[int, ...] | None = None  # under which seeds; all where None
    model: str | None = None  # whose indexes are compared with people; None to leave that out
    data: Mapping[str, str] = field(default_factory=dict)  # name of a data set → file of votes, for `model`
    trust_remote_code: bool = False  # run code that comes with `model`
    workers: int = 0  # processes that train side by side; 0 trains in the calling process. It changes no result

    def __post_init__(self) -> None:
        check_distinct(self, "seeds", "conditions", "paper_sizes")
        for name in (*self.conditions, *self.downstream_conditions):
            condition_named(name)
        if not all(2 <= size <= 12 for size in self.paper_sizes):
            raise InputError(f"paper_sizes: got {self.paper_sizes}, expected numbers of items from 2 to 12")
        if not 2 <= self.voted_prompts <= self.world.scored_train_prompts:
            raise InputError(
                f"voted_prompts: got {self.voted_prompts}, expected 2 to {self.world.scored_train_prompts}, the "
                "training prompts that are scored"
            )
        check_at_least(self, members=1)
        if (self.model is None) != (not self.data):
            raise InputError("model and data: give both, to hold a model's indexes against people, or neither")

    @property
    def jobs(self) -> list[WorldJob]:
        """Every reference: single conditions first, then combinations, each seed after seed."""
        singles = [name for name in self.conditions if "+" not in name]
        pairs = [name for name in self.conditions if "+" in name]
        return [
            WorldJob(condition=name, seed=seed) for names in (singles, pairs) for seed in self.seeds for name in names
        ]

    @property
    def downstream_jobs(self) -> list[WorldJob]:
        """Every reference from which policies are trained."""
        seeds = self.seeds if self.downstream_seeds is None else self.downstream_seeds
        return [WorldJob(condition=name, seed=seed) for seed in seeds for name in self.downstream_conditions]


def _readings(settings: EstimatorSettings, done: Done) -> Sequence[JudgeJob]:
    return [
        JudgeJob(**vars(job), reading=reading) for job, reading in zip(settings.jobs, done["references"], strict=True)
    ]


def _judge(settings: EstimatorSettings, done: Done) -> JudgeSetup:
    voted, members = settings.voted_prompts, settings.members
    return JudgeSetup(world=settings.world, alternatives=settings.alternatives, voted_prompts=voted, members=members)


def _summarise(settings: EstimatorSettings, done: Done) -> Results:
    """Findings: `paper`, `stress`, `survival`, `downstream` and `people`, None where no model was given."""
    stress = stress_summary(settings.jobs, done["judged"])
    people: dict[str, Any] | None = None
    if settings.model is not None:
        people = {"model": Path(settings.model).name, "data": dict(zip(settings.data, done["people"], strict=True))}
    return {
        "paper": paper_check(settings.paper_sizes),
        "stress": stress,
        "survival": survival(stress),
        "downstream": downstream_summary(settings.downstream_jobs, done["policies"]),
        "people": people,
        "cpu_seconds": sum(result["seconds"] for result in (*done["references"], *done["policies"])),
    }


_FAST_WORLD = WorldSettings(
    train_prompts=96,
    heldout_prompts=24,
    scored_train_prompts=24,
    samples=8,
    reference=ReferenceTraining(hidden_size=32, layers=1, steps=80, prompts_per_step=24),
)

ESTIMATOR: Study[EstimatorSettings] = Study(
    name="estimator",
    version=1,
    stages=(
        # People first: a model or a file that cannot be used is found out before an hour of training, not after it.
        *people_stages(
            lambda settings, done: PeopleSettings(
                model=settings.model or "", trust_remote_code=settings.trust_remote_code
            )
        ),
        Stage(
            "references",
            "Training references",
            lambda settings, done: settings.jobs,
            lambda settings, done: settings.world,
            run_world_job,
        ),
        Stage("judged", "Judging the indexes", _readings, _judge, judge),
        Stage(
            "policies",
            "Training policies",
            lambda settings, done: settings.downstream_jobs,
            lambda settings, done: settings.downstream,
            run_downstream_job,
        ),
    ),
    summarise=_summarise,
    figures=figures,
    page=page,
    presets={
        "default": lambda folder: EstimatorSettings(output_dir=folder),
        # Every part within seconds, on two conditions and one seed; it resolves nothing, nor asks people.
        "fast": lambda folder: EstimatorSettings(
            output_dir=folder,
            seeds=(1,),
            conditions=("mixed_length", "style_agreed"),
            world=_FAST_WORLD,
            voted_prompts=12,
            paper_sizes=(3, 5),
            downstream_conditions=("mixed_length",),
            downstream=DownstreamSettings(world=_FAST_WORLD, betas=(0.5, 4.0), epochs=1),
        ),
    },
)
"""The declaration; `mallowspo experiment estimator` runs it."""
