"""How much of a file is read before it is taken for a mistake, or for a trap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from mallowspo.errors import InputError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What one row may cost. A small packed file can hold a line of gigabytes, or another column in every row."""

    max_line_mb: int = 64  # MiB of a line, an unpacked one too, or of a row of a CSV file
    max_nesting: int = 64  # levels of lists and objects in a value; they are read recursively, so 200 is the most
    max_columns: int = 1_000  # different columns of all rows together

    def __post_init__(self) -> None:
        for name, low, high in (("max_line_mb", 1, 1_024), ("max_nesting", 8, 200), ("max_columns", 1, 1_000_000)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name}: got {value}, expected {low} to {high:,}")

    @classmethod
    def of(cls, options: Any) -> Limits:
        """Take the limits from a command's options, which have them under the same names."""
        return cls(**{name: getattr(options, name) for name in cls.__dataclass_fields__})

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let every table that is read inside the block keep to these limits where it is given no others."""
        before = _in_force.set(self)
        try:
            yield
        finally:
            _in_force.reset(before)

    @staticmethod
    def current() -> Limits:
        """Give the limits in force: those of the block around, else the defaults."""
        return _in_force.get() or Limits()

    @property
    def line_bytes(self) -> int:
        """`max_line_mb` in bytes."""
        return self.max_line_mb * 1024 * 1024


_in_force: ContextVar[Limits | None] = ContextVar("limits", default=None)
