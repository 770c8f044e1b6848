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
    """(Σ w)² / Σ w², from 1 to N: how many equal weights would give a mean the same variance (Kish 1965)."""
    weight = np.asarray(weights, np.float64)
    if weight.size == 0 or not (weight > 0).any() or (weight < 0).any():
        raise InputError("weights: expected numbers >= 0, at least one of them above 0")
    return float(weight.sum() ** 2 / (weight**2).sum())


def flip_probability(phi_n: ArrayLike) -> Floats:
    """Probability φ/(1 + φ) that one person's vote on two neighbours goes against the consensus (Mallows 1957)."""
    phi = np.asarray(phi_n, np.float64)
    return np.asarray(phi / (1 + phi), np.float64)


def vote_disagreement(votes: ArrayLike, own: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """How much the voters of each pair differ, without smoothing; counts of shape (N, 2) or (N, 3), ties say nothing.

    The chance that two different voters differ, unbiased (NaN with fewer than two votes), and the minority's share
    (NaN without a vote), which is too low where the votes are few.

    A person whose vote is split into a for the first, b for the second and perhaps ties contradicts nobody by that:
    `own`, shape (N, 2), has the sums over such people of a b and of t (1 - t), where t = a + b.
    """
    counts = np.nan_to_num(np.asarray(votes, np.float64))
    first, second = counts[:, 0], counts[:, 1]
    total = first + second
    both, rest = (0.0, 0.0) if own is None else np.asarray(own, np.float64).T
    with np.errstate(invalid="ignore", divide="ignore"):
        differ = np.where(total >= 2, 2 * (first * second - both) / (total * (total - 1) + rest), np.nan)
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
    """How far a prompt's mean would move with other responses to it."""

    half_width_g: Floats  # shape (G,); NaN where it cannot be told
    # Share of the variance of the groups' means that is not the noise of their few members; NaN where it is unknown.
    reliability: float
    degrees: int  # of freedom of the noise


def pooled_interval(values_n: ArrayLike, group_n: ArrayLike, *, level: float = 0.95) -> PooledInterval:
    """Interval of each group's mean, from the spread within groups taken together (one-way random effects).

    A prompt with two responses says next to nothing about its own spread, but all prompts together do: the variance
    within groups is taken to be the same everywhere.
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
