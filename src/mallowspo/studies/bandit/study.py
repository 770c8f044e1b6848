"""The bandit study: does MallowsPO mitigate reward collapse, at the exact minimiser and as people train?

Softmax policies over a few arms, a uniform reference, pairs judged by people whose rankings follow a Mallows model:
all that a policy does can be computed exactly. DPO, IPO, MallowsPO-θ and MallowsPO-φ with the true and with an
estimated φ, on one state and on many states of different φ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mallowspo.studies.bandit.design import BanditDesign, ExactJob, TrainingJob
from mallowspo.studies.bandit.jobs import run_exact_job, run_training_job
from mallowspo.studies.bandit.page import figures, page
from mallowspo.studies.bandit.summary import summarise
from mallowspo.studies.study import Done, Results, Stage, Study

__all__ = ["BANDIT", "BanditSettings"]


@dataclass(frozen=True, kw_only=True)
class BanditSettings:
    """A run of the study."""

    output_dir: str = "output/bandit"  # folder for everything that is written
    workers: int = 0  # processes side by side; 0 works in the calling one. It changes no result
    design: BanditDesign = field(default_factory=BanditDesign)


def _exact_jobs(settings: BanditSettings, done: Done) -> Sequence[ExactJob]:
    return settings.design.exact_jobs


def _training_jobs(settings: BanditSettings, done: Done) -> Sequence[TrainingJob]:
    return settings.design.training_jobs


def _exact(settings: BanditSettings, done: Done) -> BanditDesign:
    return settings.design.only("arms", "first_seed", "strengths", "seeds", "votes", "betas")


def _training(settings: BanditSettings, done: Done) -> BanditDesign:
    return settings.design.only("arms", "first_seed", "strengths", "training_seeds", "batch_size", "steps")


def _summarise(settings: BanditSettings, done: Done) -> Results:
    return summarise(settings.design, done["exact"], done["training"])


def _default(output_dir: str) -> BanditSettings:
    return BanditSettings(output_dir=output_dir)


def _fast(output_dir: str) -> BanditSettings:
    """Every part of the study within seconds; it resolves nothing."""
    design = BanditDesign(
        single_phis=(0.3,),
        many_phis=(0.2, 0.5, 0.8),
        seeds=12,
        training_seeds=8,
        pairs=(16, 256),
        training_pairs=(16,),
        betas=(0.5, 1.0, 2.0),
        strengths=(0.2, 0.6),
        learning_rates=(0.2,),
        training_single_phis=(0.3,),
        steps=(2, 8, 32),
    )
    return BanditSettings(output_dir=output_dir, design=design)


BANDIT: Study[BanditSettings] = Study(
    name="bandit",
    version=1,
    stages=(
        Stage("exact", "Exact minimisers", jobs=_exact_jobs, setup=_exact, work=run_exact_job),
        Stage("training", "Training step by step", jobs=_training_jobs, setup=_training, work=run_training_job),
    ),
    summarise=_summarise,
    figures=figures,
    page=page,
    presets={"default": _default, "fast": _fast},
    imports=("mallowspo.objectives",),
)
"""The declaration; `mallowspo experiment bandit` runs it."""
