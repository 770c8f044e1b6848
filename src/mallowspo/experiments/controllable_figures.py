"""The figures of the controllable-generation study, drawn from `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from mallowspo.experiments.controllable_config import BASELINE, METHODS
from mallowspo.experiments.controllable_words import number
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figures import (
    METHOD_STYLES,
    FigurePaths,
    MethodStyle,
    frontier_figure,
    grouped_interval_figure,
    house_style,
    save_figure,
)
from mallowspo.stats.intervals import Interval

__all__ = ["draw_figures"]

_OPTIMUM = MethodStyle("Tilted reference", METHOD_STYLES["optimum"].color, "", "-")


def draw_figures(folder: Path, results: dict[str, Any]) -> dict[str, FigurePaths]:
    """Draw and save every figure.

    Args:
        folder: Where to save.
        results: The findings, as read from `results.json`.

    Returns:
        Name → paths: `frontier`, and `differences` where methods share a KL at which they can be shown.
    """
    figures = {"frontier": _frontier(results)}
    if results["by_kl"]:
        figures["differences"] = _differences(results)
    return {name: save_figure(figure, folder, name) for name, figure in figures.items()}


def _estimates(intervals: Sequence[dict[str, Any]], *, above: float = -np.inf) -> Interval:
    """Intervals as figures take them; a single seed is a point, and on a log axis an end stays above 0."""
    drawn = Interval.stack(intervals)
    return Interval(drawn.mean, np.minimum(np.maximum(drawn.low, above), drawn.mean), drawn.high)


def _frontier(results: dict[str, Any]) -> Any:
    curves = {}
    for method in METHODS:
        rows = [row for row in results["settings"] if row["method"] == method]
        smallest = min(number(row["kl"]["mean"]) for row in rows)
        curves[method] = FrontierCurve(
            x=_estimates([row["kl"] for row in rows], above=0.5 * smallest),
            y=_estimates([row["reward"] for row in rows]),
        )
    lowest, furthest = (
        limit(float(edge) for curve in curves.values() for edge in ends(curve))
        for limit, ends in ((min, lambda c: c.x.low), (max, lambda c: c.x.high))
    )
    kl, reward = (np.asarray(results["optimum"][name]) for name in ("kl", "reward"))
    shown = (kl >= 0.8 * lowest) & (kl <= 1.1 * furthest)
    model = Path(results["config"]["design"]["model_name_or_path"]).name
    figure = frontier_figure(
        curves,
        optimum=Curve(kl[shown], reward[shown]) if shown.any() else None,
        title=f"Reward against distance from the reference: {model}",
        y_label="Expected reward",
        styles={"optimum": _OPTIMUM},
    )
    with house_style():
        axes = figure.axes[0]
        axes.axhline(
            number(results["reference"]["reward"]["mean"]), color=_OPTIMUM.color, linewidth=1.0, linestyle=(0, (1, 2))
        )
        axes.set_xscale("log")
        # Plain numbers at 1, 2, 5 and their multiples; on a short axis at every digit.
        digits = (1.0, 2.0, 5.0) if furthest > 4 * lowest else tuple(range(1, 10))
        axes.xaxis.set_major_locator(LogLocator(subs=digits))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def _differences(results: dict[str, Any]) -> Any:
    rows = results["by_kl"]
    values = {
        method: _estimates([row["differences"][method] for row in rows]) for method in METHODS if method != BASELINE
    }
    return grouped_interval_figure(
        values,
        [f"{row['kl']:g} nats" for row in rows],
        x_label="Expected reward, difference from DPO",
        title="Against DPO at equal KL",
        better="right",
    )
