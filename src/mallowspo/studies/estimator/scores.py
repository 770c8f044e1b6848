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
    """One response as the model read it.

    Attributes:
        tokens: Its token ids.
        entropy: Entropy of the next-token distribution at each of them, nats, shape (T,).
        logp: Log-probability of the whole, nats.
    """

    tokens: tuple[int, ...]
    entropy: Floats
    logp: float


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of responses that people voted on, as the model sees them.

    Attributes:
        statistics: Of N pairs, K = 2.
        responses: Responses that were scored.
        cut_responses: Responses that did not fit whole.
        cut_prompts: Prompts that did not fit whole.
        prompts: Prompts.
    """

    statistics: ReferenceStatistics
    responses: int
    cut_responses: int
    cut_prompts: int
    prompts: int


def divergent_place(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Where two responses first differ, perhaps at the end of the shorter one; None where they are the same.

    Example:
        >>> divergent_place([1, 2, 3], [1, 4]), divergent_place([1], [1, 2]), divergent_place([1], [1])
        (1, 1, None)
    """
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
    """Score each response once, after its own prompt, and pair the scores as people judged them.

    Of a prompt longer than `max_prompt_tokens` the end is kept; of what is then beyond `max_length`, the beginning.
    """
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
    from mallowspo.scoring.reference_scores import longest_first, score_batches

    prompts, responses = ([sequence[part] for sequence in sequences] for part in (0, 1))
    order_n = longest_first(prompts, responses, responses)

    def batch(chosen: NDArray[np.intp]) -> dict[str, Any]:
        width = max(len(prompts[i]) + len(responses[i]) for i in chosen)
        names = ("input_ids", "attention_mask", "completion_mask")
        laid_out = {name: torch.zeros(len(chosen), width, dtype=torch.long) for name in names}
        for row, i in enumerate(chosen):
            end = len(prompts[i]) + len(responses[i])
            laid_out["input_ids"][row, :end] = torch.tensor([*prompts[i], *responses[i]])
            laid_out["attention_mask"][row, :end] = 1
            laid_out["completion_mask"][row, len(prompts[i]) : end] = 1
        return laid_out

    with torch.no_grad():
        scores = score_batches(
            (batch(order_n[start : start + batch_size]) for start in range(0, len(order_n), batch_size)),
            order_n,
            forward=lambda rows: score_padded(model, rows, responses=1, per_token=True),
            per_token=True,
        )
    assert scores.token_entropies is not None
    return [
        ScoredResponse(tuple(response), entropy.astype(np.float64), float(logp))
        for response, (entropy,), (logp,) in zip(responses, scores.token_entropies, scores.logp_nk, strict=True)
    ]
