r"""Closed forms of the Mallows model with Kendall's tau, for any number of items.

Everything is written with lam = -log phi and $c(u) = u/(e^u - 1) = 1 - u/2 + b(u)$. Near u = 0 the constant and the
linear part cancel in the formulas, so b alone is used there; far from 0 it is c that is small and exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.maths.series import BERNOULLI_OVER_FACTORIAL

__all__ = ["expected_distance", "log_normalizer", "pairwise_tail"]

Floats = NDArray[np.float64]


def log_normalizer(items: int, neg_log_phi: float) -> float:
    """Logarithm of Z = Π_{i=1..n} (1 - φ^i)/(1 - φ).

    Args:
        items: Number of items n >= 1.
        neg_log_phi: -log φ >= 0, in nats; 0 gives log n!.

    Returns:
        log Z in nats, >= 0, to full relative precision.

    Source:
        Fligner and Verducci, Journal of the Royal Statistical Society B 1986.

    Example:
        >>> round(log_normalizer(3, float(np.log(2))), 6)  # (1 + 1/2)(1 + 1/2 + 1/4) = 21/8
        0.965081
    """
    i = np.arange(2, items + 1, dtype=np.float64)
    if neg_log_phi == 0:
        return float(np.log(i).sum())
    if neg_log_phi < 0.5:
        return float(np.log(np.expm1(-i * neg_log_phi) / np.expm1(-neg_log_phi)).sum())
    # Here the ratio is 1 + something small, which log1p keeps.
    return float((np.log1p(-np.exp(-i * neg_log_phi)) - np.log1p(-np.exp(-neg_log_phi))).sum())


def expected_distance(items: int, neg_log_phi: float) -> float:
    """E[d] = nφ/(1 - φ) - Σ_{i=1..n} iφ^i/(1 - φ^i).

    Args:
        items: Number of items n >= 1.
        neg_log_phi: -log φ >= 0, in nats; 0 gives n(n - 1)/4.

    Returns:
        Mean number of discordant pairs with the centre.

    Source:
        Fligner and Verducci, Journal of the Royal Statistical Society B 1986.

    Example:
        >>> round(expected_distance(3, float(np.log(2))), 6)
        0.904762
    """
    if neg_log_phi == 0:
        return items * (items - 1) / 4
    i = np.arange(2, items + 1, dtype=np.float64)
    x = i * neg_log_phi
    near = (i - 1) / 2 + (_even_part(np.asarray(neg_log_phi)) - _even_part(x)) / neg_log_phi
    far = np.exp(-neg_log_phi) / -np.expm1(-neg_log_phi) - i * np.exp(-x) / -np.expm1(-x)
    return float(np.where(x < 1, near, far).sum())


def pairwise_tail(gap: ArrayLike, neg_log_phi: float) -> Floats:
    """Probability that the item k ranks below another in the centre is ranked above it: 1 - h(k+1) + h(k).

    Here h(k) = k/(1 - φ^k). It does not depend on the number of items.

    Args:
        gap: Rank gap k >= 1 in the centre, any shape.
        neg_log_phi: -log φ >= 0, in nats.

    Returns:
        Probabilities in (0, 1/2], in the gap's shape.

    Source:
        Busa-Fekete, Hüllermeier and Szörényi, ICML 2014.

    Example:
        >>> pairwise_tail([1, 3], float(np.log(2))).round(6).tolist()
        [0.333333, 0.161905]
    """
    k = np.asarray(gap, dtype=np.float64)
    if neg_log_phi == 0:
        return np.full(k.shape, 0.5)
    low, high = k * neg_log_phi, (k + 1) * neg_log_phi
    near = 0.5 + (_even_part(low) - _even_part(high)) / neg_log_phi
    far = k * np.exp(-low) / -np.expm1(-low) - (k + 1) * np.exp(-high) / -np.expm1(-high)
    return np.where(low < 1, near, far)


def _even_part(u: Floats) -> Floats:
    """Return b(u) = (u/2) coth(u/2) - 1 for u > 0, by series below 1."""
    u_near = np.minimum(u, 1.0)
    square = u_near * u_near
    series = np.zeros_like(u_near)
    for coefficient in reversed(BERNOULLI_OVER_FACTORIAL):
        series = (series + coefficient) * square
    u_far = np.maximum(u, 1.0)
    return np.where(u < 1, series, u_far / 2 / np.tanh(u_far / 2) - 1)
