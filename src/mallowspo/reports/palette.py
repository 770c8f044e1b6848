"""Colours shared by the figures and the page; no drawing library is imported here.

The data colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any of the
common colour deficiencies can tell apart. The others are the page's own ink and paper.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BLUE",
    "DARK_SCHEME",
    "GREEN",
    "GRID",
    "HOUSE_MARK",
    "INK",
    "MUTED",
    "ORANGE",
    "PAPER",
    "PURPLE",
    "SKY",
    "VERMILLION",
]

BLUE: Final = "#0072b2"
ORANGE: Final = "#e69f00"
GREEN: Final = "#009e73"
SKY: Final = "#56b4e9"
VERMILLION: Final = "#d55e00"
PURPLE: Final = "#cc79a7"

INK: Final = "#1b1f24"
MUTED: Final = "#59626d"
GRID: Final = "#dde2e8"
PAPER: Final = "#ffffff"

# Written into every SVG of the house. The page recolours, in the dark scheme, only those that carry it: the
# colours of any other file are not ours to change, and such a file is shown on white.
HOUSE_MARK: Final = "mallowspo house figure"

# Light colour -> colour on a dark page. The other data colours keep a contrast above 4:1 on both.
DARK_SCHEME: Final = {
    INK: "#e4e8ed",
    MUTED: "#a6b0bb",
    GRID: "#343b44",
    PAPER: "#1a1e23",
    BLUE: "#2f93d1",
}
