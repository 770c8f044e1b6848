"""Which rows to train on, and in which order, by how much people agree on their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError, not_one_of

__all__ = ["DISPERSION_ORDERS", "check_filter", "selected_rows"]

DISPERSION_ORDERS = ("none", "agreed_first", "contested_first")


def check_filter(bounds: Sequence[float]) -> tuple[float, float]:
    """Read `dispersion_filter`: two quantiles of the dispersion, 0 the most agreed prompt and 1 the most contested.

    Args:
        bounds: Lowest and highest quantile to keep.

    Returns:
        The two numbers.

    Raises:
        InputError: Not two numbers 0 <= low < high <= 1.

    Example:
        >>> check_filter([0, 0.8])
        (0.0, 0.8)
    """
    if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] <= 1:
        raise InputError(
            f"dispersion_filter: got {list(bounds)}, expected two quantiles 0 <= low < high <= 1 of the dispersion "
            "(0 is the most agreed prompt, 1 the most contested)"
        )
    return float(bounds[0]), float(bounds[1])


def selected_rows(raw_n: ArrayLike, *, keep: Sequence[float] = (0.0, 1.0), order: str = "none") -> NDArray[np.int64]:
    """Rows to train on, in the order to see them.

    Args:
        raw_n: Raw weights, shape (N,); larger means more agreed.
        keep: Quantiles of the dispersion between which a row is kept, both included; rows of equal dispersion stay or
            go together, so a prompt keeps all of its pairs.
        order: `none` (as they stand), `agreed_first` or `contested_first`; rows of equal dispersion as they stand.

    Returns:
        Positions, shape (M,), M >= 1.

    Raises:
        InputError: A filter or an order that is not one.

    Example:
        >>> selected_rows([0.2, 3.0, 1.0, 0.1], keep=(0.0, 0.7), order="agreed_first").tolist()
        [1, 2, 0]
    """
    low, high = check_filter(keep)
    if order not in DISPERSION_ORDERS:
        raise not_one_of("dispersion_order", order, DISPERSION_ORDERS)
    dispersion_n = -np.asarray(raw_n, np.float64)
    # Inwards to the next row: a quantile between two rows keeps neither more nor less than it says.
    least = np.quantile(dispersion_n, low, method="higher")
    most = np.quantile(dispersion_n, high, method="lower")
    rows = np.flatnonzero((dispersion_n >= least) & (dispersion_n <= most))
    if rows.size == 0:
        raise InputError(
            f"dispersion_filter: no row lies between the quantiles {low:g} and {high:g} of {dispersion_n.size} rows; "
            "widen it"
        )
    if order == "none":
        return rows
    sign = 1.0 if order == "agreed_first" else -1.0
    return rows[np.argsort(sign * dispersion_n[rows], kind="stable")]
