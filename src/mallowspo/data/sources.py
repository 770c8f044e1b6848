"""Load preference data from a file, a folder, a directory saved by `datasets`, or the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallowspo.data.json_files import open_bytes, read_json, read_json_lines, unreadable_as_input_error
from mallowspo.data.problems import RowProblem, check_invalid_rows, settle
from mallowspo.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["READERS", "LoadedData", "as_path", "from_saved", "load_preferences", "split_files", "suffix"]


@dataclass(frozen=True)
class LoadedData:
    """Rows as they were written, and the lines that could not be read.

    Attributes:
        dataset: The rows. A JSON file adds the column `row_index` (line or element, from 0), so that
            what is later said about a row names the line on which it stands.
        dropped: Lines left out under `invalid_rows="drop"`, by `row_index`.
    """

    dataset: datasets.Dataset
    dropped: tuple[RowProblem, ...] = ()


def load_preferences(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    name: str | None = None,
    streaming: bool = False,
    invalid_rows: str = "error",
) -> LoadedData:
    """Load one split of a preference data set, in whatever form it is kept.

    Local files are read into memory and never cached, so a file that changed never gives old rows.

    Args:
        source: A `.jsonl`, `.ndjson`, `.json`, `.csv` (each also `.gz`) or `.parquet` file; a directory saved by
            `datasets`; a folder with one file per split (`train.jsonl`, `test.jsonl`, `train-00000-of-00002.parquet`);
            or a hub name such as `owner/name`.
        split: The split to load. A single file has only `train`.
        name: The configuration of a hub data set.
        streaming: Not supported: the dispersion of a data set is calibrated on all of it.
        invalid_rows: `error` raises on lines that cannot be parsed, `drop` leaves them out and reports them.

    Returns:
        The rows and the dropped lines.

    Raises:
        InputError: The source, the split or a line cannot be used; the message says which and what exists.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}')
        >>> load_preferences(path).dataset["chosen"][0]
        ' blue.'
    """
    check_invalid_rows(invalid_rows)
    if streaming:
        raise InputError("streaming: not supported, since the dispersion is calibrated on the whole data set")
    path = as_path(source)
    if path is None:
        return _from_hub(str(source), split=split, name=name)
    if name is not None:
        raise InputError(f"dataset configuration: got {name!r}, but {path} is local and has no configurations")
    if path.is_dir():
        return _from_directory(path, split, invalid_rows)
    if split != "train":
        raise InputError(
            f"split: got {split!r}, but {path} is a single file, which only has 'train'; "
            f"give a folder with train{suffix(path)} and {split}{suffix(path)} to have both"
        )
    return _from_file(path, invalid_rows)


def as_path(source: str | os.PathLike[str]) -> Path | None:
    """Decide between a path, which must exist, and a hub name (None).

    A mistyped file name must not become a question to the hub, which may take minutes to fail.

    Args:
        source: A path, or a hub name such as `owner/name`.

    Returns:
        The path of a file or folder that exists, or None for a hub name.

    Raises:
        InputError: It looks like a path and nothing is there, or it is an address.

    Example:
        >>> as_path("owner/name") is None
        True
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.exists():
        return path
    looks_local = (
        not isinstance(source, str)
        or text.startswith((".", "~", os.sep))
        or suffix(path) in READERS
        or text.count("/") > 1
        or "\\" in text
        or ("/" in text and Path(text.split("/")[0]).is_dir())
    )
    if not looks_local and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text):
        return None
    if "://" in text:
        raise InputError(f"dataset: got {text!r}; download it and give the file's path")
    parent = path.parent
    if parent.is_dir():
        near = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
        there = f"{parent} holds {_listed(near)}" if near else f"{parent} is empty"
    else:
        there = f"there is no folder {parent} either"
    raise InputError(f"dataset: there is no file or folder {text}; {there}")


def _listed(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def suffix(path: Path) -> str:
    """Give the ending that names the format, one of `READERS` where it is supported; `.gz` is included.

    Example:
        >>> suffix(Path("data.v2/Train.JSONL.gz"))
        '.jsonl.gz'
    """
    endings = [ending.lower() for ending in path.suffixes]
    return "".join(endings[-2:]) if endings[-1:] == [".gz"] else "".join(endings[-1:])


def _from_file(path: Path, invalid_rows: str) -> LoadedData:
    reader = READERS.get(suffix(path))
    if reader is None:
        raise InputError(f"dataset: {path} ends in {suffix(path)!r}, expected one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    dataset, dropped = reader(path, invalid_rows=invalid_rows)
    return LoadedData(dataset, dropped)


def _read_parquet(path: Path, *, invalid_rows: str) -> tuple[datasets.Dataset, tuple[RowProblem, ...]]:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets.table import InMemoryTable

    with unreadable_as_input_error(path):
        try:
            table = pq.read_table(path)
        except pa.ArrowException as error:
            raise InputError(f"{path}: not a sound parquet file ({error})") from error
    settle((), table.num_rows, table.num_rows, invalid_rows=invalid_rows, source=str(path))
    return datasets.Dataset(InMemoryTable(table)), ()


def _read_csv(path: Path, *, invalid_rows: str) -> tuple[datasets.Dataset, tuple[RowProblem, ...]]:
    """Read a CSV file; the columns of text stay text, so that an answer such as `42` or `NA` survives."""
    import datasets
    import pyarrow as pa
    import pyarrow.csv as pc
    from datasets.table import InMemoryTable

    problems: list[RowProblem] = []

    def note(row: Any) -> str:
        # The header is row 1 of the file, and a quoted cell may span lines: count records of data.
        index = row.number - 2 if row.number is not None else -1
        detail = f"has {row.actual_columns} cells, the header has {row.expected_columns}"
        problems.append(RowProblem(index, "unreadable_line", detail))
        return "skip"

    with unreadable_as_input_error(path), open_bytes(path) as stream:
        try:
            table = pc.read_csv(
                stream,
                # One thread: only then does Arrow number the rows that it refuses.
                read_options=pc.ReadOptions(use_threads=False, block_size=64 * 1024 * 1024),
                parse_options=pc.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
                convert_options=pc.ConvertOptions(
                    column_types=dict.fromkeys(("prompt", "chosen", "rejected"), pa.string()),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowException as error:
            raise InputError(f"{path}: not a sound CSV file in UTF-8 ({error})") from error
    total = table.num_rows + len(problems)
    settle(problems, total, table.num_rows, invalid_rows=invalid_rows, source=str(path))
    if problems:
        gone = {problem.row_index for problem in problems}
        kept = pa.array([index for index in range(total) if index not in gone], type=pa.int64())
        table = table.append_column("row_index", kept)
    return datasets.Dataset(InMemoryTable(table)), tuple(problems)


_Reader = Callable[..., "tuple[datasets.Dataset, tuple[RowProblem, ...]]"]
READERS: dict[str, _Reader] = {
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".ndjson": read_json_lines,
    ".ndjson.gz": read_json_lines,
    ".json": read_json,
    ".json.gz": read_json,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".parquet": _read_parquet,
}
"""The formats: file ending to a function of the path and `invalid_rows`, which gives rows and dropped lines."""


def _from_directory(path: Path, split: str, invalid_rows: str) -> LoadedData:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return LoadedData(from_saved(path, split))
    files = split_files(path)
    if split not in files:
        found = _listed(sorted(entry.name for entry in path.iterdir())) if not files else ""
        exists = f"it has {_listed(sorted(files))}" if files else f"it holds {found or 'nothing'}"
        raise InputError(
            f"split: got {split!r}, but the folder {path} has no file for it ({exists}); "
            f"expected a directory saved by `datasets`, or files such as {split}.jsonl or {split}.parquet"
        )
    if len({suffix(file) for file in files[split]}) > 1:
        raise InputError(f"split: {split!r} is ambiguous, {path} has {_listed([f.name for f in files[split]])}")
    parts = [_from_file(file, invalid_rows) for file in files[split]]
    if len(parts) == 1:
        return parts[0]
    import datasets

    # A line number would name one line in each of the files, so the rows are numbered as joined.
    whole = [part.dataset.remove_columns(_numbering(part.dataset)) for part in parts]
    try:
        joined = datasets.concatenate_datasets(whole)
    except ValueError as error:
        raise InputError(
            f"{path}: the files of split {split!r} differ in the type of a column "
            f"({_listed([file.name for file in files[split]])}); write them alike ({error})"
        ) from error
    return LoadedData(joined, tuple(problem for part in parts for problem in part.dropped))


def _numbering(dataset: datasets.Dataset) -> list[str]:
    return [name for name in dataset.column_names if name == "row_index"]


def split_files(path: Path) -> dict[str, list[Path]]:
    """Group the data files of a folder, or of its `data` folder, by the split that their names give.

    Args:
        path: The folder.

    Returns:
        Split to its files in the order of their names; empty where the folder holds no data file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.csv", "notes.txt"):
        ...     (folder / name).touch()
        >>> {split: len(files) for split, files in split_files(folder).items()}
        {'test': 1, 'train': 2}
    """
    files: dict[str, list[Path]] = {}
    for folder in (path, path / "data"):
        if not folder.is_dir() or files:
            continue
        for file in sorted(folder.iterdir()):
            if suffix(file) in READERS and file.is_file():
                stem = file.name.lower().removesuffix(suffix(file))
                found = re.fullmatch(r"(.+?)(-\d+-of-\d+)?", stem)
                files.setdefault(found[1] if found else stem, []).append(file)
    return files


def from_saved(path: Path, split: str) -> datasets.Dataset:
    """Load one split of a directory that `datasets` saved; a single data set counts as `train`.

    Args:
        path: The directory.
        split: The split.

    Returns:
        The rows, mapped from the disk where it can be written and read into memory where it cannot.

    Raises:
        InputError: The directory cannot be read or lacks the split.
    """
    import datasets

    try:
        # A data set on disk keeps its caches beside it; a folder that cannot be written must still be usable.
        loaded = datasets.load_from_disk(str(path), keep_in_memory=None if os.access(path, os.W_OK) else True)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a directory saved by `datasets` ({error})") from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    if split not in splits:
        raise InputError(f"split: got {split!r}, but {path} has {_listed(sorted(map(str, splits)))}")
    return splits[split]


def _from_hub(source: str, *, split: str, name: str | None) -> LoadedData:
    import datasets

    try:
        return LoadedData(datasets.load_dataset(source, name=name, split=split))
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
