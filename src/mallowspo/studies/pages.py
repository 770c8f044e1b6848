"""What the pages of the studies share: cells that read a row of the results by its path, and the parts of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mallowspo.reports.blocks import Block, BulletList, Paragraph, Section
from mallowspo.reports.sections import table, verdict_line
from mallowspo.reports.text import format_number, format_signed, interval_text, number, points, verdict_word
from mallowspo.studies import policies
from mallowspo.studies.policies import value

__all__ = [
    "BETA", "LEARNING_RATE", "METHOD", "Cell", "Results", "Row", "by_comparison", "challengers", "compared",
    "figure_of", "interval", "kl_range", "limits", "named", "over_seeds", "plain", "point_interval",
    "share", "text_section", "value", "verdict_cell",
]  # fmt: skip

Results = Mapping[str, Any]
Row = Mapping[str, Any]
Cell = Callable[[Any], str]


def interval(path: str, digits: int = 2, *, scale: float = 1.0, signed: bool = False) -> Cell:
    """A cell with an estimate and its interval."""
    return lambda row: interval_text(value(row, path), digits, scale=scale, signed=signed)


def share(path: str, digits: int = 2, *, signed: bool = False) -> Cell:
    """A cell with a probability and its interval, in percent or points."""
    return interval(path, digits, scale=100.0, signed=signed)


def point_interval(path: str) -> Cell:
    """A cell with a difference of probabilities in points."""
    return lambda row: "–" if value(row, path) is None else points(value(row, path))


def figure_of(path: str, digits: int = 2, *, scale: float = 1.0, signed: bool = False) -> Cell:
    """A cell with a number."""
    return lambda row: (format_signed if signed else format_number)(scale * number(value(row, path)), digits)


def plain(path: str) -> Cell:
    """A cell with a word, a count with its thousands apart, or a setting as it was given."""

    def cell(row: Any) -> str:
        found = value(row, path)
        return f"{found:,}" if isinstance(found, int) else f"{found:g}" if isinstance(found, float) else str(found)

    return cell


def named(path: str) -> Cell:
    """A cell with a method's name."""
    return lambda row: policies.label(value(row, path))


def verdict_cell(path: str = "verdict") -> Cell:
    """A cell with a verdict's word."""
    return lambda row: verdict_word(value(row, path))


METHOD, BETA, LEARNING_RATE = named("method"), plain("beta"), plain("learning_rate")


def kl_range(path: str = "", digits: int = 3) -> Cell:
    """A cell with the ends of the KL over which a comparison was made, nats."""
    ends = [figure_of(f"{path}.{end}".removeprefix("."), digits) for end in ("kl_low", "kl_high")]
    return lambda row: "–".join(end(row) for end in ends)


def challengers(results: Results) -> list[str]:
    """The methods that are compared with DPO."""
    return [method for method in results["config"]["methods"] if method != policies.BASELINE]


def by_comparison(results: Results, *keys: str) -> list[dict[str, Any]]:
    """The comparisons, one row each with all quantities under their names."""
    found: dict[Any, dict[str, Any]] = {}
    for row in results["comparisons"]:
        place = {key: row[key] for key in ("method", *keys)}
        found.setdefault(tuple(place.values()), place)[row["quantity"]] = row
    return list(found.values())


def over_seeds(count: int) -> str:
    """Over what the intervals are; one seed has none."""
    return f"{count} seeds" if count > 1 else "seeds; the one that was run has none and decides nothing"


def compared(
    rows: Iterable[Row], amount: Cell, *, who: Cell = METHOD, against: Cell = lambda row: "DPO"
) -> BulletList:
    """One verdict a row: who, the verdict, and the difference as text."""
    return BulletList([verdict_line(who(row), row, amount(row), against=against(row)) for row in rows])


def text_section(heading: str, text: str, *body: Block, details: Sequence[Section] = ()) -> Section:
    """A section that says first what it shows."""
    return Section(heading, [Paragraph(text), *body], details)


def limits(results: Results, *items: str) -> Section:
    """What the study cannot say; below it every setting of the run as it stands in `results.json`."""

    def flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
        for name, found in values.items():
            if isinstance(found, Mapping):
                yield from flat(found, f"{before}{name}.")
            elif name not in ("output_dir", "workers"):
                yield f"{before}{name}", _shown(found)

    settings = table(flat(results["config"]), {"setting": plain("0"), "value": plain("1")})
    return Section("Limits", [BulletList(items)], [Section("Settings of the run", [settings])])


def _shown(found: Any) -> str:
    if isinstance(found, list):
        return ", ".join(map(_shown, found))
    return f"{found:g}" if isinstance(found, float) else str(found)
