"""The choices of an analysis of dispersion and of a training, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mallowspo.dispersion.calibration import check_clip, check_scale
from mallowspo.dispersion.estimators import ESTIMATORS
from mallowspo.dispersion.maps import DEFAULT_SPREAD, MAPS, check_map, check_spread
from mallowspo.dispersion.panel import check_alternatives
from mallowspo.errors import InputError, not_one_of
from mallowspo.maths.mallows import DISTANCES

__all__ = ["PER", "DispersionSettings", "check_index_options"]

PER = ("prompt", "pair")
"""What shares one index."""


def check_index_options(
    *,
    estimator: str,
    map: str,
    scale: float | str,
    clip: Sequence[float],
    per: str,
    alternatives: int | None,
    spread: Sequence[float],
    maps: Sequence[str] = MAPS,
    prefix: str = "dispersion_",
) -> None:
    """Refuse options of the index that cannot work; `prefix` stands before `alternatives` and `spread`."""
    if estimator not in ESTIMATORS:
        raise not_one_of("dispersion_estimator", estimator, ESTIMATORS)
    if map not in maps:
        raise not_one_of("dispersion_map", map, maps)
    check_map(map, estimator)
    if per not in PER:
        raise not_one_of("dispersion_per", per, PER)
    check_clip(clip)
    check_scale(scale)
    if map == "mallows" and alternatives is None:
        raise InputError(f"dispersion_map: 'mallows' needs {prefix}alternatives, among how many answers people choose")
    for name, given, reader in (
        ("alternatives", alternatives is not None, "mallows"),
        ("spread", tuple(spread) != DEFAULT_SPREAD, "quantile"),
    ):
        if given and map != reader:
            raise InputError(f"{prefix}{name}: only dispersion_map: {reader} reads it, got {map!r}")
    if alternatives is not None:
        check_alternatives(alternatives, f"{prefix}alternatives")
    check_spread(spread, f"{prefix}spread")


@dataclass(frozen=True, kw_only=True)
class DispersionSettings:
    """Settings of `analyse_reference`, `analyse_votes` and `analyse_rankings`."""

    estimator: str = "mean_entropy"  # a name in `ESTIMATORS`
    map: str = "neglog"  # one of `MAPS`
    scale: float | str = "auto"  # phi*: `auto` for a mean weight of 1, or a number
    clip: tuple[float, float] = (0.0, 10.0)  # lowest and highest weight
    per: str = "prompt"  # one of `PER`
    alternatives: int | None = None  # `mallows`: among how many answers people choose
    # `quantile`: -log phi of the most contested and of the most agreed prompt.
    spread: tuple[float, float] = DEFAULT_SPREAD
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
            spread=self.spread,
            prefix="",
        )
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
