r"""Keys and passwords: what they look like, and how they are kept out of files, pages, logs and messages.

A value that is known to be secret (one that was read from a variable, or stands in one whose name says so) is taken
out of everything that is written. What only looks like a secret is taken out of messages, commands and settings, but
not out of people's prompts and answers, which must stay what they are.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = [
    "HIDDEN",
    "hide_in_tracebacks",
    "is_secret_name",
    "looks_like_a_key",
    "own_command",
    "remember_secret",
    "without_keys",
    "without_known_secrets",
    "without_secrets",
]

HIDDEN = "[hidden]"

_SECRET_NAME = re.compile(
    r"(?:api|access|private|secret|auth|account|subscription|session|service)[-_]?key"
    r"|secret|passw(?:or)?d|passphrase|credential|authorization|bearer|cookie"
    r"|(?:hub|access|auth|api|bearer|refresh|hf|id|session|read|write)[-_]?token"
    r"|(?:^|[-_])(?:pwd|sig|signature)$|^(?:x[-_])?(?:key|token|auth)$",
    re.IGNORECASE,
)
# Words that say so where a name ends with them, in a request or in settings. The environment has innocent variables of
# these names (DESKTOP_SESSION), whose values must not be taken out of everything.
_SECRET_WORDS = frozenset(
    "pw pwd pass passcode passwd pin otp auth bearer jwt pat cert certificate cookies creds session sessionid sid sig "
    "signature".split()
)
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_KEY = re.compile(
    r"\b(?:sk|rk|pk)-(?=[\w-]*\d)[\w-]{8,}|\b(?:hf|gsk|ghp|gho|ghs|r8|tgp|fw|csk)_(?=\w*\d)\w{12,}|\bgithub_pat_\w{20,}"
    r"|\b(?:xai|pplx|nvapi|glpat)-[\w-]{12,}|\bxox[abprs]-[\w-]{10,}|\bA[KS]IA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(?<=\bbearer )[^\s'\",}]{6,}|(?<=\bbasic )[A-Za-z0-9+/]{8,}={0,2}",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<=://)[^\s/'\"<>]+@")
_QUERY = re.compile(r"([?&]([\w.%-]+)=)[^&#\s'\"<>]+")
# In JSON, YAML, Python and shell: "api_key": "…", api_key='…', --hub_token …
_FIELD = re.compile(
    r"""((?:["']([\w-]+)["']\s*[:=]|\b([\w-]+)=|\b(\w+[_-]\w+|passw\w+|authorization):)\s*["']?(?:basic |bearer )?)"""
    r"""(?!\[hidden\])[^\s"',}&]+""",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?<!\S)(--([\w-]+)(?:\s+|=))(?!-)(?:'[^']*'|\"[^\"]*\"|\S+)")

_remembered: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Whether a field, option or variable of this name holds a secret.

    Example:
        >>> [is_secret_name(name) for name in ("api_key", "dbPass", "max_tokens", "passages", "prompt_cache_key")]
        [True, True, False, False, False]
    """
    words = _WORD.findall(name)
    ends = {"".join(words[-count:]).lower() for count in (1, 2)}
    return _is_surely_secret(name) or not ends.isdisjoint(_SECRET_WORDS)


def _is_surely_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not name.lower().endswith("_env")


def looks_like_a_key(text: str) -> bool:
    """Whether a text holds what is known to be the shape of a key.

    Example:
        >>> looks_like_a_key("sk-proj-Ab12Cd34Ef56"), looks_like_a_key("OPENAI_API_KEY")
        (True, False)
    """
    return bool(_KEY.search(text))


def remember_secret(value: str) -> None:
    """Take this value out of everything that this process writes from now on."""
    if len(value) >= 4:  # what is shorter stands in ordinary words
        _remembered.update({value, quote(value, safe=""), quote_plus(value)})


def _known() -> set[str]:
    named = {
        value
        for name, value in os.environ.items()
        if len(value) >= 8 and _is_surely_secret(name) and not value.startswith(("/", "~", ".", "http"))
    }
    return _remembered | named


def without_known_secrets(text: str) -> str:
    """Take out of a text the values that are known to be secret; nothing else is touched."""
    for value in sorted(_known(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def without_keys(text: str) -> str:
    """Take out of a message or command all that is secret or looks like it.

    Example:
        >>> without_keys("http://me:pw@host/v1?api_key=abc&page=2 --hub_token xyz")
        'http://[hidden]@host/v1?api_key=[hidden]&page=2 --hub_token [hidden]'
    """

    def by_name(match: re.Match[str]) -> str:
        name = next(part for part in match.groups()[1:] if part is not None)
        if not is_secret_name(name):
            return match[0]
        # What closes the sentence around it is no part of it, unless it stands in quotes.
        closing = "" if match[1].endswith(("'", '"')) else match[0][len(match[0].rstrip("])},.;:")) :]
        return match[1] + HIDDEN + closing

    text = _USER.sub(HIDDEN + "@", without_known_secrets(text))
    for form in (_QUERY, _OPTION, _FIELD):
        text = form.sub(by_name, text)
    return _KEY.sub(HIDDEN, text)


def own_command() -> str:
    """The command of this process, without keys, for the record of what it writes."""
    return without_keys(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def without_secrets(value: Any, name: str = "") -> Any:
    """Take the secrets out of settings that are about to be written.

    Example:
        >>> without_secrets({"model": "m", "model_init_kwargs": {"token": "abc"}, "eos_token": "</s>"})
        {'model': 'm', 'model_init_kwargs': {'token': '[hidden]'}, 'eos_token': '</s>'}
    """
    if isinstance(value, Mapping):
        secret = is_secret_name(name)  # then all that is in it is
        return {key: without_secrets(item, name if secret else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_secrets(item, name) for item in value) if type(value) in (list, tuple) else value
    if isinstance(value, str) and value:
        return HIDDEN if is_secret_name(name) and not value.startswith("<") else without_keys(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and is_secret_name(name):
        return HIDDEN
    return value


def hide_in_tracebacks() -> None:
    """Let the traceback of an error that nobody caught be written without what is secret."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(without_keys("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show
