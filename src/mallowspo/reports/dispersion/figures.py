"""The figures of the dispersion report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mallowspo.dispersion.entropy import mean_by_prompt
from mallowspo.dispersion.side_by_side import SideBySide
from mallowspo.reports.figure_style import FigurePaths, save_figure
from mallowspo.reports.figures import grouped_interval_figure, histogram_figure, index_scatter_figure
from mallowspo.stats.intervals import Interval

__all__ = ["draw_dispersion_figures"]

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]

# A scatter of more points is a blot, and its file is large.
_POINTS = 2_000
_INDEX_LABEL = "Index u (larger: the reference is less sure)"


def draw_dispersion_figures(
    folder: Path, summary: Mapping[str, Any], tables: Mapping[str, Columns], sides: Sequence[SideBySide]
) -> dict[str, FigurePaths]:
    """Draw and save the figures that the sources allow."""
    figures: dict[str, Figure] = {}
    if "reference" in tables:
        figures |= _reference_figures(summary["reference"], tables["reference"])
    for name in ("votes", "rankings"):
        if name in tables:
            table = tables[name]
            phi = np.asarray(table["dispersion"], np.float64)
            phi = phi[np.asarray(table["voted"], bool)] if "voted" in table else phi
            if len(phi) > 3:
                figures[f"{name}_phi"] = histogram_figure(
                    phi,
                    x_label="φ of a pair" if name == "votes" else "φ of a prompt",
                    y_label="Pairs" if name == "votes" else "Prompts",
                    title="0: everybody agrees. 1: as if at random",
                    bins=20,
                )
            figures[f"{name}_weight"] = _weights(table)
    detail = summary.get("rankings", {}).get("detail", [])
    if len(detail) > 1:
        figures["rankings_detail"] = _intervals(detail)
    for side in sides:
        figures[f"side_by_side_{side.summary['people']}"] = _side(side)
    return {name: save_figure(figure, folder, name) for name, figure in figures.items()}


def _weights(table: Columns) -> Figure:
    return histogram_figure(
        table["dispersion_weight"],
        x_label="Weight w of a row (mean 1)",
        y_label="Rows",
        title="Above 1: pulls harder than in DPO. Below 1: more gently",
    )


def _reference_figures(facts: Mapping[str, Any], table: Columns) -> dict[str, Figure]:
    names = np.asarray(table["prompt_id"], dtype=str).tolist()
    _, first = np.unique(names, return_index=True)

    def per_prompt(name: str) -> Floats:
        return mean_by_prompt(table[name], names)[first]

    index, length = per_prompt("index"), per_prompt("response_length")
    figures = {
        "index": histogram_figure(index, x_label=_INDEX_LABEL, title="The index of the prompts", digits=3),
        "weight": _weights(table),
    }
    found = {item["with"]: item for item in facts["correlations"]}
    beside = {
        "length": ("response length (tokens)", length, "Mean length of the responses (tokens)"),
        "margin": (
            "size of the reference margin (nats)",
            np.abs(per_prompt("reference_margin")),
            "|log π_ref(chosen) − log π_ref(rejected)| (nats)",
        ),
    }
    for name, (key, values, label) in beside.items():
        if found[key]["value"] is not None and len(first) > 2:
            figures[name] = _scatter(index, values, Interval.of(found[key]).drawn, label)
    return figures


def _scatter(index: Floats, values: Floats, estimate: Interval, label: str) -> Figure:
    rows = np.arange(len(index))
    title = ""
    if len(rows) > _POINTS:
        rows = np.random.default_rng(0).choice(len(index), _POINTS, replace=False)
        title = f"A sample; the correlation is that of all {len(index):,}"
    return index_scatter_figure(
        index[rows], values[rows], correlation=estimate, x_label=label, y_label=_INDEX_LABEL, title=title
    )


def _side(side: SideBySide) -> Figure:
    return index_scatter_figure(
        side.index,
        side.phi,
        correlation=Interval.of(side.summary["correlation"]).drawn,
        title=f"The model's index against people's {side.summary['people']}",
        x_label="φ of the people (1: as if at random)",
        y_label=_INDEX_LABEL,
    )


def _intervals(detail: Sequence[Mapping[str, Any]]) -> Figure:
    values = {
        name: Interval(*([item[key][end] for item in detail] for end in ("phi", "low", "high")))
        for name, key in (("Kendall's tau", "kendall"), ("Spearman's rho", "spearman"))
        if all(key in item for item in detail)
    }
    return grouped_interval_figure(
        values,
        [item["prompt"] for item in detail],
        x_label="φ (0: everybody agrees, 1: as if at random; the two distances have their own scales)",
        zero_line=False,
    )
