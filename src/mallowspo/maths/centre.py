"""Consensus rankings: the centre of a Mallows model, estimated from rankings.

For Spearman's rho the maximum-likelihood centre is the Borda order at any dispersion. For Kendall's tau it is the
Kemeny ranking, exact up to `KEMENY_LIMIT` items; beyond, the Borda order improved by moving single items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError
from mallowspo.maths.distances import as_rankings
from mallowspo.maths.partial import preference_counts
from mallowspo.maths.subsets import levels

__all__ = ["KEMENY_LIMIT", "borda_center", "center_of_preferences", "kemeny_center"]

Floats = NDArray[np.float64]

# 2^n subsets of items: 20 take about a quarter of a second and 17 MB; both double with every further item.
KEMENY_LIMIT = 20


def borda_center(rankings: ArrayLike) -> NDArray[np.int64]:
    """Order the items by their mean rank; the smaller index goes first when two are equal.

    Args:
        rankings: Shape (m, n), m >= 1 rankings of n items.

    Returns:
        The centre, shape (n,): entry i is the rank of item i.

    Raises:
        InputError: If these are not m rankings of the same items.

    Source:
        It maximises the likelihood under Spearman's rho: Marden, Analyzing and Modeling Rank Data, 1995.

    Example:
        >>> borda_center([[1, 2, 3], [2, 1, 3], [1, 3, 2]])
        array([1, 2, 3])
    """
    ranks = _sample(rankings)
    center = np.empty(ranks.shape[1], dtype=np.int64)
    center[np.argsort(ranks.sum(axis=0), kind="stable")] = np.arange(1, ranks.shape[1] + 1)
    return center


def kemeny_center(rankings: ArrayLike) -> NDArray[np.int64]:
    """Find a ranking with the least sum of Kendall distances to the given ones.

    Dynamic programme over the set of items already placed on top, O(2^n n). Among equally good rankings the one that
    follows the Borda order longest, read from the foot of the ranking, is returned, so that the answer is
    reproducible.

    Args:
        rankings: Shape (m, n), m >= 1 rankings of n <= `KEMENY_LIMIT` items.

    Returns:
        The centre, shape (n,): entry i is the rank of item i.

    Raises:
        InputError: If these are not m rankings of the same items, or there are too many items.

    Source:
        Young, American Political Science Review 1988 (as maximum likelihood); Betzler et al. 2009 (subset programme).

    Example:
        >>> kemeny_center([[1, 2, 3], [1, 2, 3], [3, 1, 2]])
        array([1, 2, 3])
    """
    ranks = _sample(rankings)
    n = ranks.shape[1]
    if n > KEMENY_LIMIT:
        raise InputError(
            f"rankings: an exact Kemeny ranking is found for at most {KEMENY_LIMIT} items, got {n}; use borda_center"
        )
    return center_of_preferences(preference_counts(ranks))


def center_of_preferences(preferences: ArrayLike, *, exact_to: int = KEMENY_LIMIT) -> NDArray[np.int64]:
    """Find a ranking that contradicts as few of people's pairwise preferences as possible.

    Exact (see `kemeny_center`) up to `exact_to` items. Beyond, the Borda order (by wins less losses) is improved by
    moving one item at a time to its best place, until no such move helps: then it may not be the best of all.

    Args:
        preferences: Shape (n, n), entry (a, b) the number of people who rank a above b.
        exact_to: Largest n that is solved exactly, at most `KEMENY_LIMIT`.

    Returns:
        The centre, shape (n,): entry i is the rank of item i.

    Source:
        Ali and Meilă, Mathematical Social Sciences 2012, who compare such searches.

    Example:
        >>> center_of_preferences([[0, 2, 1], [0, 0, 3], [1, 0, 0]]).tolist()
        [1, 2, 3]
    """
    wins = np.asarray(preferences, np.float64)
    n = len(wins)
    # Rounded, so that counts such as 0.1 tie where they should.
    by_borda = np.argsort(np.round((wins.T - wins).sum(axis=1), 9), kind="stable")
    # against[j, i]: how many rankings object when i is placed above j.
    against = wins[np.ix_(by_borda, by_borda)]
    order = _exact_order(against) if n <= min(exact_to, KEMENY_LIMIT) else _improved_order(against)
    center = np.empty(n, dtype=np.int64)
    center[by_borda[order]] = np.arange(1, n + 1)
    return center


def _exact_order(against: Floats) -> NDArray[np.int64]:
    n = len(against)
    cost, last = _place_from_the_top(against)
    order = np.empty(n, dtype=np.int64)
    placed = len(cost) - 1
    for rank in range(n - 1, -1, -1):
        order[rank] = last[placed]
        placed ^= 1 << int(last[placed])
    return order


def _improved_order(against: Floats) -> NDArray[np.int64]:
    """Move single items, from the order given by the indices, until no move lowers the cost."""
    order = list(range(len(against)))
    # What it costs to have a row's item above a column's, rather than below.
    excess = against.T - against
    moved = True
    while moved:
        moved = False
        for item in range(len(order)):
            at = order.index(item)
            rest = order[:at] + order[at + 1 :]
            # place[k]: cost, up to a constant, with k of the others above.
            place = np.concatenate([[0.0], -np.cumsum(excess[item, rest])])
            best = int(np.argmin(place))
            if place[best] < place[at] - 1e-9:
                rest.insert(best, item)
                order, moved = rest, True
    return np.array(order, dtype=np.int64)


def _place_from_the_top(against: Floats) -> tuple[Floats, NDArray[np.int8]]:
    """For every set of items: the least cost of having it on top, and the item that is then its last."""
    n = len(against)
    cost = np.zeros(1 << n)
    last = np.zeros(1 << n, dtype=np.int8)
    # The cost of putting j beneath a set is a sum over its items: looked up for its two halves of bits.
    half = (n + 1) // 2
    low, high = _subset_sums(against[:, :half]), _subset_sums(against[:, half:])
    for masks in levels(n)[1:]:
        best = np.full(len(masks), np.inf)
        choice = np.zeros(len(masks), dtype=np.int8)
        for j in range(n):
            at = np.flatnonzero(masks & (1 << j))
            above = masks[at] ^ (1 << j)
            value = cost[above] + low[j, above & ((1 << half) - 1)] + high[j, above >> half]
            # <= : of equally good items the later in Borda order goes to the foot.
            better = value <= best[at] + 1e-9
            best[at[better]] = value[better]
            choice[at[better]] = j
        cost[masks], last[masks] = best, choice
    return cost, last


def _subset_sums(values: Floats) -> Floats:
    """Sums over all subsets of the columns, shape (rows, 2^columns)."""
    sums = np.zeros((len(values), 1))
    for column in values.T:
        sums = np.concatenate([sums, sums + column[:, None]], axis=1)
    return sums


def _sample(rankings: ArrayLike) -> NDArray[np.int64]:
    ranks = as_rankings(rankings)
    if ranks.ndim != 2 or len(ranks) == 0:
        raise InputError(f"rankings: got shape {ranks.shape}, expected (rankings, items) with at least one ranking")
    return ranks
