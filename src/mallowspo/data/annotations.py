"""The optional columns of a row: what people, or a file, say about a prompt beside the preference itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mallowspo.data.problems import RowError
from mallowspo.files import parse_json

__all__ = ["LOSS_COLUMNS", "OPTIONAL_COLUMNS", "read_annotations", "read_rankings", "read_votes"]

OPTIONAL_COLUMNS = ("votes", "rankings", "weight", "margin", "dispersion", "beta", "loss_weight")
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
"""Columns that a source may carry: people's votes or rankings, or numbers to use as they stand."""


def read_annotations(
    mapping: Mapping[str, Any], k: int | None, *, pair: bool, columns: Collection[str]
) -> dict[str, Any]:
    """Read and check the optional columns of one row.

    Args:
        mapping: The row.
        k: How many responses it has; None where the rankings alone can tell, as for a pair that was taken from more
            responses.
        pair: Whether it names one response chosen and one rejected, as votes need.
        columns: The columns to read; one that the row lacks is left out.

    Returns:
        Column name to value, in the forms that `PreferenceRow` documents.

    Raises:
        RowError: A value is out of its range, or missing; votes may be missing, which are then zeros.

    Example:
        >>> read_annotations({"votes": [3, 1], "weight": 1}, 2, pair=True, columns=OPTIONAL_COLUMNS)
        {'votes': (3.0, 1.0, 0.0), 'weight': 1.0}
    """
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
    number = _from_json(value)
    if not (_is_finite(number) and allowed(number)):
        raise RowError(f"bad_{name}", f"{name} must be {words}, found {_named(value)}")
    return float(number)


def _is_finite(value: Any) -> bool:
    """Say whether this is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON text may spell an integer of any length
        return False


def _named(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]


def _from_json(value: Any) -> Any:
    """Read a cell of a CSV file, in which a list, and at times a number, is text."""
    if isinstance(value, str):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def read_votes(value: Any) -> tuple[float, float, float]:
    """Read the votes on a pair.

    Args:
        value: `[chosen, rejected]`, `[chosen, rejected, ties]`, a mapping with `chosen`, `rejected` and perhaps
            `tie` (or `ties`), or one of these as JSON text. Counts may be weighted: any finite number >= 0.
            None, and a blank cell of a CSV file, say that nobody voted.

    Returns:
        Votes for the chosen response, for the rejected one, and for neither.

    Raises:
        RowError: The votes have another form.

    Example:
        >>> read_votes({"chosen": 2, "rejected": 0, "tie": 1})
        (2.0, 0.0, 1.0)
        >>> read_votes(None)
        (0.0, 0.0, 0.0)
    """
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
    """Read several people's rankings of the same k responses.

    Args:
        value: A list of m >= 2 rankings, or the same as JSON text. Entry i of a ranking is the rank of response i:
            1 is best, each of 1..k once.
        k: How many responses there are; those of a pair are chosen and rejected, in this order. None takes it from
            the first ranking.

    Returns:
        m tuples of k ranks.

    Raises:
        RowError: There are fewer than two, or one is no permutation of 1..k.

    Example:
        >>> read_rankings([[1, 2, 3], [2, 1, 3]], 3)
        ((1, 2, 3), (2, 1, 3))
    """
    value = _from_json(value)
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise RowError("bad_rankings", f"rankings must be a list of two or more, found {_named(value)}")
    if k is None:
        k = max(len(value[0]), 2) if isinstance(value[0], list | tuple) else 2
    expected = list(range(1, k + 1))
    for ranking in value:
        if (
            not isinstance(ranking, list | tuple)
            or any(isinstance(rank, bool) or not isinstance(rank, int) for rank in ranking)
            or sorted(ranking) != expected
        ):
            raise RowError("bad_rankings", f"each ranking must have each of 1..{k} once, found {_named(ranking)}")
    return tuple(tuple(ranking) for ranking in value)
