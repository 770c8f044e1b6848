"""What the weights will do: figures that the summaries of all three sources share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.dispersion.calibration import Calibration, calibrate
from mallowspo.dispersion.diagnostics import effective_sample_size
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.errors import InputError

__all__ = ["QUANTILES", "calibrated_people", "distribution", "implied_phi", "weight_summary", "weights_hardly_differ"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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
