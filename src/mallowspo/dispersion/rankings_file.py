"""Read people's rankings of a prompt's responses, in general forms and in that of one public data set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mallowspo.data import load_preferences
from mallowspo.data.records import prompt_id_of_text
from mallowspo.dispersion.judged_rows import Judged, as_text
from mallowspo.dispersion.published import PUBLISHED_FORMS, holds_orders, read_judged, renamed
from mallowspo.dispersion.ranking_columns import items_sentence, names_things, settled_items
from mallowspo.errors import InputError
from mallowspo.files import parse_json

if TYPE_CHECKING:
    import datasets

__all__ = ["RANKING_FORMS", "RankingRows", "load_rankings", "load_truth"]

Floats = NDArray[np.float64]

RANKING_FORMS = (
    "a column `rankings` with a list of m >= 2 rankings, one row a prompt",
    "one row a ranking, one column an item with its rank, and perhaps a column `prompt` that groups the rows",
    *(form.words for form in PUBLISHED_FORMS),
)

# Columns of the table form that say how many people gave the row's ranking.
_COUNTS = ("count", "counts", "n", "votes", "weight", "weights", "num_voters", "frequency")


@dataclass(frozen=True)
class RankingRows:
    """Rankings of the responses to P prompts.

    Attributes:
        ranks: For each prompt an array of shape (m, n): entry i of a row is the rank of response i, 1 is best;
            responses may share a rank (a top k shares the last one among the rest), and NaN was not seen.
        prompt_ids: What names each prompt, as a reference store names it; length P.
        prompts: Each prompt as text.
        items: The names or texts of each prompt's responses.
        form: Which form the file has.
        counts: For each prompt how many people gave each ranking, shape (m,); one each where it is None.
        ties: What a shared rank means: `unordered`, an order that was not given, or `half`, no difference seen.
        notes: What the reader took the file to mean, and warnings, as sentences.
    """

    ranks: list[Floats]
    prompt_ids: list[str]
    prompts: list[str]
    items: list[list[str]]
    form: str
    counts: list[Floats] | None = None
    ties: str = "unordered"
    notes: tuple[str, ...] = ()

    @property
    def tied(self) -> bool:
        """Whether any response shares a rank with another."""
        return any((np.diff(np.sort(ranks, axis=1), axis=1) == 0).any() for ranks in self.ranks)


def load_rankings(
    source: str | os.PathLike[str], *, column: str = "rankings", columns: str = "", split: str = "train"
) -> RankingRows:
    r"""Read rankings from a file in one of `RANKING_FORMS`.

    Args:
        source: A `.jsonl`, `.json`, `.csv` (each also `.gz`) or `.parquet` file, a folder, or a hub name.
        column: The column of the first form.
        columns: The file's own column names, as `name=column` with commas between them; see `COLUMN_NAMES`.
        split: The split of a folder or of a hub data set.

    Returns:
        The rankings.

    Raises:
        InputError: There is no such file or column, a prompt has fewer than two rankings, its rankings have different
            items, or a rank is no number or missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "apples.csv"
        >>> _ = path.write_text("red,green\n1,2\n2,1\n")
        >>> rows = load_rankings(path)
        >>> rows.prompts, rows.items, rows.ranks[0].tolist()
        (['apples'], [['red', 'green']], [[1.0, 2.0], [2.0, 1.0]])
    """
    dataset = load_preferences(source, split=split).dataset
    if len(dataset) == 0:
        raise InputError(f"{source}: there are no rows")
    if columns:
        dataset = renamed(dataset, columns, str(source))
    name = Path(source).name.split(".")[0]
    if column in dataset.column_names and not holds_orders(dataset, column):
        found = _lists(dataset, column, str(source))
    elif column == "rankings" and (judged := read_judged(dataset, str(source))) is not None:
        found = _of_judged(judged, str(source))
    elif column != "rankings":
        raise InputError(f"{source}: no column {column!r}, it has {', '.join(dataset.column_names)}")
    else:
        found = _table(dataset, str(source), name)
    for place, ranks in enumerate(found.ranks):
        people = len(ranks) if found.counts is None else float(found.counts[place].sum())
        if people < 2:
            which = f"prompt {place + 1:,}" if len(found.ranks) > 1 else "it"
            raise InputError(
                f"{source}: {which} has {people:g} ranking{'s' * (people != 1)}; people can only differ where "
                "there are at least 2"
            )
    return found


def load_truth(source: str | os.PathLike[str], *, items: int) -> NDArray[np.int64]:
    """Read one ranking that is known to be true, to measure a centre by.

    Args:
        source: A file with one row and one column an item, in the order of the rankings' columns.
        items: How many items there are.

    Returns:
        The ranking, shape (items,).

    Raises:
        InputError: The file holds something else.
    """
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
        number = row.get("row_index", position)
        given = row[column]
        if isinstance(given, str):
            try:
                given = parse_json(given)
            except ValueError as error:
                raise InputError(f"{source}: row {number + 1:,} has no list of rankings ({error})") from error
        ranks.append(_array(given, f"{source}: row {number + 1:,}"))
        prompt = row.get("prompt")
        ids.append(str(number) if prompt is None else prompt_id_of_text(prompt))
        prompts.append(prompt if isinstance(prompt, str) else f"row {number + 1:,}")
        responses = row.get("responses") or [row[side] for side in ("chosen", "rejected") if side in row]
        names = [text if isinstance(text, str) else str(text) for text in responses]
        count = ranks[-1].shape[1]
        items.append(names if len(names) == count else [f"response {i + 1}" for i in range(count)])
    return RankingRows(ranks, ids, prompts, items, RANKING_FORMS[0])


def _table(dataset: datasets.Dataset, source: str, name: str) -> RankingRows:
    columns = dataset.column_names
    if len(set(columns)) < len(columns):
        raise InputError(f"{source}: two columns have one name; give each item one column")
    counted = next((column for column in columns if column.casefold() in _COUNTS), None)
    group = next((column for column in columns if column.casefold() in ("prompt", "group")), None)
    forms = "\n".join(f"  {form}" for form in RANKING_FORMS)
    known = f"{source}: no rankings in the columns {', '.join(columns)}"
    given: dict[str, Floats] = {}
    named: dict[str, Floats] = {}
    for column in columns:
        if not names_things(column) and column != counted:
            given[column] = _numbers(dataset, column, known, forms)
        elif column not in (counted, group):
            with contextlib.suppress(InputError):
                named[column] = _numbers(dataset, column, known, forms)
    settled = settled_items(given, named, lambda ranks: _array(ranks.tolist(), source))
    items = [column for column in columns if column in settled]
    if len(items) < 2:
        raise InputError(f"{known} ({len(items)} columns of ranks); expected\n{forms}")
    values = np.column_stack([(given | named)[item] for item in items])
    weights = np.ones(len(values)) if counted is None else _numbers(dataset, counted, known, forms)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        row = int(np.argmin(np.isfinite(weights) & (weights >= 0)))
        raise InputError(f"{source}: row {row + 1:,} has {weights[row]} in {counted!r}, expected how many people >= 0")
    notes = [items_sentence(items, [c for c in columns if c not in (*items, counted, group)])]
    if counted is not None:
        notes.append(f"The column {counted!r} says how many people gave each ranking.")
    try:
        header = sorted(float(item) for item in items)
    except ValueError:
        header = []
    if header == list(range(1, len(items) + 1)):
        notes.append(f"The header {','.join(items)} is itself a ranking: if the file has none, its first row is lost.")
    where_of: dict[str, list[int]] = {}
    for place, value in enumerate([name] * len(values) if group is None else dataset[group][:]):
        where_of.setdefault(name if group is None else str(value), []).append(place)
    ranks = [_array(values[rows].tolist(), f"{source}: {prompt}") for prompt, rows in where_of.items()]
    if any((found == found.shape[1] + 1).any() for found in ranks):
        notes.append("Blank ranks are taken as below all ranked items (a top k).")
    return RankingRows(
        ranks=ranks,
        prompt_ids=[prompt if group is None else prompt_id_of_text(prompt) for prompt in where_of],
        prompts=list(where_of),
        items=[items] * len(where_of),
        form=RANKING_FORMS[1],
        counts=None if counted is None else [weights[rows] for rows in where_of.values()],
        notes=tuple(notes),
    )


def _of_judged(judged: Judged, source: str) -> RankingRows:
    """Take the judges who ranked every response; prompts with fewer than two of them are left out."""
    if any((row.weights != 1).any() for row in judged.rows):
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


def _numbers(dataset: datasets.Dataset, column: str, known: str, forms: str) -> Floats:
    """Read one column of numbers with blanks as NaN; anything else is no rank."""
    given = dataset[column][:]
    wrong = next(
        (v for v in given if v is not None and (isinstance(v, bool) or not isinstance(v, (int, float)))), None
    )
    if isinstance(wrong, str) and not wrong.strip():
        given = [None if isinstance(v, str) and not v.strip() else v for v in given]
        wrong = None
    if wrong is not None:
        what = "words" if isinstance(wrong, str) else f"a {type(wrong).__name__}"
        raise InputError(f"{known} (the column {column!r} holds {what}); expected\n{forms}")
    try:
        return np.array([np.nan if v is None else v for v in given], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{known} (the column {column!r} holds {error}); expected\n{forms}") from error


def _array(rows: Any, where: str) -> Floats:
    """Bring one prompt's rankings into an array, or say what is wrong with them."""
    if not isinstance(rows, Sequence) or not rows or not all(isinstance(row, Sequence) for row in rows):
        raise InputError(f"{where}: expected a list of rankings, each a list of ranks, got {str(rows)[:60]!r}")
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise InputError(
            f"{where}: the rankings have different items ({lengths[0]} and {lengths[-1]} ranks); everybody must rank "
            "the same responses"
        )
    try:
        ranks = np.array(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: a rank is no number in {str(rows)[:60]}") from error
    count = ranks.shape[1]
    if count < 2:
        raise InputError(f"{where}: there is {count} response, expected at least 2")
    blank = np.isnan(ranks)
    bad = ~(((ranks >= 1) & (ranks <= count)) | blank)
    # Any numbering of the groups will do (1 1 3, 1 1 2, 1.5 1.5 3), yet a rank cannot leave more above than there are.
    ordered = np.sort(np.where(blank, np.inf, ranks), axis=1)
    bad |= ((ordered > np.arange(1, count + 1)) & np.isfinite(ordered) & ~_midranks(ordered)).any(axis=1)[:, None]
    bad |= np.asarray(blank.all(axis=1))[:, None]
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        raise InputError(
            f"{where}: ranking {row + 1:,} is {[float(r) for r in ranks[row]]}, expected ranks from 1 (best) to "
            f"{count}, shared by ties, blank for what was not ranked"
        )
    return np.where(blank, count + 1, ranks)


def _midranks(ordered: Floats) -> NDArray[np.bool_]:
    """Where sorted ranks are those of ties that take the mean or the largest of their places."""
    good = [rankdata(ordered, method=method, axis=1) == ordered for method in ("average", "max")]
    return np.asarray(good[0].all(axis=1) | good[1].all(axis=1))[:, None]
