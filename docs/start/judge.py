"""The judge of the page *Start*: the shorter answer is the better one, which is what its pairs teach."""

from __future__ import annotations


def shorter(prompt: str, answer_a: str, answer_b: str) -> float:
    """Preference for A: 1, 0, or ½ where both have as many words."""
    first, second = len(answer_a.split()), len(answer_b.split())
    return 0.5 if first == second else float(first < second)
