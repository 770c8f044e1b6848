"""The proof, before any work, that what a command will write can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mallowspo.errors import InputError

__all__ = ["writable_file", "writable_folder"]

_PROBE_BYTES = 65536  # more than a full disk has left in the blocks of a folder


def writable_folder(path: str | os.PathLike[str], option: str) -> Path:
    """Prove that files can be written into a folder; nothing is left behind, nor the folder if it was not there."""
    if not os.fspath(path):
        raise InputError(f"{option}: got '', expected a path")
    folder, reason = Path(path), ""
    for _ in range(5):
        try:
            _probe(folder)
            return folder
        except FileNotFoundError as error:
            # Another process of the same run may have taken the empty folder away while it proved the same.
            reason = str(error.strerror)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{option}: {_shown(folder)} is a file, or lies below one; name a folder") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"{option}: {_shown(folder)} cannot be written ({reason}); name a folder that can be"
            ) from error
    raise InputError(f"{option}: {_shown(folder)} cannot be made ({reason}); name a folder that can be")


def writable_file(path: str | os.PathLike[str], option: str) -> Path:
    """Prove that a file can be written under a name; nothing is left behind."""
    file = Path(path)
    writable_folder(file.parent, option)
    if file.is_dir():
        raise InputError(f"{option}: {_shown(file)} is a folder; name a file")
    return file


def _shown(path: Path) -> str:
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def _probe(folder: Path) -> None:
    made: list[Path] = []
    try:
        missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            made.append(one)
        if not folder.is_dir():
            raise NotADirectoryError(folder)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:  # without a name, that no signal may leave
            file.write(b"\0" * _PROBE_BYTES)
    finally:
        for one in reversed(made):
            try:
                one.rmdir()
            except OSError:  # somebody has written into it meanwhile
                break
