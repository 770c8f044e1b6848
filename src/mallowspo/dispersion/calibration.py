"""From an index per prompt to the weight w(x) in the loss, with mean 1 on the training set.

    raw(x)    = -log u(x)          (index from the reference's entropy)
              = -2 log phi(x)      (phi from people, or given)
    weight(x) = clip(scale * spread(raw(x)), low, high)

`spread` leaves raw weights as they are, draws them towards their mean (`shrink`), takes them to a `power` in [0, 1],
or both in this order. `scale` is the paper's phi*. All are fitted once, on the training rows; evaluation sets and
resumed runs reuse them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from mallowspo.errors import InputError

__all__ = [
    "ENTROPY_FLOOR",
    "Calibration",
    "calibrate",
    "check_clip",
    "check_power",
    "check_scale",
    "check_shrink",
    "raw_from_index",
    "raw_from_phi",
]

Floats = NDArray[np.float64]

# A model that is certain of every token has entropy 0, whose logarithm is infinite. exp(-15) is 3e-7 of the largest
# entropy: beneath it float32 probabilities carry no information.
ENTROPY_FLOOR = float(np.exp(-15.0))


def raw_from_index(index_n: ArrayLike, *, floor: float = ENTROPY_FLOOR) -> tuple[Floats, int]:
    """The map `neglog`: -log u, with u floored.

    Args:
        index_n: u in [0, 1], shape (N,).
        floor: Smallest u that is told apart from 0.

    Returns:
        raw weights >= 0, shape (N,), and how many rows the floor raised.

    Raises:
        InputError: A value that is not in [0, 1].

    Source:
        Chen et al. 2025 (arXiv 2405.14953): w = -phi* log H.

    Example:
        >>> raw, floored = raw_from_index([0.5, 0.0])
        >>> raw.round(4).tolist(), floored
        ([0.6931, 15.0], 1)
    """
    index = np.asarray(index_n, np.float64)
    bad = ~((index >= 0) & (index <= 1))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"dispersion index: row {row:,} has {index[row]}, expected a number in [0, 1] for the map 'neglog'"
        )
    # + 0.0 turns the -0.0 of an index of 1 into 0.0.
    return -np.log(np.maximum(index, floor)) + 0.0, int((index < floor).sum())


def raw_from_phi(phi_n: ArrayLike) -> Floats:
    """-2 log phi: MallowsPO-theta's weight for a dispersion phi that is known.

    Args:
        phi_n: phi in (0, 1], shape (N,).

    Returns:
        raw weights >= 0, shape (N,).

    Raises:
        InputError: A value that is not in (0, 1].

    Source:
        Chen et al. 2025 (arXiv 2405.14953), MallowsPO-theta.

    Example:
        >>> raw_from_phi([1.0, 0.5]).round(4).tolist()
        [0.0, 1.3863]
    """
    phi = np.asarray(phi_n, np.float64)
    bad = ~((phi > 0) & (phi <= 1))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"phi: row {row:,} has {phi[row]}, expected a number in (0, 1]")
    return -2 * np.log(phi) + 0.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What turns a raw index into a weight; saved with the model, restored on resume.

    Attributes:
        source: `entropy`, `votes`, `rankings` or `column`.
        scale: phi*, > 0.
        automatic: Whether `scale` was fitted so that the mean training weight is 1.
        clip: Lowest and highest weight.
        per: `prompt` or `pair`.
        shrink: s: raw weights become max(0, mean + s (raw - mean)), mean that of training; None leaves them.
        power: rho in [0, 1]: what they become is taken to this power; 0 gives every row the same weight.
        raw_mean: Mean raw training weight, which `shrink` refers to.
        estimator: Which index (source `entropy` only).
        map: How the index became a raw weight (source `entropy` only).
        index_map: That map as it was fitted, `IndexMap.to_dict()` (source `entropy` only); it serves evaluation sets
            and resumed runs.
        rows: Training rows that it was fitted on.
        floored: Rows whose index the floor raised.
        clipped: Rows whose weight the clip changed.
        weight_mean: Mean training weight.
        weight_std: Standard deviation of the training weights.
        weight_quantiles: 5, 10, 25, 50, 75, 90 and 95 per cent points of the training weights.
        worth: What these weights are worth in pairs (`mallowspo.dispersion.analysis.worth`).
    """

    source: str
    scale: float
    automatic: bool
    clip: tuple[float, float]
    per: str
    shrink: float | None = None
    power: float = 1.0
    raw_mean: float = 1.0
    estimator: str | None = None
    map: str | None = None
    index_map: Mapping[str, Any] | None = None
    rows: int = 0
    floored: int = 0
    clipped: int = 0
    weight_mean: float = float("nan")
    weight_std: float = float("nan")
    weight_quantiles: tuple[float, ...] = ()
    worth: Mapping[str, Any] | None = None

    def weight(self, raw: Any) -> Any:
        """Weights of rows whose raw index is known.

        Args:
            raw: Raw weights >= 0, any shape: numbers, an array or a tensor.

        Returns:
            Weights in [low, high], same shape: a tensor for a tensor, else an array.

        Example:
            >>> c = Calibration(source="column", scale=2.0, automatic=False, clip=(0.0, 3.0), per="pair")
            >>> c.weight([0.5, 9.0]).tolist()
            [1.0, 3.0]
        """
        return self._scaled(raw).clip(*self.clip)

    def is_clipped(self, raw: Any) -> Any:
        """Which rows the clip changes; arguments as in `weight`."""
        scaled = self._scaled(raw)
        return (scaled < self.clip[0]) | (scaled > self.clip[1])

    def _scaled(self, raw: Any) -> Any:
        values = raw if hasattr(raw, "clip") else np.asarray(raw, np.float64)
        return self.scale * _spread(values, self.shrink, self.power, self.raw_mean)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` wrote.

        Raises:
            InputError: Fields that are missing or unknown, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        try:
            picked = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
            read = cls(**picked)  # type: ignore[arg-type]
        except (TypeError, AttributeError) as error:
            raise InputError(f"calibration: cannot be read ({error}); was it written by another version?") from error
        for name, fine, expected in (
            ("scale", _is_number(read.scale) and read.scale > 0, "a finite number > 0"),
            (
                "clip",
                isinstance(read.clip, tuple)
                and len(read.clip) == 2
                and all(map(_is_number, read.clip))
                and 0 <= read.clip[0] < read.clip[1],
                "0 <= low < high",
            ),
            (
                "shrink",
                read.shrink is None or (_is_number(read.shrink) and read.shrink >= 0),
                "a number >= 0, or null",
            ),
            ("power", _is_number(read.power) and 0 <= read.power <= 1, "a number in [0, 1]"),
            ("raw_mean", _is_number(read.raw_mean) and read.raw_mean >= 0, "a finite number >= 0"),
            ("per", read.per in ("prompt", "pair"), "prompt or pair"),
            ("source", isinstance(read.source, str), "a text"),
            ("automatic", isinstance(read.automatic, bool), "true or false"),
            *((name, _is_count(getattr(read, name)), "a number of rows") for name in ("rows", "floored", "clipped")),
        ):
            if not fine:
                raise InputError(
                    f"calibration: got {getattr(read, name)!r} as {name}, expected {expected}; the file was changed "
                    "or is damaged, take it from the training again"
                )
        return read


def _spread(raw: Any, shrink: float | None, power: float, raw_mean: float) -> Any:
    """Raw weights, of an array or of a tensor, drawn towards their mean and taken to a power."""
    if shrink is not None:
        raw = raw_mean * (1 + shrink * (raw / raw_mean - 1)).clip(0)
    return raw if power == 1 else raw**power


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def calibrate(
    raw_n: ArrayLike,
    *,
    source: str,
    scale: float | str = "auto",
    clip: tuple[float, float] = (0.0, 10.0),
    per: str = "prompt",
    shrink: float | None = None,
    power: float = 1.0,
    estimator: str | None = None,
    map: str | None = None,
    index_map: Mapping[str, Any] | None = None,
    floored: int = 0,
) -> Calibration:
    """Fit phi* on the training rows.

    Args:
        raw_n: Raw weights >= 0 of the training rows, shape (N,).
        source: Where they come from; recorded.
        scale: phi* > 0, or `auto`: the mean weight, clip included, becomes 1, so that beta keeps DPO's meaning.
        clip: Lowest and highest weight, 0 <= low < high.
        per: `prompt` or `pair`; recorded.
        shrink: s >= 0, how far the raw weights are believed: 0 makes them all alike, 1 leaves their spread, above 1
            stretches it; None leaves them.
        power: rho in [0, 1], after `shrink`.
        estimator: Recorded.
        map: Recorded.
        index_map: Recorded.
        floored: Rows whose index was floored; recorded.

    Returns:
        The calibration.

    Raises:
        InputError: No rows, raw weights that are negative or not finite, a scale or clip out of range, or an index
            that cannot reach a mean weight of 1 (all raw weights 0, or the clip excludes 1).

    Source:
        Chen et al. 2025 (arXiv 2405.14953): phi* is 0.29 for Llama-3-8B-Instruct on UltraFeedback.

    Example:
        >>> c = calibrate([0.5, 1.0, 1.5], source="column")
        >>> c.scale, c.weight_mean
        (1.0, 1.0)
        >>> calibrate([0.5, 1.0, 3.0], source="column", clip=(0.0, 1.5)).weight([0.5, 1.0, 3.0]).round(4).tolist()
        [0.5, 1.0, 1.5]
    """
    raw = np.asarray(raw_n, np.float64)
    if raw.size == 0:
        raise InputError("dispersion: there are no training rows to calibrate on")
    if not np.isfinite(raw).all() or (raw < 0).any():
        row = int(np.argmax(~np.isfinite(raw) | (raw < 0)))
        raise InputError(f"dispersion: row {row:,} has a raw weight of {raw[row]}, expected a finite number >= 0")
    low, high = check_clip(clip)
    given = check_scale(scale)
    check_power(power)
    if shrink is not None:
        check_shrink(shrink)
    raw_mean = float(raw.mean())
    if shrink is not None and raw_mean <= 0:
        raise _no_agreement()
    phi_star = given if isinstance(given, float) else _fit_scale(_spread(raw, shrink, power, raw_mean), low, high)
    fitted = Calibration(
        source=source,
        scale=phi_star,
        automatic=given == "auto",
        clip=(low, high),
        per=per,
        shrink=None if shrink is None else float(shrink),
        power=float(power),
        raw_mean=raw_mean,
        estimator=estimator,
        map=map,
        index_map=index_map,
        rows=int(raw.size),
        floored=floored,
    )
    weight = fitted.weight(raw)
    if not weight.any():
        raise InputError(
            "dispersion: every training row has weight 0, so nothing would be learnt; look at the weight column, at "
            "dispersion_scale and at dispersion_clip"
        )
    return replace(
        fitted,
        clipped=int(fitted.is_clipped(raw).sum()),
        weight_mean=float(weight.mean()),
        weight_std=float(weight.std()),
        weight_quantiles=tuple(float(q) for q in np.quantile(weight, [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])),
    )


def check_clip(clip: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest weight, which must be 0 <= low < high."""
    if len(clip) != 2 or not 0 <= clip[0] < clip[1] < np.inf:
        raise InputError(f"dispersion_clip: got {list(clip)}, expected two numbers 0 <= low < high")
    return float(clip[0]), float(clip[1])


def check_power(power: float) -> float:
    """The power rho, which must be in [0, 1]."""
    if not 0 <= power <= 1:
        raise InputError(
            f"dispersion_power: got {power}, expected a number in [0, 1]; 1 is the full weight, 0 is none"
        )
    return float(power)


def check_shrink(shrink: float) -> float:
    """How far raw weights are believed, s, which must be finite and >= 0."""
    if not 0 <= shrink < np.inf:
        raise InputError(f"dispersion_shrink: got {shrink}, expected 'none', 'votes' or a finite number >= 0")
    return float(shrink)


def _no_agreement() -> InputError:
    return InputError(
        "dispersion: every row has raw weight 0 (the index says that people differ as much as they can on every "
        "prompt), so no scale gives a mean weight of 1; check the reference model, or set dispersion: none"
    )


def check_scale(scale: float | str) -> float | str:
    """phi*, which must be `auto` or a number > 0, also one that is written as text."""
    if scale == "auto":
        return scale
    try:
        value = float(scale)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 < value < float("inf"):
        raise InputError(f"dispersion_scale: got {scale!r}, expected 'auto' or a finite number > 0")
    return value


def _fit_scale(raw: Floats, low: float, high: float) -> float:
    """The scale at which the clipped weights have mean 1; the mean rises with the scale."""
    mean = float(raw.mean())
    if mean <= 0:
        raise _no_agreement()
    scale = 1 / mean
    if (scale * raw).clip(low, high).mean() == (scale * raw).mean():
        return scale

    def excess(log_scale: float) -> float:
        return float((np.exp(log_scale) * raw).clip(low, high).mean()) - 1

    lowest, highest = np.log(scale) - 50, np.log(scale) + 50
    if excess(lowest) >= 0 or excess(highest) <= 0:
        raise InputError(
            f"dispersion_clip: no scale gives a mean weight of 1 with weights held in [{low:g}, {high:g}]; widen the "
            "clip, or set dispersion_scale to a number"
        )
    return float(np.exp(brentq(excess, lowest, highest, xtol=1e-14)))
