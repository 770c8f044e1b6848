"""Short texts beside points, so that none covers a point or another text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

__all__ = ["place_labels"]

_FONT_SIZE = 9.0
# Directions in the order of preference: beside the point before above and below it, slanted first, since
# curves run across.
_DIRECTIONS = tuple(math.radians(angle) for angle in (-35, 35, 145, 215, -70, 70, 110, 250, 0, 180))
_DISTANCES = (9.0, 14.0, 20.0)
_POINT_HALF_WIDTH = 4.5


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
    pixels = figure.dpi / 72.0
    points = [axes.transData.transform((x, y)) for x, y in zip(xs, ys, strict=True)]
    half = _POINT_HALF_WIDTH * pixels
    taken = [Bbox.from_extents(px - half, py - half, px + half, py + half) for px, py in points]
    frame = axes.get_window_extent(renderer)
    placed: list[Annotation] = []
    for x, y, text, color in zip(xs, ys, texts, colors, strict=True):
        if not text:
            continue
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", color=color, fontsize=_FONT_SIZE, va="center"
        )
        for distance in _DISTANCES:
            box = next(
                (
                    box
                    for direction in _DIRECTIONS
                    if (box := _try(note, distance, direction, renderer, taken, frame)) is not None
                ),
                None,
            )
            if box is not None:
                taken.append(box)
                placed.append(note)
                break
        else:
            note.remove()
    return placed


def _try(
    note: Annotation, distance: float, direction: float, renderer: object, taken: Sequence[Bbox], frame: Bbox
) -> Bbox | None:
    """Move the text there; give its box if it is free and inside the axes."""
    across = math.cos(direction)
    note.set_position((distance * across, distance * math.sin(direction)))
    note.set_horizontalalignment("center" if abs(across) < 0.5 else "left" if across > 0 else "right")
    box = note.get_window_extent(renderer).padded(1.0)  # type: ignore[arg-type]
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return box if inside and not any(box.overlaps(other) for other in taken) else None
