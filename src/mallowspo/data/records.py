"""One record per stage: what people said about a prompt's responses, and the same as token ids.

Everything that carries responses carries K >= 2 of them for one prompt; a pair is K = 2.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import combinations
from typing import Any

from mallowspo.data.annotations import LAYOUT_COLUMNS, OPTIONAL_COLUMNS, as_whole, read_annotations
from mallowspo.data.blank import content_text, is_blank
from mallowspo.data.problems import RowError

__all__ = [
    "LIST_COLUMN",
    "PLACES_COLUMN",
    "RANKS_COLUMN",
    "OPTIONAL_COLUMNS",
    "RESERVED_COLUMNS",
    "TOKEN_COLUMNS",
    "PreferenceRow",
    "TokenizedRow",
    "common_length",
    "is_tokenized",
    "prompt_id_of_ids",
    "prompt_id_of_text",
    "row_from_columns",
]

TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
"""The columns of a data set that has been tokenised."""

PLACES_COLUMN, RANKS_COLUMN = "list_places", "list_ranks"
"""Where the two responses of a row stand in their ranked list, and their ranks there, 1 is best."""

LIST_COLUMN = "__mallowspo_list__"
"""Which row a pair was made from: pairs of one ranked list have the same. No data set has a column of this name but
ours, so it also marks rows that were validated here."""

RESERVED_COLUMNS = frozenset(
    {"dispersion_raw", "dispersion_index", "__position__", PLACES_COLUMN, RANKS_COLUMN, "list"}
    | {
        f"ref_{side}_{kind}"
        for side in ("chosen", "rejected")
        for kind in ("logps", "entropy", "length", "first_entropy", "divergent_entropy")
    }
)
"""Columns that are computed here. What a data set holds under these names is another thing, and is left out."""

Text = str | list[dict[str, Any]]
"""A prompt or a response: text, or a list of chat messages."""

# How a list of messages begins that was written out as JSON, or by Python.
_WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")

# Every other column of a row is carried along untouched.
_READ_COLUMNS = frozenset({*LAYOUT_COLUMNS, "row_index", *OPTIONAL_COLUMNS})


@dataclass(frozen=True)
class PreferenceRow:
    """K >= 2 responses to one prompt and how people ranked them."""

    prompt: Text
    responses: tuple[Text, ...]  # each as the prompt is
    ranks: tuple[int, ...]  # 1 is best; equal ranks are ties
    row_index: int  # position in the source, from 0
    votes: tuple[float, float, float] | None = None  # for chosen, rejected, neither; zeros where nobody voted
    # Of m >= 2 people; entry i of one is the rank (1..K) of response i. A pair taken from a longer row keeps the
    # rankings of all K, for they belong to the prompt.
    rankings: tuple[tuple[int, ...], ...] | None = None
    weight: float | None = None  # dispersion weight w(x) >= 0
    margin: float | None = None  # >= 0, in the gap's own unit: nats, or nats per token where length-normalised
    dispersion: float | None = None  # index phi in (0, 1]; 1 is annotators at random
    beta: float | None = None  # > 0, in place of the run's own
    loss_weight: float | None = None  # >= 0, what the loss of the row is multiplied by
    other: Mapping[str, Any] = field(default_factory=dict)  # the remaining columns of the source
    # Where the two of a pair stand in the ranked list that it was taken from, for objectives that read lists whole.
    places: tuple[int, int] | None = None

    @property
    def is_conversational(self) -> bool:
        """Whether the prompt is a list of chat messages."""
        return not isinstance(self.prompt, str)

    def to_cover(self) -> tuple[PreferenceRow, ...]:
        """Give the list as rows of two, the better one first, in which every response stands equally often.

        Once where their number is even, and twice where it is odd: so that a mean over rows is one over responses.
        Ranks are those of the list. Of equal responses, which share a rank, the first stands for all.
        """
        kept = [i for i, response in enumerate(self.responses) if response not in self.responses[:i]]
        order = sorted(kept, key=lambda i: self.ranks[i])
        step = 1 if len(order) % 2 else 2
        pairs = [(order[i], order[(i + 1) % len(order)]) for i in range(0, len(order), step)]
        pairs = [(a, b) if self.ranks[a] <= self.ranks[b] else (b, a) for a, b in pairs]
        return tuple(
            replace(
                self,
                responses=(self.responses[a], self.responses[b]),
                ranks=(self.ranks[a], self.ranks[b]),
                places=(a, b),
            )
            for a, b in pairs
        )

    def strict_pairs(self) -> tuple[tuple[int, int], ...]:
        """Give the (better, worse) responses of every strict preference, by their places; ties give none."""
        if self.ranks == (1, 2):
            return ((0, 1),)
        order = sorted(range(len(self.ranks)), key=lambda i: self.ranks[i])
        return tuple((i, j) for i, j in combinations(order, 2) if self.ranks[i] < self.ranks[j])

    def to_pairs(self) -> tuple[PreferenceRow, ...]:
        """Give every strict preference as a row of two, the better response first."""
        if self.ranks == (1, 2):
            return (self,)
        return tuple(
            replace(self, responses=(self.responses[better], self.responses[worse]), ranks=(1, 2))
            for better, worse in self.strict_pairs()
        )


@dataclass(frozen=True)
class TokenizedRow:
    """K responses to one prompt as token ids."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[tuple[int, ...], ...]
    row_index: int
    prompt_id: str

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> TokenizedRow:
        """Build the record from a row with `prompt_ids`, `chosen_ids`, `rejected_ids`, `row_index`, `prompt_id`."""
        return cls(
            prompt_ids=tuple(row["prompt_ids"]),
            response_ids=(tuple(row["chosen_ids"]), tuple(row["rejected_ids"])),
            row_index=row["row_index"],
            prompt_id=row["prompt_id"],
        )


def is_tokenized(columns: Collection[str]) -> bool:
    """Say whether rows with these columns are token ids, and not text that has ids beside it."""
    # TRL makes the ids of such text anew, since those beside it may be of any tokenizer.
    return set(TOKEN_COLUMNS) <= set(columns) and (
        LIST_COLUMN in columns or not {"chosen", "rejected"} <= set(columns)
    )


def prompt_id_of_text(prompt: Text, context: Mapping[str, Any] | None = None) -> str:
    """Name a prompt by what it, and `tools` and `chat_template_kwargs`, say: 32 hexadecimal digits."""
    # By the text and not by the token ids: TRL cuts the ids of a prompt where they merge with a response, so that one
    # prompt may have several; and votes have no tokenizer.
    said: list[Any] = [_without_none(prompt)]
    given = _without_none(dict(context or {}))
    if given:
        said.append(given)
    text = json.dumps(said, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def prompt_id_of_ids(prompt_ids: Sequence[int]) -> str:
    """Name a prompt of which only the token ids are known: 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(list(prompt_ids)).encode(), digest_size=16).hexdigest()


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def row_from_columns(
    mapping: Mapping[str, Any], row_index: int, *, columns: Collection[str] = OPTIONAL_COLUMNS
) -> PreferenceRow:
    """Read one row of a data set in any of the accepted layouts, which `validation` lists."""
    prompt, responses, ranks = _ranked(mapping) if "responses" in mapping else _pair(mapping)
    # Rankings belong to all responses, also to one that has no score and is left out of the list.
    k = len(mapping["responses"]) if "responses" in mapping else len(responses)
    annotations = read_annotations(mapping, k, pair="responses" not in mapping, columns=columns)
    return PreferenceRow(
        prompt=prompt,
        responses=responses,
        ranks=ranks,
        row_index=row_index,
        other={name: value for name, value in mapping.items() if name not in _READ_COLUMNS},
        **annotations,
    )


def _pair(mapping: Mapping[str, Any]) -> tuple[Text, tuple[Text, ...], tuple[int, ...]]:
    chosen, rejected = (_text(mapping.get(name), name) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("mixed_layout", "one of chosen and rejected is text, the other a list of messages")
    _refuse_written_messages((chosen, rejected), "chosen")
    if chosen == rejected:
        raise RowError("identical_responses", f"chosen and rejected are the same: {_excerpt(chosen)}")
    # TRL takes the prompt out of the responses also where a text prompt stands beside whole conversations.
    explicit = "prompt" in mapping and (isinstance(chosen, str) or isinstance(mapping["prompt"], list))
    if explicit:
        prompt = _text(mapping["prompt"], "prompt")
    else:
        prompt, chosen, rejected = _shared_prompt(chosen, rejected)
    return _checked(prompt, (chosen, rejected), ("chosen", "rejected"), (1, 2))


def _shared_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    from trl.data_utils import extract_prompt

    # TRL's function fails on an empty response, and wraps round where the first characters differ.
    if not chosen or not rejected or chosen[0] != rejected[0]:
        raise RowError("no_shared_prompt", "there is no prompt, and chosen and rejected share no beginning")
    # It compares item by item, which is slow on long texts: give it the part around the first difference.
    skip = max(common_length(chosen, rejected) - 2, 0)
    found: dict[str, Any] = extract_prompt({"chosen": chosen[skip:], "rejected": rejected[skip:]})
    prompt = chosen[:skip] + found["prompt"]
    if not prompt or not found["chosen"] or not found["rejected"]:
        raise RowError("no_shared_prompt", "nothing is left of prompt or response once their beginning is shared")
    return prompt, found["chosen"], found["rejected"]


def common_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Count the leading items that two texts, or two lists of messages or of tokens, have in common."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _ranked(mapping: Mapping[str, Any]) -> tuple[Text, tuple[Text, ...], tuple[int, ...]]:
    given, ranks = mapping["responses"], mapping.get("ranks")
    if not isinstance(given, list) or len(given) < 2:
        raise RowError("bad_responses", f"responses must be a list of two or more, found {_excerpt(given)}")
    if ranks is None and mapping.get("scores") is not None:
        given, ranks = _ranked_by_score(given, mapping["scores"])
    ranks = [as_whole(rank) for rank in ranks] if isinstance(ranks, list) else ranks
    if (
        not isinstance(ranks, list)
        or len(ranks) != len(given)
        or any(isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in ranks)
    ):
        raise RowError("bad_ranks", f"ranks must be {len(given)} whole numbers from 1, found {_excerpt(ranks)}")
    if len(set(ranks)) == 1:
        raise RowError("no_preference", "all responses have the same rank")
    names = tuple(f"response {number}" for number in range(1, len(given) + 1))
    responses = tuple(_text(value, name) for value, name in zip(given, names, strict=True))
    _refuse_written_messages(responses, names[0])
    for i, j in combinations(range(len(given)), 2):
        if responses[i] == responses[j] and ranks[i] != ranks[j]:
            raise RowError("identical_responses", f"{names[i]} and {names[j]} are the same but rank differently")
    return _checked(_text(mapping.get("prompt"), "prompt"), responses, names, tuple(ranks))


def _ranked_by_score(responses: list[Any], scores: Any) -> tuple[list[Any], list[int]]:
    """Responses with their ranks from scores, of which the higher is better; one without a score is left out."""
    if not isinstance(scores, list) or len(scores) != len(responses):
        raise RowError("bad_scores", f"scores must be {len(responses)} numbers, found {_excerpt(scores)}")
    for score in scores:
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float | Decimal)):
            raise RowError("bad_scores", f"scores must be numbers, found {_excerpt(score)}")
    pairs = zip(responses, scores, strict=True)
    known = [(response, score) for response, score in pairs if score is not None and not math.isnan(score)]
    if len(known) < 2:
        raise RowError("bad_scores", f"fewer than two responses have a score: {_excerpt(scores)}")
    return [response for response, _ in known], [1 + sum(other > score for _, other in known) for _, score in known]


def _checked(
    prompt: Text, responses: tuple[Text, ...], names: Sequence[str], ranks: tuple[int, ...]
) -> tuple[Text, tuple[Text, ...], tuple[int, ...]]:
    if _is_blank(prompt):
        raise RowError("empty_prompt", f"prompt is {_emptiness(prompt)}")
    _refuse_written_messages((prompt,), "prompt")
    for response, name in zip(responses, names, strict=True):
        if isinstance(response, str) != isinstance(prompt, str):
            raise RowError("mixed_layout", f"one of prompt and {name} is text, the other a list of messages")
        if _is_blank(response):
            raise RowError("empty_response", f"{name} is {_emptiness(response)}")
    return prompt, responses, ranks


def _refuse_written_messages(texts: Sequence[Text], name: str) -> None:
    """Raise where all of these are lists of messages that were written into cells of text."""
    if all(isinstance(text, str) and _WRITTEN_MESSAGES.match(text) and text.rstrip().endswith("]") for text in texts):
        raise RowError(
            "messages_as_text",
            f"{name} is a list of messages written as text, as in a cell of a CSV file, and would be trained on as "
            f"text; keep conversations in JSON lines or parquet: {_excerpt(texts[0])}",
        )


def _is_blank(text: Text) -> bool:
    """Say whether nothing is said, of messages by the last; a turn that only calls a tool says something."""
    if isinstance(text, str):
        return is_blank(text)
    return not text or (is_blank(content_text(text[-1])) and not text[-1].get("tool_calls"))


def _emptiness(text: Text) -> str:
    """Say whether there is nothing, or nothing that can be read."""
    shown = text if isinstance(text, str) else content_text(text[-1]) if text else ""
    return f"blank, made of characters that say nothing: {ascii(shown[:12])}" if shown.strip() else "empty"


def _text(value: Any, name: str) -> Text:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        for message in value:
            _check_message(message, name)
        return value
    kind = "empty_prompt" if name == "prompt" else "empty_response"
    if value is None:
        raise RowError(kind, f"{name} is missing")
    raise RowError("not_text", f"{name} must be text or a list of messages, found {_excerpt(value)}")


def _check_message(message: Any, name: str) -> None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RowError("malformed_messages", f"{name} holds a message without a role: {_excerpt(message)}")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        if any(part.get("type") not in ("text", None) for part in content):
            raise RowError("malformed_messages", f"{name} holds a message that is not text; only text is supported")
        if any(not isinstance(part.get("text"), str) for part in content):
            raise RowError("malformed_messages", f"{name} holds a part of a message without text: {_excerpt(content)}")
    elif not (isinstance(content, str) or (content is None and message.get("tool_calls"))):
        raise RowError("malformed_messages", f"{name} holds a message without text: {_excerpt(message)}")


def _excerpt(value: Any, limit: int = 60) -> str:
    shown = repr(value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
