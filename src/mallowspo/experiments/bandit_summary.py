"""From the jobs of the bandit study to `results.json`: what the report shows, and verdicts at every matched scale."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mallowspo.experiments.bandit_config import BanditDesign, ExactJob, TrainingJob
from mallowspo.experiments.bandit_jobs import BASELINE
from mallowspo.experiments.bandit_verdicts import count_verdicts, settings

__all__ = ["summarise"]

Found = dict[str, Any]


def summarise(design: BanditDesign, exact: list[Found], training: list[Found]) -> Found:
    """Turn the jobs' results into the study's.

    Args:
        design: The study.
        exact: One result for each of `design.exact_jobs`, in order.
        training: The same for `design.training_jobs`.

    Returns:
        `exact` and `training`, one entry a job: its fields, and for each method what was found at the shown matched
        scale, with `entropies` (entropy less DPO's, one interval for each strength) and `agreements` (agreement less
        DPO's at equal KL; in training one for each strength); `verdicts`, counted over all of them;
        `processor_seconds`. The frontier (`line`), plain values of β (`at_beta`) and single steps
        (`entropy_by_step`) are kept where they are shown.
    """
    results: Found = {
        "exact": [_exact(design, job, found) for job, found in zip(design.exact_jobs, exact, strict=True)],
        "training": [_training(design, job, found) for job, found in zip(design.training_jobs, training, strict=True)],
    }
    results["verdicts"] = count_verdicts(list(settings(results)))
    results["processor_seconds"] = sum(found["processor_seconds"] for found in (*exact, *training))
    return results


def _exact(design: BanditDesign, job: ExactJob, found: Found) -> Found:
    at = design.strengths.index(design.shown_strength)
    few, most = job.pairs == min(design.pairs), job.pairs == max(design.pairs)
    methods = {}
    for name, mine in found["methods"].items():
        row = {"matched": mine["matched"][at]}
        if few:
            row["at_beta"] = mine["at_beta"]
        if job.phis == design.many_phis and (few or most):
            row["line"] = mine["line"]
        if name != BASELINE:
            row["entropies"] = [one["minus_dpo"]["entropy"] for one in mine["matched"]]
            row["equal_kl"] = mine["equal_kl"]
            row["agreements"] = [mine["equal_kl"]["agreement"]]
        methods[name] = row
    return {**asdict(job), "facts": found["facts"], "methods": methods}


def _training(design: BanditDesign, job: TrainingJob, found: Found) -> Found:
    at = design.strengths.index(design.shown_strength)
    methods = {}
    for name, mine in found["methods"].items():
        row = {"at_steps": mine[at]["at_steps"]}
        if job.phis == design.many_phis and job.pairs == min(design.training_pairs):
            row["entropy_by_step"] = mine[at]["entropy_by_step"]
        if name != BASELINE:
            row["entropies"] = [one["at_steps"][-1]["minus_dpo"]["entropy"] for one in mine]
            row["equal_kl"] = mine[at]["equal_kl"]
            row["agreements"] = [one["equal_kl"]["agreement"] for one in mine]
        methods[name] = row
    return {**asdict(job), "methods": methods}
