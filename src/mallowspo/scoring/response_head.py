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

__all__ = ["HeadValues", "LogitTransform", "logit_transform", "logits_at_once", "response_head"]

_PRODUCT_ELEMENTS = 2**23  # logits of a product that are not kept: 32 MB in float32 ...
_PRODUCT_TOKENS = 128  # ... but never fewer tokens: with few, a product reads the weight for little work
_ELEMENTS_AFTER = 2**21  # logits at a time in what follows the product: 8 MB
_KEPT_ELEMENTS = 2**26  # slopes kept for the weight's gradient: 256 MB in float32; above, they are computed again


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to the product of hidden state and weight."""

    scale: float = 1.0  # factor on the logits
    softcap: float | None = None  # c in c * tanh(logit / c), after the factor; None without


@dataclass(frozen=True)
class HeadValues:
    """Values of `N` scored tokens, float32 or better."""

    log_prob_n: Tensor  # of the target, nats; carries the gradient
    entropy_n: Tensor  # nats, without gradient, as are the others
    mean_logit_n: Tensor  # over the vocabulary
    top1_n: Tensor  # whether the target was the most likely token


def logit_transform(config: Any) -> LogitTransform:
    """Read a model's scale and softcap of the logits from its configuration."""
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
    """Score target tokens, shape (N,), after hidden states (N, H), with a weight (V, H) and perhaps a bias (V,)."""
    if hidden_nh.is_cuda:
        from mallowspo.compat import triton_response_head

        fused = triton_response_head(
            hidden_nh, weight_vh, bias_v, target_n, scale=transform.scale, softcap=transform.softcap
        )
        if fused is not None:
            return HeadValues(*fused)
    function: Any = _ResponseHead
    return HeadValues(*function.apply(hidden_nh, weight_vh, bias_v, target_n, transform, torch.is_grad_enabled()))


def logits_at_once(n: int, vocabulary: int, *, weight_grad: bool) -> tuple[int, bool]:
    """On a processor: for how many of `n` tokens logits are held, and whether until the backward pass."""
    keep = weight_grad and n * vocabulary <= _KEPT_ELEMENTS
    return (max(n, 1) if keep else max(_PRODUCT_TOKENS, _PRODUCT_ELEMENTS // vocabulary)), keep


def _fill_logits(hidden_nh: Tensor, weight_vh: Tensor, bias_v: Tensor | None, out_nv: Tensor) -> None:
    """Write the raw logits into `out_nv`, which is wider than the product where that has half precision."""
    if out_nv.dtype == hidden_nh.dtype:
        torch.mm(hidden_nh, weight_vh.T, out=out_nv)
    else:
        out_nv.copy_(hidden_nh @ weight_vh.T)
    if bias_v is not None:
        out_nv += bias_v.to(out_nv.dtype)


def _token_values(
    z_mv: Tensor, target_m: Tensor, transform: LogitTransform, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values of some tokens whose raw logits are `z_mv`; these become the slopes in place, where they are wanted."""
    if transform.scale != 1.0:
        z_mv *= transform.scale
    steepness = None
    if transform.softcap is not None:
        bent = torch.tanh(z_mv / transform.softcap)
        steepness = 1 - bent.square() if with_slope else None
        torch.mul(bent, transform.softcap, out=z_mv)
    column = target_m.unsqueeze(-1)
    mean_logit = z_mv.mean(dim=-1)
    top = z_mv.amax(dim=-1, keepdim=True)
    z_mv -= top  # before the sums: what is left of a large common logit would be rounding error
    z_target = z_mv.gather(-1, column).squeeze(-1)
    # Of equal logits the first counts. An argmax is slow, so only where the target is among the largest.
    top1 = z_target == 0
    if top1.any():
        top1[top1.clone()] = z_mv[top1].argmax(dim=-1) == target_m[top1]
    p = torch.softmax(z_mv, dim=-1)
    log_total = p.amax(dim=-1).log().neg()  # the largest logit is 0 now, so its probability is 1 / total
    entropy = log_total - z_mv.mul_(p).sum(dim=-1)  # two terms >= 0: nothing cancels
    if with_slope:
        slope = torch.neg(p, out=z_mv).scatter_add_(-1, column, torch.ones_like(column, dtype=p.dtype))
        if steepness is not None:
            slope *= steepness
        if transform.scale != 1.0:
            slope *= transform.scale
    return z_target - log_total, entropy, mean_logit, top1


def _chunk(
    hidden_nh: Tensor,
    weight_vh: Tensor,
    bias_v: Tensor | None,
    target_n: Tensor,
    transform: LogitTransform,
    out_nv: Tensor,
    with_slope: bool,
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """One product, which wants many tokens, then all that follows it, which wants few: the caches should hold them.

    `out_nv`, of shape (n, V), is overwritten: with `with_slope` by the slopes of the log-probabilities along the raw
    logits, else by nothing of use.
    """
    _fill_logits(hidden_nh, weight_vh, bias_v, out_nv)
    size = max(1, _ELEMENTS_AFTER // out_nv.size(1))
    pieces = zip(torch.split(out_nv, size), torch.split(target_n, size), strict=True)
    return [_token_values(z_mv, target_m, transform, with_slope) for z_mv, target_m in pieces]


# The last buffer of logits that was given back, to be used again. On a CPU the C library returns one of this size to
# the system, which hands out and clears the same pages again for the next row: a twentieth of a step (measured).
_spare: list[Tensor] = []


def _take_room(like: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Uninitialised memory of a shape, on the device of `like`."""
    elements = shape[0] * shape[1]
    if like.device.type == "cpu" and _spare:
        room = _spare.pop()
        if room.dtype == dtype and room.numel() >= elements:
            return room.view(-1)[:elements].view(shape)
    return like.new_empty(shape, dtype=dtype)


def _give_back(room: Tensor) -> None:
    """Keep a buffer that nobody reads any more."""
    if room.device.type == "cpu":
        _spare[:] = [room if room._base is None else room._base]


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
        # Values and slopes stay in float32 or better: rounded to bfloat16, slopes would add an error that plain
        # logits do not have.
        wide = torch.promote_types(dtype, torch.float32)
        step, keep = logits_at_once(n, vocabulary, weight_grad=weight_grad or bias_grad)
        # Slopes that are kept come out of one product; else every chunk writes over the last one's.
        room = _take_room(hidden_nh, (min(n, step), vocabulary), wide)
        pull = hidden_nh.new_empty((n, hidden_nh.size(1)), dtype=wide) if hidden_grad else None
        parts: list[tuple[Tensor, ...]] = []
        weight = weight_vh.to(dtype)
        wide_weight = weight.to(wide) if hidden_grad else weight
        for start in range(0, max(n, 1), step):
            hidden = hidden_nh[start : start + step].to(dtype)
            out = room[: hidden.size(0)]
            target = target_n[start : start + step]
            parts += _chunk(hidden, weight, bias_v, target, transform, out, hidden_grad or keep)
            if pull is not None:
                torch.mm(out, wide_weight, out=pull[start : start + step])
        log_prob_n, entropy_n, mean_logit_n, top1_n = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(hidden_nh, weight_vh, bias_v, target_n, pull)
        ctx.transform, ctx.step, ctx.dtype = transform, step, dtype
        ctx.slope = room if keep else None
        if not keep:
            _give_back(room)
        ctx.mark_non_differentiable(entropy_n, mean_logit_n, top1_n)
        return log_prob_n, entropy_n, mean_logit_n, top1_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_nh, weight_vh, bias_v, _, pull_nh = ctx.saved_tensors
        grad_n1 = grads[0].unsqueeze(-1)
        hidden_grad = None if pull_nh is None else (pull_nh * grad_n1).to(hidden_nh.dtype)
        _, need_weight, need_bias = ctx.needs_input_grad[:3]
        if not (need_weight or need_bias):
            return hidden_grad, None, None, None, None, None
        with torch.autocast(hidden_nh.device.type, enabled=False):
            weight_grad, bias_grad = _parameter_gradients(ctx, grad_n1, need_weight, need_bias)
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight_vh.dtype),
            None if bias_grad is None or bias_v is None else bias_grad.to(bias_v.dtype),
            None,
            None,
            None,
        )


def _parameter_gradients(
    ctx: Any, grad_n1: Tensor, need_weight: bool, need_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the head's weight and bias: in one product from kept slopes, else chunk by chunk."""
    hidden_nh, weight_vh, bias_v, target_n, _ = ctx.saved_tensors
    slope_nv, ctx.slope = ctx.slope, None  # a second backward pass computes them again
    wide = torch.promote_types(ctx.dtype, torch.float32)
    n, vocabulary = hidden_nh.size(0), weight_vh.size(0)
    weight_grad = bias_grad = None
    step = ctx.step  # all of them, where the slopes were kept
    room = _take_room(hidden_nh, (min(n, step), vocabulary), wide) if slope_nv is None else slope_nv
    weight = weight_vh.to(ctx.dtype) if slope_nv is None else None
    for start in range(0, max(n, 1), step):
        hidden = hidden_nh[start : start + step].to(ctx.dtype)
        slope = room[: hidden.size(0)]
        if weight is not None:
            _chunk(hidden, weight, bias_v, target_n[start : start + step], ctx.transform, slope, True)
        pulled = hidden.to(wide) * grad_n1[start : start + step]
        if need_weight:
            # In the wide type: chunks rounded to bfloat16 one by one would add up to a bias.
            weight_grad = slope.T @ pulled if weight_grad is None else weight_grad.addmm_(slope.T, pulled)
        if need_bias:
            own = slope.T @ grad_n1[start : start + step, 0]
            bias_grad = own if bias_grad is None else bias_grad.add_(own)
    _give_back(room)
    return weight_grad, bias_grad
