"""The figures of the study `world`, drawn from `results.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.experiments.quickstart_figures import GROUPS, differences_figure
from mallowspo.experiments.quickstart_words import number
from mallowspo.experiments.world_study_words import challengers
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figures import FigurePaths, frontier_figure, grouped_interval_figure, save_figure
from mallowspo.stats.intervals import Interval

__all__ = ["draw_world_figures"]


def draw_world_figures(folder: Path, results: dict[str, Any]) -> dict[str, FigurePaths]:
    """Draw and save every figure.

    Args:
        folder: Where to save.
        results: The findings, as read from `results.json`.

    Returns:
        Name → paths: `choice`, `differences`, `agreement`, `share`, `diversity`.
    """
    optimum = results["optimum"]
    kl, best = np.asarray(optimum["kl"]), 100 * np.asarray(optimum["agreement"])
    curves = _curves(results, "agreement", 100.0)
    near = kl <= max((float(curve.x.mean.max()) for curve in curves.values()), default=np.inf)
    figures = {
        "choice": _choice(results),
        "differences": differences_figure(results, results["config"]["methods"]),
        "agreement": frontier_figure(
            curves,
            optimum=Curve(kl[near], best[near]),
            title="Agreement against distance from the reference",
            y_label="Agreement with people (%)",
        ),
        "share": frontier_figure(
            _curves(results, "share_of_optimum", 100.0),
            title="Share of the exact optimum's gain at the same KL",
            y_label="Share of the possible gain (%)",
        ),
        "diversity": _diversity(results),
    }
    return {name: save_figure(figure, folder, name) for name, figure in figures.items()}


def _choice(results: dict[str, Any]) -> Any:
    values = {
        row["method"]: Interval.stack([row["differences"][name] for name in GROUPS], scale=100.0)
        for row in results["choice"]
        if row["method"] in challengers(results)
    }
    return grouped_interval_figure(
        values,
        list(GROUPS.values()),
        x_label="Agreement, each at its own chosen settings, difference from DPO (points)",
        title="At the settings that the selection prompts chose",
        better="right",
    )


def _curves(results: dict[str, Any], quantity: str, scale: float) -> dict[str, FrontierCurve]:
    """Each method along KL, at the learning rate that the selection prompts choose, where every seed reaches."""
    levels = results["levels"][quantity]
    curves = {}
    for method, intervals in levels["methods"].items():
        here = [(kl, one) for kl, one in zip(levels["kl"], intervals, strict=True) if one["mean"] is not None]
        if here:
            x = np.asarray([kl for kl, _ in here])
            curves[method] = FrontierCurve(
                x=Interval.exact(x), y=Interval.stack([one for _, one in here], scale=scale)
            )
    return curves


def _diversity(results: dict[str, Any]) -> Any:
    curves = _curves(results, "entropy_contested", 1.0)
    ends = np.asarray([0.0, max((float(curve.x.mean.max()) for curve in curves.values()), default=1.0)])
    for name, interval in results["entropy_contested"].items():
        level = np.full(2, number(interval["mean"]))
        curves[name] = FrontierCurve(x=Interval.exact(ends), y=Interval.exact(level))
    return frontier_figure(
        curves,
        title="Diversity on the most contested third",
        y_label="Entropy of the answers (nats)",
    )
