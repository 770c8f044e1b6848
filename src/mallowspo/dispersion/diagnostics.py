"""What a dispersion index and its weights will do, and how far to trust them: figures with intervals.

Suffix: n prompts or rows. Intervals of statistics are percentile bootstraps over prompts, the unit that is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from scipy.stats import t as student_t

from mallowspo.errors import InputError

__all__ = [
    "FEW_GROUPS",
    "Estimate",
    "PooledInterval",
    "auroc",
    "bootstrap",
    "effective_sample_size",
    "flip_probability",
    "pooled_interval",
    "rank_correlation",
    "vote_disagreement",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval; NaN where there is nothing to estimate it from.

    Attributes:
        value: The statistic on all the data.
        low: Lower end.
        high: Upper end.
        count: Rows that it was computed from.
    """

    value: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


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


FEW_GROUPS = 30
"""With fewer groups than these the percentile interval holds the truth clearly less often than it says."""


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[object],
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Percentile interval of a statistic, by drawing whole groups of rows anew.

    Args:
        statistic: From the rows that were drawn, as positions, to a number; NaN where it does not exist for them.
        groups: What each row belongs to, such as its prompt, length N.
        rng: Source of randomness.
        resamples: How many times to draw.
        level: Nominal coverage.

    Returns:
        The statistic and its interval; the ends are NaN with fewer than three groups, and with fewer than
        `FEW_GROUPS` it covers less than its level (docs/dispersion.md).

    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997 (resampling of clusters).

    Example:
        >>> values = np.arange(100.0)
        >>> found = bootstrap(lambda at: float(values[at].mean()), range(100), rng=np.random.default_rng(0))
        >>> found.value, bool(43 < found.low < 45 and 54 < found.high < 56)
        (49.5, True)
    """
    _, group_n = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    order = np.argsort(group_n, kind="stable")
    sizes = np.bincount(group_n) if len(group_n) else np.zeros(0, np.intp)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    whole = statistic(np.arange(len(group_n)))
    nan = float("nan")
    if len(sizes) < 3:
        return Estimate(whole, nan, nan, len(group_n))
    values = np.empty(resamples)
    for draw in range(resamples):
        picked = rng.integers(len(sizes), size=len(sizes))
        if len(sizes) == len(group_n):
            rows = order[starts[picked]]
        else:
            rows = np.concatenate([order[starts[g] : ends[g]] for g in picked])
        values[draw] = statistic(rows)
    values = values[np.isfinite(values)]
    if len(values) < resamples / 2:
        return Estimate(whole, nan, nan, len(group_n))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    # Resampling rows repeats them, which can push a rank statistic off its own value by a hair.
    return Estimate(whole, float(min(low, whole)), float(max(high, whole)), len(group_n))


def rank_correlation(
    x_n: ArrayLike,
    y_n: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: Sequence[object] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Spearman's rank correlation with a bootstrap interval.

    Args:
        x_n: Shape (N,); rows where x or y is not finite are left out.
        y_n: Shape (N,).
        rng: Source of randomness.
        groups: What is drawn anew together; single rows where None.
        resamples: Bootstrap draws.
        level: Nominal coverage.

    Returns:
        The correlation; NaN where x or y is constant.

    Example:
        >>> found = rank_correlation([1, 2, 3, 4], [10, 20, 30, 40], rng=np.random.default_rng(0))
        >>> found.value, found.count
        (1.0, 4)
    """
    x, y = np.asarray(x_n, np.float64), np.asarray(y_n, np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    kept = [i for i, ok in enumerate(known) if ok]
    named = list(range(len(x))) if groups is None else [groups[i] for i in kept]

    def correlation(rows: NDArray[np.intp]) -> float:
        a, b = rankdata(x[rows]), rankdata(y[rows])
        a, b = a - a.mean(), b - b.mean()
        size = float(np.sqrt((a @ a) * (b @ b)))
        return float(a @ b) / size if size > 0 else float("nan")

    return bootstrap(correlation, named, rng=rng, resamples=resamples, level=level) if len(x) else _nothing()


def auroc(
    score_n: ArrayLike,
    positive_n: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: Sequence[object] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Probability that a positive row scores above a negative one (half for equal scores), with its interval.

    Args:
        score_n: Shape (N,).
        positive_n: True for the rows that should score high, shape (N,).
        rng: Source of randomness.
        groups: What is drawn anew together; single rows where None.
        resamples: Bootstrap draws.
        level: Nominal coverage.

    Returns:
        The area under the ROC curve: ½ is chance; NaN where all rows are of one kind.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True], rng=np.random.default_rng(0)).value
        0.75
    """
    score, positive = np.asarray(score_n, np.float64), np.asarray(positive_n, bool)

    def area(rows: NDArray[np.intp]) -> float:
        rank, high = rankdata(score[rows]), positive[rows]
        above, below = int(high.sum()), int((~high).sum())
        if above == 0 or below == 0:
            return float("nan")
        return float((rank[high].sum() - above * (above + 1) / 2) / (above * below))

    named = list(range(len(score))) if groups is None else groups
    return bootstrap(area, named, rng=rng, resamples=resamples, level=level) if len(score) else _nothing()


def _nothing() -> Estimate:
    return Estimate(float("nan"), float("nan"), float("nan"), 0)


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
