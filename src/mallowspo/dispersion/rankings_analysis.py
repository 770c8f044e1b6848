"""The dispersion of a data set as people's rankings of the responses show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2

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
from mallowspo.dispersion.diagnostics import flip_probability
from mallowspo.dispersion.people import (
    LIKELIHOODS,
    RankingsIndex,
    fit_sample_size,
    goodness_of_fit,
    rankings_index,
    shares_ranks,
)
from mallowspo.dispersion.ranking_intervals import FEW_PEOPLE
from mallowspo.dispersion.rankings_file import RankingRows
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.maths import MAX_NEG_LOG_PHI, MallowsModel, kendall_tau, preference_counts
from mallowspo.maths.spearman import SPEARMAN_LIMIT

__all__ = ["analyse_rankings", "opinion_of_rankings"]

Progress = Callable[[str, int, int], None]

DETAILED = 20
"""Up to so many prompts, each one's rankings get a line of their own, a second distance and a test of fit."""

# Spearman's normaliser takes 2^n steps a call: about 20 s a prompt of 20 items, and no more than two of them.
_SPEARMAN_BUDGET = 2**22


def analyse_rankings(
    rows: RankingRows,
    *,
    settings: DispersionSettings,
    truth: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Mallows models of people's rankings, a row a prompt; rankings that nobody gave are left out."""
    report = progress or (lambda stage, done, total: None)
    rows = _given(rows)
    index = _fitted(rows, settings, settings.distance)
    raw_p = raw_from_phi(index.phi_n)
    calibration = calibrated_people(raw_p, "rankings", settings)
    weight_p = calibration.weight(raw_p)
    columns = {
        "prompt_id": rows.prompt_ids,
        "prompt": rows.prompts,
        "people": index.rankings_n,
        "items": [len(center) for center in index.centers],
        "dispersion": index.phi_n,
        "dispersion_low": index.phi_low_n,
        "dispersion_high": index.phi_high_n,
        "mean_distance": index.mean_distance_n,
        "center": [center.tolist() for center in index.centers],
        "dispersion_weight": weight_p,
    }
    order = np.argsort(index.phi_n, kind="stable")
    flips, rng = flip_probability(index.phi_n), np.random.default_rng(settings.seed)
    summary = {
        "source": "rankings",
        "form": rows.form,
        "prompts": len(rows.ranks),
        "rows": len(rows.ranks),
        "distance": settings.distance,
        "prior": settings.ranking_prior,
        "ties": _TIE_WORDS[rows.ties] if rows.tied else "none",
        "likelihood": [LIKELIHOODS[name] for name in dict.fromkeys(index.likelihoods)],
        "notes": [*rows.notes, *_notes(rows, index, settings)],
        "level": settings.level,
        "phi": distribution(index.phi_n),
        **weight_summary(calibration, weight_p, beta=settings.beta),
        "flip": {"rate": mean_rate(flips, range(len(flips)), **drawing(settings, rng)), "scale_measured": True},
        "detail": _detail(rows, index, settings, truth, report) if len(rows.ranks) <= DETAILED else [],
        "equal_phi": _equal_phi(rows, index, settings),
        **both_ends(order, order[::-1], lambda place, agreed: _shown_ranking(rows, index, columns, place)),
    }
    return Analysis(columns, summary)


def _fitted(rows: RankingRows, settings: DispersionSettings, distance: str) -> RankingsIndex:
    return rankings_index(
        rows.ranks,
        distance,
        level=settings.level,
        prior=settings.ranking_prior,
        ties=rows.ties,
        counts=rows.counts,
    )


def _given(rows: RankingRows) -> RankingRows:
    """Leave out rankings that nobody gave."""
    kept = [counts > 0 for counts in rows.people]
    return replace(
        rows,
        ranks=[ranks[some] for ranks, some in zip(rows.ranks, kept, strict=True)],
        counts=[counts[some] for counts, some in zip(rows.people, kept, strict=True)],
    )


def _strict(ranks: NDArray[np.float64]) -> bool:
    """Whether everybody put all items in one order."""
    return not (np.isnan(ranks).any() or shares_ranks(ranks))


def _fit_test_fits(rows: RankingRows, place: int) -> bool:
    """Whether the test of fit can draw these people: whole ones, each with a whole ranking."""
    counts = rows.people[place]
    return _strict(rows.ranks[place]) and bool((counts == np.round(counts)).all())


# Below this the centre is a guess, and the profile-likelihood interval takes the scatter around it for agreement. At
# the interval's upper end it finds most prompts whose φ is covered less than 0.90 (docs/dispersion/coverage.json).
_STANDS_OUT = 0.2

_TIE_WORDS = {"half": "half a discordance each", "unordered": "an order not given; all orders summed"}


def _notes(rows: RankingRows, index: RankingsIndex, settings: DispersionSettings) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    if index.center_exact_n is not None and not index.center_exact_n.all():
        notes.append("Beyond 20 items the centre is the Borda order improved by moves; perhaps not the best.")
    profile = np.array(index.intervals) == "profile"
    few = int((profile & (index.rankings_n < FEW_PEOPLE)).sum())
    if few:
        notes.append(
            f"{few:,} prompt{'s' * (few != 1)} with fewer than {FEW_PEOPLE} people and a profile-likelihood interval: "
            "where people disagree it covers less than it says."
        )
    if index.distance == "kendall":
        # Standard errors by which a majority of these people stands out, for neighbours in the centre.
        stands_out = np.sqrt(index.rankings_n) * (1 - index.phi_high_n) / (1 + index.phi_high_n)
        loose = int((profile & (index.rankings_n >= FEW_PEOPLE) & (stands_out < _STANDS_OUT)).sum())
        if loose:
            notes.append(
                f"{loose:,} prompt{'s' * (loose != 1)} with a profile-likelihood interval that reaches up to where "
                "the centre is a guess: it covers less than it says (simulated: 0.70 to 0.87 for 0.95, with 40 to 100 "
                "people and φ from 0.95 on)."
            )
    if settings.fit_draws and len(rows.ranks) <= DETAILED:
        tested = [place for place in range(len(rows.ranks)) if _fit_test_fits(rows, place)]
        people = [float(index.rankings_n[place]) for place in tested]
        sampled = [fit_sample_size(m, len(index.centers[place])) for m, place in zip(people, tested, strict=True)]
        if any(some < all_ for some, all_ in zip(sampled, people, strict=True)):
            notes.append(f"The test of fit looks at {max(sampled):,} people at most, drawn at random.")
        if len(tested) < len(rows.ranks):
            notes.append(
                "There is no test of fit where ranks are shared or left open, or people are counted in fractions."
            )
    if rows.tied and index.distance == "spearman":
        notes.append("Spearman's rho has no likelihood of shared ranks: they count by halves.")
    return notes


def _people(number: float) -> int | float:
    """The number of people; weighted ballots may add up to no whole one."""
    return int(number) if number == round(number) else float(number)


def _mean_rank(ranks: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Mean rank among those to whom the item was shown; NaN where that is nobody."""
    seen = np.isfinite(ranks)
    return float(np.average(ranks[seen], weights=weights[seen])) if seen.any() else math.nan


def _shown_ranking(rows: RankingRows, index: RankingsIndex, columns: dict[str, Any], place: int) -> dict[str, Any]:
    order = np.argsort(index.centers[place])
    names = ("dispersion", "dispersion_low", "dispersion_high", "dispersion_weight", "mean_distance")
    return {
        **{name: float(columns[name][place]) for name in names},
        "prompt_id": rows.prompt_ids[place],
        "prompt": rows.prompts[place],
        "people": _people(index.rankings_n[place]),
        "responses": [rows.items[place][item] for item in order],
        "mean_ranks": [_mean_rank(rows.ranks[place][:, item], rows.people[place]) for item in order],
    }


def _detail(
    rows: RankingRows,
    index: RankingsIndex,
    settings: DispersionSettings,
    truth: NDArray[np.int64] | None,
    report: Progress,
) -> list[dict[str, Any]]:
    """Both distances, the test of fit and the truth, for prompts that are few."""
    rng = np.random.default_rng(settings.seed)
    cost = sum(2.0 ** ranks.shape[1] for ranks in rows.ranks)
    other = "spearman" if settings.distance == "kendall" else "kendall"
    fits = max(ranks.shape[1] for ranks in rows.ranks) <= SPEARMAN_LIMIT
    both = not any(np.isnan(ranks).any() for ranks in rows.ranks)
    both = both and (other == "kendall" or (fits and cost <= _SPEARMAN_BUDGET))
    found = []
    for place, ranks in enumerate(rows.ranks):
        report("Fitting the rankings", place, len(rows.ranks))
        facts: dict[str, Any] = {
            "prompt": rows.prompts[place],
            "people": _people(index.rankings_n[place]),
            "items": int(ranks.shape[1]),
            settings.distance: _fit_facts(index, place),
            "order": [rows.items[place][item] for item in np.argsort(index.centers[place])],
            "fit_p": None,
        }
        if both:
            alone = replace(rows, ranks=[ranks], counts=[rows.people[place]])
            facts[other] = _fit_facts(_fitted(alone, settings, other), 0)
        if settings.fit_draws and _fit_test_fits(rows, place):
            draws, counts = settings.fit_draws, rows.people[place]
            facts["fit_p"] = goodness_of_fit(ranks, settings.distance, rng=rng, draws=draws, counts=counts)
            facts["fit_people"] = fit_sample_size(float(index.rankings_n[place]), ranks.shape[1])
        if truth is not None and len(truth) == ranks.shape[1]:
            facts["truth"] = {
                "center_distance": int(kendall_tau(index.centers[place], truth)),
                "largest_distance": len(truth) * (len(truth) - 1) // 2,
            }
            if _strict(ranks):
                distances = kendall_tau(ranks.astype(np.int64), truth)
                facts["truth"]["mean_distance"] = float(np.average(distances, weights=rows.people[place]))
        found.append(facts)
    report("Fitting the rankings", len(rows.ranks), len(rows.ranks))
    return found


def _fit_facts(index: RankingsIndex, place: int) -> dict[str, Any]:
    return {
        "phi": float(index.phi_n[place]),
        "low": float(index.phi_low_n[place]),
        "high": float(index.phi_high_n[place]),
        "mean_distance": float(index.mean_distance_n[place]),
        "center": index.centers[place].tolist(),
    }


def _equal_phi(rows: RankingRows, index: RankingsIndex, settings: DispersionSettings) -> dict[str, Any] | None:
    """Likelihood-ratio test that all prompts have one phi, each with its own centre; for Kendall's tau."""
    full = set(index.likelihoods) <= {"full", "half"}
    if settings.distance != "kendall" or not full or not 2 <= len(rows.ranks) <= DETAILED:
        return None
    people = index.rankings_n.astype(float)
    items = [ranks.shape[1] for ranks in rows.ranks]

    def cost(neg_log_phi: Sequence[float]) -> float:
        total = 0.0
        for m, n, mean, value in zip(people, items, index.mean_distance_n, neg_log_phi, strict=True):
            model = MallowsModel(np.arange(1, n + 1), math.exp(-value))
            total += 2 * m * (value * mean + model.log_normalizer())
        return total

    def excess(value: float) -> float:
        expected = [MallowsModel(np.arange(1, n + 1), math.exp(-value)).expected_distance() for n in items]
        return float((people * (np.array(expected) - index.mean_distance_n)).sum())

    if excess(0.0) <= 0:
        common = 0.0
    elif excess(MAX_NEG_LOG_PHI) >= 0:
        common = MAX_NEG_LOG_PHI
    else:
        common = float(brentq(excess, 0.0, MAX_NEG_LOG_PHI))
    best = [float(v) for v in rankings_index(rows.ranks, "kendall", ties=rows.ties, counts=rows.counts).neg_log_phi_n]
    statistic = max(0.0, cost([common] * len(items)) - cost(best))
    degrees = len(items) - 1
    return {
        "common_phi": math.exp(-common),
        "statistic": statistic,
        "degrees": degrees,
        "p": float(chi2.sf(statistic, degrees)),
    }


def opinion_of_rankings(rows: RankingRows, *, settings: DispersionSettings) -> PromptOpinion:
    """What rankings say of each prompt; none diverges, as rankings of several responses nearly always clash."""
    index = _fitted(rows, settings, settings.distance)
    # A prompt may have several sets of responses, and rows that are pairs of one set repeat its rankings.
    names, prompt = np.unique(rows.prompt_ids, return_inverse=True)

    def mean(values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(names.tolist(), (np.bincount(prompt, values) / np.bincount(prompt)).tolist(), strict=True))

    pairs = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for place, name in enumerate(rows.prompt_ids):
        if (name, tuple(rows.items[place])) in seen:
            continue
        seen.add((name, tuple(rows.items[place])))
        above = preference_counts(rows.ranks[place], None if rows.counts is None else rows.counts[place])
        pairs += [(name, float(above[a, b]), float(above[b, a])) for a, b in combinations(range(len(above)), 2)]
    return PromptOpinion(mean(index.neg_log_phi_n), mean(index.rankings_n), {}, "rankings", tuple(pairs))
