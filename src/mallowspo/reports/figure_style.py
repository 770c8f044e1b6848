"""The house style of figures: one look per method everywhere, and files that are the same byte for byte.

Nothing here touches matplotlib's global state: figures are built without pyplot, and settings hold only
inside `house_style()`.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from mallowspo.errors import InputError
from mallowspo.files import atomic_path
from mallowspo.reports.palette import (
    BLUE,
    GREEN,
    GRID,
    HOUSE_MARK,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
)

__all__ = [
    "METHOD_STYLES",
    "OPTIMUM_STYLES",
    "FigurePaths",
    "MethodStyle",
    "house_style",
    "new_figure",
    "new_panels",
    "outside_legend",
    "save_figure",
    "styles_for",
]

PNG_DPI = 160
_TITLE_SIZE = 11.5  # points
_WIDTH = 7.2  # inches: the text width of a page

_DASHED = (0, (5, 2))
_DASH_DOT = (0, (6, 2, 1.5, 2))
_DOTTED = (0, (1.5, 1.8))
_LONG = (0, (9, 3))

_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelpad": 6.0,
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "errorbar.capsize": 0.0,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 10.0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markeredgewidth": 1.0,
    "lines.markersize": 6.5,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "mallowspo",
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9.5,
}


@dataclass(frozen=True)
class MethodStyle:
    """How one method looks in every figure; marker and line tell it apart where colour cannot."""

    label: str  # in the legend
    color: str  # hexadecimal, lower case
    marker: str  # of matplotlib; empty for a curve without points
    linestyle: str | tuple[float, tuple[float, ...]] = "-"  # a dash pattern as (offset, lengths)
    filled: bool = True

    @property
    def face(self) -> str:
        """The colour inside the marker."""
        return self.color if self.filled else PAPER


METHOD_STYLES: Mapping[str, MethodStyle] = MappingProxyType(
    {
        "dpo": MethodStyle("DPO", INK, "o", "-"),
        "mallows_theta": MethodStyle("MallowsPO-θ", BLUE, "s", _DASHED),
        "mallows_theta_true": MethodStyle("MallowsPO-θ, true index", SKY, "s", _LONG, filled=False),
        "mallows_theta_50": MethodStyle("MallowsPO-θ, √w", PURPLE, "1", _DASH_DOT),
        "mallows_norm": MethodStyle("MallowsPO, mean over tokens", ORANGE, "2", _DASHED),
        "mallows_phi": MethodStyle("MallowsPO-φ", VERMILLION, "^", _DASH_DOT),
        "mallows_phi_true": MethodStyle("MallowsPO-φ, true index", ORANGE, "^", _LONG, filled=False),
        "mallows_theta_pairs": MethodStyle("MallowsPO-θ, index from pairs", BLUE, "h", _DASHED),
        "mallows_theta_votes": MethodStyle("MallowsPO-θ, index from votes", BLUE, "h", _DOTTED, filled=False),
        "mallows_phi_pairs": MethodStyle("MallowsPO-φ, index from pairs", VERMILLION, ">", _DASH_DOT),
        "mallows_phi_votes": MethodStyle("MallowsPO-φ, index from votes", VERMILLION, ">", _DOTTED, filled=False),
        "theta_mean_entropy": MethodStyle("θ, mean entropy", BLUE, "d", _DASHED),
        "theta_panel": MethodStyle("θ, panel", PURPLE, "*", _DASH_DOT),
        "theta_true": MethodStyle("θ, true index", SKY, "d", _LONG, filled=False),
        "mallows_theta_pairs_50": MethodStyle("√w, index from pairs", PURPLE, "3", _DASHED),
        "theta_true_25": MethodStyle("θ, true index, ρ = ¼", SKY, "o", _DOTTED, filled=False),
        "theta_true_50": MethodStyle("√w, true index", PURPLE, "H", _DASH_DOT),
        "theta_true_75": MethodStyle("θ, true index, ρ = ¾", SKY, "H", _DASHED, filled=False),
        "theta_best": MethodStyle("θ, first divergent token", VERMILLION, "8", _DASH_DOT),
        "theta_best_25": MethodStyle("θ, first divergent token, ρ = ¼", VERMILLION, "8", _DOTTED, filled=False),
        "theta_best_50": MethodStyle("√w, first divergent token", VERMILLION, "p", _DASHED, filled=False),
        "theta_best_75": MethodStyle("θ, first divergent token, ρ = ¾", VERMILLION, "<", _LONG, filled=False),
        "theta_one_pass_panel": MethodStyle("θ, panel of one pass", PURPLE, "*", _DASH_DOT, filled=False),
        "theta_released_shrunk": MethodStyle("θ, released index spread by votes", BLUE, "+", _DOTTED),
        "theta_best_shrunk": MethodStyle("θ, divergent token spread by votes", PURPLE, "x", _DOTTED),
        "ipo_sum": MethodStyle("IPO (summed)", GREEN, "X", _DOTTED, filled=False),
        "cdpo": MethodStyle("cDPO (10% smoothed)", MUTED, "P", _DASHED, filled=False),
        "ipo": MethodStyle("IPO", GREEN, "D", _DOTTED),
        "mallows_ipo": MethodStyle("MallowsPO-IPO", GREEN, "D", _DASHED, filled=False),
        "simpo": MethodStyle("SimPO", PURPLE, "v", _DOTTED),
        "mallows_simpo": MethodStyle("MallowsPO-SimPO", PURPLE, "v", _DASHED, filled=False),
        "rainbow": MethodStyle("RainbowPO", ORANGE, "p", "-"),
        "hinge": MethodStyle("Hinge", SKY, "<", _DOTTED),
        "reference": MethodStyle("Reference model", MUTED, "X", _DOTTED),
        "population": MethodStyle("People", MUTED, "P", _DASHED),
        "optimum": MethodStyle("Exact optimum", MUTED, "", "-"),
    }
)

# The best policies of the two yardsticks, where both are drawn.
OPTIMUM_STYLES: Mapping[str, MethodStyle] = MappingProxyType(
    {
        "optimum_consensus": MethodStyle("Exact optimum of consensus", MUTED, "", "-"),
        "optimum_agreement": MethodStyle("Exact optimum of agreement", MUTED, "", _DASHED),
    }
)

# For names that the table does not hold: looks that no named method has.
_SPARE_LOOKS: tuple[tuple[str, str, str | tuple[float, tuple[float, ...]]], ...] = (
    (BLUE, "o", "-"),
    (VERMILLION, "s", _DASHED),
    (GREEN, "^", _DASH_DOT),
    (PURPLE, "D", _LONG),
    (ORANGE, "v", _DOTTED),
    (SKY, "P", "-"),
    (MUTED, "X", _DASHED),
    (INK, ">", _DASH_DOT),
)


def styles_for(names: Iterable[str], styles: Mapping[str, MethodStyle] | None = None) -> dict[str, MethodStyle]:
    """The look of each name, the same for the same names; one without a look of its own gets the next spare one."""
    names = list(dict.fromkeys(names))
    known = {**METHOD_STYLES, **(styles or {})}
    used = [known[name] for name in names if name in known]
    colors, markers = {look.color for look in used}, {look.marker for look in used}
    # Looks that share least with the named methods of this figure come first; hollow markers last.
    looks = sorted(_SPARE_LOOKS, key=lambda look: 2 * (look[0] in colors) + (look[1] in markers))
    chosen = {name: known[name] for name in names if name in known}
    for place, name in enumerate(name for name in names if name not in known):
        color, marker, line = looks[place % len(looks)]
        chosen[name] = MethodStyle(name, color, marker, line, filled=place < len(looks))
    return {name: chosen[name] for name in names}


def _fit(text: Text, available: float) -> None:
    """Break the lines of a text until it is no longer, along its writing, than `available` pixels."""
    written = text.get_text()
    letters = max((len(line) for line in written.splitlines()), default=0)
    while letters > 8:
        box = text.get_window_extent()
        if (box.height if text.get_rotation() == 90.0 else box.width) <= available:
            return
        letters -= 2
        text.set_text("\n".join(textwrap.fill(line, letters) for line in written.splitlines()))


@contextmanager
def house_style() -> Iterator[None]:
    """Hold matplotlib's settings at the house style inside the block, whatever the user's own are."""
    with matplotlib.style.context(["default", _RC]):
        yield


def new_figure(
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    height: float = 4.2,
) -> tuple[Figure, Axes]:
    """Start a figure with one pair of axes in the house style; draw on it inside `house_style()`."""
    with house_style():
        figure, (axes,) = new_panels(1, title=title, height=height)
        _fit(axes.set_xlabel(x_label), 0.8 * figure.bbox.width)
        _fit(axes.set_ylabel(y_label), 0.7 * figure.bbox.height)
    return figure, axes


def new_panels(count: int, *, title: str = "", height: float) -> tuple[Figure, list[Axes]]:
    """Start a figure with panels one above the other; draw on it inside `house_style()`."""
    with house_style():
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = [figure.add_subplot(count, 1, place) for place in range(1, count + 1)]
        if title:
            # From the edge of the figure, not of the axes: wide tick labels must not push it out.
            above = figure.suptitle(title, x=0.012, ha="left", fontsize=_TITLE_SIZE)
            _fit(above, 0.97 * figure.bbox.width)
    return figure, axes


def outside_legend(
    figure: Figure, handles: Iterable[Any], labels: Iterable[str], *, handle_length: float = 3.0
) -> Legend | None:
    """Set the legend below the axes of a figure with constrained layout, in as many columns as fit its width."""
    handles, labels = list(handles), list(labels)
    if not handles:
        return None
    with house_style():
        for columns in range(min(len(handles), 4), 0, -1):
            legend = figure.legend(
                handles, labels, loc="outside lower center", ncols=columns, handlelength=handle_length
            )
            legend_width = legend.get_window_extent(figure.canvas.get_renderer()).width  # type: ignore[attr-defined]
            if legend_width <= figure.bbox.width or columns == 1:
                return legend
            legend.remove()
    return None


@dataclass(frozen=True)
class FigurePaths:
    """Where a figure lies: vector for pages and papers, pixels for everything else."""

    svg: Path
    png: Path


def save_figure(figure: Figure, folder: str | os.PathLike[str], name: str) -> FigurePaths:
    """Write a figure as SVG and PNG, each whole or not at all; the same figure gives the same bytes."""
    if name in ("", "..") or name != Path(name).name:
        raise InputError(f"name: got {name!r}, expected a file name without folders; use `folder` for these")
    contents: dict[str, bytes] = {}
    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None, "Creator": HOUSE_MARK},
        "png": {"Software": None},
    }
    with house_style():
        for kind, facts in metadata.items():
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, dpi=PNG_DPI, metadata=facts)
            contents[kind] = stream.getvalue()
    paths = {kind: Path(folder).resolve() / f"{name}.{kind}" for kind in contents}
    for kind, content in contents.items():
        with atomic_path(paths[kind]) as beside:
            beside.write_bytes(content)
    return FigurePaths(svg=paths["svg"], png=paths["png"])
