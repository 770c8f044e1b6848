"""Load preference data from a file, a folder, a directory saved by `datasets`, or the hub."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mallowspo.data.limits import Limits
from mallowspo.data.problems import RowProblem, check_invalid_rows, settle
from mallowspo.data.readers import (
    NEEDED_COLUMNS,
    READERS,
    RECODE,
    Batch,
    ColumnGate,
    SourceRow,
    csv_types,
    decoded,
    may_not_be_held,
)
from mallowspo.data.tables import TableBuilder, rows_of
from mallowspo.errors import InputError, listed

if TYPE_CHECKING:
    import datasets

__all__ = ["LoadedData", "SourceRow", "keep_source", "load_preferences", "stream_rows"]

_BATCH = 1_000


@dataclass(frozen=True)
class LoadedData:
    """Rows as they were written, and the lines that could not be read."""

    # The column `row_index` says on which line or element, from 0, a row of a JSON file stands.
    dataset: Any  # a `datasets.Dataset`; with `streaming` a `datasets.IterableDataset`
    dropped: tuple[RowProblem, ...] = ()  # left out under `invalid_rows="drop"`


def load_preferences(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    name: str | None = None,
    streaming: bool = False,
    invalid_rows: str = "error",
    limits: Limits | None = None,
) -> LoadedData:
    """Load one split: of a file, a folder with a file per split, a directory of `datasets`, or a hub name."""
    # Local files are read into memory and never cached, so a file that changed never gives old rows.
    check_invalid_rows(invalid_rows)
    if streaming:
        return LoadedData(_streamed(source, split, name, limits or Limits.current(), invalid_rows))
    found = _opened(source, split, name)
    if isinstance(found, list):
        return _collected(found, str(Path(source).expanduser()), limits or Limits.current(), invalid_rows)
    return LoadedData(found)


def _streamed(
    source: str | os.PathLike[str], split: str, name: str | None, limits: Limits, invalid_rows: str
) -> datasets.IterableDataset:
    """Rows that are read as they are asked for; what cannot be read is found when it comes."""
    import datasets

    if _as_path(source) is None:
        return _from_hub(str(source), split=split, name=name, streaming=True)
    found = _opened(source, split, name)
    if not isinstance(found, list):
        return found.add_column("row_index", np.arange(len(found))).to_iterable_dataset()
    facts = {"source": str(source), "split": split, "limits": limits, "invalid_rows": invalid_rows}
    return datasets.IterableDataset.from_generator(_readable_rows, gen_kwargs=facts)


def _readable_rows(source: str, split: str, limits: Limits, invalid_rows: str) -> Iterator[dict[str, Any]]:
    for row in stream_rows(source, split=split, limits=limits, quiet=True):
        if row.values is not None and not row.problem:
            yield {**row.values, "row_index": row.index}
        elif invalid_rows == "error":
            problem = RowProblem(row.index, row.kind, row.problem)
            settle([problem], row.index + 1, row.index, invalid_rows=invalid_rows, source=source)


def _opened(source: str | os.PathLike[str], split: str, name: str | None = None) -> datasets.Dataset | list[Path]:
    """Find a split: the data set that `datasets` has of it, or its files."""
    path = _as_path(source)
    if path is None:
        return _from_hub(str(source), split=split, name=name)
    if name is not None:
        raise InputError(f"dataset configuration: got {name!r}, but {path} is local and has no configurations")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _from_saved(path, split)
    return _files(path, split)


def _as_path(source: str | os.PathLike[str]) -> Path | None:
    """Decide between a path, which must exist, and a hub name (None): a typo may cost minutes at the hub."""
    text = os.fspath(source)
    if not text.strip():
        raise InputError(f"dataset: got {text!r}, expected a file, a folder or a hub name")
    path = Path(text).expanduser()
    if path.exists():
        return path
    looks_local = (
        not isinstance(source, str)
        or text.startswith((".", "~", os.sep))
        or _suffix(path) in READERS
        or text.count("/") > 1
        or "\\" in text
        or ("/" in text and Path(text.split("/")[0]).is_dir())
    )
    if not looks_local and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text):
        return None
    if "://" in text:
        raise InputError(f"dataset: got {text!r}; download it and give the file's path")
    raise InputError(f"dataset: there is no file or folder {text}; {_nearby(path)}")


def _nearby(path: Path) -> str:
    """Name what stands where a path leads that does not exist: what is spelt alike, else the data that is there."""
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {parent} either"
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    alike = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    if alike:
        return f"did you mean {' or '.join(alike)}?"
    data = [name for name in names if _suffix(Path(name)) in READERS]
    return f"{parent} holds {listed(data, 3)}" if data else f"{parent} holds no data file"


def _suffix(path: Path) -> str:
    """Give the ending that names the format, one of `READERS` where it is supported; `.gz` is included."""
    endings = [ending.lower() for ending in path.suffixes]
    return "".join(endings[-2:]) if endings[-1:] == [".gz"] else "".join(endings[-1:])


def _no_such_split(path: Path, split: str, files: dict[str, list[Path]]) -> InputError:
    found = listed(sorted(entry.name for entry in path.iterdir())) if not files else ""
    exists = f"it has {listed(sorted(files))}" if files else f"it holds {found or 'nothing'}"
    return InputError(
        f"split: got {split!r}, but the folder {path} has no file for it ({exists}); "
        f"expected a directory saved by `datasets`, or files such as {split}.jsonl or {split}.parquet"
    )


def _files(path: Path, split: str) -> list[Path]:
    """Give the files that hold a split: the path itself, or those of a folder."""
    if not path.is_dir():
        if split != "train":
            raise InputError(
                f"split: got {split!r}, but {path} is a single file, which only has 'train'; "
                f"give a folder with train{_suffix(path)} and {split}{_suffix(path)} to have both"
            )
        found = [path]
    else:
        files = _split_files(path)
        if split not in files:
            raise _no_such_split(path, split, files)
        found = files[split]
        if len({_suffix(file) for file in found}) > 1:
            raise InputError(f"split: {split!r} is ambiguous, {path} has {listed([f.name for f in found])}")
    for file in found:
        if _suffix(file) not in READERS:
            raise InputError(f"dataset: {file} ends in {_suffix(file)!r}, expected one of {', '.join(READERS)}")
        if file.stat().st_size == 0:
            raise InputError(f"dataset: {file} is empty")
    return found


def keep_source(
    file: str | os.PathLike[str], option: str, source: str | os.PathLike[str] | None, split: str = "train"
) -> None:
    """Raise `InputError` where a file that is to be written is one from which a split is read."""
    if source is None or not Path(file).exists():
        return
    path = Path(source).expanduser()
    held = _split_files(path).get(split, []) if path.is_dir() else [path]
    if any(one.exists() and one.samefile(file) for one in held):
        raise InputError(f"{option}: {file} holds what is read from {source} and would be lost; give another name")


def _batches(files: list[Path], source: str, limits: Limits, *, quiet: bool = False) -> Iterator[tuple[Path, Batch]]:
    """Read files one after the other; the rows are numbered through."""
    gate = ColumnGate(source, limits, quiet=quiet)
    first = 0
    for file in files:
        for batch in READERS[_suffix(file)](file, gate, first):
            yield file, batch
            first = max(first, batch.end)


def stream_rows(
    source: str | os.PathLike[str], *, split: str = "train", limits: Limits | None = None, quiet: bool = False
) -> Iterator[SourceRow]:
    """Read the rows that `load_preferences` collects one by one, without ever holding them all but for JSON arrays."""
    found = _opened(source, split)
    if not isinstance(found, list):
        for index, values in enumerate(rows_of(found, found.column_names)):
            yield SourceRow(index, values)
        return
    for _, batch in _batches(found, str(Path(source).expanduser()), limits or Limits.current(), quiet=quiet):
        good = _good_rows(batch)
        yield from merge(good, batch.problems, key=lambda row: row.index) if batch.problems else good


def _good_rows(batch: Batch) -> Iterator[SourceRow]:
    if isinstance(batch.rows, list):
        yield from map(SourceRow, batch.numbers, batch.rows)
        return
    for start in range(0, batch.rows.num_rows, _BATCH):
        rows = decoded(batch.rows.slice(start, _BATCH))
        yield from map(SourceRow, batch.numbers[start : start + _BATCH], rows)


def _collected(files: list[Path], source: str, limits: Limits, invalid_rows: str) -> LoadedData:
    """Put the rows of files together; the lines that cannot be read are settled."""
    builder = TableBuilder()
    numbers: list[int] = []
    problems: list[RowProblem] = []
    unit = "row"
    for file, batch in _batches(files, source, limits):
        unit = batch.unit
        for row in batch.problems:
            if row.kind == "not_utf8":
                raise InputError(f"{file}: {unit} {row.index + 1:,} is {row.problem}; {RECODE}")
            where = "" if unit == "row" else f"{unit} {row.index + 1:,}: "
            problems.append(RowProblem(row.index, row.kind, where + row.problem))
        if isinstance(batch.rows, list):
            builder.append_rows(batch.rows)
        else:
            builder.append_columns(
                dict(zip(batch.rows.schema.names, batch.rows.columns, strict=True)), len(batch.rows)
            )
        numbers += batch.numbers
    total = len(numbers) + len(problems)
    settle(problems, total, len(numbers), invalid_rows=invalid_rows, source=source, remedy=f"Mend these {unit}s")
    if not builder.column_names:
        raise InputError(f'{source}: its rows have no columns; expected objects such as {{"prompt": …}}')
    dataset = builder.finish()
    if ".csv" in _suffix(files[0]):
        dataset = csv_types(dataset)
    # Of one file with lines the number is always told; elsewhere it says no more than the position.
    if (unit != "row" and len(files) == 1) or numbers != list(range(len(numbers))):
        dataset = dataset.add_column("row_index", np.asarray(numbers, dtype=np.int64))
    return LoadedData(dataset, tuple(problems))


def _split_files(path: Path) -> dict[str, list[Path]]:
    """Group the data files of a folder, or of its `data` folder, by the split that their names give."""
    files: dict[str, list[Path]] = {}
    for folder in (path, path / "data"):
        if not folder.is_dir() or files:
            continue
        for file in sorted(folder.iterdir()):
            if _suffix(file) in READERS and file.is_file():
                stem = file.name.lower().removesuffix(_suffix(file))
                found = re.fullmatch(r"(.+?)(-\d+-of-\d+)?", stem)
                files.setdefault(found[1] if found else stem, []).append(file)
    return files


def _from_saved(path: Path, split: str) -> datasets.Dataset:
    """Load one split of a directory that `datasets` saved; a single data set counts as `train`."""
    import datasets

    try:
        # A data set on disk keeps its caches beside it; a folder that cannot be written must still be usable.
        loaded = datasets.load_from_disk(str(path), keep_in_memory=None if os.access(path, os.W_OK) else True)
        # Arrow believes the file: to follow an offset that is damaged would kill the process.
        for part in loaded.values() if isinstance(loaded, datasets.DatasetDict) else [loaded]:
            part.data.table.validate(full=True)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a directory saved by `datasets` ({error})") from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    if split not in splits:
        raise InputError(f"split: got {split!r}, but {path} has {listed(sorted(map(str, splits)))}")
    return _let_in(splits[split], str(path))


def _let_in(dataset: Any, source: str) -> Any:
    """Leave out the columns of a data set that no row can hold; pictures and sounds nobody looks at stay as bytes."""
    import datasets
    from datasets.features.features import require_decoding

    gate = ColumnGate(source, Limits.current())
    for name, feature in dataset.features.items():
        if getattr(feature, "decode", False) and not isinstance(feature, datasets.Json):
            dataset = dataset.cast_column(name, replace(feature, decode=False))
    schema = dataset.data.schema
    kept = []
    for name in (schema.names[place] for place in gate.table_columns(schema)):
        if may_not_be_held(schema.field(name).type) or require_decoding(dataset.features[name]):
            try:
                for _ in rows_of(dataset, [name]):
                    pass
            except Exception as error:  # decoders raise dozens of types
                if name in NEEDED_COLUMNS:
                    raise InputError(f"{source}: the column {name!r} cannot be read ({error}); mend it") from error
                gate.leave_out(name, f"its values cannot be read ({error})")
                continue
        kept.append(name)
    return dataset.select_columns(kept)


def _from_hub(source: str, *, split: str, name: str | None, streaming: bool = False) -> Any:
    import datasets

    try:
        found = datasets.load_dataset(source, name=name, split=split, streaming=streaming)
    except Exception as error:  # load_dataset raises dozens of types, its own and those of its transports
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = datasets.config.HF_HUB_OFFLINE or datasets.config.HF_DATASETS_OFFLINE
        hint = (
            "the hub is switched off (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set): unset it, or give a local file"
            if offline
            else "check the name, the split and the network; without a network, set HF_HUB_OFFLINE=1 to fail at once"
        )
        raise InputError(
            f"dataset: {source!r} is no local file, and the hub did not give its split {split!r} ({reason}); {hint}"
        ) from error
    return found if streaming else _let_in(found, source)
