"""Answers drawn from a model, kept as the tree of prefixes that they form.

All answers to a prompt are drawn together: at every prefix that some of them share, the model is run once and the
samples are split by a multinomial draw. That is ordinary sampling, at the price of the distinct prefixes only, and the
next-token distribution at each of them comes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError

__all__ = ["SampledAnswer", "sample_answers"]


@dataclass(frozen=True)
class SampledAnswer:
    """One answer that a model gave to a prompt, once or more often."""

    ids: tuple[int, ...]  # the end-of-sequence token included where it was reached
    count: int  # how many of the samples were this answer
    token_logp: tuple[float, ...]  # nats
    token_entropy: tuple[float, ...]  # of the distribution that each token was drawn from, nats

    @property
    def logp(self) -> float:
        """Log-probability of the whole answer, nats."""
        return float(sum(self.token_logp))


def sample_answers(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    *,
    samples: int = 32,
    max_new_tokens: int = 32,
    end_id: int,
    seed: int = 0,
    batch_size: int = 512,
) -> list[list[SampledAnswer]]:
    """Draw answers at temperature 1: for each prompt the distinct ones, the most frequent first, `samples` in all."""
    if not prompt_ids or not all(len(ids) for ids in prompt_ids):
        raise InputError("prompt_ids: expected at least one prompt, each of at least one token")
    if samples < 1 or max_new_tokens < 1:
        raise InputError(f"samples and max_new_tokens: got {samples} and {max_new_tokens}, expected at least 1")
    rng = np.random.default_rng(seed)
    found: list[list[SampledAnswer]] = [[] for _ in prompt_ids]
    open_ = [(p, SampledAnswer((), samples, (), ())) for p in range(len(prompt_ids))]
    for step in range(max_new_tokens):
        if not open_:
            break
        logp_nv = _next_logp(model, [[*prompt_ids[p], *answer.ids] for p, answer in open_], batch_size)
        last, going = step + 1 == max_new_tokens, []
        for (p, answer), logp_v in zip(open_, logp_nv, strict=True):
            probability_v = np.exp(logp_v)
            entropy = float(-(probability_v * np.where(probability_v > 0, logp_v, 0.0)).sum())
            count_v = rng.multinomial(answer.count, probability_v / probability_v.sum())
            for token in np.flatnonzero(count_v).tolist():
                longer = SampledAnswer(
                    (*answer.ids, token),
                    int(count_v[token]),
                    (*answer.token_logp, float(logp_v[token])),
                    (*answer.token_entropy, entropy),
                )
                if token == end_id or last:
                    found[p].append(longer)
                else:
                    going.append((p, longer))
        open_ = going
    return [sorted(answers, key=lambda answer: (-answer.count, answer.ids)) for answers in found]


def _next_logp(model: Any, rows: Sequence[Sequence[int]], batch_size: int) -> NDArray[np.float64]:
    """Log-probabilities of the token after each row, shape (N, V)."""
    import torch

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # Rows of like length together: little padding.
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    parts: list[torch.Tensor] = []
    try:
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                here = [rows[n] for n in order[start : start + batch_size]]
                lengths_b = torch.tensor([len(row) for row in here])
                ids_bt = torch.zeros((len(here), int(lengths_b.max())), dtype=torch.long)
                for b, row in enumerate(here):
                    ids_bt[b, : len(row)] = torch.as_tensor(row)
                mask_bt = (torch.arange(ids_bt.shape[1]) < lengths_b[:, None]).long()
                output = model(input_ids=ids_bt.to(device), attention_mask=mask_bt.to(device), use_cache=False)
                last_bv = output.logits[torch.arange(len(here)), lengths_b.to(device) - 1]
                parts.append(last_bv.double().log_softmax(-1).cpu())
    finally:
        model.train(was_training)
    logp = torch.cat(parts).numpy()
    result = np.empty_like(logp)
    result[order] = logp
    return np.asarray(result, np.float64)
