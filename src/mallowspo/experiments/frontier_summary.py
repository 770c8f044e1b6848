"""From training runs over a grid of settings to means, intervals and differences at equal KL.

A run is a dictionary as `mallowspo.experiments.quickstart_runs.run_job` returns it, with `share_of_optimum` added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mallowspo.stats.frontiers import SeedFrontier, equal_kl_differences
from mallowspo.stats.intervals import mean_interval, mean_of_known
from mallowspo.stats.verdicts import verdict

__all__ = [
    "QUANTITIES",
    "TERCILES",
    "Grid",
    "Run",
    "comparisons",
    "frontiers",
    "more_is",
    "select_runs",
    "settings",
]

Run = dict[str, Any]

TERCILES = ("agreed", "middle", "contested")

_SCALARS = (
    "agreement",
    "agreement_renormalised",
    "outside",
    "kl",
    "kl_on_candidates",
    "kl_standard_error",
    "train_loss",
    "share_of_optimum",
)
_BY_TERCILE = (
    "agreement_by_tercile",
    "agreement_renormalised_by_tercile",
    "outside_by_tercile",
    "kl_by_tercile",
    "entropy_by_tercile",
)

QUANTITIES: dict[str, tuple[str, int | None]] = {
    "agreement": ("agreement", None),
    "agreement_renormalised": ("agreement_renormalised", None),
    "outside": ("outside", None),
    **{f"agreement_{name}": ("agreement_by_tercile", tercile) for tercile, name in enumerate(TERCILES)},
    "entropy_contested": ("entropy_by_tercile", TERCILES.index("contested")),
}
"""What is compared at equal KL: name in the results -> where a run has it, and in which tercile."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The settings that every method was trained at, once for each seed."""

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    betas: tuple[float, ...]
    learning_rates: tuple[float, ...]


def select_runs(runs: Sequence[Run], **wanted: object) -> list[Run]:
    """The runs whose fields have these values, in their order.

    Example:
        >>> select_runs([{"seed": 0, "beta": 1.0}, {"seed": 1, "beta": 1.0}], seed=1)
        [{'seed': 1, 'beta': 1.0}]
    """
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def settings(grid: Grid, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Means over seeds, one entry per learning rate, method and β.

    Args:
        grid: The settings.
        runs: Their runs.

    Returns:
        Entries with the setting, `seeds`, and an interval (`mean`, `low`, `high`) of every measurement.
    """
    rows = []
    for rate in grid.learning_rates:
        for method in grid.methods:
            for beta in grid.betas:
                here = select_runs(runs, learning_rate=rate, method=method, beta=beta)
                row: dict[str, Any] = {"learning_rate": rate, "method": method, "beta": beta, "seeds": len(here)}
                row |= {name: asdict(mean_interval([run[name] for run in here])) for name in _SCALARS}
                for name in _BY_TERCILE:
                    row[name] = [asdict(mean_interval([run[name][t] for run in here])) for t in range(3)]
                rows.append(row)
    return rows


def frontiers(
    grid: Grid,
    runs: Sequence[Run],
    method: str,
    rates: Sequence[float],
    place: tuple[str, int | None],
    *,
    chosen_by: str = "agreement",
) -> list[list[SeedFrontier]]:
    """A method's lines of a quantity against KL.

    Args:
        grid: The settings.
        runs: Their runs.
        method: Which method.
        rates: At which learning rates.
        place: Where a run has the quantity, and in which tercile; see `QUANTITIES`.
        chosen_by: The field of a run by which the better learning rate at a KL is chosen.

    Returns:
        For each seed one line per learning rate.
    """
    name, tercile = place
    per_seed = []
    for seed in grid.seeds:
        lines = []
        for rate in rates:
            here = select_runs(runs, seed=seed, method=method, learning_rate=rate)
            lines.append(
                SeedFrontier(
                    kl_b=[run["kl"] for run in here],
                    agreement_b=[run[chosen_by] for run in here],
                    value_b=[float(run[name] if tercile is None else run[name][tercile]) for run in here],
                )
            )
        per_seed.append(lines)
    return per_seed


def comparisons(
    grid: Grid,
    runs: Sequence[Run],
    *,
    baseline: str,
    quantities: dict[str, tuple[str, int | None]] | None = None,
    chosen_by: str = "agreement",
) -> list[dict[str, Any]]:
    """Each method against the baseline at equal KL: both at their better learning rate, and at each learning rate.

    Args:
        grid: The settings.
        runs: Their runs.
        baseline: The method to compare with.
        quantities: What to compare; `QUANTITIES` where None.
        chosen_by: The field of a run by which the better learning rate at a KL is chosen.

    Returns:
        Entries with the method, `learning_rate` (None: the better one), `quantity`, `difference` with its interval,
        `per_seed`, the range of KL and `verdict`.
    """
    scopes: list[tuple[float | None, tuple[float, ...]]] = [(None, grid.learning_rates)]
    if len(grid.learning_rates) > 1:
        scopes += [(rate, (rate,)) for rate in grid.learning_rates]
    rows = []
    for scope, rates in scopes:
        for method in grid.methods:
            if method == baseline:
                continue
            for quantity, place in (quantities or QUANTITIES).items():
                found = equal_kl_differences(
                    frontiers(grid, runs, method, rates, place, chosen_by=chosen_by),
                    frontiers(grid, runs, baseline, rates, place, chosen_by=chosen_by),
                )
                difference = mean_interval(found.difference_s)
                rows.append(
                    {
                        "method": method,
                        "baseline": baseline,
                        "learning_rate": scope,  # None: each at its better learning rate
                        "quantity": quantity,
                        "difference": asdict(difference),
                        "per_seed": found.difference_s,
                        "kl_low": mean_of_known(found.low_s),
                        "kl_high": mean_of_known(found.high_s),
                        "verdict": verdict(difference, more_is=more_is(quantity)),
                    }
                )
    return rows


def more_is(quantity: str) -> str:
    """Whether more of a quantity is `better`, `worse`, or just `more`; see `mallowspo.stats.verdicts.verdict`.

    Example:
        >>> more_is("agreement"), more_is("outside"), more_is("entropy_contested")
        ('better', 'worse', 'more')
    """
    return "worse" if quantity == "outside" else "more" if quantity.startswith(("entropy", "kl")) else "better"
