"""Short texts beside points, so that none covers a point or another text, nor a curve where that can be had."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from mallowspo.reports.palette import PAPER

__all__ = ["place_labels"]

_FONT_SIZE = 9.0
_DIRECTIONS = tuple(math.radians(angle) for angle in (-35, 35, 145, 215, -70, 70, 110, 250, -90, 90, 0, 180))
_DISTANCES = (9.0, 14.0, 20.0)  # points, from the middle of the marker
_POINT_HALF_WIDTH = 4.5  # points


def place_labels(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], texts: Sequence[str], colors: Sequence[str]
) -> list[Annotation]:
    """Write each text beside its point; a text for which there is no free place is left out.

    Args:
        axes: The axes, with everything else drawn already: their limits are fixed here.
        xs: In data units.
        ys: In data units.
        texts: Empty where a point needs none; the point is kept free all the same.
        colors: One a text.

    Returns:
        The texts that found a place.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not any(texts):
        return []
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    half = _POINT_HALF_WIDTH * figure.dpi / 72.0
    points = axes.transData.transform(np.column_stack([xs, ys]))
    taken = [Bbox.from_extents(px - half, py - half, px + half, py + half) for px, py in points]
    curves = _samples_of_curves(axes)
    frame = axes.get_window_extent(renderer)
    placed: list[Annotation] = []
    for x, y, text, color in zip(xs, ys, texts, colors, strict=True):
        if not text:
            continue
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", color=color, fontsize=_FONT_SIZE, va="center"
        )
        # A rim of paper keeps the text readable where a curve or a band must run behind it.
        note.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground=PAPER)])
        box = _free_place(note, renderer, taken, frame, curves)
        if box is None:
            note.remove()
            continue
        taken.append(box)
        placed.append(note)
    return placed


def _samples_of_curves(axes: Axes) -> NDArray[np.float64]:
    """Points along every curve, in pixels, close enough that no text fits between two."""
    samples: list[NDArray[np.float64]] = [np.empty((0, 2))]
    for line in axes.get_lines():
        vertices = axes.transData.transform(np.asarray(line.get_xydata(), dtype=float))
        for start, end in zip(vertices[:-1], vertices[1:], strict=True):
            count = 1 + int(np.hypot(*(end - start)) // 3)
            samples.append(np.linspace(start, end, count + 1))
    return np.concatenate(samples)


def _free_place(
    note: Annotation,
    renderer: Any,
    taken: Sequence[Bbox],
    frame: Bbox,
    curves: NDArray[np.float64],
) -> Bbox | None:
    """Move the text to its best place and give its box: off the curves if possible, and near its point."""
    fallback: tuple[float, float] | None = None
    for distance, direction in _places():
        box = _move(note, distance, direction, renderer)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if not inside or any(box.overlaps(other) for other in taken):
            continue
        if not box.count_contains(curves):
            return box
        fallback = fallback or (distance, direction)
    return _move(note, *fallback, renderer) if fallback else None


def _places() -> Iterable[tuple[float, float]]:
    return ((distance, direction) for distance in _DISTANCES for direction in _DIRECTIONS)


def _move(note: Annotation, distance: float, direction: float, renderer: Any) -> Bbox:
    across = math.cos(direction)
    note.set_position((distance * across, distance * math.sin(direction)))
    note.set_horizontalalignment("center" if abs(across) < 0.5 else "left" if across > 0 else "right")
    return note.get_window_extent(renderer).padded(1.0)
