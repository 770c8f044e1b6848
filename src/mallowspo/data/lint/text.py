"""Damage to the text itself: lost characters, wrong decoding, control characters, turns that run on, odd scripts."""

from __future__ import annotations

import re
from array import array
from typing import Any

import numpy as np

from mallowspo.data.lint.findings import EXAMPLES, Ledger, clip
from mallowspo.data.lint.rows import LintRow

__all__ = ["ScriptCount", "check_text", "repaired"]

# The 27 characters that Windows-1252 puts where Latin-1 has controls: what UTF-8's second and third bytes turn into.
_CP1252 = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MOJIBAKE = re.compile(f"[\u00c2-\u00f4][\u0080-\u00bf{_CP1252}]{{1,3}}")
# Marks of direction that reorder what is read, joiners that belong to no script, tags outside a flag; and zero-width
# spaces but where Thai, Lao, Burmese and Khmer put them between words.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\u202a-\u202e\u2060-\u206f\ufff9-\ufffb]"
    "|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
)
# Symbol fonts put their bullets and arrows there; with another font they are boxes.
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_AROUND = 20

# How texts mark turns. A marker counts in a response only where the prompt marks its turns with it.
_TURNS = (
    "\n\nHuman:", "\n\nAssistant:", "\nUser:", "\nHuman:", "<|im_start|>", "<|start_header_id|>", "<start_of_turn>",
    "[INST]", "### Instruction:", "<|user|>",
)  # fmt: skip

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("Latin", "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff"),
    ("Greek", "\u0370-\u03ff\u1f00-\u1fff"),
    ("Cyrillic", "\u0400-\u052f"),
    ("Hebrew", "\u0590-\u05ff"),
    ("Arabic", "\u0600-\u06ff\u0750-\u077f"),
    ("Indic", "\u0900-\u0dff"),
    ("Thai", "\u0e00-\u0e7f"),
    ("Han, Kana", "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"),
    ("Hangul", "\u1100-\u11ff\uac00-\ud7af"),
)
# Languages attach endings of their own script to Latin words, but none puts its letters inside one.
_LATIN = _SCRIPTS[0][1]
_SANDWICH = re.compile(f"[{_LATIN}][{''.join(ranges for _, ranges in _SCRIPTS[1:])}]{{1,3}}[{_LATIN}]")
_SCRIPT_NAMES = ("none", *(name for name, _ in _SCRIPTS))
_SCRIPT_PATTERNS = tuple(re.compile(f"[{ranges}]+") for _, ranges in _SCRIPTS)
_MAJORITY = 0.9

# What is looked for in a text; but for the first two it is never in ASCII.
_DAMAGE = (
    ("control_character", _CONTROL),
    ("html_entity", _ENTITY),
    ("replacement_character", re.compile("\ufffd")),
    ("mixed_script_word", _SANDWICH),
    ("private_use_character", _PRIVATE),
)
_OF_ASCII = 2


def repaired(text: str) -> str:
    """Undo one reading of UTF-8 as Windows-1252 or Latin-1, wherever the bytes are sound UTF-8."""
    return _MOJIBAKE.sub(lambda match: _decoded(match[0]) or match[0], text)


def _decoded(run: str) -> str | None:
    """Read a run of characters as the bytes of one UTF-8 character, and perhaps more; None where they are none."""
    raw = bytearray()
    for character in run:
        try:
            raw += character.encode("cp1252")
        except UnicodeEncodeError:
            raw += character.encode("latin-1")  # the five bytes that Windows-1252 leaves open
    length = 2 if raw[0] < 0xE0 else 3 if raw[0] < 0xF0 else 4
    try:
        return raw[:length].decode() + run[length:]
    except UnicodeDecodeError:
        return None


def check_text(row: LintRow, ledger: Ledger) -> None:
    """Flag damage in the prompt or a response."""
    for name, text in row.texts():
        for kind, pattern in _DAMAGE[: _OF_ASCII if text.isascii() else None]:
            match = pattern.search(text)
            if match is not None:
                ledger.flag(row.position, kind, f"{name}: {_around(text, match.start())}")
        if not text.isascii():
            _check_mojibake(row.position, name, text, ledger)
    for name, text in zip(row.names, row.responses, strict=True):
        _check_turns(row, name, text, ledger)


def _around(text: str, at: int) -> str:
    start = max(at - _AROUND, 0)
    return ("…" if start else "") + clip(text[start:], 2 * _AROUND)


def _check_mojibake(position: int, name: str, text: str, ledger: Ledger) -> None:
    for match in _MOJIBAKE.finditer(text):
        if _decoded(match[0]) is not None:
            excerpt = text[max(match.start() - _AROUND, 0) : match.end() + _AROUND]
            ledger.flag(position, "mojibake", f"{name}: {clip(excerpt)} (meant: {clip(repaired(excerpt))})")
            return


def _check_turns(row: LintRow, name: str, response: str, ledger: Ledger) -> None:
    if row.record.is_conversational:
        return
    for marker in _TURNS:
        if marker not in row.prompt:
            continue
        # A response may also begin with the speaker's name, right after the prompt's own marker.
        at = 0 if response.lstrip().startswith(marker.strip()) else response.find(marker)
        if at >= 0:
            ledger.flag(row.position, "turn_in_response", f"{name}: {_around(response, at)}")
            return


def _script(text: str) -> int:
    """Give the place, in the names, of the script that most letters of a text belong to."""
    if text.isascii():
        return 1 if _SCRIPT_PATTERNS[0].search(text) else 0
    counts = [sum(map(len, pattern.findall(text))) for pattern in _SCRIPT_PATTERNS]
    best = max(range(len(counts)), key=counts.__getitem__)
    return best + 1 if counts[best] else 0


class ScriptCount:
    """The main script of every sound row's responses, one byte each."""

    def __init__(self) -> None:
        self._scripts: Any = array("B")
        self._shown: dict[tuple[int, int], str] = {}

    def add(self, row: LintRow) -> None:
        """Take in one row."""
        script = _script(" ".join(row.responses))
        self._scripts.append(script)
        # Which script is the odd one shows at the end: keep the first few excerpts of each.
        order = sum(key[0] == script for key in self._shown)
        if order < EXAMPLES:
            self._shown[script, row.position] = f"{_SCRIPT_NAMES[script]}: {clip(row.responses[0], 60)}"

    def finish(self, ledger: Ledger) -> dict[str, int]:
        """Flag the rows outside a script that nine in ten rows have; give the counts by script."""
        scripts = np.frombuffer(self._scripts, dtype=np.uint8)
        counts = np.bincount(scripts, minlength=len(_SCRIPT_NAMES))
        usual = int(counts[1:].argmax()) + 1
        lettered = int(counts[1:].sum())
        if lettered and counts[usual] >= _MAJORITY * lettered:
            positions = ledger.sound_positions
            for i in np.flatnonzero((scripts != usual) & (scripts != 0)).tolist():
                position = int(positions[i])
                ledger.flag(position, "odd_script", self._shown.get((int(scripts[i]), position), ""))
        return {name: int(count) for name, count in zip(_SCRIPT_NAMES, counts, strict=True) if count}
