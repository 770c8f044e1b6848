"""Read JSON lines and JSON arrays row by row; a line that cannot be read is a row with a problem."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from mallowspo.data.batches import NEEDED_COLUMNS, ColumnGate, SourceRow
from mallowspo.data.limits import Limits
from mallowspo.errors import InputError
from mallowspo.files import parse_json

__all__ = ["holds_array", "json_array", "json_lines", "open_bytes", "unreadable_as_input_error"]

# Arrow counts the bytes of a text column in 31 bits, so a chunk is bounded by bytes as well as by rows.
_CHUNK_ROWS = 1_000
_CHUNK_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
# Text packs to a tenth, markup to a fiftieth of its size.
_PACKED = 100


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacking it where its name ends in `.gz`."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


@contextmanager
def unreadable_as_input_error(path: Path) -> Iterator[None]:
    """Turn a file that cannot be opened, or whose compression is broken, into an `InputError`."""
    try:
        yield
    except EOFError as error:
        raise InputError(f"{path}: the compressed file is cut short; copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not a sound gzip file ({error}); rename it or pack it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def json_lines(path: Path, gate: ColumnGate, limits: Limits, first: int) -> Iterator[list[SourceRow]]:
    """Read one JSON object per line, in chunks; blank lines are skipped, but count.

    Args:
        path: A text file in UTF-8, packed with gzip where its name ends in `.gz`.
        gate: Hears of every column.
        limits: How long a line may be, and how deep a value.
        first: The number of the first line.

    Yields:
        Rows; one that cannot be read has a problem and no values.

    Raises:
        InputError: The file cannot be opened or unpacked, or a limit is passed.
    """
    made = _Rows(gate, limits)
    rows: list[SourceRow] = []
    size = 0
    with unreadable_as_input_error(path), open_bytes(path) as stream:
        for offset, line in enumerate(iter(lambda: stream.readline(limits.line_bytes + 1), b"")):
            if len(line) > limits.line_bytes:
                raise InputError(
                    f"{path}: line {offset + 1:,} has more than {limits.max_line_mb:,} MiB; is it one object per "
                    "line? Raise max_line_mb if it is"
                )
            raw = (line.removeprefix(_BOM) if offset == 0 else line).strip()
            if not raw:
                continue
            rows.append(made.of_line(first + offset, raw))
            size += len(raw)
            if len(rows) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


class _Repeated(dict[str, Any]):
    """An object in which a key stands more than once; it has the last value of each."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs)
        self.names = [name for name, count in counts.items() if count > 1]


class _Rows:
    """Makes rows of parsed values."""

    def __init__(self, gate: ColumnGate, limits: Limits) -> None:
        self._gate = gate
        self._limits = limits
        self._repeated = False
        # One decoder for all rows: to make it takes longer than to read a row.
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_int=_integer)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self._repeated = True
        return _Repeated(pairs)

    def of_line(self, index: int, raw: bytes) -> SourceRow:
        """Parse a line."""
        self._repeated = False
        try:
            value = parse_json(raw.decode("utf-8"), decoder=self.decoder, halves=True)
        except UnicodeDecodeError as error:
            found = f"not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}"
            return SourceRow(index, None, found, kind="not_utf8")
        except json.JSONDecodeError as error:
            return SourceRow(index, None, f"not valid JSON: {error.msg} at character {error.pos + 1}")
        except ValueError as error:
            return SourceRow(index, None, str(error))
        nested = raw.count(b"[") + raw.count(b"{") > self._limits.max_nesting
        return self.of_value(index, value, escapes=b"\\u" in raw, nested=nested)

    def of_value(self, index: int, value: Any, *, escapes: bool, nested: bool) -> SourceRow:
        """Make a row; a column that nobody needs is mended or left out where it cannot be kept."""
        if not isinstance(value, dict):
            names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}
            found = names.get(type(value), "null")
            return SourceRow(index, None, f'expected an object such as {{"prompt": …}}, found {found}')
        value.pop("row_index", None)
        if nested:
            limit = self._limits.max_nesting
            for name in [name for name, item in value.items() if _is_deep(item, limit)]:
                if name in NEEDED_COLUMNS:
                    why = f"{name} is nested more than {limit} deep; flatten it, or raise max_nesting"
                    return SourceRow(index, None, why, kind="nested_too_deeply")
                self._leave_out(index, value, name, f"nests it more than {limit} deep (max_nesting)")
        if self._repeated and (twice := self._settle_repeated(index, value)):
            return SourceRow(index, None, twice)
        problem = ""
        if escapes:
            problem = _mend_surrogates(value)
            for name in [name for name in value if "\0" in name]:
                self._leave_out(index, value, name, "has NUL in its name")
        self._gate.see(value)
        return SourceRow(index, value, problem)

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


def _first_repeated(value: Any) -> str | None:
    """Find a key that stands twice in an object."""
    if isinstance(value, _Repeated):
        return value.names[0]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in items if (found := _first_repeated(item)) is not None), None)


def _integer(text: str) -> int | float:
    """Parse an integer; one beyond 64 bits becomes a float, since no column can hold it."""
    value = int(text) if len(text) < 4000 else float(text)
    return value if abs(value) < 2**63 else float(text)


def _is_deep(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
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


def holds_array(path: Path) -> bool:
    """Say whether a `.json` file is one array of objects, and not one object per line.

    Raises:
        InputError: It is a single object over several lines, which is no data set.
    """
    with unreadable_as_input_error(path), open_bytes(path) as stream:
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


def json_array(path: Path, gate: ColumnGate, limits: Limits, first: int) -> Iterator[list[SourceRow]]:
    """Read a `.json` file that is an array of objects; it can only be parsed whole.

    Args and errors as in `json_lines`; the number of a row is the element's position.
    """
    most = max(limits.line_bytes, _PACKED * path.stat().st_size)
    with unreadable_as_input_error(path), open_bytes(path) as stream:
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise InputError(
            f"{path}: it unpacks to more than {_PACKED} times its size and {limits.max_line_mb:,} MiB; raise "
            "max_line_mb, or write one object per line"
        )
    made = _Rows(gate, limits)
    try:
        elements = parse_json(raw.decode("utf-8-sig"), decoder=made.decoder, halves=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start + 1:,}); convert the file first") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno:,}, column {error.colno}: {error.msg}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    escapes = b"\\u" in raw
    for start in range(0, len(elements), _CHUNK_ROWS):
        chunk = elements[start : start + _CHUNK_ROWS]
        rows = (made.of_value(first + start + i, each, escapes=escapes, nested=True) for i, each in enumerate(chunk))
        yield [replace(row, unit="element") for row in rows]
