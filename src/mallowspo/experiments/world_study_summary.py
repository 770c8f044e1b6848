"""From the runs of the study `world` to its findings: every number that the report shows is made here.

Whatever is chosen (a setting for a method, the better learning rate at a KL) is chosen on the selection prompts;
whatever is shown was measured on the held-out ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.evaluation.exact import Frontier, agreement, choice_entropy, outside_mass, share_of_optimum
from mallowspo.experiments.frontier_summary import (
    QUANTITIES,
    Grid,
    Run,
    comparisons,
    frontiers,
    more_is,
    select_runs,
    settings,
)
from mallowspo.experiments.world_study_config import BASELINE, WorldStudyConfig
from mallowspo.experiments.world_study_runs import open_world
from mallowspo.stats.frontiers import read_at_best_rate
from mallowspo.stats.intervals import mean_interval
from mallowspo.stats.verdicts import verdict
from mallowspo.world.population import top_choice_probabilities

__all__ = ["CHOSEN_BY", "STUDY_QUANTITIES", "chosen_runs", "read_levels", "summarise_study"]

Floats = NDArray[np.float64]
Row = dict[str, Any]

CHOSEN_BY = "selection_agreement"

STUDY_QUANTITIES: dict[str, tuple[str, int | None]] = {**QUANTITIES, "share_of_optimum": ("share_of_optimum", None)}
"""What is compared at equal KL; see `mallowspo.experiments.frontier_summary.QUANTITIES`."""

# What is compared at the settings that were chosen.
_AT_CHOICE: dict[str, tuple[str, int | None]] = {
    **STUDY_QUANTITIES,
    "entropy_agreed": ("entropy_by_tercile", 0),
    "kl": ("kl", None),
}
_LEVELS = 25  # KLs at which the lines of the figures are read
_KEPT = (
    "seed", "method", "learning_rate", "beta", "agreement", "agreement_renormalised", "outside", "kl",
    "kl_standard_error", "share_of_optimum", CHOSEN_BY, "agreement_by_tercile", "entropy_by_tercile",
)  # fmt: skip


def summarise_study(config: WorldStudyConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """Turn runs into findings.

    Args:
        config: The settings.
        runs: The results of `run_world_job`, in the order of `config.jobs`.

    Returns:
        A tree of plain values for `results.json`: `worlds` and `reference` (what the worlds and their references are
        like), `index`, `optimum`, `settings` (means over seeds), `comparisons` (differences from DPO at equal KL),
        `choice` (each method at its chosen setting), `levels` (each method along KL) and `runs`.
    """
    facts, optima = zip(*(_world(config, seed) for seed in config.seeds), strict=True)
    optimum_of = dict(zip(config.seeds, optima, strict=True))
    flat = [_with_share(run, optimum_of[run["seed"]]) for run in runs]
    grid = Grid(seeds=config.seeds, methods=config.methods, betas=config.betas, learning_rates=config.learning_rates)
    return {
        "worlds": list(facts),
        "reference": {name: asdict(mean_interval([fact[name] for fact in facts])) for name in _FACTS},
        "entropy_contested": {
            who: asdict(mean_interval([fact[f"{who}_entropy_by_tercile"][2] for fact in facts]))
            for who in ("population", "reference")
        },
        "index": _index(config, runs),
        "optimum": _mean_optimum(optima),
        "settings": settings(grid, flat),
        "comparisons": comparisons(grid, flat, baseline=BASELINE, quantities=STUDY_QUANTITIES, chosen_by=CHOSEN_BY),
        "choice": _choice(grid, flat),
        "levels": {name: read_levels(grid, flat, STUDY_QUANTITIES[name]) for name in _LINES},
        "cpu_seconds": float(sum(run["cpu_seconds"] for run in runs)),
        "runs": [{key: _rounded(run[key]) for key in _KEPT} for run in flat],
    }


_FACTS = ("reference_excess_nats", "reference_outside", "reference_agreement")
_LINES = ("agreement", "share_of_optimum", "entropy_contested", "outside")


def _rounded(value: Any) -> Any:
    """Six decimals are far below what a seed changes, and keep the file small."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _with_share(run: Run, optimum: Frontier) -> Run:
    return run | {
        "share_of_optimum": share_of_optimum(run["agreement"], run["kl"], optimum),
        CHOSEN_BY: run["selection"]["agreement"],
    }


def _world(config: WorldStudyConfig, seed: int) -> tuple[Row, Frontier]:
    """What is to be known of one world and its reference, and its exact optimum."""
    split = open_world(config.setup, seed).bench.heldout
    logp_pk = split.reference_scores.logp_pk
    truth_pk = np.stack([top_choice_probabilities(prompt) for prompt in split.prompts])
    phi_p = np.asarray([prompt.phi for prompt in split.prompts])
    fact = {
        "seed": seed,
        "phi_by_tercile": [
            [float(phi_p[split.tercile_p == t].min()), float(phi_p[split.tercile_p == t].max())] for t in range(3)
        ],
        "reference_excess_nats": float((truth_pk * (np.log(truth_pk) - logp_pk)).sum(axis=1).mean()),
        "reference_outside": float(outside_mass(logp_pk).mean()),
        "reference_agreement": float(agreement(logp_pk, logp_pk, split.preference_pkk).counted_p.mean()),
        "reference_entropy_by_tercile": split.by_tercile(choice_entropy(logp_pk)),
        "population_entropy_by_tercile": split.by_tercile(choice_entropy(np.log(truth_pk))),
    }
    return fact, split.optimum()


def _mean_optimum(optima: Sequence[Frontier]) -> Row:
    """The worlds' exact optima, averaged at equal KL."""
    kl = np.linspace(0.0, min(float(optimum.kl.max()) for optimum in optima), 201)
    return {
        "kl": kl,
        "agreement": np.mean([np.interp(kl, optimum.kl, optimum.agreement) for optimum in optima], axis=0),
    }


def _index(config: WorldStudyConfig, runs: Sequence[Run]) -> Row:
    """The trainer's own index against the truth; it depends on the pairs alone, so that one run a seed tells it."""
    result: Row = {}
    for name, methods in (
        ("estimated", ("mallows_theta", "mallows_phi")),
        ("true", ("mallows_theta_true", "mallows_phi_true")),
    ):
        first = {run["seed"]: run["index"] for run in reversed(runs) if run["method"] in methods}
        found = [first[seed] for seed in config.seeds if seed in first]
        if found:
            result[name] = {
                "rank_correlation": asdict(mean_interval([index["rank_correlation"] for index in found])),
                "weight_quantiles": np.mean([index["weight_quantiles"] for index in found], axis=0),
            }
    return result


def chosen_runs(grid: Grid, runs: Sequence[Run], method: str) -> list[Run]:
    """For each seed the run of a method with the highest agreement on the selection prompts.

    Args:
        grid: The settings.
        runs: Their runs, with `selection_agreement`.
        method: Which method.

    Returns:
        One run per seed; of equal ones the first.

    Example:
        >>> grid = Grid(seeds=(0,), methods=("dpo",), betas=(1.0, 2.0), learning_rates=(1e-3,))
        >>> runs = [{"seed": 0, "method": "dpo", "beta": b, "selection_agreement": a} for b, a in ((1, 0.5), (2, 0.6))]
        >>> chosen_runs(grid, runs, "dpo")[0]["beta"]
        2
    """
    return [
        max(select_runs(runs, seed=seed, method=method), key=lambda run: float(run[CHOSEN_BY])) for seed in grid.seeds
    ]


def _value(run: Run, place: tuple[str, int | None]) -> float:
    name, tercile = place
    return float(run[name] if tercile is None else run[name][tercile])


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
        for name, place in _AT_CHOICE.items():
            values = np.asarray([_value(run, place) for run in here])
            row["values"][name] = asdict(mean_interval(values))
            if method != BASELINE:
                gap = mean_interval(values - [_value(run, place) for run in chosen[BASELINE]])
                row["differences"][name] = asdict(gap) | {"verdict": verdict(gap, more_is=more_is(name))}
        rows.append(row)
    return rows


def read_levels(grid: Grid, runs: Sequence[Run], place: tuple[str, int | None]) -> Row:
    """Each method's line of a quantity along KL, at the learning rate that the selection prompts choose there.

    Args:
        grid: The settings.
        runs: Their runs, with `selection_agreement`.
        place: Where a run has the quantity; see `STUDY_QUANTITIES`.

    Returns:
        `kl`, and under `methods` for each method one interval per KL; empty ones where not every seed reaches.
    """
    every = [float(run["kl"]) for run in runs]
    kl = np.geomspace(min(every), max(every), _LEVELS)
    lines = {}
    for method in grid.methods:
        read_sm = np.stack(
            [
                read_at_best_rate(lines_of_seed, kl)
                for lines_of_seed in frontiers(grid, runs, method, grid.learning_rates, place, chosen_by=CHOSEN_BY)
            ]
        )
        reached_m = np.asarray(np.isfinite(read_sm).all(axis=0))
        lines[method] = [
            asdict(mean_interval(read_sm[:, m]) if reached_m[m] else mean_interval([])) for m in range(len(kl))
        ]
    return {"kl": kl, "methods": lines}
