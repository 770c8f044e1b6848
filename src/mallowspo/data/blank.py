r"""What counts as text that somebody can see.

White space, control and format characters (zero-width spaces and joiners, soft hyphens, marks of direction, byte-order
marks, tags), variation selectors and the fillers of Hangul, Khmer and Braille leave nothing on paper. A text of these
alone says nothing, and two texts that differ in these alone look the same. Combining marks without a letter say
nothing either, nor do the signs for what was lost: U+FFFC for an object, U+FFFD for bytes that could not be decoded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

__all__ = ["content_text", "is_blank", "looks"]

# Unicode's Cc, Cf, Zs, Zl and Zp without the signs of Cf that are drawn (U+0600 and its like), and what else has
# nothing to draw: combining joiners, fillers, variation selectors and the ranges that are kept for their like.
_UNSEEN = (
    "\\x00-\\x20\\x7f-\\xa0\\xad\u034f\u061c\u115f-\u1160\u1680\u17b4-\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_SEEN = re.compile(f"[^{_UNSEEN}]")
_UNSEEN_RUN = re.compile(f"[{_UNSEEN}]+")
_LOST = "\ufffc\ufffd"
_SPACES = re.compile(r"\s+")


def is_blank(text: str) -> bool:
    """Say whether nobody could read anything in a text."""
    return all(sign[0] in _LOST or unicodedata.category(sign[0])[0] == "M" for sign in _SEEN.finditer(text))


def looks(text: str) -> str:
    """Give a text as a reader sees it: composed, without invisible characters, runs of white space as one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _UNSEEN_RUN.sub(_space_or_nothing, text))
    return " ".join(text.split())


def _space_or_nothing(run: re.Match[str]) -> str:
    return " " if _SPACES.search(run[0]) else ""


def content_text(message: Mapping[str, Any]) -> str:
    """Give the text of a message's `content`, which may be text, parts with a `text` each, or nothing."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
