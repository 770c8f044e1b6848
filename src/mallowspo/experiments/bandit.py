"""The bandit study: does MallowsPO mitigate reward collapse, at the exact minimiser and as people train?

Softmax policies over a few arms, a uniform reference, pairs judged by people whose rankings follow a Mallows model:
all that a policy does can be computed exactly. DPO, IPO, MallowsPO-θ and MallowsPO-φ with the true and with an
estimated φ, on one state and on many states of different φ. `results.json` holds the numbers, `report.html` explains
them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mallowspo.experiments.bandit_config import BanditConfig, BanditDesign, fast_config
from mallowspo.experiments.jobs import run_jobs
from mallowspo.experiments.study import open_folder, write_results
from mallowspo.progress import Progress, silent

__all__ = ["BanditConfig", "BanditDesign", "fast_config", "run_bandit_study"]


def run_bandit_study(config: BanditConfig | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the study and write `results.json`, figures and `report.html`; finished jobs stay in `jobs.jsonl`.

    Args:
        config: The settings; the defaults where None.
        progress: Called as jobs end.

    Returns:
        The findings, as in `results.json`: `config` and what `bandit_summary.summarise` makes of the jobs; an interval
        is a list [mean, low, high].

    Raises:
        InputError: The settings cannot be used, or the folder cannot be written.
    """
    from mallowspo.experiments.bandit_jobs import run_exact_job, run_training_job
    from mallowspo.experiments.bandit_report import write_bandit_report
    from mallowspo.experiments.bandit_summary import summarise

    config = config or BanditConfig()
    report = progress or silent
    folder = open_folder(config.output_dir)
    design, log = config.design, folder / "jobs.jsonl"
    done = []
    exact = design.only("arms", "first_seed", "strengths", "seeds", "votes", "betas")
    training = design.only("arms", "first_seed", "strengths", "training_seeds", "batch_size", "steps")
    for work, shared, jobs, stage in (
        (run_exact_job, exact, design.exact_jobs, "Exact minimisers"),
        (run_training_job, training, design.training_jobs, "Training step by step"),
    ):
        done.append(run_jobs(work, shared, jobs, log, workers=config.workers, progress=report, stage=stage))
    stored = write_results(folder, {"config": asdict(config), **summarise(design, *done)})
    write_bandit_report(folder, stored)
    report("Writing the report", 1, 1)
    return stored
