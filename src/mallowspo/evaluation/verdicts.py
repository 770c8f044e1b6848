"""Records of verdicts under the name by which scripts import them; they are declared beside the judges."""

from __future__ import annotations

from mallowspo.evaluation.judge import AnswerPair as _AnswerPair
from mallowspo.evaluation.judge import Judgement, Prices, Usage

__all__ = ["AnswerPair", "Judgement", "Prices", "Usage"]

AnswerPair = _AnswerPair.of_text
"""A pair of answers to a prompt of plain text: `AnswerPair(prompt, answer, baseline, row=None)`."""
