"""Win rate with the effect of style taken out: length, headers, lists and bold print, as in Arena's style control.

Source: Li, Angelopoulos, Chiang, "Does style matter? Disentangling style and substance in Chatbot Arena" (2024), and
Arena-Hard-Auto's `show_result.py`, whose features these are. With l the length of an answer and c_k its headers, list
items and bold runs outside code, of the model's, and l' and c'_k of the baseline's,

    z_0 = (l - l') / (l + l')
    z_k = (c_k/l - c'_k/l') / (c_k/l + c'_k/l' + 1)
    P(y_i = 1) = σ(w + Σ_k w_k z_ik / std(z_k))

and the win rate is predicted at z = 0, where both answers have the same style. Arena takes the mean of each feature
away first: its two sides are drawn by lot, so that the mean is 0 but for chance. Here one side is always the model,
and the mean is what its style does; taking it away would take nothing out. The fit is that of the length-controlled
win rate (`length_control.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mallowspo.errors import InputError
from mallowspo.evaluation.length_control import Floats, checked_preferences, rate_at_equal

__all__ = ["FEATURES", "StyleControl", "StyleCounts", "style_controlled_win_rate"]

FEATURES = ("length", "headers", "lists", "bold")
"""What is counted of each answer, the covariates of the control."""

NO_HEADLINE = (
    "Style is told from this comparison alone: where one side's answers nearly always have the same style, what the "
    "style does and what the model is worth cannot be separated, and the figure is no headline. The raw win rate is "
    "the result."
)

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_HEADER = re.compile(r"^(#{1,6})\s", re.MULTILINE)
_ORDERED = re.compile(r"^\s*\d+\.\s", re.MULTILINE)
_UNORDERED = re.compile(r"^\s*[-*+]\s", re.MULTILINE)
_STARS = re.compile(r"\*\*[^*\n]+\*\*")
_UNDERSCORES = re.compile(r"__[^_\n]+__")


@dataclass(frozen=True)
class StyleCounts:
    """What style control counts in one answer; Markdown inside a code block counts for nothing."""

    length: int  # in characters
    headers: tuple[int, int, int, int, int, int]  # of levels 1 to 6
    ordered: int  # items of numbered lists
    unordered: int
    stars: int  # bold runs between two asterisks
    underscores: int  # bold runs between two underscores

    @classmethod
    def of(cls, text: str) -> StyleCounts:
        r"""Count an answer.

        Example:
            >>> StyleCounts.of("# One\n\n1. **two**\n- three\n")
            StyleCounts(length=26, headers=(1, 0, 0, 0, 0, 0), ordered=1, unordered=1, stars=1, underscores=0)
        """
        plain = _CODE.sub("", text)
        levels = [len(mark) for mark in _HEADER.findall(plain)]
        one, two, three, four, five, six = (levels.count(level) for level in range(1, 7))
        rest = (len(pattern.findall(plain)) for pattern in (_ORDERED, _UNORDERED, _STARS, _UNDERSCORES))
        return cls(len(text), (one, two, three, four, five, six), *rest)

    @property
    def values(self) -> tuple[int, int, int, int]:
        """One number for each of `FEATURES`."""
        return (self.length, sum(self.headers), self.ordered + self.unordered, self.stars + self.underscores)


@dataclass(frozen=True)
class StyleControl:
    """A style-controlled win rate and the fit behind it."""

    win_rate: float  # in percent
    standard_error: float  # from refits on resampled prompts, in points; NaN where none were asked for
    coefficients: dict[str, float]  # feature -> log-odds of a win for one standard deviation more of it
    model: dict[str, float]  # feature -> its mean over the model's answers
    baseline: dict[str, float]
    note: str  # what limits the figure


def style_controlled_win_rate(
    preference_n: ArrayLike,
    answers: Sequence[str],
    baseline_answers: Sequence[str],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> StyleControl:
    """Estimate the win rate that a model would have if its answers had the style of the baseline's.

    Args:
        preference_n: Preference for the model on each prompt, in [0, 1]; ½ is a tie. Shape (N,), N ≥ 2.
        answers: The model's answers.
        baseline_answers: The baseline's.
        resamples: Bootstrap refits for the standard error; 0 for none.
        seed: Of the bootstrap.

    Returns:
        The win rate in percent with its standard error in points, and the fit.

    Raises:
        InputError: Shapes differ, or a preference lies outside [0, 1].

    Example:
        >>> wins = [1, 1, 1, 1, 1, 0, 0, 0]  # 62.5%, but every win is in bold print
        >>> shown = ["**yes**"] * 5 + ["plain 1"] * 3
        >>> found = style_controlled_win_rate(wins, shown, ["plain 1"] * 8, resamples=0)
        >>> found.win_rate < 5, found.coefficients["bold"] > 1
        (True, True)
    """
    y = checked_preferences(preference_n, "style_controlled_win_rate")
    if not len(y) == len(answers) == len(baseline_answers):
        raise InputError(
            f"style_controlled_win_rate: got {len(y)} preferences for {len(answers)} and {len(baseline_answers)} "
            "answers, expected one of each for every prompt"
        )
    ours, theirs = (
        np.asarray([StyleCounts.of(text).values for text in texts], np.float64)
        for texts in (answers, baseline_answers)
    )
    z_nf = _differences(ours, theirs)
    spread_f = z_nf.std(axis=0, ddof=1)
    # What never differs has no effect to take out.
    columns = {
        name: z_nf[:, place] / spread_f[place] for place, name in enumerate(FEATURES) if spread_f[place] > 1e-12
    }
    rate, error, coefficients = rate_at_equal(y, columns, {}, resamples=resamples, seed=seed)
    return StyleControl(
        win_rate=rate,
        standard_error=error,
        coefficients=coefficients,
        model=dict(zip(FEATURES, ours.mean(axis=0).tolist(), strict=True)),
        baseline=dict(zip(FEATURES, theirs.mean(axis=0).tolist(), strict=True)),
        note=NO_HEADLINE,
    )


def _differences(ours_nf: Floats, theirs_nf: Floats) -> Floats:
    """Arena's features of each pair, in the order of `FEATURES`; between empty answers there is no difference."""
    length_n, other_n = np.maximum(ours_nf[:, :1], 1.0), np.maximum(theirs_nf[:, :1], 1.0)
    density_nf, others_nf = ours_nf[:, 1:] / length_n, theirs_nf[:, 1:] / other_n
    longer_n = (ours_nf[:, :1] - theirs_nf[:, :1]) / np.maximum(ours_nf[:, :1] + theirs_nf[:, :1], 1.0)
    return np.hstack([longer_n, (density_nf - others_nf) / (density_nf + others_nf + 1.0)])
