"""Score responses in padded rows: the layout that every model understands.

Shapes: `B` prompts, K responses each, T tokens a row. A batch has K * B rows in K blocks of B: first every prompt with
its first response, then every prompt with its second, as TRL's collator builds it for K = 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["MODEL_INPUTS", "ResponseScores", "score_padded"]

# The keys of a batch that the model itself takes; all others are ours.
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


@dataclass(frozen=True)
class ResponseScores:
    """What a model says of each response; sums over the response's tokens.

    Attributes:
        logp_bk: Log-probability, shape (B, K), nats; carries the gradient.
        entropy_sum_bk: Next-token entropies, shape (B, K), nats, without gradient; None where the
            head does not compute it.
        length_bk: Tokens, shape (B, K).
        logit_sum_bk: Mean logit over the vocabulary, shape (B, K); None where the head does not compute it.
        top1_bk: Tokens that were the model's first choice, shape (B, K); likewise.
        token_entropy_bkt: Next-token entropies, shape (B, K, T - 1), nats, 0 off the response; None unless asked for.
        token_mask_bkt: Where `token_entropy_bkt` belongs to the response, shape (B, K, T - 1).
        aux_loss: Load-balancing loss of a mixture-of-experts model, a scalar; None elsewhere.
    """

    logp_bk: Tensor
    entropy_sum_bk: Tensor | None
    length_bk: Tensor
    logit_sum_bk: Tensor | None = None
    top1_bk: Tensor | None = None
    token_entropy_bkt: Tensor | None = None
    token_mask_bkt: Tensor | None = None
    aux_loss: Tensor | None = None


def score_padded(
    model: Any,
    batch: Mapping[str, Tensor],
    *,
    responses: int = 2,
    router_logits: bool = False,
    per_token: bool = False,
    sum_dtype: torch.dtype = torch.float64,
) -> ResponseScores:
    """Run the model over a padded batch and sum each response's per-token values.

    Args:
        model: A causal language model with TRL's fused head (`mallowspo.compat.add_score_head`).
        batch: `input_ids`, `attention_mask`, `completion_mask`, each of shape (K * B, T).
        responses: K.
        router_logits: Ask a mixture-of-experts model for its load-balancing loss.
        per_token: Also return the entropy of every response token.
        sum_dtype: In which the tokens' values are summed; float32 or better. A sum of hundreds of float32 values
            depends on their order by 2e-5, which float64 removes.

    Returns:
        The scores, in `sum_dtype`.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from mallowspo.compat import add_score_head
        >>> config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...                      num_attention_heads=2, num_key_value_heads=2)
        >>> model = LlamaForCausalLM(config).eval()
        >>> _ = model.lm_head.weight.data.zero_()  # every token equally likely
        >>> add_score_head(model)
        >>> ids = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]])
        >>> completion = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0]])
        >>> batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "completion_mask": completion}
        >>> with torch.no_grad():
        ...     scores = score_padded(model, batch)
        >>> scores.logp_bk.round(decimals=4).tolist()  # -2 log 8 and -log 8
        [[-4.1589, -2.0794]]
        >>> scores.length_bk.tolist()
        [[2, 1]]
    """
    completion = batch["completion_mask"]
    kwargs: dict[str, Any] = {key: batch[key] for key in MODEL_INPUTS if key in batch}
    if router_logits:
        kwargs["output_router_logits"] = True
    labels = batch["input_ids"].masked_fill(completion == 0, -100)
    output = model(**kwargs, labels=labels, fused_lm_head=True, use_cache=False)
    mask = completion[:, 1:].bool()
    columns = mask.size(1)

    def real(values: Tensor) -> Tensor:
        # Prompt-learning adapters put virtual tokens in front: the last columns are the real ones.
        return values[:, -columns:].masked_fill(~mask, 0)

    def by_response(values: Tensor) -> Tensor:
        return values.view(responses, -1, columns).transpose(0, 1)

    def summed(values: Tensor) -> Tensor:
        return real(values).to(sum_dtype).sum(dim=1).view(responses, -1).T

    def optional(values: Tensor | None) -> Tensor | None:
        return None if values is None else summed(values.detach())

    tokens = per_token and output.entropy is not None

    return ResponseScores(
        logp_bk=summed(output.log_probs),
        entropy_sum_bk=optional(output.entropy),
        length_bk=mask.sum(dim=1).view(responses, -1).T,
        logit_sum_bk=optional(output.mean_logits),
        top1_bk=optional(output.is_top1),
        token_entropy_bkt=by_response(real(output.entropy.detach())) if tokens else None,
        token_mask_bkt=by_response(mask) if tokens else None,
        aux_loss=output.aux_loss,
    )
