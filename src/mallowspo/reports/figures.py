"""The figures of the studies: arrays in, a figure out. Every estimate is drawn with its interval."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from mallowspo.errors import InputError
from mallowspo.reports.figure_style import (
    MethodStyle,
    house_style,
    new_figure,
    new_panels,
    outside_legend,
    save_figure,
    styles_for,
)
from mallowspo.reports.palette import BLUE, GRID, INK, MUTED, PAPER, SKY, VERMILLION
from mallowspo.reports.text import format_interval, format_number
from mallowspo.stats.intervals import Interval

__all__ = [
    "Curve",
    "frontier_figure",
    "grouped_interval_figure",
    "heat_map_figure",
    "histogram_figure",
    "index_scatter_figure",
    "line_figure",
    "panel_figure",
    "save_figure",
]

_BAND = 0.16  # opacity of an interval band: two may lie over each other and the grid still shows
_WHISKER = 0.55  # opacity of whiskers that stand close to each other: the lines stay in front
_FEW = 12  # points of a curve up to which each has whiskers of its own rather than a band
_APART = 4.0  # points of print between the whiskers of curves at one place


@dataclass(frozen=True)
class Curve:
    """One line of a figure, one entry a point; a side that is given as numbers has no uncertainty."""

    x: Any  # an `Interval` of arrays, or numbers, which become one
    y: Any

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            side = getattr(self, name)
            object.__setattr__(self, name, side if isinstance(side, Interval) else Interval.exact(side))
        x, y = np.shape(self.x.mean), np.shape(self.y.mean)
        if x != y or len(x) != 1:
            raise InputError(f"Curve: got shapes {x} and {y}, expected one length")


def _look(style: MethodStyle) -> dict[str, Any]:
    """Translate a look into the arguments of `plot` and `errorbar`."""
    return {
        "color": style.color,
        "marker": style.marker or "None",
        "markerfacecolor": style.face,
        "markeredgecolor": style.color,
        "linestyle": style.linestyle,
    }


def _legend(figure: Figure, looks: Mapping[str, MethodStyle], *, line: bool = True) -> None:
    shown = list(looks.values())
    if len(shown) > 1:
        handles = [Line2D([], [], **_look(style) | ({} if line else {"linestyle": "None"})) for style in shown]
        outside_legend(figure, handles, [style.label for style in shown], handle_length=3.0 if line else 1.0)


def frontier_figure(
    curves: Mapping[str, Curve],
    *,
    optimum: Curve | None = None,
    level: tuple[str, float] | None = None,
    title: str = "",
    x_label: str = "KL from the reference model (nats per response)",
    y_label: str = "Agreement with people",
    styles: Mapping[str, MethodStyle] | None = None,
) -> Figure:
    """Draw what each method gains against how far it moves from the reference.

    `level` is a horizontal line and its name. Bands of several methods would hide each other: one alone has its band.
    """
    figure, axes = new_figure(title=title, x_label=x_label, y_label=y_label, height=4.8)
    looks = styles_for([*curves, *(["optimum"] if optimum else [])], styles)
    with house_style():
        if optimum is not None:
            axes.plot(optimum.x.mean, optimum.y.mean, **_look(looks["optimum"]), zorder=1.8)
        for name, curve in curves.items():
            order = np.argsort(curve.x.mean, kind="stable")
            x, y, look = curve.x.take(order), curve.y.take(order), looks[name]
            if len(curves) == 1:
                axes.fill_between(x.mean, y.low, y.high, color=look.color, alpha=_BAND, linewidth=0)
            whiskers = to_rgba(look.color, _WHISKER)
            axes.errorbar(x.mean, y.mean, xerr=x.arms, yerr=y.arms, elinewidth=1.0, ecolor=whiskers, **_look(look))
        if level is not None:
            looks[level[0]] = MethodStyle(level[0], MUTED, "", (0, (1, 2)))
            axes.axhline(level[1], color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
        axes.margins(0.06)
        _legend(figure, looks)
    return figure


def index_scatter_figure(
    estimated: ArrayLike,
    truth: ArrayLike,
    *,
    correlation: Interval,
    groups: Sequence[str] | None = None,
    title: str = "",
    x_label: str = "True −log φ (0: people choose at random)",
    y_label: str = "Estimated −log φ",
) -> Figure:
    """Draw an estimated index against the truth, one point a prompt; the correlation stands in the title."""
    x, y = np.asarray(truth, dtype=float), np.asarray(estimated, dtype=float)
    names = np.asarray(groups if groups is not None else [""] * len(x), dtype=object)
    if x.shape != y.shape or x.ndim != 1 or len(names) != len(x) or len(x) == 0:
        raise InputError(
            f"index_scatter_figure: got {y.shape} estimates, {x.shape} truths and {len(names)} groups; "
            "expected one length, at least 1"
        )
    found = format_interval(float(correlation.mean), float(correlation.low), float(correlation.high))
    said = f"Rank correlation {found}, {len(x):,} prompts"
    figure, axes = new_figure(
        title=f"{title}\n{said}" if title else said, x_label=x_label, y_label=y_label, height=4.8
    )
    # Groups from left to right, so that the legend reads as the figure does.
    order = sorted(dict.fromkeys(names.tolist()), key=lambda name: float(x[names == name].mean()))
    looks = styles_for(order, {"": MethodStyle("", BLUE, "o")})
    # Many points make a cloud: smaller and fainter, so that its densest part is not a blot.
    size, opacity = (34.0, 0.85) if len(x) <= 300 else (14.0, 0.5)
    with house_style():
        for name in order:
            here = names == name
            style = looks[name]
            axes.scatter(
                x[here],
                y[here],
                s=size,
                c=style.face,
                marker=style.marker,
                alpha=opacity,
                edgecolors=PAPER if style.filled else style.color,
                linewidths=0.4,
            )
        _legend(figure, looks, line=False)
    return figure


def grouped_interval_figure(
    values: Mapping[str, Interval],
    groups: Sequence[str],
    *,
    x_label: str,
    title: str = "",
    zero_line: bool = True,
    better: Literal["right"] | None = None,
    styles: Mapping[str, MethodStyle] | None = None,
) -> Figure:
    """Draw estimates of several methods in several groups as dots with whiskers."""
    for name, estimate in values.items():
        if estimate.mean.shape != (len(groups),):
            raise InputError(
                f"values[{name!r}]: got shape {estimate.mean.shape}, expected ({len(groups)},), one a group"
            )
    arrow = "" if better is None else "\nbetter →"
    rows = len(groups) * (len(values) + 1)
    figure, axes = new_figure(title=title, x_label=x_label + arrow, height=max(2.6, 1.6 + 0.24 * rows))
    looks = styles_for(values, styles)
    # Within a group the methods stand apart by one step; between groups there is room for one more.
    step = 1.0 / (len(values) + 1)
    with house_style():
        if zero_line:
            axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1.9)
        for index in range(1, len(groups)):
            axes.axhline(index - 0.5, color=GRID, linewidth=1.4, zorder=1.7)
        for place, (name, estimate) in enumerate(values.items()):
            y = np.arange(len(groups)) + (place - (len(values) - 1) / 2) * step
            look = _look(looks[name]) | {"linestyle": "None"}
            axes.errorbar(estimate.mean, y, xerr=estimate.arms, elinewidth=1.6, **look)
        _name_rows(axes, [textwrap.fill(group, 24) for group in groups], (-0.5, 0.5), margin=0.06)
        _legend(figure, looks, line=False)
    return figure


def _name_rows(axes: Axes, names: Sequence[str], room: tuple[float, float], *, margin: float) -> None:
    """Name the rows from the top down, without a line each; `room` is left above the first and below the last."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 1 + room[1], room[0])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=margin)


def heat_map_figure(
    values: Mapping[str, ArrayLike],
    rows: Sequence[str],
    *,
    aim: float,
    title: str = "",
    colour_label: str,
) -> Figure:
    """Draw one number a row and column as colour and in digits, over [-1, 1]; bold from `aim` on."""
    table = np.column_stack([np.asarray(column, dtype=float) for column in values.values()])
    if table.shape != (len(rows), len(values)):
        raise InputError(f"heat_map_figure: got shape {table.shape}, expected {(len(rows), len(values))}")
    figure, axes = new_figure(title=title, height=max(5.0, 2.6 + 0.25 * len(rows)))
    with house_style():
        shades = LinearSegmentedColormap.from_list("", [VERMILLION, PAPER, BLUE])
        image = axes.pcolormesh(table, cmap=shades, vmin=-1.0, vmax=1.0, edgecolors=PAPER, linewidth=1.0)
        for (row, column), value in np.ndenumerate(table):
            axes.text(
                column + 0.5, row + 0.5, format_number(value, 2), ha="center", va="center", fontsize=9.0,
                color=PAPER if abs(value) > 0.55 else INK, weight="bold" if value >= aim else "normal",
            )  # fmt: skip
        axes.set_xticks(np.arange(len(values)) + 0.5, list(values), rotation=90)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, location="bottom", aspect=45, pad=0.015)
        bar.set_label(textwrap.fill(colour_label, 52))
        bar.outline.set_visible(False)
    return figure


def panel_figure(
    panels: Mapping[str, Mapping[str, Interval]],
    *,
    x_label: str,
    title: str = "",
    series: Sequence[str] = (),
    beside: Mapping[str, Mapping[str, Interval]] | None = None,
) -> Figure:
    """Draw one panel a quantity, each with a scale of its own: the methods by name with their intervals, 0 marked.

    `beside` has estimates of another origin, drawn in grey under the first; `series` names the two in the legend.
    """
    rows = sum(map(len, panels.values()))
    figure, axes_list = new_panels(len(panels), title=title, height=1.0 + 0.95 * len(panels) + 0.33 * rows)
    looks = styles_for([name for values in panels.values() for name in values])
    with house_style():
        for axes, (panel, values) in zip(axes_list, panels.items(), strict=True):
            others = (beside or {}).get(panel, {})
            axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1.9)
            for place, (name, estimate) in enumerate(values.items()):
                if name in others:
                    other = others[name]
                    axes.errorbar(
                        other.mean, place + 0.28, xerr=other.arms[:, None], elinewidth=4.0, ecolor=GRID, color=MUTED,
                        marker="|", markersize=9.0, linestyle="None", zorder=1.8,
                    )  # fmt: skip
                shown = estimate.drawn
                look = _look(looks[name]) | {"linestyle": "None"}
                axes.errorbar(shown.mean, place, xerr=shown.arms[:, None], elinewidth=1.8, **look)
            axes.set_title(textwrap.fill(panel, 58), loc="left", fontsize=10.0)
            _name_rows(axes, [textwrap.fill(looks[name].label, 26) for name in values], (-0.6, 0.65), margin=0.08)
        axes_list[-1].set_xlabel(x_label)
        if beside and len(series) == 2:
            ours = Line2D([], [], color=INK, marker="o", linestyle="-", linewidth=1.8)
            theirs = Line2D([], [], color=GRID, marker="|", markeredgecolor=MUTED, markersize=9.0, linewidth=4.0)
            outside_legend(figure, [ours, theirs], list(series))
    return figure


_QUANTILES: Mapping[float, tuple[str, Any]] = {
    0.1: ("10% lie below", (0, (1.5, 1.8))),
    0.5: ("Median", "-"),
    0.9: ("90% lie below", (0, (6, 2))),
}


def histogram_figure(
    values: ArrayLike,
    *,
    x_label: str,
    y_label: str = "Prompts",
    title: str = "",
    bins: int | str = "auto",
    digits: int = 2,
) -> Figure:
    """Draw a distribution with its quantiles; values that are not finite are counted in the title."""
    array = np.asarray(values, dtype=float).ravel()
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        raise InputError(f"histogram_figure: none of the {array.size} values is finite; there is nothing to draw")
    if finite.size < array.size:
        title = f"{title} ({array.size - finite.size:,} values not finite, not shown)".strip()
    figure, axes = new_figure(title=title, x_label=x_label, y_label=y_label, height=3.8)
    middle = np.subtract(*np.quantile(finite, (0.75, 0.25)))
    if bins == "auto" and middle > 0 and np.ptp(finite) * np.cbrt(finite.size) > 2 * 60 * middle:
        # Outliers may ask for more bins than memory holds: numpy from 2.3 on stops there, and older ones do not.
        bins = math.ceil(2 * math.sqrt(finite.size))
    edges = np.histogram_bin_edges(finite, bins=bins)
    if len(edges) > 61:
        edges = np.histogram_bin_edges(finite, bins=60)
    with house_style():
        axes.hist(finite, bins=edges.tolist(), color=SKY, edgecolor=PAPER, linewidth=0.6)
        handles: list[Any] = []
        labels: list[str] = []
        for share, (name, dash) in _QUANTILES.items():
            value = float(np.quantile(finite, share))
            handles.append(axes.axvline(value, color=INK, linewidth=1.5, linestyle=dash))
            labels.append(f"{name} {format_number(value, digits)}")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.grid(visible=False, axis="x")
        outside_legend(figure, handles, labels)
    return figure


def line_figure(
    curves: Mapping[str, Curve],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    zero_line: bool = False,
    doublings: bool = False,
    styles: Mapping[str, MethodStyle] | None = None,
) -> Figure:
    """Draw quantities over steps, each with its band, or side by side with whiskers where the points are few.

    With `doublings` each doubling of a step is as wide, and the ticks are the steps.
    """
    figure, axes = new_figure(title=title, x_label=x_label, y_label=y_label)
    looks = styles_for(curves, styles)
    with house_style():
        if doublings:
            axes.set_xscale("log", base=2)
            ticks = sorted({float(x) for curve in curves.values() for x in curve.x.mean})
            axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
            axes.minorticks_off()
        if zero_line:
            axes.axhline(0.0, color=MUTED, linewidth=1.0, zorder=1.9)
        for place, (name, curve) in enumerate(curves.items()):
            x, look = curve.x.mean, looks[name]
            every = max(1, len(x) // 10)
            # Curves that run together would hide each other's markers: each starts at another point.
            start = (place * every) // max(1, len(curves))
            if 1 < len(x) <= _FEW and len(curves) > 1 and np.any(curve.y.arms > 0):
                # Bands would hide each other, and so would whiskers at one place.
                aside = (place - (len(curves) - 1) / 2) * _APART / 72.0
                moved = axes.transData + ScaledTranslation(aside, 0.0, figure.dpi_scale_trans)
                whiskers = to_rgba(look.color, _WHISKER)
                shown = {**_look(look), "elinewidth": 1.2, "ecolor": whiskers, "transform": moved}
                axes.errorbar(x, curve.y.mean, yerr=curve.y.arms, **shown)
                axes.update_datalim(np.column_stack([np.tile(x, 2), np.concatenate([curve.y.low, curve.y.high])]))
                axes.margins(x=0.05)
                continue
            axes.fill_between(x, curve.y.low, curve.y.high, color=look.color, alpha=_BAND, linewidth=0)
            axes.plot(x, curve.y.mean, **_look(look), markevery=(start, every))
            axes.margins(x=0.02)
        _legend(figure, looks)
    return figure
