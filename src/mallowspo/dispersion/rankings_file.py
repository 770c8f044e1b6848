"""Read people's rankings of a prompt's responses, in general forms and in that of one public data set."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mallowspo.data import load_preferences
from mallowspo.data.records import prompt_id_of_text
from mallowspo.dispersion.judged_rows import Judged, as_text
from mallowspo.dispersion.people import shares_ranks
from mallowspo.dispersion.published import PUBLISHED_FORMS, holds_orders, number_or_none, opened, read_judged
from mallowspo.dispersion.ranking_columns import items_sentence, names_things, settled_items
from mallowspo.errors import InputError
from mallowspo.files import parse_json

if TYPE_CHECKING:
    import datasets

__all__ = ["JUDGE_COLUMN", "NOT_SHOWN", "RANKING_FORMS", "RankingRows", "load_rankings", "load_truth"]

Floats = NDArray[np.float64]

NOT_SHOWN = "not shown"
"""What a file says in place of a rank where a person never saw the item; a blank is below all that were ranked."""

RANKING_FORMS = (
    "a column `rankings` with a list of m >= 2 rankings, one row a prompt",
    "one row a ranking, one column an item with its rank, and perhaps a column `prompt` that groups the rows",
    *(form.words for form in PUBLISHED_FORMS),
)

# Who ranked, one text a row: written by `mallowspo evaluate --rank`.
JUDGE_COLUMN = "ranked_by"

# Columns of the table form that say how many people gave the row's ranking.
_COUNTS = ("count", "counts", "n", "votes", "weight", "weights", "num_voters", "frequency")


@dataclass(frozen=True)
class RankingRows:
    """Rankings of the responses to P prompts."""

    # Of each prompt, shape (m, n): entry i of a row is the rank of response i, 1 is best; responses may share a rank
    # (a top k shares the last one among the rest), and NaN was not shown.
    ranks: list[Floats]
    prompt_ids: list[str]  # as a reference store names them
    prompts: list[str]
    items: list[list[str]]  # names or texts of each prompt's responses
    form: str
    # How many people gave each ranking of a prompt, shape (m,); one each where it is None.
    counts: list[Floats] | None = None
    # What a shared rank means: `unordered`, an order that was not given, or `half`, no difference seen.
    ties: str = "unordered"
    notes: tuple[str, ...] = ()  # what the reader took the file to mean, and warnings, as sentences
    judges: tuple[str, ...] = ()  # who ranked, where the file says it, as the lists of `evaluate --rank` do

    @property
    def people(self) -> list[Floats]:
        """How many people gave each ranking of a prompt, shape (m,)."""
        return [np.ones(len(ranks)) for ranks in self.ranks] if self.counts is None else self.counts

    @property
    def tied(self) -> bool:
        """Whether any response shares a rank with another."""
        return any(shares_ranks(ranks) for ranks in self.ranks)


def load_rankings(
    source: str | os.PathLike[str], *, column: str = "rankings", columns: str = "", split: str = "train"
) -> RankingRows:
    r"""Read rankings from a file in one of `RANKING_FORMS`."""
    dataset = opened(source, columns=columns, split=split)
    name = Path(source).name.split(".")[0]
    if column in dataset.column_names and not holds_orders(dataset, column):
        found = _lists(dataset, column, str(source))
    elif column == "rankings" and (judged := read_judged(dataset, str(source))) is not None:
        found = _of_judged(judged, str(source))
    elif column != "rankings":
        raise InputError(f"{source}: no column {column!r}, it has {', '.join(dataset.column_names)}")
    else:
        found = _table(dataset, str(source), name)
    for place, (ranks, counts) in enumerate(zip(found.ranks, found.people, strict=True)):
        people = float(counts.sum())
        which = f"prompt {place + 1:,}" if len(found.ranks) > 1 else "it"
        if people < 2:
            raise InputError(
                f"{source}: {which} has {people:g} ranking{'s' * (people != 1)}; people can only differ where "
                "there are at least 2"
            )
        shown = np.isfinite(ranks)
        if np.triu((shown * counts[:, None]).T @ shown, 1).max() < 2:
            raise InputError(
                f"{source}: {which} has no two items that two people ranked; people can only differ on what both saw"
            )
    notes = list(found.notes)
    if any((ranks > ranks.shape[1]).any() for ranks in found.ranks):
        notes.append(
            f"Blank ranks are taken as below all ranked items (a top k); {NOT_SHOWN!r} says nothing of an item."
        )
    if any(np.isnan(ranks).any() for ranks in found.ranks):
        notes.append(f"Items that are {NOT_SHOWN!r} to a person count for nothing there: an order among the shown.")
    named = dataset[JUDGE_COLUMN][:] if JUDGE_COLUMN in dataset.column_names else []
    judges = sorted({name for name in named if isinstance(name, str)})
    if judges:
        told = f"These are repeated votes of a judge ({', '.join(judges)}), not of people: they show where it wavers."
        notes.insert(0, told)
    return replace(found, notes=tuple(notes), judges=tuple(judges))


def load_truth(source: str | os.PathLike[str], *, items: int) -> NDArray[np.int64]:
    """Read one ranking that is known to be true, to measure a centre by."""
    found = _table(load_preferences(source).dataset, str(source), "truth")
    ranks = found.ranks[0]
    if len(found.ranks) != 1 or ranks.shape != (1, items) or sorted(ranks[0]) != list(range(1, items + 1)):
        raise InputError(
            f"{source}: got {len(ranks)} rows of {ranks.shape[1]} columns, expected one ranking of the same {items} "
            f"items, with each rank 1 ... {items} once"
        )
    return np.asarray(ranks[0], np.int64)


def _lists(dataset: datasets.Dataset, column: str, source: str) -> RankingRows:
    ranks, ids, prompts, items = [], [], [], []
    for position, row in enumerate(dataset):
        name = f"row {position + 1:,}"
        given = row[column]
        if isinstance(given, str):
            try:
                given = parse_json(given)
            except ValueError as error:
                raise InputError(f"{source}: {name} has no list of rankings ({error})") from error
        ranks.append(_array(given, f"{source}: {name}"))
        prompt = row.get("prompt")
        ids.append(prompt_id_of_text(prompt) if prompt else str(position))
        prompts.append(as_text(prompt) or name)
        responses = row.get("responses")
        if not isinstance(responses, list):
            responses = [row[side] for side in ("chosen", "rejected") if side in row]
        names = [as_text(text) for text in responses]
        count = ranks[-1].shape[1]
        items.append(names if len(names) == count else [f"response {i + 1}" for i in range(count)])
    return RankingRows(ranks, ids, prompts, items, RANKING_FORMS[0])


def _table(dataset: datasets.Dataset, source: str, name: str) -> RankingRows:
    columns = dataset.column_names
    if len(set(columns)) < len(columns):
        raise InputError(f"{source}: two columns have one name; give each item one column")
    counted = next((column for column in columns if column.casefold() in _COUNTS), None)
    group = next((column for column in columns if column.casefold() in ("prompt", "group")), None)
    values: dict[str, Floats] = {}
    named: dict[str, Floats] = {}
    passed: dict[str, str] = {}
    for column in columns:
        if column in (counted, group):
            continue
        kept = named if names_things(column) else values
        try:
            kept[column] = _numbers(dataset[column][:])
        except _NoRanks as error:
            if kept is named:
                continue
            passed[column] = str(error)
            if error.partly:
                raise InputError(f"{source}: the column {column!r} holds ranks and {error}; {_RANKS}") from error
    settled = settled_items(values, named, lambda ranks: _checked(ranks, source))
    items = [column for column in columns if column in settled]
    if len(items) < 2:
        forms = "\n".join(f"  {form}" for form in RANKING_FORMS)
        why = next((f"the column {column!r} holds {what}" for column, what in passed.items()), None)
        raise InputError(
            f"{source}: no rankings in the columns {', '.join(columns)} "
            f"({why or f'{len(items)} columns of ranks'}); expected\n{forms}"
        )
    values |= named
    notes = [items_sentence(items, [c for c in columns if c not in (*items, *passed, counted, group)])]
    weights = np.ones(len(dataset))
    if counted is not None:
        notes.append(f"The column {counted!r} says how many people gave each ranking.")
        weights = _people(dataset[counted][:], counted, source)
    if passed:
        notes.append(f"Passed over, since they hold no ranks: {', '.join(passed)}.")
    try:
        header = sorted(float(item) for item in items)
    except ValueError:
        header = []
    if header == list(range(1, len(items) + 1)):
        notes.append(f"The header {','.join(items)} is itself a ranking: if the file has none, its first row is lost.")
    where_of: dict[str, list[int]] = {}
    said = [name] * len(dataset) if group is None else dataset[group][:]
    for place, value in enumerate(said):
        where_of.setdefault(as_text(value), []).append(place)
    blank = next((rows[0] for prompt, rows in where_of.items() if not prompt.strip()), None)
    if group and blank is not None:
        raise InputError(f"{source}: row {blank + 1:,} has nothing in {group!r}, by which rankings belong together")
    given = np.column_stack([values[item] for item in items])
    try:
        ranks = [_checked(given[rows], f"{source}: {prompt}") for prompt, rows in where_of.items()]
    except InputError as error:
        raise InputError(f"{error}. The items are taken to be the columns {', '.join(items)}") from error
    return RankingRows(
        ranks=ranks,
        prompt_ids=[name if group is None else prompt_id_of_text(said[rows[0]]) for rows in where_of.values()],
        prompts=list(where_of),
        items=[items] * len(where_of),
        form=RANKING_FORMS[1],
        counts=None if counted is None else [weights[rows] for rows in where_of.values()],
        notes=tuple(notes),
    )


def _of_judged(judged: Judged, source: str) -> RankingRows:
    """Take the judges who ranked every response; prompts with fewer than two of them are left out."""
    if any(row.repeated or (row.weights != 1).any() for row in judged.rows):
        raise InputError(f"{source}: some of its votes are shared or weighted, which rankings cannot be; use --votes")
    whole = [(row, ranks[np.isfinite(ranks).all(axis=1)]) for row in judged.rows for ranks in [row.ranks()]]
    kept = [(row, ranks) for row, ranks in whole if len(ranks) >= 2]
    if not kept:
        most = max(len(ranks) for _, ranks in whole)
        raise InputError(
            f"{source}: no prompt has 2 people who ranked all of its responses (at most {most}); people can only "
            "differ where there are at least 2. --votes uses everybody who judged two of the responses"
        )
    return RankingRows(
        ranks=[ranks for _, ranks in kept],
        prompt_ids=[row.prompt_id if row.prompt else str(row.position) for row, _ in kept],
        prompts=[as_text(row.prompt) or f"row {row.position + 1:,}" for row, _ in kept],
        items=[[as_text(response) for response in row.responses] for row, _ in kept],
        form=judged.form,
        ties="half",  # who gives two answers one score says that they are equal
    )


_RANKS = f"expected a number, a blank for what was not ranked, or {NOT_SHOWN!r}"


class _NoRanks(ValueError):
    """A column holds something else than ranks; `partly` where some of its cells are ranks all the same."""

    def __init__(self, what: str, partly: bool) -> None:
        super().__init__(what)
        self.partly = partly


def _numbers(given: list[Any]) -> Floats:
    """Read a column of ranks: blanks as NaN, and infinity where an item was not shown. Raises `_NoRanks`."""
    read = [_rank(value) for value in given]
    wrong = next((value for value, rank in zip(given, read, strict=True) if rank is None), None)
    if wrong is None:
        return np.array(read, np.float64)
    some = any(rank is not None and not math.isnan(rank) for rank in read)
    raise _NoRanks(f"words, {wrong!r:.40}" if isinstance(wrong, str) else f"{wrong!r:.40}", some)


def _rank(value: Any) -> float | None:
    """Read one rank; None where the value is none."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return math.nan
        if text.casefold() == NOT_SHOWN:
            return math.inf
    # Infinity is the mark of what was not shown, and no rank that a file may give.
    return math.nan if isinstance(value, float) and math.isnan(value) else number_or_none(value)


def _people(given: list[Any], column: str, source: str) -> Floats:
    """Read how many people each row stands for."""
    found = [number_or_none(value) for value in given]
    row = next((place for place, count in enumerate(found) if count is None or count < 0), None)
    if row is not None:
        raise InputError(
            f"{source}: row {row + 1:,} has {given[row]!r:.40} in {column!r}, expected how many people >= 0"
        )
    return np.array(found, np.float64)


def _array(rows: Any, where: str) -> Floats:
    """Bring one prompt's rankings into an array, or say what is wrong with them."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{where}: expected a list of rankings, each a list of ranks, got {str(rows)[:60]!r}")
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise InputError(
            f"{where}: the rankings have different items ({lengths[0]} and {lengths[-1]} ranks); everybody must rank "
            f"the same responses, with {NOT_SHOWN!r} for what a person never saw"
        )
    read = [[_rank(value) for value in row] for row in rows]
    if any(rank is None for row in read for rank in row):
        raise InputError(f"{where}: a rank is no number in {str(rows)[:60]}; {_RANKS}")
    return _checked(np.array(read, np.float64), where)


def _checked(ranks: Floats, where: str) -> Floats:
    """Check ranks and give blanks the last rank; what was not shown is NaN from here on."""
    count = ranks.shape[1]
    if count < 2:
        raise InputError(f"{where}: there is {count} response, expected at least 2")
    unseen, blank = np.isinf(ranks), np.isnan(ranks)
    open_ = unseen | blank
    bad = ~(((ranks >= 1) & (ranks <= count)) | open_)
    # Any numbering of the groups will do (1 1 3, 1 1 2, 1.5 1.5 3), yet a rank cannot leave more above than there are.
    ordered = np.sort(np.where(open_, np.inf, ranks), axis=1)
    bad |= ((ordered > np.arange(1, count + 1)) & np.isfinite(ordered) & ~_midranks(ordered)).any(axis=1)[:, None]
    bad |= np.asarray(open_.all(axis=1))[:, None]
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        shown = ", ".join(
            NOT_SHOWN if gone else "blank" if empty else f"{rank:g}"
            for rank, gone, empty in zip(ranks[row], unseen[row], blank[row], strict=True)
        )
        raise InputError(
            f"{where}: ranking {row + 1:,} is [{shown}], expected ranks from 1 (best) to {count}, shared by ties, "
            f"blank for what was not ranked, and {NOT_SHOWN!r}; at least one of them a rank"
        )
    return np.where(unseen, np.nan, np.where(blank, count + 1, ranks))


def _midranks(ordered: Floats) -> NDArray[np.bool_]:
    """Where sorted ranks are those of ties that take the mean or the largest of their places."""
    good = [rankdata(ordered, method=method, axis=1) == ordered for method in ("average", "max")]
    return np.asarray(good[0].all(axis=1) | good[1].all(axis=1))[:, None]
