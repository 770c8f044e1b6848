"""Controllable generation: how much reward does each method buy for how much KL?

The paper's sentiment study at any size. A language model continues the first words of texts; an external reward reads
what it wrote; pairs of its own responses, compared by that reward, train DPO, IPO, MallowsPO-θ and MallowsPO-φ at
several strengths; reward and KL of every policy are measured on the same sampled responses to held-out prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mallowspo.errors import InputError
from mallowspo.studies.controllable.bench import (
    Inputs,
    OptimumJob,
    SeedJob,
    describe_pairs,
    estimate_optimum,
    measure_reference,
    open_bench,
    run_job,
    stamp_of,
)
from mallowspo.studies.controllable.design import CONTROLLABLE_METHODS, FURTHER_METHODS, ControllableDesign
from mallowspo.studies.controllable.page import figures, page
from mallowspo.studies.controllable.summary import choose_rate, summarise
from mallowspo.studies.policies import BASELINE, Job, check_grid
from mallowspo.studies.study import Done, Stage, Study

__all__ = ["CONTROLLABLE", "ControllableDesign", "ControllableSettings", "fast"]


@dataclass(frozen=True, kw_only=True)
class ControllableSettings:
    """The study's settings."""

    design: ControllableDesign  # models, data and sizes
    output_dir: str = "output/controllable"  # folder for everything that is written
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # one set of pairs, one order and one set of evaluation draws each
    betas: tuple[float, ...] = (0.02, 0.07, 0.2, 0.6, 2.0, 8.0)  # values of β of DPO, MallowsPO-θ and MallowsPO-φ
    # Of IPO (τ of its paper) and `mallows_norm`: another quantity, for scores that are means over tokens
    ipo_betas: tuple[float, ...] = (0.1, 0.5, 1.5, 4.0, 10.0, 30.0)
    methods: tuple[str, ...] = CONTROLLABLE_METHODS  # of these and `FURTHER_METHODS`; DPO among them
    # Peak learning rates. Where there are several, one is chosen on DPO alone, with pairs and draws of `pilot_seed`,
    # which no comparison uses
    learning_rates: tuple[float, ...] = (1e-4,)
    pilot_seed: int = 1000
    workers: int = 0  # processes that train side by side; 0 trains in the calling process. It changes no result

    def __post_init__(self) -> None:
        known = (*CONTROLLABLE_METHODS, *FURTHER_METHODS)
        check_grid(self, known, "ipo_betas", "learning_rates")
        for name in ("betas", "ipo_betas"):
            if len(getattr(self, name)) < 2:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least two: a frontier is a line")
        if any(seed < 0 for seed in (*self.seeds, self.pilot_seed)):
            raise InputError(f"seeds: got {self.seeds} and pilot_seed {self.pilot_seed}, expected numbers >= 0")
        if self.pilot_seed in self.seeds:
            raise InputError(f"pilot_seed: got {self.pilot_seed}, which is one of the seeds; choose another")

    def betas_of(self, method: str) -> tuple[float, ...]:
        """The values of β of a method."""
        return self.ipo_betas if method in ("ipo", "mallows_norm") else self.betas


def fast(settings: ControllableSettings) -> ControllableSettings:
    """Cut a study down to a run of seconds that shows every part and resolves nothing."""
    design = replace(
        settings.design,
        response_tokens=min(12, settings.design.response_tokens),
        train_prompts=12,
        eval_prompts=8,
        samples_per_prompt=2,
        eval_samples=2,
        optimum_samples=8,
        epochs=1,
        batch_size=4,
    )
    rate, betas = settings.learning_rates[0], (0.1, 1.0)
    return replace(
        settings,
        design=design,
        seeds=settings.seeds[:1],
        betas=betas,
        ipo_betas=betas,
        learning_rates=(rate, 3 * rate),
    )


def _inputs(settings: ControllableSettings, done: Done) -> Inputs:
    return Inputs(settings.design, stamp_of(settings.design))


def _pilot(settings: ControllableSettings, done: Done) -> Sequence[Job]:
    """The runs that choose the learning rate; none where there is nothing to choose."""
    rates = settings.learning_rates if len(settings.learning_rates) > 1 else ()
    return [
        Job(seed=settings.pilot_seed, method=BASELINE, beta=beta, learning_rate=rate)
        for rate in rates
        for beta in settings.betas
    ]


def _runs(settings: ControllableSettings, done: Done) -> Sequence[Job]:
    """Every run of the comparison; those of one seed stand together, since they share its pairs."""
    rate = choose_rate(settings.learning_rates, done["pilot"])["chosen"]
    return [
        Job(seed=seed, method=method, beta=beta, learning_rate=rate)
        for seed in settings.seeds
        for method in settings.methods
        for beta in settings.betas_of(method)
    ]


def _stage(name: str, title: str, jobs: Any, work: Any, **more: Any) -> Stage[ControllableSettings]:
    return Stage(name, title, jobs=jobs, setup=_inputs, bench=open_bench, work=work, **more)


CONTROLLABLE: Study[ControllableSettings] = Study(
    name="controllable",
    version=1,
    stages=(
        _stage("pilot", "Choosing the learning rate", _pilot, run_job),
        _stage(
            "pairs",
            "Describing the pairs",
            lambda settings, done: [SeedJob(settings.seeds[0])],
            describe_pairs,
            files=lambda inputs, job, folder: [folder / "preferences.jsonl"],
        ),
        _stage("runs", "Training the policies", _runs, run_job),
        _stage(
            "references",
            "Measuring the reference",
            lambda settings, done: [SeedJob(seed) for seed in settings.seeds],
            measure_reference,
        ),
        _stage(
            "optimum",
            "Estimating the optimum",
            lambda settings, done: [OptimumJob(settings.design.optimum_samples)],
            estimate_optimum,
        ),
    ),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={},  # model and texts are the user's; `fast` cuts any settings down
)
"""The declaration; `mallowspo experiment controllable` runs it."""
