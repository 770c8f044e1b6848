"""Read CSV and parquet files in batches, and name the rows of a CSV file that have another number of cells."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mallowspo.data.batches import ColumnGate, SourceRow, TableBatch, may_not_be_held
from mallowspo.data.json_files import open_bytes, unreadable_as_input_error
from mallowspo.data.limits import Limits
from mallowspo.data.tables import is_json_feature
from mallowspo.errors import InputError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

__all__ = ["csv_batches", "csv_types", "decoded", "parquet_batches"]

_ROWS = 1_000
# What stays text in a CSV file though it looks like a number: an answer such as `42` or `NA`.
_TEXT = frozenset({"prompt", "chosen", "rejected"})


def parquet_batches(path: Path, gate: ColumnGate, limits: Limits, first: int) -> Iterator[TableBatch]:
    """Read a parquet file in batches; dictionaries are written out.

    Args:
        path: The file.
        gate: Decides on the columns.
        limits: Not used: the file names the size of its parts itself.
        first: The number of the first row.

    Yields:
        Batches.

    Raises:
        InputError: It is no sound parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with unreadable_as_input_error(path):
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                names = [schema.names[place] for place in gate.table_columns(schema)]
                # Only the columns that are let in are read: what cannot be read of another one stops nothing.
                for batch in file.iter_batches(batch_size=_ROWS, columns=names):
                    columns = [_kept_values(batch.column(batch.schema.get_field_index(n)), n, gate) for n in names]
                    yield TableBatch(pa.table(columns, names=names), range(first, first + len(batch)))
                    first += len(batch)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a sound parquet file ({error})") from error


def _kept_values(column: pa.Array, name: str, gate: ColumnGate) -> pa.Array:
    """Write dictionaries out, and put null for a value that Python cannot hold, such as a date before the year 1."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_utf8(column) and (not may_not_be_held(column.type) or _is_readable(column)):
        return column
    places = [place if _is_readable(column.slice(place, 1)) else None for place in range(len(column))]
    gate.warn(
        name,
        "has values that no row can hold, such as a date before the year 1 or text that is no UTF-8; they are read as "
        "missing",
    )
    return column.take(pa.array(places, pa.int64()))


def _is_utf8(column: pa.Array) -> bool:
    """Whether all text is what Arrow takes it for; nothing else proves that before a row is read."""
    import pyarrow as pa

    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def decoded(table: pa.Table) -> list[dict[str, Any]]:
    """Give a table's rows as `datasets` gives them: columns of JSON as the values that it spells."""
    import datasets
    from datasets.table import InMemoryTable

    if not any(is_json_feature(feature) for feature in datasets.Features.from_arrow_schema(table.schema).values()):
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    columns = datasets.Dataset(InMemoryTable(table))[:]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_readable(column: pa.Array) -> bool:
    import pyarrow as pa

    try:
        decoded(pa.table([column], names=["column"]))
    except (pa.ArrowException, OverflowError, ValueError):
        return False
    return True


class _Utf8(io.RawIOBase):
    """A stream that is read through and proved to be UTF-8 on the way.

    Arrow decodes a row that it refuses before it hands it on, and where that fails it prints a traceback and goes on.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path, self._line = stream, path, 1
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        try:
            self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._line + error.object[: error.start].count(b"\n")
            raise InputError(
                f"{self._path}: not a CSV file in UTF-8: line {line:,} has the byte 0x{error.object[error.start]:02x}"
                "; convert the file first, for instance with `iconv -f LATIN1 -t UTF-8`"
            ) from error
        self._line += data.count(b"\n")
        return data


def csv_batches(path: Path, gate: ColumnGate, limits: Limits, first: int) -> Iterator[TableBatch]:
    """Read a CSV file in batches, every cell as text.

    Arrow would settle a column's type by its first block, and fail on a later one.

    Args:
        path: A file in UTF-8, packed with gzip where its name ends in `.gz`.
        gate: Decides on the columns.
        limits: How long a row may be.
        first: The number of the first row below the header.

    Yields:
        Batches.

    Raises:
        InputError: It is no sound CSV file, or in another encoding.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    bad: list[SourceRow] = []

    def note(row: Any) -> str:
        # The header is row 1 of the file, and a quoted cell may span lines: count records of data.
        number = -1 if row.number is None else first + row.number - 2
        found = f"has {row.actual_columns} cells, the header has {row.expected_columns}"
        bad.append(SourceRow(number, None, found, unit="row"))
        return "skip"

    # One thread: only then does Arrow number the rows that it refuses. A row may not be longer than a block.
    read = pc.ReadOptions(use_threads=False, block_size=min(limits.line_bytes, 2**31 - 1))
    parse = pc.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
    with unreadable_as_input_error(path):
        try:
            with open_bytes(path) as stream:
                schema = pc.open_csv(_Utf8(stream, path), read, parse).schema
                names = list(schema.names)
            kept = gate.table_columns(pa.schema([pa.field(name, pa.string()) for name in names]))
            bad.clear()
            convert = pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
            with open_bytes(path) as stream:
                for batch in pc.open_csv(_Utf8(stream, path), read, parse, convert):
                    numbers, problems = _numbered(batch.num_rows, bad, first)
                    first += len(numbers) + len(problems)
                    table = pa.table([batch.column(place) for place in kept], names=[names[place] for place in kept])
                    yield TableBatch(table, numbers, problems)
                    del bad[: len(problems)]
            if bad:
                nothing = pa.table({names[place]: pa.array([], pa.string()) for place in kept})
                yield TableBatch(nothing, [], bad)
        except pa.ArrowException as error:
            longer = (
                f"; a row longer than {limits.max_line_mb:,} MiB needs max_line_mb" if "straddl" in str(error) else ""
            )
            raise InputError(f"{path}: not a sound CSV file in UTF-8 ({error}){longer}") from error


def _numbered(rows: int, bad: list[SourceRow], index: int) -> tuple[list[int], list[SourceRow]]:
    """Number the rows of a batch around those that Arrow skipped; give the numbers and the skipped rows."""
    numbers: list[int] = []
    passed = 0
    while len(numbers) < rows:
        if passed < len(bad) and bad[passed].index == index:
            passed += 1
        else:
            numbers.append(index)
        index += 1
    return numbers, bad[:passed]


def csv_types(dataset: datasets.Dataset) -> datasets.Dataset:
    """Give the columns of a CSV file their types: whole numbers, numbers, truth values, or text as it stands.

    A column is of a type where every cell is, beside those that say nothing (empty, `NA`, `null`); these become null.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    from datasets.table import InMemoryTable

    nothing = pa.array(pa.csv.ConvertOptions().null_values, pa.string())
    table = dataset.data.table
    for place, name in enumerate(table.column_names):
        column = table.column(place)
        if name in _TEXT or column.type != pa.string():
            continue
        said = pc.if_else(pc.is_in(column, nothing), pa.scalar(None, pa.string()), column)
        if said.null_count == len(said):
            table = table.set_column(place, name, pa.chunked_array([pa.nulls(len(said))]))
            continue
        for kind in (pa.int64(), pa.float64(), pa.bool_()):
            try:
                table = table.set_column(place, name, pc.utf8_trim(said, " \t").cast(kind))
                break
            except pa.ArrowException:
                continue
    return datasets.Dataset(InMemoryTable(table))
