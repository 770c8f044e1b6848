"""Percentile bootstraps over rows, or over groups of rows such as the prompts that they belong to.

Suffixes: n rows, r resamples, s seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from mallowspo.errors import InputError
from mallowspo.stats.intervals import Interval

__all__ = ["FEW_GROUPS", "Resamples", "auroc", "bootstrap", "rank_correlation", "spearman"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_LEVEL = 0.95
FEW_GROUPS = 30
"""With fewer groups than these the percentile interval holds the truth clearly less often than it says."""


def _places(groups: Sequence[object]) -> tuple[int, Rows]:
    """How many groups there are, and which one each row is in."""
    if isinstance(groups, range):
        return len(groups), np.arange(len(groups))
    names, group_n = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    return len(names), np.asarray(group_n, np.intp)


def _draws(count: int, resamples: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Which groups each resample holds; the only place where a bootstrap draws."""
    for _ in range(resamples):
        yield rng.integers(count, size=count)


def _ends(estimate: float, values_r: Floats, level: float) -> Interval:
    """Percentiles of the resampled statistic, widened where they leave out the estimate itself."""
    known = values_r[np.isfinite(values_r)]
    if not np.isfinite(estimate) or len(known) == 0 or len(known) < len(values_r) / 2:
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    # Resampling repeats rows, which can push a rank statistic, or a mean of few rows, off its own value by a hair.
    return Interval(estimate, float(min(low, estimate)), float(max(high, estimate)))


def bootstrap(
    statistic: Callable[[Rows], float],
    groups: Sequence[object],
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = _LEVEL,
    fewest_groups: int = 3,
) -> Interval:
    """Percentile interval of a statistic, by drawing whole groups of rows anew (Davison and Hinkley 1997).

    `statistic` reads the rows that were drawn, as positions, and gives NaN where it does not exist for them; `groups`
    says what each row belongs to, such as its prompt, and is `range(N)` for single rows. The ends are NaN below
    `fewest_groups`, where the percentiles would be those of a handful of possible draws, and where the statistic does
    not exist for most resamples. With fewer than `FEW_GROUPS` it covers less than its level (docs/dispersion.md).
    """
    count, group_n = _places(groups)
    whole = statistic(np.arange(len(group_n)))
    if count < fewest_groups:
        return Interval(whole, float("nan"), float("nan"))
    order = np.argsort(group_n, kind="stable")
    ends = np.cumsum(np.bincount(group_n))
    starts = np.concatenate([[0], ends[:-1]])
    single = count == len(group_n)
    values = np.empty(resamples)
    for draw, picked in enumerate(_draws(count, resamples, rng)):
        rows = order[starts[picked]] if single else np.concatenate([order[starts[g] : ends[g]] for g in picked])
        values[draw] = statistic(rows)
    return _ends(whole, values, level)


@dataclass(frozen=True)
class Resamples:
    """Draws that many means over the same rows share, so that their intervals move together."""

    weight_rn: Floats  # how often each row stands in each resample

    @classmethod
    def of(cls, groups: Sequence[object], *, resamples: int = 2000, rng: np.random.Generator) -> Resamples:
        """Draw whole groups."""
        count, group_n = _places(groups)
        drawn = np.stack([np.bincount(picked, minlength=count) for picked in _draws(count, resamples, rng)])
        return cls(drawn[:, group_n].astype(np.float64))

    def mean(self, value_n: ArrayLike, where_n: ArrayLike | None = None) -> Interval:
        """The mean over rows that count with its 95% percentile interval; without ends where fewer than two do."""
        value, where = self._checked(value_n, where_n)
        if where.sum() < 2:
            return Interval(float(value[where].mean()) if where.any() else float("nan"), float("nan"), float("nan"))
        return _ends(float(value[where].mean()), self._means(value, where), _LEVEL)

    def contrast(self, value_n: ArrayLike, first_n: ArrayLike, second_n: ArrayLike) -> Interval:
        """The mean over some rows minus the mean over others, with its interval; arguments as in `mean`."""
        value, first = self._checked(value_n, first_n)
        _, second = self._checked(value_n, second_n)
        if min(first.sum(), second.sum()) < 2:
            return Interval(float("nan"), float("nan"), float("nan"))
        mean = float(value[first].mean() - value[second].mean())
        return _ends(mean, self._means(value, first) - self._means(value, second), _LEVEL)

    def _checked(self, value_n: ArrayLike, where_n: ArrayLike | None) -> tuple[Floats, NDArray[np.bool_]]:
        value = np.asarray(value_n, dtype=np.float64)
        where = np.ones(value.shape, bool) if where_n is None else np.asarray(where_n, dtype=bool)
        if value.shape != self.weight_rn.shape[1:] or where.shape != value.shape:
            raise InputError(f"Resamples: got shapes {value.shape} and {where.shape}, expected one value per row")
        return value, where

    def _means(self, value: Floats, where: NDArray[np.bool_]) -> Floats:
        weight = self.weight_rn[:, where]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weight @ value[where]) / weight.sum(axis=1))


def spearman(x_sn: ArrayLike, y_n: ArrayLike) -> float:
    """Spearman's rank correlation, ties at their mean rank; of several rows x the mean over them."""
    x, y = rankdata(np.atleast_2d(np.asarray(x_sn, np.float64)), axis=-1), rankdata(np.asarray(y_n, np.float64))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum())
    return float(((x * y).sum(axis=1) / size).mean()) if np.all(size > 0) else float("nan")


def rank_correlation(
    x_sn: ArrayLike,
    y_n: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: Sequence[object] | None = None,
    resamples: int = 1000,
    level: float = _LEVEL,
) -> Interval:
    """`spearman` with a bootstrap interval, the same rows for every seed; rows that are not finite are left out."""
    x, y = np.atleast_2d(np.asarray(x_sn, np.float64)), np.asarray(y_n, np.float64)
    if x.shape[1:] != y.shape:
        raise InputError(f"rank_correlation: got shapes {x.shape} and {y.shape}, expected (S, N) and (N,)")
    known = np.isfinite(x).all(axis=0) & np.isfinite(y)
    x, y = x[:, known], y[known]
    if not len(y):
        return Interval(float("nan"), float("nan"), float("nan"))
    named = range(len(y)) if groups is None else [groups[int(row)] for row in np.flatnonzero(known)]
    return bootstrap(lambda rows: spearman(x[:, rows], y[rows]), named, rng=rng, resamples=resamples, level=level)


def auroc(
    score_n: ArrayLike,
    positive_n: ArrayLike,
    *,
    rng: np.random.Generator,
    groups: Sequence[object] | None = None,
    resamples: int = 1000,
    level: float = _LEVEL,
) -> Interval:
    """Probability that a positive row scores above a negative one (half for equal scores), with its interval."""
    score, positive = np.asarray(score_n, np.float64), np.asarray(positive_n, bool)

    def area(rows: Rows) -> float:
        rank, high = rankdata(score[rows]), positive[rows]
        above, below = int(high.sum()), int((~high).sum())
        if above == 0 or below == 0:
            return float("nan")
        return float((rank[high].sum() - above * (above + 1) / 2) / (above * below))

    return bootstrap(area, range(len(score)) if groups is None else groups, rng=rng, resamples=resamples, level=level)
