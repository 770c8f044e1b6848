"""The dispersion of a data set as its reference sees it: index per prompt, weights, and what the index follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.dispersion.analysis import (
    Analysis,
    PromptOpinion,
    both_ends,
    distribution,
    drawing,
    implied_phi,
    mean_rate,
    shrink_by_people,
    weight_summary,
    worth,
)
from mallowspo.dispersion.calibration import ENTROPY_FLOOR, Calibration, calibrate
from mallowspo.dispersion.diagnostics import correlation, flip_probability, pooled_interval
from mallowspo.dispersion.entropy import ReferenceStatistics, mean_by_prompt
from mallowspo.dispersion.estimators import ESTIMATORS, prompt_index
from mallowspo.dispersion.maps import IndexMap, fit_map
from mallowspo.dispersion.panel import MAX_ALTERNATIVES
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.shrinkage import ShrinkFit
from mallowspo.errors import InputError

__all__ = ["RowTexts", "analyse_reference"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowTexts:
    """The words of a data set's rows."""

    prompts: Sequence[str]
    responses: Sequence[tuple[str, ...]]  # of a row, the chosen one first
    # Of the chosen response less that of the rejected one, where the data has scores, shape (N,).
    reward_margin: Floats | None = None


def analyse_reference(
    statistics: ReferenceStatistics,
    prompt_ids: Sequence[str],
    *,
    settings: DispersionSettings,
    row_index: Sequence[int] | None = None,
    texts: RowTexts | None = None,
    people: PromptOpinion | None = None,
) -> Analysis:
    """Index, weight and their company, from one pass of the reference."""
    if len(prompt_ids) == 0:
        raise InputError("reference: there are no rows to read an index from")
    rng = np.random.default_rng(settings.seed)
    index_n = ESTIMATORS[settings.estimator](statistics)
    if settings.per == "prompt":
        index_n = prompt_index(settings.estimator, index_n, prompt_ids)
    fitted = _fitted_map(index_n, prompt_ids, statistics, settings, people)
    raw_n, floored = fitted.raw(index_n)
    fit = None
    if people is not None and people.pairs:
        fit = _fit(raw_n, prompt_ids, people, settings)
    elif settings.shrink == "votes":
        raise InputError("dispersion_shrink: 'votes' fits the factor on people's word; add --votes or --rankings")
    calibration = calibrate(
        raw_n,
        source="entropy",
        scale=settings.scale,
        clip=settings.clip,
        per=settings.per,
        estimator=settings.estimator,
        map=settings.map,
        shrink=fit.shrink.mean if fit is not None and settings.shrink == "votes" else settings.given_shrink,
        power=settings.power,
        floored=floored,
    )
    weight_n = calibration.weight(raw_n)
    low_n, high_n, interval = _interval(index_n, statistics, prompt_ids, settings)
    columns: dict[str, Any] = {
        "row_index": np.arange(len(index_n)) if row_index is None else np.asarray(row_index, np.int64),
        "prompt_id": list(prompt_ids),
        "index": index_n,
        "index_low": low_n,
        "index_high": high_n,
        "dispersion": implied_phi(weight_n),
        "dispersion_weight": weight_n,
        "response_length": np.asarray(statistics.length_nk, np.float64).mean(axis=1),
        "reference_margin": _margin(statistics),
    }
    summary = {
        "source": "reference",
        "estimator": settings.estimator,
        "map": {
            "name": settings.map,
            "alternatives": fitted.alternatives,
            "spread": list(settings.spread),
            **_other_alternatives(index_n, fitted, settings),
        },
        "per": settings.per,
        "rows": len(index_n),
        "prompts": len(set(prompt_ids)),
        "vocab_size": statistics.vocab_size,
        "index": distribution(index_n),
        "interval": interval,
        "phi": distribution(columns["dispersion"]),
        **weight_summary(calibration, weight_n, beta=settings.beta),
        "worth": worth(weight_n, raw_n, fit),
        "flip": _flip(raw_n, calibration, prompt_ids, settings, rng),
        "correlations": _correlations(index_n, statistics, prompt_ids, texts, settings, rng),
        **_extremes(columns, texts),
    }
    return Analysis(columns, summary)


def _fit(
    raw_n: Floats, prompt_ids: Sequence[str], people: PromptOpinion, settings: DispersionSettings
) -> ShrinkFit | None:
    """What people's word says of the index; None where they say too little and nobody asked for it."""
    try:
        return shrink_by_people(raw_n, prompt_ids, people, level=settings.level)
    except InputError:
        if settings.shrink == "votes":
            raise
        return None


def _other_alternatives(index_n: Floats, fitted: IndexMap, settings: DispersionSettings) -> dict[str, Any]:
    """How far the weights depend on N, where the map reads it: their spread at half and at twice as many."""
    if fitted.name != "mallows" or fitted.alternatives is None:
        return {}
    rows = []
    for number in (
        max(2, fitted.alternatives // 2),
        fitted.alternatives,
        min(2 * fitted.alternatives, MAX_ALTERNATIVES),
    ):
        raw_n, _ = replace(fitted, alternatives=number).raw(index_n)
        mean = float(raw_n.mean())
        low, high = (np.quantile(raw_n, [0.05, 0.95]) / mean).tolist() if mean > 0 else (1.0, 1.0)
        variation = float(raw_n.std()) / mean if mean > 0 else 0.0
        rows.append({"alternatives": number, "variation": variation, "weight_low": low, "weight_high": high})
    return {"automatic": settings.alternatives == "auto", "other_alternatives": rows}


def _fitted_map(
    index_n: Floats,
    prompt_ids: Sequence[str],
    statistics: ReferenceStatistics,
    settings: DispersionSettings,
    people: PromptOpinion | None,
) -> IndexMap:
    opinion: dict[str, Any] = {}
    if settings.map == "isotonic":
        if people is None:
            raise InputError("dispersion_map: 'isotonic' needs people's votes or rankings; add --votes or --rankings")
        opinion = people.by_row(prompt_ids)
    return fit_map(
        settings.map,
        index_n,
        estimator=settings.estimator,
        vocab_size=statistics.vocab_size,
        alternatives=settings.alternatives,
        spread=settings.spread,
        **opinion,
    )


def _interval(
    index_n: Floats, statistics: ReferenceStatistics, prompt_ids: Sequence[str], settings: DispersionSettings
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Interval of each row's index on the logarithmic scale, from how much responses to one prompt differ."""
    nothing = np.full(len(index_n), np.nan)
    facts: dict[str, Any] = {"level": settings.level, "known": False, "reliability": None, "median_factor": None}
    names, prompt_n = np.unique(np.asarray(prompt_ids, dtype=str), return_inverse=True)
    if settings.per == "pair":
        return nothing, nothing, {**facts, "why": "an index per pair has one value a row, and so no spread of its own"}
    if ESTIMATORS[settings.estimator].no_interval:
        return nothing, nothing, {**facts, "why": ESTIMATORS[settings.estimator].no_interval}
    values, owner = _values_per_response(statistics, prompt_n, settings.estimator)
    pooled = pooled_interval(np.log(np.maximum(values, ENTROPY_FLOOR)), owner, level=settings.level)
    if not np.isfinite(pooled.half_width_g).any():
        why = "every prompt has a single value, so nothing tells how much another response would change it"
        return nothing, nothing, {**facts, "why": why}
    half_n = pooled.half_width_g[prompt_n]
    facts |= {
        "known": True,
        "reliability": pooled.reliability,
        "degrees": pooled.degrees,
        "median_factor": float(np.exp(np.median(pooled.half_width_g))),
        "why": "",
    }
    return index_n * np.exp(-half_n), index_n * np.exp(half_n), facts


def _values_per_response(
    statistics: ReferenceStatistics, prompt_n: NDArray[np.intp], estimator: str
) -> tuple[Floats, NDArray[np.intp]]:
    """The index of single responses (of pairs, where it compares responses) and the prompt of each.

    A response that stands in several pairs of its prompt counts once: it is told by its numbers.
    """
    single = ESTIMATORS[estimator].single
    if single is None:
        return ESTIMATORS[estimator](statistics), prompt_n
    share_nk = single(statistics)
    owner = np.repeat(prompt_n, share_nk.shape[1])
    told = np.column_stack([owner, statistics.logp_nk.ravel(), statistics.length_nk.ravel(), share_nk.ravel()])
    told = np.unique(told[np.isfinite(told).all(axis=1) & (told[:, 2] > 0)], axis=0)
    return np.asarray(told[:, 3], np.float64), told[:, 0].astype(np.intp)


def _flip(
    raw_n: Floats,
    calibration: Calibration,
    prompt_ids: Sequence[str],
    settings: DispersionSettings,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """How often one person's label would go against the consensus, if the index were right."""
    measured = settings.map in ("mallows", "isotonic")
    phi_n = np.exp(-raw_n / 2) if measured else implied_phi(calibration.weight(raw_n))
    flips = flip_probability(phi_n)
    return {
        "rate": mean_rate(flips, list(prompt_ids), **drawing(settings, rng, len(flips))),
        "scale_measured": measured,
    }


def _correlations(
    index_n: Floats,
    statistics: ReferenceStatistics,
    prompt_ids: Sequence[str],
    texts: RowTexts | None,
    settings: DispersionSettings,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Rank correlation of the index with what it should not follow (length) and with what it may (margins)."""
    margin = _margin(statistics)
    beside: dict[str, Floats] = {
        "response length (tokens)": np.asarray(statistics.length_nk, np.float64).mean(axis=1),
        "reference margin, chosen over rejected (nats)": margin,
        "size of the reference margin (nats)": np.abs(margin),
    }
    if texts is not None and texts.reward_margin is not None:
        beside["reward margin in the data"] = texts.reward_margin
    names, first = np.unique(np.asarray(prompt_ids, dtype=str), return_index=True)
    per_prompt = mean_by_prompt(index_n, prompt_ids)[first]
    found = []
    for label, values in beside.items():
        mean = mean_by_prompt(values, prompt_ids)[first]
        found.append({"with": label, **correlation(per_prompt, mean, **drawing(settings, rng, len(first)))})
    return found


def _margin(statistics: ReferenceStatistics) -> Floats:
    """How much likelier the reference holds the first response of a row than the others, in nats."""
    logp = np.asarray(statistics.logp_nk, np.float64)
    return np.asarray(logp[:, 0] - logp[:, 1:].mean(axis=1), np.float64)


def _extremes(columns: dict[str, Any], texts: RowTexts | None) -> dict[str, Any]:
    """The prompts that the index calls most agreed and most contested, with some of their responses."""
    names = np.asarray(columns["prompt_id"], dtype=str)
    _, first = np.unique(names, return_index=True)
    order = first[np.argsort(columns["index"][first], kind="stable")]

    def shown(row: int, agreed: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {
            name: float(columns[name][row])
            for name in ("index", "index_low", "index_high", "dispersion", "dispersion_weight")
        }
        facts |= {"prompt_id": str(names[row]), "row_index": int(columns["row_index"][row])}
        if texts is not None:
            mine = np.flatnonzero(names == names[row])
            said = list(dict.fromkeys(text for other in mine for text in texts.responses[int(other)]))
            facts |= {"prompt": texts.prompts[row], "responses": said[:4], "more_responses": max(0, len(said) - 4)}
        return facts

    return both_ends(order, order[::-1], shown)
