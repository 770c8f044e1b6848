"""What to say of an option that does not exist: the nearest one that does, or what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = ["about_option", "did_you_mean", "usage_message"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The options that a misspelt one may stand for, as the end of a message.

    Args:
        name: As it was given, with or without its dashes.
        known: Names of all options, without dashes.

    Returns:
        Text that begins with `; `, or nothing.

    Example:
        >>> did_you_mean("--lerning-rate", ["learning_rate", "beta"])
        '; did you mean --learning_rate?'
    """
    dashes = "--" if name.startswith("--") else ""
    near = get_close_matches(name.lstrip("-").replace("-", "_").lower(), sorted(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(dashes + one for one in near)}?" if near else ""


def about_option(name: str, known: Iterable[str]) -> str:
    """What became of an option that TRL or transformers once had, or the nearest that exists.

    Args:
        name: As it was given, with or without its dashes.
        known: Names of all options, without dashes.

    Returns:
        Text that begins with `; `, or nothing.
    """
    from mallowspo.training.removed_options import REMOVED_OPTIONS

    bare = name.lstrip("-").replace("-", "_")
    return f"; {REMOVED_OPTIONS[bare]}" if bare in REMOVED_OPTIONS else did_you_mean(name, known)


def usage_message(error: Any) -> str:
    """One message for a mistake in the options of a command that typer reads.

    Args:
        error: Its `ClickException`.

    Returns:
        What was wrong, what may have been meant, and where the options are listed.
    """
    text = str(error.format_message()).strip().rstrip(".")
    context = getattr(error, "ctx", None)
    name = getattr(error, "option_name", None)
    if name and getattr(error, "possibilities", 0) != 0 and context is not None:
        known = [one.lstrip("-") for item in context.command.params for one in item.opts if one.startswith("--")]
        text = f"{name}: there is no such option{did_you_mean(name, known)}"
    page = f"; see `{context.command_path} --help`" if context is not None else ""
    return f"{text}{page}"
