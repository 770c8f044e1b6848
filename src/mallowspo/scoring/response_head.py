"""The language-model head on response tokens only, in chunks: log-probability, entropy and what the metrics need.

Full logits of a batch are the largest tensor of a training step, and most of them belong to prompt tokens that nobody
asks about. Here the head sees the `N` positions that predict a response token, a chunk at a time.

With z the logits and p = softmax(z), the slope of a token's log-probability is e_target - p. The forward pass has p at
hand, so it forms the slope there: with the weight it gives the gradient of the hidden state at once, and kept until
the backward pass it gives the gradient of the weight. That is three matrix products instead of the four of a backward
pass that computes the logits again.

Shapes: `N` tokens, `H` hidden units, `V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["HeadValues", "LogitTransform", "logit_transform", "response_head"]

_CHUNK_ELEMENTS = 2**22  # logits at a time: 16 MB in float32
_KEPT_ELEMENTS = 2**26  # slopes kept for the weight's gradient: 256 MB in float32; above, they are computed again


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to the product of hidden state and weight.

    Attributes:
        scale: Factor on the logits.
        softcap: c in c * tanh(logit / c), after the factor; None without.
    """

    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class HeadValues:
    """Values of `N` scored tokens, float32 or better.

    Attributes:
        log_prob_n: Log-probability of the target, nats; carries the gradient.
        entropy_n: Entropy of the next-token distribution, nats, without gradient.
        mean_logit_n: Mean logit over the vocabulary, without gradient.
        top1_n: Whether the target was the most likely token.
    """

    log_prob_n: Tensor
    entropy_n: Tensor
    mean_logit_n: Tensor
    top1_n: Tensor


def logit_transform(config: Any) -> LogitTransform:
    """Read a model's scale and softcap of the logits from its configuration.

    Args:
        config: A transformers configuration of a text model.

    Returns:
        The transform; the identity for most models.

    Example:
        >>> from types import SimpleNamespace
        >>> logit_transform(SimpleNamespace(model_type="granite", logits_scaling=8.0))
        LogitTransform(scale=0.125, softcap=None)
    """
    scale = next(
        (
            value
            for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")
            if (value := getattr(config, name, None)) is not None
        ),
        None,
    )
    scaling = getattr(config, "logits_scaling", None)
    if scale is None and scaling is not None:
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    return LogitTransform(1.0 if scale is None else scale, getattr(config, "final_logit_softcapping", None))


def response_head(
    hidden_nh: Tensor, weight_vh: Tensor, bias_v: Tensor | None, target_n: Tensor, transform: LogitTransform
) -> HeadValues:
    """Score the target tokens.

    Args:
        hidden_nh: Last hidden states of the predicting positions, shape (N, H).
        weight_vh: The head's weight, shape (V, H).
        bias_v: Its bias, shape (V,), or None.
        target_n: Token ids, shape (N,).
        transform: What the model does to its logits.

    Returns:
        The values; gradients flow from `log_prob_n` to the hidden states, the weight and the bias.

    Example:
        >>> values = response_head(torch.zeros(1, 2), torch.ones(8, 2), None, torch.tensor([3]), LogitTransform())
        >>> round(values.log_prob_n.item(), 4), round(values.entropy_n.item(), 4)  # -log 8 and log 8
        (-2.0794, 2.0794)
    """
    if hidden_nh.is_cuda:
        from mallowspo.compat import triton_response_head

        fused = triton_response_head(
            hidden_nh, weight_vh, bias_v, target_n, scale=transform.scale, softcap=transform.softcap
        )
        if fused is not None:
            return HeadValues(*fused)
    function: Any = _ResponseHead
    return HeadValues(*function.apply(hidden_nh, weight_vh, bias_v, target_n, transform, torch.is_grad_enabled()))


def _chunk(
    hidden_nh: Tensor,
    weight_vh: Tensor,
    bias_v: Tensor | None,
    target_n: Tensor,
    transform: LogitTransform,
    with_slope: bool,
) -> tuple[HeadValues, Tensor | None]:
    """Values of a few tokens, and the slopes of their log-probabilities along the raw logits, shape (n, V)."""
    product = hidden_nh @ weight_vh.T
    z = product.float() if product.dtype in (torch.bfloat16, torch.float16) else product
    if bias_v is not None:
        z = z + bias_v.to(z.dtype)
    if transform.scale != 1.0:
        z = z * transform.scale
    steepness = None
    if transform.softcap is not None:
        bent = torch.tanh(z / transform.softcap)
        z = bent * transform.softcap
        steepness = 1 - bent.square() if with_slope else None
    top, best = z.max(dim=-1, keepdim=True)
    z = z - top  # before the sums: what is left of a large common logit would be rounding error
    column = target_n.unsqueeze(-1)
    p = z.exp()
    total = p.sum(dim=-1, keepdim=True)
    p /= total
    log_total = total.log()
    expected = torch.linalg.vecdot(p, z)
    values = HeadValues(
        log_prob_n=(z.gather(-1, column) - log_total).squeeze(-1),
        entropy_n=log_total.squeeze(-1) - expected,
        mean_logit_n=z.mean(dim=-1) + top.squeeze(-1),
        top1_n=(best == column).squeeze(-1),
    )
    if not with_slope:
        return values, None
    slope = p.neg_().scatter_add_(-1, column, torch.ones_like(top))
    if steepness is not None:
        slope *= steepness
    if transform.scale != 1.0:
        slope *= transform.scale
    return values, slope


class _ResponseHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_nh: Tensor,
        weight_vh: Tensor,
        bias_v: Tensor | None,
        target_n: Tensor,
        transform: LogitTransform,
        grad_enabled: bool,
    ) -> tuple[Tensor, ...]:
        # Inside forward the grad mode is always off, and needs_input_grad does not know of torch.no_grad().
        hidden_grad, weight_grad, bias_grad = (grad_enabled and need for need in ctx.needs_input_grad[:3])
        n, vocabulary = hidden_nh.size(0), weight_vh.size(0)
        device = hidden_nh.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_nh.dtype
        keep = (weight_grad or bias_grad) and n * vocabulary <= _KEPT_ELEMENTS
        step = max(1, _CHUNK_ELEMENTS // vocabulary)
        parts: list[tuple[Tensor, ...]] = []
        pulls: list[Tensor] = []
        slopes: list[Tensor] = []
        weight = weight_vh.to(dtype)
        # Slopes stay in float32 or better: rounded to bfloat16, they would add an error that plain logits do not have.
        wide = weight.to(torch.promote_types(dtype, torch.float32)) if hidden_grad else weight
        for start in range(0, max(n, 1), step):
            chunk = slice(start, start + step)
            values, slope = _chunk(
                hidden_nh[chunk].to(dtype), weight, bias_v, target_n[chunk], transform, hidden_grad or keep
            )
            parts.append((values.log_prob_n, values.entropy_n, values.mean_logit_n, values.top1_n))
            if slope is not None and hidden_grad:
                pulls.append(slope @ wide)
            if slope is not None and keep:
                slopes.append(slope)
        log_prob_n, entropy_n, mean_logit_n, top1_n = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(
            hidden_nh, weight_vh, bias_v, target_n, torch.cat(pulls) if pulls else None, *(slopes if keep else ())
        )
        ctx.transform, ctx.step, ctx.dtype = transform, step, dtype
        ctx.mark_non_differentiable(entropy_n, mean_logit_n, top1_n)
        return log_prob_n, entropy_n, mean_logit_n, top1_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_nh, weight_vh, bias_v, target_n, pull_nh, *slopes = ctx.saved_tensors
        grad_n1 = grads[0].unsqueeze(-1)
        hidden_grad = None if pull_nh is None else (pull_nh * grad_n1).to(hidden_nh.dtype)
        _, need_weight, need_bias = ctx.needs_input_grad[:3]
        if not (need_weight or need_bias):
            return hidden_grad, None, None, None, None, None
        from mallowspo.compat import gathered_parameters

        device = hidden_nh.device.type
        wide = torch.promote_types(ctx.dtype, torch.float32)
        with gathered_parameters(weight_vh, bias_v), torch.autocast(device, enabled=False):
            weight_grad = torch.zeros(weight_vh.shape, dtype=wide, device=weight_vh.device) if need_weight else None
            bias_grad = torch.zeros(weight_vh.size(0), dtype=wide, device=weight_vh.device) if need_bias else None
            for i, start in enumerate(range(0, max(hidden_nh.size(0), 1), ctx.step)):
                chunk = slice(start, start + ctx.step)
                hidden = hidden_nh[chunk].to(ctx.dtype)
                if slopes:
                    slope = slopes[i]
                else:
                    weight = weight_vh.to(ctx.dtype)
                    _, again = _chunk(hidden, weight, bias_v, target_n[chunk], ctx.transform, True)
                    assert again is not None
                    slope = again
                if weight_grad is not None:
                    # In the wide type: chunks rounded to bfloat16 one by one would add up to a bias.
                    weight_grad.addmm_(slope.T, hidden.to(wide) * grad_n1[chunk])
                if bias_grad is not None:
                    bias_grad += slope.T @ grad_n1[chunk, 0]
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight_vh.dtype),
            None if bias_grad is None or bias_v is None else bias_grad.to(bias_v.dtype),
            None,
            None,
            None,
        )
