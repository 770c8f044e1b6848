"""Read people's votes on pairs of responses, counted already or in a form in which data sets are published."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data import validate_rows
from mallowspo.data.annotations import read_votes
from mallowspo.data.problems import RowError
from mallowspo.data.records import prompt_id_of_text
from mallowspo.dispersion.judged_rows import Judged, as_text
from mallowspo.dispersion.published import (
    ONE_JUDGE,
    PUBLISHED_FORMS,
    number_or_none,
    opened,
    read_judged,
    row_numbers,
)
from mallowspo.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["SCORE_COLUMNS", "VOTE_FORMS", "VoteRows", "as_text", "load_votes"]

Floats = NDArray[np.float64]

VOTE_FORMS = (
    "a column `votes` with [chosen, rejected], [chosen, rejected, ties] or {chosen, rejected, tie}",
    "columns `votes_chosen`, `votes_rejected` and perhaps `votes_tie`",
    *(form.words for form in PUBLISHED_FORMS),
    "`chosen`, `rejected` and the score that one judge gave to each (binarised UltraFeedback)",
)

SCORE_COLUMNS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
"""Columns in which data sets keep the scores of a reward model or of a judge."""


@dataclass(frozen=True)
class VoteRows:
    """Votes on N pairs of responses."""

    # For the first response, for the second and for neither, shape (N, 3); a row of zeros where nobody voted.
    votes: Floats
    prompt_ids: list[str]  # as a reference store names them
    row_index: NDArray[np.int64]  # in the source, from 0, shape (N,)
    prompts: list[str]  # empty texts where the file has none
    responses: list[tuple[str, str]]  # likewise
    form: str
    notes: tuple[str, ...] = ()
    # The same as one record a prompt, of which `preference_rows` makes preference data; None where it is that already.
    judged: Judged | None = None
    own: Floats | None = None  # of those who voted more than once, for `vote_disagreement`


def load_votes(
    source: str | os.PathLike[str],
    *,
    column: str = "votes",
    columns: str = "",
    split: str = "train",
    invalid_rows: str = "error",
) -> VoteRows:
    """Read votes from a file in one of `VOTE_FORMS`; a vote that is missing is a row on which nobody voted.

    Prompts beside counted votes have the names that `mallowspo reference` gives them, so that the two can be compared.
    """
    dataset = opened(source, columns=columns, split=split, invalid_rows=invalid_rows)
    counted = _counted(dataset, column)
    if counted is not None:
        return _general(dataset, *counted, str(source), invalid_rows)
    judged = None if column != "votes" else read_judged(dataset, str(source), invalid_rows=invalid_rows)
    if judged is not None:
        return _of_judged(judged, row_numbers(dataset))
    scored = _scored(dataset) if column == "votes" else None
    if scored is not None:
        rows = _general(dataset, VOTE_FORMS[-1], scored, str(source), invalid_rows)
        return replace(rows, notes=(ONE_JUDGE,))
    forms = "\n".join(f"  {form}" for form in VOTE_FORMS)
    wanted = f"no column {column!r}" if column != "votes" else "no votes"
    raise InputError(
        f"{source}: {wanted} in the columns {', '.join(dataset.column_names)}; expected one of the "
        f"forms below, perhaps under other names that --columns tells\n{forms}"
    )


def _counted(dataset: datasets.Dataset, column: str) -> tuple[str, list[Any]] | None:
    """Give votes that are counted already, and their form."""
    names = dataset.column_names
    if column in names:
        return VOTE_FORMS[0], dataset[column][:]
    if not {"votes_chosen", "votes_rejected"} <= set(names):
        return None
    ties = next((name for name in ("votes_tie", "votes_ties") if name in names), None)
    read = ["votes_chosen", "votes_rejected", *([ties] if ties else [])]
    return VOTE_FORMS[1], [list(row) for row in zip(*(dataset[name][:] for name in read), strict=True)]


def _scored(dataset: datasets.Dataset) -> list[Any] | None:
    """Give one vote a row, for the response that has the larger score."""
    names = set(dataset.column_names)
    pair = next((pair for pair in SCORE_COLUMNS if {*pair, "chosen", "rejected"} <= names), None)
    if pair is None:
        return None
    read = [[number_or_none(value) for value in dataset[name][:]] for name in pair]
    return [
        None
        if chosen is None or rejected is None
        else [int(chosen > rejected), int(chosen < rejected), int(chosen == rejected)]
        for chosen, rejected in zip(*read, strict=True)
    ]


def _general(dataset: datasets.Dataset, form: str, values: list[Any], source: str, invalid_rows: str) -> VoteRows:
    """Put the votes beside the words of their rows."""
    numbers = row_numbers(dataset)
    if "row_index" in dataset.column_names and numbers != dataset["row_index"][:]:
        # A column of the user's own that repeats names no row: let positions name them.
        dataset = dataset.remove_columns("row_index")
    votes = {
        number: _counts(value, f"{source}: row {number + 1:,}") for number, value in zip(numbers, values, strict=True)
    }
    if not any(map(any, votes.values())):
        raise InputError(f"{source}: none of the {len(numbers):,} rows has a vote; each is zero, missing or no number")
    if not {"chosen", "rejected"} <= set(dataset.column_names):
        prompts = dataset["prompt"][:] if "prompt" in dataset.column_names else [None] * len(numbers)
        return VoteRows(
            votes=np.array([votes[number] for number in numbers]),
            prompt_ids=[
                prompt_id_of_text(prompt) if isinstance(prompt, str | list) and prompt else str(number)
                for prompt, number in zip(prompts, numbers, strict=True)
            ],
            row_index=np.array(numbers, np.int64),
            prompts=[as_text(prompt) for prompt in prompts],
            responses=[("", "")] * len(numbers),
            form=form,
        )
    pairs = validate_rows(dataset, columns=(), invalid_rows=invalid_rows, source=source).dataset
    return VoteRows(
        votes=np.array([votes[number] for number in pairs["row_index"]]),
        prompt_ids=[prompt_id_of_text(row["prompt"], _context(row)) for row in pairs],
        row_index=np.array(pairs["row_index"][:], np.int64),
        prompts=[as_text(value) for value in pairs["prompt"]],
        responses=[(as_text(a), as_text(b)) for a, b in zip(pairs["chosen"], pairs["rejected"], strict=True)],
        form=form,
    )


def _of_judged(judged: Judged, numbers: list[int]) -> VoteRows:
    """Give a row for every two responses."""
    pairs = [(row, pair) for row in judged.rows for pair in row.pairs]
    texts = {id(row): [as_text(response) for response in row.responses] for row in judged.rows}
    names = {id(row): row.prompt_id if row.prompt else str(numbers[row.position]) for row in judged.rows}
    return VoteRows(
        votes=np.concatenate([row.votes for row in judged.rows]),
        prompt_ids=[names[id(row)] for row, _ in pairs],
        row_index=np.array([numbers[row.position] for row, _ in pairs], np.int64),
        prompts=[as_text(row.prompt) for row, _ in pairs],
        responses=[(texts[id(row)][first], texts[id(row)][second]) for row, (first, second) in pairs],
        form=judged.form,
        notes=judged.notes,
        judged=judged,
        own=np.concatenate([row.own for row in judged.rows]),
    )


def _context(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the chat template reads beside the prompt; it is part of a prompt's name."""
    return {name: row[name] for name in ("tools", "chat_template_kwargs") if name in row}


def _counts(value: Any, where: str) -> tuple[float, float, float]:
    """Read one row's counts; one that nobody gave is a row of zeros."""
    if isinstance(value, str) and not value.strip():
        value = None
    if isinstance(value, list | tuple):
        sides = [None if isinstance(count, float) and math.isnan(count) else count for count in value]
        value = None if any(count is None for count in sides[:2]) else [count or 0 for count in sides]
    if isinstance(value, Mapping):
        named = {name: count for name, count in value.items() if count is not None}
        value = named if {"chosen", "rejected"} <= set(named) else (value if named else None)
    if value is None:
        return (0.0, 0.0, 0.0)
    try:
        return read_votes(value)
    except RowError as error:
        raise InputError(f"{where}: {error.detail}") from error
