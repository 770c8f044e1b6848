"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mallowspo.redaction import without_known_secrets

__all__ = [
    "atomic_path",
    "is_whole",
    "parse_json",
    "passing_folder",
    "plain",
    "staging_folder",
    "to_the_end",
    "write_json",
    "write_lines",
    "write_text",
]


def to_the_end(work: Callable[[], object]) -> None:
    """Do something that may be begun again; a signal that falls into it takes effect once it is done.

    Example:
        >>> done = []
        >>> def work():
        ...     done.append(len(done))
        ...     if len(done) == 1:
        ...         raise KeyboardInterrupt
        >>> try:
        ...     to_the_end(work)
        ... except KeyboardInterrupt:
        ...     print(done)
        [0, 1]
    """
    try:
        work()
    except KeyboardInterrupt:
        work()
        raise


def staging_folder(final: Path) -> Path:
    """Where a folder is written before it gets its name.

    No pattern for checkpoints finds it, and transformers, which uploads an output_dir while a run goes on, leaves out
    what begins with an underscore.

    Example:
        >>> staging_folder(Path("out/checkpoint-4")).name
        '_checkpoint-4.saving'
    """
    return final.with_name(f"_{final.name}.saving")


@contextmanager
def passing_folder(folder: Path, *, ours: bool = True) -> Iterator[None]:
    """Let a folder be written for the time of a block; what is in it then goes, however the block ends.

    With `ours` false another process takes it away, since others may still be writing for that one.
    """
    try:
        yield
    finally:
        if ours:
            to_the_end(lambda: shutil.rmtree(folder, ignore_errors=True))


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an error.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as beside:
        ...     _ = beside.write_text("1")
        >>> [p.name for p in folder.iterdir()]
        ['a.txt']
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    beside = final.with_name(f".{final.stem}.{secrets.token_hex(4)}{final.suffix}")
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield beside
        os.replace(beside, final)
    except OSError as error:
        # A write that fails for want of space does not say of which file.
        if error.filename is None or error.filename == str(beside):
            error.filename = str(final)
        raise
    finally:
        to_the_end(lambda: beside.unlink(missing_ok=True))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8 under `path`, whole or not at all, without any secret that this process knows."""
    with atomic_path(path) as beside:
        beside.write_text(without_known_secrets(text), encoding="utf-8")


def write_lines(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines, as `write_text` does, and say how many they are."""
    count = 0
    with atomic_path(path) as beside, beside.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(without_known_secrets(json.dumps(row, ensure_ascii=False)) + "\n")
            count += 1
    return count


def plain(value: Any) -> Any:
    """Turn numpy and torch scalars into JSON numbers, and a number that JSON has no word for into null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON under `path`, whole or not at all; NaN and infinity become null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


# Half of a surrogate pair as an escape; only a search, for a whole pair has two of them.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes, *, decoder: json.JSONDecoder | None = None, halves: bool = False) -> Any:
    """Parse JSON that somebody else wrote; whatever is wrong with it is a `ValueError`.

    With `halves`, half surrogate pairs pass, for the caller mends them: no file and no digest can hold one.

    Example:
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: not usable JSON: nested too deeply
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        value = json.loads(text) if decoder is None else decoder.decode(text)
        if halves or not _HALF.search(text) or is_whole(value):
            return value
    except RecursionError as error:
        raise ValueError("not usable JSON: nested too deeply") from error
    raise ValueError("not usable JSON: a \\u escape is half of a surrogate pair")


def is_whole(value: Any) -> bool:
    r"""Say whether the texts in a value, however deep, can be written: none has half of a surrogate pair.

    Example:
        >>> is_whole(["a", {"b": 1}]), is_whole(["a", {"\ud83d": 1}])
        (True, False)
    """
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True
