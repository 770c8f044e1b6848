"""Which rows to train on, and in which order: by how much people agree, and the pairs of a ranked list together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from mallowspo.errors import InputError

__all__ = ["DISPERSION_ORDERS", "ListSampler", "check_filter", "selected_rows"]

DISPERSION_ORDERS = ("none", "agreed_first", "contested_first")


def check_filter(bounds: Sequence[float]) -> None:
    """Refuse a `dispersion_filter` that is not two quantiles 0 <= low < high <= 1."""
    if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] <= 1:
        raise InputError(
            f"dispersion_filter: got {list(bounds)}, expected two quantiles 0 <= low < high <= 1 of the dispersion "
            "(0 is the most agreed prompt, 1 the most contested)"
        )


def selected_rows(
    raw_n: ArrayLike,
    *,
    keep: Sequence[float] = (0.0, 1.0),
    order: str = "none",
    examples: NDArray[np.intp] | None = None,
) -> NDArray[np.int64]:
    """Positions of the rows to train on, in the order to see them; of equal raw weights as they stand.

    The quantiles are those of the `examples`, places of one row of each, such as of a ranked list; all rows without.
    """
    # Rows of equal dispersion stay or go together, so that a prompt keeps all of its pairs.
    low, high = keep
    dispersion_n = -np.asarray(raw_n, np.float64)
    # Inwards to the next row: a quantile between two rows keeps neither more nor less than it says.
    counted = dispersion_n if examples is None else dispersion_n[examples]
    least = np.quantile(counted, low, method="higher")
    most = np.quantile(counted, high, method="lower")
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


class ListSampler(Sampler[int]):
    """Draw whole lists at random; the pairs of one list follow each other as they stand in the data."""

    # In one batch they share prompt and responses, so that a list of K costs K responses and not K (K - 1) (as Ouyang
    # et al. 2022, arXiv 2203.02155, section 3.5, train all comparisons of a prompt together). Pairs of one list have
    # the same number in `of_list_n`; the seed fixes the order with the epoch, on every process and after a resumption.

    def __init__(self, of_list_n: Sequence[int], *, seed: int) -> None:
        _, list_n = np.unique(np.asarray(of_list_n), return_inverse=True)
        self._list_n, self._seed, self._epoch = list_n, seed, 0

    @property
    def has_lists(self) -> bool:
        """Whether any list gave more than one pair."""
        return bool(np.bincount(self._list_n, minlength=1).max() > 1)

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        place_l = np.random.default_rng([self._seed, self._epoch]).permutation(self._list_n.max(initial=-1) + 1)
        return iter(np.argsort(place_l[self._list_n], kind="stable").tolist())

    def __len__(self) -> int:
        return len(self._list_n)
