"""The bandit study: does MallowsPO mitigate reward collapse, at the exact minimiser and as people train?

Softmax policies over a few arms, a uniform reference, pairs judged by people whose rankings follow a Mallows model:
all that a policy does can be computed exactly. DPO, IPO, MallowsPO-θ and MallowsPO-φ with the true and with an
estimated φ, on one state and on many states of different φ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mallowspo.studies.bandit.bench import BanditDesign, run_exact_job, run_training_job
from mallowspo.studies.bandit.page import figures, page
from mallowspo.studies.bandit.summary import summarise
from mallowspo.studies.policies import only
from mallowspo.studies.study import Stage, Study

__all__ = ["BANDIT", "BanditSettings"]


@dataclass(frozen=True, kw_only=True)
class BanditSettings:
    """A run of the study."""

    output_dir: str = "output/bandit"  # folder for everything that is written
    workers: int = 0  # processes side by side; 0 works in the calling one. It changes no result
    design: BanditDesign = field(default_factory=BanditDesign)


_FAST = BanditDesign(
    single_phis=(0.3,),
    many_phis=(0.2, 0.5, 0.8),
    seeds=12,
    training_seeds=8,
    pairs=(16, 256),
    training_pairs=(16,),
    strengths=(0.2, 0.6),
    learning_rates=(0.2,),
    training_single_phis=(0.3,),
    steps=(2, 8, 32),
)
"""Every part of the study within seconds; it resolves nothing."""

BANDIT: Study[BanditSettings] = Study(
    name="bandit",
    version=1,
    stages=(
        Stage(
            "exact",
            "Exact minimisers",
            jobs=lambda settings, done: settings.design.exact_jobs,
            setup=lambda settings, done: only(
                settings.design, "arms", "first_seed", "strengths", "seeds", "votes", "betas"
            ),
            work=run_exact_job,
        ),
        Stage(
            "training",
            "Training step by step",
            jobs=lambda settings, done: settings.design.training_jobs,
            setup=lambda settings, done: only(
                settings.design, "arms", "first_seed", "strengths", "training_seeds", "batch_size", "steps"
            ),
            work=run_training_job,
        ),
    ),
    summarise=lambda settings, done: summarise(settings.design, done["exact"], done["training"]),
    figures=figures,
    page=page,
    presets={
        "default": lambda folder: BanditSettings(output_dir=folder),
        "fast": lambda folder: BanditSettings(output_dir=folder, design=_FAST),
    },
    imports=("mallowspo.objectives",),
)
"""The declaration; `mallowspo experiment bandit` runs it."""
