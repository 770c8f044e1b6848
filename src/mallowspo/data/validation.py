"""Check what preference data says before anything is computed from it, and bring it into one layout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mallowspo.data.annotations import LAYOUT_COLUMNS, OPTIONAL_COLUMNS, read_annotations
from mallowspo.data.problems import RowError, RowProblem, check_invalid_rows, settle
from mallowspo.data.records import (
    LIST_COLUMN,
    PLACES_COLUMN,
    RANKS_COLUMN,
    RESERVED_COLUMNS,
    TOKEN_COLUMNS,
    PreferenceRow,
    is_tokenized,
    row_from_columns,
)
from mallowspo.data.tables import TableBuilder, is_json_feature, rows_of
from mallowspo.errors import InputError, not_one_of

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

__all__ = ["ValidatedData", "check_columns", "require_dataset", "validate_rows"]

_CHUNK = 2_000
_LAYOUTS = (
    "prompt, chosen, rejected (text)",
    "chosen, rejected (text that begins with the prompt)",
    "prompt, chosen, rejected (lists of messages)",
    "chosen, rejected (lists of messages that begin with the prompt)",
    "prompt, responses, ranks (K >= 2 responses, rank 1 is best)",
    "prompt, responses, scores (K >= 2 responses, the higher score is better)",
)
# Columns that other tools write beside a preference; TRL would take them for the conversation itself.
_SHADOWING = frozenset({"messages", "completion"})
_PAIR = ("prompt", "chosen", "rejected")
# What public data sets call the prompt. Without a prompt the words that both responses happen to begin with are one.
_PROMPT_NAMES = frozenset({"prompt", "prompt_text", "question", "instruction", "input", "query", "context"})


@dataclass(frozen=True)
class ValidatedData:
    """Pairs that can be tokenised, and what was left out."""

    # `prompt`, `chosen`, `rejected` (text or messages), `row_index` (position in the source from 0, for messages), the
    # optional columns that were asked for (`votes` as [chosen, rejected, ties], `rankings` of all K responses), and
    # the source's other columns, untouched. A row of K > 2 ranked responses gives one pair per strict preference;
    # where there is one, the pairs of one row have the same value in `LIST_COLUMN`.
    dataset: datasets.Dataset
    problems: tuple[RowProblem, ...] = ()


def validate_rows(
    dataset: datasets.Dataset,
    *,
    invalid_rows: str = "error",
    columns: Collection[str] = OPTIONAL_COLUMNS,
    source: str = "dataset",
    lists: bool = False,
) -> ValidatedData:
    """Check every row, and these of `OPTIONAL_COLUMNS`, and give the good ones as pairs with an explicit prompt.

    With `lists` the pairs of a row are as few as hold all of its responses, with `PLACES_COLUMN` and `RANKS_COLUMN`.
    """
    # TRL trains on empty and identical responses without a word, and crashes on an implicit prompt that is empty. Here
    # every such row is named, all at once. Rows that are token ids alone have no text to check.
    check_invalid_rows(invalid_rows)
    for name in columns:
        if name not in OPTIONAL_COLUMNS:
            raise not_one_of("columns", name, OPTIONAL_COLUMNS)
    import datasets

    require_dataset(dataset, source)
    if len(dataset) == 0:
        raise InputError(f"{source}: there are no rows")
    wanted = frozenset(columns)
    dataset = _without_reserved(dataset, source)
    if is_tokenized(dataset.column_names):
        return _check_beside_tokens(dataset, wanted, invalid_rows=invalid_rows, source=source)
    dataset = dataset.with_format(None)
    messages = isinstance(dataset.features.get("chosen"), datasets.List | datasets.LargeList)
    check_columns(dataset.column_names, source, messages=messages)
    numbers = _row_numbers(dataset)
    builder = TableBuilder() if lists or _needs_rebuilding(dataset, wanted) else None
    places, chats, problems = _check_all(dataset, numbers, wanted, builder, lists)
    # TRL decides by the first row whether to add an end-of-sequence token, for all rows alike.
    usual = 2 * sum(chats) > len(chats)
    odd = {place for place, chat in zip(places, chats, strict=True) if chat != usual}
    found, other = ("text", "lists of messages") if usual else ("a list of messages", "text")
    detail = f"the row is {found}, most rows are {other}"
    problems += [RowProblem(numbers[place], "mixed_layout", detail) for place in sorted(odd)]
    problems.sort(key=lambda problem: problem.row_index)
    settle(problems, len(dataset), len(set(places) - odd), invalid_rows=invalid_rows, source=source)
    kept = [i for i, place in enumerate(places) if place not in odd]
    table = None
    if builder is not None:
        built = builder.finish()
        table = _plain(built if len(kept) == len(built) else built.select(kept))
    assembled = _assemble(dataset, table, [places[i] for i in kept], numbers, wanted, lists)
    return ValidatedData(assembled, tuple(problems))


def _without_reserved(dataset: datasets.Dataset, source: str) -> datasets.Dataset:
    """Leave out columns under names that are computed here, and token ids that stand beside text."""
    names = dataset.column_names
    ours = {PLACES_COLUMN, RANKS_COLUMN} if LIST_COLUMN in names else set()  # of rows that were validated before
    out = [name for name in names if name in RESERVED_COLUMNS - ours]
    if not is_tokenized(names) and {"chosen", "rejected"} <= set(names):
        out += [name for name in names if name in TOKEN_COLUMNS]
    if not out:
        return dataset
    logger.warning(f"{source}: not read, since they are computed anew: {', '.join(out)}")
    return dataset.remove_columns(out)


def require_dataset(value: Any, name: str) -> datasets.Dataset:
    """Raise `InputError` unless this is a `datasets.Dataset`, and say how to make one of it."""
    import datasets

    if isinstance(value, datasets.Dataset):
        return value
    if value is None:
        raise InputError(f"{name}: it is missing; pass a datasets.Dataset of preference rows")
    raise InputError(f"{name}: got {type(value).__name__}; {_remedy(value)}")


def _remedy(value: Any) -> str:
    """Say how to make a `datasets.Dataset` of what was given for one."""
    import datasets

    if isinstance(value, datasets.IterableDataset | datasets.IterableDatasetDict):
        return "load it whole (streaming=False, dataset_streaming: false): only a training set can be read as it comes"
    if isinstance(value, Mapping):
        splits = [key for key, part in value.items() if isinstance(part, datasets.Dataset | datasets.IterableDataset)]
        if splits or isinstance(value, datasets.DatasetDict):
            first = "train" if "train" in splits or not splits else splits[0]
            return (
                f"pass one of its splits, such as dataset[{first!r}]; it has {', '.join(map(str, splits)) or 'none'}"
            )
    if isinstance(value, str | PathLike):
        return f"load it first: mallowspo.data.load_preferences({str(value)!r}).dataset"
    makers = {"list": "from_list(rows)", "dict": "from_dict(columns)", "DataFrame": "from_pandas(frame)"}
    maker = makers.get(type(value).__name__)
    return f"pass datasets.Dataset.{maker}" if maker else "expected a datasets.Dataset of preference rows"


def check_columns(names: Sequence[str], source: str, *, messages: bool = False) -> None:
    """Raise `InputError` where a data set's columns hold no preference in an accepted layout."""
    vision = sorted({"image", "images"} & set(names))
    if vision:
        raise InputError(f"{source}: the column {vision[0]!r} holds images; only text is supported")
    ranked = {"prompt", "responses"} <= set(names) and bool({"ranks", "scores"} & set(names))
    if not ranked and not {"chosen", "rejected"} <= set(names):
        layouts = "\n".join(f"  {layout}" for layout in _LAYOUTS)
        raise InputError(
            f"{source}: no preference in the columns {', '.join(names)}; rename yours to one of\n{layouts}"
        )
    if "responses" in names and {"chosen", "rejected"} <= set(names):
        raise InputError(f"{source}: has both responses and chosen/rejected; leave one of the two out")
    prompts = [name for name in names if name.lower() in _PROMPT_NAMES]
    if prompts and "prompt" not in names and not messages:
        found = " and ".join(repr(name) for name in prompts)
        which, columns = ("it", "column") if len(prompts) == 1 else ("the one with the prompt", "columns")
        raise InputError(
            f"{source}: there is no column 'prompt', but there is {found}; rename {which} to 'prompt'. "
            f"If both responses begin with the prompt, remove the {columns} {found} instead"
        )


def _row_numbers(dataset: datasets.Dataset) -> list[int]:
    """Give each row's number for messages: its own `row_index` where it has a sound one, else its position."""
    if "row_index" in dataset.column_names:
        found: list[Any] = dataset["row_index"][:]
        sound = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in found)
        if sound and (LIST_COLUMN in dataset.column_names or len(set(found)) == len(found)):
            return found
    return list(range(len(dataset)))


def _good_rows(
    dataset: datasets.Dataset,
    numbers: list[int],
    columns: Sequence[str],
    read: Callable[[dict[str, Any], int], Any],
    problems: list[RowProblem],
) -> Iterator[tuple[int, Any]]:
    """Read some columns row by row; one that cannot be used is a problem, the others come with their place."""
    for place, values in enumerate(rows_of(dataset, columns)):
        try:
            row = read(values, numbers[place])
        except RowError as error:
            problems.append(RowProblem(numbers[place], error.kind, error.detail))
        else:
            yield place, row


def _check_beside_tokens(
    dataset: datasets.Dataset, wanted: frozenset[str], *, invalid_rows: str, source: str
) -> ValidatedData:
    """Check the optional columns of rows that are tokens; where all is well they are the very rows that were given."""
    numbers = _row_numbers(dataset)
    names = [name for name in OPTIONAL_COLUMNS if name in wanted and name in dataset.column_names]
    problems: list[RowProblem] = []
    good: dict[int, dict[str, Any]] = dict.fromkeys(range(len(dataset)), {})
    if names:
        read = partial(read_annotations, k=None, pair=True, columns=names)
        good = dict(_good_rows(dataset, numbers, names, lambda values, _: read(values), problems))
    settle(problems, len(dataset), len(good), invalid_rows=invalid_rows, source=source)
    columns = {name: [_as_lists(row[name]) for row in good.values()] for name in names}
    if problems or "row_index" in dataset.column_names:
        columns["row_index"] = [numbers[place] for place in good]
    return ValidatedData(_with_columns(dataset.select(list(good)) if problems else dataset, columns), tuple(problems))


def _with_columns(dataset: datasets.Dataset, columns: dict[str, list[Any]]) -> datasets.Dataset:
    """Set columns; one that has these very values is left alone, so that sound data stay what they are."""
    for name, values in columns.items():
        if name in dataset.column_names:
            if dataset.with_format(None)[name][:] == values:
                continue
            dataset = dataset.remove_columns(name)
        dataset = dataset.add_column(name, values)
    return dataset


def _as_lists(value: Any) -> Any:
    """Give nested tuples as the lists that a column holds."""
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _needs_rebuilding(dataset: datasets.Dataset, wanted: frozenset[str]) -> bool:
    """Say whether the rows are in another layout or type than the one that is handed on."""
    import datasets

    features = dataset.features
    if "responses" in features or any(name not in features for name in _PAIR):
        return True
    texts = [features[name] for name in _PAIR]
    if any(name in features for name in wanted):
        return True
    return not (
        all(isinstance(feature, datasets.Value) and feature.dtype == "string" for feature in texts)
        or all(isinstance(feature, datasets.List | datasets.LargeList) for feature in texts)
    )


def _pair_columns(pair: PreferenceRow) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt": pair.prompt, "chosen": pair.responses[0], "rejected": pair.responses[1]}
    if pair.places is not None:
        found |= {PLACES_COLUMN: list(pair.places), RANKS_COLUMN: list(pair.ranks)}
    for name in OPTIONAL_COLUMNS:
        value = getattr(pair, name)
        if value is not None:
            found[name] = value
    return found


def _check_all(
    dataset: datasets.Dataset, numbers: list[int], wanted: frozenset[str], builder: TableBuilder | None, lists: bool
) -> tuple[list[int], list[bool], list[RowProblem]]:
    """Give of each good pair its row's place and whether it is chat, and the problems; `builder` gets the pairs."""
    places: list[int] = []
    chats: list[bool] = []
    problems: list[RowProblem] = []
    chunk: list[dict[str, Any]] = []
    columns = [n for n in (*LAYOUT_COLUMNS, *wanted) if n in dataset.column_names]
    read = partial(row_from_columns, columns=wanted)
    for place, row in _good_rows(dataset, numbers, columns, read, problems):
        pairs = row.to_cover() if lists else row.to_pairs()
        places += [place] * len(pairs)
        chats += [row.is_conversational] * len(pairs)
        if builder is not None:
            chunk += map(_pair_columns, pairs)
            if len(chunk) >= _CHUNK:
                builder.append_rows(chunk)
                chunk = []
    if builder is not None:
        builder.append_rows(chunk)
    return places, chats, problems


def _assemble(
    dataset: datasets.Dataset,
    table: datasets.Dataset | None,
    places: list[int],
    numbers: list[int],
    wanted: frozenset[str],
    lists: bool,
) -> datasets.Dataset:
    """Put the good pairs together: the checked columns, `row_index`, and what else the source had."""
    import datasets

    replaced = _SHADOWING | wanted | {"responses", "ranks", "row_index"}
    if "responses" in dataset.column_names:
        replaced |= {"scores"}
    parts = []
    if table is not None:
        replaced |= set(_PAIR)
        parts.append(table)
    others = dataset.remove_columns([name for name in dataset.column_names if name in replaced])
    if others.column_names:
        whole = places == list(range(len(dataset)))
        parts.append(others if whole else others.select(places).flatten_indices())
    ours = {"row_index": [numbers[place] for place in places]}
    if LIST_COLUMN not in dataset.column_names and (lists or len(set(places)) < len(places)):
        ours[LIST_COLUMN] = places
    parts.append(datasets.Dataset(pa.table({name: pa.array(ids, type=pa.int64()) for name, ids in ours.items()})))
    return datasets.concatenate_datasets(parts, axis=1)


def _plain(dataset: datasets.Dataset) -> datasets.Dataset:
    """Give mixed columns their plain type back, now that the values which did not fit are gone."""
    # A text that reads as JSON (an answer such as "42") would come out of `Dataset.map` as a number otherwise.
    if not any(is_json_feature(feature) for feature in dataset.features.values()):
        return dataset
    builder = TableBuilder()
    for columns in dataset.iter(10 * _CHUNK):
        builder.append_columns(columns, len(next(iter(columns.values()))))
    return builder.finish()
