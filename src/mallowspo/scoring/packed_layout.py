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
    """Where a prompt and the responses that share it lie in the row.

    Attributes:
        prompt: Span of the prompt.
        responses: Spans of the responses, in order; a span may be empty, as a response of one token has no input.
    """

    prompt: Span
    responses: tuple[Span, ...]


@dataclass(frozen=True)
class PackedBatch:
    """Prompts and responses in one row, and where every scored token is predicted.

    Attributes:
        input_ids: Shape (1, T).
        position_ids: Shape (1, T); they go on from the prompt's for each of its responses.
        groups: Prompts with the responses that share them, in the order of the row.
        predictor_n: Place in the row of the token that predicts each scored token, shape (N,).
        target_n: The scored tokens, shape (N,).
        response_n: The response of each scored token, b * K + k, shape (N,).
        column_n: Its column in a padded batch whose first column is dropped, shape (N,).
        carrier_c: For every response b * K + k the one whose tokens stand for it, shape (B * K,): itself, or the first
            that is equal to it, prompt and all.
        prompts: B.
        responses: K.
        columns: Columns of that padded batch, after the first is dropped.
    """

    input_ids: Tensor
    position_ids: Tensor
    groups: tuple[PromptGroup, ...]
    predictor_n: Tensor
    target_n: Tensor
    response_n: Tensor
    column_n: Tensor
    carrier_c: Tensor
    prompts: int
    responses: int
    columns: int

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

    Args:
        batch: `input_ids`, `attention_mask`, `completion_mask`, each of shape (K * B, T), in K blocks of B rows.
        responses: K.

    Returns:
        The packed row, on the CPU.

    Raises:
        InputError: The batch brings positions or token types of its own.

    Example:
        >>> ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 0]])
        >>> completion = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0]])
        >>> row = pack({"input_ids": ids, "attention_mask": (ids > 0).long(), "completion_mask": completion})
        >>> row.input_ids.tolist(), row.position_ids.tolist()  # 8 and 9 are predicted, and predict nothing
        ([[5, 6, 7]], [[0, 1, 2]])
        >>> row.predictor_n.tolist(), row.target_n.tolist(), row.response_n.tolist()
        ([1, 2, 1], [7, 8, 9], [0, 0, 1])
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
    """Cut a padded batch into pieces of at most `budget` tokens in the row; a prompt is never cut from its responses.

    Args:
        batch: Rows of tokens, shape (K * B, T), in K blocks of B rows, and other tensors of B entries.
        budget: Tokens in a piece, prompts counted once; a prompt and responses of more are a piece of their own.
        responses: K.

    Returns:
        One batch or more, in order.

    Example:
        >>> ids = torch.arange(1, 9).view(4, 2)
        >>> masks = {"attention_mask": torch.ones_like(ids), "completion_mask": torch.tensor([[0, 1]] * 4)}
        >>> [piece["input_ids"].tolist() for piece in split_by_tokens({"input_ids": ids, **masks}, budget=3)]
        [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]
    """
    sequences = _sequences(batch)
    prompts = len(sequences) // responses
    edges, filled = [0], 0
    seen: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for b in range(prompts):
        members = [sequences[k * prompts + b] for k in range(responses)]
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
