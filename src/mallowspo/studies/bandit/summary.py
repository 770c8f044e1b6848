"""From the jobs of the bandit study to what its page shows, and what each comparison allows to say of the claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mallowspo.stats.intervals import Interval
from mallowspo.stats.verdicts import verdict
from mallowspo.studies.bandit.bench import METHODS, BanditDesign, ExactJob, TrainingJob, infinite_pairs
from mallowspo.studies.policies import BASELINE

__all__ = ["REGIMES", "comparisons", "count_verdicts", "design_of", "regime_of", "summarise", "word_of"]

Row = dict[str, Any]

REGIMES = {
    "single_exact": "One state, exact minimiser",
    "many_exact": "Many states, exact minimiser",
    "single_steps": "One state, Adam",
    "many_shared": "Many states, Adam, shared parameters",
    "many_separate": "Many states, Adam, separate parameters",
}

ENTROPY_WORDS = {"better": "less collapsed", "worse": "more collapsed", "open": "not told apart"}
AHEAD_WORDS = {"better": "ahead", "worse": "behind", "open": "not told apart"}

# What is counted at equal KL → where a comparison has it, one interval for each matched scale.
_SCALES = {"consensus": "consensuses", "agreement": "agreements"}

# Lines of one and the same function, measured at other values of β, differ this much when they are interpolated.
INTERPOLATION = 2e-5


def design_of(results: Mapping[str, Any]) -> BanditDesign:
    """The design of a run, from its `results.json`."""
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in results["config"]["design"].items()
    }
    return BanditDesign(**stored)


def regime_of(job: Mapping[str, Any]) -> str:
    """The regime, a key of `REGIMES`, that a job of the results belongs to."""
    one = len(job["phis"]) == 1
    if "learning_rate" not in job:
        return "single_exact" if one else "many_exact"
    if one:
        return "single_steps"
    return "many_shared" if job["shared"] else "many_separate"


def comparisons(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Go through every comparison with DPO."""
    for job in (*results["exact"], *results["training"]):
        exact = "learning_rate" not in job
        for method, found in job["methods"].items():
            if method != BASELINE:
                differences = [one["minus_dpo"] for one in ([found["matched"]] if exact else found["at_steps"])]
                yield {
                    "regime": regime_of(job),
                    "method": method,
                    "early": None if exact else differences[0]["entropy"],
                    **{key: job.get(key) for key in ("phis", "pairs", "learning_rate")},
                    **{key: differences[-1][key] for key in ("entropy", "collapsed")},
                    **{key: found.get(key) for key in ("at_kl", "equal_kl", "entropies", "agreements", "consensuses")},
                }


def word_of(interval: list[float | None], words: dict[str, str]) -> str:
    """A difference as a word; an interval within the error of the interpolation is none."""
    mean, low, high = interval
    if mean is None or low is None or high is None or not low <= high:
        return "no common KL"
    if max(abs(low), abs(high)) <= INTERPOLATION:
        return "the same"
    return words[verdict(Interval(mean, low, high))]


def count_verdicts(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count what the differences of `comparisons` say, at every matched scale, for each regime and method."""
    rows = list(rows)
    counted = []
    for regime in REGIMES:
        for method in METHODS:
            here = [row for row in rows if row["regime"] == regime and row["method"] == method]
            if here:
                collapse = Counter(word_of(one, ENTROPY_WORDS) for row in here for one in row["entropies"])
                at_equal_kl = {
                    name: dict(Counter(word_of(one, AHEAD_WORDS) for row in here for one in row[_SCALES[name]]))
                    for name in _SCALES
                }
                counted.append({"regime": regime, "method": method, "collapse": dict(collapse), **at_equal_kl})
    return counted


def summarise(design: BanditDesign, exact: Sequence[Row], training: Sequence[Row]) -> Row:
    """Turn the jobs' results into the study's."""
    results: Row = {
        "exact": [_exact(design, job, found) for job, found in zip(design.exact_jobs, exact, strict=True)],
        "training": [_training(design, job, found) for job, found in zip(design.training_jobs, training, strict=True)],
    }
    results["infinite"] = infinite_pairs(design.many_phis, design.arms)
    results["verdicts"] = count_verdicts(comparisons(results))
    results["processor_seconds"] = sum(found["processor_seconds"] for found in (*exact, *training))
    return results


def _exact(design: BanditDesign, job: ExactJob, found: Row) -> Row:
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
            row["equal_kl"], row["at_kl"] = mine["equal_kl"], mine["at_kl"]
            row |= {places: [mine["equal_kl"][name]] for name, places in _SCALES.items()}
        methods[name] = row
    return {**asdict(job), "facts": found["facts"], "methods": methods}


def _training(design: BanditDesign, job: TrainingJob, found: Row) -> Row:
    at = design.strengths.index(design.shown_strength)
    methods = {}
    for name, mine in found["methods"].items():
        row = {"at_steps": mine[at]["at_steps"]}
        if job.phis == design.many_phis and job.pairs == min(design.training_pairs):
            row["entropy_by_step"] = mine[at]["entropy_by_step"]
        if name != BASELINE:
            row["entropies"] = [one["at_steps"][-1]["minus_dpo"]["entropy"] for one in mine]
            row["equal_kl"] = mine[at]["equal_kl"]
            row |= {places: [one["equal_kl"][name] for one in mine] for name, places in _SCALES.items()}
        methods[name] = row
    return {**asdict(job), "methods": methods}
