"""Write the rows that are left once the unusable ones are out, and a log of what went and why."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mallowspo.data.lint.kinds import KINDS
from mallowspo.data.lint.ledger import Ledger
from mallowspo.data.lint.run import CheckReport
from mallowspo.data.readers import SourceRow
from mallowspo.data.sources import stream_rows
from mallowspo.data.tables import as_type, parquet_table
from mallowspo.errors import InputError, not_one_of
from mallowspo.files import atomic_path

__all__ = ["Cleaned", "check_output", "write_cleaned"]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_PARQUET_ROWS = 1_000
# Where more rows than this have an error, the template or the tokenizer is at fault, and dropping rows mends nothing.
_SYSTEMATIC = 0.5
# A template or tokenizer brings these about as often as a row does.
_BY_SHARE = tuple(kind for kind in KINDS if kind.error_above is not None or kind.name == "bos_doubled")
# What is wrong with the row itself; however many they are, they cannot be used.
_ALWAYS = frozenset(kind.name for kind in KINDS if (kind.drop or kind.severity == "error") and kind not in _BY_SHARE)


@dataclass(frozen=True)
class Cleaned:
    """What `--fix` did."""

    path: str
    log: str
    kept: int
    dropped: int
    reasons: dict[str, int]
    left_alone: tuple[str, ...]


def check_output(path: str | os.PathLike[str], source: str | os.PathLike[str]) -> str:
    """Give the suffix of the file to write; raise `InputError` where it cannot be written."""
    name = Path(path).name.lower()
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            break
    else:
        raise not_one_of("fix", "".join(Path(path).suffixes) or name, _SUFFIXES)
    if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
        raise InputError(f"fix: {path} is the data itself; give another file")
    return suffix


def write_cleaned(report: CheckReport, path: str | os.PathLike[str]) -> Cleaned:
    """Stream the data once more and write the rows that can be used, unchanged."""
    suffix = check_output(path, report.source)
    drop, causes, left_alone = _to_drop(report.ledger)
    if drop.all():
        raise InputError(f"fix: none of the {report.rows:,} rows can be used; nothing was written")
    final = Path(path)
    log = final.with_name(final.name[: -len(suffix)] + ".dropped.jsonl")
    bits = {name: report.ledger.having(name) for name in causes}
    reasons: Counter[str] = Counter()
    with atomic_path(final) as beside, atomic_path(log) as beside_log:
        with _writer(beside, suffix) as writer, beside_log.open("w", encoding="utf-8") as lines:
            for position, row in enumerate(_again(report)):
                if position >= len(drop) or row.index != report.ledger.numbers[position]:
                    raise InputError(f"{report.source}: the data changed while it was checked; run again")
                if not drop[position]:
                    writer.write(row.values or {})
                    continue
                why = [name for name, having in bits.items() if having[position]]
                reasons.update(why)
                lines.write(json.dumps({"row": row.index + 1, "reasons": why}) + "\n")
    dropped = int(drop.sum())
    return Cleaned(str(path), str(log), len(drop) - dropped, dropped, dict(reasons.most_common()), left_alone)


def _again(report: CheckReport) -> Iterator[SourceRow]:
    return stream_rows(report.source, split=report.settings.split, limits=report.settings.limits, quiet=True)


def _to_drop(ledger: Ledger) -> tuple[NDArray[np.bool_], tuple[str, ...], tuple[str, ...]]:
    """Decide which rows go: the mask, the kinds that decided it, and the errors that are left alone."""
    having = {kind.name: ledger.having(kind.name) for kind in KINDS}
    drop = np.zeros(len(ledger), dtype=bool)
    causes = {name for name in _ALWAYS if having[name].any()}
    for name in causes:
        drop |= having[name]
    while True:
        left = ~drop
        total = max(int(left.sum()), 1)
        shares = {kind: int((having[kind.name] & left).sum()) / total for kind in _BY_SHARE}
        found = {kind.name for kind, share in shares.items() if share and kind.severity_at(share) == "error"}
        alone = {kind.name for kind, share in shares.items() if share > _SYSTEMATIC}
        if not found - alone:
            names = [kind.name for kind in KINDS]
            return drop, tuple(n for n in names if n in causes), tuple(n for n in names if n in alone)
        for name in found - alone:
            causes.add(name)
            drop |= having[name]


class _Writer(Protocol):
    def write(self, values: Mapping[str, Any]) -> None: ...


@contextmanager
def _writer(path: Path, suffix: str) -> Iterator[_Writer]:
    if suffix == ".parquet":
        parquet = _ParquetRows(path)
        yield parquet
        parquet.close()
        return
    # A time of 0 in the header, so that the same rows give the same file.
    with path.open("wb") as raw:
        if suffix == ".jsonl":
            yield _JsonLines(raw)
        else:
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                yield _JsonLines(packed)


class _JsonLines:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, values: Mapping[str, Any]) -> None:
        line = json.dumps(values, ensure_ascii=False, default=str)
        try:
            raw = line.encode()
        except UnicodeEncodeError:  # half a surrogate pair in a column that nobody checks
            raw = json.dumps(values, default=str).encode()
        self._stream.write(raw + b"\n")


class _ParquetRows:
    """Rows in groups; the first group settles the columns and their types."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Mapping[str, Any]] = []
        self._file: Any = None

    def write(self, values: Mapping[str, Any]) -> None:
        self._rows.append(values)
        if len(self._rows) >= _PARQUET_ROWS:
            self._flush()

    def _flush(self) -> None:
        try:
            schema = None if self._file is None else self._file.schema
            names = dict.fromkeys(name for row in self._rows for name in row)
            if schema is not None and set(names) - set(schema.names):
                raise InputError("fix: the rows have differing columns, which parquet cannot hold; write .jsonl")
            rows = [{n: row.get(n) for n in names} for row in self._rows]
            table = parquet_table(pa.Table.from_pylist(rows))
            if schema is not None:
                columns = [
                    as_type(table.column(f.name), f.type) if f.name in names else pa.nulls(len(rows), f.type)
                    for f in schema
                ]
                table = pa.Table.from_arrays(columns, schema=schema)
            if self._file is None:
                self._file = pq.ParquetWriter(self._path, table.schema)
            self._file.write_table(table)
        except pa.ArrowException as error:
            raise InputError(f"fix: the rows do not fit one parquet table ({error}); write .jsonl") from error
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._file.close()
