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
from mallowspo.studies.estimator.page import figures, page
from mallowspo.studies.estimator.paper import paper_check
from mallowspo.studies.estimator.people import PeopleJob, PeopleSettings, compare, open_model, people_jobs
from mallowspo.studies.estimator.references import WorldJob, WorldSettings, run_world_job
from mallowspo.studies.estimator.summary import (
    JudgeJob,
    JudgeSetup,
    downstream_summary,
    judge,
    stress_summary,
    survival,
)
from mallowspo.studies.estimator.training import DownstreamSettings, run_downstream_job
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

    # Folder for everything that is written; the same folder goes on where a run stopped
    output_dir: str = "output/estimator"
    # One world each. Seed 0 is left out: the indexes were designed on it
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    # Names in `mallowspo.world.conditions.CONDITIONS`, `a+b` for two at once
    conditions: tuple[str, ...] = (*CONDITIONS, *COMBINATIONS)
    world: WorldSettings = field(default_factory=lambda: WorldSettings(reference=_REFERENCE))  # world and reference
    # Training prompts on which people vote, for the map `isotonic` and for choosing among indexes
    voted_prompts: int = 50
    members: int = 5  # votes a pair
    alternatives: int = 5  # N, told to the maps and the panels; a world has 5 answers a prompt
    paper_sizes: tuple[int, ...] = (3, 4, 5, 6, 7, 8, 9, 10)  # numbers of items of the paper's check
    # Where θ is trained with the indexes; empty to leave that out
    downstream_conditions: tuple[str, ...] = ("contested_longer", "style_agreed")
    # How it is trained
    downstream: DownstreamSettings = field(
        default_factory=lambda: DownstreamSettings(world=WorldSettings(reference=_REFERENCE))
    )
    downstream_seeds: tuple[int, ...] | None = None  # under which seeds; all where None
    # Folder or name of a causal language model whose indexes are held against people; None to leave that out
    model: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)  # name of a data set → file of votes, for `model`
    trust_remote_code: bool = False  # run code that comes with `model`
    workers: int = 0  # processes that train side by side; 0 trains in the calling process. It changes no result

    def __post_init__(self) -> None:
        for name in ("seeds", "conditions", "paper_sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name}: got {values}, expected at least one value and none twice")
        for name in (*self.conditions, *self.downstream_conditions):
            condition_named(name)
        if not all(2 <= size <= 12 for size in self.paper_sizes):
            raise InputError(f"paper_sizes: got {self.paper_sizes}, expected numbers of items from 2 to 12")
        if not 2 <= self.voted_prompts <= self.world.scored_train_prompts:
            raise InputError(
                f"voted_prompts: got {self.voted_prompts}, expected 2 to {self.world.scored_train_prompts}, the "
                "training prompts that are scored"
            )
        if self.members < 1:
            raise InputError(f"members: got {self.members}, expected at least 1 vote a pair")
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


def _people_jobs(settings: EstimatorSettings, done: Done) -> Sequence[PeopleJob]:
    return people_jobs(settings.data)


def _people(settings: EstimatorSettings, done: Done) -> PeopleSettings:
    return PeopleSettings(model=settings.model or "", trust_remote_code=settings.trust_remote_code)


def _references(settings: EstimatorSettings, done: Done) -> Sequence[WorldJob]:
    return settings.jobs


def _world(settings: EstimatorSettings, done: Done) -> WorldSettings:
    return settings.world


def _readings(settings: EstimatorSettings, done: Done) -> Sequence[JudgeJob]:
    return [
        JudgeJob(condition=job.condition, seed=job.seed, reading=reading)
        for job, reading in zip(settings.jobs, done["references"], strict=True)
    ]


def _judge(settings: EstimatorSettings, done: Done) -> JudgeSetup:
    return JudgeSetup(
        world=settings.world,
        alternatives=settings.alternatives,
        voted_prompts=settings.voted_prompts,
        members=settings.members,
    )


def _trained(settings: EstimatorSettings, done: Done) -> Sequence[WorldJob]:
    return settings.downstream_jobs


def _training(settings: EstimatorSettings, done: Done) -> DownstreamSettings:
    return settings.downstream


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


def _default(output_dir: str) -> EstimatorSettings:
    return EstimatorSettings(output_dir=output_dir)


def _fast(output_dir: str) -> EstimatorSettings:
    """Every part within seconds, on two conditions and one seed; it resolves nothing, nor asks people."""
    world = WorldSettings(
        train_prompts=96,
        heldout_prompts=24,
        scored_train_prompts=24,
        samples=8,
        reference=ReferenceTraining(hidden_size=32, layers=1, steps=80, prompts_per_step=24),
    )
    return EstimatorSettings(
        output_dir=output_dir,
        seeds=(1,),
        conditions=("mixed_length", "style_agreed"),
        world=world,
        voted_prompts=12,
        paper_sizes=(3, 5),
        downstream_conditions=("mixed_length",),
        downstream=DownstreamSettings(world=world, betas=(0.5, 4.0), epochs=1),
    )


ESTIMATOR: Study[EstimatorSettings] = Study(
    name="estimator",
    version=1,
    stages=(
        # People first: a model or a file that cannot be used is found out before an hour of training, not after it.
        Stage("people", "Comparing with people", _people_jobs, _people, compare, bench=open_model, parallel=False),
        Stage("references", "Training references", _references, _world, run_world_job),
        Stage("judged", "Judging the indexes", _readings, _judge, judge),
        Stage("policies", "Training policies", _trained, _training, run_downstream_job),
    ),
    summarise=_summarise,
    figures=figures,
    page=page,
    presets={"default": _default, "fast": _fast},
)
"""The declaration; `mallowspo experiment estimator` runs it."""
