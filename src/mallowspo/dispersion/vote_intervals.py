"""How often the interval for φ of one pair's votes holds φ: a credible interval promises it in belief alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from mallowspo.dispersion.people import VotesIndex, votes_index

__all__ = ["poor_intervals", "vote_interval_coverage"]

Floats = NDArray[np.float64]

# Beyond so many votes the interval covers 0.93 or more of a nominal 0.95 at φ >= 0.05.
_MANY_VOTES = 100
# How much less than its level an interval may cover before it is pointed out.
_TOLERANCE = 0.05


def vote_interval_coverage(votes: int, phi: float, *, prior: float = 0.5, level: float = 0.95) -> float:
    """Probability that the interval of `votes_index` holds φ, if so many independent voters have that φ; exact.

    Source: Brown, Cai and DasGupta, Statistical Science 2001: the coverage of such intervals goes up and down with φ.
    """
    low, high = _intervals(votes, prior, level)
    chance = binom.pmf(np.arange(votes + 1), votes, 1 / (1 + phi))
    return float(chance[(low <= phi) & (phi <= high)].sum())


@lru_cache(maxsize=256)
def _intervals(votes: int, prior: float, level: float) -> tuple[Floats, Floats]:
    """The intervals for every outcome, from no vote for the first response to all."""
    first = np.arange(votes + 1)
    index = votes_index(np.column_stack([first, votes - first]), prior=prior, level=level)
    return index.phi_low_n, index.phi_high_n


def poor_intervals(votes: Floats, index: VotesIndex, *, prior: float) -> tuple[int, float, int]:
    """Find the pairs whose interval holds φ clearly less often than it says, if φ is what the votes give."""
    total = votes.sum(axis=1)
    known = (votes[:, 2] == 0) & (total > 0) & (total <= _MANY_VOTES) & (votes == np.round(votes)).all(axis=1)
    cells, pairs = np.unique(np.column_stack([total, index.phi_n])[known], axis=0, return_counts=True)
    found = [
        (vote_interval_coverage(int(size), float(phi), prior=prior, level=index.level), int(size), int(count))
        for (size, phi), count in zip(cells, pairs, strict=True)
    ]
    poor = [cell for cell in found if cell[0] < index.level - _TOLERANCE]
    if not poor:
        return 0, 1.0, 0
    worst, size, _ = min(poor)
    return sum(count for _, _, count in poor), worst, size
