"""The judge of `make realrun`: which of two answers shares more words with the one that people chose.

ROUGE-1 (F1 over words; Lin, 2004), which needs no model. It knows the words of one good answer, not what is helpful.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from pathlib import Path

PROMPTS = "REALRUN_PROMPTS"
"""The environment variable that names the file with the prompts and people's choice of answer to each."""


def rouge_1(answer: str, reference: str) -> float:
    """F1 of the words that two texts share, each word as often as both hold it.

    Example:
        >>> rouge_1("a b", "a b c d")
        0.6666666666666666
    """
    ours, theirs = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, reference))
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 0.0


def shared_words(prompt: str, answer_a: str, answer_b: str) -> float:
    """Preference for A: 1, 0, or ½ where both share as much."""
    chosen = _chosen(os.environ[PROMPTS])[prompt]
    first, second = rouge_1(answer_a, chosen), rouge_1(answer_b, chosen)
    return 0.5 if first == second else float(first > second)


@functools.cache
def _chosen(path: str) -> dict[str, str]:
    with Path(path).open(encoding="utf-8") as lines:
        return {row["prompt"]: row["chosen"] for row in map(json.loads, lines)}
