"""The choices of an analysis of dispersion and of a training, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mallowspo.dispersion.calibration import check_clip, check_power, check_scale, check_shrink
from mallowspo.dispersion.estimators import ESTIMATORS
from mallowspo.dispersion.maps import DEFAULT_SPREAD, check_map, check_spread
from mallowspo.dispersion.panel import check_alternatives
from mallowspo.errors import InputError, not_one_of
from mallowspo.maths.mallows import DISTANCES

__all__ = ["PER", "DispersionSettings", "check_index_options", "given_alternatives", "given_shrink"]

PER = ("prompt", "pair")
"""What shares one index."""


def check_index_options(
    *,
    estimator: str,
    map: str,
    scale: float | str,
    clip: Sequence[float],
    per: str,
    alternatives: int | str | None,
    power: float,
    shrink: float | str,
    spread: Sequence[float],
    prefix: str = "dispersion_",
) -> None:
    """Refuse options of the index that cannot work; `prefix` stands before `alternatives` and `spread`."""
    if estimator not in ESTIMATORS:
        raise not_one_of("dispersion_estimator", estimator, ESTIMATORS)
    check_map(map, estimator)
    if per not in PER:
        raise not_one_of("dispersion_per", per, PER)
    check_clip(clip)
    check_scale(scale)
    check_power(power)
    given_shrink(shrink)
    if map == "mallows" and alternatives is None:
        raise InputError(
            f"dispersion_map: 'mallows' needs {prefix}alternatives, among how many answers people choose: a "
            "number, or auto to read it off the reference"
        )
    for name, given, reader in (
        ("alternatives", alternatives is not None, "mallows"),
        ("spread", tuple(spread) != DEFAULT_SPREAD, "quantile"),
    ):
        if given and map != reader:
            raise InputError(f"{prefix}{name}: only dispersion_map: {reader} reads it, got {map!r}")
    number = given_alternatives(alternatives, f"{prefix}alternatives")
    if isinstance(number, int):
        check_alternatives(number, f"{prefix}alternatives")
    check_spread(spread, f"{prefix}spread")


def given_alternatives(alternatives: int | str | None, name: str = "alternatives") -> int | str | None:
    """Among how many answers people choose, as a number where it is one: also one that is written as text."""
    if alternatives is None or alternatives == "auto":
        return alternatives
    try:
        return int(alternatives)
    except ValueError as error:
        raise InputError(f"{name}: got {alternatives!r}, expected auto or a whole number >= 2") from error


def given_shrink(shrink: float | str) -> float | str | None:
    """How far raw weights are believed: None for `none`, `votes`, or a number, also one that is written as text."""
    if shrink in ("none", "votes"):
        return None if shrink == "none" else shrink
    try:
        return check_shrink(float(shrink))
    except ValueError as error:
        raise InputError(f"dispersion_shrink: got {shrink!r}, expected none, votes or a finite number >= 0") from error


@dataclass(frozen=True, kw_only=True)
class DispersionSettings:
    """Settings of `analyse_reference`, `analyse_votes` and `analyse_rankings`."""

    estimator: str = "mean_entropy"  # a name in `ESTIMATORS`
    map: str = "neglog"  # one of `MAPS`
    scale: float | str = "auto"  # phi*: `auto` for a mean weight of 1, or a number
    clip: tuple[float, float] = (0.0, 10.0)  # lowest and highest weight
    per: str = "prompt"  # one of `PER`
    # `mallows`: among how many answers people choose; `auto` reads it off the reference.
    alternatives: int | str | None = None
    # `quantile`: -log phi of the most contested and of the most agreed prompt.
    spread: tuple[float, float] = DEFAULT_SPREAD
    shrink: float | str = "none"  # how far the index is believed: `none`, `votes`, or the factor itself
    power: float = 1.0  # rho in [0, 1] of the tempered weight
    vote_prior: float = 0.5  # pseudo-votes for each side
    ranking_prior: float = 0.0  # pseudo-rankings drawn at random
    distance: str = "kendall"  # of the rankings' main fit: `kendall` or `spearman`
    fit_draws: int = 99  # bootstrap samples of the test of fit; 0 leaves it out
    level: float = 0.95  # nominal coverage of the intervals
    resamples: int = 1000  # bootstrap draws of correlations and rates
    beta: float = 0.1  # the beta of the training to come, > 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work, by the name under which it was given."""
        check_index_options(
            estimator=self.estimator,
            map=self.map,
            scale=self.scale,
            clip=self.clip,
            per=self.per,
            alternatives=self.alternatives,
            power=self.power,
            shrink=self.shrink,
            spread=self.spread,
            prefix="",
        )
        object.__setattr__(self, "alternatives", given_alternatives(self.alternatives))
        if self.distance not in DISTANCES:
            raise not_one_of("distance", self.distance, DISTANCES)
        for name, good, expected in (
            ("level", 0 < self.level < 1, "a probability in (0, 1) such as 0.95"),
            ("beta", 0 < self.beta < math.inf, "a finite number > 0"),
            ("vote_prior", 0 < self.vote_prior < math.inf, "a number of pseudo-votes > 0"),
            ("ranking_prior", 0 <= self.ranking_prior < math.inf, "a number of pseudo-rankings >= 0"),
            ("fit_draws", self.fit_draws >= 0, "a number >= 0; 0 leaves the test of fit out"),
            ("resamples", self.resamples >= 100, "at least 100"),
        ):
            if not good:
                raise InputError(f"{name}: got {getattr(self, name)}, expected {expected}")

    @property
    def given_shrink(self) -> float | None:
        """The shrink factor, where one is given; votes fit it later."""
        shrink = given_shrink(self.shrink)
        return shrink if isinstance(shrink, float) else None
