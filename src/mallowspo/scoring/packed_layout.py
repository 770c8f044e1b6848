"""One packed row for many prompts: each prompt once, then the responses to it, without padding.

    token      p0 p1 p2 | a0 a1 | b0 b1 b2 || q0 q1 | c0 ...
    position    0  1  2 |  3  4 |  3  4  5 ||  0  1 |  2 ...

A response sees its own prompt and itself; it never sees a sibling or another prompt. The last token of a prompt
predicts the first token of every response, so predictions are gathered by index and labels are never shifted. The
last token of a response predicts nothing and stays out of the row. `docs/packed-rows.md` draws it larger.

Shapes: `B` prompts, `K` responses each, `T` tokens in the row, `N` scored response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mallowspo.errors import InputError

__all__ = ["PackedBatch", "PromptGroup", "pack", "split_by_tokens"]

Span = tuple[int, int]
"""First place of a run of tokens, and the place after its last."""

# Rows of tokens, shape (K * B, T); everything else in a batch has one entry per prompt.
_TOKEN_KEYS = ("input_ids", "attention_mask", "completion_mask")


@dataclass(frozen=True)
class PromptGroup:
    """Where a prompt and the responses that share it lie in the row."""

    prompt: Span
    # In order; a span may be empty, as a response of one token has no input.
    responses: tuple[Span, ...]


@dataclass(frozen=True)
class PackedBatch:
    """Prompts and responses in one row, and where every scored token is predicted."""

    input_ids: Tensor  # shape (1, T)
    position_ids: Tensor  # shape (1, T); they go on from the prompt's for each of its responses
    groups: tuple[PromptGroup, ...]  # prompts with the responses that share them, in the order of the row
    predictor_n: Tensor  # place in the row of the token that predicts each scored token, shape (N,)
    target_n: Tensor  # the scored tokens, shape (N,)
    response_n: Tensor  # the response of each scored token, b * K + k, shape (N,)
    column_n: Tensor  # its column in a padded batch whose first column is dropped, shape (N,)
    # For every response b * K + k the one whose tokens stand for it, shape (B * K,): itself, or the first that is
    # equal to it, prompt and all.
    carrier_c: Tensor
    prompts: int  # B
    responses: int  # K
    columns: int  # columns of that padded batch, after the first is dropped

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch with its tensors on another device."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: Any = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class _Sequence:
    """One row of a padded batch without its padding: tokens, and (index, column) of those that are scored."""

    ids: list[int]
    scored: list[tuple[int, int]]
    prompt_length: int

    @property
    def prompt(self) -> tuple[int, ...]:
        """What stands before the first scored token."""
        return tuple(self.ids[: self.prompt_length])

    @property
    def response(self) -> tuple[int, ...]:
        """The tokens from there on."""
        return tuple(self.ids[self.prompt_length :])


def pack(batch: Mapping[str, Any], *, responses: int = 2) -> PackedBatch:
    """Lay a padded batch out as one row.

    Rows of the batch that have the same prompt share it too, and a response that stands in several rows (the pairs of
    a ranked list) is computed once. Reading a finished batch keeps truncation where it already is, in the collator.
    Where it cut the prompts of one row differently (`keep_end`), there is nothing to share: each response gets a
    prompt of its own.
    """
    for name in ("position_ids", "token_type_ids"):
        if name in batch:
            raise InputError(f"share_prompts: the batch brings its own {name!r}; set share_prompts: false")
    sequences = _sequences(batch)
    prompts = len(sequences) // responses
    # Prompt -> (tokens after it, where they are scored) -> the cells that ask for this response.
    by_prompt: dict[tuple[int, ...], dict[Any, list[int]]] = {}
    for b in range(prompts):
        for k in range(responses):
            sequence = sequences[k * prompts + b]
            own = (sequence.response, tuple(sequence.scored))
            members = by_prompt.setdefault(sequence.prompt, {})
            members.setdefault(own, []).append(b * responses + k)
    ids: list[int] = []
    positions: list[int] = []
    groups: list[PromptGroup] = []
    scored: list[tuple[int, int, int, int]] = []  # predictor, target, response, column
    carrier_c = [0] * (prompts * responses)
    for prompt, members in by_prompt.items():
        length, start = len(prompt), len(ids)
        ids += prompt
        positions += range(length)
        spans = []
        for (own, places), cells in members.items():
            first = len(ids)
            inputs = own[: places[-1][0] - length] if places else ()
            for index, column in places:
                predictor = start + length - 1 if index == length else first + index - length - 1
                scored.append((predictor, own[index - length], cells[0], column))
            ids += inputs
            positions += range(length, length + len(inputs))
            spans.append((first, len(ids)))
            for cell in cells:
                carrier_c[cell] = cells[0]
        groups.append(PromptGroup((start, start + length), tuple(spans)))
    table = torch.tensor(scored, dtype=torch.long).view(-1, 4)
    predictor_n, target_n, response_n, column_n = (column.contiguous() for column in table.unbind(1))
    return PackedBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        groups=tuple(groups),
        predictor_n=predictor_n,
        target_n=target_n,
        response_n=response_n,
        column_n=column_n,
        carrier_c=torch.tensor(carrier_c, dtype=torch.long),
        prompts=prompts,
        responses=responses,
        columns=batch["input_ids"].size(1) - 1,
    )


def _sequences(batch: Mapping[str, Any]) -> list[_Sequence]:
    """Take the padding off; by position, as the padding token may be a token of the text too."""
    found = []
    for row, real, completion in zip(*(batch[key].tolist() for key in _TOKEN_KEYS), strict=True):
        columns = [column for column, keep in enumerate(real) if keep]
        ids = [row[column] for column in columns]
        # Nothing precedes the first token, so nothing predicts it: it is context whatever the mask says.
        scored = [(i, column - 1) for i, column in enumerate(columns) if completion[column] and i > 0]
        found.append(_Sequence(ids, scored, scored[0][0] if scored else len(ids)))
    return found


def _new_tokens(members: list[_Sequence], seen: Mapping[tuple[int, ...], set[tuple[int, ...]]]) -> int:
    """Tokens that some responses add to a row that holds `seen`, responses by prompt."""
    prompts = {member.prompt for member in members} - set(seen)
    own = {(member.prompt, member.response) for member in members}
    added = [response for prompt, response in own if response not in seen.get(prompt, ())]
    return sum(map(len, prompts)) + sum(map(len, added))


def split_by_tokens(batch: Mapping[str, Any], budget: int, *, responses: int = 2) -> list[dict[str, Any]]:
    """Cut a padded batch into pieces of `budget` tokens in the row at most; prompts stay with their responses.

    So do the rows of one ranked list, where `list_b` numbers the list of each row.
    """
    sequences = _sequences(batch)
    prompts = len(sequences) // responses
    list_b = batch["list_b"].tolist() if "list_b" in batch else list(range(prompts))
    starts = [b for b in range(prompts) if b == 0 or list_b[b] != list_b[b - 1]]
    edges, filled = [0], 0
    seen: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for b, after in zip(starts, [*starts[1:], prompts], strict=True):
        members = [sequences[k * prompts + row] for row in range(b, after) for k in range(responses)]
        new = _new_tokens(members, seen)
        if filled and filled + new > budget:
            edges.append(b)
            filled, seen = 0, {}
            new = _new_tokens(members, seen)
        for member in members:
            seen.setdefault(member.prompt, set()).add(member.response)
        filled += new
    edges.append(prompts)
    pieces = []
    for start, stop in zip(edges, edges[1:], strict=False):
        piece: dict[str, Any] = {}
        for key, value in batch.items():
            if key in _TOKEN_KEYS:
                rows = value.view(responses, -1, value.size(1))[:, start:stop]
                piece[key] = rows.reshape(-1, value.size(1))
            else:
                piece[key] = value[start:stop]
        pieces.append(piece)
    return pieces
