"""Random rankings from a Mallows model around the identity 1 … n."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mallowspo.maths.spearman import SPEARMAN_LIMIT, sample_exactly

__all__ = ["sample_kendall", "sample_spearman", "sample_spearman_by_gibbs"]

Ranks = NDArray[np.int64]

# Block updates per rank scale. At 20 items, where the exact law is known, the mean distance after 20 updates is the
# exact one within the ±0.5% of that check, for λ from 0.0005 to 0.5; the rest is margin for more items.
_UPDATES_PER_SCALE = 60
# The exact sampler holds (rankings, items) doubles.
_CHUNK = 1 << 16


def sample_kendall(size: int, items: int, neg_log_phi: float, rng: np.random.Generator) -> Ranks:
    """Draw exactly from the Mallows model with Kendall's tau, by repeated insertion.

    The i-th item is inserted v ranks above the foot of the i - 1 before it, with probability ∝ φ^v, v = 0 … i - 1.

    Args:
        size: Number of rankings.
        items: Number of items n >= 1.
        neg_log_phi: -log φ >= 0, in nats.
        rng: Source of randomness.

    Returns:
        Rankings around 1 … n, shape (size, items).

    Source:
        Doignon, Pekeč and Regenwetter, Psychometrika 2004.

    Example:
        >>> sample_kendall(2, 3, 50.0, np.random.default_rng(0)).tolist()
        [[1, 2, 3], [1, 2, 3]]
    """
    ranks = np.empty((size, items), dtype=np.int64)
    for i in range(1, items + 1):
        uniform = rng.random(size)
        if neg_log_phi == 0:
            moved = np.floor(uniform * i)
        else:
            # Inverse distribution function of a geometric law cut off at i - 1.
            moved = np.floor(-np.log1p(uniform * np.expm1(-i * neg_log_phi)) / neg_log_phi)
        rank = i - np.minimum(moved, i - 1).astype(np.int64)
        ranks[:, : i - 1] += ranks[:, : i - 1] >= rank[:, None]
        ranks[:, i - 1] = rank
    return ranks


def sample_spearman(size: int, items: int, neg_log_phi: float, rng: np.random.Generator) -> Ranks:
    """Draw from the Mallows model with Spearman's rho: exactly up to `SPEARMAN_LIMIT` items, by Gibbs sampling beyond.

    Args:
        size: Number of rankings.
        items: Number of items n >= 1.
        neg_log_phi: -log φ >= 0, in nats.
        rng: Source of randomness.

    Returns:
        Rankings around 1 … n, shape (size, items).

    Example:
        >>> sample_spearman(2, 30, 50.0, np.random.default_rng(0))[:, :4].tolist()
        [[1, 2, 3, 4], [1, 2, 3, 4]]
    """
    if items > SPEARMAN_LIMIT:
        return sample_spearman_by_gibbs(size, items, neg_log_phi, rng)
    chunks = [min(_CHUNK, size - start) for start in range(0, size, _CHUNK)]
    parts = [sample_exactly(chunk, items, neg_log_phi, rng) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, items), dtype=np.int64)


def sample_spearman_by_gibbs(size: int, items: int, neg_log_phi: float, rng: np.random.Generator) -> Ranks:
    """Draw from the Mallows model with Spearman's rho by Gibbs sampling over disjoint pairs of ranks.

    Given everything else, the items with centre ranks a and b that share ranks r < s stand in the order (a, b) with
    probability σ(2λ (s - r)(b - a)), and disjoint pairs are independent: a whole block is redrawn at once, at rank
    distances 1, 2, 4, … and over random pairings. Each ranking is its own chain, started from the centre with
    Gaussian noise of the right width, so that the result is a sample and not a correlated path. Approximate.

    Args:
        size: Number of rankings.
        items: Number of items n >= 1.
        neg_log_phi: λ = -log φ >= 0, in nats.
        rng: Source of randomness.

    Returns:
        Rankings around 1 … n, shape (size, items).

    Example:
        >>> sample_spearman_by_gibbs(1, 4, 50.0, np.random.default_rng(0)).tolist()
        [[1, 2, 3, 4]]
    """
    center = np.arange(items)
    if neg_log_phi == 0 or items == 1:
        return rng.permuted(np.tile(center + 1, (size, 1)), axis=1)
    noise = rng.standard_normal((size, items)) / np.sqrt(2 * neg_log_phi)
    item_at = np.argsort(center + noise, axis=1)
    scales = [1 << power for power in range(max(1, (items - 1).bit_length()))]
    for _ in range(_UPDATES_PER_SCALE * (len(scales) + 1)):
        kind = int(rng.integers(len(scales) + 1))
        if kind == len(scales):
            mixed = rng.permutation(items)
            first, second = mixed[: items // 2], mixed[items // 2 : items // 2 * 2]
        else:
            scale = scales[kind]
            phase = int(rng.integers(2 * scale))
            first = center[((center + phase) // scale % 2 == 0) & (center + scale < items)]
            second = first + scale
        left, right = item_at[:, first], item_at[:, second]
        exponent = 2 * neg_log_phi * ((second - first) * (right - left))
        swap = rng.logistic(size=exponent.shape) > exponent
        item_at[:, first] = np.where(swap, right, left)
        item_at[:, second] = np.where(swap, left, right)
    ranks = np.empty_like(item_at)
    np.put_along_axis(ranks, item_at, center + 1, axis=1)
    return ranks
