"""Estimates with their intervals, single or many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mallowspo.errors import InputError

__all__ = ["Interval", "mean_interval", "mean_of_known", "ratio_interval"]

ENDS = ("mean", "low", "high")


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, or arrays of one shape that hold many; NaN where there is nothing to tell."""

    mean: Any
    low: Any
    high: Any

    def __post_init__(self) -> None:
        arrays = {name: np.asarray(getattr(self, name), dtype=float) for name in ENDS}
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"Interval: got shapes {shapes}, expected one shape for all three")
        slack = 1e-9 * (1.0 + np.abs(arrays["mean"]))
        outside = (arrays["low"] > arrays["mean"] + slack) | (arrays["high"] < arrays["mean"] - slack)
        if outside.any():
            first = np.unravel_index(int(np.argmax(outside)), outside.shape)
            mean, low, high = (float(array[first]) for array in arrays.values())
            raise InputError(f"Interval: {mean:g} lies outside [{low:g}, {high:g}]; pass ends, not half-widths")
        for name, array in arrays.items():
            object.__setattr__(self, name, float(array) if array.ndim == 0 else array)

    @classmethod
    def of(cls, given: Mapping[str, Any] | Sequence[Any]) -> Interval:
        """Read an interval as the results hold it: a mapping with its ends or [mean, low, high]; None is NaN."""
        return cls(*cls._ends_of(given))

    @staticmethod
    def _ends_of(given: Mapping[str, Any] | Sequence[Any]) -> list[float]:
        if isinstance(given, Mapping):
            given = [given["mean"] if "mean" in given else given["value"], given["low"], given["high"]]
        return [float("nan") if end is None else float(end) for end in given]

    @classmethod
    def stack(cls, given: Sequence[Interval | Mapping[str, Any] | Sequence[Any]], *, scale: float = 1.0) -> Interval:
        """Many intervals as one of arrays, for a figure: one without ends (a single seed) becomes a point."""
        # Results may be rounded, so that an end within rounding of its estimate is moved onto it.
        rows = [(one.mean, one.low, one.high) if isinstance(one, Interval) else cls._ends_of(one) for one in given]
        mean, low, high = np.asarray(rows, dtype=float).reshape(-1, 3).T
        return cls(mean, np.fmin(low, mean), np.fmax(high, mean)).scaled(scale)

    @classmethod
    def exact(cls, values: ArrayLike) -> Interval:
        """Values without uncertainty."""
        return cls(values, values, values)

    def scaled(self, factor: float) -> Interval:
        """The same interval in another unit; a factor below 0 turns it round."""
        ends = factor * self.low, factor * self.high
        return Interval(factor * self.mean, *(ends if factor >= 0 else ends[::-1]))

    def take(self, order: NDArray[np.intp]) -> Interval:
        """Of many, the ones at these places."""
        return Interval(self.mean[order], self.low[order], self.high[order])

    @property
    def drawn(self) -> Interval:
        """As a figure shows it: a point where there are no ends."""
        ends = (np.where(np.isnan(end), self.mean, end) for end in (self.low, self.high))
        return Interval(self.mean, *ends)

    @property
    def arms(self) -> NDArray[np.float64]:
        """Distances from the estimate to both ends, shape (2, ...), as error bars want them."""
        arms: NDArray[np.float64] = np.maximum(np.stack([self.mean - self.low, self.high - self.mean]), 0.0)
        return arms

    @property
    def has_ends(self) -> bool:
        """Whether a single estimate comes with an interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def mean_interval(values_s: ArrayLike) -> Interval:
    """Mean over seeds with a 95% interval from Student's t distribution; NaN is a seed without a value."""
    values = np.asarray(values_s, dtype=np.float64)
    values = values[np.isfinite(values)]
    nan = float("nan")
    if values.size < 2:
        return Interval(float(values.mean()) if values.size else nan, nan, nan)
    mean = float(values.mean())
    half = float(stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(above_s: ArrayLike, below_s: ArrayLike) -> Interval:
    """Ratio of two means over the same seeds with its 95% interval (Fieller 1954, by Student's t distribution).

    No ends where the mean below does not differ significantly from 0: no bounded interval holds the ratio then.

    Example:
        >>> ratio_interval([1.0, 2.0, 3.2], [2.0, 4.0, 6.0]).mean.__round__(4)
        0.5167
    """
    pairs = np.stack([np.asarray(values, dtype=np.float64) for values in (above_s, below_s)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    nan, count = float("nan"), pairs.shape[1]
    if count < 2:
        return Interval(float(pairs[0, 0] / pairs[1, 0]) if count else nan, nan, nan)
    above, below = pairs.mean(axis=1)
    (var_above, cov), (_, var_below) = np.cov(pairs) / count
    square = float(stats.t.ppf(0.975, count - 1)) ** 2
    # The ratios r at which mean(above − r below) does not differ significantly from 0 solve a quadratic inequality.
    bend, middle, end = below**2 - square * var_below, above * below - square * cov, above**2 - square * var_above
    if bend <= 0:
        return Interval(float(above / below), nan, nan)
    half = np.sqrt(max(0.0, middle**2 - bend * end))
    return Interval(float(above / below), float((middle - half) / bend), float((middle + half) / bend))


def mean_of_known(values: ArrayLike) -> float:
    """Mean of what is finite; NaN where nothing is."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else float("nan")
