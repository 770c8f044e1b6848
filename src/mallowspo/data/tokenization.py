"""Turn validated pairs into the token ids that TRL's trainer would use, and account for every row that is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mallowspo.data.problems import RowError, RowProblem, check_invalid_rows, settle
from mallowspo.data.records import (
    LIST_COLUMN,
    RANKS_COLUMN,
    TOKEN_COLUMNS,
    is_tokenized,
    prompt_id_of_ids,
    prompt_id_of_text,
)
from mallowspo.data.rendering import CONTEXT_COLUMNS, Truncation, refuse_tokenizer, tokenised
from mallowspo.data.tables import is_json_feature, rows_of
from mallowspo.errors import InputError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

__all__ = ["TokenizedPairs", "tokenize_pairs"]

_PAIR = ("prompt", "chosen", "rejected")
_BATCH = 2_000
_MAPPED = 500


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as token ids, and what was lost or cut."""

    # `TOKEN_COLUMNS` (lists of int, whole: the collator cuts them), `prompt_id` (str), `row_index` and `LIST_COLUMN`
    # (int), and what the data set had before.
    dataset: datasets.Dataset
    problems: tuple[RowProblem, ...] = ()  # rows that were left out, and why
    truncated_chosen: int = 0  # rows whose prompt and chosen response the collator cuts to `max_length`
    truncated_rejected: int = 0


def tokenize_pairs(
    dataset: datasets.Dataset,
    tokenizer: Any,
    *,
    max_length: int | None,
    invalid_rows: str = "error",
    num_proc: int | None = None,
    truncation_mode: str = "keep_start",
    dataset_name: str = "train",
) -> TokenizedPairs:
    """Tokenise pairs of `validate_rows` as TRL does, or check rows of token ids, and name the rows that are lost."""
    # TRL drops a row without a word when its prompt alone fills `max_length`, and trains on responses that are empty
    # or identical once they are tokens.
    check_invalid_rows(invalid_rows)
    truncation = Truncation(max_length, truncation_mode)
    if len(dataset) == 0:
        raise InputError(f"{dataset_name}: there are no rows")
    refused: list[RowProblem] = []
    if is_tokenized(dataset.column_names):
        _check_token_columns(dataset, dataset_name)
        tokens = _named(dataset)
    else:
        _check_tokenizer(tokenizer, dataset, source=dataset_name)
        tokens, refused = _tokenize(_named(dataset), tokenizer, num_proc, dataset_name)
        if RANKS_COLUMN in tokens.column_names:
            tokens = _one_cut_a_list(tokens)
    lost, cut_n2 = _lost_rows(tokens, truncation)
    if lost:
        good = [place for place in range(len(tokens)) if place not in lost]
        tokens, cut_n2 = tokens.select(good), cut_n2[good]
    problems = sorted((*refused, *lost.values()), key=lambda problem: problem.row_index)
    too_long = any(problem.kind == "prompt_too_long" for problem in problems)
    settle(
        problems,
        len(dataset),
        len(tokens),
        invalid_rows=invalid_rows,
        source=f"{dataset_name} (as tokens, max_length {max_length})",
        remedy="Raise max_length" if too_long else "Mend these rows",
    )
    chosen, rejected = cut_n2.sum(axis=0).tolist()
    return TokenizedPairs(tokens, tuple(problems), chosen, rejected)


def _one_cut_a_list(tokens: datasets.Dataset) -> datasets.Dataset:
    """Cut prompt from responses at one place in all rows of a list.

    Where the prompt's last tokens merge with a response, its row is cut before them; the list's other responses must
    be scored over the same tokens of the prompt.
    """
    prompts, lists = tokens["prompt_ids"][:], tokens[LIST_COLUMN][:]
    shortest: dict[int, int] = {}
    for name, ids in zip(lists, prompts, strict=True):
        shortest[name] = min(len(ids), shortest.get(name, len(ids)))
    if all(len(ids) == shortest[name] for name, ids in zip(lists, prompts, strict=True)):
        return tokens
    sides = {side: tokens[side][:] for side in ("chosen_ids", "rejected_ids")}
    columns = {"prompt_ids": [ids[: shortest[name]] for name, ids in zip(lists, prompts, strict=True)]} | {
        side: [ids[shortest[name] :] + own for name, ids, own in zip(lists, prompts, values, strict=True)]
        for side, values in sides.items()
    }
    for name, values in columns.items():
        feature = tokens.features[name]
        tokens = tokens.remove_columns(name).add_column(name, values, feature=feature)
    return tokens


def _check_tokenizer(tokenizer: Any, dataset: datasets.Dataset, *, source: str) -> None:
    # A pad token equal to EOS is fine: what is padding is told by position, never by value.
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise InputError("tokenizer: it has neither a pad nor an EOS token; set tokenizer.eos_token")
    chat = isinstance(dataset[0]["prompt"], list)
    refuse_tokenizer(tokenizer, chat=chat, options="chat_template_kwargs" in dataset.column_names, source=source)


def _check_token_columns(dataset: datasets.Dataset, source: str) -> None:
    import datasets

    for name in TOKEN_COLUMNS:
        feature = dataset.features[name]
        inner = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else None
        if not isinstance(inner, datasets.Value) or not (
            inner.dtype.startswith(("int", "uint")) or inner.dtype == "null"
        ):
            raise InputError(f"{source}: the column {name!r} must hold lists of token ids, found {feature}")


def _row_numbers(dataset: datasets.Dataset) -> list[int]:
    numbers: list[int] = np.asarray(dataset.with_format("numpy")["row_index"][:], dtype=np.int64).tolist()
    return numbers


def _tokenize(
    given: datasets.Dataset, tokenizer: Any, num_proc: int | None, name: str
) -> tuple[datasets.Dataset, list[RowProblem]]:
    """Give the rows with their token ids, and those that the chat template refuses."""
    import datasets

    from mallowspo.compat import main_process_first

    features = dict.fromkeys(TOKEN_COLUMNS, datasets.List(datasets.Value("int64"))) | {
        "kind": datasets.Value("string"),
        "detail": datasets.Value("string"),
        "parted": datasets.Value("bool"),
    }
    read = given.select_columns([n for n in (*_PAIR, *CONTEXT_COLUMNS) if n in given.column_names])
    # Only what is cached is there for the others; for rows in memory nobody waits.
    with main_process_first() if read.cache_files else nullcontext():
        made = read.with_format(None).map(
            _encode_batch,
            batched=True,
            batch_size=_MAPPED,
            fn_kwargs={"tokenizer": tokenizer},
            remove_columns=read.column_names,
            features=datasets.Features(features),
            num_proc=num_proc,
            desc=f"Tokenizing {name} dataset",
        )
    parted = sum(made["parted"][:])
    if parted:
        logger.warning(
            f"{name}: in {parted:,} of {len(given):,} rows the tokens of the prompt alone are not the beginning of "
            "those of the prompt with its responses; the response begins where they part, as in TRL. "
            "`mallowspo check` shows such rows"
        )
    tokens = datasets.concatenate_datasets([given, made.select_columns(list(TOKEN_COLUMNS))], axis=1)
    kinds = made["kind"][:]
    if not any(kinds):
        return tokens, []
    found = zip(_row_numbers(given), kinds, made["detail"][:], strict=True)
    problems = [RowProblem(*problem) for problem in found if problem[1] is not None]
    return tokens.select([place for place, kind in enumerate(kinds) if kind is None]), problems


def _encode_batch(batch: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    """Tokenise rows; one that the chat template refuses has the reason and no tokens."""
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    made: dict[str, list[Any]] = {name: [] for name in (*TOKEN_COLUMNS, "kind", "detail", "parted")}
    for tokens in tokenised(tokenizer, [(row["prompt"], (row["chosen"], row["rejected"]), row) for row in rows]):
        if isinstance(tokens, RowError):
            values: tuple[Any, ...] = ([], [], [], tokens.kind, tokens.detail, False)
        else:
            prompt = tokens.prompt[: tokens.cut]
            values = (prompt, tokens.response(0), tokens.response(1), None, None, len(prompt) < len(tokens.prompt))
        for column, value in zip(made.values(), values, strict=True):
            column.append(value)
    return made


def _named(dataset: datasets.Dataset) -> datasets.Dataset:
    """Add `row_index`, `prompt_id` and `LIST_COLUMN`, and leave out mixed columns that `Dataset.map` would change."""
    columns = dataset.column_names
    is_tokens = is_tokenized(columns)
    if not is_tokens:
        text = (*_PAIR, *CONTEXT_COLUMNS)
        mixed = [n for n, feature in dataset.features.items() if is_json_feature(feature) and n not in text]
        # A hub data set may have a `prompt_id` of its own, or ids of another tokenizer; ours have a stated meaning.
        dataset = dataset.remove_columns([*mixed, *({"prompt_id", *TOKEN_COLUMNS} & set(columns))])
    for name in (LIST_COLUMN, "row_index"):
        if name not in dataset.column_names:
            dataset = dataset.add_column(name, np.arange(len(dataset)))
    if "prompt_id" not in dataset.column_names:
        dataset = dataset.add_column("prompt_id", _prompt_names(dataset, is_tokens))
    return dataset


def _prompt_names(dataset: datasets.Dataset, is_tokens: bool) -> list[str]:
    if is_tokens:
        return [prompt_id_of_ids(row["prompt_ids"] or ()) for row in rows_of(dataset, ["prompt_ids"])]
    read = ["prompt", *(name for name in CONTEXT_COLUMNS if name in dataset.column_names)]
    return [prompt_id_of_text(row.pop("prompt"), row) for row in rows_of(dataset, read)]


def _lost_rows(tokens: datasets.Dataset, truncation: Truncation) -> tuple[dict[int, RowProblem], np.ndarray]:
    """Find the rows that cannot be trained on, by their place, and which responses (N, 2) the collator cuts."""
    limit = truncation.max_length
    numbers = _row_numbers(tokens)
    prompt_n, chosen_n, rejected_n = (_lengths(tokens, name) for name in TOKEN_COLUMNS)
    response_n2 = np.stack([chosen_n, rejected_n], axis=1)
    whole_n2 = prompt_n[:, None] + response_n2
    if limit is None:
        kept_n2, cut_n2 = response_n2, np.zeros(response_n2.shape, bool)
    else:
        room = limit - prompt_n[:, None] if truncation.keeps_start else limit
        kept_n2, cut_n2 = np.clip(room, 0, response_n2), whole_n2 > limit
    found: dict[int, RowProblem] = {}

    def lose(places: Any, kind: str, detail: Callable[[int], str]) -> None:
        for i in map(int, places):
            if i not in found:
                found[i] = RowProblem(numbers[i], kind, detail(i))

    lose(np.flatnonzero(prompt_n == 0), "empty_prompt", lambda i: "prompt has no tokens")
    if limit is not None and truncation.keeps_start:
        told = f"max_length is {limit:,}"
        long = np.flatnonzero(prompt_n >= limit)
        lose(long, "prompt_too_long", lambda i: f"the prompt alone has {prompt_n[i]:,} tokens, {told}")
    empty = np.flatnonzero((kept_n2 == 0).any(axis=1))
    lose(empty, "empty_as_tokens", lambda i: f"{'rejected' if kept_n2[i, 0] else 'chosen'} has no tokens")
    equal = [i for i in np.flatnonzero(kept_n2[:, 0] == kept_n2[:, 1]).tolist() if i not in found]
    for i in _same_tokens(tokens, equal, truncation):
        kind, detail = "identical_as_tokens", "chosen and rejected are the same tokens"
        if cut_n2[i].any():
            kind = "identical_after_truncation"
            end = "first" if truncation.keeps_start else "last"
            detail = (
                f"the {end} {limit:,} tokens of prompt and response, which is all that is kept, are the same for "
                "chosen and rejected"
            )
        found[i] = RowProblem(numbers[i], kind, detail)
    return found, cut_n2


def _same_tokens(tokens: datasets.Dataset, places: list[int], truncation: Truncation) -> list[int]:
    """Give those of some rows of which the same is kept of both responses."""
    narrow = tokens.select_columns(list(TOKEN_COLUMNS)).with_format(None)
    found = []
    for first in range(0, len(places), _BATCH):
        batch = places[first : first + _BATCH]
        for i, prompt, chosen, rejected in zip(batch, *narrow.select(batch)[:].values(), strict=True):
            if truncation.kept(prompt + chosen) == truncation.kept(prompt + rejected):
                found.append(i)
    return found


def _lengths(dataset: datasets.Dataset, column: str) -> np.ndarray:
    counts = [
        pc.list_value_length(batch[column]).fill_null(0).to_numpy()
        for batch in dataset.select_columns([column]).with_format("arrow").iter(10 * _BATCH)
        if isinstance(batch, pa.Table)
    ]
    return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)
