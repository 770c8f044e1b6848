"""The figures of the study of the indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.experiments.estimator_summary import AIM
from mallowspo.experiments.estimator_words import label
from mallowspo.reports.curves import LineCurve
from mallowspo.reports.figure_style import MethodStyle, house_style
from mallowspo.reports.figures import FigurePaths, grouped_interval_figure, line_figure, save_figure
from mallowspo.reports.palette import BLUE, INK, MUTED, ORANGE, SKY
from mallowspo.stats.intervals import Interval

__all__ = ["SHOWN", "draw_figures"]

Results = dict[str, Any]

SHOWN = ("mean_entropy", "answer_entropy", "divergent_token", "panel", "panel_sampled")
"""The indexes of the figure of ranks: the two of the paper, the best single one of one pass, and two panels."""


def draw_figures(folder: Path, results: Results) -> dict[str, FigurePaths]:
    """Draw every figure.

    Args:
        folder: Where to.
        results: The findings, as read from `results.json`.

    Returns:
        Name → its files.
    """
    figures = {f"paper_{distance}": _paper(results, distance) for distance in ("kendall", "spearman")}
    figures["ranks"] = _ranks(results)
    return {name: save_figure(figure, folder, name) for name, figure in figures.items()}


def _styles(names: list[str], labels: list[str]) -> dict[str, MethodStyle]:
    colors, markers = (MUTED, ORANGE, SKY, BLUE, INK), ("s", "^", "D", "o", "v")
    return {
        name: MethodStyle(text, color, marker)
        for name, text, color, marker in zip(names, labels, colors, markers, strict=False)
    }


def _paper(results: Results, distance: str) -> Any:
    rows = [row for row in results["paper"] if row["distance"] == distance]
    shown = [rows[i] for i in sorted({0, len(rows) // 3, 2 * len(rows) // 3, len(rows) - 1})]
    curves = {
        str(row["items"]): LineCurve(
            row["neg_log_phi"], Interval.exact(np.array(row["estimate"]) / np.mean(row["estimate"]))
        )
        for row in shown
    }
    name = "Kendall's tau" if distance == "kendall" else "Spearman's rho"
    return line_figure(
        curves,
        x_label="True −log φ (nats)",
        y_label="−log(H/log n!), relative to its mean",
        title=f"The paper's estimate, {name}",
        styles=_styles(list(curves), [f"n = {items}" for items in curves]),
    )


def _ranks(results: Results) -> Any:
    rows = results["stress"]

    figure = grouped_interval_figure(
        {name: Interval.stack([row["rank"][name] for row in rows]) for name in SHOWN},
        [label(row["condition"]) for row in rows],
        x_label="Rank correlation with the true −log φ on held-out prompts",
        title="Which index keeps its order under which condition?",
        better="right",
        styles=_styles(list(SHOWN), [label(name) for name in SHOWN]),
    )
    with house_style():
        figure.axes[0].axvline(AIM, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.9)
    return figure
