"""The Mallows model: rankings scattered around a centre, with one dispersion φ.

P(μ) = φ^d(μ, center) / Z(φ), φ in (0, 1]. φ → 0: everyone agrees on the centre. φ = 1: every ranking is as likely.
Kendall's tau has closed forms for any number of items; Spearman's rho is exact to `SPEARMAN_LIMIT` items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError, not_one_of
from mallowspo.maths import kendall, sampling, spearman
from mallowspo.maths.centre import borda_center, center_of_preferences
from mallowspo.maths.distances import as_rankings, kendall_tau, spearman_rho
from mallowspo.maths.partial import preference_counts

__all__ = ["DISTANCES", "MAX_NEG_LOG_PHI", "MallowsModel", "consensus", "neg_log_phi_from_mean_distance"]

DISTANCES = {"kendall": kendall_tau, "spearman": spearman_rho}

MAX_NEG_LOG_PHI = 20.0
"""The likelihood of identical rankings grows without end as φ → 0. Estimates stop at φ = e^-20 = 2.1e-9, the end of
the range over which the links are verified."""


@dataclass(frozen=True, eq=False, init=False)
class MallowsModel:
    """A Mallows model.

    Attributes:
        center: Central ranking, shape (n,): entry i is the rank of item i, 1 is best.
        phi: Dispersion φ in (0, 1].
        distance: "kendall" (number of discordant pairs) or "spearman" (sum of squared rank differences).

    Raises:
        InputError: If the centre is no ranking, φ is outside (0, 1], or the distance is unknown.

    Source:
        Mallows, Biometrika 1957.

    Example:
        >>> model = MallowsModel([1, 2, 3], 0.5)
        >>> round(float(np.exp(model.log_prob([1, 2, 3]))), 6)
        0.380952
        >>> round(model.expected_distance(), 6)
        0.904762
    """

    center: NDArray[np.int64]
    phi: float
    distance: str = "kendall"

    def __init__(self, center: ArrayLike, phi: float, distance: str = "kendall") -> None:
        ranks = as_rankings(center, name="center")
        if ranks.ndim != 1:
            raise InputError(f"center: got shape {ranks.shape}, expected one ranking of shape (items,)")
        ranks.flags.writeable = False
        try:
            dispersion = float(phi)
        except (TypeError, ValueError) as error:
            raise InputError(f"phi: got {phi!r}, expected one number in (0, 1]") from error
        if not 0 < dispersion <= 1:
            raise InputError(f"phi: got {phi!r}, expected a number in (0, 1]; 1 is uniform, near 0 is agreement")
        check_distance(distance)
        # A frozen dataclass lets its own initialiser set fields only this way.
        object.__setattr__(self, "center", ranks)
        object.__setattr__(self, "phi", dispersion)
        object.__setattr__(self, "distance", distance)

    @property
    def items(self) -> int:
        """Number of items n."""
        return len(self.center)

    @property
    def neg_log_phi(self) -> float:
        """λ = -log φ >= 0, in nats."""
        return -math.log(self.phi) + 0.0

    def log_prob(self, rankings: ArrayLike) -> NDArray[np.float64]:
        """Log-probability of rankings.

        Args:
            rankings: Shape (..., n).

        Returns:
            -λ d(ranking, center) - log Z, in nats, shape (...).

        Raises:
            InputError: If these are no rankings of n items, or Z is out of reach (Spearman, many items).

        Example:
            >>> MallowsModel([1, 2], 0.5).log_prob([[1, 2], [2, 1]]).round(4).tolist()
            [-0.4055, -1.0986]
        """
        ranks = as_rankings(rankings, items=self.items)
        distance = DISTANCES[self.distance](ranks, self.center)
        return np.asarray(-self.neg_log_phi * distance - self.log_normalizer())

    def log_normalizer(self) -> float:
        """Log Z(φ) in nats, between 0 (full agreement) and log n! (uniform).

        Raises:
            InputError: Spearman with too many items.

        Example:
            >>> round(MallowsModel([1, 2, 3], 0.5).log_normalizer(), 6)
            0.965081
        """
        return _log_normalizer(self.items, self.neg_log_phi, self.distance)

    def expected_distance(self) -> float:
        """Mean distance to the centre.

        Raises:
            InputError: Spearman with too many items.

        Example:
            >>> MallowsModel([1, 2, 3], 1.0, distance="spearman").expected_distance()
            4.0
        """
        return _expected_distance(self.items, self.neg_log_phi, self.distance)

    def entropy(self) -> float:
        """Entropy of a random ranking, log Z + λ E[d], in nats, between 0 and log n!.

        Raises:
            InputError: Spearman with too many items.

        Example:
            >>> round(MallowsModel([1, 2, 3, 4, 5], 0.5).entropy() / math.log(120), 6)
            0.829637
        """
        return self.log_normalizer() + self.neg_log_phi * self.expected_distance()

    def pairwise_matrix(self) -> NDArray[np.float64]:
        """Probability that item a is ranked above item b, for every ordered pair.

        Returns:
            Shape (n, n), entry [a, b] = P(a above b), so that P + Pᵀ = 1; ½ on the diagonal by convention.

        Raises:
            InputError: Spearman with too many items.

        Source:
            Kendall: Busa-Fekete et al., ICML 2014. Spearman: summed exactly over all rankings.

        Example:
            >>> MallowsModel([2, 1], 0.5).pairwise_matrix().round(4).tolist()
            [[0.5, 0.3333], [0.6667, 0.5]]
        """
        if self.distance == "spearman":
            by_rank = spearman.pairwise_above(self.items, self.neg_log_phi)
        else:
            by_rank = np.full((self.items, self.items), 0.5)
            above, below = np.triu_indices(self.items, k=1)
            tail = kendall.pairwise_tail(np.arange(1, max(self.items, 2)), self.neg_log_phi)[below - above - 1]
            by_rank[below, above] = tail
            by_rank[above, below] = 1 - tail
        return by_rank[np.ix_(self.center - 1, self.center - 1)]

    def sample(self, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw independent rankings.

        Exact for Kendall (repeated insertion) and for Spearman up to `SPEARMAN_LIMIT` items; Gibbs sampling beyond.

        Args:
            size: Number of rankings, >= 0.
            rng: Source of randomness, a `numpy.random.Generator`.

        Returns:
            Rankings, shape (size, n).

        Raises:
            InputError: If size is negative or rng is no Generator.

        Example:
            >>> MallowsModel([2, 1, 3], 1e-9).sample(2, np.random.default_rng(0)).tolist()
            [[2, 1, 3], [2, 1, 3]]
        """
        if not isinstance(rng, np.random.Generator):
            raise InputError(
                f"rng: got {type(rng).__name__}, expected a Generator; numpy.random.default_rng(seed) is one"
            )
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
            raise InputError(f"size: got {size!r}, expected a whole number of rankings >= 0")
        draw = sampling.sample_kendall if self.distance == "kendall" else sampling.sample_spearman
        return draw(int(size), self.items, self.neg_log_phi, rng)[:, self.center - 1]

    @classmethod
    def fit(cls, rankings: ArrayLike, distance: str = "kendall", center: ArrayLike | None = None) -> MallowsModel:
        """Estimate the model by maximum likelihood.

        φ solves E[d] = mean observed distance. It is 1 where the mean distance reaches that of uniform rankings, and
        at least e^-20 (`MAX_NEG_LOG_PHI`) where the rankings are all the same.

        Args:
            rankings: Shape (m, n), n >= 2 items; m >= 1 with a known centre, m >= 2 without.
            distance: "kendall" or "spearman".
            center: Central ranking if it is known. Otherwise it is estimated by `consensus`, and φ comes out somewhat
                too small with few rankings, since they also chose the centre.

        Returns:
            The fitted model.

        Raises:
            InputError: If the input does not fit the above, or Spearman has too many items.

        Source:
            Fligner and Verducci, Journal of the Royal Statistical Society B 1986.

        Example:
            >>> model = MallowsModel.fit([[1, 2, 3], [1, 2, 3], [2, 1, 3], [1, 3, 2]])
            >>> model.center.tolist(), round(model.phi, 4)
            ([1, 2, 3], 0.2578)
        """
        check_distance(distance)
        ranks = as_rankings(rankings)
        needed = 1 if center is not None else 2
        if ranks.ndim != 2 or len(ranks) < needed or ranks.shape[1] < 2:
            raise InputError(
                f"rankings: got shape {ranks.shape}, expected (rankings, items) with at least 2 items and {needed} "
                f"ranking{'s' if needed > 1 else ''}"
            )
        items = ranks.shape[1]
        middle = consensus(ranks, distance) if center is None else as_rankings(center, name="center", items=items)
        mean_distance = float(DISTANCES[distance](ranks, middle).mean())
        neg_log_phi = neg_log_phi_from_mean_distance(mean_distance, items, distance)
        return cls(middle, math.exp(-neg_log_phi), distance)


def consensus(rankings: ArrayLike, distance: str = "kendall") -> NDArray[np.int64]:
    """Estimate the centre: for Kendall `center_of_preferences` (exact to `KEMENY_LIMIT` items), Borda for Spearman.

    Args:
        rankings: Shape (m, n).
        distance: "kendall" or "spearman".

    Returns:
        The centre, shape (n,). It is the maximum-likelihood centre, at any φ, wherever it is exact.

    Raises:
        InputError: If these are not m rankings of the same items, or the distance is unknown.

    Example:
        >>> consensus([[1, 2, 3], [1, 2, 3], [3, 2, 1]]).tolist()
        [1, 2, 3]
    """
    check_distance(distance)
    ranks = as_rankings(rankings)
    if distance == "kendall" and ranks.ndim == 2 and len(ranks):
        return center_of_preferences(preference_counts(ranks))
    return borda_center(ranks)


def neg_log_phi_from_mean_distance(mean_distance: float, items: int, distance: str = "kendall") -> float:
    """Solve E[d] = mean observed distance for λ = -log φ, the maximum-likelihood equation.

    Args:
        mean_distance: Mean distance of the rankings to the centre, >= 0.
        items: Number of items n >= 2.
        distance: "kendall" or "spearman".

    Returns:
        λ in [0, `MAX_NEG_LOG_PHI`], in nats: 0 where the mean distance is at least that of uniform rankings.

    Raises:
        InputError: Spearman with too many items.

    Example:
        >>> round(neg_log_phi_from_mean_distance(0.5, 2), 6), round(neg_log_phi_from_mean_distance(0.25, 2), 6)
        (0.0, 1.098612)
    """
    from scipy.optimize import brentq

    if mean_distance >= _expected_distance(items, 0.0, distance):
        return 0.0
    if mean_distance <= _expected_distance(items, MAX_NEG_LOG_PHI, distance):
        return MAX_NEG_LOG_PHI

    def excess(neg_log_phi: float) -> float:
        # E[d] is nearly exponential in λ: in logarithms the root finder needs a handful of steps.
        return math.log(_expected_distance(items, neg_log_phi, distance) / mean_distance)

    return float(brentq(excess, 0.0, MAX_NEG_LOG_PHI, xtol=1e-13, rtol=1e-12))


def check_distance(distance: str) -> None:
    """Raise InputError for a distance that is not one of `DISTANCES`."""
    if distance not in DISTANCES:
        raise not_one_of("distance", distance, DISTANCES)


def _log_normalizer(items: int, neg_log_phi: float, distance: str) -> float:
    if distance == "kendall":
        return kendall.log_normalizer(items, neg_log_phi)
    return spearman.moments(items, neg_log_phi).log_normalizer


def _expected_distance(items: int, neg_log_phi: float, distance: str) -> float:
    if distance == "kendall":
        return kendall.expected_distance(items, neg_log_phi)
    return spearman.moments(items, neg_log_phi).expected_distance
