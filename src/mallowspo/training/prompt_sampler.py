"""The order of the training rows where a ranked list became several pairs: a list's pairs stay together.

All pairs of a list in one batch share its prompt and its responses, so that a list of K costs K responses and not
K (K - 1) (as Ouyang et al. 2022, arXiv 2203.02155, section 3.5, train all comparisons of a prompt together).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

__all__ = ["ListSampler"]


class ListSampler(Sampler[int]):
    """Draw whole lists at random; the pairs of one list follow each other as they stand in the data.

    Args:
        of_list_n: `LIST_COLUMN` of each pair, shape (N,): pairs of one list have the same.
        seed: Together with the epoch it fixes the order, on every process and after a resumption.

    Example:
        >>> order = list(ListSampler([0, 0, 0, 1, 2, 2], seed=0))
        >>> sorted(order), abs(order.index(4) - order.index(5))
        ([0, 1, 2, 3, 4, 5], 1)
    """

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
