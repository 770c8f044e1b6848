"""Score every response that people judged with one model, and lay the scores out as pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.dispersion.entropy import ReferenceStatistics
from mallowspo.dispersion.votes_file import VoteRows

__all__ = [
    "ScoredPairs",
    "ScoredResponse",
    "divergent_place",
    "pair_statistics",
    "score_pairs",
    "score_responses",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredResponse:
    """One response as the model read it."""

    tokens: tuple[int, ...]  # its token ids
    entropy: Floats  # entropy of the next-token distribution at each of them, nats, shape (T,)
    logp: float  # log-probability of the whole, nats


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of responses that people voted on, as the model sees them."""

    statistics: ReferenceStatistics  # of N pairs, K = 2
    responses: int  # responses that were scored
    cut_responses: int  # responses that did not fit whole
    cut_prompts: int  # prompts that did not fit whole
    prompts: int


def divergent_place(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Where two responses first differ, perhaps at the end of the shorter one; None where they are the same."""
    if tuple(first) == tuple(second):
        return None
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def score_pairs(
    model: Any,
    tokenizer: Any,
    rows: VoteRows,
    *,
    max_prompt_tokens: int,
    max_length: int,
    batch_size: int,
) -> ScoredPairs:
    """Score each response once, after its own prompt, and pair the scores as people judged them."""
    # Of a longer prompt the end is kept; of what is then beyond `max_length`, the beginning.
    prompt_of = dict(zip(rows.prompt_ids, rows.prompts, strict=True))
    named = list(dict.fromkeys((rows.prompt_ids[n], text) for n, pair in enumerate(rows.responses) for text in pair))
    before: dict[str, list[int]] = {}
    cut_prompts = 0
    for name, text in prompt_of.items():
        ids = tokenizer(text + "\n", add_special_tokens=False, verbose=False)["input_ids"]
        cut_prompts += len(ids) > max_prompt_tokens - 1
        before[name] = [tokenizer.bos_token_id, *ids[-(max_prompt_tokens - 1) :]]
    sequences, cut = [], 0
    for name, text in named:
        ids = [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
        room = max_length - len(before[name])
        cut += len(ids) > room
        sequences.append((before[name], ids[:room]))
    scored = dict(zip(named, score_responses(model, sequences, batch_size), strict=True))
    pairs = [
        (scored[name, first], scored[name, second])
        for name, (first, second) in zip(rows.prompt_ids, rows.responses, strict=True)
    ]
    statistics = pair_statistics(pairs, int(model.get_output_embeddings().weight.shape[0]))
    return ScoredPairs(statistics, len(named), cut, cut_prompts, len(prompt_of))


def pair_statistics(pairs: Sequence[tuple[ScoredResponse, ScoredResponse]], vocab_size: int) -> ReferenceStatistics:
    """Lay scored responses out as the estimators read them, N pairs, K = 2."""
    divergent = np.full((len(pairs), 2), np.nan)
    for row, (first, second) in enumerate(pairs):
        place = divergent_place(first.tokens, second.tokens)
        for side, response in enumerate((first, second)):
            if place is not None and place < len(response.entropy):
                divergent[row, side] = response.entropy[place]

    def both(read: Callable[[ScoredResponse], float]) -> Floats:
        return np.array([[read(response) for response in pair] for pair in pairs])

    return ReferenceStatistics(
        logp_nk=both(lambda r: r.logp),
        entropy_sum_nk=both(lambda r: float(r.entropy.sum())),
        length_nk=both(lambda r: float(len(r.tokens))),
        vocab_size=vocab_size,
        first_entropy_nk=both(lambda r: float(r.entropy[0])),
        divergent_entropy_nk=divergent,
    )


def score_responses(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[ScoredResponse]:
    """Score responses, given as (ids of the prompt, ids of the response), with a model that has the score head."""
    import torch

    from mallowspo.scoring import score_padded

    # Longest first: little padding.
    order = sorted(range(len(sequences)), key=lambda i: -sum(map(len, sequences[i])))
    found: dict[int, ScoredResponse] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(sum(map(len, sequences[i])) for i in chosen)
        batch = {
            name: torch.zeros(len(chosen), width, dtype=torch.long)
            for name in ("input_ids", "attention_mask", "completion_mask")
        }
        for row, i in enumerate(chosen):
            prompt, response = sequences[i]
            end = len(prompt) + len(response)
            batch["input_ids"][row, :end] = torch.tensor(prompt + response)
            batch["attention_mask"][row, :end] = 1
            batch["completion_mask"][row, len(prompt) : end] = 1
        with torch.no_grad():
            scores = score_padded(model, batch, responses=1, per_token=True)
        assert scores.token_entropy_bkt is not None and scores.token_mask_bkt is not None
        for row, i in enumerate(chosen):
            mask = scores.token_mask_bkt[row, 0]
            entropy = scores.token_entropy_bkt[row, 0][mask].double().numpy()
            found[i] = ScoredResponse(tuple(sequences[i][1]), entropy, float(scores.logp_bk[row, 0]))
    return [found[i] for i in range(len(sequences))]
