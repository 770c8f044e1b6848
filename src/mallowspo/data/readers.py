"""Read the files of every format in batches: JSON row by row, CSV and parquet by column; a bad row has a problem."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mallowspo.data.annotations import OPTIONAL_COLUMNS
from mallowspo.data.limits import Limits
from mallowspo.data.tables import is_json_feature, nested_types
from mallowspo.errors import InputError
from mallowspo.files import parse_json

if TYPE_CHECKING:
    import datasets

__all__ = [
    "NEEDED_COLUMNS",
    "READERS",
    "RECODE",
    "Batch",
    "ColumnGate",
    "SourceRow",
    "csv_types",
    "decoded",
    "may_not_be_held",
]

logger = logging.getLogger(__name__)

NEEDED_COLUMNS = frozenset(
    {"prompt", "chosen", "rejected", "responses", "ranks", "tools", "chat_template_kwargs", *OPTIONAL_COLUMNS}
)
"""Columns that a run reads. What is wrong with another one must not stop it."""

RECODE = "convert the file first with `iconv -f LATIN1 -t UTF-8`, or -f UTF-16 where its first byte is 0xff or 0xfe"
"""What to do with text in another encoding."""

# Arrow counts the bytes of a text column in 31 bits, so a batch is bounded by bytes as well as by rows.
_ROWS = 1_000
_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
# Text packs to a tenth, markup to a fiftieth of its size.
_PACKED = 100
# What stays text in a CSV file though it looks like a number: an answer such as `42` or `NA`.
_TEXT = frozenset({"prompt", "chosen", "rejected"})


@dataclass(frozen=True)
class SourceRow:
    """One row of a source."""

    index: int  # its position in the source, from 0; blank lines of a file count
    values: Mapping[str, Any] | None  # its columns; None where it cannot be read
    problem: str = ""  # why it cannot be read, or cannot be used though it can be shown
    kind: str = "unreadable_line"  # one word for the problem


@dataclass
class Batch:
    """Some rows of a file."""

    numbers: Sequence[int]  # of the rows that can be read: their positions in the source
    rows: list[dict[str, Any]] | pa.RecordBatch
    problems: list[SourceRow] = field(default_factory=list)  # the other rows, in order
    unit: str = "row"  # what the numbers count: lines, elements of an array, or rows

    def __len__(self) -> int:
        return len(self.numbers) + len(self.problems)

    @property
    def end(self) -> int:
        """The number after that of the last row."""
        return 1 + max([-1, *self.numbers[-1:], *(row.index for row in self.problems[-1:])])


class ColumnGate:
    """Decides which columns of a source are let in, and names those that are not; quietly on a second reading."""

    def __init__(self, source: str, limits: Limits, *, quiet: bool = False) -> None:
        self.limits = limits
        self._source = source
        self._quiet = quiet
        self._seen: set[str] = set()
        self._told: set[str] = set()

    def see(self, names: Iterable[str]) -> None:
        """Count columns; raises `InputError` beyond the limit."""
        self._seen.update(names)
        if len(self._seen) > self.limits.max_columns:
            raise InputError(
                f"{self._source}: its rows have more than {self.limits.max_columns:,} different columns "
                f"({', '.join(sorted(self._seen)[:3])}, …); gather them in one column, or raise max_columns"
            )

    def leave_out(self, name: str, why: str) -> None:
        """Say, once, that a column is not read and why."""
        self.warn(name, f"is left out: {why}")

    def warn(self, name: str, what: str) -> None:
        """Say, once, what is wrong with a column."""
        if name not in self._told:
            self._told.add(name)
            if not self._quiet:
                logger.warning(f"{self._source}: the column {name!r} {what}")

    def table_columns(self, schema: pa.Schema) -> list[int]:
        """Give the places of a table's columns that are let in; `InputError` for one that a run reads and cannot."""
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

    try:
        datasets.Features.from_arrow_schema(pa.schema([column]))
    except (ValueError, TypeError, NotImplementedError):
        return False
    return all(map(_is_sound, nested_types(column.type)))


def _is_sound(kind: pa.DataType) -> bool:
    """Say whether the fields of an object can be told apart, and Arrow can read what it wrote."""
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return len(set(names)) == len(names) and not any("\0" in name for name in names)
    return not pa.types.is_fixed_size_list(kind) or kind.list_size > 0


def may_not_be_held(kind: pa.DataType) -> bool:
    """Say whether a type has values for which Python has none: times, and JSON that may not be any."""
    return any(pa.types.is_temporal(t) or isinstance(t, pa.BaseExtensionType) for t in nested_types(kind))


def _open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacking it where its name ends in `.gz`."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


@contextmanager
def _unreadable_as_input_error(path: Path) -> Iterator[None]:
    """Turn a file that cannot be opened, or whose compression is broken, into an `InputError`."""
    try:
        yield
    except EOFError as error:
        raise InputError(f"{path}: the compressed file is cut short; copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not a sound gzip file ({error}); rename it or pack it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


# JSON


def _json_lines(path: Path, gate: ColumnGate, first: int) -> Iterator[Batch]:
    """Read one JSON object per line; blank lines are skipped, but count."""
    limits = gate.limits
    made = _JsonRows(gate, "line")
    size = 0
    with _unreadable_as_input_error(path), _open_bytes(path) as stream:
        for offset, line in enumerate(iter(lambda: stream.readline(limits.line_bytes + 1), b"")):
            if len(line) > limits.line_bytes:
                raise InputError(
                    f"{path}: line {offset + 1:,} has more than {limits.max_line_mb:,} MiB; is it one object per "
                    "line? Raise max_line_mb if it is"
                )
            raw = (line.removeprefix(_BOM) if offset == 0 else line).strip()
            if not raw:
                continue
            made.add_line(first + offset, raw)
            size += len(raw)
            if len(made.batch) >= _ROWS or size >= _BYTES:
                yield made.take()
                size = 0
    if len(made.batch):
        yield made.take()


def _json(path: Path, gate: ColumnGate, first: int) -> Iterator[Batch]:
    """Read a `.json` file: an array of objects, which can only be parsed whole, or one object per line."""
    if not _holds_array(path):
        yield from _json_lines(path, gate, first)
        return
    most = max(gate.limits.line_bytes, _PACKED * path.stat().st_size)
    with _unreadable_as_input_error(path), _open_bytes(path) as stream:
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise InputError(
            f"{path}: it unpacks to more than {_PACKED} times its size and {gate.limits.max_line_mb:,} MiB; raise "
            "max_line_mb, or write one object per line"
        )
    made = _JsonRows(gate, "element")
    try:
        elements = parse_json(raw.decode("utf-8-sig"), decoder=made.decoder, halves=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start + 1:,}); {RECODE}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno:,}, column {error.colno}: {error.msg}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    escapes = b"\\u" in raw
    for start in range(0, len(elements), _ROWS):
        for index, value in enumerate(elements[start : start + _ROWS], first + start):
            made.add(index, value, escapes=escapes, nested=True)
        yield made.take()


def _holds_array(path: Path) -> bool:
    """Say whether a `.json` file is one array; `InputError` where it is one object over several lines, no data set."""
    with _unreadable_as_input_error(path), _open_bytes(path) as stream:
        start = stream.read(4096)
        if start.removeprefix(_BOM).lstrip().startswith(b"["):
            return True
        stream.seek(0)
        lines = [line for line in (stream.readline(1 << 20) for _ in range(2)) if line.strip()]
        if len(lines) == 2 and not _is_json(lines[0].removeprefix(_BOM)):
            whole = (lines[0] + lines[1] + stream.read(1 << 24)).removeprefix(_BOM)
            if _is_json(whole):
                raise InputError(
                    f"{path}: the file is one JSON object; expected an array of objects, or one object per line"
                )
    return False


def _is_json(raw: bytes) -> bool:
    try:
        parse_json(raw)
    except ValueError:
        return False
    return True


class _Repeated(dict[str, Any]):
    """An object in which a key stands more than once; it has the last value of each."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs)
        self.names = [name for name, count in counts.items() if count > 1]


class _JsonRows:
    """Parses rows, and gathers them in a batch."""

    def __init__(self, gate: ColumnGate, unit: str) -> None:
        self._gate = gate
        self._unit = unit
        self._repeated = False
        # One decoder for all rows: to make it takes longer than to read a row.
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_int=_integer)
        self._numbers: list[int] = []
        self._rows: list[dict[str, Any]] = []
        self.batch = Batch(self._numbers, self._rows, unit=unit)

    def take(self) -> Batch:
        """Give the batch, and begin another."""
        whole = self.batch
        self._numbers, self._rows = [], []
        self.batch = Batch(self._numbers, self._rows, unit=self._unit)
        return whole

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self._repeated = True
        return _Repeated(pairs)

    def add_line(self, index: int, raw: bytes) -> None:
        """Parse a line and add what it gives."""
        self._repeated = False
        try:
            value = parse_json(raw.decode("utf-8"), decoder=self.decoder, halves=True)
        except UnicodeDecodeError as error:
            self._refuse(index, f"not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}", kind="not_utf8")
        except json.JSONDecodeError as error:
            self._refuse(index, f"not valid JSON: {error.msg} at character {error.pos + 1}")
        except ValueError as error:
            self._refuse(index, str(error))
        else:
            nested = raw.count(b"[") + raw.count(b"{") > self._gate.limits.max_nesting
            self.add(index, value, escapes=b"\\u" in raw, nested=nested)

    def add(self, index: int, value: Any, *, escapes: bool, nested: bool) -> None:
        """Add a parsed value; a column that nobody needs is mended or left out where it cannot be kept."""
        if not isinstance(value, dict):
            names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}
            found = names.get(type(value), "null")
            return self._refuse(index, f'expected an object such as {{"prompt": …}}, found {found}')
        value.pop("row_index", None)
        if nested:
            limit = self._gate.limits.max_nesting
            for name in [name for name, item in value.items() if _is_deep(item, limit)]:
                if name in NEEDED_COLUMNS:
                    why = f"{name} is nested more than {limit} deep; flatten it, or raise max_nesting"
                    return self._refuse(index, why, kind="nested_too_deeply")
                self._leave_out(index, value, name, f"nests it more than {limit} deep (max_nesting)")
        if self._repeated and (twice := self._settle_repeated(index, value)):
            return self._refuse(index, twice)
        problem = ""
        if escapes:
            problem = _mend_surrogates(value)
            for name in [name for name in value if "\0" in name]:
                self._leave_out(index, value, name, "has NUL in its name")
        self._gate.see(value)
        if problem:
            return self._refuse(index, problem, values=value)
        self._numbers.append(index)
        self._rows.append(value)

    def _refuse(self, index: int, problem: str, *, kind: str = "unreadable_line", values: Any = None) -> None:
        self.batch.problems.append(SourceRow(index, values, problem, kind))

    def _leave_out(self, index: int, value: dict[str, Any], name: str, why: str) -> None:
        self._gate.leave_out(name, f"row {index + 1:,} {why}")
        del value[name]

    def _settle_repeated(self, index: int, value: dict[str, Any]) -> str:
        """Say which key of a needed column stands twice, for nobody knows which of its values is meant."""
        for name in value.names if isinstance(value, _Repeated) else ():
            if name in NEEDED_COLUMNS:
                return f"{name} stands twice in it; remove one of the two"
            if name in value:
                self._leave_out(index, value, name, "has it twice")
        for name in sorted(NEEDED_COLUMNS & value.keys()):
            inner = _first_repeated(value[name])
            if inner is not None:
                return f"{name}: {inner!r:.60} stands twice in an object of it; remove one of the two"
        return ""


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _first_repeated(value: Any) -> str | None:
    """Find a key that stands twice in an object."""
    if isinstance(value, _Repeated):
        return value.names[0]
    return next((found for item in _items(value) if (found := _first_repeated(item)) is not None), None)


def _integer(text: str) -> int | float:
    """Parse an integer; one beyond 64 bits becomes a float, since no column can hold it."""
    value = int(text) if len(text) < 4000 else float(text)
    return value if abs(value) < 2**63 else float(text)


def _is_deep(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)


def _mend_surrogates(values: dict[str, Any]) -> str:
    """Replace half surrogate pairs, which JSON can spell and no column can hold; those of a needed column are told."""
    problem = ""
    for name in list(values):
        text = json.dumps([name, values[name]], ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            if name in NEEDED_COLUMNS:
                problem = f"{name}: a \\u escape is half of a surrogate pair"
                continue
            del values[name]
            mended, values_of = json.loads(text.encode("utf-8", "replace"))
            values[mended] = values_of
    return problem


# Tables


def _parquet(path: Path, gate: ColumnGate, first: int) -> Iterator[Batch]:
    """Read a parquet file, whose parts have the size that it names itself; dictionaries are written out."""
    with _unreadable_as_input_error(path):
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                names = [schema.names[place] for place in gate.table_columns(schema)]
                # Only the columns that are let in are read: what cannot be read of another one stops nothing.
                for batch in file.iter_batches(batch_size=_ROWS, columns=names):
                    columns = [_kept_values(batch.column(batch.schema.get_field_index(n)), n, gate) for n in names]
                    yield Batch(range(first, first + len(batch)), pa.record_batch(columns, names=names))
                    first += len(batch)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a sound parquet file ({error})") from error


def _kept_values(column: pa.Array, name: str, gate: ColumnGate) -> pa.Array:
    """Write dictionaries out, and put null for a value that Python cannot hold, such as a date before the year 1."""
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
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_readable(column: pa.Array) -> bool:
    try:
        decoded(pa.record_batch([column], names=["column"]))
    except (pa.ArrowException, OverflowError, ValueError, LookupError):  # the last: a time zone, with pyarrow < 22
        return False
    return True


def decoded(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Give rows as `datasets` gives them: columns of JSON as the values that it spells."""
    import datasets
    from datasets.table import InMemoryTable

    if not any(is_json_feature(feature) for feature in datasets.Features.from_arrow_schema(batch.schema).values()):
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    columns = datasets.Dataset(InMemoryTable(pa.Table.from_batches([batch])))[:]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class _Utf8(io.RawIOBase):
    """A stream that is read through and proved to be UTF-8 on the way."""

    # Arrow decodes a row that it refuses before it hands it on; where that fails it prints a traceback and goes on.

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
                f"{self._path}: not a CSV file in UTF-8: line {line:,} has the byte "
                f"0x{error.object[error.start]:02x}; {RECODE}"
            ) from error
        self._line += data.count(b"\n")
        return data


def _csv(path: Path, gate: ColumnGate, first: int) -> Iterator[Batch]:
    """Read a CSV file, every cell as text: Arrow would settle a type by the first block, and fail on a later one."""
    bad: list[SourceRow] = []

    def note(row: Any) -> str:
        # The header is row 1 of the file, and a quoted cell may span lines: count records of data.
        found = f"has {row.actual_columns} cells, the header has {row.expected_columns}"
        bad.append(SourceRow(first + row.number - 2, None, found))
        return "skip"

    # One thread: only then does Arrow number the rows that it refuses. A row may not be longer than a block.
    read = pacsv.ReadOptions(use_threads=False, block_size=min(gate.limits.line_bytes, 2**31 - 1))
    parse = pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
    with _unreadable_as_input_error(path):
        try:
            with _open_bytes(path) as stream:
                names = list(pacsv.open_csv(_Utf8(stream, path), read, parse).schema.names)
            kept = gate.table_columns(pa.schema([pa.field(name, pa.string()) for name in names]))
            schema = pa.schema([pa.field(names[place], pa.string()) for place in kept])
            bad.clear()
            convert = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
            with _open_bytes(path) as stream:
                index = first
                for batch in pacsv.open_csv(_Utf8(stream, path), read, parse, convert):
                    numbers, problems = _numbered(batch.num_rows, bad, index)
                    index += len(numbers) + len(problems)
                    columns = [batch.column(place) for place in kept]
                    yield Batch(numbers, pa.record_batch(columns, schema=schema), problems)
                    del bad[: len(problems)]
            if bad:
                yield Batch([], pa.record_batch([pa.array([], pa.string()) for _ in kept], schema=schema), bad)
        except pa.ArrowException as error:
            longer = ""
            if "straddl" in str(error):
                longer = f"; a row longer than {gate.limits.max_line_mb:,} MiB needs max_line_mb"
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
    """Give the columns of a CSV file their types: whole numbers, numbers, truth values, or text as it stands."""
    import datasets
    from datasets.table import InMemoryTable

    # A column is of a type where every cell is, beside those that say nothing; these become null.
    nothing = pa.array(pacsv.ConvertOptions().null_values, pa.string())
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


READERS = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".ndjson": _json_lines,
    ".ndjson.gz": _json_lines,
    ".json": _json,
    ".json.gz": _json,
    ".csv": _csv,
    ".csv.gz": _csv,
    ".parquet": _parquet,
}
"""The formats: file ending to the reader of a path, which yields its rows in batches."""
