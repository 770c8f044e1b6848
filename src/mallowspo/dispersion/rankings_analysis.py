"""The dispersion of a data set as people's rankings of the responses show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2

from mallowspo.dispersion.calibration import raw_from_phi
from mallowspo.dispersion.diagnostics import flip_probability, statistic
from mallowspo.dispersion.people import LIKELIHOODS, RankingsIndex, fit_sample_size, goodness_of_fit, rankings_index
from mallowspo.dispersion.rankings_file import RankingRows
from mallowspo.dispersion.reference_analysis import SHOWN, Analysis, PromptOpinion
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.weight_summary import calibrated_people, distribution, weight_summary
from mallowspo.maths import MAX_NEG_LOG_PHI, MallowsModel, kendall_tau
from mallowspo.maths.spearman import SPEARMAN_LIMIT
from mallowspo.stats.bootstrap import bootstrap

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
    """Mallows models of people's rankings, prompt by prompt.

    Args:
        rows: The rankings; where responses share a rank, a tied pair counts as half a discordance.
        settings: Distance, prior, calibration and intervals.
        truth: A ranking that is known to be true, to measure each centre by.
        progress: Called with what is being done, prompts done and prompts in all.

    Returns:
        The table has a row per prompt: `dispersion` with its interval, `center`, `mean_distance`, `people`,
        `dispersion_weight`. The summary has `prompts_detail` where the prompts are few: also Spearman's rho, the
        test of fit, and the distance of the centre from the truth.

    Raises:
        InputError: Rankings that cannot be fitted.
    """
    report = progress or (lambda stage, done, total: None)
    index = rankings_index(
        rows.ranks,
        settings.distance,
        level=settings.level,
        prior=settings.ranking_prior,
        ties=rows.ties,
        counts=rows.counts,
    )
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
    count = min(SHOWN, max(1, len(order) // 2))
    summary = {
        "source": "rankings",
        "form": rows.form,
        "prompts": len(rows.ranks),
        "rows": len(rows.ranks),
        "distance": settings.distance,
        "prior": settings.ranking_prior,
        "ties": _TIE_WORDS[rows.ties] if rows.tied else "none",
        "likelihood": [LIKELIHOODS[name] for name in dict.fromkeys(index.likelihoods)],
        "notes": [*rows.notes, *_notes(rows, index)],
        "level": settings.level,
        "phi": distribution(index.phi_n),
        **weight_summary(calibration, weight_p, beta=settings.beta),
        "flip": _ranking_flips(index, settings),
        "detail": _detail(rows, index, settings, truth, report) if len(rows.ranks) <= DETAILED else [],
        "equal_phi": _equal_phi(rows, index, settings),
        "agreed": [_shown_ranking(rows, index, columns, int(p)) for p in order[:count]],
        "contested": [_shown_ranking(rows, index, columns, int(p)) for p in order[::-1][:count]],
    }
    return Analysis(columns, summary)


_TIE_WORDS = {"half": "half a discordance each", "unordered": "an order not given; all orders summed"}


def _notes(rows: RankingRows, index: RankingsIndex) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    if index.center_exact_n is not None and not index.center_exact_n.all():
        notes.append("Beyond 20 items the centre is the Borda order improved by moves; perhaps not the best.")
    few = sum(way == "profile" and people < 30 for way, people in zip(index.intervals, index.rankings_n, strict=True))
    if few:
        notes.append(
            f"{few:,} prompts have fewer than 30 people and a profile-likelihood interval: where people disagree it "
            "covers less than it says."
        )
    sampled = [fit_sample_size(float(m), len(c)) for m, c in zip(index.rankings_n, index.centers, strict=True)]
    if len(rows.ranks) <= DETAILED and any(s < m for s, m in zip(sampled, index.rankings_n, strict=True)):
        notes.append(f"The test of fit looks at {max(sampled):,} people at most, drawn at random.")
    if rows.tied and index.distance == "spearman":
        notes.append("Spearman's rho has no likelihood of shared ranks: they count by halves.")
    return notes


def _weights_of(rows: RankingRows, place: int) -> NDArray[np.float64] | None:
    return None if rows.counts is None else rows.counts[place]


def _ranking_flips(index: RankingsIndex, settings: DispersionSettings) -> dict[str, Any]:
    flips = flip_probability(index.phi_n)
    found = bootstrap(
        lambda at: float(flips[at].mean()),
        range(len(flips)),
        rng=np.random.default_rng(settings.seed),
        resamples=settings.resamples,
        level=settings.level,
    )
    return {"rate": statistic(found, len(flips)), "scale_measured": True}


def _shown_ranking(rows: RankingRows, index: RankingsIndex, columns: dict[str, Any], place: int) -> dict[str, Any]:
    order = np.argsort(index.centers[place])
    names = ("dispersion", "dispersion_low", "dispersion_high", "dispersion_weight", "mean_distance")
    return {
        **{name: float(columns[name][place]) for name in names},
        "prompt_id": rows.prompt_ids[place],
        "prompt": rows.prompts[place],
        "people": int(index.rankings_n[place]),
        "responses": [rows.items[place][item] for item in order],
        "mean_ranks": [
            float(np.average(rows.ranks[place][:, item], weights=_weights_of(rows, place))) for item in order
        ],
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
            "people": int(index.rankings_n[place]),
            "items": int(ranks.shape[1]),
            settings.distance: _fit_facts(index, place),
            "order": [rows.items[place][item] for item in np.argsort(index.centers[place])],
            "fit_p": None,
        }
        if both:
            second = rankings_index(
                [ranks],
                other,
                level=settings.level,
                prior=settings.ranking_prior,
                ties=rows.ties,
                counts=None if rows.counts is None else [rows.counts[place]],
            )
            facts[other] = _fit_facts(second, 0)
        if settings.fit_draws and not rows.tied:
            facts["fit_p"] = goodness_of_fit(
                ranks,
                settings.distance,
                rng=rng,
                draws=settings.fit_draws,
                counts=None if rows.counts is None else rows.counts[place],
            )
            facts["fit_people"] = fit_sample_size(float(index.rankings_n[place]), ranks.shape[1])
        if truth is not None and len(truth) == ranks.shape[1]:
            facts["truth"] = {
                "center_distance": int(kendall_tau(index.centers[place], truth)),
                "largest_distance": len(truth) * (len(truth) - 1) // 2,
            }
            if not rows.tied:
                facts["truth"]["mean_distance"] = float(
                    np.average(
                        kendall_tau(ranks.astype(np.int64), truth),
                        weights=_weights_of(rows, place),
                    )
                )
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
    """What rankings say of each prompt.

    Args:
        rows: The rankings.
        settings: Distance and prior.

    Returns:
        The opinion. It calls no prompt diverging: rankings of several responses contradict each other somewhere on
        nearly every prompt.
    """
    index = rankings_index(
        rows.ranks, settings.distance, prior=settings.ranking_prior, ties=rows.ties, counts=rows.counts
    )
    return PromptOpinion(
        dict(zip(rows.prompt_ids, index.neg_log_phi_n.tolist(), strict=True)),
        dict(zip(rows.prompt_ids, index.rankings_n.astype(float).tolist(), strict=True)),
        {},
        "rankings",
    )
