"""Who has what: one 64-bit word of flags per row, and a few examples per kind."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data.lint.kinds import KINDS

__all__ = ["EXAMPLES", "Example", "Finding", "Ledger", "clip", "visible"]

EXAMPLES = 5
_BIT = {kind.name: np.uint64(1 << i) for i, kind in enumerate(KINDS)}
_INT_BIT = {kind.name: 1 << i for i, kind in enumerate(KINDS)}
# Spans are counted by their text; a data set may have as many different ones as rows.
_SPANS = 2_000


@dataclass(frozen=True)
class Example:
    """One row that shows a finding."""

    row: int
    shows: str


@dataclass(frozen=True)
class Finding:
    """What was found of one kind."""

    kind: str
    severity: str
    count: int
    percent: float
    why: str
    todo: str
    detail: str = ""
    examples: tuple[Example, ...] = ()
    top: tuple[tuple[str, int], ...] = ()


def visible(text: str) -> str:
    """Write line breaks, tabs and unprintable characters as escapes."""
    # Half a surrogate pair is not printable, so that what comes out can always be written as UTF-8.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def clip(text: str, limit: int = 80, *, end: bool = False) -> str:
    """Shorten a text to `limit` characters of its start, or of its end, and make it visible."""
    if len(text) <= limit:
        return visible(text)
    return "…" + visible(text[-limit:]) if end else visible(text[:limit]) + "…"


@dataclass
class Ledger:
    """Flags of every row, in the order in which they were read."""

    _flags: Any = field(default_factory=lambda: array("Q"))
    _numbers: Any = field(default_factory=lambda: array("Q"))
    _examples: dict[str, list[Example]] = field(default_factory=dict)
    _spans: dict[str, Counter[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._flags)

    def add_row(self, row_index: int) -> int:
        """Open the account of the next row; give its position."""
        self._flags.append(0)
        self._numbers.append(row_index)
        return len(self._flags) - 1

    def flag(self, position: int, kind: str, shows: str | Callable[[], str], span: str | None = None) -> None:
        """Note a finding about one row; a second of the same kind changes nothing."""
        bit = _INT_BIT[kind]
        if self._flags[position] & bit:
            return
        self._flags[position] |= bit
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(Example(self._numbers[position] + 1, shows if isinstance(shows, str) else shows()))
        if span is not None:
            spans = self._spans.setdefault(kind, Counter())
            if span in spans or len(spans) < _SPANS:
                spans[span] += 1

    def flag_many(self, positions: NDArray[np.int64], kind: str) -> None:
        """Note a finding that only the whole data set could show."""
        if len(positions):
            self.flags[positions] |= _BIT[kind]

    def add_examples(self, kind: str, examples: Iterable[Example]) -> None:
        """Give the examples of what `flag_many` noted."""
        self._examples[kind] = list(examples)[:EXAMPLES]

    @property
    def flags(self) -> NDArray[np.uint64]:
        """The flags of all rows, one word each; a view, so rows cannot be added while it is held."""
        return np.frombuffer(self._flags, dtype=np.uint64)

    @property
    def numbers(self) -> NDArray[np.uint64]:
        """The position of each row in its source, from 0."""
        return np.frombuffer(self._numbers, dtype=np.uint64)

    def having(self, kind: str) -> NDArray[np.bool_]:
        """Say of each row whether it has a finding of this kind."""
        result: NDArray[np.bool_] = (self.flags & _BIT[kind]) != 0
        return result

    def findings(self) -> tuple[Finding, ...]:
        """Count by kind, in the order of the catalogue."""
        total = max(len(self), 1)
        found = []
        for kind in KINDS:
            count = int(self.having(kind.name).sum())
            if count:
                found.append(
                    Finding(
                        kind=kind.name,
                        severity=kind.severity_at(count / total),
                        count=count,
                        percent=100 * count / total,
                        why=kind.why,
                        todo=kind.todo,
                        examples=tuple(self._examples.get(kind.name, ())),
                        top=tuple(self._spans.get(kind.name, Counter()).most_common(EXAMPLES)),
                    )
                )
        return tuple(found)
