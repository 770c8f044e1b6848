"""Kendall's Mallows model of rankings that leave something open: shared ranks, a top k, items that were not ranked.

What a person leaves open is summed over: the probability of such a ranking is that of all full rankings which agree
with it. A smaller number is better, equal ones are left in no order, NaN says nothing of that item.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError
from mallowspo.maths.distances import as_rankings
from mallowspo.maths.kendall import log_normalizer

__all__ = ["bucket_sizes", "discordant_pairs", "extension_counts", "log_prob_with_ties", "preference_counts"]

Floats = NDArray[np.float64]

# Rows of the subset programme that are worked on at once.
_ROWS = 256


def preference_counts(rankings: ArrayLike, counts: ArrayLike | None = None) -> Floats:
    """Count how often each item is ranked above each other one.

    Args:
        rankings: Shape (m, n); ties and NaN (not ranked) count for neither.
        counts: How many people gave each ranking, shape (m,); one each if left out.

    Returns:
        Entry (a, b): people who rank a above b, shape (n, n).

    Source:
        Young, American Political Science Review 1988: the consensus needs no more than this.

    Example:
        >>> preference_counts([[1, 2, 2], [2, 1, np.nan]], [3, 1]).tolist()
        [[0.0, 3.0, 3.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    ranks = np.asarray(rankings, np.float64)
    weights = np.ones(len(ranks)) if counts is None else np.asarray(counts, np.float64)
    return np.stack([weights @ (ranks[:, i, None] < ranks) for i in range(ranks.shape[1])])


def discordant_pairs(rankings: ArrayLike, center: ArrayLike) -> NDArray[np.int64]:
    """Count the pairs that a ranking orders against the centre; what is left open counts nothing.

    Args:
        rankings: Shape (m, n), with ties and NaN.
        center: Shape (n,).

    Returns:
        Shape (m,).

    Source:
        Fagin et al., SIAM Journal on Discrete Mathematics 2003, with penalty 0 for a tie.

    Example:
        >>> discordant_pairs([[2, 1, 1], [3, np.nan, 1]], [1, 2, 3]).tolist()
        [2, 1]
    """
    ranks, middle = np.asarray(rankings, np.float64), np.asarray(center)
    found = np.zeros(len(ranks), dtype=np.int64)
    for i in range(ranks.shape[1]):
        found += (ranks[:, i, None] < ranks[:, middle < middle[i]]).sum(axis=1)
    return found


def bucket_sizes(rankings: ArrayLike) -> NDArray[np.int64]:
    """Sizes of the groups that share a rank, from the best down, filled up with zeros.

    Args:
        rankings: Shape (m, n), without NaN.

    Returns:
        Shape (m, n); each row sums to n.

    Example:
        >>> bucket_sizes([[1, 2, 3], [2, 1, 2]]).tolist()
        [[1, 1, 1], [1, 2, 0]]
    """
    ordered = np.sort(np.asarray(rankings, np.float64), axis=1)
    m, n = ordered.shape
    group = np.zeros((m, n), dtype=np.int64)
    group[:, 1:] = np.cumsum(np.diff(ordered, axis=1) > 0, axis=1)
    return np.bincount((group + n * np.arange(m)[:, None]).ravel(), minlength=m * n).reshape(m, n)


def log_prob_with_ties(rankings: ArrayLike, center: ArrayLike, neg_log_phi: float) -> Floats:
    """Log-probability of rankings in which items share a rank, summed over all orders of those items; exact.

    With v discordant pairs between groups of sizes s₁, s₂, …, P = φ^v Π_j Z(s_j) / Z(n), Z(s) = Π_{i≤s} (1-φ^i)/(1-φ):
    a group's own discordances are free of the rest. A top k is k groups of one and one of n - k; then this is
    Π_{j≤k} φ^{v_j} (1-φ)/(1-φ^{n-j+1}), repeated selection stopped after k choices.

    Args:
        rankings: Shape (m, n), the smallest is best; no NaN.
        center: Shape (n,).
        neg_log_phi: -log φ >= 0, in nats.

    Returns:
        Log-probabilities in nats, shape (m,).

    Raises:
        InputError: The centre is no ranking, or a rank is missing.

    Source:
        Fligner and Verducci, Journal of the American Statistical Association 1988 (top k); Lebanon and Mao, JMLR
        2008 (groups).

    Example:
        >>> np.exp(log_prob_with_ties([[1, 2, 2], [2, 1, 2]], [1, 2, 3], float(np.log(2)))).round(4).tolist()
        [0.5714, 0.2857]
    """
    ranks = np.asarray(rankings, np.float64)
    middle = as_rankings(center, name="center", items=ranks.shape[-1])
    if np.isnan(ranks).any():
        raise InputError("rankings: a rank is missing; extension_counts takes rankings of some of the items")
    n = ranks.shape[1]
    log_z = np.array([0.0] + [log_normalizer(size, neg_log_phi) for size in range(1, n + 1)])
    inside = log_z[bucket_sizes(ranks)].sum(axis=1)
    return np.asarray(inside - neg_log_phi * discordant_pairs(ranks, middle) - log_z[n], np.float64)


def extension_counts(rankings: ArrayLike, center: ArrayLike) -> Floats:
    """Count the full rankings that agree with each partial one, by their Kendall distance to the centre; exact.

    A partial ranking of any kind has P = Σ_d counts_d φ^d / Z(φ). Programme over the set of items already placed on
    top, O(2^n n³) a ranking.

    Args:
        rankings: Shape (m, n), with ties and NaN.
        center: Shape (n,).

    Returns:
        Shape (m, n(n-1)/2 + 1); column d counts those at distance d.

    Raises:
        InputError: The centre is no ranking.

    Source:
        Lebanon and Mao, JMLR 2008, for the model; the programme is that for linear extensions (De Loof, De Meyer and
        De Baets, Order 2006) with the distance carried along.

    Example:
        >>> extension_counts([[1, np.nan, 2], [2, np.nan, 1]], [1, 2, 3]).tolist()
        [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 1.0]]
    """
    ranks = np.asarray(rankings, np.float64)
    n = ranks.shape[1]
    # Items in the order of the centre: the better ones still unplaced are then those with lower bits.
    ranks = ranks[:, np.argsort(as_rankings(center, name="center", items=n))]
    parts = [_extensions(ranks[start : start + _ROWS]) for start in range(0, len(ranks), _ROWS)]
    return np.concatenate(parts) if parts else np.zeros((0, n * (n - 1) // 2 + 1))


def _extensions(ranks: Floats) -> Floats:
    m, n = ranks.shape
    length = n * (n - 1) // 2 + 1
    bits = 1 << np.arange(n, dtype=np.int64)
    # above[r, i]: the items that ranking r puts above item i, as a bit mask.
    above = np.stack([(ranks < ranks[:, i, None]) @ bits for i in range(n)], axis=1)
    found = np.zeros((1 << n, m, length))
    found[0, :, 0] = 1
    for placed in range(1, 1 << n):
        for i in range(n):
            if not placed >> i & 1:
                continue
            before = placed ^ (1 << i)
            passed = i - (before & ((1 << i) - 1)).bit_count()
            allowed = (above[:, i] & ~np.int64(before)) == 0
            found[placed, :, passed:] += np.where(allowed[:, None], found[before, :, : length - passed], 0)
    return np.asarray(found[-1], np.float64)
