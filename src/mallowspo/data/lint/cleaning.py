"""Write the rows that are left once the unusable ones are out, and a log of what went and why."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mallowspo.data.lint.findings import KINDS, Ledger
from mallowspo.data.lint.run import CheckReport
from mallowspo.data.sources import keep_source, stream_rows
from mallowspo.data.tables import as_type, parquet_table
from mallowspo.errors import InputError, not_one_of
from mallowspo.files import atomic_path

__all__ = ["Cleaned", "check_output", "write_cleaned"]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_PARQUET_ROWS = 1_000
# Where more rows than this have an error, the template or the tokenizer is at fault, and dropping rows mends nothing.
_SYSTEMATIC = 0.5
# A template or tokenizer brings these about as often as a row does.
_BY_SHARE = {name: kind for name, kind in KINDS.items() if kind.error_above is not None or name == "bos_doubled"}
# What is wrong with the row itself; however many they are, they cannot be used.
_ALWAYS = {name for name, kind in KINDS.items() if kind.drop or kind.severity == "error"} - _BY_SHARE.keys()


@dataclass(frozen=True)
class Cleaned:
    """What `--fix` did."""

    path: str
    log: str  # one line of JSON per dropped row: its number and the reasons
    kept: int
    dropped: int
    reasons: dict[str, int]  # rows by reason; a row may have several
    left_alone: tuple[str, ...]  # errors that more than half of the rows that are left have: dropping mends nothing


def check_output(path: str | os.PathLike[str], source: str | os.PathLike[str], split: str = "train") -> str:
    """Give the suffix of the file to write; raise `InputError` where it cannot be written."""
    name = Path(path).name.lower()
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            break
    else:
        raise not_one_of("fix", "".join(Path(path).suffixes) or name, _SUFFIXES)
    keep_source(path, "fix", source, split)
    return suffix


def write_cleaned(report: CheckReport, path: str | os.PathLike[str]) -> Cleaned:
    """Stream the data once more and write the rows that can be used, unchanged, and a log beside them."""
    suffix = check_output(path, report.source, report.settings.split)
    drop, causes, left_alone = _to_drop(report.ledger)
    if drop.all():
        raise InputError(f"fix: none of the {report.rows:,} rows can be used; nothing was written")
    final = Path(path)
    log = final.with_name(final.name[: -len(suffix)] + ".dropped.jsonl")
    reasons: Counter[str] = Counter()
    with atomic_path(final) as beside, atomic_path(log) as beside_log:
        with beside_log.open("w", encoding="utf-8") as lines:
            rows = _kept_rows(report, drop, causes, reasons, lines)
            if suffix == ".parquet":
                _write_parquet(rows, beside)
            else:
                _write_lines(rows, beside, packed=suffix.endswith(".gz"))
    dropped = int(drop.sum())
    return Cleaned(str(path), str(log), len(drop) - dropped, dropped, dict(reasons.most_common()), left_alone)


def _kept_rows(
    report: CheckReport, drop: NDArray[np.bool_], causes: tuple[str, ...], reasons: Counter[str], log: TextIO
) -> Iterator[Mapping[str, Any]]:
    """Read the rows again; those that are dropped go to the log, and their reasons are counted."""
    having = {name: report.ledger.having(name) for name in causes}
    settings = report.settings
    again = stream_rows(report.source, split=settings.split, limits=settings.limits, quiet=True)
    for position, row in enumerate(again):
        if position >= len(drop) or row.index != report.ledger.numbers[position]:
            raise InputError(f"{report.source}: the data changed while it was checked; run again")
        if not drop[position]:
            yield row.values or {}
            continue
        why = [name for name in causes if having[name][position]]
        reasons.update(why)
        log.write(json.dumps({"row": row.index + 1, "reasons": why}) + "\n")


def _to_drop(ledger: Ledger) -> tuple[NDArray[np.bool_], tuple[str, ...], tuple[str, ...]]:
    """Decide which rows go: the mask, the kinds that decided it, and the errors that are left alone."""
    # Dropping rows changes the shares of the others, so this goes on until what is left would pass, or be left alone.
    having = {name: ledger.having(name) for name in KINDS}
    drop = np.zeros(len(ledger), dtype=bool)
    causes = {name for name in _ALWAYS if having[name].any()}
    for name in causes:
        drop |= having[name]
    while True:
        total = max(int((~drop).sum()), 1)
        shares = {name: int((having[name] & ~drop).sum()) / total for name in _BY_SHARE}
        found = {n for n, share in shares.items() if share and _BY_SHARE[n].severity_at(share) == "error"}
        alone = {name for name, share in shares.items() if share > _SYSTEMATIC}
        if not found - alone:
            return drop, tuple(n for n in KINDS if n in causes), tuple(n for n in KINDS if n in alone)
        for name in found - alone:
            causes.add(name)
            drop |= having[name]


def _write_lines(rows: Iterator[Mapping[str, Any]], path: Path, *, packed: bool) -> None:
    with path.open("wb") as raw, contextlib.ExitStack() as stack:
        stream: Any = raw
        if packed:  # a time of 0 in the header, so that the same rows give the same file
            stream = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0))
        for values in rows:
            try:
                line = json.dumps(values, ensure_ascii=False, default=str).encode()
            except UnicodeEncodeError:  # half a surrogate pair in a column that nobody checks
                line = json.dumps(values, default=str).encode()
            stream.write(line + b"\n")


def _write_parquet(rows: Iterator[Mapping[str, Any]], path: Path) -> None:
    """Write rows in groups; the first group settles the columns and their types."""
    file = None
    try:
        while group := list(islice(rows, _PARQUET_ROWS)):
            names = dict.fromkeys(name for row in group for name in row)
            if file is not None and set(names) - set(file.schema.names):
                raise InputError("fix: the rows have differing columns, which parquet cannot hold; write .jsonl")
            table = parquet_table(pa.Table.from_pylist([{n: row.get(n) for n in names} for row in group]))
            if file is None:
                file = pq.ParquetWriter(path, table.schema)
            else:
                columns = [
                    as_type(table.column(f.name), f.type) if f.name in names else pa.nulls(len(group), f.type)
                    for f in file.schema
                ]
                table = pa.Table.from_arrays(columns, schema=file.schema)
            file.write_table(table)
        if file is not None:
            file.close()
    except pa.ArrowException as error:
        raise InputError(f"fix: the rows do not fit one parquet table ({error}); write .jsonl") from error
