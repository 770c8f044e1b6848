"""Frontiers of a quantity against KL, and their differences at equal KL.

The same β is not the same strength under different objectives; methods are therefore compared at equal KL from the
reference, by interpolating each seed's own frontier. Every method sees the same pairs in the same order under one
seed, so that methods are compared seed by seed.

Suffixes: s seeds, b settings of β.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError

__all__ = ["EqualKL", "SeedFrontier", "equal_kl_differences", "interpolate_frontier"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SeedFrontier:
    """One method under one seed, over its settings of β."""

    kl_b: ArrayLike  # KL from the reference over whole sequences, nats, shape (B,), > 0
    value_b: ArrayLike  # the quantity to compare, shape (B,)


@dataclass(frozen=True)
class EqualKL:
    """A comparison at equal KL."""

    difference_s: Floats  # method − baseline, averaged over the KL that both reach; NaN where they share none
    low_s: Floats  # the ends of that range, nats
    high_s: Floats


def interpolate_frontier(kl_b: ArrayLike, value_b: ArrayLike, at: ArrayLike) -> Floats:
    """Read a frontier of one seed at given KLs, linearly in log KL between its settings; NaN outside of them."""
    kl, value = np.asarray(kl_b, dtype=np.float64), np.asarray(value_b, dtype=np.float64)
    if kl.shape != value.shape or kl.ndim != 1 or not np.all(kl > 0):
        raise InputError(f"interpolate_frontier: got shapes {kl.shape} and {value.shape}, expected (B,) with KL > 0")
    order = np.argsort(kl)
    log_at = np.log(np.asarray(at, dtype=np.float64))
    # A point exactly on an end may miss it by a rounding error after the logarithm.
    tolerance = 1e-12
    inside = (log_at >= np.log(kl[order[0]]) - tolerance) & (log_at <= np.log(kl[order[-1]]) + tolerance)
    return np.where(inside, np.interp(log_at, np.log(kl[order]), value[order]), np.nan)


def equal_kl_differences(
    method_s: Sequence[SeedFrontier], baseline_s: Sequence[SeedFrontier], *, points: int = 41
) -> EqualKL:
    """Difference between a method and a baseline at equal KL, one number per seed.

    For each seed the two are read on a grid even in log KL over the range that both reach, and the differences are
    averaged.
    """
    rows = []
    for both in zip(method_s, baseline_s, strict=True):
        low, high = max(float(np.min(line.kl_b)) for line in both), min(float(np.max(line.kl_b)) for line in both)
        gap = np.full(1, np.nan)
        if low < high:
            mine, base = (
                interpolate_frontier(line.kl_b, line.value_b, np.geomspace(low, high, points)) for line in both
            )
            gap = mine - base
        measured = gap[np.isfinite(gap)]
        rows.append((measured.mean(), low, high) if measured.size else (np.nan, np.nan, np.nan))
    return EqualKL(*np.asarray(rows, dtype=np.float64).T)
