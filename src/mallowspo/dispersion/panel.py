"""Several indexes asked together: each is read as an estimate of −log φ, and the middle one counts.

Every index of the family is misled by something (length, style, common openings), but hardly ever by the same thing:
the median follows the ones that are not. For that all must speak in one unit. People are taken to choose among N
answers, the one of rank r with probability ∝ φ^r, and the reference to answer as they do; then an entropy of that
choice and a margin between two answers both have one −log φ that they would come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError
from mallowspo.maths import MAX_NEG_LOG_PHI

__all__ = [
    "PANEL_ALTERNATIVES",
    "check_alternatives",
    "choice_entropy",
    "expected_margin",
    "neg_log_phi_from_choice_entropy",
    "neg_log_phi_from_margin",
    "panel_neg_log_phi",
    "vote_log_likelihood",
]

Floats = NDArray[np.float64]

PANEL_ALTERNATIVES = 10
"""N of the estimator `panel`: rather too large than too small, which would cut the contested prompts off."""

_MAX_ALTERNATIVES = 10_000


def check_alternatives(alternatives: int, name: str = "alternatives") -> None:
    """Raise InputError, by the option's name, for a number of answers that cannot be chosen among."""
    if not 2 <= alternatives <= _MAX_ALTERNATIVES:
        raise InputError(f"{name}: got {alternatives}, expected 2 to {_MAX_ALTERNATIVES:,} answers")


def choice_entropy(neg_log_phi_n: ArrayLike, *, alternatives: int) -> Floats:
    """Entropy of a choice among N answers, the answer of rank r = 1 … N with probability ∝ phi^r.

    It is the first choice of a ranking under Kendall's Mallows model.

    Args:
        neg_log_phi_n: -log phi >= 0, any shape.
        alternatives: N >= 2.

    Returns:
        Entropy in nats, from 0 to log N, same shape.

    Example:
        >>> choice_entropy([0.0, np.log(2)], alternatives=2).round(4).tolist()  # a fair coin; 2/3 against 1/3
        [0.6931, 0.6365]
    """
    check_alternatives(alternatives)
    values = np.asarray(neg_log_phi_n, np.float64)
    energy = values[..., None] * np.arange(alternatives)
    weight = np.exp(-energy)
    normaliser = weight.sum(axis=-1)
    return np.asarray(np.log(normaliser) + (weight * energy).sum(axis=-1) / normaliser, np.float64)


def neg_log_phi_from_choice_entropy(entropy_n: ArrayLike, *, alternatives: int) -> Floats:
    """Invert `choice_entropy`.

    Args:
        entropy_n: Entropy in nats, >= 0, shape (N,); log N and above say that every answer is as likely.
        alternatives: N >= 2.

    Returns:
        -log phi in [0, `MAX_NEG_LOG_PHI`], shape (N,).

    Example:
        >>> neg_log_phi_from_choice_entropy([np.log(2), 0.0, 0.636514], alternatives=2).round(4).tolist()
        [0.0, 20.0, 0.6931]
    """
    check_alternatives(alternatives)
    unique, place = np.unique(np.asarray(entropy_n, np.float64), return_inverse=True)
    found = np.empty_like(unique)
    block = max(1, 2_000_000 // alternatives)
    for start in range(0, len(unique), block):
        target = unique[start : start + block]
        low, high = np.zeros_like(target), np.full_like(target, MAX_NEG_LOG_PHI)
        for _ in range(60):
            middle = (low + high) / 2
            above = choice_entropy(middle, alternatives=alternatives) > target
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        found[start : start + block] = (low + high) / 2
    found[unique >= math.log(alternatives) - 1e-12] = 0.0
    found[unique <= choice_entropy(MAX_NEG_LOG_PHI, alternatives=alternatives)] = MAX_NEG_LOG_PHI
    return np.asarray(found[place], np.float64)


def expected_margin(neg_log_phi_n: ArrayLike, *, alternatives: int) -> Floats:
    """Mean |log p(y) − log p(y')| of two different answers, each drawn with its own probability p ∝ φ^rank.

    Args:
        neg_log_phi_n: −log φ >= 0, shape (N,).
        alternatives: Number of answers, >= 2.

    Returns:
        Nats, shape (N,): −log φ times the mean gap in rank, which falls from (alternatives + 1)/3 to 1 with agreement.

    Example:
        >>> expected_margin([1.0], alternatives=2).tolist()  # the only two answers are neighbours
        [1.0]
    """
    check_alternatives(alternatives)
    values = np.asarray(neg_log_phi_n, np.float64)
    gap_g, weight_ng = np.arange(1, alternatives), _gap_weights(values, alternatives)
    return np.asarray(values * (weight_ng * gap_g).sum(axis=1) / weight_ng.sum(axis=1), np.float64)


def vote_log_likelihood(
    neg_log_phi_n: ArrayLike, votes_n: ArrayLike, members_n: ArrayLike, *, alternatives: int
) -> float:
    """How well estimates of −log φ explain people's votes on pairs whose ranks nobody knows.

    The two answers of a pair are g ranks apart with the probability with which two of N answers, each drawn with its
    own, are; which of them is the better one is unknown. Given both, the votes are binomial with the chance that one
    person prefers the better one under Kendall's Mallows model.

    Args:
        neg_log_phi_n: −log φ of each pair's prompt, shape (N,).
        votes_n: Votes for one of the two answers, shape (N,).
        members_n: Votes in all, shape (N,).
        alternatives: Number of answers, >= 2.

    Returns:
        Sum of the log-likelihoods, without the binomial coefficients.

    Source: our choice.

    Example:
        >>> agree, split = [5, 0, 5, 0], [3, 2, 2, 3]
        >>> vote_log_likelihood([3.0] * 4, agree, [5] * 4, alternatives=3) > vote_log_likelihood(
        ...     [0.1] * 4, agree, [5] * 4, alternatives=3
        ... )
        True
        >>> vote_log_likelihood([3.0] * 4, split, [5] * 4, alternatives=3) > vote_log_likelihood(
        ...     [0.1] * 4, split, [5] * 4, alternatives=3
        ... )
        False
    """
    check_alternatives(alternatives)
    # Below, φ is so near 1 that the closed form of the preference loses its digits, and every vote is a coin.
    values = np.maximum(np.asarray(neg_log_phi_n, np.float64), 1e-3)[:, None]
    votes, members = (np.asarray(counts, np.float64)[:, None] for counts in (votes_n, members_n))
    gap_g = np.arange(1, alternatives)
    log_gap_ng = np.log(_gap_weights(values[:, 0], alternatives))
    log_gap_ng = log_gap_ng - np.logaddexp.reduce(log_gap_ng, axis=1, keepdims=True)
    upper, lower = ((gap_g + step) / -np.expm1(-values * (gap_g + step)) for step in (1, 0))
    better_ng = np.clip(upper - lower, 0.5, 1 - 1e-9)
    log_yes, log_no = np.log(better_ng), np.log1p(-better_ng)
    either = np.logaddexp(
        votes * log_yes + (members - votes) * log_no, votes * log_no + (members - votes) * log_yes
    ) - np.log(2)
    return float(np.logaddexp.reduce(log_gap_ng + either, axis=1).sum())


def _gap_weights(neg_log_phi_n: Floats, alternatives: int) -> Floats:
    """How often two different answers, drawn with their own probabilities, are g = 1 … N − 1 ranks apart: (N, G)."""
    # A gap of g comes up with weight Σ_i φ^(2i + g), i from 0 to N − 1 − g.
    gap_g = np.arange(1, alternatives)
    steps = np.exp(-2 * neg_log_phi_n[:, None] * np.arange(alternatives - 1))
    return np.asarray(np.exp(-neg_log_phi_n[:, None] * gap_g) * np.cumsum(steps, axis=1)[:, ::-1], np.float64)


@cache
def _margin_table(alternatives: int) -> tuple[Floats, Floats]:
    grid = np.concatenate([[0.0], np.geomspace(1e-4, MAX_NEG_LOG_PHI, 2000)])
    return np.maximum.accumulate(expected_margin(grid, alternatives=alternatives)), grid


def neg_log_phi_from_margin(margin_n: ArrayLike, *, alternatives: int) -> Floats:
    """Invert `expected_margin`, to about three digits.

    Args:
        margin_n: Nats, >= 0, shape (N,).
        alternatives: Number of answers, >= 2.

    Returns:
        −log φ in [0, `MAX_NEG_LOG_PHI`], shape (N,).

    Example:
        >>> neg_log_phi_from_margin(expected_margin([0.3, 2.0], alternatives=5), alternatives=5).round(3).tolist()
        [0.3, 2.0]
    """
    margin, grid = _margin_table(alternatives)
    return np.asarray(np.interp(np.asarray(margin_n, np.float64), margin, grid), np.float64)


def panel_neg_log_phi(
    entropies: Mapping[str, ArrayLike], margin_n: ArrayLike | None = None, *, alternatives: int
) -> Floats:
    """The middle one of several estimates of −log φ.

    Args:
        entropies: Name → entropy of the choice of an answer as this index has it, nats, shape (N,).
        margin_n: Mean margin between two answers, nats, shape (N,); None to do without.
        alternatives: Among how many answers people choose, >= 2. Too few cuts the contested prompts off, which costs
            the order; too many only compresses the spread.

    Returns:
        −log φ, shape (N,); of an even number of estimates the mean of the middle two.

    Raises:
        InputError: There is nothing to take the median of, or N is out of range.

    Source: our choice.

    Example:
        >>> entropies = {"right": [0.636514], "misled by style": [3.0]}  # φ = ½ between two answers
        >>> panel_neg_log_phi(entropies, [np.log(2)], alternatives=2).round(4).tolist()
        [0.6931]
    """
    estimates = [neg_log_phi_from_choice_entropy(values, alternatives=alternatives) for values in entropies.values()]
    if margin_n is not None:
        estimates.append(neg_log_phi_from_margin(margin_n, alternatives=alternatives))
    if not estimates:
        raise InputError("panel: expected at least one index")
    return np.asarray(np.median(estimates, axis=0), np.float64)
