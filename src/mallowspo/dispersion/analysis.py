"""What the analyses of all three sources share: their records, what the weights will do, rates with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.dispersion.calibration import Calibration, calibrate
from mallowspo.dispersion.diagnostics import effective_sample_size, statistic
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.errors import InputError
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
    "weight_summary",
    "weights_hardly_differ",
]

Floats = NDArray[np.float64]

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


def calibrated_people(raw: NDArray[np.float64], source: str, settings: DispersionSettings) -> Calibration:
    """Fit phi* to people's -2 log phi, shape (N,); `source` is `votes` or `rankings`."""
    try:
        return calibrate(raw, source=source, scale=settings.scale, clip=settings.clip, per=settings.per)
    except InputError as error:
        if raw.max(initial=0.0) > 0:
            raise
        raise InputError(f"{source}: people are split evenly on every prompt, so there is nothing to weigh") from error
