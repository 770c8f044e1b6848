"""Distances between rankings.

A ranking of n items is an array whose entry i is the rank of item i; 1 is best. Distances act on the last axis and
broadcast over the leading ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError

__all__ = ["as_rankings", "footrule", "kendall_tau", "spearman_rho"]

Ranks = NDArray[np.int64]


def as_rankings(values: ArrayLike, *, name: str = "rankings", items: int | None = None) -> Ranks:
    """Check that every vector along the last axis is a permutation of 1 … n.

    Args:
        values: Rankings, shape (..., n), n >= 1; integers, or floats with integer values.
        name: What to call the argument in an error message.
        items: The number of items n that is required, if it is known.

    Returns:
        The rankings as int64, shape (..., n).

    Raises:
        InputError: If they are not rankings; the message shows the first vector that is not.

    Example:
        >>> as_rankings([2.0, 1.0, 3.0])
        array([2, 1, 3])
    """
    try:
        given = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name}: the rankings have different lengths; give one array per set of items") from error
    if given.dtype.kind not in "iuf" or given.ndim < 1 or given.shape[-1] < 1:
        raise InputError(
            f"{name}: got an array of {given.dtype} with shape {given.shape}, expected numbers of shape (..., items): "
            "entry i is the rank of item i, 1 is best"
        )
    n = given.shape[-1]
    if items is not None and n != items:
        raise InputError(f"{name}: got rankings of {n} items, expected {items}")
    wrong = (np.sort(given, axis=-1) != np.arange(1, n + 1)).any(axis=-1)
    if wrong.any():
        at = tuple(int(index[0]) for index in np.nonzero(np.atleast_1d(wrong)))
        row = given.reshape(-1, n)[np.flatnonzero(wrong)[0]]
        where = f" at {at if len(at) > 1 else at[0]}" if given.ndim > 1 else ""
        hint = "; ranks start at 1: add 1" if np.array_equal(np.sort(row), np.arange(n)) else ""
        raise InputError(
            f"{name}: got {row.tolist()}{where}, expected each of the ranks 1 … {n} once, without ties{hint}"
        )
    return given.astype(np.int64)


def kendall_tau(a: ArrayLike, b: ArrayLike) -> Ranks:
    """Kendall's tau as a distance: the number of discordant pairs.

    Args:
        a: Rankings, shape (..., n).
        b: Rankings, shape (..., n), broadcast against a.

    Returns:
        Distances, shape (...), from 0 to n(n - 1)/2. SciPy's coefficient is 1 - 4 d / (n(n - 1)).

    Raises:
        InputError: If a or b holds no rankings, or their shapes do not fit.

    Source:
        Kendall, Biometrika 1938.

    Example:
        >>> int(kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]))
        6
    """
    first, second = _pair(a, b)
    discordant = np.zeros(first.shape[:-1], dtype=np.int64)
    # One item at a time: all pairs at once would need n times the memory of the rankings.
    for i in range(first.shape[-1] - 1):
        before_in_first = first[..., i, None] < first[..., i + 1 :]
        before_in_second = second[..., i, None] < second[..., i + 1 :]
        discordant += (before_in_first != before_in_second).sum(axis=-1)
    return discordant


def spearman_rho(a: ArrayLike, b: ArrayLike) -> Ranks:
    """Spearman's rho as a distance: the sum of squared rank differences.

    Args:
        a: Rankings, shape (..., n).
        b: Rankings, shape (..., n), broadcast against a.

    Returns:
        Distances, shape (...), from 0 to n(n² - 1)/3, always even. SciPy's coefficient is 1 - 6 d / (n(n² - 1)).

    Raises:
        InputError: If a or b holds no rankings, or their shapes do not fit.

    Source:
        Spearman, American Journal of Psychology 1904.

    Example:
        >>> int(spearman_rho([1, 2, 3, 4], [4, 3, 2, 1]))
        20
    """
    first, second = _pair(a, b)
    return np.asarray(((first - second) ** 2).sum(axis=-1))


def footrule(a: ArrayLike, b: ArrayLike) -> Ranks:
    """Spearman's footrule: the sum of absolute rank differences.

    Args:
        a: Rankings, shape (..., n).
        b: Rankings, shape (..., n), broadcast against a.

    Returns:
        Distances, shape (...), from 0 to floor(n²/2); between Kendall's tau and twice that.

    Raises:
        InputError: If a or b holds no rankings, or their shapes do not fit.

    Source:
        Diaconis and Graham, Journal of the Royal Statistical Society B 1977.

    Example:
        >>> int(footrule([1, 2, 3, 4], [4, 3, 2, 1]))
        8
    """
    first, second = _pair(a, b)
    return np.asarray(np.abs(first - second).sum(axis=-1))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Ranks, Ranks]:
    first = as_rankings(a, name="a")
    second = as_rankings(b, name="b", items=first.shape[-1])
    try:
        broadcast = np.broadcast_arrays(first, second)
    except ValueError as error:
        raise InputError(f"a and b: shapes {first.shape} and {second.shape} do not fit together") from error
    return broadcast[0], broadcast[1]
