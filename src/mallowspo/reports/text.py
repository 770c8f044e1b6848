"""Words and numbers as a reader wants them: an estimate never without its interval, and a sign that one can see.

A negative number carries the true minus sign (U+2212), as the axes of the figures do. A number that is not
there (NaN) shows as an en dash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mallowspo.stats.intervals import Interval
from mallowspo.stats.verdicts import AGAINST_BASELINE

__all__ = [
    "format_duration",
    "format_interval",
    "format_number",
    "format_p",
    "format_signed",
    "interval_text",
    "joined",
    "number",
    "percent",
    "plural",
    "points",
    "verdict_word",
]

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def format_number(value: float | None, digits: int = 2) -> str:
    """Write a number with a fixed number of decimals."""
    value = number(value)
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    # What rounds to zero is zero; "-0.00" would suggest a direction that the digits do not show.
    text = format(value, f".{digits}f")
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", _MINUS)


def format_signed(value: float | None, digits: int = 2) -> str:
    """Write a difference with its sign, plus included."""
    text = format_number(value, digits)
    plain = text == MISSING or text.startswith(_MINUS) or (text != "∞" and float(text) == 0.0)
    return text if plain else f"+{text}"


def format_interval(mean: float, low: float, high: float, digits: int = 2, *, signed: bool = False) -> str:
    """Write an estimate with its interval."""
    write = format_signed if signed else format_number
    return f"{write(mean, digits)} [{write(low, digits)}, {write(high, digits)}]"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in per cent; one that is not there shows as an en dash."""
    return MISSING if math.isnan(number(share)) else f"{format_number(100 * number(share), digits)}%"


def plural(count: float, word: str) -> str:
    """Write a number of things, with the plural where it is due."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def format_p(p: float, *, name: str = "p") -> str:
    """Write a p-value: two digits that matter, and never zero."""
    if math.isnan(p):
        return f"{name} = {MISSING}" if name else MISSING
    if p < 0.001:
        return f"{name} < 0.001" if name else "< 0.001"
    text = f"{p:.2f}" if p >= 0.0995 else f"{p:.3f}"
    return f"{name} = {text}" if name else text


def format_duration(seconds: float) -> str:
    """Write a time span in the two units that matter."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float | None) -> float:
    """A number of the results; what JSON has no word for comes back as NaN."""
    return float("nan") if value is None else float(value)


def interval_text(
    interval: Interval | Mapping[str, Any] | Sequence[float | None] | None,
    digits: int = 2,
    *,
    scale: float = 1.0,
    signed: bool = False,
) -> str:
    """Write an interval of the results, in whatever form they hold it; without ends it shows as a plain number."""
    if interval is None:
        return MISSING
    found = (interval if isinstance(interval, Interval) else Interval.of(interval)).scaled(scale)
    if not found.has_ends:
        return (format_signed if signed else format_number)(found.mean, digits)
    return format_interval(found.mean, found.low, found.high, digits, signed=signed)


def points(interval: Mapping[str, Any] | Sequence[float | None]) -> str:
    """A difference of probabilities in points (hundredths); a third decimal where an end would else round to 0."""
    found = Interval.of(interval).scaled(100.0)
    digits = 3 if any(0 < abs(end) < 0.005 for end in (found.low, found.high)) else 2
    return interval_text(found, digits, signed=True)


def joined(names: Iterable[str]) -> str:
    """Names in a sentence: commas, and an "and" before the last."""
    names = list(names)
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdict_word(verdict: str) -> str:
    """What a verdict of `mallowspo.stats.verdicts` is called on a page."""
    return AGAINST_BASELINE.get(verdict, verdict)
