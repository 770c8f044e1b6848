"""Comparing methods over seeds without fooling oneself.

Every method sees the same pairs in the same order under one seed, so that methods are compared seed by seed, and the
intervals are those of the paired differences. The same β is not the same strength under different objectives; methods
are therefore compared at equal KL from the reference, by interpolating each seed's own frontier.

Suffixes: s seeds, b settings of β, r bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mallowspo.errors import InputError

__all__ = [
    "EqualKL",
    "Interval",
    "SeedFrontier",
    "equal_kl_differences",
    "interpolate_frontier",
    "mean_interval",
    "rank_correlation",
    "read_at_best_rate",
    "verdict",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; both ends are NaN where there is nothing to estimate it from.

    Attributes:
        mean: The estimate.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedFrontier:
    """One method under one seed and one learning rate, over its settings of β.

    Attributes:
        kl_b: KL from the reference over whole sequences, nats, shape (B,), > 0.
        agreement_b: Agreement, by which the better of several learning rates is chosen, shape (B,).
        value_b: The quantity to compare, shape (B,); the agreement itself, or another.
    """

    kl_b: ArrayLike
    agreement_b: ArrayLike
    value_b: ArrayLike


@dataclass(frozen=True)
class EqualKL:
    """A comparison at equal KL.

    Attributes:
        difference_s: Method − baseline per seed, averaged over the KL that both reach; NaN where they share none.
        low_s: Lower end of that range, nats.
        high_s: Upper end, nats.
    """

    difference_s: Floats
    low_s: Floats
    high_s: Floats


def mean_interval(values_s: ArrayLike) -> Interval:
    """Mean over seeds with a 95% interval from Student's t distribution.

    Args:
        values_s: One value per seed, shape (S,); NaN stands for a seed without a value and is left out.

    Returns:
        The mean; with fewer than two values the ends are NaN: one seed has no interval.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0])  # t(2 degrees, 97.5%) = 4.3027, standard error 1/√3
        >>> round(interval.mean, 4), round(interval.low, 4), round(interval.high, 4)
        (2.0, -0.4841, 4.4841)
    """
    values = np.asarray(values_s, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))
    return Interval(mean, mean - half, mean + half)


def verdict(difference: Interval) -> str:
    """Say what an interval of a difference (method − baseline, more is better) allows to say.

    Args:
        difference: The difference with its interval.

    Returns:
        `better`, `worse`, or `open` where the interval holds 0 or there is none.

    Example:
        >>> verdict(Interval(0.2, 0.1, 0.3)), verdict(Interval(0.2, -0.1, 0.5))
        ('better', 'open')
    """
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return "open"


def interpolate_frontier(kl_b: ArrayLike, value_b: ArrayLike, at: ArrayLike) -> Floats:
    """Read a frontier of one seed at given KLs, linearly in log KL between its settings.

    Args:
        kl_b: KL of each setting, nats, shape (B,), > 0.
        value_b: What was measured there, shape (B,).
        at: Where to read, nats, shape (M,).

    Returns:
        Values, shape (M,); NaN outside the range of `kl_b`: nothing is extrapolated.

    Example:
        >>> interpolate_frontier([0.1, 0.4], [0.5, 0.6], [0.2, 0.5]).round(4).tolist()
        [0.55, nan]
    """
    kl, value = np.asarray(kl_b, dtype=np.float64), np.asarray(value_b, dtype=np.float64)
    if kl.shape != value.shape or kl.ndim != 1 or not np.all(kl > 0):
        raise InputError(f"interpolate_frontier: got shapes {kl.shape} and {value.shape}, expected (B,) with KL > 0")
    order = np.argsort(kl)
    log_at = np.log(np.asarray(at, dtype=np.float64))
    # A point exactly on an end may miss it by a rounding error after the logarithm.
    tolerance = 1e-12
    inside = (log_at >= np.log(kl[order[0]]) - tolerance) & (log_at <= np.log(kl[order[-1]]) + tolerance)
    return np.where(inside, np.interp(log_at, np.log(kl[order]), value[order]), np.nan)


def read_at_best_rate(frontiers: Sequence[SeedFrontier], at: ArrayLike) -> Floats:
    """Read a quantity at given KLs, each at the learning rate with the highest agreement there.

    Args:
        frontiers: One seed's frontiers, one per learning rate.
        at: Where to read, nats, shape (M,).

    Returns:
        The quantity at each KL, shape (M,); NaN where no frontier reaches.

    Example:
        >>> slow = SeedFrontier([0.1, 0.4], [0.5, 0.6], [1.0, 2.0])
        >>> fast = SeedFrontier([0.2, 0.8], [0.7, 0.7], [5.0, 5.0])
        >>> read_at_best_rate([slow, fast], [0.1, 0.4]).round(4).tolist()
        [1.0, 5.0]
    """
    agreement = np.stack([interpolate_frontier(line.kl_b, line.agreement_b, at) for line in frontiers])
    value = np.stack([interpolate_frontier(line.kl_b, line.value_b, at) for line in frontiers])
    best = np.where(np.isnan(agreement), -np.inf, agreement).argmax(axis=0)
    return np.asarray(np.take_along_axis(value, best[None], axis=0)[0])


def equal_kl_differences(
    method_s: Sequence[Sequence[SeedFrontier]], baseline_s: Sequence[Sequence[SeedFrontier]], *, points: int = 41
) -> EqualKL:
    """Difference between a method and a baseline at equal KL, one number per seed.

    For each seed the two (each at its better learning rate for that KL, where there are several) are read on a grid
    even in log KL over the range that both reach, and the differences are averaged.

    Args:
        method_s: For each seed the method's frontiers, one per learning rate.
        baseline_s: The same for the baseline.
        points: Size of the grid.

    Returns:
        The differences and the ranges.

    Example:
        >>> method = SeedFrontier([0.1, 0.4], [0.6, 0.7], [0.6, 0.7])
        >>> baseline = SeedFrontier([0.1, 0.4], [0.5, 0.6], [0.5, 0.6])
        >>> equal_kl_differences([[method]], [[baseline]]).difference_s.round(4).tolist()
        [0.1]
    """
    rows = []
    for method, baseline in zip(method_s, baseline_s, strict=True):
        low = max(min(float(np.min(line.kl_b)) for line in side) for side in (method, baseline))
        high = min(max(float(np.max(line.kl_b)) for line in side) for side in (method, baseline))
        gap = np.full(1, np.nan)
        if low < high:
            grid = np.geomspace(low, high, points)
            gap = read_at_best_rate(method, grid) - read_at_best_rate(baseline, grid)
        # Frontiers of two learning rates may leave a gap between them, where nothing was measured.
        measured = gap[np.isfinite(gap)]
        rows.append((measured.mean(), low, high) if measured.size else (np.nan, np.nan, np.nan))
    return EqualKL(*np.asarray(rows, dtype=np.float64).T)


def _ranks(values: Floats) -> Floats:
    return np.asarray(stats.rankdata(values, axis=-1), dtype=np.float64)


def rank_correlation(
    estimated_sp: ArrayLike, truth_p: ArrayLike, *, resamples: int = 1000, rng: np.random.Generator
) -> Interval:
    """Spearman's correlation of an estimated index with the truth, averaged over seeds, with a bootstrap interval.

    Prompts are resampled, the same ones for every seed, and the percentiles of the averaged correlation are taken.

    Args:
        estimated_sp: One estimate per seed and prompt, shape (S, P), finite.
        truth_p: The true value of each prompt, shape (P,).
        resamples: Bootstrap resamples.
        rng: Source of randomness.

    Returns:
        The correlation with its 95% interval; NaN where one side has only one value.

    Example:
        >>> interval = rank_correlation([[1.0, 2.0, 3.0, 4.0]], [10, 20, 30, 40], rng=np.random.default_rng(0))
        >>> round(interval.mean, 6)
        1.0
    """
    estimated, truth = np.atleast_2d(np.asarray(estimated_sp, np.float64)), np.asarray(truth_p, np.float64)
    if estimated.shape[1:] != truth.shape or not np.isfinite(estimated).all() or truth.size < 3:
        raise InputError(
            f"rank_correlation: got estimates of shape {estimated.shape} for {truth.shape} prompts, expected (S, P) "
            f"finite values for P ≥ 3 prompts"
        )
    drawn_rp = rng.integers(truth.size, size=(resamples, truth.size))
    samples = [_mean_correlation(estimated[:, drawn_p], truth[drawn_p]) for drawn_p in drawn_rp]
    finite = np.asarray(samples)[np.isfinite(samples)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite.size else (float("nan"), float("nan"))
    mean = _mean_correlation(estimated, truth)
    # Percentiles of a statistic near its bound may lie beside the estimate; the interval shown holds it.
    return Interval(mean, float(min(low, mean)), float(max(high, mean)))


def _mean_correlation(estimated_sp: Floats, truth_p: Floats) -> float:
    """Spearman's correlation as Pearson's of the ranks, ties at their mean rank, averaged over rows."""
    first, second = _ranks(estimated_sp), _ranks(truth_p)
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean()
    norm = np.sqrt((first**2).sum(axis=1) * (second**2).sum())
    if not np.all(norm > 0):
        return float("nan")
    return float(((first * second).sum(axis=1) / norm).mean())
