"""Score responses that share a prompt in one packed row: the numbers of `score_padded`, for less work."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mallowspo.scoring.flex_attention import PACKED_FLEX, flex_inputs
from mallowspo.scoring.model_checks import base_model
from mallowspo.scoring.packed_attention import PackedSupport, dense_masks, pack_attention, packed_support
from mallowspo.scoring.packed_layout import PackedBatch, pack
from mallowspo.scoring.padded import ResponseScores
from mallowspo.scoring.response_head import LogitTransform, logit_transform, response_head

__all__ = ["add_packed_head", "score_packed"]


def add_packed_head(model: Any) -> PackedSupport:
    """Teach a model to take a packed row, if it can: `model(packed=...)`. All other calls stay as they were.

    The head lives in `forward`, and not beside the model, so that wrappers (data parallel, sharded, autocast, PEFT)
    see an ordinary call.

    Args:
        model: A causal language model, possibly in a PEFT wrapper, not yet wrapped by a distributed engine. Patched
            in place.

    Returns:
        The path that the model takes, and why. With `padded` the model is left alone.
    """
    support = packed_support(model)
    if support.path == "padded":
        return support
    base = base_model(model)
    if support.path == "packed":
        pack_attention(base)
    inner = base.forward

    @functools.wraps(type(base).forward)  # `generate` reads the names of the arguments
    def forward(self: Any, *args: Any, packed: PackedBatch | None = None, **kwargs: Any) -> Any:
        return inner(*args, **kwargs) if packed is None else _forward(self, packed, support.path)

    base.forward = types.MethodType(forward, base)
    return support


def _forward(model: Any, packed: PackedBatch, path: str) -> dict[str, Tensor]:
    """Backbone over the row, then the head at the places that predict a response token."""
    inputs: dict[str, Any]
    if path == "packed" and model.config._attn_implementation == PACKED_FLEX:
        packed, inputs = flex_inputs(packed, model.config)
    elif path == "packed":
        # A mask of four dimensions is passed through as it is. With none, transformers would take the restarting
        # positions for separate sequences and build a mask of the whole row. Ours must not be read: a layer that
        # packing did not reach attends to everything, and NaN shows that in any precision.
        ignored = torch.full((1, 1, 1, 1), float("nan"), dtype=model.dtype, device=packed.input_ids.device)
        inputs = {"attention_mask": ignored, "prompt_groups": packed.groups}
    else:
        inputs = {"attention_mask": dense_masks(packed, model.config, model.dtype)}
    hidden = model.base_model(
        input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False, **inputs
    ).last_hidden_state
    head = model.get_output_embeddings()
    device = head.weight.device
    hidden_nh, target_n = hidden[0, packed.predictor_n].to(device), packed.target_n.to(device)
    log_prob_n, entropy_n, mean_logit_n, top1_n = _call_head(head, hidden_nh, target_n, logit_transform(model.config))
    return {
        "log_prob": log_prob_n, "entropy": entropy_n, "mean_logit": mean_logit_n, "top1": top1_n,
    }  # fmt: skip


def _call_head(
    head: Any, hidden_nh: Tensor, target_n: Tensor, transform: LogitTransform
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The response head in the place of the output head's own forward.

    An engine that spreads the weight over processes has it whole inside of that call, and inside of the backward pass
    that belongs to it, and nowhere else.
    """
    weight = head.weight
    # The module that owns the weight: PEFT wraps a head that is trained whole.
    owner = next((module for module in head.modules() if module._parameters.get("weight") is weight), head)
    name = "_old_forward" if hasattr(owner, "_old_forward") else "forward"  # the first under accelerate's hooks
    before = vars(owner).get(name)

    def scored(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = response_head(hidden, owner.weight, owner.bias, target_n, transform)
        return values.log_prob_n, values.entropy_n, values.mean_logit_n, values.top1_n

    setattr(owner, name, scored)
    try:
        found: tuple[Tensor, Tensor, Tensor, Tensor] = head(hidden_nh)
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
    return found


def score_packed(
    model: Any,
    batch: Mapping[str, Any],
    *,
    responses: int = 2,
    per_token: bool = False,
    sum_dtype: torch.dtype = torch.float64,
) -> ResponseScores:
    """Run the model over a batch packed into one row and sum each response's per-token values.

    Args:
        model: A causal language model after `add_packed_head`, wrapped or not.
        batch: `input_ids`, `attention_mask`, `completion_mask`, each of shape (K * B, T): what `score_padded` takes.
        responses: K.
        per_token: Also return the entropy of every response token.
        sum_dtype: In which the tokens' values are summed; float32 or better.

    Returns:
        The scores, in `sum_dtype`.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...                      num_attention_heads=2, num_key_value_heads=2)
        >>> model = LlamaForCausalLM(config).eval()
        >>> _ = model.lm_head.weight.data.zero_()  # every token equally likely
        >>> add_packed_head(model)
        PackedSupport(path='packed', reason='llama with sdpa attention')
        >>> ids = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]])
        >>> completion = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0]])
        >>> batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "completion_mask": completion}
        >>> with torch.no_grad():
        ...     scores = score_packed(model, batch)
        >>> scores.logp_bk.round(decimals=4).tolist()  # -2 log 8 and -log 8
        [[-4.1589, -2.0794]]
        >>> scores.length_bk.tolist()
        [[2, 1]]
    """
    packed = pack(batch, responses=responses).to(batch["input_ids"].device)
    values = model(packed=packed)
    cells = packed.prompts * responses
    response_n = packed.response_n.to(values["log_prob"].device)
    carrier_c = packed.carrier_c.to(response_n.device)

    def summed(value_n: Tensor) -> Tensor:
        total = torch.zeros(cells, dtype=sum_dtype, device=value_n.device)
        return total.index_add(0, response_n, value_n.to(sum_dtype))[carrier_c].view(-1, responses)

    def table(value_n: Tensor) -> Tensor:
        padded = torch.zeros(cells, packed.columns, dtype=value_n.dtype, device=value_n.device)
        padded[response_n, packed.column_n.to(value_n.device)] = value_n
        return padded[carrier_c].view(-1, responses, packed.columns)

    return ResponseScores(
        logp_bk=summed(values["log_prob"]),
        entropy_sum_bk=summed(values["entropy"]),
        length_bk=torch.bincount(response_n, minlength=cells)[carrier_c].view(-1, responses),
        logit_sum_bk=summed(values["mean_logit"]),
        top1_bk=summed(values["top1"]),
        token_entropy_bkt=table(values["entropy"]) if per_token else None,
        token_mask_bkt=table(torch.ones_like(response_n, dtype=torch.bool)) if per_token else None,
    )
