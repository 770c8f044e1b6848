"""One writer at a time: a lock on a folder that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mallowspo.errors import InputError
from mallowspo.files import to_the_end

__all__ = ["LOCK", "folder_lock", "take_lock"]

logger = logging.getLogger(__name__)

LOCK = ".lock"
# transformers leaves what begins with an underscore out of what it uploads.
_PASSING = "_lock"

# A forked child inherits the set, but not the right.
_held: set[tuple[int, Path]] = set()


def take_lock(handle: int, path: Path, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed; where the file system has no locks, say so and go on without."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        # As some network mounts are. TRL trains there, and so must we.
        logger.warning(
            f"{path} is on a file system without locks ({error.strerror}): see to it yourself that no other process "
            "writes there meanwhile"
        )
    return True


@contextmanager
def folder_lock(folder: Path, what: str, *, keep_file: bool = False) -> Iterator[None]:
    """Hold the only right to write to a folder for the time of a block.

    The system gives the lock back when the process ends, however it ends; where it has no locks, a warning says so. A
    process that holds it may take it again, so that a command can hold it for longer than the function that needs it.
    """
    path = folder.absolute() / (LOCK if keep_file else _PASSING)
    mine = (os.getpid(), path)
    if mine in _held:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir: {folder} is a file, expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"output_dir: {folder} cannot be written ({error.strerror})") from error
    try:
        if not take_lock(handle, folder):
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise InputError(
                f"output_dir: {owner} is writing {what} in {folder}; wait until it has finished, or choose another "
                "folder"
            )
        if not path.exists() or os.fstat(handle).st_ino != path.stat().st_ino:
            raise InputError(f"output_dir: {folder} was removed by another process just now; run this again")
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            _held.add(mine)
            yield
        finally:
            _held.discard(mine)
            if keep_file:
                os.ftruncate(handle, 0)
            else:
                to_the_end(lambda: path.unlink(missing_ok=True))
    finally:
        os.close(handle)
