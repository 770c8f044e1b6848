"""The judge of the example: which story keeps to words that the children's stories use."""

import re
from pathlib import Path

TEXT = Path(__file__).resolve().parents[3] / "shared/data/text/tinystories_200k.txt"
KNOWN = set(re.findall(r"[a-z']+", TEXT.read_text(encoding="utf-8").lower()))


def share_of_words(text):
    """How many of the words of a story are words that the children's stories use, in [0, 1]."""
    words = re.findall(r"[a-z']+", text.lower())[:-1]  # the last one may be cut
    return sum(word in KNOWN for word in words) / max(len(words), 1)


def real_words(prompt, answer_a, answer_b):
    """Prefer the larger share."""
    a, b = share_of_words(answer_a), share_of_words(answer_b)
    return "A" if a > b else "B" if b > a else "tie"
