"""What the analyses of all three sources share: their records, what the weights will do, rates with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.dispersion.calibration import Calibration, calibrate
from mallowspo.dispersion.diagnostics import effective_sample_size, statistic
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.shrinkage import (
    MIN_VARIATION,
    ShrinkFit,
    break_even_correlation,
    effective_pairs,
    effective_pairs_if_correlated,
    fit_shrink,
    shrunken_weights,
)
from mallowspo.errors import InputError, told_as
from mallowspo.stats.bootstrap import bootstrap

__all__ = [
    "Analysis",
    "PromptOpinion",
    "both_ends",
    "calibrated_people",
    "distribution",
    "drawing",
    "implied_phi",
    "mean_rate",
    "shrink_by_people",
    "weight_summary",
    "weights_hardly_differ",
    "worth",
    "worth_words",
]

Floats = NDArray[np.float64]

# Where the index's weights vary by more than this, the straight line that s stands for fits their few large values
# badly: simulated with log-normal weights in docs/dispersion/shrink.json.
TOO_WIDE = 0.9

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

SHOWN = 5
"""Prompts that are shown at either end of the index."""


@dataclass(frozen=True)
class Analysis:
    """What was found out about one source."""

    columns: dict[str, Any]  # one entry per row of the source (per prompt for rankings)
    summary: dict[str, Any]  # everything that a report says, as plain values


@dataclass(frozen=True)
class PromptOpinion:
    """What people said, by the name of a prompt."""

    neg_log_phi: dict[str, float]  # of the people who judged it, nats
    count: dict[str, float]  # votes or rankings
    # Whether people contradicted each other; without prompts on which nobody could (fewer than two opinions).
    diverging: dict[str, bool]
    source: str  # `votes` or `rankings`
    # Votes on each pair of a prompt's responses: the prompt, votes for the one and for the other.
    pairs: tuple[tuple[str, float, float], ...] = ()

    def by_row(self, prompt_ids: Sequence[str]) -> dict[str, list[float]]:
        """What `fit_map` reads: -log phi of each row, NaN where nobody was asked, and how much that counts."""
        return {
            "people_neg_log_phi_n": [self.neg_log_phi.get(name, math.nan) for name in prompt_ids],
            "people_votes_n": [self.count.get(name, 0.0) for name in prompt_ids],
        }


def drawing(settings: DispersionSettings, rng: np.random.Generator, rows: int = 0) -> dict[str, Any]:
    """How the bootstrap draws: seldom from many rows, whose intervals are narrow anyway, as it would take minutes."""
    draws = settings.resamples if rows <= 20_000 else min(settings.resamples, 200)
    return {"rng": rng, "resamples": draws, "level": settings.level}


def mean_rate(values: Floats, groups: Sequence[object], **drawing: Any) -> dict[str, Any]:
    """Mean of rates with its bootstrap interval over groups; NaN where there is no rate."""

    def mean(at: NDArray[np.intp]) -> float:
        return float(values[at].mean()) if len(at) else float("nan")

    return statistic(bootstrap(mean, groups, **drawing), len(values))


def both_ends(
    agreed: Sequence[int] | NDArray[np.intp],
    contested: Sequence[int] | NDArray[np.intp],
    shown: Callable[[int, bool], dict[str, Any]],
) -> dict[str, Any]:
    """The prompts at either end, from the most agreed and from the most contested one on."""
    count = min(SHOWN, max(1, len(agreed) // 2))
    return {
        "agreed": [shown(int(prompt), True) for prompt in agreed[:count]],
        "contested": [shown(int(prompt), False) for prompt in contested[:count]],
    }


def distribution(values: ArrayLike) -> dict[str, Any]:
    """Mean, standard deviation and quantiles of what is finite."""
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    if array.size == 0:
        return {"count": 0, "mean": None, "std": None, "quantiles": {}}
    return {
        "count": int(array.size),
        "mean": float(array.mean()),
        "std": float(array.std()),
        "quantiles": {f"{share:g}": float(np.quantile(array, share)) for share in QUANTILES},
    }


def implied_phi(weight: ArrayLike) -> NDArray[np.float64]:
    """Turn a weight into phi = exp(-w/2), so that training with the column `dispersion` gives back the weight w."""
    return np.asarray(np.exp(-np.asarray(weight, np.float64) / 2), np.float64)


def weights_hardly_differ(quantiles: ArrayLike) -> bool:
    """Whether nine prompts in ten get one weight to a tenth of it: then a run is all but one without weights."""
    array = np.asarray(quantiles, np.float64)
    return bool(array.size > 1 and array[-1] - array[0] <= 0.1 * (array[0] + array[-1]) / 2)


def weight_summary(calibration: Calibration, weight: ArrayLike, *, beta: float) -> dict[str, Any]:
    """What weights do to beta, at their quantiles, and to the size of the sample."""
    array = np.asarray(weight, np.float64)
    size = effective_sample_size(array)
    return {
        "calibration": calibration.to_dict(),
        "weight": distribution(array),
        "beta": beta,
        "effective_beta": [
            {"quantile": share, "weight": float(value), "beta": float(beta * value)}
            for share, value in zip(QUANTILES, np.quantile(array, QUANTILES), strict=True)
        ],
        "effective_sample_size": size,
        "effective_share": size / array.size,
        "rows": int(array.size),
    }


def shrink_by_people(
    weight_n: ArrayLike,
    prompt_ids: Sequence[str],
    people: PromptOpinion,
    *,
    mean: float | None = None,
    level: float = 0.95,
) -> ShrinkFit:
    """Fit the shrink factor of an index's weights, shape (N,), on the prompts of which people said something.

    `mean` is the weight about which they are to be shrunken, that of all of them if left out.
    """
    weights = np.asarray(weight_n, np.float64)
    weight = dict(zip(prompt_ids, weights.tolist(), strict=True))
    known = [pair for pair in people.pairs if pair[0] in weight]
    if not known:
        raise InputError(
            f"dispersion_shrink: none of the {len(people.neg_log_phi):,} prompts with {people.source} is among the "
            f"{len(weight):,} of the index; both must come from the same prompts, word for word"
        )
    names, first, second = zip(*known, strict=True)
    those = [weight[name] for name in names]
    if not any(those):
        raise InputError(
            f"dispersion_shrink: every prompt with {people.source} has weight 0, so no factor can be fitted; give a "
            "number, or another dispersion_map"
        )
    mean = float(weights.mean()) if mean is None else mean
    with told_as({"votes": people.source}):
        return fit_shrink(those, first, second, prompt_n=names, mean=mean, level=level)


def worth(weight_n: ArrayLike, raw_n: ArrayLike, fit: ShrinkFit | None) -> dict[str, Any]:
    """What the weights that are used are worth in pairs: a curve without votes, G with its interval with them."""
    weight, raw = np.asarray(weight_n, np.float64), np.asarray(raw_n, np.float64)
    variation = float(weight.std() / weight.mean())
    curve = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0]
    found: dict[str, Any] = {
        "variation": variation,
        "break_even": break_even_correlation(variation),
        "curve": [
            {"correlation": at, "gain": gain}
            for at, gain in zip(curve, effective_pairs_if_correlated(variation, curve).tolist(), strict=True)
        ],
        "people": None,
    }
    if fit is not None:
        ends = (fit.shrink.mean, fit.shrink.low, fit.shrink.high)
        # What the votes say of the truth, at the estimate and at both ends of s.
        gains = [effective_pairs(weight, shrunken_weights(raw, s)) for s in ends]
        found["people"] = {
            "shrink": dict(zip(("mean", "low", "high"), ends, strict=True)),
            "gain": {"mean": gains[0], "low": min(gains), "high": max(gains)},
            "gain_unshrunken": {"mean": fit.gain.mean, "low": fit.gain.low, "high": fit.gain.high},
            "gain_shrunken": fit.gain_shrunken,
            "index_variation": fit.variation,
            "prompts": fit.prompts,
            "pairs": fit.pairs,
            "votes": fit.votes,
        }
    return found


def worth_words(found: Mapping[str, Any]) -> str:
    """What `worth` found, in a sentence."""

    def share(gain: float) -> str:
        return f"{100 * abs(gain - 1):.0f}%"

    if found["variation"] < MIN_VARIATION:
        return "all weights are alike: as good as none"
    people = found["people"]
    if people is None:
        at = {row["correlation"]: row["gain"] for row in found["curve"]}
        return (
            f"weights that vary by c_w = {found['variation']:.2f} cost up to {share(at[0.0])} of the data if the "
            f"index knows nothing of people; they break even at rho c_lambda = {found['break_even']:.2f}, and at 0.5 "
            f"they are worth up to {share(at[0.5])} more; votes on some of the prompts tell which"
        )
    gain = people["gain"]
    asked = f"by {people['votes']:,.0f} votes on {people['prompts']:,} prompts, these weights"
    wide = "; of weights as wide as these G is told up to 0.3 too high" if people["index_variation"] > TOO_WIDE else ""
    interval = f"[{100 * (gain['low'] - 1):+.0f}%, {100 * (gain['high'] - 1):+.0f}%]"
    if gain["low"] > 1:
        return f"{asked} are worth up to {share(gain['mean'])} more data {interval}{wide}"
    if gain["high"] < 1:
        advice = "shrink them (dispersion_shrink) or leave them out"
        return f"{asked} cost {share(gain['mean'])} of the data {interval}: {advice}"
    return f"{asked} make no significant difference to what the data are worth {interval}{wide}"


def calibrated_people(raw: NDArray[np.float64], source: str, settings: DispersionSettings) -> Calibration:
    """Fit phi* to people's -2 log phi, shape (N,); `source` is `votes` or `rankings`."""
    try:
        return calibrate(
            raw,
            source=source,
            scale=settings.scale,
            clip=settings.clip,
            per=settings.per,
            shrink=settings.given_shrink,
            power=settings.power,
        )
    except InputError as error:
        if raw.max(initial=0.0) > 0:
            raise
        raise InputError(f"{source}: people are split evenly on every prompt, so there is nothing to weigh") from error
