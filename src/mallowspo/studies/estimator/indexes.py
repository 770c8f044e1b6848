"""From what a reference said of its prompts to every index, and from each index to −log φ by every map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.dispersion import ESTIMATORS, MAPS, fit_map, sampled_entropy, votes_index
from mallowspo.dispersion.answer_samples import SampledAnswer
from mallowspo.dispersion.panel import neg_log_phi_from_margin, panel_neg_log_phi, vote_log_likelihood
from mallowspo.dispersion.topics import cluster_answers, estimate_alternatives, topic_entropy, weighted_clusters
from mallowspo.stats.bootstrap import spearman
from mallowspo.world.language import WorldPrompt
from mallowspo.world.population import collect_votes

__all__ = [
    "INDEXES", "MAP_NAMES", "N_BY_VOTES", "PANELS", "SAMPLED", "SINGLE_PASS", "Index", "alternatives_by_votes",
    "ask_people", "mapped", "panel_told", "people_estimate", "rank_agreement", "read_indexes",
]  # fmt: skip

Floats = NDArray[np.float64]

SINGLE_PASS = {name: name.replace("_", " ") for name in ESTIMATORS if name != "panel"}
SAMPLED = {
    "sampled": "samples, exact match",
    "sampled_clusters": "samples, clusters",
    "weighted_clusters": "samples, weighted clusters",
    "topic_entropy": "topic entropy, N told",
    "topic_entropy_auto": "topic entropy, N estimated",
}
PANELS = {
    "panel": "panel, one pass",
    "panel_sampled": "panel with samples",
    "panel_topics": "panel with samples and topics",
}
INDEXES = {**SINGLE_PASS, **SAMPLED, **PANELS}
"""All indexes, those of one pass, those of sampled answers and the medians of several: name → what a reader reads."""

MAP_NAMES = MAPS

N_BY_VOTES = "n_by_votes"
"""Beside the maps, for the panels: `neglog`, with N chosen by the votes."""


@dataclass(frozen=True)
class Index:
    """An index of P prompts."""

    kind: str  # `entropy` (of a choice), `margin` (between two answers) or `neg_log_phi` (an estimate of it)
    # The index as the maps take it: larger = more dispersed; entropies in units of log |V|, the others as e to the
    # minus the margin or estimate; shape (P,)
    u_p: Floats


def read_indexes(reading: Mapping[str, Any], *, vocab_size: int, alternatives: int) -> dict[str, Index]:
    """Every index, by its name in `INDEXES`, of what `run_world_job` read; people choose among N alternatives."""
    unit = math.log(vocab_size)
    answers = [
        [SampledAnswer(tuple(ids), count, (logp,), tuple(entropy)) for ids, count, logp, entropy in given]
        for given in reading["answers"]
    ]
    geometric = [name for name in reading["indexes"] if ESTIMATORS[name].geometric]
    entropies = {name: np.array(values) for name, values in reading["indexes"].items() if name not in geometric}
    samples = sum(answer.count for answer in answers[0])
    clusters = cluster_answers([[answer.ids for answer in given] for given in answers])
    drawn: dict[str, list[list[Any]]] = {
        "sampled": [[answer.ids for answer in given for _ in range(answer.count)] for given in answers],
        "sampled_clusters": [
            [place for answer, place in zip(given, places, strict=True) for _ in range(answer.count)]
            for given, places in zip(answers, clusters, strict=True)
        ],
    }
    for name, prompts in drawn.items():
        entropies[name] = sampled_entropy(prompts) * math.log(samples) / unit
    entropies["weighted_clusters"] = weighted_clusters(answers) / unit
    entropies["topic_entropy"] = topic_entropy(answers, alternatives=alternatives) / unit
    entropies["topic_entropy_auto"] = topic_entropy(answers, alternatives=estimate_alternatives(answers)) / unit
    found = {name: Index("entropy", u_p) for name, u_p in entropies.items()}
    found |= {name: Index("margin", np.exp(-_neg_log(reading, name))) for name in geometric}
    for name, members in _MEMBERS.items():
        nats = {member: unit * entropies[member] for member in members}
        found[name] = _panel(reading, nats, alternatives)
    return {name: found[name] for name in INDEXES}


def panel_told(reading: Mapping[str, Any], told: int, *, vocab_size: int) -> Index:
    """The panel of one pass, told another number of answers."""
    unit = math.log(vocab_size)
    nats = {name: unit * np.array(reading["indexes"][name]) for name in _MEMBERS["panel"]}
    return _panel(reading, nats, told)


# Each with the margin.
_MEMBERS = {
    "panel": ("first_token", "divergent_token"),
    "panel_sampled": ("divergent_token", "weighted_clusters"),
    "panel_topics": ("divergent_token", "weighted_clusters", "topic_entropy"),
}


def _neg_log(reading: Mapping[str, Any], name: str) -> Floats:
    return np.asarray(-np.log(np.array(reading["indexes"][name]).clip(1e-6)), np.float64)


def _panel(reading: Mapping[str, Any], nats: Mapping[str, Floats], alternatives: int) -> Index:
    margin_p = _neg_log(reading, "reference_margin")
    return Index("neg_log_phi", np.exp(-panel_neg_log_phi(nats, margin_p, alternatives=alternatives)))


def ask_people(
    prompts: list[WorldPrompt],
    pairs: list[list[int]],
    first: int,
    *,
    voted: int,
    members: int,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Ask people about the pairs, (prompt, answer, answer), of as many prompts as are to be voted on."""
    asked = set((first + rng.permutation(len(prompts) - first)[:voted]).tolist())
    return [
        (prompt, collect_votes(prompts[prompt], chosen, rejected, members=members, rng=rng))
        for prompt, chosen, rejected in pairs
        if prompt in asked
    ]


def people_estimate(asked: list[tuple[int, int]], prompts: int, *, members: int) -> Floats:
    """Mean −log φ̂ of each prompt's pairs, from the votes; NaN where nobody was asked, shape (P,)."""
    sums: dict[int, list[float]] = {}
    for prompt, yes in asked:
        phi = votes_index(np.array([[yes, members - yes, 0]], np.float64)).phi_n[0]
        sums.setdefault(prompt, []).append(-math.log(phi))
    estimate = np.full(prompts, np.nan)
    for prompt, values in sums.items():
        estimate[prompt] = np.mean(values)
    return estimate


def mapped(
    index: Index, map_name: str, fit: slice, people_p: Floats, *, vocab_size: int, alternatives: int
) -> Floats | None:
    """−log φ by one of `MAP_NAMES`, up to a factor, fitted on the prompts of `fit`; None where it has no meaning."""
    if map_name == "neglog":
        if index.u_p.max() > 1:
            return None  # an entropy summed over an answer may exceed log |V|
        return -np.log(np.maximum(index.u_p, math.exp(-15)))
    if map_name == "mallows":
        if index.kind == "neg_log_phi":
            return None
        if index.kind == "margin":
            return neg_log_phi_from_margin(-np.log(index.u_p), alternatives=alternatives)
        fitted = fit_map("mallows", index.u_p[fit], vocab_size=vocab_size, alternatives=alternatives)
    else:
        fitted = fit_map(map_name, index.u_p[fit], people_neg_log_phi_n=people_p[fit])
    return np.asarray(fitted.raw(index.u_p)[0] / 2, np.float64)


def alternatives_by_votes(
    reading: Mapping[str, Any], asked: list[tuple[int, int]], *, vocab_size: int, members: int
) -> int:
    """The N, one of 3 to 12 or 20, with which the panel of one pass explains the votes of `ask_people` best."""
    prompt_n, votes_n = (np.array(values) for values in zip(*asked, strict=True))
    fits = {}
    for told in (*range(3, 13), 20):
        estimate_p = -np.log(panel_told(reading, told, vocab_size=vocab_size).u_p)
        fits[told] = vote_log_likelihood(
            estimate_p[prompt_n], votes_n, np.full(len(votes_n), members), alternatives=told
        )
    return max(fits, key=lambda told: fits[told])


def rank_agreement(estimate_p: Floats, truth_p: Floats) -> float:
    """Spearman's correlation; 0 where one side has only one value: it then orders nothing."""
    return float(np.nan_to_num(spearman(estimate_p, truth_p)))
