"""The reference model of the world: a tiny Llama that has read what the population wrote.

The corpus is kept as counts (how often each candidate was written under each prompt), so that one step sees every
answer to its prompts at once, each weighted by how often it was written. That is the ordinary next-token loss with
less noise, which is what lets a model of 60,000 parameters fit the population within seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.world.language import WorldPrompt

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

    from mallowspo.world.packed_corpus import PackedCorpus

__all__ = ["ReferenceTraining", "TokenizedPrompts", "fit", "tokenize_forms", "tokenize_prompts", "train_reference"]


@dataclass(frozen=True)
class ReferenceTraining:
    """How the reference is built and trained."""

    hidden_size: int = 48  # width of the Llama; a multiple of 4, for its 4 heads
    layers: int = 2
    steps: int = 300
    prompts_per_step: int = 48  # prompts in one step, each with all its answers
    learning_rate: float = 1e-2  # peak; linear warm-up over a tenth of the steps, then a cosine to 0
    seed: int = 0  # seed of the initial weights and of the order of the prompts


@dataclass(frozen=True)
class TokenizedPrompts:
    """Prompts and their candidates as token ids."""

    prompt_ids: tuple[tuple[int, ...], ...]  # ids of each prompt, `<bos>` included; P tuples
    candidate_ids: tuple[tuple[tuple[int, ...], ...], ...]  # each ending in `<eos>`; P tuples of K tuples


def _answer(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], int(tokenizer.eos_token_id))


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[WorldPrompt]) -> TokenizedPrompts:
    """Turn prompts and candidates into ids, as a trainer will see them: prompt, answer, `<eos>`."""
    return TokenizedPrompts(
        prompt_ids=tuple(tuple(tokenizer(prompt.text)["input_ids"]) for prompt in prompts),
        candidate_ids=tuple(tuple(_answer(tokenizer, text) for text in prompt.candidates) for prompt in prompts),
    )


def tokenize_forms(
    tokenizer: PreTrainedTokenizerBase, forms: Sequence[Sequence[Sequence[str]]]
) -> tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]:
    """Turn the ways in which answers are written into ids, each ending in `<eos>`."""
    return tuple(
        tuple(tuple(_answer(tokenizer, text) for text in texts) for texts in candidates) for candidates in forms
    )


def _new_model(tokenizer: PreTrainedTokenizerBase, training: ReferenceTraining) -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=training.hidden_size,
        intermediate_size=3 * training.hidden_size,
        num_hidden_layers=training.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model: LlamaForCausalLM = LlamaForCausalLM(config)
        return model


def _pack(
    tokenizer: PreTrainedTokenizerBase,
    tokens: TokenizedPrompts,
    forms: Sequence[Sequence[Sequence[str]]],
    corpus_pk: NDArray[np.int64],
    seed: int,
) -> PackedCorpus:
    """Lay out a corpus whose answers are written in several forms."""
    from mallowspo.world.packed_corpus import PackedCorpus

    ids = tokenize_forms(tokenizer, forms)
    sizes = [len(candidates) for candidates in ids]
    if sizes != [len(answers) for answers in tokens.candidate_ids] or not all(map(all, ids)):
        raise InputError("forms: expected at least one text for every candidate of every prompt")
    share_pk = corpus_pk / corpus_pk.sum(axis=1, keepdims=True)
    return PackedCorpus(tokens.prompt_ids, ids, share_pk, pad=int(tokenizer.pad_token_id), seed=seed)


def _pad(tokens: TokenizedPrompts, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right: ids and labels of shape (P, K, T), labels −100 except on the answer and its `<eos>`."""
    import torch

    size = max(
        len(prompt) + len(answer)
        for prompt, answers in zip(tokens.prompt_ids, tokens.candidate_ids, strict=True)
        for answer in answers
    )
    shape = (len(tokens.prompt_ids), len(tokens.candidate_ids[0]), size)
    ids_pkt = torch.full(shape, pad, dtype=torch.long)
    labels_pkt = torch.full(shape, -100, dtype=torch.long)
    for p, (prompt, answers) in enumerate(zip(tokens.prompt_ids, tokens.candidate_ids, strict=True)):
        for k, answer in enumerate(answers):
            end = len(prompt) + len(answer)
            ids_pkt[p, k, :end] = torch.tensor(prompt + answer)
            labels_pkt[p, k, len(prompt) : end] = torch.tensor(answer)
    return ids_pkt, labels_pkt


def train_reference(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[WorldPrompt],
    corpus_pk: NDArray[np.int64],
    *,
    forms: Sequence[Sequence[Sequence[str]]] | None = None,
    training: ReferenceTraining | None = None,
) -> LlamaForCausalLM:
    """Train a tiny Llama on the counts of a corpus, shape (P, K); in eval mode, float32, on the CPU.

    `forms` are the texts in which each candidate is written, each as often; where None its own text alone. Same
    arguments and number of threads, same weights.
    """
    import torch
    from torch.nn.functional import cross_entropy

    training = training or ReferenceTraining()
    tokens = tokenize_prompts(tokenizer, prompts)
    expected = (len(prompts), len(prompts[0].candidates) if prompts else 0)
    if corpus_pk.shape != expected or 0 in expected:
        raise InputError(f"corpus_pk: got shape {corpus_pk.shape}, expected {expected}, one row of counts per prompt")
    packed = None if forms is None else _pack(tokenizer, tokens, forms, corpus_pk, training.seed)
    ids_pkt, labels_pkt = _pad(tokens, int(tokenizer.pad_token_id))
    weight_pk = torch.tensor(corpus_pk / corpus_pk.sum(axis=1, keepdims=True), dtype=torch.float32)
    model: Any = _new_model(tokenizer, training)
    order = np.random.default_rng(training.seed)
    batch = min(training.prompts_per_step, len(prompts))

    def loss() -> torch.Tensor:
        rows = torch.as_tensor(order.permutation(len(prompts))[:batch])
        if packed is not None:
            return packed.loss(model, rows)
        ids_bt, labels_bt = ids_pkt[rows].flatten(0, 1), labels_pkt[rows].flatten(0, 1)
        # Padding is on the right and attention is causal, so that no answer can see it: no mask is needed.
        logits_btv = model(input_ids=ids_bt, use_cache=False).logits[:, :-1]
        loss_bt = cross_entropy(logits_btv.transpose(1, 2), labels_bt[:, 1:], reduction="none")
        return (loss_bt.sum(dim=1) * weight_pk[rows].flatten()).sum() / batch

    trained: LlamaForCausalLM = fit(model, loss, training.steps, training.learning_rate, weight_decay=0.01)
    return trained


def fit(
    model: Any, loss: Callable[[], torch.Tensor], steps: int, learning_rate: float, *, weight_decay: float = 0.0,
    on_step: Callable[[int], None] = lambda done: None,
) -> Any:  # fmt: skip
    """AdamW with a warm-up over a tenth of the steps, then half a cosine down to 0; gradients clipped at norm 1."""
    import torch

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    warm_up = max(1, steps // 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step + 1)
    return model.eval()
