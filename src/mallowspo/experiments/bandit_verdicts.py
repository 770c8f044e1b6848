"""What the bandit study allows to say of the paper's claim, setting by setting, and counted within each regime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from mallowspo.experiments.bandit_config import METHODS, TRAINED, BanditDesign
from mallowspo.experiments.bandit_jobs import BASELINE
from mallowspo.stats.intervals import Interval
from mallowspo.stats.verdicts import verdict

__all__ = ["REGIMES", "count_verdicts", "design_of", "regime_of", "settings", "word_of"]

REGIMES = {
    "single_exact": "One state, exact minimiser",
    "many_exact": "Many states, exact minimiser",
    "single_steps": "One state, Adam",
    "many_shared": "Many states, Adam, shared parameters",
    "many_separate": "Many states, Adam, separate parameters",
}

ENTROPY_WORDS = {"better": "less collapsed", "worse": "more collapsed", "open": "not told apart"}
AGREEMENT_WORDS = {"better": "ahead", "worse": "behind", "open": "not told apart"}

# Lines of one and the same function, measured at other values of β, differ this much when they are interpolated.
INTERPOLATION = 2e-5


def design_of(results: dict[str, Any]) -> BanditDesign:
    """The design of a run, from its `results.json`."""
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in results["config"]["design"].items()
    }
    return BanditDesign(**stored)


def regime_of(job: dict[str, Any]) -> str:
    """The regime, a key of `REGIMES`, that a job of the results belongs to."""
    one = len(job["phis"]) == 1
    if "learning_rate" not in job:
        return "single_exact" if one else "many_exact"
    if one:
        return "single_steps"
    return "many_shared" if job["shared"] else "many_separate"


def settings(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Go through every comparison with DPO.

    Args:
        results: `exact` and `training`, as in `results.json`.

    Yields:
        Mappings: `regime`, `phis`, `pairs`, `learning_rate` (None at the exact minimiser), `method`; at the shown
        matched scale `entropy` and `collapsed`, the differences (at the end of training), `early` (of the entropy at
        the early step, or None) and `equal_kl`, the comparison at equal KL; `entropies` and `agreements` as in
        `summarise`.
    """
    for job in (*results["exact"], *results["training"]):
        exact = "learning_rate" not in job
        for method in METHODS if exact else TRAINED:
            if method == BASELINE:
                continue
            found = job["methods"][method]
            differences = [one["minus_dpo"] for one in ([found["matched"]] if exact else found["at_steps"])]
            yield {
                "regime": regime_of(job),
                "phis": job["phis"],
                "pairs": job["pairs"],
                "learning_rate": job.get("learning_rate"),
                "method": method,
                "entropy": differences[-1]["entropy"],
                "early": None if exact else differences[0]["entropy"],
                "collapsed": differences[-1]["collapsed"],
                "equal_kl": found["equal_kl"],
                "entropies": found["entropies"],
                "agreements": found["agreements"],
            }


def word_of(interval: list[float | None], words: dict[str, str]) -> str:
    """A difference as a word; an interval within the error of the interpolation is none.

    Example:
        >>> word_of([0.2, 0.1, 0.3], AGREEMENT_WORDS), word_of([0.0, 0.0, 0.0], AGREEMENT_WORDS)
        ('ahead', 'the same')
    """
    mean, low, high = interval
    if mean is None or low is None or high is None or not low <= high:
        return "no common KL"
    if max(abs(low), abs(high)) <= INTERPOLATION:
        return "the same"
    return words[verdict(Interval(mean, low, high))]


def count_verdicts(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count what the differences of `settings` say, at every matched scale, for each regime and method.

    Args:
        rows: All rows.

    Returns:
        One entry for each regime and method, in order: `regime`, `method`, and `collapse` and `agreement`, which
        count how often each word was said.
    """
    rows = list(rows)
    counted = []
    for regime in REGIMES:
        for method in METHODS:
            here = [row for row in rows if row["regime"] == regime and row["method"] == method]
            if here:
                collapse = Counter(word_of(one, ENTROPY_WORDS) for row in here for one in row["entropies"])
                agreement = Counter(word_of(one, AGREEMENT_WORDS) for row in here for one in row["agreements"])
                counted.append(
                    {"regime": regime, "method": method, "collapse": dict(collapse), "agreement": dict(agreement)}
                )
    return counted
