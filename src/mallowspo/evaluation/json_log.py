"""An append-only file of JSON lines that survives a kill: what is in it was paid for, and is never asked again.

A record that was cut off by a kill is taken away on opening; the work behind it is done again. Only one process holds
the file at a time, and its threads may append side by side.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
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

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._file = -1

    def __enter__(self) -> JsonLog:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            if not take_lock(self._file, self.path):
                raise InputError(
                    f"{self.path}: another process is writing to it; wait for it, or give another output_dir"
                )
            self._read()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._file = -1

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, whole)
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = parse_json(line)
            except ValueError as error:
                raise InputError(
                    f"{self.path}: line {number} is not JSON ({error}); take the line out, or give another output_dir"
                ) from error
            if not isinstance(record, dict):
                raise InputError(f"{self.path}: line {number} is not a JSON object; take the line out")
            self.records.append(record)

    def append(self, *records: dict[str, Any]) -> None:
        """Write records and wait until they are on the disk; where it takes no more, none of them is in the file."""
        lines = b"".join(
            without_known_secrets(json.dumps(record, ensure_ascii=False)).encode("utf-8", "replace") + b"\n"
            for record in records
        )
        with self._lock:
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
