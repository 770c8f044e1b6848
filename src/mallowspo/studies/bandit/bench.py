"""What the bandit study runs: one population and number of pairs a job, all methods, seeds and values of β at once.

Policies are trained as a practitioner trains: Adam, minibatches of pairs, a number of steps. Two choices of
coordinates for the same policies: *separate*, one logit for each arm of each state, as in a table; Adam divides every
logit's gradient by its own size, so that a weight per state cancels at first. *Shared*: the logits are a random
rotation of the parameters, so that every parameter serves every state, as in a network; there the weights of the
states compete.

Suffixes: s seeds, p states, k arms, r runs of a seed (methods × β), d logits of all states (P·K), n pairs of all
states, b pairs of a batch; β or steps lead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from mallowspo.errors import InputError
from mallowspo.objectives import OBJECTIVES
from mallowspo.stats.frontiers import interpolate_frontier
from mallowspo.studies import policies
from mallowspo.studies.bandit.minimiser import Minimiser, gap_loss, minimise, policy_log_probs
from mallowspo.studies.bandit.population import (
    READ_AT,
    YARDSTICKS,
    Measures,
    Pairs,
    Population,
    compare_at_equal_kl,
    compare_at_kl,
    count_pairs,
    draw_pairs,
    draw_votes,
    index_from_pairs,
    interval_of,
    measure,
    paired,
)
from mallowspo.studies.policies import BASELINE, THIRDS, Method, check_at_least, check_positive

__all__ = [
    "METHODS", "TRAINED", "BanditDesign", "ExactJob", "Run", "TrainingJob", "matched_betas",
    "infinite_pairs", "run_exact_job", "run_training_job", "train",
]  # fmt: skip

Floats = NDArray[np.float64]

STUDIED = (
    "dpo", "ipo", "mallows_theta_true", "mallows_theta_pairs", "mallows_theta_votes", "mallows_phi_true",
    "mallows_phi_pairs", "mallows_phi_votes", "theta_true_50", "mallows_theta_pairs_50",
)  # fmt: skip
METHODS: Mapping[str, Method] = MappingProxyType({name: policies.METHODS[name] for name in STUDIED})

# What is trained step by step: votes cost as much as the others and tell the same story at the exact minimiser.
TRAINED = tuple(name for name, method in METHODS.items() if method.index != "votes")


@dataclass(frozen=True, kw_only=True)
class BanditDesign:
    """Everything that determines the numbers of the study."""

    # Learning rates, batch size and steps were fixed on plain DPO with many states alone: at the lower rate its KL
    # still rises at the last step, at the higher one it has nearly settled by then.
    arms: int = 5  # of every state, 3 to 6
    single_phis: tuple[float, ...] = (0.3, 0.5, 0.8)  # dispersions of the studies with one state, each its own study
    many_phis: tuple[float, ...] = (0.1, 0.2, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9)  # of the study with many states
    seeds: int = 200  # data sets at the exact minimiser
    training_seeds: int = 120  # data sets that are trained on step by step
    first_seed: int = 0  # the first seed; the others follow it
    pairs: tuple[int, ...] = (16, 64, 256, 1024)  # pairs of each state, at the exact minimiser
    training_pairs: tuple[int, ...] = (16, 1024)  # pairs of each state in the training runs
    votes: int = 10  # voters on the one additional pair of each state from which `votes` estimates φ
    betas: tuple[float, ...] = (0.5, 1.0, 2.0)  # values of β that are reported at the exact minimiser
    # Matched scales: the KL (nats, mean over states) of a method's own optimum on infinitely many pairs, for which
    # its β is set
    strengths: tuple[float, ...] = (0.1, 0.3, 0.8)
    learning_rates: tuple[float, ...] = (0.02, 0.2)  # Adam's learning rates, for single logits in nats
    training_single_phis: tuple[float, ...] = (0.3, 0.8)  # which of `single_phis` are trained on step by step
    batch_size: int = 16  # pairs in a step
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # at which a run is measured

    def __post_init__(self) -> None:
        if not 3 <= self.arms <= 6:
            raise InputError(f"arms: got {self.arms}, expected 3 to 6; φ is estimated over all rankings of the arms")
        check_positive(self, "single_phis", "many_phis", "training_single_phis", below=1.0)
        check_positive(self, "betas", "learning_rates", *(rising := ("pairs", "training_pairs", "steps")))
        check_positive(self, "strengths", below=math.log(self.arms))  # the KL of a policy that gives one arm
        if len(self.many_phis) < 3:
            raise InputError(f"many_phis: got {self.many_phis}, expected at least 3, which are reported by thirds")
        for name in rising:
            if list(getattr(self, name)) != sorted(getattr(self, name)):
                raise InputError(f"{name}: got {getattr(self, name)}, expected them in rising order")
        check_at_least(self, seeds=2, training_seeds=2, votes=1, batch_size=1, first_seed=0)
        if set(self.training_single_phis) - set(self.single_phis):
            raise InputError(
                f"training_single_phis: got {self.training_single_phis}, expected some of single_phis, "
                f"{self.single_phis}"
            )

    @property
    def studies(self) -> tuple[tuple[float, ...], ...]:
        """The populations: one state each, then the many."""
        return (*((phi,) for phi in self.single_phis), self.many_phis)

    @property
    def exact_jobs(self) -> list[ExactJob]:
        """One job for each population and number of pairs."""
        return [ExactJob(phis=phis, pairs=pairs) for phis in self.studies for pairs in self.pairs]

    @property
    def training_jobs(self) -> list[TrainingJob]:
        """One job for each population, number of pairs, learning rate and choice of coordinates."""
        kinds: list[tuple[tuple[float, ...], bool]] = [((phi,), False) for phi in self.training_single_phis]
        kinds += [(self.many_phis, True), (self.many_phis, False)]
        return [
            TrainingJob(phis=phis, pairs=pairs, learning_rate=rate, shared=shared)
            for phis, shared in kinds
            for rate in self.learning_rates
            for pairs in self.training_pairs
        ]

    @property
    def shown_strength(self) -> float:
        """The matched scale of the figures and sentences: the middle one."""
        return sorted(self.strengths)[(len(self.strengths) - 1) // 2]

    @property
    def shown_steps(self) -> tuple[int, int]:
        """The steps of the tables: an early one, and the end."""
        early = [step for step in self.steps if step**2 <= 2 * self.steps[-1]]
        return (early or self.steps)[-1], self.steps[-1]


@dataclass(frozen=True, kw_only=True)
class ExactJob:
    """All methods at the exact minimiser, on all seeds of one population and number of pairs."""

    phis: tuple[float, ...]
    pairs: int


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All methods after so many steps, on all seeds; `shared` mixes all states into every parameter."""

    phis: tuple[float, ...]
    pairs: int
    learning_rate: float
    shared: bool


@dataclass(frozen=True, eq=False)
class Run:
    """One method at one β."""

    objective: str
    beta: float
    # w = (-2 log φ)^ρ of each seed's states, shape (S, P); None for objectives without φ
    weight_sp: Floats | None = None


def train(
    runs: Sequence[Run], pairs: Pairs, arms: int, seeds: range, *, learning_rate: float, batch_size: int,
    steps: Sequence[int], shared: bool,
) -> Floats:  # fmt: skip
    """Train from the uniform reference; log-probabilities at the given steps, nats, shape (steps, runs, S, P, K).

    `shared` lets every parameter serve all states; a batch is all pairs where there are fewer.
    """
    seed_count, states, _ = pairs.winner_spn.shape
    offset = (np.arange(states) * arms)[None, :, None]
    winner_sn, loser_sn = (
        torch.from_numpy((side + offset).reshape(seed_count, -1)) for side in (pairs.winner_spn, pairs.loser_spn)
    )
    batch = min(batch_size, winner_sn.shape[1])
    basis = _rotations(states * arms, seeds) if shared else None
    parameters = torch.zeros(seed_count, len(runs), states * arms, dtype=torch.float64)
    optimizer = torch.optim.Adam([parameters], lr=learning_rate)
    groups = _groups(runs)
    kept = []
    for step, chosen_sb in enumerate(_batches(winner_sn.shape[1], batch, steps[-1], seeds), start=1):
        logits = parameters if basis is None else parameters @ basis
        winner_sb, loser_sb = winner_sn.gather(1, chosen_sb), loser_sn.gather(1, chosen_sb)
        gradient = _gradient(groups, logits, winner_sb, loser_sb, arms) / batch
        parameters.grad = gradient if basis is None else gradient @ basis.transpose(1, 2)
        optimizer.step()
        if step in steps:
            logits = parameters if basis is None else parameters @ basis
            table = logits.reshape(seed_count, len(runs), states, arms).permute(1, 0, 2, 3)
            kept.append(table.log_softmax(dim=-1).numpy().copy())
    return np.stack(kept)


def _rotations(size: int, seeds: range) -> Tensor:
    """One random rotation for each seed, shape (S, D, D)."""
    drawn = np.stack([np.random.default_rng([seed, 0, 2]).normal(size=(size, size)) for seed in seeds])
    return torch.from_numpy(np.linalg.qr(drawn)[0])


def _batches(pairs: int, batch: int, steps: int, seeds: range) -> list[Tensor]:
    """Indices of the pairs of every step: epochs in a fresh order, a rest smaller than a batch left out."""
    per_epoch = pairs // batch
    generators = [np.random.default_rng([seed, 0, 3]) for seed in seeds]
    order: list[Tensor] = []
    while len(order) < steps:
        epoch = torch.from_numpy(np.stack([rng.permutation(pairs) for rng in generators]))
        order += list(epoch[:, : per_epoch * batch].split(batch, dim=1))
    return order[:steps]


class _Group(NamedTuple):
    """Runs of one objective, whose loss is one call."""

    objective: str
    at: Tensor
    betas: Tensor
    weight_rsp: Tensor | None


def _groups(runs: Sequence[Run]) -> list[_Group]:
    """Put runs together that differ in β and weight alone; those of the squared link also by β."""
    members: dict[tuple[str, float], list[int]] = {}
    for index, run in enumerate(runs):
        apart = run.beta if OBJECTIVES[run.objective].link == "squared" else 0.0
        members.setdefault((run.objective, apart), []).append(index)
    groups = []
    for (objective, _), at in members.items():
        weights = [run.weight_sp for run in (runs[index] for index in at) if run.weight_sp is not None]
        groups.append(
            _Group(
                objective,
                torch.tensor(at),
                torch.tensor([runs[index].beta for index in at], dtype=torch.float64),
                torch.from_numpy(np.stack(weights)) if weights else None,
            )
        )
    return groups


def _gradient(groups: Sequence[_Group], logits: Tensor, winner_sb: Tensor, loser_sb: Tensor, arms: int) -> Tensor:
    """Sum of the pairs' gradients along the logits, shape (S, R, D)."""
    gradient = torch.zeros_like(logits)
    for group in groups:
        # The normaliser of a state's softmax is the same for both answers: logits serve as log-probabilities.
        mine = logits[:, group.at]
        winner_srb, loser_srb = (side[:, None].expand(-1, len(group.at), -1) for side in (winner_sb, loser_sb))
        gap = (mine.gather(2, winner_srb) - mine.gather(2, loser_srb)).detach().requires_grad_(True)
        loss = _loss(group, gap, winner_sb // arms)
        (slope,) = torch.autograd.grad(loss.sum(), gap)
        part = torch.zeros_like(mine).scatter_add_(2, winner_srb, slope).scatter_add_(2, loser_srb, -slope)
        gradient[:, group.at] = part
    return gradient


def _loss(group: _Group, gap_srb: Tensor, state_sb: Tensor) -> Tensor:
    """The library's loss of every pair."""
    weight = None
    if group.weight_rsp is not None:
        spread = state_sb[:, None].expand(-1, len(group.at), -1)
        weight = group.weight_rsp.permute(1, 0, 2).gather(2, spread).flatten()
    # β multiplies the gap inside these links, so that runs of different β share a call; in the squared link it is
    # the target that depends on it, and the group has one β.
    squared = OBJECTIVES[group.objective].link == "squared"
    scaled = (gap_srb if squared else gap_srb * group.betas[None, :, None]).flatten()
    beta = float(group.betas[0]) if squared else 1.0
    return gap_loss(group.objective, scaled, beta=beta, weight=weight)


SHOWN = ("collapsed", "top", "entropy", *YARDSTICKS, "regret")
"""What is shown of a policy; with a uniform reference its KL is log K less its entropy."""

_DIFFERENCES = ("collapsed", "entropy", *YARDSTICKS, "regret")

# β along which the exact frontiers are read; between two of them they are interpolated.
_DENSE_BETAS = np.geomspace(0.02, 50.0, 41)


class _Data:
    """Pairs of all seeds and what the methods know of φ."""

    def __init__(self, design: BanditDesign, phis: tuple[float, ...], pairs: int, seeds: int) -> None:
        self.seeds = range(design.first_seed, design.first_seed + seeds)
        self.population = Population(np.asarray(phis), design.arms)
        self.pairs = draw_pairs(self.population, pairs, self.seeds)
        self.counts_spkk = count_pairs(self.pairs, design.arms)
        self.votes = design.votes

    def neg_log_phi_sp(self, index: str) -> Floats:
        """-log φ as a method knows it; 0 for a method without φ."""
        shape = (len(self.seeds), len(self.population.phi_p))
        if index == "true":
            return np.broadcast_to(self.population.neg_log_phi_p, shape).copy()
        if index == "pairs":
            return index_from_pairs(self.counts_spkk)
        if index == "votes":
            return draw_votes(self.population, self.votes, self.seeds)
        return np.zeros(shape)

    def weight_sp(self, method: Method) -> Floats:
        """Weight of the objectives, (-2 log φ)^ρ; 1 for a method without φ."""
        if not method.index:
            return np.ones((len(self.seeds), len(self.population.phi_p)))
        return np.asarray((2 * self.neg_log_phi_sp(method.index)) ** _power(method))


def _power(method: Method) -> float:
    """ρ: the power that the weight is taken to."""
    return float(method.settings.get("dispersion_power", 1.0))


def _optimum(population: Population, method: Method) -> Minimiser:
    """The minimiser on infinitely many pairs, with the true φ."""
    every_pair = population.preference_pkk * (1.0 - np.eye(population.arms))
    weight = (2 * population.neg_log_phi_p) ** _power(method)
    return minimise(method.objective, every_pair, weight, rng=np.random.default_rng(0))


def matched_betas(population: Population, strengths: Sequence[float]) -> dict[str, list[float]]:
    """The β at which a method's optimum on infinitely many pairs (true φ) has a given KL, mean over states."""
    solved: dict[tuple[str, float], list[float]] = {}
    for method in METHODS.values():
        kind = method.objective, _power(method)
        if kind in solved:
            continue
        optimum = _optimum(population, method)

        def excess(log_beta: float, strength: float, optimum: Minimiser = optimum) -> float:
            return float(measure(policy_log_probs(optimum, np.exp(log_beta)), population)["kl"]) - strength

        ends = np.log(1e-4), np.log(1e4)
        solved[kind] = [float(np.exp(brentq(excess, *ends, args=(one,), xtol=1e-12))) for one in strengths]
    return {name: solved[method.objective, _power(method)] for name, method in METHODS.items()}


def infinite_pairs(phis: Sequence[float], arms: int) -> dict[str, Any]:
    """Methods with the true φ on infinitely many pairs, and the exact optima of consensus and of agreement."""
    population = Population(np.asarray(phis), arms)
    scales = np.geomspace(0.005, 50.0, 400)  # dense: there is no noise here that would hide the interpolation

    def solved(method: Method) -> Measures:
        optimum = _optimum(population, method)
        return measure(np.stack([policy_log_probs(optimum, beta) for beta in scales]), population)

    def tilted(value: Floats) -> Measures:
        # From a uniform reference the policy with the highest E[value] - τ KL is the softmax of value/τ.
        scores = np.broadcast_to(value, population.value_pk.shape) / scales[:, None, None]
        return measure(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True), population)

    lines = {name: solved(method) for name, method in METHODS.items() if method.index in ("", "true")}
    lines |= {"optimum_consensus": tilted(population.consensus_k), "optimum_agreement": tilted(population.value_pk)}
    at_kl = {
        name: {key: interpolate_frontier(one["kl"], one[key], READ_AT) for key in YARDSTICKS}
        for name, one in lines.items()
    }
    return {
        name: {
            **{key: [float(f"{value:.6g}") for value in one[key][::8]] for key in ("kl", *YARDSTICKS)},
            "minus_dpo": {
                key: [float(f"{value:.5g}") for value in at_kl[name][key] - at_kl[BASELINE][key]] for key in YARDSTICKS
            },
        }
        for name, one in lines.items()
    }


def run_exact_job(design: BanditDesign, job: ExactJob) -> dict[str, Any]:
    """All methods at the exact minimiser."""
    started = time.process_time()
    data = _Data(design, job.phis, job.pairs, design.seeds)
    shape = data.counts_spkk.shape
    solved: dict[str, Minimiser] = {}
    for number, (name, method) in enumerate(METHODS.items()):
        rng = np.random.default_rng([job.pairs, number])
        counts_bkk = data.counts_spkk.reshape(-1, *shape[2:])
        solved[name] = minimise(method.objective, counts_bkk, data.weight_sp(method).ravel(), rng=rng)

    def at(name: str, beta: float) -> Measures:
        return measure(policy_log_probs(solved[name], beta).reshape(shape[:3]), data.population)

    dense = {name: [at(name, beta) for beta in _DENSE_BETAS] for name in METHODS}
    lines = {name: {key: np.stack([one[key] for one in found]) for key in found[0]} for name, found in dense.items()}
    betas = matched_betas(data.population, design.strengths)
    matched = {name: [at(name, beta) for beta in betas[name]] for name in METHODS}
    plain = {name: [at(name, beta) for beta in design.betas] for name in METHODS}
    found: dict[str, Any] = {}
    for name in METHODS:
        found[name] = {
            # At the same plain β as DPO, which is not the same scale.
            "at_beta": [
                _against(mine, base, ("collapsed", "top", "entropy"), ("collapsed", "entropy"))
                for mine, base in zip(plain[name], plain[BASELINE], strict=True)
            ],
            # The frontier over β for figures: KL and yardsticks with their intervals, at every fourth β.
            "line": {
                key: [interval_of(row) for row in lines[name][key][::4]] for key in ("kl", "consensus", "agreement")
            },
            "matched": [
                {
                    "beta": float(f"{beta:.5g}"),
                    **_against(mine, base),
                    # Both methods' optima have this KL: their entropy on infinitely many pairs is the same.
                    "entropy_lost": interval_of(np.log(design.arms) - strength - mine["entropy"]),
                }
                for mine, base, strength, beta in zip(
                    matched[name], matched[BASELINE], design.strengths, betas[name], strict=True
                )
            ],
        }
        if name != BASELINE:
            found[name]["equal_kl"] = compare_at_equal_kl(lines[name], lines[BASELINE], _at_equal_kl(job))
            found[name]["at_kl"] = compare_at_kl(lines[name], lines[BASELINE], YARDSTICKS)
    return {"facts": _facts(solved, data), "methods": found, "processor_seconds": time.process_time() - started}


def _against(
    mine: Measures, base: Measures, shown: Sequence[str] = SHOWN, compared: Sequence[str] = _DIFFERENCES
) -> dict[str, Any]:
    """What was found of a method, and its differences from DPO."""
    found: dict[str, Any] = {name: interval_of(mine[name]) for name in shown}
    return found | {"minus_dpo": {name: paired(mine[name], base[name]) for name in compared}}


def _at_equal_kl(job: ExactJob | TrainingJob) -> tuple[str, ...]:
    """What is compared at equal KL; thirds of the states where there are three."""
    if len(job.phis) < 3:
        return (*YARDSTICKS, "regret", "top")
    by_third = [f"{name}_{third}" for name in YARDSTICKS for third in THIRDS]
    return (*YARDSTICKS, "regret", "collapsed", *by_third, "entropy_contested")


def _facts(solved: dict[str, Minimiser], data: _Data) -> dict[str, Any]:
    """What the pairs are like and how exact the minimisers are; shares of (seed, state)."""
    dpo, kendall = solved[BASELINE], [solved[name] for name in METHODS if METHODS[name].objective == "mallows_phi"]
    alone = (dpo.kept_bk.sum(axis=1) == 1).astype(np.float64)
    per_seed = alone.reshape(len(data.seeds), -1).mean(axis=1)
    estimates = {}
    for index in ("pairs", "votes"):
        error = data.neg_log_phi_sp(index) - data.population.neg_log_phi_p
        estimates[index] = {
            "mean": [float(f"{value:.4g}") for value in data.neg_log_phi_sp(index).mean(axis=0)],
            "rms_error": float(f"{np.sqrt((error**2).mean()):.4g}"),
        }
    return {
        "attained": float(dpo.finite_b.mean()),
        "one_arm": interval_of(per_seed),
        "open": float(dpo.open_b.mean()),
        "largest_slope": max(float(one.slope_b.max()) for one in solved.values()),
        "kendall_several_minima": float(np.mean([(one.starts_b > 1).mean() for one in kendall])),
        "same_limits": all(np.array_equal(one.kept_bk, dpo.kept_bk) for one in kendall),
        "neg_log_phi": estimates,
    }


def run_training_job(design: BanditDesign, job: TrainingJob) -> dict[str, Any]:
    """All trained methods, step by step."""
    started = time.process_time()
    data = _Data(design, job.phis, job.pairs, design.training_seeds)
    runs, places = [], []
    betas = matched_betas(data.population, design.strengths)
    for name in TRAINED:
        method = METHODS[name]
        weight = data.weight_sp(method) if method.index else None
        for strength, beta in zip(design.strengths, betas[name], strict=True):
            runs.append(Run(method.objective, beta, weight))
            places.append((name, strength))
    log_prob = train(
        runs, data.pairs, design.arms, data.seeds, learning_rate=job.learning_rate, batch_size=design.batch_size,
        steps=design.steps, shared=job.shared,
    )  # fmt: skip
    lines = {place: measure(log_prob[:, number], data.population) for number, place in enumerate(places)}
    found: dict[str, Any] = {name: [] for name in TRAINED}
    for name, strength in places:
        mine, base = lines[name, strength], lines[BASELINE, strength]
        row: dict[str, Any] = {"entropy_by_step": [interval_of(value) for value in mine["entropy"]]}
        row["at_steps"] = [
            _against({key: mine[key][at] for key in SHOWN}, {key: base[key][at] for key in SHOWN})
            for at in map(design.steps.index, design.shown_steps)
        ]
        if name != BASELINE:
            row["equal_kl"] = compare_at_equal_kl(mine, base, _at_equal_kl(job))
        found[name].append(row)
    return {"methods": found, "processor_seconds": time.process_time() - started}
