"""Tiny random models of every verified architecture, batches, and the naive computation in float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn.attention import flex_attention
from transformers import AutoConfig, AutoModelForCausalLM

from mallowspo.data.collation import PreferenceCollator
from mallowspo.scoring.packed import add_packed_head, score_packed
from mallowspo.scoring.response_head import LogitTransform

VOCABULARY = 61
SHAPES = [(7, 5, 3), (1, 1, 9), (11, 2, 2)]
REAL = [(384, 96, 70), (128, 128, 90), (32, 256, 200)]
"""Lengths of a prompt and its responses: odd ones, and those of real work."""
TRANSFORMS = [LogitTransform(), LogitTransform(scale=0.3), LogitTransform(softcap=2.0), LogitTransform(1.7, 1.5)]

# Fields beside the common ones that make the architecture itself: windows shorter than the rows, softcaps, scales.
_OWN: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "mistral": {"sliding_window": 6},
    "olmo3": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": {"num_key_value_heads": 4},
    "phi3": {"sliding_window": 6},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "starcoder2": {"sliding_window": 6},
}


def tiny_model(model_type: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model in eval mode whose every parameter, biases and norms included, has something to say."""
    common = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2, "attn_implementation": None,
    }  # fmt: skip
    config = AutoConfig.for_model(model_type, **(common | _OWN.get(model_type, {}) | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for value in model.parameters():
            value.data.add_(torch.randn_like(value) * 0.1)
    return model.eval()


def packing_model(model_type: str, attention: str, **changes: Any) -> Any:
    """A tiny model under an attention that packs; Gemma 2's softcaps need eager attention for dense masks."""
    attention = "eager" if (model_type, attention) == ("gemma2", "sdpa") else attention
    return tiny_model(model_type, attn_implementation=attention, **changes)


def plain_model(model_type: str, **changes: Any) -> Any:
    """The same weights under the attention that the naive computation trusts."""
    return packing_model(model_type, "sdpa", **changes)


def plain_head(leaves: Any, target: torch.Tensor, transform: LogitTransform) -> tuple[torch.Tensor, ...]:
    """Log-probability, entropy, mean logit and first choice by all logits at once, in float32 or better."""
    z = torch.nn.functional.linear(*leaves)
    z = (z.float() if z.dtype == torch.bfloat16 else z) * transform.scale
    if transform.softcap:
        z = transform.softcap * torch.tanh(z / transform.softcap)
    log_p = z.log_softmax(-1)
    log_prob = log_p.gather(-1, target[:, None]).squeeze(-1)
    return log_prob, -(log_p.exp() * log_p).sum(-1), z.mean(-1), z.argmax(-1) == target


def flex_by_hand(patch: Any) -> None:
    """FlexAttention's operator uncompiled: once torch's check is lifted it has a backward pass on a CPU."""
    patch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    patch.setattr(flex_attention, "_validate_device", lambda query, key, value: None)


def rows(lengths: list[tuple[int, ...]], seed: int = 0) -> list[dict[str, list[int]]]:
    """Random tokenised rows: (prompt, response, response, ...) lengths in tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    return [{"prompt_ids": ids(p), **{f"response_{k}": ids(n) for k, n in enumerate(rest)}} for p, *rest in lengths]


def collate(rows: list[dict[str, list[int]]], *, pad: int = 0, **options: Any) -> dict[str, torch.Tensor]:
    """K blocks of rows; two responses go through TRL's own collator, so truncation is its own."""
    responses = len(rows[0]) - 1
    halves = [
        PreferenceCollator(pad_token_id=pad, **options)(
            [{"prompt_ids": r["prompt_ids"], "chosen_ids": r[f"response_{k}"], "rejected_ids": []} for r in rows]
        )
        for k in range(responses)
    ]
    width = max(half["input_ids"].size(1) for half in halves)
    fill = {"input_ids": pad, "attention_mask": 0, "completion_mask": 0}
    return {
        key: torch.cat(
            [
                torch.nn.functional.pad(half[key][: len(rows)], (0, width - half[key].size(1)), value=value)
                for half in halves
            ]
        )
        for key, value in fill.items()
    }


def ranked_pairs(
    batch: dict[str, torch.Tensor], responses: int
) -> tuple[dict[str, torch.Tensor], list[tuple[int, int, int]]]:
    """All pairs of the first, second, ... response of every row of a batch, as TRL stacks pairs."""
    prompts = len(batch["input_ids"]) // responses
    pairs = [(b, i, j) for b in range(prompts) for i in range(responses) for j in range(i + 1, responses)]
    first = torch.tensor([i * prompts + b for b, i, _ in pairs])
    second = torch.tensor([j * prompts + b for b, _, j in pairs])
    return {key: value[torch.cat([first, second])] for key, value in batch.items()}, pairs


def naive(model: Any, batch: dict[str, torch.Tensor], responses: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Log-probability, entropy, mean logit and first choices by plain logits, one sequence at a time, no padding.

    Returns:
        Sums of shape (B, K); `gradients` of a weighted sum of the log-probabilities, by parameter name.
    """
    plain = copy.deepcopy(model).to(dtype)
    values: dict[str, list[torch.Tensor]] = {"logp": [], "entropy": [], "logit": [], "top1": [], "length": []}
    for ids, real, completion in zip(
        *(batch[k] for k in ("input_ids", "attention_mask", "completion_mask")), strict=True
    ):
        sequence, scored = ids[real.bool()], completion[real.bool()][1:].bool()
        logits = plain(input_ids=sequence[None]).logits[0, :-1][scored]
        target = sequence[1:][scored]
        log_p = logits.log_softmax(-1)
        values["logp"].append(log_p.gather(-1, target[:, None]).sum())
        values["entropy"].append(-(log_p.exp() * log_p).sum())
        values["logit"].append(logits.mean(-1).sum())
        values["top1"].append((logits.argmax(-1) == target).sum())
        values["length"].append(scored.sum())
    found = {name: torch.stack(value).view(responses, -1).T for name, value in values.items()}
    (found["logp"] * coefficients(found["logp"])).sum().backward()
    gradients = {name: value.grad for name, value in plain.named_parameters() if value.requires_grad}
    return {**{k: v.detach() for k, v in found.items()}, "gradients": gradients}


def coefficients(logp_bk: torch.Tensor) -> torch.Tensor:
    """Different weights for every response, as a loss gives them."""
    return torch.linspace(-1, 1.5, logp_bk.numel(), dtype=logp_bk.dtype, device=logp_bk.device).view_as(logp_bk)


def gradients_of(model: Any, scores: Any) -> dict[str, torch.Tensor]:
    """Gradients of the same weighted sum as in `naive`."""
    model.zero_grad()
    (scores.logp_bk * coefficients(scores.logp_bk)).sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def assert_as_good_as(ours: torch.Tensor, same_precision: torch.Tensor, truth: torch.Tensor, name: str = "") -> None:
    """Ours is no further from the truth than the naive computation in the same precision, plus 1e-5 relative."""
    size = truth.abs().max().double()
    error = (ours.double() - truth.double()).abs().max()
    allowed = (same_precision.double() - truth.double()).abs().max() + 1e-5 * size
    assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}, size {size:.2e}"


def check(
    model: Any, batch: dict[str, torch.Tensor], responses: int = 2, path: str | None = None, plain: Any = None
) -> Any:
    """Hold log-probability, entropy, metrics and every gradient against float64, next to naive float32.

    Args:
        model: Gets the packed head.
        batch: A padded batch.
        responses: K.
        path: What the model's path must be.
        plain: The model of the naive computation, where the model's own attention is not to be trusted with it.

    Returns:
        The scores.
    """
    plain = model if plain is None else plain
    truth = naive(plain, batch, responses, torch.float64)
    single = naive(plain, batch, responses, torch.float32)
    support = add_packed_head(model)
    assert path is None or support.path == path
    scores = score_packed(model, batch, responses=responses)
    gradients = gradients_of(model, scores)
    assert scores.logp_bk.dtype == torch.float64
    assert_as_good_as(scores.logp_bk, single["logp"], truth["logp"], "log-probability")
    assert_as_good_as(scores.entropy_sum_bk, single["entropy"], truth["entropy"], "entropy")
    assert_as_good_as(scores.logit_sum_bk, single["logit"], truth["logit"], "mean logit")
    assert torch.equal(scores.top1_bk.long(), truth["top1"]) and torch.equal(scores.length_bk, truth["length"])
    assert gradients.keys() == truth["gradients"].keys()
    # Over all parameters at once: the least of many small errors is a matter of luck.
    flat = [
        torch.cat([g[name].double().flatten() for name in gradients])
        for g in (gradients, single["gradients"], truth["gradients"])
    ]
    assert_as_good_as(*flat, "gradients")
    return scores
