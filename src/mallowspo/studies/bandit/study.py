"""The bandit study: what does MallowsPO gain, and does it mitigate collapse, exactly minimised and as people train?

Softmax policies over a few arms, a uniform reference, pairs judged by people whose rankings follow a Mallows model:
all that a policy does can be computed exactly. DPO, IPO, MallowsPO-θ and MallowsPO-φ with the true and with an
estimated φ, on one state and on many states of different φ. The preset `paper` is the bandit of the paper itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mallowspo.studies.bandit import paper_page
from mallowspo.studies.bandit.bench import BanditDesign, run_exact_job, run_training_job
from mallowspo.studies.bandit.page import figures, page
from mallowspo.studies.bandit.paper import PaperDesign, run_as_written, run_redrawn, summarise_paper
from mallowspo.studies.bandit.summary import summarise
from mallowspo.studies.policies import only
from mallowspo.studies.study import Done, Results, Stage, Study

__all__ = ["BANDIT", "BanditSettings"]


@dataclass(frozen=True, kw_only=True)
class BanditSettings:
    """A run of the study."""

    output_dir: str = "output/bandit"  # folder for everything that is written
    workers: int = 0  # processes side by side; 0 works in the calling one. It changes no result
    design: BanditDesign | PaperDesign = field(default_factory=BanditDesign)  # the study's own bandits, or the paper's


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

_FAST_PAPER = PaperDesign(
    smoothings=(0.1,),
    steps=2_000,
    betas=(0.1, 0.5, 1.0),
    training_betas=(0.1, 1.0),
    sets=4,
    set_smoothings=(0.1,),
    set_betas=(0.1, 0.2, 0.5, 1.0),
    set_stride=1,
)


def _stage(
    name: str, title: str, kind: type, work: Callable[[Any, Any], Results], *read: str
) -> Stage[BanditSettings]:
    """A stage of one kind of design, which names its jobs as the stage; `read` are the fields that they depend on."""

    def design_of(settings: BanditSettings) -> Any:
        return settings.design if isinstance(settings.design, kind) else None

    def jobs(settings: BanditSettings, done: Done) -> Sequence[Any]:
        design = design_of(settings)
        return getattr(design, f"{name}_jobs") if design else ()

    return Stage(
        name,
        title,
        jobs=jobs,
        setup=lambda settings, done: only(design_of(settings) or kind(), *read),
        work=work,
    )


def _summarise(settings: BanditSettings, done: Done) -> Results:
    if isinstance(settings.design, PaperDesign):
        return summarise_paper(settings.design, done["paper"], done["redrawn"])
    return summarise(settings.design, done["exact"], done["training"])


BANDIT: Study[BanditSettings] = Study(
    name="bandit",
    # 2: a job measures the consensus as well and has the tempered weight; every number of version 1 stayed.
    version=2,
    stages=(
        _stage(
            "exact",
            "Exact minimisers",
            BanditDesign,
            run_exact_job,
            "arms",
            "first_seed",
            "strengths",
            "seeds",
            "votes",
            "betas",
        ),
        _stage(
            "training",
            "Training step by step",
            BanditDesign,
            run_training_job,
            "arms",
            "first_seed",
            "strengths",
            "training_seeds",
            "batch_size",
            "steps",
        ),
        _stage(
            "paper",
            "The paper's pairs",
            PaperDesign,
            run_as_written,
            "phi",
            "learning_rate",
            "steps",
            "betas",
            "training_betas",
        ),
        _stage(
            "redrawn",
            "Pairs drawn anew",
            PaperDesign,
            run_redrawn,
            "phi",
            "learning_rate",
            "steps",
            "set_betas",
            "set_stride",
            "first_seed",
        ),
    ),
    summarise=_summarise,
    figures=lambda results: paper_page.figures(results) if "paper" in results else figures(results),
    page=lambda results: paper_page.page(results) if "paper" in results else page(results),
    presets={
        "default": lambda folder: BanditSettings(output_dir=folder),
        "fast": lambda folder: BanditSettings(output_dir=folder, design=_FAST),
        "paper": lambda folder: BanditSettings(output_dir=folder, design=PaperDesign()),
        "paper_fast": lambda folder: BanditSettings(output_dir=folder, design=_FAST_PAPER),
    },
    imports=("mallowspo.objectives",),
)
"""The declaration; `mallowspo experiment bandit` runs it."""
