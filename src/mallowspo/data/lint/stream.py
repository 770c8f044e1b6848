"""Read rows one by one, whatever the file, without ever holding them all.

A line that cannot be read is a row with a problem and no values: a linter goes on. JSON arrays, which can only be
parsed whole, are the exception: they are held.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mallowspo.data.json_files import open_bytes, unreadable_as_input_error
from mallowspo.data.problems import RowProblem
from mallowspo.data.sources import READERS, as_path, from_saved, load_preferences, split_files, suffix
from mallowspo.errors import InputError
from mallowspo.files import parse_json

__all__ = ["SourceRow", "stream_rows"]

_BATCH = 1_000
_BOM = b"\xef\xbb\xbf"
_NUMBERS = ("weight", "margin", "dispersion")


@dataclass(frozen=True)
class SourceRow:
    """One row of a source.

    Attributes:
        index: Its position in the source, from 0; blank lines of a file count.
        values: Its columns, or None where it cannot be read.
        problem: Why it cannot be read.
    """

    index: int
    values: Mapping[str, Any] | None
    problem: str = ""


def stream_rows(source: str | os.PathLike[str], *, split: str = "train") -> Iterator[SourceRow]:
    r"""Read the rows of one split, in order.

    Args:
        source: What `load_preferences` takes: a file, a folder with one file per split, a directory saved by
            `datasets`, or a hub name.
        split: The split. A single file has only `train`.

    Yields:
        The rows. A source can be streamed again and gives the same rows, unless the file was changed.

    Raises:
        InputError: There is no such source or split, or the file as a whole cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "1+1="}\nnot a row\n')
        >>> [(row.index, row.values is None) for row in stream_rows(path)]
        [(0, False), (1, True)]
    """
    path = as_path(source)
    if path is None:
        yield from _from_dataset(load_preferences(source, split=split).dataset)
    elif not path.is_dir():
        if split != "train":
            raise InputError(f"split: got {split!r}, but {path} is a single file, which only has 'train'")
        yield from _from_file(path, 0)
    elif (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield from _from_dataset(from_saved(path, split))
    else:
        files = split_files(path)
        if split not in files:
            raise InputError(
                f"split: got {split!r}, but the folder {path} has no file for it "
                f"(it has {', '.join(sorted(files)) or 'no data files'})"
            )
        first = 0
        for file in files[split]:
            last = first - 1
            for row in _from_file(file, first):
                last = row.index
                yield row
            first = last + 1


def _from_file(path: Path, first: int) -> Iterator[SourceRow]:
    ending = suffix(path)
    if ending not in READERS:
        raise InputError(f"dataset: {path} ends in {ending!r}, expected one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    kind = ending.removesuffix(".gz")
    if kind == ".parquet":
        return _parquet(path, first)
    if kind == ".csv":
        return _csv(path, first)
    if kind == ".json" and _is_array(path):
        return _json_array(path, first)
    return _json_lines(path, first)


def _is_array(path: Path) -> bool:
    with unreadable_as_input_error(path), open_bytes(path) as stream:
        return stream.read(4096).removeprefix(_BOM).lstrip().startswith(b"[")


def _json_lines(path: Path, first: int) -> Iterator[SourceRow]:
    with unreadable_as_input_error(path), open_bytes(path) as stream:
        for index, line in enumerate(stream, first):
            raw = (line.removeprefix(_BOM) if index == first else line).strip()
            if raw:
                yield _parsed(index, raw)


def _parsed(index: int, raw: bytes) -> SourceRow:
    try:
        # Unlike the loader's parser this one lets half a surrogate pair through, to be a finding of its own.
        value = parse_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return SourceRow(index, None, f"not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}")
    except json.JSONDecodeError as error:
        return SourceRow(index, None, f"not valid JSON: {error.msg} at character {error.pos + 1}")
    except ValueError as error:
        return SourceRow(index, None, f"not usable JSON: {error}")
    return _object(index, value)


def _object(index: int, value: Any) -> SourceRow:
    if isinstance(value, dict):
        return SourceRow(index, value)
    return SourceRow(index, None, f"expected an object, found {type(value).__name__}")


def _json_array(path: Path, first: int) -> Iterator[SourceRow]:
    with unreadable_as_input_error(path), open_bytes(path) as stream:
        try:
            elements = parse_json(stream.read().decode("utf-8-sig"))
        except ValueError as error:
            raise InputError(f"{path}: not a sound JSON array ({error})") from error
    for index, value in enumerate(elements, first):
        yield _object(index, value)


def _parquet(path: Path, first: int) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with unreadable_as_input_error(path):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH):
                    for row in batch.to_pylist():
                        yield SourceRow(first, row)
                        first += 1
        except pa.ArrowException as error:
            raise InputError(f"{path}: not a sound parquet file ({error})") from error


def _csv(path: Path, first: int) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.csv as pc

    bad: list[RowProblem] = []

    def note(row: Any) -> str:
        # The header is row 1 of the file, and a quoted cell may span lines: count records of data.
        number = first + row.number - 2
        bad.append(RowProblem(number, "", f"has {row.actual_columns} cells, the header has {row.expected_columns}"))
        return "skip"

    read = pc.ReadOptions(use_threads=False, block_size=4 * 1024 * 1024)
    parse = pc.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
    with unreadable_as_input_error(path):
        try:
            with open_bytes(path) as stream:
                names = pc.open_csv(stream, read, parse).schema.names
            bad.clear()
            # All as text: Arrow would settle the types by the first block and fail on a later one.
            convert = pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
            with open_bytes(path) as stream:
                yield from _numbered(pc.open_csv(stream, read, parse, convert), bad, first)
        except pa.ArrowException as error:
            raise InputError(f"{path}: not a sound CSV file in UTF-8 ({error})") from error


def _numbered(batches: Any, bad: list[RowProblem], index: int) -> Iterator[SourceRow]:
    """Put the rows that Arrow skipped back into their places among the others."""
    for batch in batches:
        for row in batch.to_pylist():
            while bad and bad[0].row_index == index:
                yield SourceRow(index, None, bad.pop(0).detail)
                index += 1
            yield SourceRow(index, {name: _cell(name, text) for name, text in row.items()})
            index += 1
    for problem in bad:
        yield SourceRow(problem.row_index, None, problem.detail)


def _cell(name: str, text: str) -> Any:
    if name in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _from_dataset(dataset: Any) -> Iterator[SourceRow]:
    index = 0
    for columns in dataset.with_format(None).iter(_BATCH):
        for values in zip(*columns.values(), strict=True):
            yield SourceRow(index, dict(zip(columns, values, strict=True)))
            index += 1
