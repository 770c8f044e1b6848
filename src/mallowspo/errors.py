"""The errors that a user can cause, and mend.

The command line turns an `InputError` into one message and exit code 2, without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from mallowspo.redaction import without_keys

__all__ = ["InputError", "NonFiniteLossError", "listed", "not_one_of", "reason_of", "told_as"]


class InputError(ValueError):
    """Something that the user gave cannot be used: what was given, what is allowed, what to do.

    What the user gave may hold a key; the message is shown without it.
    """

    def __str__(self) -> str:
        return without_keys(super().__str__())


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite during training; the message names the rows that caused it."""


def not_one_of(name: str, given: object, allowed: Iterable[object]) -> InputError:
    """The error for a value outside a closed list, so that every such message reads alike."""
    choices = ", ".join(repr(value) for value in allowed)
    return InputError(f"{name}: got {given!r}, expected one of {choices}")


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Name things with commas, and behind so many of them say how many more there are.

    Example:
        >>> listed("abc"), listed("abcde", 3)
        ('a, b, c', 'a, b, c and 2 more')
    """
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:limit])
    return f"{shown} and {len(texts) - limit:,} more" if len(texts) > limit else shown


def reason_of(error: BaseException) -> str:
    """Say in one line why a library could not load what it was given."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it comes with code of its own, which runs only with --trust_remote_code; read that code first"
    first, *more = (text or type(error).__name__).splitlines()
    return f"{first} {more[0].strip()}" if more and first.endswith(":") else first  # the reason stands below it


@contextmanager
def told_as(names: Mapping[str, str]) -> Iterator[None]:
    """Let what is refused inside the block carry the name of the user's option, not of the function's argument."""
    try:
        yield
    except InputError as error:
        name, colon, rest = str(error.args[0]).partition(": ")
        if name not in names:
            raise
        raise InputError(f"{names[name]}{colon}{rest}") from error
