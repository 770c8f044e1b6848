"""The dispersion of a data set as people's votes on pairs show it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.dispersion.analysis import (
    Analysis,
    PromptOpinion,
    both_ends,
    calibrated_people,
    distribution,
    drawing,
    mean_rate,
    weight_summary,
)
from mallowspo.dispersion.calibration import raw_from_phi
from mallowspo.dispersion.diagnostics import correlation, flip_probability, vote_disagreement
from mallowspo.dispersion.entropy import mean_by_prompt
from mallowspo.dispersion.people import VotesIndex, poor_intervals, votes_index
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.votes_file import VOTE_FORMS, VoteRows

__all__ = ["analyse_votes", "opinion_of_votes"]

Floats = NDArray[np.float64]


def analyse_votes(rows: VoteRows, *, settings: DispersionSettings) -> Analysis:
    """Dispersion per pair from votes, with its interval, and the weight that follows."""
    rng = np.random.default_rng(settings.seed)
    index = votes_index(rows.votes, prior=settings.vote_prior, level=settings.level)
    raw_n = raw_from_phi(index.phi_n)
    if settings.per == "prompt":
        raw_n = mean_by_prompt(raw_n, rows.prompt_ids)
    calibration = calibrated_people(raw_n, "votes", settings)
    weight_n = calibration.weight(raw_n)
    columns = {
        "row_index": rows.row_index,
        "prompt_id": rows.prompt_ids,
        "prompt": rows.prompts,
        "first_response": [pair[0] for pair in rows.responses],
        "second_response": [pair[1] for pair in rows.responses],
        "votes_chosen": rows.votes[:, 0],
        "votes_rejected": rows.votes[:, 1],
        "votes_tie": rows.votes[:, 2],
        "voted": index.voted_n,
        "agreement": index.agreement_n,
        "dispersion": index.phi_n,
        "dispersion_low": index.phi_low_n,
        "dispersion_high": index.phi_high_n,
        "dispersion_weight": weight_n,
    }
    summary = {
        "source": "votes",
        "form": rows.form,
        "notes": [*rows.notes, *_interval_notes(rows, index, settings)],
        "rows": len(rows.votes),
        "prompts": len(set(rows.prompt_ids)),
        "voted": int(index.voted_n.sum()),
        "votes_per_row": distribution(index.votes_n[index.voted_n]),
        "tie_share": float(rows.votes[:, 2].sum() / rows.votes.sum()),
        "prior": settings.vote_prior,
        "level": settings.level,
        "phi": distribution(index.phi_n[index.voted_n]),
        "per": settings.per,
        **weight_summary(calibration, weight_n, beta=settings.beta),
        **_vote_flips(rows, index, settings, rng),
        "correlations": _word_correlations(rows, index, settings, rng),
        **_vote_extremes(rows, index, columns),
    }
    return Analysis(columns, summary)


def _interval_notes(rows: VoteRows, index: VotesIndex, settings: DispersionSettings) -> list[str]:
    """Say where single intervals hold φ less often than they claim."""
    poor, coverage, votes = poor_intervals(rows.votes, index, prior=settings.vote_prior)
    if not poor:
        return []
    return [
        f"the intervals of {poor:,} pair{'s' * (poor != 1)} hold φ less often than they say, where φ is what the "
        f"votes give: {coverage:.2f} of the time with {votes} votes, nominally {index.level:g}"
    ]


def _vote_flips(
    rows: VoteRows, index: VotesIndex, settings: DispersionSettings, rng: np.random.Generator
) -> dict[str, Any]:
    """How often one vote goes against the others, told three ways, and how often the label lost its own vote."""
    differ, minority = vote_disagreement(rows.votes, rows.own)
    flips = np.where(index.voted_n, flip_probability(index.phi_n), np.nan)
    found = {}
    for name, values in (("differ", differ), ("minority", minority), ("rate", flips)):
        known = np.flatnonzero(np.isfinite(values))
        asked = [rows.prompt_ids[i] for i in known]
        found[name] = mean_rate(values[known], asked, **drawing(settings, rng, len(known)))
    # With flip probabilities q, two voters differ with 2q(1 - q), which lies between q and what the mean q would give.
    differing = found["differ"]["value"]
    least = (1 - float(np.sqrt(max(0.0, 1 - 2 * differing)))) / 2 if np.isfinite(differing) else None
    decided = rows.votes[:, 0] + rows.votes[:, 1] >= 2
    unanimous = decided & (rows.votes[:, :2].min(axis=1) == 0) & (rows.votes[:, 2] == 0)
    facts: dict[str, Any] = {
        "flip": {**found, "bounds": None if least is None else [least, differing], "scale_measured": True},
        "contradicted": int((decided & (rows.votes[:, :2].min(axis=1) > 0)).sum()),
        "decided": int(decided.sum()),
        "unanimous": int(unanimous.sum()),
        "all_tied": int(((rows.votes[:, :2].sum(axis=1) == 0) & (rows.votes[:, 2] > 0)).sum()),
    }
    if rows.form in VOTE_FORMS[:2]:
        facts["label_against_votes"] = int((rows.votes[:, 1] > rows.votes[:, 0]).sum())
    return facts


def _word_correlations(
    rows: VoteRows, index: VotesIndex, settings: DispersionSettings, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Whether people differ more where the responses are long or of unlike length."""
    if not any(first or second for first, second in rows.responses):
        return []
    words = np.array([[len(text.split()) for text in pair] for pair in rows.responses], np.float64)
    phi = np.where(index.voted_n, index.phi_n, np.nan)
    beside = {
        "response length (words)": words.mean(axis=1),
        "difference in length (words)": np.abs(words[:, 0] - words[:, 1]),
    }
    drawn = drawing(settings, rng, len(phi))
    return [
        {"with": label, **correlation(phi, values, groups=rows.prompt_ids, **drawn)}
        for label, values in beside.items()
    ]


def _vote_extremes(rows: VoteRows, index: VotesIndex, columns: dict[str, Any]) -> dict[str, Any]:
    """The prompts on which people agree most and least, each with the pair that shows it best."""
    asked = np.flatnonzero(index.voted_n)
    names, group = np.unique([rows.prompt_ids[row] for row in asked], return_inverse=True)
    mean = np.bincount(group, weights=index.neg_log_phi_n[asked]) / np.bincount(group)
    votes = np.bincount(group, weights=index.votes_n[asked])
    # A tie weighs as little as a split vote, but it is no contest between people: those come first who contradict
    # each other.
    opposed = rows.votes[asked, :2].min(axis=1) / rows.votes[asked].sum(axis=1)
    clashes = np.bincount(group, weights=opposed) / np.bincount(group)
    # The pairs from the one on which people differ most on.
    place = np.empty(len(asked), np.intp)
    place[np.lexsort((-opposed, -index.phi_n[asked]))] = np.arange(len(asked))

    def shown(prompt: int, agreed: bool) -> dict[str, Any]:
        mine = np.flatnonzero(group == prompt)
        order = -place if agreed else place
        row = int(asked[mine[np.argsort(order[mine], kind="stable")[0]]])
        fields = ("dispersion", "dispersion_low", "dispersion_high", "dispersion_weight", "agreement")
        return {
            "prompt_id": str(names[prompt]),
            "prompt": rows.prompts[row],
            "pairs": len(mine),
            "mean_neg_log_phi": float(mean[prompt]),
            "row_index": int(rows.row_index[row]),
            "responses": list(rows.responses[row]) if any(rows.responses[row]) else [],
            "votes": [float(votes) for votes in rows.votes[row]],
            **{name: float(columns[name][row]) for name in fields},
        }

    return both_ends(np.lexsort((-votes, -mean)), np.lexsort((-votes, mean, -clashes)), shown)


def opinion_of_votes(rows: VoteRows, *, settings: DispersionSettings) -> PromptOpinion:
    """The mean -log phi of a prompt's pairs; it diverges where two voters contradict each other on any of them."""
    index = votes_index(rows.votes, prior=settings.vote_prior, level=settings.level)
    sums: dict[str, list[float]] = {}
    diverging: dict[str, bool] = {}
    pairs = []
    for row in np.flatnonzero(index.voted_n):
        name = rows.prompt_ids[row]
        sums.setdefault(name, []).append(float(index.neg_log_phi_n[row]))
        first, second = rows.votes[row, :2].tolist()
        pairs.append((name, first, second))
        if first + second >= 2:
            diverging[name] = diverging.get(name, False) or bool(min(first, second) > 0)
    count: dict[str, float] = {}
    for name, votes in zip(rows.prompt_ids, index.votes_n, strict=True):
        count[name] = count.get(name, 0.0) + float(votes)
    means = {name: float(np.mean(values)) for name, values in sums.items()}
    return PromptOpinion(means, count, diverging, "votes", tuple(pairs))
