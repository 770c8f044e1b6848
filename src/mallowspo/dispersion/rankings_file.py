"""Read people's rankings of a prompt's responses, in general forms and in that of one public data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data import load_preferences
from mallowspo.data.records import prompt_id_of_text
from mallowspo.dispersion.judged_rows import Judged, as_text
from mallowspo.dispersion.published import PUBLISHED_FORMS, holds_orders, read_judged, renamed
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

# Columns of the table form that name things and rank nothing.
_NAMING = ("row_index", "prompt", "group", "rater", "annotator", "person", "id")


@dataclass(frozen=True)
class RankingRows:
    """Rankings of the responses to P prompts.

    Attributes:
        ranks: For each prompt an array of shape (m, n): entry i of a row is the rank of response i, 1 is best;
            responses may share a rank.
        prompt_ids: What names each prompt, as a reference store names it; length P.
        prompts: Each prompt as text.
        items: The names or texts of each prompt's responses.
        form: Which form the file has.
    """

    ranks: list[Floats]
    prompt_ids: list[str]
    prompts: list[str]
    items: list[list[str]]
    form: str

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
        if len(ranks) < 2:
            which = f"prompt {place + 1:,}" if len(found.ranks) > 1 else "it"
            raise InputError(
                f"{source}: {which} has {len(ranks)} ranking{'s' * (len(ranks) != 1)}; people can only differ where "
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
    items = [column for column in dataset.column_names if column not in _NAMING]
    words = [column for column in items if dataset.features[column].dtype in ("string", "large_string")]
    if len(items) < 2 or words:
        forms = "\n".join(f"  {form}" for form in RANKING_FORMS)
        found = f"the column {words[0]!r} holds words" if words else f"{len(items)} columns of ranks"
        raise InputError(
            f"{source}: no rankings in the columns {', '.join(dataset.column_names)} ({found}); expected\n{forms}"
        )
    group = next((column for column in ("prompt", "group") if column in dataset.column_names), None)
    groups: dict[str, list[list[Any]]] = {}
    for row in dataset:
        groups.setdefault(name if group is None else str(row[group]), []).append([row[item] for item in items])
    return RankingRows(
        ranks=[_array(rows, f"{source}: {prompt}") for prompt, rows in groups.items()],
        prompt_ids=[prompt if group is None else prompt_id_of_text(prompt) for prompt in groups],
        prompts=list(groups),
        items=[items] * len(groups),
        form=RANKING_FORMS[1],
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
    )


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
    bad = ~((ranks >= 1) & (ranks <= count))
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        raise InputError(
            f"{where}: ranking {row + 1:,} is {[float(r) for r in ranks[row]]}, expected ranks from 1 (best) to "
            f"{count}, none missing"
        )
    return ranks
