"""Ranked lists as examples: their rows drawn together, their scores put back into lists, their metrics.

A list of K responses is kept as rows of two that hold each response once or twice (`PreferenceRow.to_cover`). So it
goes through tokens, reference and packed rows as pairs do, and a response that stands twice is computed once.

Shapes: `B` lists, at most `K` responses each, `P` rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mallowspo.data.collation import LIST_KEY
from mallowspo.data.records import LIST_COLUMN, PLACES_COLUMN, RANKS_COLUMN
from mallowspo.errors import InputError
from mallowspo.objectives.listwise import MAX_TIED, too_many_tied

__all__ = [
    "ListBatch",
    "ListRows",
    "example_places",
    "ndcg",
    "ordered_rows",
    "refuse_prepared_lists",
    "refuse_tied_lists",
]


def ordered_rows(dataset: Any) -> Any:
    """The rows of lists that still say something: some may have lost responses on their way to tokens."""
    if RANKS_COLUMN not in dataset.column_names:
        return dataset
    list_n, ranks_n2 = np.asarray(dataset[LIST_COLUMN][:]), np.asarray(dataset[RANKS_COLUMN][:])
    _, list_n = np.unique(list_n, return_inverse=True)
    lowest, highest = np.full(list_n.max(initial=-1) + 1, np.inf), np.full(list_n.max(initial=-1) + 1, -np.inf)
    np.minimum.at(lowest, list_n, ranks_n2.min(axis=1))
    np.maximum.at(highest, list_n, ranks_n2.max(axis=1))
    good = np.flatnonzero((lowest < highest)[list_n])
    return dataset if len(good) == len(dataset) else dataset.select(good)


def refuse_prepared_lists(dataset: Any, source: str) -> None:
    """Refuse rows that were made of ranked lists and hold them no longer."""
    names = dataset.column_names
    if RANKS_COLUMN in names or LIST_COLUMN not in names or len(set(dataset[LIST_COLUMN][:])) == len(dataset):
        return
    raise InputError(
        f"{source}: these rows are pairs of ranked lists that were prepared before; give the lists themselves "
        "(prompt, responses, ranks), or an objective for pairs"
    )


def refuse_tied_lists(dataset: Any, source: str) -> None:
    """Refuse lists whose ties a likelihood cannot sum over, by their row."""
    if RANKS_COLUMN not in dataset.column_names:
        return
    ranks: dict[int, dict[int, int]] = {}
    row_of: dict[int, int] = {}
    columns = (dataset[name][:] for name in (LIST_COLUMN, PLACES_COLUMN, RANKS_COLUMN, "row_index"))
    for name, places, given, row in zip(*columns, strict=True):
        ranks.setdefault(name, {}).update(zip(places, given, strict=True))
        row_of.setdefault(name, row)
    for name, known in ranks.items():
        above = [rank for rank in known.values() if rank < max(known.values())]
        if len(known) > MAX_TIED and len(set(above)) < len(above):
            raise too_many_tied(f"{source}, row {row_of[name] + 1:,}: a list of {len(known)}")


def example_places(dataset: Any, *, lists: bool) -> NDArray[np.intp]:
    """A row of each example: every row, or the first of each ranked list."""
    if not lists or LIST_COLUMN not in dataset.column_names:
        return np.arange(len(dataset))
    return np.sort(np.unique(np.asarray(dataset[LIST_COLUMN][:]), return_index=True)[1])


class ListRows(Dataset[dict[str, Any]]):
    """Lists as examples, in the order of their first rows; one is what `PreferenceCollator` takes apart again."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        names = rows.column_names
        list_n = rows[LIST_COLUMN][:] if LIST_COLUMN in names else range(len(rows))
        members: dict[int, list[int]] = {}
        for place, name in enumerate(list_n):
            members.setdefault(name, []).append(place)
        self._members = list(members.values())
        self._whole = {PLACES_COLUMN, RANKS_COLUMN} <= set(names)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, number: int) -> dict[str, Any]:
        rows = [self._rows[place] for place in self._members[number]]
        if not self._whole:  # tokens that came as pairs
            rows = [row | {PLACES_COLUMN: [0, 1], RANKS_COLUMN: [1, 2]} for row in rows]
        return {LIST_KEY: rows}


@dataclass(frozen=True)
class ListBatch:
    """Where each response of a batch of rows stands in its list."""

    list_p: Tensor  # the list of a row, 0 ... B - 1, shape (P,)
    place_p2: Tensor  # columns of its two responses among the K, shape (P, 2)
    ranks_bk: Tensor  # 1 is best
    mask_bk: Tensor  # where there is a response
    first_b: Tensor  # a row of each list, for what all of them share

    @classmethod
    def of(cls, inputs: Any) -> ListBatch:
        """Read a batch of `PreferenceCollator`, or a piece of one."""
        _, list_p = torch.unique_consecutive(inputs["list_b"], return_inverse=True)
        place_p2, ranks_p2 = inputs[PLACES_COLUMN], inputs[RANKS_COLUMN]
        lists, k = int(list_p[-1]) + 1, int(place_p2.max()) + 1
        cell_p2 = list_p[:, None] * k + place_p2
        ranks = torch.zeros(lists * k, dtype=ranks_p2.dtype, device=ranks_p2.device)
        mask = torch.zeros(lists * k, dtype=torch.bool, device=ranks_p2.device)
        ranks[cell_p2.flatten()], mask[cell_p2.flatten()] = ranks_p2.flatten(), True
        first_b = torch.searchsorted(list_p, torch.arange(lists, device=list_p.device))
        return cls(list_p, place_p2, ranks.view(lists, k), mask.view(lists, k), first_b)

    def lists(self, values_p2: Tensor) -> Tensor:
        """Values of the rows' responses as values of the lists', shape (B, K); 0 where there is no response."""
        lists, k = self.mask_bk.shape
        cell = (self.list_p[:, None] * k + self.place_p2).flatten()
        # Where a response stands in two rows, both hold its one score: the mean passes the gradient on once.
        total = values_p2.new_zeros(lists * k).index_add(0, cell, values_p2.flatten())
        count = values_p2.new_zeros(lists * k).index_add(0, cell, torch.ones_like(values_p2).flatten())
        return (total / count.clamp(min=1)).view(lists, k)

    def of_lists(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of rows, shape (P,), as values of lists: sums (`_…`) are added up, of others the mean is taken."""
        found = {}
        for name, given_p in values.items():
            value_p = given_p.double()
            total_b = value_p.new_zeros(len(self.mask_bk)).index_add(0, self.list_p, value_p)
            found[name] = total_b if name.startswith("_") else total_b / torch.bincount(self.list_p)
        return found

    def ends(self, values_bk: Tensor) -> Tensor:
        """Values of the best response and of the last one, shape (B, 2)."""
        ranks_bk = self.ranks_bk.double()
        best_b = ranks_bk.masked_fill(~self.mask_bk, torch.inf).argmin(1)
        last_b = ranks_bk.masked_fill(~self.mask_bk, -torch.inf).argmax(1)
        return values_bk.gather(1, torch.stack([best_b, last_b], dim=1))

    def order_metrics(self, reward_bk: Tensor, slack_bk: Tensor) -> dict[str, Tensor]:
        """Of each list, shape (B,): the share of its pairs in the right order, and NDCG.

        Two rewards that differ by no more than the sum of their slack are a tie.
        """
        ranks_bk = self.ranks_bk.double()
        pairs = (ranks_bk[:, :, None] < ranks_bk[:, None, :]) & self.mask_bk[:, :, None] & self.mask_bk[:, None, :]
        gap_bkk = reward_bk[:, :, None] - reward_bk[:, None, :]
        tied_bkk = gap_bkk.abs() <= slack_bk[:, :, None] + slack_bk[:, None, :]
        right = torch.where(tied_bkk, 0.5, (gap_bkk > 0).double()) * pairs
        return {
            "rewards/accuracies": right.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1),
            "rewards/ndcg": ndcg(gap_bkk.masked_fill(tied_bkk, 0.0), ranks_bk, self.mask_bk),
        }


def ndcg(gap_bkk: Tensor, ranks_bk: Tensor, mask_bk: Tensor) -> Tensor:
    """Normalised discounted cumulative gain of the order of scores, shape (B,); 1 is the list's own order.

    `gap_bkk` is each score less each other one. The gain of a response is how many of its list it is ranked above
    (Järvelin and Kekäläinen, TOIS 2002); equal scores share the discounts of their places.
    """
    gain_bk = ((ranks_bk[:, :, None] < ranks_bk[:, None, :]) & mask_bk[:, None, :]).sum(2).double() * mask_bk
    discount_k = 1 / torch.log2(torch.arange(2, gap_bkk.shape[1] + 2, device=gap_bkk.device).double())
    cumulated_k = torch.cat([discount_k.new_zeros(1), discount_k.cumsum(0)])
    above_bk = ((gap_bkk < 0) & mask_bk[:, None, :]).sum(2)
    equal_bk = ((gap_bkk == 0) & mask_bk[:, None, :]).sum(2).clamp(min=1)
    shared_bk = (cumulated_k[(above_bk + equal_bk).clamp(max=gap_bkk.shape[1])] - cumulated_k[above_bk]) / equal_bk
    ideal_b = (gain_bk.sort(dim=1, descending=True).values * discount_k).sum(1)
    return (gain_bk * shared_bk).sum(1) / ideal_b.clamp(min=torch.finfo(torch.float64).tiny)
