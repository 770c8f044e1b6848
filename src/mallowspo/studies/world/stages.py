"""The stages of every study in the embedded worlds: one reference per world, then the policies of each seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from mallowspo.studies.policies import Job
from mallowspo.studies.study import Done, Results, Stage
from mallowspo.studies.world.bench import (
    Bench,
    WorldJob,
    WorldSetup,
    describe_world,
    make_world,
    open_world,
    world_folder,
)

__all__ = ["WORLDS", "runs_stage"]


class _Settings(Protocol):
    @property
    def setup(self) -> WorldSetup: ...

    @property
    def seeds(self) -> tuple[int, ...]: ...


def _setup(settings: _Settings, done: Done) -> WorldSetup:
    return settings.setup


def _worlds(settings: _Settings, done: Done) -> Sequence[WorldJob]:
    return [WorldJob(world) for world in dict.fromkeys(map(settings.setup.world_of, settings.seeds))]


def _world(job: WorldJob) -> int:
    return job.world


def _reference(setup: WorldSetup, job: WorldJob, folder: Path) -> Sequence[Path]:
    return [world_folder(folder, job.world) / "reference.json"]


def _open(setup: WorldSetup, job: Job, folder: Path) -> Bench:
    return open_world(setup, setup.world_of(job.seed), folder)


def _seed(job: Job) -> int:
    return job.seed


WORLDS: Stage[Any] = Stage(
    "worlds",
    "Training the references",
    jobs=_worlds,
    setup=_setup,
    bench=make_world,
    shares=_world,
    work=describe_world,
    files=_reference,
)


def runs_stage(jobs: Callable[[Any, Done], Sequence[Any]], work: Callable[[Any, Any], Results]) -> Stage[Any]:
    """The stage that trains policies, in the world of each job's seed."""
    return Stage("runs", "Training the policies", jobs=jobs, setup=_setup, bench=_open, shares=_seed, work=work)
