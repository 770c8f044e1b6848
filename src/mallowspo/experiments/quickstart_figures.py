"""The figures of the quick start, drawn from `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.experiments.quickstart_config import METHODS
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figures import (
    FigurePaths,
    frontier_figure,
    grouped_interval_figure,
    index_scatter_figure,
    save_figure,
)
from mallowspo.stats.intervals import Interval

__all__ = ["GROUPS", "differences_figure", "draw_figures"]

# Quantity in the results -> how a reader calls the prompts behind it.
GROUPS = {
    "agreement": "All prompts",
    "agreement_agreed": "Most agreed third",
    "agreement_middle": "Middle third",
    "agreement_contested": "Most contested third",
}


def draw_figures(folder: Path, results: dict[str, Any]) -> dict[str, FigurePaths]:
    """Draw and save every figure.

    Args:
        folder: Where to save.
        results: The findings, as read from `results.json`.

    Returns:
        Name → paths: `index`, `differences`, and for each learning rate number i `frontier_i` and `diversity_i`.
    """
    figures = {"index": _index(results), "differences": differences_figure(results, METHODS)}
    for number, rate in enumerate(results["config"]["learning_rates"]):
        figures[f"frontier_{number}"] = _frontier(results, rate)
        figures[f"diversity_{number}"] = _diversity(results, rate)
    return {name: save_figure(figure, folder, name) for name, figure in figures.items()}


def _index(results: dict[str, Any]) -> Any:
    index = results["index"]
    correlation = index["mean_entropy"]["rank_correlation"]
    return index_scatter_figure(
        index["estimated_neg_log_phi_p"],
        index["true_neg_log_phi_p"],
        correlation=Interval.of(correlation),
        groups=index["family_p"],
        title="The index from the reference's entropy, against the truth",
    )


def differences_figure(results: dict[str, Any], methods: Sequence[str]) -> Any:
    """Draw the differences of agreement from DPO at equal KL, by method and third of the prompts.

    Args:
        results: Findings with `comparisons`.
        methods: In which order.

    Returns:
        The figure.
    """
    rows = [row for row in results["comparisons"] if row["learning_rate"] is None]
    values = {}
    for method in methods:
        found = {row["quantity"]: row["difference"] for row in rows if row["method"] == method}
        if found:
            values[method] = Interval.stack([found[quantity] for quantity in GROUPS], scale=100.0)
    return grouped_interval_figure(
        values,
        list(GROUPS.values()),
        x_label="Agreement at equal KL, difference from DPO (points)",
        title="Who gains on DPO, and where",
        better="right",
    )


def _rows(results: dict[str, Any], rate: float, method: str) -> list[dict[str, Any]]:
    return [row for row in results["settings"] if row["learning_rate"] == rate and row["method"] == method]


def _curve(rows: list[dict[str, Any]], values: list[dict[str, float | None]], scale: float) -> FrontierCurve:
    return FrontierCurve(
        x=Interval.stack([row["kl"] for row in rows]),
        y=Interval.stack(values, scale=scale),
        labels=[f"β {row['beta']:g}" for row in rows],
    )


def _frontier(results: dict[str, Any], rate: float) -> Any:
    curves = {}
    for method in METHODS:
        rows = _rows(results, rate, method)
        curves[method] = _curve(rows, [row["agreement"] for row in rows], 100.0)
    furthest = max(float(curve.x.high.max()) for curve in curves.values())
    kl = np.asarray(results["optimum"]["kl"])
    near = kl <= 1.1 * furthest
    return frontier_figure(
        curves,
        optimum=Curve(kl[near], 100.0 * np.asarray(results["optimum"]["agreement"])[near]),
        title=f"Agreement against distance from the reference, learning rate {rate:g}",
        y_label="Agreement with people (%)",
    )


def _diversity(results: dict[str, Any], rate: float) -> Any:
    curves = {}
    for method in METHODS:
        rows = _rows(results, rate, method)
        curves[method] = _curve(rows, [row["entropy_by_tercile"][2] for row in rows], 1.0)
    ends = np.asarray([0.0, max(float(curve.x.high.max()) for curve in curves.values())])
    for name in ("population", "reference"):
        level = np.full(2, results[name]["entropy_by_tercile"][2])
        curves[name] = FrontierCurve(x=Interval.exact(ends), y=Interval.exact(level))
    return frontier_figure(
        curves,
        title=f"Diversity on the most contested third, learning rate {rate:g}",
        y_label="Entropy of the answers (nats)",
    )
