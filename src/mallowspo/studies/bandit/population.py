"""The people of the bandit study, the pairs that they judge, φ estimated from these, and what is measured of a policy.

Arms are numbered by their rank in the centre, the best first; nothing but the names of the arms depends on that, and
no method sees it. The reference is uniform, so that its entropy is the same in every state and says nothing of φ: the
estimates here come from people.

Suffixes: s seeds, p states, n pairs of a state, k arms, c centres (all K! rankings), g a grid of -log φ.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from mallowspo.dispersion import votes_index
from mallowspo.evaluation.exact import agreement_of_answers, terciles
from mallowspo.maths import MallowsModel
from mallowspo.maths.links import kendall_log_prob
from mallowspo.stats.frontiers import SeedFrontier, equal_kl_differences, interpolate_frontier
from mallowspo.stats.intervals import mean_interval
from mallowspo.studies.policies import THIRDS

__all__ = [
    "COLLAPSED", "NEG_LOG_PHI_RANGE", "READ_AT", "YARDSTICKS", "Measures", "Pairs", "Population",
    "compare_at_equal_kl", "compare_at_kl", "count_pairs", "draw_pairs", "draw_votes", "frontiers_of",
    "index_from_pairs", "interval_of", "measure", "paired",
]  # fmt: skip

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
        uniform = np.full((len(self.phi_p), self.arms), -np.log(self.arms))
        return agreement_of_answers(uniform, self.preference_pkk)

    @cached_property
    def consensus_k(self) -> Floats:
        """The arm's place in the centre, 1 for the best and 0 for the worst, shape (K,)."""
        return np.linspace(1.0, 0.0, self.arms)

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


Measures = dict[str, Floats]

COLLAPSED = 0.99
"""Largest probability above which a policy counts as collapsed."""

YARDSTICKS = ("consensus", "best", "order", "agreement")
"""What a policy is judged by: the consensus value of its answer, how often it gives the centre's best arm, the share
of pairs of arms that its implicit reward puts in the centre's order, and agreement with a random person."""

READ_AT = (0.1, 0.3, 0.6)
"""KL (nats, mean over states) at which two methods are compared point by point."""

# Differences of this size are rounding, or the interpolation between two values of β: the two are the same function.
_ROUNDING = 1e-9

# Below this KL (nats) policies differ from the reference, and from each other, by next to nothing: not compared.
_LEAST_KL = 0.02


def measure(log_prob_pk: Floats, population: Population) -> Measures:
    """Policies (leading axes stay, -inf is allowed) against their people, exactly; means over the states."""
    probability = np.exp(log_prob_pk)
    top = probability.max(axis=-1)
    of_state = {
        "entropy": -(probability * np.where(probability > 0, log_prob_pk, 0.0)).sum(axis=-1),
        "agreement": (probability * population.value_pk).sum(axis=-1),
        "consensus": probability @ population.consensus_k,
        "best": probability[..., 0],
        "order": _order(log_prob_pk),
    }
    found = {name: value.mean(axis=-1) for name, value in of_state.items()}
    found |= {
        # From a uniform reference KL is what the entropy lacks.
        "kl": np.maximum(np.log(population.arms) - found["entropy"], 1e-12),
        "top": top.mean(axis=-1),
        "collapsed": (top > COLLAPSED).mean(axis=-1),
        "regret": (probability * population.regret_pk).sum(axis=-1).mean(axis=-1),
    }
    if len(population.phi_p) >= 3:
        third = terciles(population.phi_p)
        found |= {
            f"{name}_{third_name}": value[..., third == number].mean(axis=-1)
            for name, value in of_state.items()
            for number, third_name in enumerate(THIRDS)
        }
    return found


def _order(log_prob_pk: Floats) -> Floats:
    """Share of the pairs of arms in the centre's order under the implicit reward; equal ones, or both lost, half."""
    first, second = np.triu_indices(log_prob_pk.shape[-1], k=1)
    with np.errstate(invalid="ignore"):
        gap = np.nan_to_num(log_prob_pk[..., first] - log_prob_pk[..., second], nan=0.0, posinf=1.0, neginf=-1.0)
    return np.asarray((0.5 + 0.5 * np.sign(np.where(np.abs(gap) < _ROUNDING, 0.0, gap))).mean(axis=-1))


def interval_of(values_s: Floats) -> list[float]:
    """Mean, low and high end of the 95% interval over seeds, five digits each: what `results.json` holds."""
    found = mean_interval(values_s)
    return [float(f"{value:.5g}") for value in (found.mean, found.low, found.high)]


def paired(method_s: Floats, baseline_s: Floats) -> list[float]:
    """Difference between a method and a baseline seed by seed, as `interval_of`; what is rounding counts as 0."""
    difference = method_s - baseline_s
    return interval_of(np.where(np.abs(difference) < _ROUNDING, 0.0, difference))


def compare_at_equal_kl(
    method: Mapping[str, Floats], baseline: Mapping[str, Floats], quantities: tuple[str, ...]
) -> dict[str, object]:
    """Compare a method with a baseline at equal KL: each seed's two lines, over the KL that both reach."""
    result: dict[str, object] = {}
    for quantity in quantities:
        sides = [frontiers_of(side["kl"].T, side[quantity].T) for side in (method, baseline)]
        found = equal_kl_differences(*sides, points=21)
        result[quantity] = paired(found.difference_s, np.zeros_like(found.difference_s))
        shared = np.isfinite(found.difference_s)
        result["seeds"] = int(shared.sum())
        ends = [found.low_s[shared], found.high_s[shared]]
        result["kl"] = [float(f"{end.mean():.4g}") for end in ends] if shared.any() else None
    return result


def compare_at_kl(
    method: Mapping[str, Floats], baseline: Mapping[str, Floats], quantities: tuple[str, ...]
) -> dict[str, list[list[float]]]:
    """The same at each KL of `READ_AT` alone, over the seeds whose lines both reach it."""
    found = {}
    for quantity in quantities:
        mine, base = (
            np.stack(
                [
                    interpolate_frontier(kl, value, READ_AT)
                    for kl, value in zip(side["kl"].T, side[quantity].T, strict=True)
                ]
            )
            for side in (method, baseline)
        )
        found[quantity] = [paired(*both) for both in zip(mine.T, base.T, strict=True)]
    return found


def frontiers_of(kl_sl: Floats, value_sl: Floats) -> list[SeedFrontier]:
    """The line of each data set, where it has moved from the reference."""
    lines = []
    for kl_l, value_l in zip(kl_sl, value_sl, strict=True):
        keep = kl_l >= _LEAST_KL
        keep[kl_l.argmax()] = True  # a line that never gets so far keeps its end, and shares no range with another
        lines.append(SeedFrontier(kl_l[keep], value_l[keep]))
    return lines
