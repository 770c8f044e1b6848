"""The optional columns of a row: what people, or a file, say about a prompt beside the preference itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

from mallowspo.data.problems import RowError
from mallowspo.files import parse_json

__all__ = [
    "LAYOUT_COLUMNS",
    "LOSS_COLUMNS",
    "OPTIONAL_COLUMNS",
    "as_whole",
    "read_annotations",
    "read_rankings",
    "read_votes",
]

OPTIONAL_COLUMNS = ("votes", "rankings", "weight", "margin", "dispersion", "beta", "loss_weight")
"""Columns that a source may carry: people's votes or rankings, or numbers to use as they stand."""

LAYOUT_COLUMNS = ("prompt", "chosen", "rejected", "responses", "ranks", "scores")
"""Columns of the accepted layouts: a pair, or a list with ranks or scores."""

LOSS_COLUMNS = ("margin", "beta", "loss_weight")
"""Those that a training reads whatever its options are: they change the loss of their row."""

# Of a column of numbers: what is allowed, in words and as a rule.
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "weight": ("a finite number >= 0", lambda number: number >= 0),
    "margin": ("a finite number >= 0", lambda number: number >= 0),
    "dispersion": ("a number in (0, 1]", lambda number: 0 < number <= 1),
    "beta": ("a finite number > 0", lambda number: number > 0),
    "loss_weight": ("a finite number >= 0", lambda number: number >= 0),
}


def read_annotations(
    mapping: Mapping[str, Any], k: int | None, *, pair: bool, columns: Collection[str]
) -> dict[str, Any]:
    """Read these of `OPTIONAL_COLUMNS`, of a row of k responses; `pair`: it names one chosen and one rejected."""
    found: dict[str, Any] = {}
    for name in OPTIONAL_COLUMNS:
        if name not in columns or name not in mapping:
            continue
        value = mapping[name]
        if name == "votes":
            if not pair and value is not None:
                raise RowError("bad_votes", "votes need chosen and rejected; give rankings beside ranks")
            found[name] = read_votes(value)
        elif name == "rankings":
            found[name] = read_rankings(value, k)
        else:
            found[name] = _number(value, name)
    return found


def _number(value: Any, name: str) -> float:
    words, allowed = _RANGES[name]
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = value
    if not (_is_finite(number) and allowed(number)):
        raise RowError(f"bad_{name}", f"{name} must be {words}, found {_named(value)}")
    return float(number)


def _is_finite(value: Any) -> bool:
    """Say whether this is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON text may spell an integer of any length
        return False


def as_whole(value: Any) -> Any:
    """Give a whole number as an integer: one fraction among the numbers of a column makes floats of them all."""
    return int(value) if isinstance(value, float | Decimal) and value % 1 == 0 else value


def _named(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]


def _from_json(value: Any) -> Any:
    """Read a cell of a CSV file, in which a list is text."""
    if isinstance(value, str):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def read_votes(value: Any) -> tuple[float, float, float]:
    """Read the votes on a pair, for chosen, rejected and neither; none at all says that nobody voted."""
    value = None if isinstance(value, str) and not value.strip() else _from_json(value)
    if value is None:
        return (0.0, 0.0, 0.0)
    counts: list[Any] | None = None
    if isinstance(value, Mapping) and {"chosen", "rejected"} <= set(value) <= {"chosen", "rejected", "tie", "ties"}:
        ties = [value[name] for name in ("tie", "ties") if value.get(name) is not None]
        counts = [value["chosen"], value["rejected"], *ties]
    elif isinstance(value, list | tuple):
        counts = list(value)
    if counts is None or len(counts) not in (2, 3) or not all(_is_finite(c) and c >= 0 for c in counts):
        raise RowError(
            "bad_votes",
            "votes must be [chosen, rejected], [chosen, rejected, ties] or a mapping of these, "
            f"each a number >= 0, found {_named(value)}",
        )
    chosen, rejected, ties_count = (*counts, 0.0)[:3]
    return float(chosen), float(rejected), float(ties_count)


def read_rankings(value: Any, k: int | None) -> tuple[tuple[int, ...], ...]:
    """Read people's rankings of the same k responses; None takes k from the first: a pair may be taken from more."""
    value = _from_json(value)
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise RowError("bad_rankings", f"rankings must be a list of two or more, found {_named(value)}")
    if k is None:
        k = max(len(value[0]), 2) if isinstance(value[0], list | tuple) else 2
    expected = list(range(1, k + 1))
    found = []
    for given in value:
        ranking = tuple(map(as_whole, given)) if isinstance(given, list | tuple) else ()
        if any(isinstance(rank, bool) or not isinstance(rank, int) for rank in ranking) or sorted(ranking) != expected:
            raise RowError("bad_rankings", f"each ranking must have each of 1..{k} once, found {_named(given)}")
        found.append(ranking)
    return tuple(found)
