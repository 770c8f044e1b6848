"""One small comparison, as `evaluate --export` writes it: wins, losses, ties, a verdict that is missing, Markdown."""

import numpy as np

from mallowspo.evaluation.exports import EXPORTS, Comparison, export_comparison
from mallowspo.evaluation.judge import AnswerPair, Judgement
from mallowspo.evaluation.prompts import EvaluationPrompt

ANSWERS = [
    ("# Yes\n\n1. **one**\n2. two\n", "no"),
    ('plain, "quoted"\nand broken', "**bold** __too__"),
    ("äöü 漢字", "- a\n- b\n"),
    ("", "something"),
    ("equal", "equal"),
    ("score_a: 3 is what it says", "b"),
]
# Preference for the model with its answer first and second.
FIRST = [1.0, 0.0, 0.5, 0.0, 0.5, 1.0]
SECOND = [1.0, 0.0, 0.75, 1.0, 0.5, 0.5]


def comparison(**changes):
    """The comparison; the last pair has no verdict in the second order, and counts as a tie there."""
    pairs = [AnswerPair(EvaluationPrompt(n, f"prompt {n}"), *both) for n, both in enumerate(ANSWERS)]
    missing = np.zeros((2, 6), bool)
    missing[1, 5] = True
    replies = [(f"Score B is 9, I say. {n}", f"second {n}") for n in range(6)]
    judgement = Judgement(np.array(FIRST), np.array(SECOND), missing_n=missing, replies=replies)
    known = {"model": "out/my-model", "baseline": "org/sft", "judge": "http://h:1/v1#j/udge", **changes}
    return Comparison(pairs, judgement, **known)


def write(folder):
    """Write it in every format."""
    export_comparison(comparison(), EXPORTS, folder)
