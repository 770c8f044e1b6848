"""Subsets of n items as bit masks, grouped by size: what the dynamic programmes over subsets walk through."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["levels"]


@lru_cache(maxsize=32)
def levels(items: int) -> tuple[NDArray[np.int64], ...]:
    """Group the 2^n bit masks by the number of their bits.

    Args:
        items: Number of items n, at most about 20.

    Returns:
        n + 1 arrays; the k-th holds the masks with k bits, in increasing order.

    Example:
        >>> [level.tolist() for level in levels(2)]
        [[0], [1, 2], [3]]
    """
    sizes = np.zeros(1, dtype=np.int8)
    for _ in range(items):
        sizes = np.concatenate([sizes, sizes + 1])
    order = np.argsort(sizes, kind="stable").astype(np.int64)
    groups = np.split(order, np.cumsum(np.bincount(sizes))[:-1])
    for group in groups:
        group.flags.writeable = False
    return tuple(groups)
