"""Read people's votes on pairs of responses, in general forms and in those of two public data sets."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data import load_preferences, validate_rows
from mallowspo.data.annotations import read_votes
from mallowspo.data.problems import RowError
from mallowspo.data.records import prompt_id_of_text
from mallowspo.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["VOTE_FORMS", "VoteRows", "as_text", "distinct_outputs", "load_votes"]

Floats = NDArray[np.float64]

VOTE_FORMS = (
    "a column `votes` with [chosen, rejected], [chosen, rejected, ties] or {chosen, rejected, tie}",
    "columns `votes_chosen`, `votes_rejected` and perhaps `votes_tie`",
    "columns `annotator1`, `annotator2`, ... with 1, 2 or 0 for a tie (PandaLM)",
    "a column `penalty` with system -> rater -> score, less is better (WMT side by side)",
)


@dataclass(frozen=True)
class VoteRows:
    """Votes on N pairs of responses.

    Attributes:
        votes: Counts for the first response, for the second, and for neither, shape (N, 3); a row of zeros where
            nobody voted.
        prompt_ids: What names each row's prompt, as a reference store names it; length N.
        row_index: Position of each row in its source, from 0, shape (N,).
        prompts: Each row's prompt as text; empty where the file has none.
        responses: Each row's two responses as text; empty texts where the file has none.
        form: Which form the file has.
    """

    votes: Floats
    prompt_ids: list[str]
    row_index: NDArray[np.int64]
    prompts: list[str]
    responses: list[tuple[str, str]]
    form: str


def load_votes(
    source: str | os.PathLike[str], *, column: str = "votes", split: str = "train", invalid_rows: str = "error"
) -> VoteRows:
    r"""Read votes from a file in one of `VOTE_FORMS`.

    Rows of the first two forms may carry `prompt`, `chosen` and `rejected` in any layout of preference data; then
    their prompts have the names that `mallowspo reference` gives them, and the two can be compared. A vote that is
    missing (null) is a row on which nobody voted.

    Args:
        source: A `.jsonl`, `.json`, `.csv` (each also `.gz`) or `.parquet` file, a folder, or a hub name.
        column: The column of the first form.
        split: The split of a folder or of a hub data set.
        invalid_rows: `error` stops at preference rows that cannot be used, `drop` leaves them out.

    Returns:
        The votes.

    Raises:
        InputError: There is no such file or column, a count is negative or no number, or no row is left.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "votes.csv"
        >>> _ = path.write_text("votes_chosen,votes_rejected\n3,1\n,\n")
        >>> load_votes(path).votes.tolist()
        [[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    dataset = load_preferences(source, split=split, invalid_rows=invalid_rows).dataset
    names = dataset.column_names
    if len(dataset) == 0:
        raise InputError(f"{source}: there are no rows")
    if column in names or {"votes_chosen", "votes_rejected"} <= set(names):
        return _general(dataset, column, str(source), invalid_rows)
    if {"annotator1", "annotator2"} <= set(names):
        return _pandalm(dataset, str(source))
    if {"penalty", "outputs"} <= set(names):
        return _side_by_side(dataset, str(source))
    forms = "\n".join(f"  {form}" for form in VOTE_FORMS)
    wanted = f"no column {column!r}" if column != "votes" else "no votes"
    raise InputError(f"{source}: {wanted} in the columns {', '.join(names)}; expected\n{forms}")


def _general(dataset: datasets.Dataset, column: str, source: str, invalid_rows: str) -> VoteRows:
    """Read votes that are counted already."""
    if column in dataset.column_names:
        form, values = VOTE_FORMS[0], dataset[column][:]
    else:
        form = VOTE_FORMS[1]
        ties = next((name for name in ("votes_tie", "votes_ties") if name in dataset.column_names), None)
        read = ["votes_chosen", "votes_rejected", *([ties] if ties else [])]
        values = [list(row) for row in zip(*(dataset[name][:] for name in read), strict=True)]
    number = dataset["row_index"][:] if "row_index" in dataset.column_names else list(range(len(dataset)))
    votes = {
        number[position]: _counts(value, f"{source}: row {number[position] + 1:,}")
        for position, value in enumerate(values)
    }
    if not {"chosen", "rejected"} <= set(dataset.column_names):
        texts = [as_text(value) for value in dataset["prompt"][:]] if "prompt" in dataset.column_names else None
        ids = [prompt_id_of_text(value) for value in dataset["prompt"][:]] if texts else [str(i) for i in number]
        return VoteRows(
            votes=np.array([votes[i] for i in number]),
            prompt_ids=ids,
            row_index=np.array(number, np.int64),
            prompts=texts or [""] * len(number),
            responses=[("", "")] * len(number),
            form=form,
        )
    pairs = validate_rows(dataset, columns=(), invalid_rows=invalid_rows, source=source).dataset
    return VoteRows(
        votes=np.array([votes[i] for i in pairs["row_index"]]),
        prompt_ids=[prompt_id_of_text(row["prompt"], _context(row)) for row in pairs],
        row_index=np.array(pairs["row_index"][:], np.int64),
        prompts=[as_text(value) for value in pairs["prompt"]],
        responses=[(as_text(a), as_text(b)) for a, b in zip(pairs["chosen"], pairs["rejected"], strict=True)],
        form=form,
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


def _pandalm(dataset: datasets.Dataset, source: str) -> VoteRows:
    """Read one verdict per annotator: 1, 2, or 0 for a tie."""
    raters = sorted(name for name in dataset.column_names if name.startswith("annotator"))
    votes, prompts, responses = [], [], []
    for number, row in enumerate(dataset):
        given = [row[name] for name in raters if row[name] is not None]
        if any(verdict not in (0, 1, 2) for verdict in given):
            raise InputError(f"{source}: row {number + 1:,} has the verdicts {given}, expected 1, 2 or 0 for a tie")
        votes.append([given.count(1), given.count(2), given.count(0)])
        prompts.append("\n\n".join(text for text in map(as_text, (row.get("instruction"), row.get("input"))) if text))
        responses.append((as_text(row.get("response1")), as_text(row.get("response2"))))
    return VoteRows(
        votes=np.array(votes, np.float64),
        prompt_ids=[prompt_id_of_text(text) if text else str(i) for i, text in enumerate(prompts)],
        row_index=np.arange(len(votes)),
        prompts=prompts,
        responses=responses,
        form=VOTE_FORMS[2],
    )


def _side_by_side(dataset: datasets.Dataset, source: str) -> VoteRows:
    """Turn scores into votes: for each two outputs that differ, each rater votes for the one with less penalty."""
    votes, ids, index, prompts, responses = [], [], [], [], []
    for number, row in enumerate(dataset):
        systems, scores = distinct_outputs(row, f"{source}: row {number + 1:,}")
        source_text = str(row.get("source", ""))
        for first, second in combinations(range(len(systems)), 2):
            gap = scores[:, first] - scores[:, second]
            votes.append([(gap < 0).sum(), (gap > 0).sum(), (gap == 0).sum()])
            ids.append(prompt_id_of_text(source_text) if source_text else str(number))
            index.append(number)
            prompts.append(source_text)
            responses.append((row["outputs"][systems[first]], row["outputs"][systems[second]]))
    return VoteRows(
        votes=np.array(votes, np.float64).reshape(-1, 3),
        prompt_ids=ids,
        row_index=np.array(index, np.int64),
        prompts=prompts,
        responses=responses,
        form=VOTE_FORMS[3],
    )


def distinct_outputs(row: Mapping[str, Any], where: str) -> tuple[list[str], Floats]:
    """Read a row with `outputs` (system -> text) and `penalty` (system -> rater -> score).

    Args:
        row: The row.
        where: What to call it in a message.

    Returns:
        Systems whose texts differ (of equal texts the first), and their scores, shape (raters, systems). A rater who
        left one of them out is left out.

    Raises:
        InputError: Fewer than two texts, or a system without scores.
    """
    outputs = {name: text for name, text in row["outputs"].items() if text is not None}
    penalty: Mapping[str, Mapping[str, float | None]] = row["penalty"]
    first_of: dict[str, str] = {}
    for name, text in outputs.items():
        first_of.setdefault(text, name)
    systems = list(first_of.values())
    unscored = [name for name in systems if not penalty.get(name)]
    if len(systems) < 2 or unscored:
        raise InputError(
            f"{where}: expected at least two different outputs, each with scores; "
            + (f"{unscored[0]!r} has none" if unscored else f"found {len(systems)}")
        )
    raters = [rater for rater in penalty[systems[0]] if all(penalty[name].get(rater) is not None for name in systems)]
    return systems, np.array([[penalty[name][rater] for name in systems] for rater in raters], np.float64)


def as_text(value: Any) -> str:
    """Show a prompt or a response as text: chat messages one after the other, each with its role.

    Example:
        >>> as_text([{"role": "user", "content": "Hi"}])
        'user: Hi'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in value)
    return "" if value is None else str(value)
