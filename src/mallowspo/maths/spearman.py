"""Exact Mallows model with Spearman's rho: sums over all permutations without visiting them.

Z(λ) = Σ_μ Π_i exp(-λ (μ(i) - i)²) is a permanent. It and everything else here come from a dynamic programme over
the set of items that take the first ranks: O(2^n n) time, feasible to `SPEARMAN_LIMIT` items. Up to `COUNTS_LIMIT`
items the number of permutations at each distance is kept instead, and serves every λ at once.

Items are numbered by their rank in the centre, 0 … n - 1. w(k, j) = exp(-λ (k - j)²) is item j's weight at rank k.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.maths.subsets import levels

__all__ = ["COUNTS_LIMIT", "SPEARMAN_LIMIT", "distance_counts", "moments", "pairwise_above", "sample_exactly"]

COUNTS_LIMIT = 12
# 20 items: 0.3 s and 17 MB for the moments at one λ; both double with every further item.
SPEARMAN_LIMIT = 20

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SpearmanMoments:
    """What the exponential family needs at one λ.

    Attributes:
        log_normalizer: log Z, in nats.
        expected_distance: E[d].
    """

    log_normalizer: float
    expected_distance: float


@lru_cache(maxsize=COUNTS_LIMIT)
def distance_counts(items: int) -> NDArray[np.float64]:
    """Count the permutations of n items at each Spearman distance from the identity.

    Args:
        items: Number of items, 1 ≤ n ≤ `COUNTS_LIMIT`.

    Returns:
        Counts, exact in float64, shape (n(n² - 1)/3 + 1,): entry d belongs to distance d; odd entries are 0.

    Example:
        >>> distance_counts(3).astype(int).tolist()  # the identity, two swaps of neighbours, two cycles, the reversal
        [1, 0, 2, 0, 0, 0, 2, 0, 1]
    """
    length = items * (items**2 - 1) // 3 + 1
    position = np.zeros(1 << items, dtype=np.int64)
    previous = np.zeros((1, length))
    previous[0, 0] = 1
    for rank, masks in enumerate(levels(items)[1:]):
        current = np.zeros((len(masks), length))
        for j in range(items):
            at = np.flatnonzero(masks & (1 << j))
            cost = (rank - j) ** 2
            current[at, cost:] += previous[position[masks[at] ^ (1 << j)], : length - cost]
        position[masks] = np.arange(len(masks))
        previous = current
    counts: Floats = previous[0]
    counts.flags.writeable = False
    return counts


def moments(items: int, neg_log_phi: float) -> SpearmanMoments:
    """Log-normaliser and expected distance, exact and to full relative precision for any λ.

    Args:
        items: Number of items, 1 ≤ n ≤ `SPEARMAN_LIMIT`.
        neg_log_phi: λ = -log φ >= 0, in nats.

    Returns:
        The two moments.

    Raises:
        InputError: If there are too many items.

    Example:
        >>> found = moments(3, float(np.log(2)))
        >>> round(found.log_normalizer, 6), round(found.expected_distance, 6)
        (0.428632, 0.793893)
    """
    check_items(items)
    if items <= COUNTS_LIMIT:
        counts = distance_counts(items)[1:]
        distance = np.arange(1, len(counts) + 1)
        mass = counts * np.exp(-neg_log_phi * distance)
        # Z is 1 (the centre) plus the rest: log1p keeps what is left of log Z when phi is tiny.
        rest = float(mass.sum())
        return SpearmanMoments(float(np.log1p(rest)), float(mass @ distance) / (1 + rest))
    rest_by_set, distance_by_set = _sums_by_set(items, neg_log_phi)
    rest = float(rest_by_set[-1])
    return SpearmanMoments(float(np.log1p(rest)), float(distance_by_set[-1]) / (1 + rest))


def pairwise_above(items: int, neg_log_phi: float) -> Floats:
    """Probability that item a is ranked above item b, for every ordered pair.

    At the moment when a takes a rank, the set S above it does not hold b: P(a ≻ b) sums, over such S, the weight of
    S on top, of a next, and of the others below.

    Args:
        items: Number of items, 1 ≤ n ≤ `SPEARMAN_LIMIT`.
        neg_log_phi: λ = -log φ >= 0, in nats.

    Returns:
        Matrix of shape (n, n), items in the order of the centre; ½ on the diagonal.

    Raises:
        InputError: If there are too many items.

    Example:
        >>> round(float(pairwise_above(3, float(np.log(2)))[0, 1]), 4)
        0.8244
    """
    check_items(items)
    on_top, below, size = _weights_by_set(items, neg_log_phi)
    every = np.arange(1 << items)
    above = np.full((items, items), 0.5)
    for a in range(items):
        without = every[(every & (1 << a)) == 0]
        mass = on_top[without] * np.exp(-neg_log_phi * (size[without] - a) ** 2.0) * below[without | (1 << a)]
        for b in range(items):
            if b != a:
                above[a, b] = mass[(without & (1 << b)) == 0].sum()
    # Both orders were summed: dividing by their sum, Z, also removes the rounding of Z itself.
    shares: Floats = above / (above + above.T)
    return shares


def sample_exactly(size: int, items: int, neg_log_phi: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw rankings exactly: give out ranks 1, 2, … with the conditional probabilities of the dynamic programme.

    Args:
        size: Number of rankings.
        items: Number of items, 1 ≤ n ≤ `SPEARMAN_LIMIT`.
        neg_log_phi: λ = -log φ >= 0, in nats.
        rng: Source of randomness.

    Returns:
        Rankings around 1 … n, shape (size, items).

    Raises:
        InputError: If there are too many items.

    Example:
        >>> sample_exactly(2, 3, 50.0, np.random.default_rng(0)).tolist()
        [[1, 2, 3], [1, 2, 3]]
    """
    check_items(items)
    _, below, _ = _weights_by_set(items, neg_log_phi)
    ranks = np.empty((size, items), dtype=np.int64)
    used = np.zeros(size, dtype=np.int64)
    bits = 1 << np.arange(items)
    for rank in range(items):
        weight = np.exp(-neg_log_phi * (rank - np.arange(items)) ** 2.0)
        mass = np.where(used[:, None] & bits, 0.0, weight * below[used[:, None] | bits])
        cumulative = mass.cumsum(axis=1)
        threshold = rng.random(size) * cumulative[:, -1]
        # Strictly above the threshold: an item without mass is never chosen.
        item = (cumulative > threshold[:, None]).argmax(axis=1)
        ranks[np.arange(size), item] = rank + 1
        used |= bits[item]
    return ranks


def check_items(items: int) -> None:
    """Raise InputError where the exact sums are out of reach."""
    if items > SPEARMAN_LIMIT:
        raise InputError(
            f"distance 'spearman': exact probabilities are available for at most {SPEARMAN_LIMIT} items, got {items}; "
            "sampling works for any number, and distance 'kendall' has closed forms for any number"
        )


@lru_cache(maxsize=2)
def _sums_by_set(items: int, neg_log_phi: float) -> tuple[Floats, Floats]:
    """For every set S on the first |S| ranks: total weight without the identity's, and total weight × distance."""
    rest, distance = np.zeros(1 << items), np.zeros(1 << items)
    for rank, masks in enumerate(levels(items)[1:]):
        cost = (rank - np.arange(items)) ** 2.0
        weight = np.exp(-neg_log_phi * cost)
        for j in range(items):
            mask = masks[(masks & (1 << j)) != 0]
            before = mask ^ (1 << j)
            rest[mask] += rest[before] * weight[j]
            distance[mask] += (distance[before] + cost[j] * rest[before]) * weight[j]
        # The identity's path (weight 1, kept out of `rest`) is left here by giving this rank to a later item.
        later = np.arange(rank + 1, items)
        leaving = ((1 << rank) - 1) | (1 << later)
        rest[leaving] += weight[later]
        distance[leaving] += cost[later] * weight[later]
    return rest, distance


@lru_cache(maxsize=2)
def _weights_by_set(items: int, neg_log_phi: float) -> tuple[Floats, Floats, NDArray[np.int8]]:
    """For every set S: weight of S on the first |S| ranks, of the others on the last, and |S|."""
    on_top = _sums_by_set(items, neg_log_phi)[0].copy()
    on_top[(1 << np.arange(items + 1)) - 1] += 1
    size = np.empty(1 << items, dtype=np.int8)
    for count, masks in enumerate(levels(items)):
        size[masks] = count
    # Turning ranks and items round leaves the weights: "others at the foot" is "their mirror image on top".
    mirror = np.zeros(1, dtype=np.int64)
    for _ in range(items):
        mirror = np.concatenate([mirror << 1, (mirror << 1) | 1])
    below = on_top[((1 << items) - 1) ^ mirror]
    return on_top, below, size
