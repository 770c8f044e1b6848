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
    "points",
    "verdict_word",
]

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def format_number(value: float | None, digits: int = 2) -> str:
    """Write a number with a fixed number of decimals.

    Args:
        value: The number; infinity shows as the symbol, NaN and None (as JSON gives it back) as an en dash.
        digits: Decimals, >= 0.

    Returns:
        The text; a number that rounds to zero has no sign.

    Example:
        >>> format_number(-0.127), format_number(-0.001), format_number(float("nan"))
        ('−0.13', '0.00', '–')
    """
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
    """Write a difference with its sign, plus included.

    Args:
        value: The difference.
        digits: Decimals, >= 0.

    Returns:
        The text; a number that rounds to zero has no sign.

    Example:
        >>> format_signed(0.034), format_signed(-0.5, 1), format_signed(0.0)
        ('+0.03', '−0.5', '0.00')
    """
    text = format_number(value, digits)
    if text in (MISSING, "∞") or text.startswith(_MINUS) or float(text) == 0.0:
        return f"+{text}" if text == "∞" else text
    return f"+{text}"


def format_interval(mean: float, low: float, high: float, digits: int = 2, *, signed: bool = False) -> str:
    """Write an estimate with its interval.

    Args:
        mean: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        digits: Decimals, >= 0.
        signed: Show the plus sign too, as for a difference.

    Returns:
        The estimate, then the interval in brackets.

    Example:
        >>> format_interval(0.52, 0.49, 0.55)
        '0.52 [0.49, 0.55]'
        >>> format_interval(0.031, -0.004, 0.066, 3, signed=True)
        '+0.031 [−0.004, +0.066]'
    """
    write = format_signed if signed else format_number
    return f"{write(mean, digits)} [{write(low, digits)}, {write(high, digits)}]"


def format_p(p: float, *, name: str = "p") -> str:
    """Write a p-value: two digits that matter, and never zero.

    Args:
        p: The p-value, in [0, 1].
        name: What stands before the relation; empty for a table cell.

    Returns:
        The text, as in `p = 0.032` or `p < 0.001`.

    Example:
        >>> format_p(0.0321), format_p(0.00002), format_p(0.4, name="")
        ('p = 0.032', 'p < 0.001', '0.40')
    """
    if math.isnan(p):
        return f"{name} = {MISSING}" if name else MISSING
    if p < 0.001:
        return f"{name} < 0.001" if name else "< 0.001"
    text = f"{p:.2f}" if p >= 0.0995 else f"{p:.3f}"
    return f"{name} = {text}" if name else text


def format_duration(seconds: float) -> str:
    """Write a time span in the two units that matter.

    Args:
        seconds: The span, >= 0.

    Returns:
        The text.

    Example:
        >>> format_duration(8.24), format_duration(192), format_duration(7384)
        ('8.2 s', '3 min 12 s', '2 h 3 min')
    """
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
    """Write an interval of the results, in whatever form they hold it; without ends it shows as a plain number.

    Example:
        >>> interval_text({"mean": 0.5, "low": 0.4, "high": 0.6}), interval_text([0.5, None, None], signed=True)
        ('0.50 [0.40, 0.60]', '+0.50')
        >>> interval_text(None)
        '–'
    """
    if interval is None:
        return MISSING
    found = (interval if isinstance(interval, Interval) else Interval.of(interval)).scaled(scale)
    if not found.has_ends:
        return format_signed(found.mean, digits) if signed else format_number(found.mean, digits)
    return format_interval(found.mean, found.low, found.high, digits, signed=signed)


def points(interval: Mapping[str, Any] | Sequence[float | None]) -> str:
    """A difference of probabilities in points (hundredths); a third decimal where an end would otherwise round to 0.

    Example:
        >>> points({"mean": 0.01, "low": 0.00004, "high": 0.02})
        '+1.000 [+0.004, +2.000]'
    """
    found = Interval.of(interval).scaled(100.0)
    digits = 3 if any(0 < abs(end) < 0.005 for end in (found.low, found.high)) else 2
    return interval_text(found, digits, signed=True)


def joined(names: Iterable[str]) -> str:
    """Names in a sentence: commas, and an "and" before the last.

    Example:
        >>> joined(["a", "b", "c"])
        'a, b and c'
    """
    names = list(names)
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdict_word(verdict: str) -> str:
    """What a verdict of `mallowspo.stats.verdicts` is called on a page.

    Example:
        >>> verdict_word("better"), verdict_word("open"), verdict_word("less")
        ('ahead', 'no significant difference', 'less')
    """
    return AGAINST_BASELINE.get(verdict, verdict)
