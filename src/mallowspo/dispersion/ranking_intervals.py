"""Intervals for φ from few rankings: which φ could have given so little scatter around a centre fitted to it?

With a handful of people the centre is fitted to the same rankings, which then lie nearer to it than to the true one:
the profile likelihood takes this for agreement. Here the fit is part of what is simulated.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mallowspo.maths import MAX_NEG_LOG_PHI
from mallowspo.maths.partial import bucket_sizes, preference_counts
from mallowspo.maths.sampling import sample_kendall

__all__ = ["FEW_PEOPLE", "MAX_SIMULATED_ITEMS", "simulated_interval"]

Floats = NDArray[np.float64]

FEW_PEOPLE = 30
"""Up to so many people the interval is simulated; beyond, the profile likelihood covers well, save near φ = 1."""

MAX_SIMULATED_ITEMS = 12

_PHI_GRID = (1.0, 0.97, 0.94, 0.9, *np.arange(0.85, 0.04, -0.05), 0.03, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 1e-4, 1e-6)
# Array elements per interval: about a second.
_BUDGET = 1e8


def simulated_interval(rankings: Floats, level: float) -> tuple[float, float]:
    """The interval for -log φ of rankings, shape (m, n), by the simulated law of the distance to the Borda centre."""
    sizes = tuple(sorted(tuple(row) for row in bucket_sizes(rankings).tolist()))
    grid, totals = _simulated_totals(sizes)
    wins = preference_counts(rankings)
    observed = _total_to_borda(wins[None], np.zeros((1, len(wins))))[0]
    tail = (1 - level) / 2
    below = np.maximum.accumulate((totals <= observed).mean(axis=1))
    above = np.minimum.accumulate((totals >= observed).mean(axis=1))
    low = 0.0 if below[0] >= tail else float(np.interp(tail, below, grid))
    high = MAX_NEG_LOG_PHI if above[-1] >= tail else float(np.interp(tail, above[::-1], grid[::-1]))
    return low, high


@lru_cache(maxsize=128)
def _simulated_totals(sizes: tuple[tuple[int, ...], ...]) -> tuple[Floats, Floats]:
    """Total distances by -log φ, shape (grid, draws), for people whose groups of shared ranks have these sizes."""
    people, items = len(sizes), len(sizes[0])
    grid = -np.log(np.array(_PHI_GRID)) + 0.0
    draws = int(np.clip(_BUDGET / (len(grid) * people * items**2), 400, 2000))
    # Which group the r-th best item of each person falls into.
    group = np.stack([np.repeat(np.arange(items), row) for row in sizes])
    rng = np.random.default_rng(0)
    totals = np.empty((len(grid), draws))
    for place, neg_log_phi in enumerate(grid):
        full = sample_kendall(draws * people, items, float(neg_log_phi), rng).reshape(draws, people, items)
        coarse = group[np.arange(people)[None, :, None], full - 1]
        wins = np.zeros((draws, items, items))
        for person in range(people):
            wins += coarse[:, person, :, None] < coarse[:, person, None, :]
        # Ties of the Borda scores are broken at random: the numbering of the items knows the truth here.
        totals[place] = _total_to_borda(wins, rng.random((draws, items)) / 2)
    return grid, totals


def _total_to_borda(wins: Floats, tie_break: Floats) -> Floats:
    """Preferences against the Borda order, for a stack of preference counts."""
    order = np.argsort((wins.transpose(0, 2, 1) - wins).sum(axis=2) + tie_break, axis=1, kind="stable")
    ordered = np.take_along_axis(np.take_along_axis(wins, order[:, :, None], axis=1), order[:, None, :], axis=2)
    return np.asarray(np.tril(ordered, -1).sum(axis=(1, 2)), np.float64)
