"""Turn validated pairs into the token ids that TRL's trainer would use, and account for every row that is lost."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mallowspo.data.problems import RowError, RowProblem, check_invalid_rows, settle
from mallowspo.data.records import (
    LIST_COLUMN,
    TOKEN_COLUMNS,
    is_tokenized,
    prompt_id_of_ids,
    prompt_id_of_text,
)
from mallowspo.data.rendering import CONTEXT_COLUMNS, common_length, encoded, refuse_empty_tokenizer, rendered
from mallowspo.data.tables import is_json_feature
from mallowspo.errors import InputError, not_one_of

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

__all__ = ["TokenizedPairs", "check_tokenizer", "tokenize_pairs"]

_TRUNCATION = ("keep_start", "keep_end")
_PAIR = ("prompt", "chosen", "rejected")
_BATCH = 2_000
_MAPPED = 500


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as token ids, and what was lost or cut."""

    dataset: datasets.Dataset
    problems: tuple[RowProblem, ...] = ()
    truncated_chosen: int = 0
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
    """Tokenise pairs by TRL's rules, so that training sees the same tokens, and name the rows that are lost."""
    check_invalid_rows(invalid_rows)
    if truncation_mode not in _TRUNCATION:
        raise not_one_of("truncation_mode", truncation_mode, _TRUNCATION)
    if max_length is not None and max_length < 2:
        raise InputError(f"max_length: got {max_length}, expected at least 2 (a token of prompt, one of response)")
    if len(dataset) == 0:
        raise InputError(f"{dataset_name}: there are no rows")
    args = SimpleNamespace(dataset_num_proc=num_proc, max_length=max_length, truncation_mode=truncation_mode)
    if is_tokenized(dataset.column_names):
        _check_token_columns(dataset, dataset_name)
        numbers = _positions(dataset := _named(dataset), "row_index")
        return _account(dataset, numbers, [], len(dataset), args, invalid_rows, dataset_name)
    check_tokenizer(tokenizer, dataset, source=dataset_name)
    return _tokenize(dataset, tokenizer, args, invalid_rows, dataset_name)


def check_tokenizer(tokenizer: Any, dataset: datasets.Dataset, *, source: str = "dataset") -> None:
    """Raise `InputError` where the tokenizer cannot serve these pairs."""
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise InputError("tokenizer: it has neither a pad nor an EOS token; set tokenizer.eos_token")
    refuse_empty_tokenizer(tokenizer)
    conversational = isinstance(dataset[0]["prompt"], list)
    if not conversational and tokenizer.eos_token_id is None:
        raise InputError(
            f"tokenizer: it has no EOS token, so no response of {source} could be seen to end; set tokenizer.eos_token"
        )
    if conversational and tokenizer.chat_template is None and "chat_template_kwargs" not in dataset.column_names:
        raise InputError(
            f"tokenizer: it has no chat template, but the prompts of {source} are lists of messages; take the "
            "tokenizer of a chat model, set tokenizer.chat_template, or give prompt, chosen and rejected as text"
        )


def _check_token_columns(dataset: datasets.Dataset, source: str) -> None:
    import datasets

    for name in TOKEN_COLUMNS:
        feature = dataset.features[name]
        inner = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else None
        if not isinstance(inner, datasets.Value) or not (
            inner.dtype.startswith(("int", "uint")) or inner.dtype == "null"
        ):
            raise InputError(f"{source}: the column {name!r} must hold lists of token ids, found {feature}")


def _tokenize(dataset: datasets.Dataset, tokenizer: Any, args: Any, invalid_rows: str, name: str) -> TokenizedPairs:
    import datasets

    given = _named(dataset)
    numbers = _positions(given, "row_index")
    made = _encode(given, tokenizer, args.dataset_num_proc, name)
    refused = [(place, kind) for place, kind in enumerate(made["kind"][:]) if kind is not None]
    details = made["detail"][:] if refused else []
    problems = [RowProblem(int(numbers[place]), kind, details[place]) for place, kind in refused]
    parted = sum(made["parted"][:])
    if parted:
        logger.warning(
            f"{name}: in {parted:,} of {len(given):,} rows the tokens of the prompt alone are not the beginning of "
            "those of the prompt with its responses; the response begins where they part, as in TRL. "
            "`mallowspo check` shows such rows"
        )
    ids = made.select_columns(list(TOKEN_COLUMNS))
    tokens = datasets.concatenate_datasets([given, ids], axis=1)
    if refused:
        gone = {place for place, _ in refused}
        kept = [place for place in range(len(given)) if place not in gone]
        tokens, numbers = tokens.select(kept), numbers[kept]
    return _account(tokens, numbers, problems, len(dataset), args, invalid_rows, name)


def _encode(dataset: datasets.Dataset, tokenizer: Any, num_proc: int | None, name: str) -> datasets.Dataset:
    """Tokenise every row; one that the chat template refuses has the reason and no tokens."""
    import datasets

    from mallowspo.compat import main_process_first

    ids = datasets.List(datasets.Value("int64"))
    features = {name: ids for name in TOKEN_COLUMNS} | {
        "kind": datasets.Value("string"),
        "detail": datasets.Value("string"),
        "parted": datasets.Value("bool"),
    }
    read = dataset.select_columns([n for n in (*_PAIR, *CONTEXT_COLUMNS) if n in dataset.column_names])
    with main_process_first():
        return read.with_format(None).map(
            _encode_batch,
            batched=True,
            batch_size=_MAPPED,
            fn_kwargs={"tokenizer": tokenizer},
            remove_columns=read.column_names,
            features=datasets.Features(features),
            num_proc=num_proc,
            desc=f"Tokenizing {name} dataset",
        )


def _encode_batch(batch: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    size = len(batch["prompt"])
    made: dict[str, list[Any]] = {name: [[] for _ in range(size)] for name in TOKEN_COLUMNS}
    made |= {"kind": [None] * size, "detail": [None] * size, "parted": [False] * size}
    texts: list[str] = []
    places = []
    for place, values in enumerate(zip(*batch.values(), strict=True)):
        row = dict(zip(batch, values, strict=True))
        try:
            texts += rendered(tokenizer, row["prompt"], (row["chosen"], row["rejected"]), row)
        except RowError as error:
            made["kind"][place], made["detail"][place] = error.kind, error.detail
            continue
        places.append(place)
    ids = encoded(tokenizer, texts, chat=not isinstance(batch["prompt"][0], str))
    for i, place in enumerate(places):
        prompt, chosen, rejected = ids[3 * i : 3 * i + 3]
        cut = min(common_length(prompt, chosen), common_length(prompt, rejected))
        made["prompt_ids"][place], made["parted"][place] = prompt[:cut], cut < len(prompt)
        made["chosen_ids"][place], made["rejected_ids"][place] = chosen[cut:], rejected[cut:]
    return made


def _positions(dataset: datasets.Dataset, column: str) -> np.ndarray:
    return np.asarray(dataset.with_format("numpy")[column][:], dtype=np.int64)


def _account(
    tokens: datasets.Dataset,
    numbers: np.ndarray,
    problems: list[RowProblem],
    total: int,
    args: Any,
    invalid_rows: str,
    name: str,
) -> TokenizedPairs:
    """Leave out the rows that cannot be trained on as tokens, and settle the account with those lost before."""
    spans = _Spans(tokens, args.max_length, args.truncation_mode)
    lost = spans.problems(numbers)
    good = [i for i in range(len(tokens)) if i not in lost] if lost else None
    kept = tokens if good is None else tokens.select(good)
    every = sorted((*problems, *lost.values()), key=lambda problem: problem.row_index)
    settle(
        every,
        total,
        len(kept),
        invalid_rows=invalid_rows,
        source=f"{name} (as tokens, max_length {args.max_length})",
        remedy=_remedy(every),
    )
    return TokenizedPairs(kept, tuple(every), *spans.truncated(good))


def _remedy(problems: list[RowProblem]) -> str:
    too_long = any(problem.kind == "prompt_too_long" for problem in problems)
    return "Raise max_length" if too_long else "Mend these rows"


def _named(dataset: datasets.Dataset) -> datasets.Dataset:
    """Add `row_index`, `prompt_id` and `LIST_COLUMN`, and leave out mixed columns that `Dataset.map` would change."""
    columns = dataset.column_names
    is_tokens = is_tokenized(columns)
    if not is_tokens:
        text = (*_PAIR, *CONTEXT_COLUMNS)
        mixed = [n for n, feature in dataset.features.items() if is_json_feature(feature) and n not in text]
        # A hub data set may have a `prompt_id` of its own, or ids of another tokenizer; ours have a stated meaning.
        dataset = dataset.remove_columns([*mixed, *({"prompt_id", *TOKEN_COLUMNS} & set(columns))])
    if LIST_COLUMN not in dataset.column_names:
        dataset = dataset.add_column(LIST_COLUMN, np.arange(len(dataset)))
    if "row_index" not in dataset.column_names:
        dataset = dataset.add_column("row_index", np.arange(len(dataset)))
    if "prompt_id" not in dataset.column_names:
        dataset = dataset.add_column("prompt_id", _prompt_ids_as_names(dataset, is_tokens))
    return dataset


def _prompt_ids_as_names(dataset: datasets.Dataset, is_tokens: bool) -> list[str]:
    names = []
    read = ["prompt_ids"] if is_tokens else ["prompt", *(n for n in CONTEXT_COLUMNS if n in dataset.column_names)]
    for batch in dataset.select_columns(read).with_format(None).iter(_BATCH):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            if is_tokens:
                names.append(prompt_id_of_ids(row["prompt_ids"] or ()))
            else:
                prompt = row.pop("prompt")
                names.append(prompt_id_of_text(prompt, row))
    return names


def _too_long(number: Any, length: int, max_length: int) -> RowProblem:
    detail = f"the prompt alone has {length:,} tokens, max_length is {max_length:,}"
    return RowProblem(int(number), "prompt_too_long", detail)


class _Spans:
    """What the collator will keep of each row, in tokens; all arrays have one entry per row."""

    def __init__(self, tokens: datasets.Dataset, max_length: int | None, truncation_mode: str) -> None:
        self._tokens = tokens
        self._max_length = max_length
        self._keep_start = truncation_mode == "keep_start"
        lengths = {name: _lengths(tokens, name) for name in TOKEN_COLUMNS}
        self.prompt_n = lengths["prompt_ids"]
        self.response_n2 = np.stack([lengths["chosen_ids"], lengths["rejected_ids"]], axis=1)
        self.whole_n2 = self.prompt_n[:, None] + self.response_n2
        if max_length is None:
            self.kept_n2 = self.response_n2
        elif self._keep_start:
            self.kept_n2 = np.clip(max_length - self.prompt_n[:, None], 0, self.response_n2)
        else:
            self.kept_n2 = np.minimum(self.response_n2, max_length)

    def truncated(self, rows: list[int] | None = None) -> tuple[int, int]:
        """Count the rows, of all or of these, in which (chosen, rejected) is cut."""
        if self._max_length is None:
            return 0, 0
        cut = self.whole_n2 > self._max_length
        chosen, rejected = (cut if rows is None else cut[rows]).sum(axis=0)
        return int(chosen), int(rejected)

    def problems(self, numbers: np.ndarray) -> dict[int, RowProblem]:
        """Find rows that cannot be trained on, by position in the data."""
        found = self._bad_prompts(numbers)
        for i in np.flatnonzero((self.kept_n2 == 0).any(axis=1)):
            if int(i) in found:
                continue
            side = "chosen" if self.kept_n2[i, 0] == 0 else "rejected"
            found[int(i)] = RowProblem(int(numbers[i]), "empty_as_tokens", f"{side} has no tokens")
        equal = np.flatnonzero(self.kept_n2[:, 0] == self.kept_n2[:, 1])
        for first in range(0, len(equal), _BATCH):
            batch = equal[first : first + _BATCH]
            columns = self._tokens.select_columns(list(TOKEN_COLUMNS)).with_format(None).select(batch)[:]
            for i, prompt, chosen, rejected in zip(batch, *columns.values(), strict=True):
                if int(i) not in found and self._kept(prompt, chosen) == self._kept(prompt, rejected):
                    found[int(i)] = self._identical(int(i), int(numbers[i]))
        return found

    def _bad_prompts(self, numbers: np.ndarray) -> dict[int, RowProblem]:
        found = {
            int(i): RowProblem(int(numbers[i]), "empty_prompt", "prompt has no tokens")
            for i in np.flatnonzero(self.prompt_n == 0)
        }
        if self._max_length is not None and self._keep_start:
            for i in np.flatnonzero(self.prompt_n >= self._max_length):
                found[int(i)] = _too_long(numbers[i], int(self.prompt_n[i]), self._max_length)
        return found

    def _kept(self, prompt: list[int], response: list[int]) -> list[int]:
        whole = prompt + response
        if self._max_length is None:
            return whole
        return whole[: self._max_length] if self._keep_start else whole[-self._max_length :]

    def _identical(self, i: int, number: int) -> RowProblem:
        if self._max_length is None or (self.whole_n2[i] <= self._max_length).all():
            return RowProblem(number, "identical_as_tokens", "chosen and rejected are the same tokens")
        first = "first" if self._keep_start else "last"
        return RowProblem(
            number,
            "identical_after_truncation",
            f"the {first} {self._max_length:,} tokens of prompt and response, which is all that is kept, are the same "
            "for chosen and rejected",
        )


def _lengths(dataset: datasets.Dataset, column: str) -> np.ndarray:
    counts = [
        pc.list_value_length(batch[column]).fill_null(0).to_numpy()
        for batch in dataset.select_columns([column]).with_format("arrow").iter(10 * _BATCH)
        if isinstance(batch, pa.Table)
    ]
    return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)
