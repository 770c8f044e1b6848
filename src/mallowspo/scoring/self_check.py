"""Hold a model's scores against its own logits on a few tokens, before a run relies on them.

Two things cannot be read off a configuration: whether every layer takes a packed row, and whether the logits are the
product with the head's weight and nothing else. Both show in four short rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mallowspo.data.vocabulary import embedding_rows
from mallowspo.errors import InputError
from mallowspo.scoring.model_checks import base_model, refuse_own_logits
from mallowspo.scoring.packed import score_packed
from mallowspo.scoring.packed_attention import plain_attention
from mallowspo.scoring.padded import score_padded

__all__ = ["check_scores", "sum_tolerance"]

_TOKENS = 9  # of a row: a prompt of 4, a response of 5 or 3


def sum_tolerance(precision: str, lengths: Any) -> NDArray[np.float64]:
    """How far two sums over as many tokens may drift apart by rounding, nats: with the root of their length."""
    unit = 0.3 if "bf" in precision else 0.05 if "16" in precision else 0.002
    return unit * np.sqrt(np.maximum(np.asarray(lengths, np.float64), 1.0))


@torch.no_grad()
def check_scores(
    model: Any,
    device: torch.device,
    *,
    packed: bool,
    mixed_precision: str = "no",
    wrapped: Any = None,
    router_logits: bool = False,
) -> str | None:
    """Compare a model's scores with its own logits on two prompts: why its rows cannot be packed, or None.

    A model inside of an engine is called through `wrapped`, in all processes.
    """
    call = model if wrapped is None else wrapped
    batch = {name: value.to(device) for name, value in _batch(model).items()}
    precision = _precision(model, mixed_precision)
    complaint = None
    with _evaluating(call):
        with _uncompiled_attention(model), _told(model, router_logits=False):
            own_bk = _own_logps(call, batch)
        if not bool(own_bk.isfinite().all()):
            return None  # broken weights: the first loss says so
        if packed:
            try:
                apart = _apart(score_packed(call, batch, sum_dtype=torch.float32), own_bk, precision)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError) as error:
                apart = f"fail with {type(error).__name__}: {str(error)[:200]}"
            if apart is None:
                return None
            complaint = f"{model.config.model_type}: on a trial, packed rows {apart}"
        with _uncompiled_attention(model), _told(model, router_logits=router_logits):
            scores = score_padded(call, batch, router_logits=router_logits, sum_dtype=torch.float32)
            apart = _apart(scores, own_bk, precision)
        if apart is not None:
            refuse_own_logits(model, f"on a trial, log-probabilities computed from the head's weight {apart}")
    return complaint


@contextmanager
def _told(model: Any, *, router_logits: bool) -> Iterator[None]:
    """Say in one message that a model cannot be called as it must be."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        instead = "; router_aux_loss_coef: 0 leaves its balance loss out" if router_logits else ""
        raise InputError(
            f"model: {type(base_model(model)).__name__} cannot be scored: on a trial it fails with "
            f"{type(error).__name__}: {str(error)[:200]}{instead}"
        ) from error


def _batch(model: Any) -> dict[str, Tensor]:
    """Two prompts with two responses each; the tokens are neither the first nor the last, which often are special."""
    size = embedding_rows(base_model(model)) or int(model.config.get_text_config().vocab_size)
    places = torch.arange(4 * _TOKENS).view(4, _TOKENS)
    places[2:, :4] = places[:2, :4]  # the second responses have the prompts of the first
    ids = (size // 4 + 5 * places) % size
    real = torch.ones_like(ids)
    real[1:3, -2:] = 0
    completion = real.clone()
    completion[:, :4] = 0
    return {"input_ids": ids, "attention_mask": real, "completion_mask": completion}


def _own_logps(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Log-probabilities of the responses from the model's own logits, shape (B, K), nats."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    # Prompt-learning adapters put virtual tokens in front: the last columns are the real ones.
    log_p = logits[:, -_TOKENS:][:, :-1].float().log_softmax(-1)
    target = batch["input_ids"][:, 1:, None].to(log_p.device)
    log_prob: Tensor = log_p.gather(-1, target).squeeze(-1).cpu()
    return log_prob.masked_fill(batch["completion_mask"][:, 1:].cpu() == 0, 0).sum(1).view(2, -1).T


def _apart(scores: Any, own_bk: Tensor, precision: str) -> str | None:
    """How far scores are from the model's own, in words; None where rounding explains it."""
    gap = (scores.logp_bk.cpu() - own_bk).abs()
    if bool((gap <= torch.as_tensor(sum_tolerance(precision, scores.length_bk.cpu().numpy()))).all()):
        return None
    return (
        f"are up to {gap.max().item():.3g} nats from those of the model's own logits, for a response of a few tokens"
    )


def _precision(model: Any, mixed_precision: str) -> str:
    """The types that a model is computed in, in words."""
    dtypes = {str(value.dtype) for value in model.parameters()}
    rounded = any(not dtype.endswith(("float32", "float64", "float16")) for dtype in dtypes)  # quantised, in bfloat16
    # TF32 has as many bits as float16. Its older flag cannot be read where transformers has set the new one.
    tf32 = getattr(torch.backends.cuda.matmul, "fp32_precision", "tf32") == "tf32"
    return " ".join([*sorted(dtypes), mixed_precision, "bf16" if rounded else "", "fp16" if tf32 else ""])


@contextmanager
def _uncompiled_attention(model: Any) -> Iterator[None]:
    """For the time of a block, eager attention instead of FlexAttention, which would be compiled for these rows."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    before = [(config, config._attn_implementation) for config in configs if "flex" in plain_attention(config)]
    for config, _ in before:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, attention in before:
            config._attn_implementation = attention


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for the time of a block, and each module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
