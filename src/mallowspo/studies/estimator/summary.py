"""What the references' readings say of the indexes, what the runs say of their worth, and the paper's check, exactly.

The paper estimates −log φ by −log(H/log n!), with H the entropy of the ranking. Here H is the exact entropy of the
model, for both distances: no sampling, so that what is left is how good the approximation itself is (Chen et al. 2025,
arXiv 2405.14953).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.maths import MallowsModel
from mallowspo.stats.frontiers import SeedFrontier
from mallowspo.studies.estimator.bench import (
    DOWNSTREAM_METHODS,
    WorldJob,
    WorldSettings,
    scored_prompts,
    written_world,
)
from mallowspo.studies.estimator.indexes import (
    INDEXES,
    MAP_NAMES,
    N_BY_VOTES,
    alternatives_by_votes,
    ask_people,
    mapped,
    panel_told,
    people_estimate,
    rank_agreement,
    read_indexes,
)
from mallowspo.studies.policies import BASELINE, equal_kl, mean_of
from mallowspo.world.conditions import EXTRA_WORDS, condition_named
from mallowspo.world.language import word_tokenizer

__all__ = [
    "AIM", "DISTANCES", "SPREAD_AIM", "VOTED", "JudgeJob", "JudgeSetup", "downstream_summary", "entropy_estimate",
    "judge", "paper_check", "stress_summary", "survival",
]  # fmt: skip

Floats = NDArray[np.float64]

DISTANCES = ("kendall", "spearman")

_PHI = np.linspace(0.02, 0.98, 49)


def entropy_estimate(items: int, phi: float, distance: str) -> float:
    """The paper's estimate −log(H/log n!) of −log φ, from the exact entropy H of the model."""
    entropy = MallowsModel(np.arange(1, items + 1), phi, distance=distance).entropy()
    return max(0.0, -math.log(entropy / math.lgamma(items + 1)))


def paper_check(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Compare −log φ with its estimate over a grid of φ."""
    found = []
    truth = -np.log(_PHI[::-1])
    for distance in DISTANCES:
        for items in sizes:
            estimate = np.array([entropy_estimate(items, float(phi), distance) for phi in _PHI[::-1]])
            found.append(
                {
                    "distance": distance,
                    "items": items,
                    "neg_log_phi": [round(float(value), 5) for value in truth],
                    "estimate": [round(float(value), 5) for value in estimate],
                    "rising": bool((np.diff(estimate) > 0).all()),
                    "correlation": float(np.corrcoef(truth, estimate)[0, 1]),
                    "spread": float(np.ptp(estimate) / estimate.mean() / (np.ptp(truth) / truth.mean())),
                }
            )
    return found


VOTED = "chosen_by_votes"
"""Whichever index follows the votes on the voted prompts best."""

AIM = 0.9
SPREAD_AIM = (0.75, 1.25)
WRONG_ALTERNATIVES = (3, 10, 20)


@dataclass(frozen=True, kw_only=True)
class JudgeSetup:
    """How the indexes of every reference are judged."""

    world: WorldSettings  # world and reference
    alternatives: int  # N, given to the maps and panels
    voted_prompts: int  # training prompts on which votes are taken
    members: int  # votes a pair


@dataclass(frozen=True, kw_only=True)
class JudgeJob(WorldJob):
    """A reference, and what `run_world_job` read from it."""

    reading: Mapping[str, Any]


def judge(setup: JudgeSetup, job: JudgeJob) -> dict[str, Any]:
    """Judge every index of one reference on its held-out prompts."""
    result, members, alternatives = job.reading, setup.members, setup.alternatives
    vocab_size = len(word_tokenizer(EXTRA_WORDS))
    written = written_world(setup.world, job)
    prompts, _ = scored_prompts(setup.world, job, written)
    held = len(written.world.heldout)
    truth_p = np.array([prompt.neg_log_phi for prompt in prompts])
    votes = ask_people(
        prompts,
        result["pairs"],
        held,
        voted=setup.voted_prompts,
        members=members,
        rng=np.random.default_rng([job.seed, 17]),
    )
    people_p = people_estimate(votes, len(prompts), members=members)
    asked = np.isfinite(people_p)
    rank: dict[str, float] = {}
    spread: dict[str, dict[str, float]] = {}
    followed: dict[str, float] = {}
    for name, index in read_indexes(result, vocab_size=vocab_size, alternatives=alternatives).items():
        rank[name] = rank_agreement(-index.u_p[:held], truth_p[:held])
        followed[name] = rank_agreement(-index.u_p[asked], people_p[asked])
        spread[name] = {}
        for map_name in MAP_NAMES:
            estimate_p = mapped(
                index, map_name, slice(held, None), people_p, vocab_size=vocab_size, alternatives=alternatives
            )
            if estimate_p is not None and estimate_p[:held].sum() > 0:
                spread[name][map_name] = _range(estimate_p[:held]) / _range(truth_p[:held])
    chosen_n = alternatives_by_votes(result, votes, vocab_size=vocab_size, members=members)
    for name, index in read_indexes(result, vocab_size=vocab_size, alternatives=chosen_n).items():
        if index.kind == "neg_log_phi" and index.u_p[:held].min() < 1:
            spread[name][N_BY_VOTES] = _range(-np.log(index.u_p[:held])) / _range(truth_p[:held])
    sensitivity = {}
    for told in WRONG_ALTERNATIVES:
        u_p = panel_told(result, told, vocab_size=vocab_size).u_p[:held]
        # A panel that calls every prompt as contested as can be has no weights.
        flat = u_p.min() == 1
        sensitivity[str(told)] = {
            "rank": rank_agreement(-u_p, truth_p[:held]),
            "spread": 0.0 if flat else _range(-np.log(u_p)) / _range(truth_p[:held]),
        }
    picked = max(followed, key=lambda name: followed[name])
    rank[VOTED], spread[VOTED] = rank[picked], spread[picked]
    return {
        "rank": rank,
        "spread": spread,
        "sensitivity": sensitivity,
        "picked": picked,
        "chosen_n": chosen_n,
        "excess_nats": result["excess_nats"],
    }


def _range(neg_log_phi_p: Floats) -> float:
    """5–95% range of the weights, whose mean is 1."""
    weight = neg_log_phi_p / neg_log_phi_p.mean()
    return float(np.quantile(weight, 0.95) - np.quantile(weight, 0.05))


def stress_summary(jobs: Sequence[WorldJob], judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds with 95% intervals, one entry per condition."""
    found = []
    for condition in dict.fromkeys(job.condition for job in jobs):
        rows = [row for job, row in zip(jobs, judged, strict=True) if job.condition == condition]
        names = (*INDEXES, VOTED)
        found.append(
            {
                "condition": condition,
                "trained": condition_named(condition).training_share == 1,
                "seeds": [job.seed for job in jobs if job.condition == condition],
                "excess_nats": mean_of([row["excess_nats"] for row in rows]),
                "picked": [row["picked"] for row in rows],
                "chosen_n": [row["chosen_n"] for row in rows],
                "sensitivity": {
                    told: {name: float(np.mean([row["sensitivity"][told][name] for row in rows])) for name in values}
                    for told, values in rows[0]["sensitivity"].items()
                },
                "rank": {name: mean_of([row["rank"][name] for row in rows]) for name in names},
                "rank_by_seed": {name: [round(row["rank"][name], 4) for row in rows] for name in names},
                "spread": {
                    name: {
                        map_name: mean_of([row["spread"][name][map_name] for row in rows])
                        for map_name in (*MAP_NAMES, N_BY_VOTES)
                        if all(map_name in row["spread"][name] for row in rows)
                    }
                    for name in names
                },
            }
        )
    return found


def survival(stress: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each index: where it does worst, and how often it reaches the aims where the reference is trained."""
    trained = [row for row in stress if row["trained"]]
    found = {}
    for name in (*INDEXES, VOTED):
        means = {row["condition"]: row["rank"][name]["mean"] for row in trained}
        lows = [row["rank"][name]["low"] for row in trained if np.isfinite(row["rank"][name]["low"])]
        worst = min(means, key=lambda condition: means[condition])
        low, high = SPREAD_AIM
        found[name] = {
            "worst": means[worst],
            "worst_low": min(lows, default=None),
            "worst_condition": worst,
            "reached": sum(mean >= AIM for mean in means.values()),
            "of": len(means),
            "spread_reached": {
                map_name: sum(
                    map_name in row["spread"][name] and low <= row["spread"][name][map_name]["mean"] <= high
                    for row in trained
                )
                for map_name in (*MAP_NAMES, N_BY_VOTES)
                if any(map_name in row["spread"][name] for row in trained)
            },
        }
    return found


def downstream_summary(jobs: Sequence[WorldJob], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every method against DPO, and every θ against θ with the true index, at equal KL; one entry per comparison."""
    found = []
    for condition in dict.fromkeys(job.condition for job in jobs):
        runs = [row["runs"] for job, row in zip(jobs, results, strict=True) if job.condition == condition]
        for baseline in (BASELINE, "theta_true"):
            for method in DOWNSTREAM_METHODS:
                if method in (baseline, BASELINE):
                    continue
                mine, base = ([_frontier(run, name) for run in runs] for name in (method, baseline))
                row = {"condition": condition, "method": method, "baseline": baseline, "seeds": len(runs)}
                compared = equal_kl(mine, base, middle=_median)
                del compared["per_seed"]
                found.append(row | compared)
    return found


def _median(values_s: Floats) -> float:
    """Median of what is there; NaN where nothing is."""
    known = values_s[np.isfinite(values_s)]
    return float(np.median(known)) if known.size else float("nan")


def _frontier(runs: Sequence[Mapping[str, Any]], method: str) -> SeedFrontier:
    rows = [run for run in runs if run["method"] == method]
    return SeedFrontier([row["kl"] for row in rows], [row["agreement"] for row in rows])
