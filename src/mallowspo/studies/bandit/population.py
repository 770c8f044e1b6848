"""Populations of the bandit study: states with their dispersion, the pairs that people judge, φ estimated from them.

Arms are numbered by their rank in the centre, the best first; nothing but the names of the arms depends on that, and
no method sees it. The reference is uniform, so that its entropy is the same in every state and says nothing of φ: the
estimates here come from people.

Suffixes: s seeds, p states, n pairs of a state, k arms, c centres (all K! rankings), g a grid of -log φ.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from mallowspo.dispersion import votes_index
from mallowspo.evaluation.exact import agreement
from mallowspo.maths import MallowsModel
from mallowspo.maths.links import kendall_log_prob

__all__ = ["NEG_LOG_PHI_RANGE", "Pairs", "Population", "count_pairs", "draw_pairs", "draw_votes", "index_from_pairs"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# The weight w = 2 λ stays within [0.04, 10]: the upper end is the trainer's own clip, and a weight of 0 would leave a
# state without any loss.
NEG_LOG_PHI_RANGE = (0.02, 5.0)

# One pair's worth of doubt, spread over all ordered pairs: without it a few unanimous pairs would mean φ = 0.
_PSEUDO_PAIRS = 1.0


@dataclass(frozen=True, eq=False)
class Population:
    """The people of some states."""

    phi_p: Floats  # dispersion of each state, shape (P,)
    arms: int  # arms of each state, K

    @property
    def neg_log_phi_p(self) -> Floats:
        """The true -log φ, nats, shape (P,)."""
        return -np.log(self.phi_p)

    @cached_property
    def preference_pkk(self) -> Floats:
        """P(a random person prefers arm i to arm j), shape (P, K, K), diagonal ½."""
        center = np.arange(1, self.arms + 1)
        return np.stack([MallowsModel(center, phi).pairwise_matrix() for phi in self.phi_p])

    @cached_property
    def value_pk(self) -> Floats:
        """P(a random person prefers the arm to the uniform reference's answer), shape (P, K)."""
        with np.errstate(divide="ignore"):
            certain = np.log(np.eye(self.arms))
        uniform = np.full((self.arms, self.arms), -np.log(self.arms))
        rows = [
            agreement(certain, uniform, np.repeat(matrix[None], self.arms, axis=0)).counted_p
            for matrix in self.preference_pkk
        ]
        return np.stack(rows)

    @cached_property
    def regret_pk(self) -> Floats:
        """P(a random person prefers the best arm to this one) - ½, shape (P, K): 0 for the best arm."""
        return np.asarray(self.preference_pkk[:, 0, :] - 0.5)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Judged pairs."""

    winner_spn: Integers  # index of the preferred arm, shape (S, P, N)
    loser_spn: Integers  # index of the other arm, shape (S, P, N)


def draw_pairs(population: Population, pairs: int, seeds: range) -> Pairs:
    """Draw pairs of arms evenly, each judged by a fresh person."""
    first, second = np.triu_indices(population.arms, k=1)
    winners, losers = [], []
    for seed in seeds:
        for state, matrix in enumerate(population.preference_pkk):
            # A stream of its own for every seed and state, one row of it for every pair.
            uniform_n2 = np.random.default_rng([seed, state, 0]).random((pairs, 2))
            drawn = np.minimum((uniform_n2[:, 0] * len(first)).astype(np.int64), len(first) - 1)
            upset = uniform_n2[:, 1] >= matrix[first[drawn], second[drawn]]
            winners.append(np.where(upset, second[drawn], first[drawn]))
            losers.append(np.where(upset, first[drawn], second[drawn]))
    shape = (len(seeds), len(population.phi_p), pairs)
    return Pairs(np.reshape(winners, shape), np.reshape(losers, shape))


def count_pairs(pairs: Pairs, arms: int) -> Floats:
    """Count how often each arm was preferred to each other one."""
    seeds, states, _ = pairs.winner_spn.shape
    offset = np.arange(seeds * states).reshape(seeds, states, 1) * arms * arms
    flat = (offset + pairs.winner_spn * arms + pairs.loser_spn).ravel()
    counts = np.bincount(flat, minlength=seeds * states * arms * arms)
    return counts.reshape(seeds, states, arms, arms).astype(np.float64)


def index_from_pairs(counts_bkk: Floats, *, grid: int = 120) -> Floats:
    """Estimate -log φ from pairs: the most likely centre and φ of the Mallows model, over all centres."""
    # The product of the pairs' marginal probabilities is exact where each pair is judged by another person.
    arms = counts_bkk.shape[-1]
    off_diagonal = 1.0 - np.eye(arms)
    counts = counts_bkk + _PSEUDO_PAIRS / off_diagonal.sum() * off_diagonal
    flat_bk = counts.reshape(-1, arms * arms)
    rank_ck = np.array(list(itertools.permutations(range(arms))))
    gap_kkc = (rank_ck[:, None, :] - rank_ck[:, :, None]).transpose(1, 2, 0).reshape(arms * arms, -1)
    lam_g = np.geomspace(*NEG_LOG_PHI_RANGE, grid)
    # The link of MallowsPO-φ at a whole gap is the Mallows model's marginal probability of a pair.
    steps = torch.arange(1 - arms, arms, dtype=torch.float64)
    table_gd = kendall_log_prob(steps, torch.as_tensor(lam_g)[:, None], smoothing=0.0).numpy()
    best_bg = np.stack([(flat_bk @ table_d[gap_kkc + arms - 1]).max(axis=1) for table_d in table_gd], axis=1)
    return np.asarray(lam_g[best_bg.argmax(axis=1)].reshape(counts_bkk.shape[:-2]))


def draw_votes(population: Population, votes: int, seeds: range) -> Floats:
    """Ask people about one more pair of each state and read -log φ̂ off their votes (`votes_index`)."""
    # The formula takes the two arms for neighbours in the centre, which nobody knows: they are drawn evenly. Votes on
    # arms further apart make people look more agreed than they are.
    first, second = np.triu_indices(population.arms, k=1)
    counts = []
    for seed in seeds:
        for state, matrix in enumerate(population.preference_pkk):
            rng = np.random.default_rng([seed, state, 1])
            pair = rng.integers(len(first))
            won = rng.binomial(votes, matrix[first[pair], second[pair]])
            counts.append((won, votes - won))
    found = votes_index(counts).neg_log_phi_n.reshape(len(seeds), -1)
    return np.asarray(np.clip(found, *NEG_LOG_PHI_RANGE))
