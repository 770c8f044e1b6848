"""A training set that is read while it is trained on: windows of its rows, each prepared as a whole set would be.

What is fitted on the data (phi*, the mean of `loss_weight`) is fitted on the first window; with a reference store the
index and its calibration are those of all rows, which the store holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import datasets
import numpy as np
from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray

from mallowspo.data.annotations import LOSS_COLUMNS
from mallowspo.data.problems import NothingLeft
from mallowspo.data.records import LIST_COLUMN, TOKEN_COLUMNS
from mallowspo.data.rendering import Truncation
from mallowspo.data.tables import TableBuilder
from mallowspo.errors import InputError
from mallowspo.scoring import StoredRows
from mallowspo.scoring.store_reader import numbered_pairs
from mallowspo.training.config import MallowsPOConfig
from mallowspo.training.row_weights import RAW_COLUMN
from mallowspo.training.splits import PreparedSplit, prepare_split, tell

__all__ = [
    "StreamedSplit",
    "is_streaming",
    "prepare_stream",
    "refuse_streamed",
    "refuse_unstreamed",
    "StorePlaces",
    "with_columns",
]

logger = get_logger(__name__)

_PAIR = "pair_of_row"  # number of a pair among those that its row of the data gives


@dataclass(frozen=True)
class StreamedSplit(PreparedSplit):
    """A split that is read while it is trained on; what is known of it before is known of its first window."""

    window: Dataset

    @property
    def known(self) -> Dataset:
        """The first window."""
        return self.window

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `run.json`."""
        return {"streamed": True, "first_window": super().to_dict()}


def is_streaming(dataset: Any) -> bool:
    """Say whether a data set is one of `datasets` that is read as it comes."""
    return isinstance(dataset, IterableDataset)


def refuse_streamed(args: MallowsPOConfig) -> None:
    """Refuse what needs all rows before the first step, where the training set is read as it comes."""
    whole = "or load the training set whole (dataset_streaming: false)"
    by_prompt = args.resolved_dispersion in ("votes", "rankings") and args.dispersion_per != "pair"
    stored = args.reference_store is not None
    unstored = args.precompute_ref_log_probs and args.reads_reference and not stored
    fitted = args.resolved_shrink == "votes" and not (stored and args.reads_entropy)
    checks = (
        (args.max_steps <= 0, "max_steps", "a training set that is streamed has no length; say how many steps"),
        (args.resolved_objective.reads_lists, "objective", f"{args.objective} reads whole ranked lists; take another"),
        (
            args.reads_entropy and not stored,
            "dispersion",
            "entropy is read off the reference, which would have to see every row before the first step; give "
            "reference_store, or dispersion: column",
        ),
        (
            unstored,
            "precompute_ref_log_probs",
            "every row would be scored before the first step; give reference_store",
        ),
        (by_prompt, "dispersion_per", "a prompt's rows are not all known at once; set it to pair"),
        (fitted, "dispersion_shrink", "votes is fitted on all rows; give a number"),
        (
            list(args.dispersion_filter) != [0.0, 1.0],
            "dispersion_filter",
            "its quantiles are of all rows; leave it out",
        ),
        (args.dispersion_order != "none", "dispersion_order", "all rows would have to be sorted; leave it out"),
    )
    for refused, option, why in checks:
        if refused:
            raise InputError(f"{option}: {why}, {whole}")


def refuse_unstreamed(args: MallowsPOConfig) -> None:
    """Refuse what only a training set that is read as it comes would read."""
    if args.stream_window != MallowsPOConfig.stream_window:
        raise InputError(
            f"stream_window: got {args.stream_window}, and the training set is not streamed; leave it out, or add "
            "dataset_streaming: true"
        )


def prepare_stream(dataset: IterableDataset, tokenizer: Any, args: MallowsPOConfig) -> StreamedSplit:
    """Prepare the first window of a training set, and set up that the others are when they come."""
    size = args.stream_window
    rows = list(dataset.take(size))
    if not rows:
        raise InputError("train data: there are no rows")
    known = sorted({name for row in rows for name in row})
    first = _window(rows, range(len(rows)), tokenizer, args)
    window = _narrow(first)
    prepare = partial(
        _prepared,
        tokenizer=tokenizer,
        args=args,
        known=frozenset(known),
        names=tuple(window.column_names),
        told={problem.row_index for problem in first.problems},
    )
    streamed = dataset.map(
        prepare,
        with_indices=True,
        batched=True,
        batch_size=size,
        remove_columns=known,
        features=window.features,
    )
    return StreamedSplit(**(vars(first) | {"dataset": streamed}), window=window)


def _window(rows: list[dict[str, Any]], places: Sequence[int], tokenizer: Any, args: Any) -> PreparedSplit:
    """Prepare some rows as a whole set would be, with their numbers in it unless they bring them."""
    builder = TableBuilder()
    builder.append_rows(rows)
    found = builder.finish()
    if "row_index" not in found.column_names:
        found = found.add_column("row_index", np.asarray(places, np.int64))
    with _without_bars():
        return prepare_split(found, tokenizer, args, "train")


def _narrow(split: PreparedSplit) -> Dataset:
    """What a step reads of a window: tokens, numbers and weights."""
    rows = split.dataset
    if split.raw_n is not None:
        rows = rows.add_column(RAW_COLUMN, split.raw_n)
    wanted = (*TOKEN_COLUMNS, "prompt_id", "row_index", LIST_COLUMN, *LOSS_COLUMNS, RAW_COLUMN)
    rows = rows.select_columns([name for name in wanted if name in rows.column_names])
    return rows.add_column(_PAIR, [nth for _, nth in numbered_pairs(rows["row_index"][:])])


def _prepared(
    columns: Mapping[str, list[Any]],
    places: list[int],
    *,
    tokenizer: Any,
    args: Any,
    known: frozenset[str],
    names: tuple[str, ...],
    told: set[int],
) -> dict[str, list[Any]]:
    """One window, as columns; `told` are the rows that the log has named, which come again with each epoch."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    try:
        split = _window(rows, places, tokenizer, args)
        new = tuple(problem for problem in split.problems if problem.row_index not in told)
        tell(replace(split, problems=new, unread=()), args, "train")
        told.update(problem.row_index for problem in new)
        found = _narrow(split)[:]
    except NothingLeft as error:
        found = {name: [] for name in names}
        if not told.issuperset(numbers := columns.get("row_index", places)):
            logger.warning(str(error))
            told.update(numbers)
    for name in sorted(set(names) ^ set(found)):
        others = "have it and the first rows lack it" if name in found else "lack it and the first rows have it"
        raise InputError(
            f"column {name!r}: rows {places[0] + 1:,} to {places[-1] + 1:,} of the train data {others}; a training "
            "set that is streamed has the same columns throughout"
        )
    # A column that begins later is not taken away with the others, and must be as long as they are.
    late = {name: [None] * len(found["row_index"]) for name in columns if name not in known}
    return late | found


@contextmanager
def _without_bars() -> Iterator[None]:
    """Windows come all the time: no bar for each."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@dataclass(frozen=True)
class StorePlaces:
    """Where rows stand in a store; it refuses one that is another row there."""

    stored: StoredRows
    truncation: Truncation

    @cached_property
    def _first(self) -> dict[int, int]:
        return dict(zip(*np.unique(self.stored.row_index, return_index=True), strict=True))

    def __call__(self, rows: Any) -> NDArray[np.intp]:
        """The places of a window's rows, given as columns."""
        cells = zip(*(rows[name] for name in ("row_index", _PAIR, "prompt_id", *TOKEN_COLUMNS)), strict=True)
        return np.array([self._place(*cell) for cell in cells], np.intp)

    def _place(self, row: int, pair: int, prompt_id: str, prompt: list[int], *responses: list[int]) -> int:
        stored, truncation = self.stored, self.truncation
        place = self._first.get(row, len(stored.prompt_ids)) + pair
        kept = [len(truncation.kept([*prompt, *ids])) for ids in responses]
        lengths = [
            min(len(ids), size - len(prompt) if truncation.keeps_start else size)
            for ids, size in zip(responses, kept, strict=True)
        ]
        same = (
            place < len(stored.prompt_ids)
            and stored.row_index[place] == row
            and stored.prompt_ids[place] == prompt_id
            and stored.scores.length_nk[place].tolist() == lengths
        )
        if not same:
            raise InputError(
                f"reference_store: row {row + 1:,} of the train data is not the one that the store was made from; a "
                "training set that is streamed must give the store's rows, shuffled only with a column row_index of "
                "their numbers"
            )
        return int(place)


def with_columns(
    dataset: IterableDataset,
    columns: Mapping[str, NDArray[np.float64]],
    places_of: StorePlaces,
    args: MallowsPOConfig,
) -> IterableDataset:
    """Give each row of a prepared stream its place's values of some columns over the rows of a store."""

    def look_up(rows: Mapping[str, list[Any]]) -> dict[str, Any]:
        places = places_of(rows)
        return {name: values[places] for name, values in columns.items()}

    features = datasets.Features(dataset.features | {name: datasets.Value("float64") for name in columns})
    return dataset.map(look_up, batched=True, batch_size=args.stream_window, features=features)
