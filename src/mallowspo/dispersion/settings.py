"""The choices of an analysis of dispersion, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mallowspo.dispersion.estimators import ESTIMATORS
from mallowspo.dispersion.maps import DEFAULT_SPREAD, check_alternatives, check_map
from mallowspo.errors import InputError, not_one_of
from mallowspo.maths.mallows import DISTANCES

__all__ = ["DispersionSettings"]


@dataclass(frozen=True, kw_only=True)
class DispersionSettings:
    """Settings of `analyse_reference`, `analyse_votes` and `analyse_rankings`.

    Attributes:
        estimator: Which index is read off the reference, a name in `ESTIMATORS`.
        map: How that index becomes a raw weight, one of `MAPS`.
        scale: phi*: `auto` for a mean weight of 1, or a number > 0.
        clip: Lowest and highest weight.
        per: One index per `prompt` or per `pair`.
        alternatives: `mallows`: among how many answers people choose.
        spread: `quantile`: -log phi of the most contested and of the most agreed prompt.
        vote_prior: Pseudo-votes for each side.
        ranking_prior: Pseudo-rankings drawn at random.
        distance: Of the rankings' main fit: `kendall` or `spearman`.
        fit_draws: Bootstrap samples of the test of fit; 0 leaves it out.
        level: Nominal coverage of the intervals.
        resamples: Bootstrap draws of correlations and rates.
        beta: The beta of the training to come, > 0.
        seed: Of every random draw.
    """

    estimator: str = "mean_entropy"
    map: str = "neglog"
    scale: float | str = "auto"
    clip: tuple[float, float] = (0.0, 10.0)
    per: str = "prompt"
    alternatives: int | None = None
    spread: tuple[float, float] = DEFAULT_SPREAD
    vote_prior: float = 0.5
    ranking_prior: float = 0.0
    distance: str = "kendall"
    fit_draws: int = 99
    level: float = 0.95
    resamples: int = 1000
    beta: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work, by the name under which it was given."""
        if self.estimator not in ESTIMATORS:
            raise not_one_of("dispersion_estimator", self.estimator, ESTIMATORS)
        check_map(self.map, self.estimator)
        if self.per not in ("prompt", "pair"):
            raise not_one_of("dispersion_per", self.per, ("prompt", "pair"))
        if self.distance not in DISTANCES:
            raise not_one_of("distance", self.distance, DISTANCES)
        if self.map == "mallows" and self.alternatives is None:
            raise InputError("dispersion_map: 'mallows' needs alternatives, among how many answers people choose")
        if self.alternatives is not None:
            if self.map != "mallows":
                raise InputError(f"alternatives: only the map 'mallows' reads it, and dispersion_map is {self.map!r}")
            check_alternatives(self.alternatives)
        if self.spread != DEFAULT_SPREAD and self.map != "quantile":
            raise InputError(f"spread: only the map 'quantile' reads it, and dispersion_map is {self.map!r}")
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
