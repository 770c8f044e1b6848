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

MAX_ALTERNATIVES = 10_000


def check_alternatives(alternatives: int, name: str = "alternatives") -> None:
    """Raise InputError, by the option's name, for a number of answers that cannot be chosen among."""
    if not 2 <= alternatives <= MAX_ALTERNATIVES:
        raise InputError(f"{name}: got {alternatives}, expected 2 to {MAX_ALTERNATIVES:,} answers")


def choice_entropy(neg_log_phi_n: ArrayLike, *, alternatives: int) -> Floats:
    """Entropy in nats of a choice among N answers, rank r with probability ∝ phi^r: Kendall's first choice."""
    check_alternatives(alternatives)
    values = np.asarray(neg_log_phi_n, np.float64)
    energy = values[..., None] * np.arange(alternatives)
    weight = np.exp(-energy)
    normaliser = weight.sum(axis=-1)
    return np.asarray(np.log(normaliser) + (weight * energy).sum(axis=-1) / normaliser, np.float64)


def neg_log_phi_from_choice_entropy(entropy_n: ArrayLike, *, alternatives: int) -> Floats:
    """Invert `choice_entropy`: -log phi from 0 to `MAX_NEG_LOG_PHI` of entropies in nats, shape (N,)."""
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
    """Mean |log p(y) − log p(y')|, nats, of two different answers drawn with their probabilities p ∝ φ^rank."""
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
    """Invert `expected_margin`, to about three digits."""
    margin, grid = _margin_table(alternatives)
    return np.asarray(np.interp(np.asarray(margin_n, np.float64), margin, grid), np.float64)


def panel_neg_log_phi(
    entropies: Mapping[str, ArrayLike], margin_n: ArrayLike | None = None, *, alternatives: int
) -> Floats:
    """The median estimate of −log φ, shape (N,), of entropies by name and a mean margin, both in nats, shape (N,).

    Too few alternatives cut the contested prompts off, which costs the order; too many only compress the spread.
    """
    estimates = [neg_log_phi_from_choice_entropy(values, alternatives=alternatives) for values in entropies.values()]
    if margin_n is not None:
        estimates.append(neg_log_phi_from_margin(margin_n, alternatives=alternatives))
    if not estimates:
        raise InputError("panel: expected at least one index")
    return np.asarray(np.median(estimates, axis=0), np.float64)
