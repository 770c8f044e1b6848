"""Preference pairs of the controllable-generation study: the policy's own responses, compared by the reward."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.local_model import Sampling, prompt_uniforms, sample_batch
from mallowspo.studies.controllable.design import ControllableDesign
from mallowspo.studies.controllable.rewards import Reward

__all__ = ["Pair", "SeedPairs", "compare", "draw_responses", "make_pairs", "text_of", "whole_texts"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A compared pair of responses to one prompt."""

    prompt: int  # its place among the training prompts
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen_reward: float
    rejected_reward: float


@dataclass(frozen=True)
class SeedPairs:
    """The pairs of one seed."""

    pairs: tuple[Pair, ...]  # in the order of the prompts
    compared: int  # pairs of responses that there were
    equal: int  # of these, pairs without a preference: equal rewards under `sign`, or the same tokens twice
    reward_pk: Floats  # rewards of all responses, shape (P, K)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """What the reward reads of a sequence of tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def whole_texts(
    tokenizer: Any, prompts: Sequence[Sequence[int]], drawn: Mapping[tuple[int, int], Sequence[int]]
) -> list[str]:
    """Every prompt with each of its responses as text, in the order of prompts and samples."""
    return [text_of(tokenizer, [*prompts[p], *drawn[p, k]]) for p, k in sorted(drawn)]


def compare(
    reward_k: Sequence[float], *, preferences: str, scale: float, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Compare all pairs of the responses to one prompt."""
    for first, second in itertools.combinations(range(len(reward_k)), 2):
        difference = float(reward_k[first]) - float(reward_k[second])
        if preferences == "bradley_terry":
            difference = 1.0 / (1.0 + np.exp(-scale * difference)) - rng.random()
        if difference > 0:
            yield first, second
        elif difference < 0:
            yield second, first


def draw_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int,
    design: ControllableDesign,
    end_ids: Sequence[int],
    seed: int,
    purpose: str,
) -> dict[tuple[int, int], list[int]]:
    """Draw responses at temperature 1."""
    sampling = Sampling(max_new_tokens=design.response_tokens, temperature=1.0)
    work = [(p, k) for p in range(len(prompts)) for k in range(samples)]
    work.sort(key=lambda item: -len(prompts[item[0]]))
    drawn: dict[tuple[int, int], list[int]] = {}
    for start in range(0, len(work), design.generation_batch_size):
        batch = work[start : start + design.generation_batch_size]
        uniform_bt = np.stack([prompt_uniforms(seed, f"{purpose}/{p}/{k}", design.response_tokens) for p, k in batch])
        rows = sample_batch(model, [prompts[p] for p, _ in batch], uniform_bt, sampling, end_ids=end_ids)
        drawn |= dict(zip(batch, rows, strict=True))
    return drawn


def make_pairs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    reward: Reward,
    *,
    design: ControllableDesign,
    end_ids: Sequence[int],
    seed: int,
) -> SeedPairs:
    """Draw responses of the reference and compare them."""
    samples = design.samples_per_prompt
    drawn = draw_responses(model, prompts, samples=samples, design=design, end_ids=end_ids, seed=seed, purpose="pairs")
    reward_pk = reward.score(whole_texts(tokenizer, prompts, drawn)).reshape(len(prompts), samples)
    rng = np.random.default_rng([seed, 1])
    pairs = []
    for p in range(len(prompts)):
        told_apart = compare(
            reward_pk[p].tolist(), preferences=design.preferences, scale=design.preference_scale, rng=rng
        )
        for chosen, rejected in told_apart:
            if drawn[p, chosen] != drawn[p, rejected]:
                rewards = float(reward_pk[p, chosen]), float(reward_pk[p, rejected])
                pairs.append(Pair(p, tuple(drawn[p, chosen]), tuple(drawn[p, rejected]), *rewards))
    compared = len(prompts) * samples * (samples - 1) // 2
    if not pairs:
        raise InputError(
            f"reward_model: {reward.name} tells none of the {compared} pairs of responses apart, so there is nothing "
            "to learn; lengthen response_tokens, or take another reward or more prompts"
        )
    return SeedPairs(tuple(pairs), compared, compared - len(pairs), reward_pk)
