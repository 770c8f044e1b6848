"""From worlds and runs to findings: every number that the page shows is made here.

Whatever is chosen (a setting for a method, the better learning rate at a KL) is chosen on the selection prompts where
there are any; whatever is shown was measured on the held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from mallowspo.stats.frontiers import read_at_best_rate
from mallowspo.stats.intervals import mean_interval
from mallowspo.stats.verdicts import verdict
from mallowspo.studies.policies import (
    BASELINE,
    Grid,
    Run,
    compare_at_equal_kl,
    frontiers,
    mean_of,
    means_over_seeds,
    select_runs,
    value,
)

if TYPE_CHECKING:
    from mallowspo.studies.world.study import WorldSettings

__all__ = ["QUANTITIES", "TERCILES", "chosen_runs", "read_levels", "summarise"]

Row = dict[str, Any]

CHOSEN_BY = "selection_agreement"
TERCILES = ("agreed", "middle", "contested")
QUANTITIES: Mapping[str, tuple[str, str]] = {
    "agreement": ("agreement", "better"),
    "agreement_renormalised": ("agreement_renormalised", "better"),
    "outside": ("outside", "worse"),
    **{f"agreement_{name}": (f"agreement_by_tercile.{at}", "better") for at, name in enumerate(TERCILES)},
    "entropy_contested": ("entropy_by_tercile.2", "more"),
    "share_of_optimum": ("share_of_optimum", "better"),
}
"""What is compared: name → where a run has it, and what more of it is."""

_AT_CHOICE = {**QUANTITIES, "entropy_agreed": ("entropy_by_tercile.0", "more"), "kl": ("kl", "more")}
_LEVELS = 25  # KLs at which the lines of the figures are read
_LINES = ("agreement", "share_of_optimum", "entropy_contested", "outside")
_SCALARS = (
    "agreement", "agreement_renormalised", "outside", "kl", "kl_on_candidates", "kl_standard_error", "train_loss",
    "share_of_optimum", "agreement_by_tercile", "agreement_renormalised_by_tercile", "outside_by_tercile",
    "kl_by_tercile", "entropy_by_tercile",
)  # fmt: skip
_FACTS = ("reference_excess_nats", "reference_outside", "reference_agreement")
_KEPT = (
    "seed", "method", "learning_rate", "beta", "agreement", "agreement_renormalised", "outside", "kl",
    "kl_standard_error", "share_of_optimum", CHOSEN_BY, "agreement_by_tercile", "entropy_by_tercile",
)  # fmt: skip


def summarise(settings: WorldSettings, done: Mapping[str, list[Row]]) -> Row:
    """Turn worlds and runs into findings."""
    worlds, runs, grid = done["worlds"], done["runs"], settings.grid
    return {
        "worlds": [{key: fact[key] for key in fact if key not in ("optimum", "shown")} for fact in worlds],
        "reference": {name: mean_of([fact[name] for fact in worlds]) for name in _FACTS},
        "entropy_contested": {
            who: mean_of([fact[f"{who}_entropy_by_tercile"][2] for fact in worlds])
            for who in ("population", "reference")
        },
        "index": _index(settings, runs),
        "optimum": _mean_optimum([fact["optimum"] for fact in worlds]),
        "settings": means_over_seeds(runs, ("learning_rate", "method", "beta"), _SCALARS),
        "comparisons": compare_at_equal_kl(grid, runs, QUANTITIES, chosen_by=CHOSEN_BY),
        "choice": _choice(grid, runs) if settings.setup.selection_prompts else [],
        "levels": {name: read_levels(grid, runs, QUANTITIES[name][0]) for name in _LINES},
        "examples": _examples(settings, worlds[0], runs) if settings.setup.examples else [],
        "cpu_seconds": float(sum(run["cpu_seconds"] for run in runs)),
        "runs": [{key: _rounded(run[key]) for key in _KEPT} for run in runs],
    }


def _rounded(value: Any) -> Any:
    """Six decimals are far below what a seed changes, and keep the file small."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _mean_optimum(optima: Sequence[Row]) -> Row:
    """The worlds' exact optima, averaged at equal KL."""
    if len(optima) == 1:
        return optima[0]
    kl = np.linspace(0.0, min(float(np.max(optimum["kl"])) for optimum in optima), 201)
    return {"kl": kl, "agreement": np.mean([np.interp(kl, one["kl"], one["agreement"]) for one in optima], axis=0)}


def _index(settings: WorldSettings, runs: Sequence[Run]) -> Row:
    """The trainer's own index against the truth; it depends on the pairs alone, so that one run a seed tells it."""
    result: Row = {}
    for name, methods in (
        ("estimated", ("mallows_theta", "mallows_phi")),
        ("true", ("mallows_theta_true", "mallows_phi_true")),
    ):
        first = {run["seed"]: run["index"] for run in reversed(runs) if run["method"] in methods}
        found = [first[seed] for seed in settings.seeds if seed in first]
        if found:
            result[name] = {
                key: mean_of([index[key] for index in found])
                for key in ("rank_correlation", "within_families", "answer_entropy")
            }
            result[name]["weight_quantiles"] = np.mean([index["weight_quantiles"] for index in found], axis=0)
            if settings.setup.examples and name == "estimated":
                result["prompts"] = {
                    "estimated_p": np.mean([index["estimated_p"] for index in found], axis=0),
                    "true_p": found[0]["true_p"],
                    "family_p": found[0]["family_p"],
                }
    return result


def chosen_runs(grid: Grid, runs: Sequence[Run], method: str) -> list[Run]:
    """For each seed a method's run with the highest agreement on the selection prompts; of equal ones the first."""
    return [
        max(select_runs(runs, seed=seed, method=method), key=lambda run: float(run[CHOSEN_BY])) for seed in grid.seeds
    ]


def _choice(grid: Grid, runs: Sequence[Run]) -> list[Row]:
    """Each method at the settings that the selection prompts chose, and its difference from DPO at DPO's choice."""
    chosen = {method: chosen_runs(grid, runs, method) for method in grid.methods}
    # With one or two values every choice lies at an end, and says nothing.
    ends = {
        name: {min(values), max(values)} if len(values) > 2 else set()
        for name, values in (("betas", grid.betas), ("learning_rates", grid.learning_rates))
    }
    rows = []
    for method, here in chosen.items():
        row: Row = {
            "method": method,
            "chosen": [{"seed": r["seed"], "beta": r["beta"], "learning_rate": r["learning_rate"]} for r in here],
            "at_an_end": {
                "beta": float(np.mean([run["beta"] in ends["betas"] for run in here])),
                "learning_rate": float(np.mean([run["learning_rate"] in ends["learning_rates"] for run in here])),
            },
            "values": {},
            "differences": {},
        }
        for name, (path, more_is) in _AT_CHOICE.items():
            values = np.asarray([value(run, path) for run in here])
            row["values"][name] = mean_of(values)
            if method != BASELINE:
                gap = mean_interval(values - [value(run, path) for run in chosen[BASELINE]])
                row["differences"][name] = asdict(gap) | {"verdict": verdict(gap, more_is=more_is)}
        rows.append(row)
    return rows


def read_levels(grid: Grid, runs: Sequence[Run], path: str) -> Row:
    """Each method's line of a quantity along KL, at the better learning rate there."""
    every = [float(run["kl"]) for run in runs]
    kl = np.geomspace(min(every), max(every), _LEVELS)
    lines = {}
    for method in grid.methods:
        per_seed = frontiers(grid, runs, method, path, chosen_by=CHOSEN_BY)
        read_sm = np.stack([read_at_best_rate(lines_of_seed, kl) for lines_of_seed in per_seed])
        reached_m = np.asarray(np.isfinite(read_sm).all(axis=0))
        lines[method] = [mean_of(read_sm[:, m] if reached_m[m] else []) for m in range(len(kl))]
    return {"kl": kl, "methods": lines}


def _examples(settings: WorldSettings, world: Row, runs: Sequence[Run]) -> list[Row]:
    """One held-out prompt of each family, from agreed to contested, and who answers what how often."""
    beta = sorted(settings.betas)[(len(settings.betas) - 1) // 2]
    rate = settings.learning_rates[0]
    here = select_runs(runs, seed=settings.seeds[0], learning_rate=rate, beta=beta)
    return [
        {**shown, "beta": beta, "learning_rate": rate, **{run["method"]: run["answers"][at] for run in here}}
        for at, shown in enumerate(world["shown"])
    ]
