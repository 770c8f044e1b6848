"""The people of the world: what they answer, what they prefer, and what they write down.

Each person has a ranking of a prompt's candidates, drawn from the Mallows model with Kendall's distance around the
prompt's central ranking. From that one assumption follow exactly: how often each candidate is somebody's first
choice, and how often a random person prefers one candidate to another.

Suffixes: p prompts, k candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel
from mallowspo.world.language import WorldPrompt

__all__ = [
    "PreferencePair",
    "collect_preferences",
    "collect_votes",
    "consensus_values",
    "preference_matrix",
    "top_choice_probabilities",
    "write_corpus",
]


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt and what one person thought of them."""

    prompt: int  # index of the prompt in the sequence that the pair was collected on
    chosen: int  # index of the candidate that the person prefers
    rejected: int  # index of the other candidate


def _model(prompt: WorldPrompt) -> MallowsModel:
    return MallowsModel(np.asarray(prompt.center), prompt.phi, distance="kendall")


def top_choice_probabilities(prompt: WorldPrompt) -> NDArray[np.float64]:
    """Probability that a random person ranks each candidate first, shape (K,).

    Under Kendall's distance, moving the item of central rank r to the front costs r − 1 discordant pairs and leaves
    a Mallows model on the others, so that P(first) ∝ φ^(r − 1) exactly (Fligner and Verducci 1986).
    """
    weights = prompt.phi ** (np.asarray(prompt.center, dtype=np.float64) - 1.0)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def consensus_values(prompt: WorldPrompt) -> NDArray[np.float64]:
    """Consensus value of each candidate, its place in the centre: 1 − (rank − 1)/(K − 1), shape (K,).

    1 is the answer that the people as a whole hold best, 0 the one that they hold worst: what a true reward, a strong
    judge or a reward model stands for.
    """
    rank = np.asarray(prompt.center, dtype=np.float64)
    return np.asarray(1.0 - (rank - 1.0) / (len(rank) - 1.0), dtype=np.float64)


def preference_matrix(prompt: WorldPrompt) -> NDArray[np.float64]:
    """Probability that a random person prefers candidate i to candidate j, exactly; shape (K, K), diagonal ½."""
    matrix = np.array(_model(prompt).pairwise_matrix(), dtype=np.float64)
    np.fill_diagonal(matrix, 0.5)
    return matrix


def write_corpus(
    prompts: Sequence[WorldPrompt],
    *,
    answers_per_prompt: int = 200,
    careless: float = 0.0,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Let people write the corpus, each the candidate ranked first; how often each was written, shape (P, K)."""
    if answers_per_prompt < 1:
        raise InputError(f"answers_per_prompt: got {answers_per_prompt}, expected at least 1")
    if not 0 <= careless <= 1:
        raise InputError(f"careless: got {careless}, expected a share from 0 to 1")
    probabilities_pk = np.stack([top_choice_probabilities(prompt) for prompt in prompts])
    if careless:
        probabilities_pk = (1 - careless) * probabilities_pk + careless / probabilities_pk.shape[1]
    return np.asarray(rng.multinomial(answers_per_prompt, probabilities_pk), dtype=np.int64)


def collect_preferences(
    prompts: Sequence[WorldPrompt],
    answer_probabilities_pk: NDArray[np.float64],
    *,
    pairs_per_prompt: int = 2,
    rng: np.random.Generator,
) -> list[PreferencePair]:
    """Draw pairs of different answers and have each judged by one freshly drawn person.

    Both answers of a pair are drawn independently from `answer_probabilities_pk`, again and again until they
    differ: an unordered pair {i, j} comes up with probability ∝ p_i p_j.
    """
    probabilities_pk = np.asarray(answer_probabilities_pk, dtype=np.float64)
    expected = (len(prompts), len(prompts[0].candidates) if prompts else 0)
    if probabilities_pk.shape != expected or not np.all((probabilities_pk > 0).sum(axis=1) >= 2):
        raise InputError(
            f"answer_probabilities_pk: got shape {probabilities_pk.shape}, expected {expected} with at least two "
            f"positive entries in each row; otherwise no two different answers can be drawn"
        )
    first_index, second_index = np.triu_indices(expected[1], k=1)
    pairs: list[PreferencePair] = []
    for index, (prompt, probability_k) in enumerate(zip(prompts, probabilities_pk, strict=True)):
        weights = probability_k[first_index] * probability_k[second_index]
        drawn = rng.choice(len(weights), size=pairs_per_prompt, p=weights / weights.sum())
        ranks = np.asarray(_model(prompt).sample(pairs_per_prompt, rng))
        for ranking, i, j in zip(ranks, first_index[drawn], second_index[drawn], strict=True):
            winner, loser = (i, j) if ranking[i] < ranking[j] else (j, i)
            pairs.append(PreferencePair(prompt=index, chosen=int(winner), rejected=int(loser)))
    return pairs


def collect_votes(prompt: WorldPrompt, first: int, second: int, *, members: int, rng: np.random.Generator) -> int:
    """Ask `members` freshly drawn people whether they prefer one candidate to another; votes for `first`."""
    size = len(prompt.candidates)
    if first == second or not (0 <= first < size and 0 <= second < size) or members < 1:
        raise InputError(
            f"collect_votes: got first={first}, second={second}, members={members}; expected two different "
            f"indices from 0 to {size - 1} and at least 1 member"
        )
    ranks = np.asarray(_model(prompt).sample(members, rng))
    return int((ranks[:, first] < ranks[:, second]).sum())
