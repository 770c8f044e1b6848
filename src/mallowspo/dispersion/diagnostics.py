"""What a dispersion index and its weights will do, and how far to trust them: figures with intervals.

Suffix: n prompts or rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from mallowspo.errors import InputError
from mallowspo.stats.bootstrap import rank_correlation
from mallowspo.stats.intervals import Interval

__all__ = [
    "PooledInterval",
    "correlation",
    "effective_sample_size",
    "flip_probability",
    "pooled_interval",
    "statistic",
    "vote_disagreement",
]

Floats = NDArray[np.float64]


def effective_sample_size(weights: ArrayLike) -> float:
    """(Σ w)² / Σ w²: how many equally weighted pairs would give a weighted mean the same variance.

    Args:
        weights: Weights >= 0, not all 0, shape (N,).

    Returns:
        From 1 to N.

    Raises:
        InputError: There are no weights, or none is positive.

    Source: Kish, Survey Sampling, 1965.

    Example:
        >>> effective_sample_size([1.0, 1.0, 1.0, 1.0]), effective_sample_size([3.0, 1.0])
        (4.0, 1.6)
    """
    weight = np.asarray(weights, np.float64)
    if weight.size == 0 or not (weight > 0).any() or (weight < 0).any():
        raise InputError("weights: expected numbers >= 0, at least one of them above 0")
    return float(weight.sum() ** 2 / (weight**2).sum())


def flip_probability(phi_n: ArrayLike) -> Floats:
    """Probability that one person's vote on two neighbours goes against the consensus: φ/(1 + φ).

    Args:
        phi_n: φ in (0, 1], any shape.

    Returns:
        Probabilities in (0, ½], same shape.

    Source: Mallows, Biometrika 1957: under Kendall's tau neighbours swap with odds φ.

    Example:
        >>> flip_probability([1.0, 0.25]).tolist()
        [0.5, 0.2]
    """
    phi = np.asarray(phi_n, np.float64)
    return np.asarray(phi / (1 + phi), np.float64)


def vote_disagreement(votes: ArrayLike) -> tuple[Floats, Floats]:
    """How much the people who voted on a pair differ, without smoothing; ties say nothing here.

    Args:
        votes: Counts for chosen, rejected and perhaps ties, shape (N, 2) or (N, 3).

    Returns:
        Per row the probability that two different voters differ, unbiased (NaN with fewer than two votes), and the
        minority's share (NaN without a vote), which is too low where the votes are few.

    Example:
        >>> differ, minority = vote_disagreement([[2, 1, 0], [3, 0, 0], [1, 0, 2]])
        >>> differ.round(4).tolist(), minority.round(4).tolist()
        ([0.6667, 0.0, nan], [0.3333, 0.0, 0.0])
    """
    counts = np.nan_to_num(np.asarray(votes, np.float64))
    first, second = counts[:, 0], counts[:, 1]
    total = first + second
    with np.errstate(invalid="ignore", divide="ignore"):
        differ = np.where(total >= 2, 2 * first * second / (total * (total - 1)), np.nan)
        minority = np.where(total > 0, np.minimum(first, second) / total, np.nan)
    return differ, minority


def statistic(found: Interval, count: int) -> dict[str, Any]:
    """A statistic as `summary.json` holds it: its value, its interval, and the rows that it was computed from."""
    return {"value": found.mean, "low": found.low, "high": found.high, "count": count}


def correlation(x_n: ArrayLike, y_n: ArrayLike, **drawing: Any) -> dict[str, Any]:
    """Rank correlation over the rows where both are known, as `statistic`; see `stats.bootstrap.rank_correlation`."""
    x, y = np.asarray(x_n, np.float64), np.asarray(y_n, np.float64)
    return statistic(rank_correlation(x, y, **drawing), int((np.isfinite(x) & np.isfinite(y)).sum()))


@dataclass(frozen=True)
class PooledInterval:
    """How far a prompt's mean would move with other responses to it.

    Attributes:
        half_width_g: Half the interval's width per group, shape (G,); NaN where it cannot be told.
        reliability: Share of the variance of the groups' means that is not the noise of their few members, from 0 to
            1; NaN where it cannot be told.
        degrees: Degrees of freedom of the noise.
    """

    half_width_g: Floats
    reliability: float
    degrees: int


def pooled_interval(values_n: ArrayLike, group_n: ArrayLike, *, level: float = 0.95) -> PooledInterval:
    """Interval of each group's mean, from the spread within groups taken together.

    A prompt with two responses says next to nothing about its own spread, but all prompts together do: the variance
    within groups is taken to be the same everywhere.

    Args:
        values_n: One value a response, shape (N,).
        group_n: The prompt of each, 0 … G - 1, shape (N,).
        level: Coverage, in (0, 1).

    Returns:
        Half-widths, and the share of the variance that the prompts explain.

    Source: one-way random effects; Searle, Casella and McCulloch, Variance Components, 1992.

    Example:
        >>> found = pooled_interval([1.0, 3.0, 11.0, 13.0], [0, 0, 1, 1])  # variance 2 within, 2 degrees: t = 4.3027
        >>> found.half_width_g.round(4).tolist(), found.reliability
        ([4.3027, 4.3027], 0.98)
    """
    values, group = np.asarray(values_n, np.float64), np.asarray(group_n, np.intp)
    sizes = np.bincount(group)
    means = np.bincount(group, weights=values) / sizes
    degrees = len(values) - len(sizes)
    within = float(((values - means[group]) ** 2).sum())
    if degrees < 1 or within == 0:
        return PooledInterval(np.full(len(sizes), np.nan), float("nan"), degrees)
    variance = within / degrees
    half = student_t.ppf((1 + level) / 2, degrees) * np.sqrt(variance / sizes)
    reliability = float("nan")
    if len(sizes) > 1:
        between = float((sizes * (means - values.mean()) ** 2).sum()) / (len(sizes) - 1)
        reliability = max(0.0, 1 - variance / between) if between > 0 else 0.0
    return PooledInterval(np.asarray(half, np.float64), reliability, degrees)
