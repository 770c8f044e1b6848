"""An append-only file of JSON lines that survives a kill: what is in it was paid for, and is never asked again.

A record that was cut off by a kill is taken away on opening; the work behind it is done again. Only one process holds
the file at a time, and its threads may append side by side. A `shared` log is held by several, on this machine and on
others that see the same folder, and each claims the work that it takes on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mallowspo.errors import InputError
from mallowspo.files import parse_json
from mallowspo.locks import take_lock
from mallowspo.redaction import without_known_secrets

__all__ = ["JsonLog", "key_of"]


def key_of(**parts: Any) -> str:
    """Name a piece of work by everything that its result depends on, in 32 hexadecimal digits; values are JSON's."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class JsonLog:
    """Records of a run in the order in which they were made; open it with `with`."""

    # Claims on the work of a shared log are locks on single bytes of an empty file beside it, one a key, and its
    # first byte is the turn to read or write. The system gives a lock back when its process ends, however it ends, and
    # a file server when a machine is gone: nothing is left behind that somebody would have to judge by its age.

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path, self.shared = path, shared
        self.records: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._file = self._claims = -1
        self._read_to = self._lines = 0

    def __enter__(self) -> JsonLog:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, flags | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            if not take_lock(self._file, self.path, shared=self.shared):
                raise InputError(
                    f"{self.path}: another process is writing to it; wait for it, or give another output_dir"
                )
            if self.shared:
                self._claims = os.open(self.path.with_suffix(".claims"), flags, 0o666)
            self.refresh()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for handle in (self._file, self._claims):
            if handle >= 0:
                os.close(handle)
        self._file = self._claims = -1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the right to write, to a shared log or beside it; others wait. Not to be nested."""
        with self._lock:  # the system's lock keeps out other processes alone
            if self._claims < 0:
                yield
                return
            _lock_byte(self._claims, 0, wait=True)
            try:
                yield
            finally:
                _unlock_byte(self._claims, 0)

    def claim(self, key: str) -> bool:
        """Claim a piece of work of a shared log by its key, until `release` or the end; False where another has it."""
        return _lock_byte(self._claims, _place(key), wait=False)

    def release(self, key: str) -> None:
        """Give a claim back."""
        _unlock_byte(self._claims, _place(key))

    def refresh(self) -> list[dict[str, Any]]:
        """Take in what other processes have appended since; the new records."""
        with self.turn():
            return self._read()

    def _read(self) -> list[dict[str, Any]]:
        size = os.fstat(self._file).st_size
        content = os.pread(self._file, size - self._read_to, self._read_to)
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, self._read_to + whole)
        found: list[dict[str, Any]] = []
        for number, line in enumerate(content[:whole].splitlines(), start=self._lines + 1):
            try:
                record = parse_json(line)
            except ValueError as error:
                raise InputError(
                    f"{self.path}: line {number} is not JSON ({error}); take the line out, or give another output_dir"
                ) from error
            if not isinstance(record, dict):
                raise InputError(f"{self.path}: line {number} is not a JSON object; take the line out")
            found.append(record)
        self._read_to, self._lines = self._read_to + whole, self._lines + len(found)
        self.records += found
        return found

    def append(self, *records: dict[str, Any]) -> None:
        """Write records and wait until they are on the disk; where it takes no more, none of them is in the file."""
        lines = b"".join(
            without_known_secrets(json.dumps(record, ensure_ascii=False)).encode("utf-8", "replace") + b"\n"
            for record in records
        )
        with self.turn():
            if self.shared:
                self._read()
            before = os.fstat(self._file).st_size
            try:
                left = memoryview(lines)
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except OSError as error:
                # Half a line would be completed by the next record, and both be lost.
                os.ftruncate(self._file, before)
                raise InputError(
                    f"{self.path}: cannot be written ({error.strerror}); the {len(self.records)} lines before are "
                    "whole, and the same command goes on from them"
                ) from error
            self.records.extend(records)
            self._read_to, self._lines = before + len(lines), self._lines + len(records)


def _place(key: str) -> int:
    return 1 + int(key[:14], 16)


def _lock_byte(handle: int, place: int, *, wait: bool) -> bool:
    """Lock a byte of a file, which need not be there; where the file system has no locks, opening has said so."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


def _unlock_byte(handle: int, place: int) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, place)
    except OSError:
        pass  # there are no locks, and opening has said so
