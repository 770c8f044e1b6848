"""Attention over a packed row, one prompt group at a time, and which models it is exact for.

`packed` splits the attention of every layer: a prompt sees itself, a response sees its prompt and itself. No mask of
the whole row is ever built, and no product between strangers computed. `dense_mask` gives the model's own attention a
mask of the whole row: for models whose attention does more than a softmax (a softcap, sinks). `padded` is the layout
that every model understands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from mallowspo.scoring.flex_attention import PACKED_FLEX, register_packed_flex
from mallowspo.scoring.model_checks import adapter_configs
from mallowspo.scoring.packed_layout import PackedBatch, PromptGroup

__all__ = [
    "PACKED_ATTENTION",
    "VERIFIED_ARCHITECTURES",
    "PackedSupport",
    "attend_groups",
    "dense_masks",
    "pack_attention",
    "packed_support",
    "plain_attention",
]

PACKED_ATTENTION = "mallowspo_packed"
"""Name of the attention implementation; without prompt groups in a call it is transformers' `sdpa`."""

VERIFIED_ARCHITECTURES = (
    "arcee", "bitnet", "cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral",
    "olmo", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2",
)  # fmt: skip
"""Values of `model_type` whose log-probabilities, entropies and gradients the tests hold against plain passes."""

# Why an architecture cannot share a prompt, where the reason is known.
_ONE_STATE = "its recurrent state runs on from one response into the next"
_ALIBI = "ALiBi derives distances from places in the row"
_UNSHAREABLE = {
    "bloom": _ALIBI, "mpt": _ALIBI, "mamba": _ONE_STATE, "mamba2": _ONE_STATE, "falcon_mamba": _ONE_STATE,
    "falcon_h1": _ONE_STATE, "jamba": _ONE_STATE, "bamba": _ONE_STATE, "zamba": _ONE_STATE, "zamba2": _ONE_STATE,
    "recurrent_gemma": _ONE_STATE, "rwkv": _ONE_STATE, "xlstm": _ONE_STATE, "lfm2": _ONE_STATE,
}  # fmt: skip
_WORTH_JOINING_AGAIN = 2**14  # elements of a prompt's keys; below, looking at what is kept costs more than keeping it
_LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class PackedSupport:
    """How a model scores responses that share a prompt.

    Attributes:
        path: `packed`, `dense_mask` or `padded`.
        reason: Why, for the log.
    """

    path: str
    reason: str


def packed_support(model: Any) -> PackedSupport:
    """Decide from a model's configuration how its responses are scored."""
    config = model.config
    name = config.model_type
    refusal = _refusal(model, config)
    if refusal is not None:
        return PackedSupport("padded", refusal)
    attention = config._attn_implementation
    if attention in ("sdpa", PACKED_ATTENTION):
        return PackedSupport("packed", f"{name} with sdpa attention")
    if attention in ("flex_attention", PACKED_FLEX):
        devices = set((getattr(model, "hf_device_map", None) or {}).values())
        if len(devices) > 1:
            return PackedSupport("padded", "the model lies on several devices, and a block mask on one")
        return PackedSupport("packed", f"{name} with flex attention")
    if attention == "eager":
        softcap = getattr(config, "attn_logit_softcapping", None) is not None
        return PackedSupport("dense_mask", f"{name} with {'softcapped' if softcap else 'eager'} attention")
    known = "'sdpa', 'flex_attention' or 'eager'"
    return PackedSupport("padded", f"attention implementation is {attention!r}, not {known}")


def _refusal(model: Any, config: Any) -> str | None:
    """Why a prompt cannot be shared, or None."""
    name = config.model_type
    adapters = adapter_configs(model).values()
    layer_types = set(getattr(config, "layer_types", None) or ())
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    moving = {"dynamic", "longrope"} & {str(r.get("rope_type")) for r in ropes}
    head = model.get_output_embeddings() if name in VERIFIED_ARCHITECTURES else None
    checks = (
        (name in _UNSHAREABLE, f"{name}: {_UNSHAREABLE.get(name)}"),
        (layer_types - _LAYER_TYPES, f"{name}: layers of type {', '.join(sorted(layer_types - _LAYER_TYPES))}"),
        (name not in VERIFIED_ARCHITECTURES, f"{name} is not among the architectures that were verified"),
        (
            any(adapter.is_prompt_learning for adapter in adapters),
            "a prompt-learning adapter puts virtual tokens in front of every row",
        ),
        (moving, f"{name}: rope type {', '.join(sorted(moving))} depends on the longest row of a batch"),
        (head is not None and not torch.is_floating_point(head.weight), "the output head is quantised"),
    )
    return next((reason for refused, reason in checks if refused), None)


def plain_attention(config: Any) -> str:
    """The attention implementation under transformers' own name, whether or not the model can pack rows."""
    name = str(getattr(config, "_attn_implementation", None))
    return {PACKED_ATTENTION: "sdpa", PACKED_FLEX: "flex_attention"}.get(name, name)


def pack_attention(model: Any) -> None:
    """Let the layers of a model whose path is `packed` take a packed row; transformers learns the name on the way."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if plain_attention(model.config) == "flex_attention":
        register_packed_flex()
        model.set_attn_implementation(PACKED_FLEX)
        return
    AttentionInterface.register(PACKED_ATTENTION, _attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(PACKED_ATTENTION)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    prompt_groups: Sequence[PromptGroup] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the signature of transformers' `AttentionInterface`; tensors have shape (1, heads, T, size)."""
    if prompt_groups is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    if torch.is_autocast_enabled(query.device.type):
        # Rotary positions leave queries and keys in float32; the causal bias wants one type before autocast casts.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attend = partial(_attend, window=sliding_window, dropout=dropout, scaling=scaling)
    return attend_groups(query, key, value, prompt_groups, attend), None


def attend_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt_groups: Sequence[PromptGroup],
    attend: Callable[..., Tensor],
    merged: float = 1,
) -> Tensor:
    """Attention over a row, group by group; `attend` gives that of the last queries over some keys and values.

    A group that stands for several (`merged`, in a plan) keeps what each of them would.
    """
    spans = [span for group in prompt_groups for span in (group.prompt, *group.responses)]
    sizes = [stop - start for start, stop in spans]
    # Split, not sliced: the gradient of a slice is a whole row of zeros for each segment.
    pieces = zip(*(torch.split(states, sizes, 2) for states in (query, key, value)), strict=True)
    parts = []
    for group in prompt_groups:
        queries, prompt_keys, prompt_values = next(pieces)
        parts.append(attend(queries, prompt_keys, prompt_values))
        for _ in group.responses:
            queries, own_keys, own_values = next(pieces)
            if queries.size(2):
                keys, values = (prompt_keys, own_keys), (prompt_values, own_values)
                parts.append(_attend_joined(queries, keys, values, attend, merged))
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1)


def _attend_joined(
    query: Tensor,
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    attend: Callable[..., Tensor],
    merged: float = 1,
) -> Tensor:
    """Attention over a prompt's keys and the response's own, which the backward pass joins again.

    Kept, the joined ones are a prompt's keys and values once more for each of its responses, in every layer.
    """
    key, value = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    if not torch.is_grad_enabled() or keys[0].numel() < _WORTH_JOINING_AGAIN * merged or _kept_by_another():
        return attend(query, key, value)
    parts_of = {key.data_ptr(): keys, value.data_ptr(): values}

    def pack(saved: Tensor) -> Tensor | tuple[Tensor, ...]:
        parts = parts_of.get(saved.data_ptr())
        if parts is None or saved.shape != key.shape:
            return saved
        return tuple(part.detach() for part in parts)

    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        return attend(query, key, value)


def _kept_by_another() -> bool:
    """Whether something else, as checkpointing of activations, looks after what the backward pass needs.

    Of two that do, the inner one alone is asked: checkpointing would keep all of attention, and never let go of it.
    """
    from mallowspo.compat import saved_tensors_are_looked_after

    return saved_tensors_are_looked_after()


def _unpack(kept: Tensor | tuple[Tensor, ...]) -> Tensor:
    return kept if isinstance(kept, Tensor) else torch.cat(kept, dim=2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float, scaling: float | None
) -> Tensor:
    """Causal attention of the last queries over all keys; with `window`, over the last `window` keys only."""
    rows, columns = query.size(2), key.size(2)
    mask: Any = None
    windowed = False
    if window is not None and columns > window:
        windowed = True
        reach = torch.ones(rows, columns, dtype=torch.bool, device=query.device)
        mask = reach.tril(columns - rows).triu(columns - rows - window + 1)
    elif rows != columns:
        mask = causal_lower_right(rows, columns)
    heads = query.size(1) // key.size(1)
    if heads > 1 and query.is_cuda and (windowed or query.dtype == torch.float32):
        # Only the flash kernel lets heads share keys, and it knows neither windows nor float32. The other fused
        # kernel wants keys for every head; without either, the scores of all pairs would be formed.
        key, value = key.repeat_interleave(heads, dim=1), value.repeat_interleave(heads, dim=1)
    output: Tensor = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.size(1) != key.size(1),
    )
    return output


def dense_masks(packed: PackedBatch, config: Any, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Additive masks of the whole row, (1, 1, T, T), for a model's own attention; by kind of layer if several."""
    positions = packed.position_ids[0]
    prompt, segment = torch.zeros_like(positions), torch.zeros_like(positions)
    number = 0
    for index, group in enumerate(packed.groups):
        spans = (group.prompt, *group.responses)
        for i, (start, stop) in enumerate(spans):
            number += 1
            prompt[start:stop] = index
            # A prompt's tokens are in every segment of their group: marked 0.
            segment[start:stop] = 0 if i == 0 else number
    row = torch.arange(len(positions), device=positions.device)
    seen = (row[:, None] >= row) & (prompt[:, None] == prompt) & ((segment == 0) | (segment[:, None] == segment))
    window = getattr(config, "sliding_window", None)
    near = seen if window is None else seen & (positions[:, None] - positions < window)

    def additive(mask: Tensor) -> Tensor:
        blocked = torch.finfo(dtype).min
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, blocked)[None, None]

    masks = {"full_attention": additive(seen), "sliding_attention": additive(near)}
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return masks["sliding_attention"]
    return masks if len(kinds) > 1 else masks[kinds.pop()]
