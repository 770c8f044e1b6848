"""The errors that a user can cause, and mend.

The command line turns an `InputError` into one message and exit code 2, without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

from mallowspo.redaction import without_keys

__all__ = ["InputError", "NonFiniteLossError", "not_one_of", "reason_of"]


class InputError(ValueError):
    """Something that the user gave cannot be used: what was given, what is allowed, what to do.

    What the user gave may hold a key; the message is shown without it.
    """

    def __str__(self) -> str:
        return without_keys(super().__str__())


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite during training; the message names the rows that caused it."""


def not_one_of(name: str, given: object, allowed: Iterable[object]) -> InputError:
    """Build the error for a value outside a closed list, so that every such message reads alike.

    Args:
        name: The option as the user writes it.
        given: The value that was given.
        allowed: The values that are accepted, in the order in which to show them.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> str(not_one_of("link", "probit", ["sigmoid", "kendall"]))
        "link: got 'probit', expected one of 'sigmoid', 'kendall'"
    """
    choices = ", ".join(repr(value) for value in allowed)
    return InputError(f"{name}: got {given!r}, expected one of {choices}")


def reason_of(error: BaseException) -> str:
    """Say in one line why a library could not load what it was given.

    Args:
        error: What it raised.

    Returns:
        The first line of its message; for code that comes with a model, the option that lets it run.

    Example:
        >>> reason_of(ValueError("Please pass the argument `trust_remote_code=True` to allow custom code to be run."))
        'it comes with code of its own, which runs only with --trust_remote_code; read that code first'
    """
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it comes with code of its own, which runs only with --trust_remote_code; read that code first"
    return (text or type(error).__name__).splitlines()[0]
