"""The figures of the dialogue study, drawn from `results.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.experiments.dialogue_summary import THIRDS
from mallowspo.experiments.dialogue_words import shown_beta, test_label
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figures import (
    FigurePaths,
    MethodStyle,
    frontier_figure,
    grouped_interval_figure,
    save_figure,
)
from mallowspo.reports.palette import MUTED
from mallowspo.stats.intervals import Interval

__all__ = ["draw_figures"]

Results = dict[str, Any]

_DIAGONAL = {"optimum": MethodStyle("Calibrated", MUTED, "", "-")}


def draw_figures(folder: Path, results: Results) -> dict[str, FigurePaths]:
    """Draw and save every figure.

    Args:
        folder: Where to save.
        results: The findings, as read from `results.json`.

    Returns:
        Name → paths: `accuracy`, `calibration`, `reliability`, `frontier` where there are two β, `wins_reference`,
        `wins_dpo` where there is a method beside DPO.
    """
    figures = {
        "accuracy": _accuracy(results),
        "calibration": _calibration(results),
        "reliability": _reliability(results),
        "wins_reference": _wins(results, "reference"),
    }
    if len(results["config"]["methods"]) > 1:
        figures["wins_dpo"] = _wins(results, "dpo")
    if len(results["config"]["betas"]) > 1:
        figures["frontier"] = _frontier(results)
    return {name: save_figure(figure, folder, name) for name, figure in figures.items()}


def _settings(results: Results, test: str, method: str) -> list[dict[str, Any]]:
    return [row for row in results["tests"][test]["settings"] if row["method"] == method]


def _shown(results: Results, test: str, method: str) -> dict[str, Any]:
    return next(row for row in _settings(results, test, method) if row["beta"] == shown_beta(results))


def _accuracy(results: Results) -> Any:
    tests = list(results["tests"])
    return grouped_interval_figure(
        {
            method: Interval.stack(
                [_shown(results, test, method)["accuracy"]["all"]["rows"] for test in tests], scale=100.0
            )
            for method in results["config"]["methods"]
        },
        [test_label(results, test) for test in tests],
        x_label="Reward accuracy (%), 50 is guessing; intervals over rows",
        title=f"Whose implicit reward agrees with people, β {shown_beta(results):g}",
        zero_line=False,
        better="right",
    )


def _calibration(results: Results) -> Any:
    places = [(test, third) for test in results["tests"] for third in THIRDS]
    return grouped_interval_figure(
        {
            method: Interval.stack(
                [_shown(results, test, method)["overconfidence"][third]["rows"] for test, third in places], scale=100.0
            )
            for method in results["config"]["methods"]
        },
        [f"{test_label(results, test).split(' ')[0]}, {third} third" for test, third in places],
        x_label="Confidence − accuracy (points); right of 0: too sure of itself",
        title=f"Calibration by third of the dispersion index, β {shown_beta(results):g}",
    )


def _reliability(results: Results) -> Any:
    test = next(iter(results["tests"]))
    curves, ends = {}, [50.0]
    for method in results["config"]["methods"]:
        bins = _shown(results, test, method)["reliability"]
        x, y = (100 * np.asarray([part[name] for part in bins]) for name in ("confidence", "accuracy"))
        curves[method] = FrontierCurve(x=Interval.exact(x), y=Interval.exact(y))
        ends.append(float(x.max()))
    line = np.asarray([50.0, max(ends)])
    return frontier_figure(
        curves,
        optimum=Curve(line, line),
        title=f"Reliability on {test_label(results, test)}, β {shown_beta(results):g}, all seeds' rows in five bins",
        x_label="Confidence that the method puts on its choice (%)",
        y_label="Accuracy (%)",
        styles=_DIAGONAL,
    )


def _frontier(results: Results) -> Any:
    test = next(iter(results["tests"]))
    curves = {}
    for method in results["config"]["methods"]:
        rows = _settings(results, test, method)
        policies = [
            next(p for p in results["policies"] if (p["method"], p["beta"]) == (method, row["beta"])) for row in rows
        ]
        curves[method] = FrontierCurve(
            x=Interval.stack([policy["kl"] for policy in policies]),
            y=Interval.stack([row["accuracy"]["all"]["seeds"] for row in rows], scale=100.0),
        )
    return frontier_figure(
        curves,
        title=f"Accuracy on {test_label(results, test)} against distance from the reference; intervals over seeds",
        y_label="Reward accuracy (%)",
    )


def _wins(results: Results, baseline: str) -> Any:
    rows = [row for row in results["win_rates"] if row["baseline"] == baseline]
    temperatures = results["config"]["temperatures"]
    values = {
        method: Interval.stack([row["above_even"]["rows"] for row in rows if row["method"] == method], scale=100.0)
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    return grouped_interval_figure(
        values,
        [f"Temperature {value:g}" for value in temperatures],
        x_label="Win rate above 50% (points); intervals over prompts",
        title=f"Against {'the reference' if baseline == 'reference' else 'DPO'}, β {shown_beta(results):g}",
        better="right",
    )
