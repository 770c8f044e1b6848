"""Turn validated pairs into the very token ids that TRL's trainer would use, and account for every row it loses."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from mallowspo.data.problems import RowProblem, check_invalid_rows, settle
from mallowspo.data.records import TOKEN_COLUMNS, prompt_id_of_ids, prompt_id_of_text
from mallowspo.data.tables import is_json_feature
from mallowspo.errors import InputError, not_one_of

if TYPE_CHECKING:
    import datasets

__all__ = ["TokenizedPairs", "check_tokenizer", "tokenize_pairs"]

_TRUNCATION = ("keep_start", "keep_end")
# What a chat template reads beside the messages.
_CONTEXT = ("tools", "chat_template_kwargs")
# Numbers the rows on their way through TRL, whose filter says nothing of what it drops.
_POSITION = "__position__"
_BATCH = 2_000


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as token ids, and what was lost or cut.

    Attributes:
        dataset: Columns `prompt_ids`, `chosen_ids`, `rejected_ids` (lists of int), `prompt_id` (str),
            `row_index` (int), and what the data set had before. The ids are whole: the collator cuts them.
        problems: Rows that were left out, and why.
        truncated_chosen: Rows of `dataset` whose prompt and chosen response the collator cuts to `max_length`.
        truncated_rejected: The same for the rejected response.
    """

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
    """Tokenise pairs by TRL's own code, so that training sees the same tokens, and name the rows that are lost.

    TRL drops a row without a word when its prompt alone fills `max_length`, and trains on responses that are
    empty or identical once they are tokens. Here these rows are named.

    Args:
        dataset: Pairs with an explicit prompt, from `validate_rows`; or rows that have `TOKEN_COLUMNS` already, which
            are checked like any others and otherwise left as they are (given a `prompt_id` and a `row_index` where
            they lack one).
        tokenizer: A Hugging Face tokenizer, with a chat template where the prompts are messages.
        max_length: Tokens to keep of prompt and response together, or None for all.
        invalid_rows: `error` raises where any row is lost, `drop` leaves such rows out.
        num_proc: Processes to tokenise with; None is one.
        truncation_mode: `keep_start` or `keep_end`: which end the collator keeps.
        dataset_name: Shown on progress bars and in messages.

    Returns:
        The token ids and the account.

    Raises:
        InputError: The tokenizer does not fit the data; rows are lost (see `invalid_rows`); none is left.
    """
    check_invalid_rows(invalid_rows)
    if truncation_mode not in _TRUNCATION:
        raise not_one_of("truncation_mode", truncation_mode, _TRUNCATION)
    if max_length is not None and max_length < 2:
        raise InputError(f"max_length: got {max_length}, expected at least 2 (a token of prompt, one of response)")
    if len(dataset) == 0:
        raise InputError(f"{dataset_name}: there are no rows")
    args = SimpleNamespace(dataset_num_proc=num_proc, max_length=max_length, truncation_mode=truncation_mode)
    if set(TOKEN_COLUMNS) <= set(dataset.column_names):
        _check_token_columns(dataset, dataset_name)
        numbers = _positions(dataset := _named(dataset), "row_index")
        return _account(dataset, numbers, [], len(dataset), args, invalid_rows, dataset_name, given=True)
    check_tokenizer(tokenizer, dataset, source=dataset_name)
    return _tokenize(dataset, tokenizer, args, invalid_rows, dataset_name)


def check_tokenizer(tokenizer: Any, dataset: datasets.Dataset, *, source: str = "dataset") -> None:
    """Raise `InputError` where the tokenizer cannot serve these pairs.

    A text must end in EOS, a batch must be padded, messages need a template. A pad token equal to EOS is fine: what
    is padding is told by position, never by value.

    Args:
        tokenizer: A Hugging Face tokenizer.
        dataset: Pairs with an explicit prompt, at least one.
        source: What the rows came from, for messages.
    """
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise InputError("tokenizer: it has neither a pad nor an EOS token; set tokenizer.eos_token")
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
    given = _named(dataset)
    numbers = _positions(given, "row_index")
    given = given.add_column(_POSITION, np.arange(len(dataset)))
    tokens, problems = _through_trl(given, tokenizer, args, name, numbers)
    kept = numbers[_positions(tokens, _POSITION)]
    return _account(tokens.remove_columns(_POSITION), kept, problems, len(dataset), args, invalid_rows, name)


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
    *,
    given: bool = False,
) -> TokenizedPairs:
    """Leave out the rows that cannot be trained on as tokens, and settle the account with those lost before.

    Token ids that were `given` have not been through TRL's filter or the checks of text.
    """
    spans = _Spans(tokens, args.max_length, args.truncation_mode)
    lost = spans.problems(numbers, given=given)
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
    """Add `row_index` and `prompt_id`, and leave out mixed columns that `Dataset.map` would change."""
    columns = dataset.column_names
    is_tokens = set(TOKEN_COLUMNS) <= set(columns)
    if not is_tokens:
        text = ("prompt", "chosen", "rejected", *_CONTEXT)
        mixed = [n for n, feature in dataset.features.items() if is_json_feature(feature) and n not in text]
        # A hub data set may have a `prompt_id` of its own; ours has a stated meaning.
        dataset = dataset.remove_columns([*mixed, *({"prompt_id"} & set(columns))])
    if "row_index" not in dataset.column_names:
        dataset = dataset.add_column("row_index", np.arange(len(dataset)))
    if "prompt_id" not in dataset.column_names:
        dataset = dataset.add_column("prompt_id", _prompt_ids_as_names(dataset, is_tokens))
    return dataset


def _prompt_ids_as_names(dataset: datasets.Dataset, is_tokens: bool) -> list[str]:
    names = []
    read = ["prompt_ids"] if is_tokens else ["prompt", *(n for n in _CONTEXT if n in dataset.column_names)]
    for batch in dataset.select_columns(read).with_format(None).iter(_BATCH):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            if is_tokens:
                names.append(prompt_id_of_ids(row["prompt_ids"] or ()))
            else:
                prompt = row.pop("prompt")
                names.append(prompt_id_of_text(prompt, row))
    return names


def _through_trl(
    dataset: datasets.Dataset, tokenizer: Any, args: Any, name: str, numbers: np.ndarray
) -> tuple[datasets.Dataset, list[RowProblem]]:
    """Tokenise by TRL's code; name the rows that its filter dropped or the chat template refused."""
    from mallowspo.compat import trl_tokenize

    problems = []
    try:
        tokens = trl_tokenize(dataset, tokenizer, args, name)
    except Exception as error:  # a chat template may raise anything; its author decides
        refused = _refused_by_template(dataset, tokenizer)
        if not refused:
            raise
        detail = "the chat template refuses the messages: {}"
        problems = [
            RowProblem(int(numbers[i]), "refused_by_template", detail.format(why)) for i, why in refused.items()
        ]
        rest = [i for i in range(len(dataset)) if i not in refused]
        if not rest:
            settle(problems, len(dataset), 0, invalid_rows="drop", source=name)
            raise AssertionError("settle raises where no row is left") from error
        dataset = dataset.select(rest)
        tokens = trl_tokenize(dataset, tokenizer, args, name)
    arrived = set(tokens[_POSITION][:])
    gone = [i for i, position in enumerate(dataset[_POSITION][:]) if position not in arrived]
    if gone:
        whole = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode=args.truncation_mode)
        again = trl_tokenize(dataset.select(gone), tokenizer, whole, f"{name} (too long)")
        for row in again.select_columns([_POSITION, "prompt_ids"]):
            problems.append(_too_long(numbers[row[_POSITION]], len(row["prompt_ids"]), args.max_length))
    return tokens, problems


def _too_long(number: Any, length: int, max_length: int) -> RowProblem:
    detail = f"the prompt alone has {length:,} tokens, max_length is {max_length:,}"
    return RowProblem(int(number), "prompt_too_long", detail)


def _refused_by_template(dataset: datasets.Dataset, tokenizer: Any) -> dict[int, str]:
    """Find the rows whose messages the chat template cannot render, with its reason."""
    refused: dict[int, str] = {}
    if not isinstance(dataset[0]["prompt"], list):
        return refused
    for index, row in enumerate(dataset):
        extra = row.get("chat_template_kwargs") or {}
        try:
            tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False, **extra)
            for name in ("chosen", "rejected"):
                tokenizer.apply_chat_template(row["prompt"] + row[name], tokenize=False, **extra)
        except Exception as error:  # as above
            refused[index] = str(error) or type(error).__name__
    return refused


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

    def problems(self, numbers: np.ndarray, *, given: bool) -> dict[int, RowProblem]:
        """Find responses of which nothing is left, and pairs of which the same is left; by position in the data.

        Of ids that were `given`, also prompts that are empty or that TRL's filter would have dropped.
        """
        found: dict[int, RowProblem] = self._bad_prompts(numbers) if given else {}
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
    import pyarrow as pa
    import pyarrow.compute as pc

    counts = [
        pc.list_value_length(batch[column]).fill_null(0).to_numpy()
        for batch in dataset.select_columns([column]).with_format("arrow").iter(10 * _BATCH)
        if isinstance(batch, pa.Table)
    ]
    return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)
