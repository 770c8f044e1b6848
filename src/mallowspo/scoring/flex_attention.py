"""FlexAttention over a packed row: one kernel for the whole row, with a mask that knows which blocks are empty.

Taken where the user's `attn_implementation` is `flex_attention`. A token sees two runs of places: the part of its
prompt that its window reaches, and its own segment up to itself. Three numbers a place say which:

    place        0   1   2 | 3   4 | 5      a prompt of three tokens, responses of two and one, no window
    own_from     0   0   0 | 3   3 | 5      first place of its own segment that it sees; the last is itself
    prompt_from  0   0   0 | 0   0 | 0      first place of its prompt that it sees, and the place after the last:
    prompt_to    0   0   0 | 3   3 | 3      none for the tokens of the prompt, whose own segment it is

Windows only move the first places, so that every layer of every model has the same mask function, which reads three
tensors: one kernel is compiled, whatever the layout and the window.

The row is filled up to whole blocks with a prompt that nobody asks about. Rows then have few different lengths, and
at least two blocks, as a size of one would be compiled for by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mallowspo.errors import InputError
from mallowspo.scoring.packed_layout import PackedBatch, PromptGroup

__all__ = ["BLOCK", "PACKED_FLEX", "block_mask", "fill_blocks", "flex_inputs", "register_packed_flex", "visible_runs"]

PACKED_FLEX = "mallowspo_flex_attention"
"""Name of the attention implementation; without prompt groups in a call it is transformers' `flex_attention`."""

BLOCK = 128
"""Places of a block of the mask, along queries and keys: what the kernels of torch are tuned for."""


def register_packed_flex() -> None:
    """Make `PACKED_FLEX` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flex_attention_mask

    AttentionInterface.register(PACKED_FLEX, _attention)
    AttentionMaskInterface.register(PACKED_FLEX, flex_attention_mask)


def fill_blocks(packed: PackedBatch) -> PackedBatch:
    """Fill a row up to whole blocks, two at least, with a prompt of its own, to which nobody responds."""
    tokens = packed.input_ids.size(1)
    filled = max(2, -(-tokens // BLOCK)) * BLOCK
    if filled == tokens:
        return packed
    fill = (0, filled - tokens)
    return replace(
        packed,
        input_ids=torch.nn.functional.pad(packed.input_ids, fill),
        position_ids=torch.nn.functional.pad(packed.position_ids, fill),
        groups=(*packed.groups, PromptGroup((tokens, filled), ())),
    )


def visible_runs(groups: Sequence[PromptGroup], window: int | None = None) -> Tensor:
    """Which places each place sees: `own_from`, `prompt_from` and `prompt_to`, shape (3, T), int32, on the CPU."""
    segments = []  # first place and the place after the last, then those of the prompt
    for group in groups:
        first, last = group.prompt
        segments.append((first, last, first, first))
        segments += [(*response, first, last) for response in group.responses]
    start_s, stop_s, first_s, last_s = torch.tensor(segments, dtype=torch.int32).unbind(1)
    start, begin, end = (value_s.repeat_interleave(stop_s - start_s) for value_s in (start_s, first_s, last_s))
    if window is None:
        return torch.stack([start, begin, end])
    place = torch.arange(len(start), dtype=torch.int32)
    position = place - start + end - begin
    return torch.stack(
        [torch.maximum(start, place - window + 1), torch.clamp(begin + position - window + 1, begin, end), end]
    )


def block_mask(groups: Sequence[PromptGroup], window: int | None, device: torch.device) -> Any:
    """The mask of a row, in blocks: which are empty, which are full, and a function for those that are neither.

    `create_block_mask` would form the mask of every pair of places; the runs tell how many places of each block a
    token sees without it.
    """
    from torch.nn.attention.flex_attention import BlockMask

    own_from, prompt_from, prompt_to = visible_runs(groups, window).to(device).unbind(0)
    tokens = len(own_from)
    place = torch.arange(tokens, dtype=torch.int32, device=device)
    edge = place[::BLOCK]

    def overlap(start: Tensor, stop: Tensor) -> Tensor:
        """How many places of each block lie in each token's run, shape (T, blocks)."""
        inside = torch.minimum(stop[:, None], edge + BLOCK) - torch.maximum(start[:, None], edge)
        return inside.clamp(min=0)

    seen = overlap(own_from, place + 1) + overlap(prompt_from, prompt_to)
    count = seen.view(len(edge), BLOCK, len(edge)).sum(1)
    full = count == BLOCK**2

    def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """How many blocks each row of blocks has, and their numbers, the others after them."""
        numbers = blocks.int().argsort(dim=-1, descending=True, stable=True)
        return blocks.sum(-1, dtype=torch.int32)[None, None], numbers.int()[None, None]

    mask: Any = BlockMask
    return mask.from_kv_blocks(
        *ordered((count > 0) & ~full),
        *ordered(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_function(own_from.contiguous(), prompt_from.contiguous(), prompt_to.contiguous()),
    )


def _mask_function(own_from: Tensor, prompt_from: Tensor, prompt_to: Tensor) -> Callable[..., Tensor]:
    """Whether a query sees a key, from the runs."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key >= own_from[query]) & (key <= query)
        return own | ((key >= prompt_from[query]) & (key < prompt_to[query]))

    return sees


def flex_inputs(packed: PackedBatch, config: Any) -> tuple[PackedBatch, dict[str, Any]]:
    """What a model takes beside its tokens: a mask for each kind of its layers, made once for the row."""
    packed = fill_blocks(packed)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ("sliding_attention",))
    windows = {"full_attention": None, "sliding_attention": window}
    masks = {kind: block_mask(packed.groups, windows[kind], packed.input_ids.device) for kind in sorted(kinds)}
    mask = masks if len(masks) > 1 else next(iter(masks.values()))
    return packed, {"attention_mask": mask, "prompt_groups": packed.groups}


@functools.cache
def _flex_attention(device: str) -> Any:
    """The compiled function: without compilation the scores of all pairs of places would be formed.

    On a CPU they are: the C++ that torch 2.13 writes of this mask, once lengths change, does not compile there.
    """
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention)


@functools.cache
def _softcapped(softcap: float) -> Callable[..., Tensor]:
    """Bend the scaled scores as `softcap * tanh(score / softcap)`."""

    def bend(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return bend


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    prompt_groups: Sequence[PromptGroup] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention in the signature of transformers' `AttentionInterface`; tensors have shape (1, heads, T, size)."""
    if prompt_groups is None:
        from transformers.integrations.flex_attention import flex_attention_forward

        plain: Any = flex_attention_forward
        output, sums = plain(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, softcap=softcap, **kwargs
        )
        return output, sums
    if dropout > 0:
        raise InputError("flex_attention knows no dropout: set attention_dropout to 0 in the model's configuration")
    if torch.is_autocast_enabled(query.device.type):
        # Rotary positions leave queries and keys in float32, and the kernel wants one type.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    output = _flex_attention(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _softcapped(softcap),
        block_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.size(1) != key.size(1),
    )
    return output.transpose(1, 2).contiguous(), None
