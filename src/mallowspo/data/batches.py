"""What a file gives, piece by piece: rows of JSON, or tables, each row with its number and perhaps its problem."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mallowspo.data.annotations import OPTIONAL_COLUMNS
from mallowspo.data.limits import Limits
from mallowspo.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NEEDED_COLUMNS", "ColumnGate", "SourceRow", "TableBatch", "may_not_be_held"]

logger = logging.getLogger(__name__)

NEEDED_COLUMNS = frozenset(
    {"prompt", "chosen", "rejected", "responses", "ranks", "tools", "chat_template_kwargs", *OPTIONAL_COLUMNS}
)
"""Columns that a run reads. What is wrong with another one must not stop it."""


@dataclass(frozen=True)
class SourceRow:
    """One row of a source.

    Attributes:
        index: Its position in the source, from 0; blank lines of a file count.
        values: Its columns, or None where it cannot be read.
        problem: Why it cannot be read, or cannot be used though it can be shown.
        kind: One word for the problem.
        unit: What `index` counts: lines, elements of an array, or rows.
    """

    index: int
    values: Mapping[str, Any] | None
    problem: str = ""
    kind: str = "unreadable_line"
    unit: str = "line"


@dataclass(frozen=True)
class TableBatch:
    """Rows of a file that holds columns.

    Attributes:
        table: The rows that can be read.
        numbers: Their positions in the source.
        problems: The rows among them that cannot be read.
    """

    table: pa.Table
    numbers: Sequence[int]
    problems: list[SourceRow] = field(default_factory=list)


class ColumnGate:
    """Decides which columns of a source are let in, and names those that are not.

    Args:
        source: For messages.
        limits: How many columns there may be.
        quiet: Say nothing: the source is read a second time.
    """

    def __init__(self, source: str, limits: Limits, *, quiet: bool = False) -> None:
        self._source = source
        self._limits = limits
        self._quiet = quiet
        self._seen: set[str] = set()
        self._out: set[str] = set()

    def see(self, names: Any) -> None:
        """Count columns; raises `InputError` beyond the limit."""
        self._seen.update(names)
        if len(self._seen) > self._limits.max_columns:
            raise InputError(
                f"{self._source}: its rows have more than {self._limits.max_columns:,} different columns "
                f"({', '.join(sorted(self._seen)[:3])}, …); gather them in one column, or raise max_columns"
            )

    def leave_out(self, name: str, why: str) -> None:
        """Say, once, that a column is not read and why."""
        self.warn(name, f"is left out: {why}")

    def warn(self, name: str, what: str) -> None:
        """Say, once, what is wrong with a column."""
        if name not in self._out:
            self._out.add(name)
            if not self._quiet:
                logger.warning(f"{self._source}: the column {name!r} {what}")

    def table_columns(self, schema: pa.Schema) -> list[int]:
        """Give the places of a table's columns that are let in.

        Raises:
            InputError: A column that a run reads stands there twice or is of a type that no row can have, or there
                are too many columns.
        """
        self.see(schema.names)
        counts = Counter(schema.names)
        kept = []
        for place, column in enumerate(schema):
            name, why = column.name, ""
            if counts[name] > 1:
                why = f"it stands there {counts[name]} times"
            elif name == "row_index":
                # Ours says on which line of the file a row stands; a column of that name may say anything.
                why = "rows are numbered as they stand in the file"
            elif "\0" in name:
                why = "it has NUL in its name; is the file UTF-16, or damaged?"
            elif not _is_held(column):
                why = f"no row can hold its type, {str(column.type)[:80]}"
            if not why:
                kept.append(place)
            elif name in NEEDED_COLUMNS:
                raise InputError(
                    f"{self._source}: the column {name!r} cannot be read: {why}; mend, rename or remove it"
                )
            else:
                self.leave_out(name, why)
        return kept


def _is_held(column: pa.Field) -> bool:
    """Say whether `datasets` has the column's type, and Python and Arrow its values."""
    import datasets
    import pyarrow as pa

    try:
        datasets.Features.from_arrow_schema(pa.schema([column]))
    except (ValueError, TypeError, NotImplementedError):
        return False
    return _is_sound(column.type)


def _is_sound(kind: pa.DataType) -> bool:
    """Say whether the fields of every object can be told apart, and Arrow can read what it wrote."""
    import pyarrow as pa

    fields = [kind.field(place) for place in range(kind.num_fields)]
    names = [field.name for field in fields]
    if pa.types.is_struct(kind) and (len(set(names)) < len(names) or any("\0" in name for name in names)):
        return False
    if pa.types.is_fixed_size_list(kind) and kind.list_size == 0:
        return False
    return all(_is_sound(field.type) for field in fields)


def may_not_be_held(kind: pa.DataType) -> bool:
    """Say whether a type has values for which Python has none: times, and JSON that may not be any."""
    import pyarrow as pa

    if pa.types.is_temporal(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    return any(may_not_be_held(kind.field(place).type) for place in range(kind.num_fields))
