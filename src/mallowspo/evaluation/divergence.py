"""How far a policy has moved: its KL from the reference over whole responses, by sampling.

With responses y drawn from the policy π, E the mean over them,

    KL = E Σ_t KL(π(· | x, y_<t) || π_ref(· | x, y_<t))
       = E log(π(y | x) / π_ref(y | x))

Both means are estimated from the same responses. The first, which sums over the vocabulary at each token, is never
negative for any response and varies less; the second is the check that nothing is wrong with it.
A response that is cut at `max_new_tokens` counts up to the cut: the figure is then that of the cut responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.local_model import Sampling, end_token_ids, prompt_uniforms, sample_batch

__all__ = ["Divergence", "sequence_kl"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """KL(policy ‖ reference) over a set of prompts; standard errors count prompts as drawn at random."""

    kl: float  # nats per response, mean over prompts
    kl_standard_error: float  # NaN for a single response
    kl_plain: float  # the same from log-ratios alone
    kl_plain_standard_error: float
    kl_per_token: float  # nats per token: total KL over total tokens
    kl_per_token_standard_error: float  # by the delta method
    prompts: int
    samples: int  # responses per prompt
    tokens_per_response: float  # mean, the ending token included
    cut: float  # share of responses cut at `max_new_tokens`


def sequence_kl(
    policy: Any,
    reference: Any,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int = 1,
    max_new_tokens: int = 256,
    seed: int = 0,
    batch_size: int = 8,
    end_ids: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_response: Callable[[int, int, list[int]], None] | None = None,
) -> Divergence:
    """Estimate the KL of a policy from a reference over whole responses, at temperature 1.

    `prompts` are token ids; `on_response` is called with prompt, sample and token ids of every response, so that
    something else can be measured on the same ones.
    """
    if not prompts or not all(len(prompt) for prompt in prompts) or samples < 1:
        raise InputError("sequence_kl: expected at least one prompt, none of them empty, and at least one sample")
    ends = tuple(end_token_ids(policy) if end_ids is None else end_ids)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0)
    work = [(p, s) for p in range(len(prompts)) for s in range(samples)]
    # Long ones first: neighbours in a batch need little padding, and memory is at its worst at once.
    work.sort(key=lambda item: -len(prompts[item[0]]))
    exact_ps, plain_ps, length_ps = (np.zeros((len(prompts), samples)) for _ in range(3))
    cut = 0
    for start in range(0, len(work), batch_size):
        batch = work[start : start + batch_size]
        ids = [list(prompts[p]) for p, _ in batch]
        uniform = np.stack(
            [prompt_uniforms(seed, f"kl\x00{ids[b]}\x00{p}\x00{s}", max_new_tokens) for b, (p, s) in enumerate(batch)]
        )
        responses = sample_batch(policy, ids, uniform, sampling, end_ids=ends)
        scored = _score(policy, reference, ids, responses)
        for item, response, (exact, plain) in zip(batch, responses, scored, strict=True):
            exact_ps[item], plain_ps[item], length_ps[item] = exact, plain, len(response)
            cut += response[-1] not in ends
            if on_response is not None:
                on_response(*item, response)
        if progress is not None:
            progress(min(start + batch_size, len(work)), len(work))
    ratio = float(exact_ps.sum() / length_ps.sum())
    return Divergence(
        kl=float(exact_ps.mean()),
        kl_standard_error=_error(exact_ps),
        kl_plain=float(plain_ps.mean()),
        kl_plain_standard_error=_error(plain_ps),
        kl_per_token=ratio,
        kl_per_token_standard_error=_error(exact_ps - ratio * length_ps) / float(length_ps.mean()),
        prompts=len(prompts),
        samples=samples,
        tokens_per_response=float(length_ps.mean()),
        cut=cut / len(work),
    )


def _error(values_ps: Floats) -> float:
    """Standard error of the mean: over prompts, or over the responses of the only one."""
    means = values_ps.mean(axis=1) if len(values_ps) > 1 else values_ps[0]
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")


def _score(
    policy: Any, reference: Any, prompts: Sequence[list[int]], responses: Sequence[list[int]]
) -> list[tuple[float, float]]:
    """The summed token KL and the log-ratio of each response."""
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, rows))
    # Padded on the right: what stands after a token cannot change it.
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        logits = [m(input_ids=ids.to(m.device), attention_mask=mask.to(m.device)).logits for m in (policy, reference)]
    if logits[0].shape != logits[1].shape:
        raise InputError(
            f"KL: the models have {logits[0].shape[-1]:,} and {logits[1].shape[-1]:,} tokens; it is defined between "
            "models over the same tokens only"
        )
    scored = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        here = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
        # One response at a time, since float64 over a large vocabulary is wide.
        p_tv, q_tv = (values[row, here].cpu().double().log_softmax(-1) for values in logits)
        chosen = torch.tensor(response)[:, None]
        plain = (p_tv.gather(1, chosen) - q_tv.gather(1, chosen)).sum()
        # A token that the policy gives nothing counts nothing, also where both are −∞.
        terms_tv = torch.where(p_tv == -torch.inf, 0.0, p_tv.exp() * (p_tv - q_tv))
        scored.append((float(terms_tv.sum()), float(plain)))
    return scored
