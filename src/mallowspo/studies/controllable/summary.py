"""From the runs of the controllable-generation study to its findings: every number that the report shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from mallowspo.stats.frontiers import SeedFrontier, interpolate_frontier
from mallowspo.stats.intervals import mean_of_known
from mallowspo.stats.verdicts import holm
from mallowspo.studies.policies import BASELINE, Run, equal_kl, mean_of, means_over_seeds, select_runs

if TYPE_CHECKING:
    from mallowspo.studies.controllable.study import ControllableSettings

__all__ = ["area", "choose_rate", "compare_methods", "summarise"]

GRID = 41  # points at which frontiers are read
LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # nats at which differences are shown one by one
_SCALARS = (
    "reward", "reward_standard_error", "kl", "kl_standard_error", "kl_plain", "tokens_per_response", "cut",
    "distinct_responses", "train_loss", "cpu_seconds",
)  # fmt: skip


def _frontier(runs: Sequence[Run]) -> SeedFrontier:
    # A policy that has not moved at all has a KL of 0, which has no logarithm.
    return SeedFrontier([max(float(run["kl"]), 1e-9) for run in runs], [float(run["reward"]) for run in runs])


def _shared_range(frontiers: Sequence[SeedFrontier]) -> tuple[float, float]:
    low = max(float(np.min(line.kl_b)) for line in frontiers)
    return low, min(float(np.max(line.kl_b)) for line in frontiers)


def area(frontier: SeedFrontier, low: float, high: float) -> float:
    """Area under a frontier between two KLs, divided by the width: its mean height."""
    if not low < high:
        return float("nan")
    return float(interpolate_frontier(frontier.kl_b, frontier.value_b, np.geomspace(low, high, GRID)).mean())


def choose_rate(rates: Sequence[float], runs: Sequence[Run]) -> dict[str, Any]:
    """Choose by DPO's runs alone: the largest area over the KL that all rates reach, or the highest mean reward."""
    if len(rates) == 1:
        return {"chosen": rates[0], "rule": "given", "candidates": []}
    lines = {rate: _frontier(select_runs(runs, learning_rate=rate)) for rate in rates}
    low, high = _shared_range(list(lines.values()))
    rows: list[dict[str, Any]] = [
        {
            "learning_rate": rate,
            "area": area(line, low, high),
            "mean_reward": float(np.mean(np.asarray(line.value_b))),
            "kl": sorted(np.asarray(line.kl_b).tolist()),
        }
        for rate, line in lines.items()
    ]
    rule = "area" if low < high else "mean reward"
    best = max(rows, key=lambda row: row["area"] if rule == "area" else row["mean_reward"])
    return {
        "chosen": best["learning_rate"],
        "rule": rule,
        "kl_low": low,
        "kl_high": high,
        "candidates": rows,
        "runs": [dict(run) for run in runs],
    }


def compare_methods(per_method: Mapping[str, Sequence[SeedFrontier]]) -> list[dict[str, Any]]:
    """Every two methods at equal KL, the first of all the baseline; p of the paired t test, alone and by Holm."""
    rows: list[dict[str, Any]] = []
    for second, first in itertools.combinations(per_method, 2):
        row = equal_kl(per_method[first], per_method[second])
        known = row["per_seed"][np.isfinite(row["per_seed"])]
        varied = known.size > 1 and float(known.std()) > 0
        p = float(stats.ttest_1samp(known, 0.0).pvalue) if varied else float("nan")
        rows.append({"method": first, "baseline": second} | row | {"p": p})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _areas(per_method: Mapping[str, Sequence[SeedFrontier]]) -> dict[str, Any]:
    """Area under every method's frontier, seed by seed over the KL that all methods reach under that seed."""
    ranges = [_shared_range(lines) for lines in zip(*per_method.values(), strict=True)]
    areas = {
        method: [area(line, low, high) for line, (low, high) in zip(lines, ranges, strict=True)]
        for method, lines in per_method.items()
    }
    usable = np.asarray([r if r[0] < r[1] else (np.nan, np.nan) for r in ranges])
    return {
        "kl_low": mean_of_known(usable[:, 0]),
        "kl_high": mean_of_known(usable[:, 1]),
        "methods": {method: {"interval": mean_of(values), "per_seed": values} for method, values in areas.items()},
    }


def _by_kl(per_method: Mapping[str, Sequence[SeedFrontier]]) -> list[dict[str, Any]]:
    """Differences from the baseline at single KLs, where every method has a value under at least two seeds."""
    rows = []
    read = {
        method: np.stack([interpolate_frontier(line.kl_b, line.value_b, LEVELS) for line in lines])
        for method, lines in per_method.items()
    }
    for place, level in enumerate(LEVELS):
        differences = {m: read[m][:, place] - read[BASELINE][:, place] for m in read if m != BASELINE}
        if all(np.isfinite(values).sum() >= min(2, len(values)) for values in differences.values()):
            rows.append({"kl": level, "differences": {m: mean_of(values) for m, values in differences.items()}})
    return rows


def _weights(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Quantiles of the weights, 5%, 50% and 95%, mean over runs."""
    return {
        method: np.mean([run["weight_quantiles"] for run in here], axis=0).tolist()
        for method in dict.fromkeys(run["method"] for run in runs)
        if (here := [run for run in select_runs(runs, method=method) if "weight_quantiles" in run])
    }


def summarise(settings: ControllableSettings, done: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Turn the results of all stages into findings."""
    runs, references, [pairs], [optimum] = (done[name] for name in ("runs", "references", "pairs", "optimum"))
    per_method = {
        method: [_frontier(select_runs(runs, method=method, seed=seed)) for seed in settings.seeds]
        for method in settings.methods
    }
    return {
        "facts": pairs["facts"],
        "learning_rate": choose_rate(settings.learning_rates, done["pilot"]),
        "settings": means_over_seeds(runs, ("method", "beta"), _SCALARS),
        "areas": _areas(per_method),
        "comparisons": compare_methods(per_method),
        "by_kl": _by_kl(per_method),
        "weights": _weights(runs),
        "reference": {
            "reward": mean_of([row["reward"] for row in references]),
            "reward_standard_error": mean_of_known([row["reward_standard_error"] for row in references]),
        },
        "cpu_seconds": float(sum(run["cpu_seconds"] for run in runs)),
        "optimum": optimum,
        "examples": {"prompt": pairs["prompt"], "answers": _answers(settings, runs, references)},
        "runs": [{key: value for key, value in run.items() if key != "example"} for run in runs],
    }


def _answers(settings: ControllableSettings, runs: Sequence[Run], references: Sequence[Run]) -> list[dict[str, Any]]:
    """The first response to the first held-out prompt by every method, at its smallest and its middle β."""
    answers: list[dict[str, Any]] = [{"method": "reference", "beta": None, "text": references[0]["example"]}]
    for run in select_runs(runs, seed=settings.seeds[0]):
        betas = sorted(settings.betas_of(run["method"]))
        if run["beta"] in (betas[0], betas[len(betas) // 2]):
            answers.append({name: run[name] for name in ("method", "beta", "kl")} | {"text": run["example"]})
    return answers
