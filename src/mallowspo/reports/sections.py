"""Parts that every study's page has: a table from columns, a saved figure, a verdict in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isnan
from typing import Any

from mallowspo.reports.blocks import Figure, Table
from mallowspo.reports.text import verdict_word
from mallowspo.stats.intervals import Interval

__all__ = ["Columns", "picture", "table", "verdict_line"]

Row = Any
Columns = Mapping[str, Callable[[Row], str]]
"""Title of a column → what a row shows there."""


def table(rows: Iterable[Row], columns: Columns, caption: str = "") -> Table:
    """A table of rows that all show the same columns."""
    return Table(list(columns), [[cell(row) for cell in columns.values()] for row in rows], caption)


def picture(name: str, alt: str, caption: str = "") -> Figure:
    """A figure that the study saved under this name."""
    return Figure(f"figures/{name}.svg", alt, caption)


def verdict_line(label: str, row: Mapping[str, Any], amount: str, *, against: str = "DPO") -> str:
    """One line on a method: its verdict, and the difference with its interval."""
    if isnan(Interval.of(row["difference"]).mean):
        return f"*{label}*: no common KL with {against}, nothing to compare."
    joint = {"better": " of", "open": " from", "more": " than", "less": " than"}.get(row["verdict"], "")
    return f"*{label}*: {verdict_word(row['verdict'])}{joint} {against}, {amount}."
