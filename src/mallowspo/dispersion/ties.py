"""Rankings in which some responses share a rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError

__all__ = ["untie"]


def untie(rankings: ArrayLike) -> NDArray[np.int64]:
    """Turn each ranking with ties into two without: ties broken one way, and exactly the other way round.

    The mean over the two of Kendall's tau to any centre is that over all ways of breaking the ties: a tied pair counts
    half a discordance. The same holds for Spearman's rho, since the two ranks of a tied item lie as far above the
    middle of its group as below, and their squares add up to the group's variance. So a Mallows model fitted to the
    two has the centre and the dispersion of the average over all ways.
    """
    try:
        given = np.asarray(rankings, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("rankings: expected numbers, one row per person and one column per response") from error
    if given.ndim != 2 or given.shape[1] == 0:
        raise InputError(f"rankings: got shape {given.shape}, expected (people, responses)")
    if np.isnan(given).any():
        row, column = (int(place[0]) for place in np.nonzero(np.isnan(given)))
        raise InputError(f"rankings: row {row:,} has no rank for response {column:,}; every response needs one")
    forward = _ranks(given)
    backward = _ranks(given[:, ::-1])[:, ::-1]
    return np.concatenate([forward, backward])


def _ranks(given: NDArray[np.float64]) -> NDArray[np.int64]:
    order = np.argsort(given, axis=1, kind="stable")
    ranks = np.empty(given.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, np.arange(1, given.shape[1] + 1)[None].repeat(len(given), axis=0), axis=1)
    return ranks
