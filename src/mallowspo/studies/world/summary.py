"""From worlds and runs to findings: every number that the page shows is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.stats.bootstrap import bootstrap
from mallowspo.stats.frontiers import equal_kl_differences, interpolate_frontier
from mallowspo.stats.intervals import mean_of_known, ratio_interval
from mallowspo.studies.policies import (
    BASELINE,
    THIRDS,
    Grid,
    Run,
    compare_at_equal_kl,
    frontiers,
    grouped,
    mean_of,
    means_over_seeds,
    select_runs,
)
from mallowspo.studies.world.bench import YARDSTICKS

if TYPE_CHECKING:
    from mallowspo.studies.world.study import WorldSettings

__all__ = ["MEASURES", "QUANTITIES", "read_levels", "summarise"]

Row = dict[str, Any]
Floats = NDArray[np.float64]

MEASURES = ("consensus", "top1", "order", "agreement")
QUANTITIES: Mapping[str, tuple[str, str]] = {
    **{name: (name, "better") for name in MEASURES},
    **{
        f"{name}_{third}": (f"{name}_by_tercile.{at}", "better")
        for name in MEASURES
        for at, third in enumerate(THIRDS)
    },
    "agreement_renormalised": ("agreement_renormalised", "better"),
    "outside": ("outside", "worse"),
    "entropy_contested": ("entropy_by_tercile.2", "more"),
    "share_of_consensus": ("share_of_consensus", "better"),
    "share_of_optimum": ("share_of_agreement", "better"),
}
"""What is compared: name → where a run has it, and what more of it is."""

_LEVELS = 25  # KLs at which the lines of the figures are read
_LINES = ("consensus", "agreement", "share_of_consensus", "share_of_optimum", "entropy_contested")
_SCALARS = (
    *MEASURES, "agreement_renormalised", "outside", "kl", "kl_standard_error", "train_loss", "share_of_consensus",
    "share_of_agreement", *(f"{name}_by_tercile" for name in (*MEASURES, "outside", "entropy", "kl")),
)  # fmt: skip
_KEPT = (
    "seed", "method", "pairs", "learning_rate", "beta", *MEASURES, "outside", "kl", "kl_standard_error",
    "share_of_consensus", "share_of_agreement", *(f"{name}_by_tercile" for name in (*MEASURES, "entropy")),
)  # fmt: skip
_INDEX = ("rank_correlation", "within_families", "variation", "gain", "shrink", "weight_quantiles")


def summarise(settings: WorldSettings, done: Mapping[str, list[Row]]) -> Row:
    """Turn worlds and runs into findings."""
    worlds = done["worlds"]
    runs = [run for part in settings.parts for run in done[part]]
    usual = settings.setup.pairs_per_prompt
    here = select_runs(runs, pairs=usual)
    grid = _grid(settings, here)
    comparisons, index = _compare(settings, _rising(runs), QUANTITIES), _index(settings, here)
    first = worlds[0]["reference"]
    return {
        "worlds": [{key: fact[key] for key in fact if key not in ("optima", "shown")} for fact in worlds],
        "reference": {name: mean_of([fact["reference"][name] for fact in worlds]) for name in first}
        | {"excess_nats": mean_of([fact["reference_excess_nats"] for fact in worlds])}
        | {
            f"{name}_by_tercile": mean_of([fact["reference_by_tercile"][name] for fact in worlds]) for name in MEASURES
        },
        "entropy_contested": {
            "population": mean_of([fact["population_entropy_by_tercile"][2] for fact in worlds]),
            "reference": mean_of([fact["reference_by_tercile"]["entropy"][2] for fact in worlds]),
        },
        "index": index,
        "optima": {name: _mean_optimum([fact["optima"][name] for fact in worlds]) for name in YARDSTICKS},
        "settings": means_over_seeds(runs, ("pairs", "method", "beta"), _SCALARS),
        "comparisons": comparisons,
        # The same over all KL that both reach, also where DPO itself loses again what it had gained.
        "whole": _compare(settings, runs, {name: QUANTITIES[name] for name in MEASURES}),
        "levels": {name: read_levels(grid, here, QUANTITIES[name][0]) for name in _LINES},
        "rising_to": mean_of([run["kl"] for run in _peaks(here).values()]),
        "gains": _gains(settings, runs, comparisons, index),
        "leads": _leads(comparisons),
        "examples": _examples(settings, worlds[0], here) if settings.setup.examples else [],
        "cpu_seconds": float(sum(run["cpu_seconds"] for run in runs)),
        "runs": [{key: _rounded(run[key]) for key in _KEPT} for run in runs],
    }


def _peaks(runs: Sequence[Run]) -> dict[tuple[int, int], Run]:
    """For each seed and number of pairs DPO's run with the most consensus value."""
    best: dict[tuple[int, int], Run] = {}
    for run in select_runs(runs, method=BASELINE):
        place = run["seed"], run["pairs"]
        if place not in best or run["consensus"] > best[place]["consensus"]:
            best[place] = run
    return best


def _rising(runs: Sequence[Run]) -> list[Run]:
    """Leave out DPO's runs beyond the peak of its own line: who wins where DPO is over-driven has not won."""
    peaks = _peaks(runs)
    return [run for run in runs if run["method"] != BASELINE or run["kl"] <= peaks[run["seed"], run["pairs"]]["kl"]]


def _compare(settings: WorldSettings, runs: Sequence[Run], quantities: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Each method against DPO at equal KL, for each number of pairs."""
    return [
        row | {"pairs": pairs}
        for pairs in sorted({run["pairs"] for run in runs})
        for some in [select_runs(runs, pairs=pairs)]
        for row in compare_at_equal_kl(_grid(settings, some), some, quantities)
    ]


def _grid(settings: WorldSettings, runs: Sequence[Run]) -> Grid:
    """What was trained at one number of pairs."""
    methods = tuple(dict.fromkeys(run["method"] for run in runs))
    return Grid(seeds=settings.seeds, methods=methods, betas=settings.betas, learning_rate=settings.learning_rate)


def _rounded(value: Any) -> Any:
    """Six decimals are far below what a seed changes, and keep the file small."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _mean_optimum(optima: Sequence[Row]) -> Row:
    """The worlds' exact optima, averaged at equal KL."""
    kl = np.linspace(0.0, min(float(np.max(optimum["kl"])) for optimum in optima), 201)
    return {"kl": kl} | {
        name: np.mean([np.interp(kl, one["kl"], one[name]) for one in optima], axis=0) for name in YARDSTICKS
    }


def _index(settings: WorldSettings, runs: Sequence[Run]) -> Row:
    """Each method's index against the truth; it depends on the pairs alone, so that one run a seed tells it."""
    result: Row = {}
    for method in dict.fromkeys(run["method"] for run in runs if "index" in run):
        first = {run["seed"]: run["index"] for run in reversed(select_runs(runs, method=method))}
        found = [first[seed] for seed in settings.seeds]
        result[method] = {
            key: None if found[0][key] is None else mean_of([index[key] for index in found]) for key in _INDEX
        }
        if settings.setup.examples:
            result[method]["prompts"] = {key: found[0][key] for key in ("estimated_p", "true_p", "family_p")}
    return result


def read_levels(grid: Grid, runs: Sequence[Run], path: str) -> Row:
    """Each method's line of a quantity along KL."""
    every = [float(run["kl"]) for run in runs]
    kl = np.geomspace(min(every), max(every), _LEVELS)
    lines = {}
    for method in grid.methods:
        per_seed = frontiers(grid, runs, method, path)
        read_sm = np.stack([interpolate_frontier(line.kl_b, line.value_b, kl) for line in per_seed])
        reached_m = np.asarray(np.isfinite(read_sm).all(axis=0))
        lines[method] = [mean_of(read_sm[:, m] if reached_m[m] else []) for m in range(len(kl))]
    return {"kl": kl, "methods": lines}


def _of(comparisons: Sequence[Row], **wanted: object) -> Row:
    """The one comparison with these values."""
    return dict(next(iter(select_runs(comparisons, **wanted))))


def _gains(settings: WorldSettings, runs: Sequence[Run], comparisons: Sequence[Row], index: Row) -> list[Row]:
    """What each index's weight gains in consensus value: of what the true index gains, and in pairs, beside G.

    The pairs that a method is worth are those at which DPO, read along the axis of pairs, gains as much at equal KL.
    """
    usual = settings.setup.pairs_per_prompt
    axis = _dpo_along_pairs(settings, runs) if "pairs" in settings.parts else None
    rows = []
    for method in index:
        gap = np.asarray(_of(comparisons, pairs=usual, method=method, quantity="consensus")["per_seed"], dtype=float)
        row: Row = {"method": method, "predicted": index[method]["gain"], "worth": None, "share": {}}
        if axis is not None and axis[0].max() > usual:  # else no number of pairs can be more
            row["worth"] = asdict(_worth(gap, *axis, usual))
        for best in {"mallows_theta_true", "theta_true_50"} & set(index) - {method}:
            whole = _of(comparisons, pairs=usual, method=best, quantity="consensus")["per_seed"]
            row["share"][best] = asdict(ratio_interval(gap, np.asarray(whole, dtype=float)))
        rows.append(row)
    return rows


def _dpo_along_pairs(settings: WorldSettings, runs: Sequence[Run]) -> tuple[Floats, Floats]:
    """Numbers of pairs in rising order, (N,), and DPO's gain on itself at the usual number, at equal KL, (N, S)."""
    usual, runs = settings.setup.pairs_per_prompt, _rising(select_runs(runs, method=BASELINE))
    grid = _grid(settings, runs)
    counts = sorted({run["pairs"] for run in runs})

    def line(pairs: int) -> Any:
        return frontiers(grid, select_runs(runs, pairs=pairs), BASELINE, "consensus")

    gains = [
        np.zeros(len(settings.seeds)) if n == usual else equal_kl_differences(line(n), line(usual)).difference_s
        for n in counts
    ]
    return np.asarray(counts, dtype=float), np.stack(gains)


def _worth(gap_s: Floats, count_n: Floats, dpo_ns: Floats, usual: int) -> Any:
    """For how many times more pairs a gain stands; the ends of the axis where it lies beyond them."""

    def times(seeds: NDArray[np.intp]) -> float:
        line_n = np.asarray([mean_of_known(dpo_s[seeds]) for dpo_s in dpo_ns])
        known_n = np.isfinite(line_n)
        if known_n.sum() < 2:
            return float("nan")
        line_n = np.maximum.accumulate(line_n[known_n])
        return float(np.exp(np.interp(mean_of_known(gap_s[seeds]), line_n, np.log(count_n[known_n]))) / usual)

    return bootstrap(times, range(len(gap_s)), rng=np.random.default_rng(0))


def _leads(comparisons: Sequence[Row]) -> list[Row]:
    """From how many pairs on a method is ahead of DPO: the fewest at which, and at all larger numbers, it is."""
    rows = []
    for method, found in grouped(comparisons, lambda row: row["method"]).items():
        for quantity in YARDSTICKS:
            line = [row for row in select_runs(found, quantity=quantity) if row["difference"]["mean"] is not None]
            ahead = [row["verdict"] == "better" for row in line]
            since = next((row["pairs"] for at, row in enumerate(line) if all(ahead[at:])), None)
            rows.append(
                {"method": method, "quantity": quantity, "from": since, "measured": [row["pairs"] for row in line]}
            )
    return rows


def _examples(settings: WorldSettings, world: Row, runs: Sequence[Run]) -> list[Row]:
    """One held-out prompt of each family, from agreed to contested, and who answers what how often."""
    at = (len(settings.betas) - 1) // 2
    chosen = {method: sorted(settings.betas_of(method))[at] for method in dict.fromkeys(run["method"] for run in runs)}
    here = [run for run in select_runs(runs, seed=settings.seeds[0]) if run["beta"] == chosen[run["method"]]]
    return [
        {**shown, "beta": sorted(settings.betas)[at], **{run["method"]: run["answers"][place] for run in here}}
        for place, shown in enumerate(world["shown"])
    ]
