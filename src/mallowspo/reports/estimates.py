"""What the figures draw: estimates that carry their intervals, alone and along curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError
from mallowspo.reports.formatting import format_interval

__all__ = ["Curve", "Estimates", "FrontierCurve", "LineCurve"]


@dataclass(frozen=True)
class Estimates:
    """Estimates with their intervals; scalars or arrays of one shape.

    Attributes:
        mean: The estimates.
        low: Lower ends, <= mean.
        high: Upper ends, >= mean.

    Raises:
        InputError: The shapes differ, or an estimate lies outside its interval.

    Example:
        >>> Estimates([0.5, 0.6], [0.4, 0.5], [0.6, 0.7]).mean.shape
        (2,)
    """

    mean: Any
    low: Any
    high: Any

    def __post_init__(self) -> None:
        arrays = {name: np.asarray(getattr(self, name), dtype=float) for name in ("mean", "low", "high")}
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"Estimates: got shapes {shapes}, expected one shape for all three")
        slack = 1e-9 * (1.0 + np.abs(arrays["mean"]))
        outside = (arrays["low"] > arrays["mean"] + slack) | (arrays["high"] < arrays["mean"] - slack)
        if outside.any():
            first = np.unravel_index(int(np.argmax(outside)), outside.shape)
            mean, low, high = (float(array[first]) for array in arrays.values())
            text = format_interval(mean, low, high, 4)
            raise InputError(f"Estimates: {text} lies outside its interval; pass ends, not half-widths")
        for name, array in arrays.items():
            object.__setattr__(self, name, array)

    @property
    def arms(self) -> NDArray[np.float64]:
        """Distances from the estimate to both ends, shape (2, ...), as error bars want them."""
        arms: NDArray[np.float64] = np.maximum(np.stack([self.mean - self.low, self.high - self.mean]), 0.0)
        return arms

    def take(self, order: NDArray[np.intp]) -> Estimates:
        """The same estimates in another order."""
        return Estimates(self.mean[order], self.low[order], self.high[order])


@dataclass(frozen=True)
class Curve:
    """A curve without uncertainty, such as an exact solution."""

    x: ArrayLike
    y: ArrayLike


@dataclass(frozen=True)
class FrontierCurve:
    """One method along its trade-off: what it spends and what it gains, one entry per setting.

    Attributes:
        x: What it spends, as KL from the reference in nats.
        y: What it gains, as agreement with people.
        labels: A short text per point, such as its β; empty for none.
    """

    x: Estimates
    y: Estimates
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.x.mean.shape != self.y.mean.shape or self.x.mean.ndim != 1:
            raise InputError(
                f"FrontierCurve: got shapes {self.x.mean.shape} and {self.y.mean.shape}, expected one length"
            )
        if self.labels and len(self.labels) != len(self.x.mean):
            raise InputError(f"FrontierCurve: got {len(self.labels)} labels for {len(self.x.mean)} points")


@dataclass(frozen=True)
class LineCurve:
    """A quantity over steps, with its band over seeds; low = mean = high where there was one run."""

    x: ArrayLike
    y: Estimates

    def __post_init__(self) -> None:
        if np.shape(self.x) != self.y.mean.shape or self.y.mean.ndim != 1:
            raise InputError(f"LineCurve: got shapes {np.shape(self.x)} and {self.y.mean.shape}, expected one length")
