"""What is wrong with a row, and how a reader hears of it: once, for all rows, with the ways out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mallowspo.errors import InputError, not_one_of

__all__ = ["INVALID_ROWS", "RowError", "RowProblem", "check_invalid_rows", "problem_table", "settle"]

INVALID_ROWS = ("error", "drop")
"""What to do with rows that cannot be used: stop and name them, or leave them out and count them."""

_SHOWN = 5


class RowError(ValueError):
    """One row cannot be used. It never reaches the user: the validation gathers it into a `RowProblem`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class RowProblem:
    """Why one row cannot be used."""

    row_index: int  # position in the source, from 0; -1 where the problem is not one row's
    kind: str  # one word to count by, such as `identical_responses`
    detail: str  # what is wrong with this row, for a person

    @property
    def row_number(self) -> int:
        """The row's number as an editor counts lines: from 1."""
        return self.row_index + 1


def check_invalid_rows(value: str) -> None:
    """Raise `InputError` unless `value` is one of `INVALID_ROWS`."""
    if value not in INVALID_ROWS:
        raise not_one_of("invalid_rows", value, INVALID_ROWS)


def problem_table(problems: Iterable[RowProblem], total: int) -> str:
    """Count problems by kind: one line per kind, the commonest first, with the first row numbers."""
    by_kind: dict[str, list[RowProblem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    lines = []
    width = max((len(kind) for kind in by_kind), default=0)
    for kind, found in sorted(by_kind.items(), key=lambda item: (-len(item[1]), item[0])):
        numbers = sorted({problem.row_number for problem in found})
        shown = ", ".join(f"{number:,}" for number in numbers[:_SHOWN])
        more = ", …" if len(numbers) > _SHOWN else ""
        plural = "row" if len(numbers) == 1 else "rows"
        share = f"{100 * len(numbers) / max(total, 1):.2f} %"
        lines.append(f"  {kind:<{width}}  {len(numbers):,} {plural} ({share}): {plural} {shown}{more}")
        first = min(found, key=lambda problem: problem.row_index)
        lines.append(f"    row {first.row_number:,}: {first.detail}")
    return "\n".join(lines)


class NothingLeft(InputError):
    """None of some rows can be used, and those that cannot were to be left out."""


def settle(
    problems: Sequence[RowProblem],
    total: int,
    left: int,
    *,
    invalid_rows: str,
    source: str,
    remedy: str = "Mend these rows",
) -> None:
    """Raise one error for all problems (`drop`: only where of `total` rows none is left), or for no rows at all."""
    check_invalid_rows(invalid_rows)
    if total == 0:
        raise InputError(f"{source}: there are no rows")
    if problems and invalid_rows == "error":
        drop = ", or leave them out with `invalid_rows: drop`" if left else ""  # nothing would be left
        raise InputError(
            f"{source}: {total - left:,} of {total:,} rows cannot be used\n{problem_table(problems, total)}\n"
            f"{remedy}{drop}."
        )
    if left == 0:
        raise NothingLeft(f"{source}: none of the {total:,} rows can be used\n{problem_table(problems, total)}")
