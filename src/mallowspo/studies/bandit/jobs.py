"""The jobs of the bandit study: one population and number of pairs, all methods, all seeds, all values of β at once.

Suffixes: s seeds, p states, k arms; β or steps lead.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from mallowspo.studies.bandit.design import METHODS, TRAINED, BanditDesign, ExactJob, TrainingJob
from mallowspo.studies.bandit.measures import Measures, compare_at_equal_kl, interval_of, measure, paired
from mallowspo.studies.bandit.minimiser import Minimiser, minimise, policy_log_probs
from mallowspo.studies.bandit.population import (
    Population,
    count_pairs,
    draw_pairs,
    draw_votes,
    index_from_pairs,
)
from mallowspo.studies.bandit.training import Run, Schedule, train

__all__ = ["BASELINE", "SHOWN", "matched_betas", "run_exact_job", "run_training_job"]

Floats = NDArray[np.float64]

BASELINE = "dpo"
SHOWN = ("collapsed", "top", "entropy", "agreement", "regret")
"""What is shown of a policy; with a uniform reference its KL is log K less its entropy."""

_DIFFERENCES = ("collapsed", "entropy", "agreement", "regret")
_AT_EQUAL_KL = ("agreement", "regret", "top")
_AT_EQUAL_KL_MANY = (
    "agreement",
    "regret",
    "collapsed",
    "agreement_agreed",
    "agreement_contested",
    "entropy_contested",
)

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

    def weight_sp(self, index: str) -> Floats:
        """Weight of the objectives, -2 log φ; 1 for a method without φ."""
        return 2 * self.neg_log_phi_sp(index) if index else np.ones((len(self.seeds), len(self.population.phi_p)))


def own_optimum(objective: str, population: Population) -> Minimiser:
    """Minimiser of an objective, with the true φ, on infinitely many pairs; one problem for each state."""
    off_diagonal = 1.0 - np.eye(population.arms)
    weight_p = 2 * population.neg_log_phi_p
    return minimise(objective, population.preference_pkk * off_diagonal, weight_p, rng=np.random.default_rng(0))


def matched_betas(population: Population, strengths: Sequence[float]) -> dict[str, list[float]]:
    """Find the β at which an objective's own optimum on infinitely many pairs has a given KL, mean over the states."""
    found = {}
    for objective in dict.fromkeys(method.objective for method in METHODS.values()):
        optimum = own_optimum(objective, population)

        def excess(log_beta: float, strength: float, optimum: Minimiser = optimum) -> float:
            return float(measure(policy_log_probs(optimum, np.exp(log_beta)), population)["kl"]) - strength

        ends = np.log(1e-4), np.log(1e4)
        found[objective] = [float(np.exp(brentq(excess, *ends, args=(one,), xtol=1e-12))) for one in strengths]
    return found


def run_exact_job(design: BanditDesign, job: ExactJob) -> dict[str, Any]:
    """All methods at the exact minimiser."""
    started = time.process_time()
    data = _Data(design, job.phis, job.pairs, design.seeds)
    shape = data.counts_spkk.shape
    solved: dict[str, Minimiser] = {}
    for number, (name, method) in enumerate(METHODS.items()):
        rng = np.random.default_rng([job.pairs, number])
        counts_bkk = data.counts_spkk.reshape(-1, *shape[2:])
        solved[name] = minimise(method.objective, counts_bkk, data.weight_sp(method.index).ravel(), rng=rng)

    def at(name: str, beta: float) -> Measures:
        return measure(policy_log_probs(solved[name], beta).reshape(shape[:3]), data.population)

    lines = {name: _stack([at(name, beta) for beta in _DENSE_BETAS]) for name in METHODS}
    betas = matched_betas(data.population, design.strengths)
    matched = {name: [at(name, beta) for beta in betas[method.objective]] for name, method in METHODS.items()}
    quantities = _AT_EQUAL_KL_MANY if len(job.phis) >= 3 else _AT_EQUAL_KL
    plain = {name: [at(name, beta) for beta in design.betas] for name in METHODS}
    found: dict[str, Any] = {}
    for name, method in METHODS.items():
        found[name] = {
            "at_beta": [_at_beta(mine, base) for mine, base in zip(plain[name], plain[BASELINE], strict=True)],
            "line": _line(lines[name]),
            "matched": [
                _matched(mine, base, strength, beta, design.arms)
                for mine, base, strength, beta in zip(
                    matched[name], matched[BASELINE], design.strengths, betas[method.objective], strict=True
                )
            ],
        }
        if name != BASELINE:
            found[name]["equal_kl"] = compare_at_equal_kl(lines[name], lines[BASELINE], quantities)
    return {
        "facts": _facts(solved, data),
        "methods": found,
        "processor_seconds": time.process_time() - started,
    }


def _at_beta(mine: Measures, base: Measures) -> dict[str, Any]:
    """A method at the same plain β as DPO, which is not the same scale."""
    shown = ("collapsed", "top", "entropy")
    return {
        **{name: interval_of(mine[name]) for name in shown},
        "minus_dpo": {name: paired(mine[name], base[name]) for name in shown[::2]},
    }


def _line(line: Measures) -> dict[str, Any]:
    """The frontier over β for a figure: mean KL, and agreement with its interval, at every fourth β."""
    return {name: [interval_of(row) for row in line[name][::4]] for name in ("kl", "agreement")}


def _matched(mine: Measures, base: Measures, strength: float, beta: float, arms: int) -> dict[str, Any]:
    """A method at a matched scale: β, what was found, the entropy against its own optimum's, differences from DPO."""
    return {
        "beta": float(f"{beta:.5g}"),
        **_intervals(mine),
        # Both methods' optima have this KL, so that their entropy on infinitely many pairs is the same.
        "entropy_lost": interval_of(np.log(arms) - strength - mine["entropy"]),
        "minus_dpo": {name: paired(mine[name], base[name]) for name in _DIFFERENCES},
    }


def _intervals(found: Measures) -> dict[str, Any]:
    return {name: interval_of(found[name]) for name in SHOWN}


def _stack(found: list[Measures]) -> Measures:
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


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
        weight = data.weight_sp(method.index) if method.index else None
        for strength, beta in zip(design.strengths, betas[method.objective], strict=True):
            runs.append(Run(method.objective, beta, weight))
            places.append((name, strength))
    schedule = Schedule(
        learning_rate=job.learning_rate, batch_size=design.batch_size, steps=design.steps, shared=job.shared
    )
    log_prob = train(runs, data.pairs, design.arms, schedule, data.seeds)
    lines = {place: measure(log_prob[:, number], data.population) for number, place in enumerate(places)}
    quantities = _AT_EQUAL_KL_MANY if len(job.phis) >= 3 else _AT_EQUAL_KL
    found: dict[str, Any] = {name: [] for name in TRAINED}
    for name, strength in places:
        mine, base = lines[name, strength], lines[BASELINE, strength]
        row: dict[str, Any] = {"entropy_by_step": [interval_of(value) for value in mine["entropy"]]}
        row["at_steps"] = [
            {
                **_intervals({key: mine[key][at] for key in SHOWN}),
                "minus_dpo": {key: paired(mine[key][at], base[key][at]) for key in _DIFFERENCES},
            }
            for at in (design.steps.index(step) for step in design.shown_steps)
        ]
        if name != BASELINE:
            row["equal_kl"] = compare_at_equal_kl(mine, base, quantities)
        found[name].append(row)
    return {"methods": found, "processor_seconds": time.process_time() - started}
