"""Curves that the figures draw, exact or with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mallowspo.errors import InputError
from mallowspo.stats.intervals import Interval

__all__ = ["Curve", "FrontierCurve", "LineCurve"]


@dataclass(frozen=True)
class Curve:
    """A curve without uncertainty, such as an exact solution."""

    x: ArrayLike
    y: ArrayLike


@dataclass(frozen=True)
class FrontierCurve:
    """One method along its trade-off: what it spends and what it gains, one entry per setting."""

    x: Interval  # what it spends, as KL from the reference in nats
    y: Interval  # what it gains, as agreement with people

    def __post_init__(self) -> None:
        if np.shape(self.x.mean) != np.shape(self.y.mean) or np.ndim(self.x.mean) != 1:
            raise InputError(
                f"FrontierCurve: got shapes {np.shape(self.x.mean)} and {np.shape(self.y.mean)}, expected one length"
            )


@dataclass(frozen=True)
class LineCurve:
    """A quantity over steps, with its band over seeds; low = mean = high where there was one run."""

    x: ArrayLike
    y: Interval

    def __post_init__(self) -> None:
        if np.shape(self.x) != np.shape(self.y.mean) or np.ndim(self.y.mean) != 1:
            raise InputError(
                f"LineCurve: got shapes {np.shape(self.x)} and {np.shape(self.y.mean)}, expected one length"
            )
