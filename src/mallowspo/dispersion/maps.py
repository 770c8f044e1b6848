"""How an index u(x) becomes a raw weight -2 log phi(x): four maps, each fitted once, on the training rows.

`neglog` is the paper's. It keeps the order of the prompts but compresses their spread: an entropy ratio between 0.4
and 0.8 gives weights within a factor of four, however far apart people really are. The others restore the spread from
outside knowledge: how many answers there are to choose among (`mallows`), what spread to expect (`quantile`), or what
people said on some of the prompts (`isotonic`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from mallowspo.dispersion.calibration import ENTROPY_FLOOR, raw_from_index
from mallowspo.dispersion.estimators import ESTIMATORS
from mallowspo.dispersion.panel import MAX_ALTERNATIVES, check_alternatives, neg_log_phi_from_choice_entropy
from mallowspo.errors import InputError, not_one_of
from mallowspo.maths import MAX_NEG_LOG_PHI

__all__ = ["DEFAULT_SPREAD", "MAPS", "IndexMap", "check_map", "check_spread", "fit_map"]

Floats = NDArray[np.float64]

MAPS = ("neglog", "mallows", "quantile", "isotonic")
"""How an index becomes a raw weight; see `IndexMap`."""

DEFAULT_SPREAD = (0.05, 2.0)
"""-log phi of the most contested and of the most agreed prompt under the map `quantile`: phi from .95 to .14."""

_MARGIN_FLOOR = math.exp(-700.0)
_MAX_KNOTS = 1_001


def check_map(name: str, estimator: str) -> None:
    """Refuse a map that is unknown or has no meaning for an estimator, before anything is computed.

    Args:
        name: The map.
        estimator: What it is to be applied to.

    Raises:
        InputError: See above.

    Example:
        >>> check_map("quantile", "answer_entropy")
    """
    if name not in MAPS:
        raise not_one_of("dispersion_map", name, MAPS)
    facts = ESTIMATORS.get(estimator)
    if facts is None:
        return
    if name == "neglog" and not facts.bounded:
        raise InputError(
            f"dispersion_map: 'neglog' needs an index in [0, 1], and {estimator!r} exceeds 1; choose dispersion_map: "
            "quantile, mallows or isotonic, or dispersion_estimator: mean_entropy"
        )
    if name == "mallows" and facts.geometric:
        raise InputError(
            f"dispersion_map: 'mallows' inverts an entropy, and {estimator!r} is none; its 'neglog' is in nats of "
            "-log phi already: choose dispersion_map: neglog, quantile or isotonic"
        )


def check_spread(spread: Sequence[float], name: str = "spread") -> None:
    """Raise InputError, by the option's name, for what is no spread of -log phi."""
    if len(spread) != 2 or not 0 <= spread[0] < spread[1] < math.inf:
        raise InputError(f"{name}: got {list(spread)}, expected two values of -log phi, 0 <= low < high")


@dataclass(frozen=True, kw_only=True)
class IndexMap:
    """A fitted map; the same one serves training rows, evaluation rows and resumed runs.

    Attributes:
        name: One of `MAPS`.
        floor: `neglog`: the smallest index that is told apart from 0.
        alternatives: `mallows`: N.
        spread: `quantile`: -log phi of the most contested and of the most agreed prompt.
        unit: `mallows`: nats in one unit of the index, log |V|.
        index_knots: `quantile`, `isotonic`: increasing values of the index.
        raw_knots: Their raw weights, which never rise; between knots the map is linear, outside constant.
    """

    name: str
    floor: float = ENTROPY_FLOOR
    alternatives: int | None = None
    spread: tuple[float, float] | None = None
    unit: float = 1.0
    index_knots: tuple[float, ...] = ()
    raw_knots: tuple[float, ...] = ()

    def raw(self, index_n: ArrayLike) -> tuple[Floats, int]:
        """Raw weights of an index.

        Args:
            index_n: u, shape (N,).

        Returns:
            Raw weights >= 0, shape (N,), and how many rows stood at the end of the map's range (floored).

        Raises:
            InputError: A value outside the map's range.

        Example:
            >>> IndexMap(name="quantile", index_knots=(0.2, 0.4), raw_knots=(3.0, 1.0)).raw([0.1, 0.3])[0].tolist()
            [3.0, 2.0]
        """
        index = np.asarray(index_n, np.float64)
        if self.name == "neglog":
            return raw_from_index(index, floor=self.floor)
        _check_index(index)
        if self.name == "mallows":
            assert self.alternatives is not None
            neg_log_phi = neg_log_phi_from_choice_entropy(index * self.unit, alternatives=self.alternatives)
            return 2 * neg_log_phi, int((neg_log_phi >= MAX_NEG_LOG_PHI).sum())
        return np.interp(index, self.index_knots, self.raw_knots), 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IndexMap:
        """Read what `to_dict` wrote.

        Raises:
            InputError: Fields that are missing or unknown.
        """
        try:
            plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(**plain)
        except TypeError as error:
            raise InputError(f"index map: cannot be read ({error}); was it written by another version?") from error


def fit_map(
    name: str,
    index_n: ArrayLike,
    *,
    estimator: str = "mean_entropy",
    vocab_size: int | None = None,
    alternatives: int | str | None = None,
    spread: tuple[float, float] = DEFAULT_SPREAD,
    people_neg_log_phi_n: ArrayLike | None = None,
    people_votes_n: ArrayLike | None = None,
) -> IndexMap:
    """Fit a map on the training rows.

    Args:
        name: One of `MAPS`.
        index_n: u of the training rows, shape (N,); larger = more dispersed.
        estimator: Which index it is.
        vocab_size: `mallows`: |V|, in whose logarithm the index is measured.
        alternatives: `mallows`: among how many answers people choose, >= 2; it must be about right. `auto` takes
            `alternatives_of_entropy`.
        spread: `quantile`: -log phi of the most contested and of the most agreed prompt, 0 <= low < high. With
            phi* fitted, only their ratio matters.
        people_neg_log_phi_n: `isotonic`: -log phi from votes or rankings, shape (N,); NaN where nobody was asked.
        people_votes_n: `isotonic`: how much each of them counts, such as the number of votes; equal where None.

    Returns:
        The map.

    Raises:
        InputError: An unknown map, one without meaning for the estimator, or what it needs is missing.

    Source:
        `mallows` and `isotonic`: our choice; isotonic regression as in Barlow et al. 1972.

    Example:
        >>> fitted = fit_map("quantile", [0.2, 0.4, 0.6], spread=(0.0, 1.5))  # at the middles of three thirds
        >>> fitted.raw([0.2, 0.4, 0.6])[0].round(4).tolist()
        [2.5, 1.5, 0.5]
    """
    check_map(name, estimator)
    index = np.asarray(index_n, np.float64)
    if name == "neglog":
        geometric = estimator in ESTIMATORS and ESTIMATORS[estimator].geometric
        return IndexMap(name=name, floor=_MARGIN_FLOOR if geometric else ENTROPY_FLOOR)
    _check_index(index)
    if name == "mallows":
        if alternatives is None or vocab_size is None:
            raise InputError(
                "dispersion_map: 'mallows' needs to know among how many answers people choose; give alternatives (and "
                "vocab_size in Python)"
            )
        unit = math.log(vocab_size)
        number = alternatives_of_entropy(index * unit) if alternatives == "auto" else int(alternatives)
        check_alternatives(number)
        return IndexMap(name=name, alternatives=number, unit=unit)
    if name == "quantile":
        return _quantile_map(index, spread)
    return _isotonic_map(index, people_neg_log_phi_n, people_votes_n)


def alternatives_of_entropy(entropy_n: ArrayLike) -> int:
    """Among how many answers the reference chooses on its most open prompts: the map's N where nobody knows it.

    A choice among N answers has an entropy of at most log N. The fewest answers that reach the 95 per cent point of
    the entropies are taken: the few prompts above it are called contested to the full.

    Args:
        entropy_n: Entropy of the choice in nats, such as at the first token in which two responses differ, shape (N,).

    Returns:
        From 2 to 10,000.

    Source:
        ours.

    Example:
        >>> alternatives_of_entropy(np.log([2.0, 3.0, 5.0]))
        5
    """
    top = float(np.quantile(np.asarray(entropy_n, np.float64), 0.95))
    return int(min(max(math.ceil(math.exp(min(top, 20.0)) - 1e-9), 2), MAX_ALTERNATIVES))


def _check_index(index: Floats) -> None:
    if index.ndim != 1 or index.size == 0:
        raise InputError(f"dispersion index: got shape {index.shape}, expected (rows,) with at least one row")
    bad = ~np.isfinite(index) | (index < 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"dispersion index: row {row:,} has {index[row]}, expected a finite number >= 0")


def _quantile_map(index: Floats, spread: tuple[float, float]) -> IndexMap:
    check_spread(spread)
    low, high = spread
    knots, counts = np.unique(index, return_counts=True)
    # The middle of the rows that share a value: no row stands at 0 or 1, and ties stand together.
    rank = (np.cumsum(counts) - counts / 2) / index.size
    if len(knots) > _MAX_KNOTS:
        at = np.unique(np.linspace(0, len(knots) - 1, _MAX_KNOTS).round().astype(int))
        knots, rank = knots[at], rank[at]
    raw = 2 * (high - (high - low) * rank)
    return IndexMap(
        name="quantile",
        spread=(float(low), float(high)),
        index_knots=tuple(knots.tolist()),
        raw_knots=tuple(raw.tolist()),
    )


def _isotonic_map(index: Floats, people: ArrayLike | None, votes: ArrayLike | None) -> IndexMap:
    if people is None:
        raise InputError("dispersion_map: 'isotonic' needs people's votes or rankings on some of the prompts")
    target = np.asarray(people, np.float64)
    weight = np.ones_like(target) if votes is None else np.asarray(votes, np.float64)
    if target.shape != index.shape or weight.shape != index.shape:
        raise InputError(
            f"people_neg_log_phi_n: got shapes {target.shape} and {weight.shape} for {index.shape[0]:,} rows"
        )
    known = np.isfinite(target) & (weight > 0)
    if known.sum() < 2:
        raise InputError(
            f"dispersion_map: 'isotonic' found votes or rankings on {int(known.sum())} prompts, expected at least 2 "
            "(some tens are wanted)"
        )
    knots, place = np.unique(index[known], return_inverse=True)
    total = np.bincount(place, weights=weight[known])
    mean = np.bincount(place, weights=weight[known] * target[known]) / total
    fitted = isotonic_regression(mean, weights=total, increasing=False).x
    # Within a level stretch only its two ends matter to the interpolation.
    inner = np.zeros(len(fitted), dtype=bool)
    inner[1:-1] = (fitted[1:-1] == fitted[:-2]) & (fitted[1:-1] == fitted[2:])
    return IndexMap(
        name="isotonic", index_knots=tuple(knots[~inner].tolist()), raw_knots=tuple((2 * fitted[~inner]).tolist())
    )
