"""Read JSON lines and JSON arrays in bounded chunks, and name every line that cannot be read."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mallowspo.data.problems import RowProblem, settle
from mallowspo.data.tables import TableBuilder
from mallowspo.errors import InputError
from mallowspo.files import parse_json

if TYPE_CHECKING:
    import datasets

__all__ = ["open_bytes", "read_json", "read_json_lines", "unreadable_as_input_error"]

# Arrow counts the bytes of a text column in 31 bits, so a chunk is bounded by bytes as well as by rows.
_CHUNK_ROWS = 10_000
_CHUNK_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacking it where its name ends in `.gz`."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


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


def _integer(text: str) -> int | float:
    """Parse an integer; one beyond 64 bits becomes a float, since no column can hold it."""
    value = int(text) if len(text) < 4000 else float(text)
    return value if abs(value) < 2**63 else float(text)


def _parse(raw: bytes | str) -> dict[str, Any]:
    """Parse one JSON object. Raises `ValueError` saying what is wrong, for a person."""
    try:
        value = parse_json(raw, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at character {error.pos + 1}") from error
    return _checked_object(value, escapes=b"\\u" in raw if isinstance(raw, bytes) else "\\u" in raw)


def _checked_object(value: Any, *, escapes: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}
        found = names.get(type(value), "null")
        raise ValueError(f'expected an object such as {{"prompt": …}}, found {found}')
    if escapes:
        # JSON can spell half a surrogate pair, which no text column can hold.
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a \\u escape is half of a surrogate pair") from error
    return value


def read_json_lines(path: Path, *, invalid_rows: str) -> tuple[datasets.Dataset, tuple[RowProblem, ...]]:
    """Read one JSON object per line; blank lines are skipped.

    Args:
        path: A text file in UTF-8, packed with gzip where its name ends in `.gz`.
        invalid_rows: `error` raises on lines that cannot be parsed, `drop` leaves them out.

    Returns:
        The rows, with the column `row_index` (line number less one), and the lines that were left out.

    Raises:
        InputError: See `invalid_rows`; also an empty file, another encoding, broken compression.
    """
    builder = TableBuilder()
    rows: list[dict[str, Any]] = []
    problems: list[RowProblem] = []
    read = 0
    size = 0
    with unreadable_as_input_error(path), open_bytes(path) as stream:
        for index, line in enumerate(stream):
            raw = (line[len(_BOM) :] if index == 0 and line.startswith(_BOM) else line).strip()
            if not raw:
                continue
            read += 1
            try:
                row = _parse(_utf8(raw, path, index + 1))
            except InputError:
                raise
            except ValueError as error:
                problems.append(RowProblem(index, "unreadable_line", f"line {index + 1:,}: {error}"))
                continue
            rows.append({**row, "row_index": index})
            size += len(raw)
            if len(rows) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
                builder.append_rows(rows)
                rows, size = [], 0
    builder.append_rows(rows)
    settle(problems, read, len(builder), invalid_rows=invalid_rows, source=str(path), remedy="Mend these lines")
    return builder.finish(), tuple(problems)


def _utf8(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: line {line:,} is not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x}); "
            "convert the file first, for instance with `iconv -f LATIN1 -t UTF-8`"
        ) from error


def read_json(path: Path, *, invalid_rows: str) -> tuple[datasets.Dataset, tuple[RowProblem, ...]]:
    """Read a `.json` file: an array of objects, or one object per line.

    Args and errors as in `read_json_lines`; in an array, `row_index` is the element's position.
    """
    with unreadable_as_input_error(path), open_bytes(path) as stream:
        start = stream.read(4096).removeprefix(_BOM).lstrip()
        if not start.startswith(b"["):
            if not _is_one_object(path):
                return read_json_lines(path, invalid_rows=invalid_rows)
            raise InputError(
                f"{path}: the file is one JSON object; expected an array of objects, or one object per line"
            )
        stream.seek(0)
        raw = stream.read()
    try:
        elements = parse_json(raw.decode("utf-8-sig"), parse_int=_integer)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start + 1:,}); convert the file first") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno:,}, column {error.colno}: {error.msg}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return _from_elements(elements, path, escapes=b"\\u" in raw, invalid_rows=invalid_rows)


def _from_elements(
    elements: list[Any], path: Path, *, escapes: bool, invalid_rows: str
) -> tuple[datasets.Dataset, tuple[RowProblem, ...]]:
    builder = TableBuilder()
    problems = []
    for first in range(0, len(elements), _CHUNK_ROWS):
        rows = []
        for index, value in enumerate(elements[first : first + _CHUNK_ROWS], first):
            try:
                rows.append({**_checked_object(value, escapes=escapes), "row_index": index})
            except ValueError as error:
                problems.append(RowProblem(index, "unreadable_line", f"element {index + 1:,}: {error}"))
        builder.append_rows(rows)
    settle(
        problems,
        len(elements),
        len(builder),
        invalid_rows=invalid_rows,
        source=str(path),
        remedy="Mend these elements",
    )
    return builder.finish(), tuple(problems)


def _is_one_object(path: Path) -> bool:
    """Say whether the file holds a single object over several lines, which is not a data set."""
    with open_bytes(path) as stream:
        lines = [line for line in (stream.readline() for _ in range(2)) if line.strip()]
        if len(lines) < 2:
            return False
        try:
            parse_json(lines[0].removeprefix(_BOM))
        except ValueError:
            try:
                return isinstance(parse_json((lines[0] + lines[1] + stream.read()).removeprefix(_BOM)), dict)
            except ValueError:
                return False
    return False
