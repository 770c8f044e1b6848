r"""How far an index is believed: what its weights are worth in pairs, and the shrink factor that votes support.

Legend: lam = -log phi of a prompt (truth), w = its weight (mean 1), c = coefficient of variation, rho = correlation of
w and lam, s = rho c_lam / c_w, the slope of lam / mean(lam) on w.

The score of a pair at small gaps is w (y - 1/2) df: its signal is proportional to E[w lam], its noise to E[w^2].
Against weights of 1, weights are therefore worth

    G = (E[w lam] / (E[w] E[lam]))^2 / (E[w^2] / E[w]^2) = (1 + rho c_w c_lam)^2 / (1 + c_w^2)

times as many pairs: up to that, where prompts share their parameters, gaps are small, and weights are independent of
the features in which two responses differ. Weights 1 + s (w - 1) have the best spread: G = 1 + s^2 c_w^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import minimize
from scipy.special import log_expit, logsumexp

from mallowspo.errors import InputError
from mallowspo.stats.intervals import Interval

__all__ = [
    "ShrinkFit",
    "break_even_correlation",
    "effective_pairs",
    "effective_pairs_if_correlated",
    "fit_shrink",
    "shrunken_weights",
]

Floats = NDArray[np.float64]

# Weights that all but agree carry no index: nothing is shrunk or stretched then.
MIN_VARIATION = 1e-6
# Nodes of Gauss-Hermite quadrature over u, the part of log(lam x gap) that the weights do not know.
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_LOG_NODE_WEIGHTS = np.log(_NODE_WEIGHTS / _NODE_WEIGHTS.sum())
# log b, s c_w and log sd(u). A few votes a pair say next to nothing of sd(u), and with it free s runs off: a normal
# prior around 0.5 holds it. Beyond s c_w = 3 no index of people's dispersion was ever seen.
_BOUNDS = ((-6.0, 4.0), (-1.5, 3.0), (-3.0, 0.7))
_PRIOR_MEAN, _PRIOR_SD = float(np.log(0.5)), 0.3


def effective_pairs(weight_n: ArrayLike, neg_log_phi_n: ArrayLike) -> float:
    """G: how many pairs with weights of 1 a pair with these weights is worth, where lam is known.

    Args:
        weight_n: Weights >= 0 of the prompts, shape (N,), of any mean.
        neg_log_phi_n: lam >= 0 of the same prompts in nats, shape (N,), of any scale.

    Returns:
        G > 0, up to which the weights are worth; 1 for equal weights.

    Raises:
        InputError: Shapes differ, or nothing has a weight or a lam above 0.

    Source:
        `docs/theory.md`; signal and noise of the score of weighted pairs at small gaps.

    Example:
        >>> effective_pairs([0.5, 1.5], [0.5, 1.5])  # the true index: 1 + c_lam^2
        1.25
        >>> effective_pairs([1.5, 0.5], [1.0, 1.0])  # pure noise: 1 / (1 + c_w^2)
        0.8
    """
    weight, truth = _mean_one(weight_n, "weight_n"), _mean_one(neg_log_phi_n, "neg_log_phi_n")
    if weight.shape != truth.shape:
        raise InputError(f"neg_log_phi_n: got shape {truth.shape}, expected {weight.shape} like the weights")
    return float((weight * truth).mean() ** 2 / (weight**2).mean())


def effective_pairs_if_correlated(variation: float, correlation: ArrayLike) -> Floats:
    """G as a function of rho c_lam, for weights of which nobody knows how right they are.

    Args:
        variation: c_w, standard deviation over mean of the weights, >= 0.
        correlation: rho c_lam, any shape; 0 is an index that knows nothing, c_w one with exactly the right spread.

    Returns:
        G in the correlation's shape.

    Example:
        >>> effective_pairs_if_correlated(0.5, [0.0, 0.5]).tolist()
        [0.8, 1.25]
    """
    return np.asarray((1 + np.asarray(correlation, np.float64) * variation) ** 2 / (1 + variation**2), np.float64)


def break_even_correlation(variation: float) -> float:
    """The rho c_lam above which weights of variation c_w are worth more than none: (sqrt(1 + c_w^2) - 1) / c_w.

    Example:
        >>> round(break_even_correlation(0.5), 4)
        0.2361
    """
    return 0.0 if variation < MIN_VARIATION else (np.sqrt(1 + variation**2).item() - 1) / variation


def shrunken_weights(weight_n: ArrayLike, shrink: float) -> Floats:
    """Weights drawn towards 1 by the factor s, or spread out where s > 1: max(0, 1 + s (w / mean(w) - 1)), mean 1.

    Args:
        weight_n: Weights >= 0, shape (N,).
        shrink: s >= 0; 0 gives 1 everywhere, 1 the weights themselves.

    Returns:
        Shape (N,).

    Example:
        >>> shrunken_weights([1.0, 3.0], 0.5).tolist()
        [0.75, 1.25]
    """
    if not 0 <= shrink < np.inf:
        raise InputError(f"shrink: got {shrink}, expected a finite number >= 0")
    return _mean_one(np.maximum(0.0, 1 + shrink * (_mean_one(weight_n, "weight_n") - 1)), "shrink")


@dataclass(frozen=True, kw_only=True)
class ShrinkFit:
    """What votes say of an index.

    Attributes:
        shrink: s with its interval, lower end >= 0; multiply w - 1 by it.
        variation: c_w of the weights of the prompts with votes.
        gain: G of the weights as they are, with the interval that s implies.
        gain_shrunken: G of the weights shrunken by s, at s itself.
        prompts: Prompts with votes.
        pairs: Pairs with votes.
        votes: Votes, ties left out.
    """

    shrink: Interval
    variation: float
    gain: Interval
    gain_shrunken: float
    prompts: int
    pairs: int
    votes: float


def fit_shrink(
    weight_n: ArrayLike,
    first_votes_n: ArrayLike,
    second_votes_n: ArrayLike,
    *,
    prompt_n: ArrayLike | None = None,
    mean: float | None = None,
    level: float = 0.95,
) -> ShrinkFit:
    """Fit the shrink factor s by the marginal likelihood of votes.

    A vote on a pair has logit +-b max(0, 1 + s (w - 1)) e^u: the sign is either with probability 1/2, u is normal and
    holds the pair's rank gap and all else that the weight does not know. b, s and sd(u) are fitted together, sd(u)
    under a weak prior. The interval is from the sandwich variance, with prompts as clusters.

    Args:
        weight_n: Weight >= 0 of the pair's prompt, shape (N,); any mean.
        first_votes_n: Votes for the pair's first response, shape (N,).
        second_votes_n: Votes for its second, shape (N,); which response is first does not matter.
        prompt_n: Which prompt a pair belongs to, shape (N,), anything that can be compared; each its own without.
        mean: The weight that shrinking leaves where it is: that of all prompts, of which these may be no fair sample;
            the mean of these without.
        level: Coverage of the intervals.

    Returns:
        The fit. Where the weights all but agree, s is 0 and G is 1.

    Raises:
        InputError: Shapes differ, a count is negative, or fewer than 20 pairs have two votes or more.

    Source:
        ours. A correlation with majorities smoothed towards one half will not do: with three votes a pair it comes out
        several times too small.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.gamma(2.0, 0.5, 2000)  # lam of 2,000 prompts, mean 1; the weights are right
        >>> yes = rng.binomial(10, 1 / (1 + np.exp(-2 * truth)))
        >>> fit = fit_shrink(truth, yes, 10 - yes)
        >>> fit.shrink.low < 1 < fit.shrink.high
        True
    """
    weight = np.asarray(weight_n, np.float64)
    first, second = (np.asarray(votes, np.float64) for votes in (first_votes_n, second_votes_n))
    prompt = np.arange(weight.size) if prompt_n is None else np.unique(np.asarray(prompt_n), return_inverse=True)[1]
    if weight.ndim != 1 or not weight.shape == first.shape == second.shape == prompt.shape:
        raise InputError(
            f"votes: got shapes {first.shape}, {second.shape} and {prompt.shape} for weights of shape {weight.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all() and min(first.min(), second.min()) >= 0):
        raise InputError("votes: a count is negative or not finite")
    # One vote on a pair has both signs alike: it says nothing.
    known = first + second >= 2
    if known.sum() < 20:
        raise InputError(
            f"votes: {int(known.sum())} pairs have two votes or more, expected at least 20 (some hundreds are wanted);"
            " give more votes, or a number as dispersion_shrink"
        )
    weight, first, second, prompt = weight[known], first[known], second[known], prompt[known]
    relative = _mean_one(weight, "weight_n")
    weight = relative if mean is None else weight / mean
    variation = float(relative.std())
    facts: dict[str, Any] = {
        "variation": variation,
        "prompts": len(np.unique(prompt)),
        "pairs": int(known.sum()),
        "votes": float((first + second).sum()),
    }
    if variation < MIN_VARIATION:
        return ShrinkFit(shrink=Interval(0.0, 0.0, 0.0), gain=Interval(1.0, 1.0, 1.0), gain_shrunken=1.0, **facts)
    # In units of c_w the slope is rho c_lam, of order 1 whatever the weights' spread.
    likelihood = _Likelihood((weight - 1) / variation, first, second)
    slope, spread = likelihood.fit(prompt)
    half = stats.norm.ppf(0.5 + level / 2) * spread
    ends = [max(0.0, end) for end in (slope, slope - half, slope + half)]
    truths = [np.maximum(0.0, 1 + end * (weight - 1) / variation) for end in ends]
    gains = [effective_pairs(weight, truth) for truth in truths]
    return ShrinkFit(
        shrink=Interval(*(end / variation for end in ends)),
        gain=Interval(gains[0], min(gains), max(gains)),
        gain_shrunken=effective_pairs(truths[0], truths[0]),
        **facts,
    )


class _Likelihood:
    """Penalised marginal log-likelihood in (log b, slope, log sd(u)); `z` are the standardised weights."""

    def __init__(self, z_n: Floats, first_n: Floats, second_n: Floats) -> None:
        self.z_n, self.first_n, self.second_n = z_n[:, None], first_n[:, None], second_n[:, None]

    def rows(self, theta: Floats) -> Floats:
        """Log-likelihood of each pair, binomial coefficient left out."""
        log_b, slope, log_sd = theta
        logit = np.exp(log_b) * np.maximum(0.0, 1 + slope * self.z_n) * np.exp(np.exp(log_sd) * _NODES)
        yes, no = log_expit(logit), log_expit(-logit)
        either = np.logaddexp(self.first_n * yes + self.second_n * no, self.first_n * no + self.second_n * yes)
        return np.asarray(logsumexp(either + _LOG_NODE_WEIGHTS, axis=1) - np.log(2), np.float64)

    def row_scores(self, theta: Floats, step: float = 1e-4) -> Floats:
        """Gradient of each pair's log-likelihood by central differences, shape (N, 3)."""
        moves = step * np.eye(3)
        return np.stack([(self.rows(theta + move) - self.rows(theta - move)) / (2 * step) for move in moves], axis=1)

    def objective(self, theta: Floats) -> tuple[float, Floats]:
        away = (theta[2] - _PRIOR_MEAN) / _PRIOR_SD
        gradient = self.row_scores(theta).sum(axis=0) - np.array([0.0, 0.0, away / _PRIOR_SD])
        return float(0.5 * away**2 - self.rows(theta).sum()), -gradient

    def fit(self, prompt_n: NDArray[np.int64]) -> tuple[float, float]:
        """The slope and its standard error."""
        found = min(
            (
                minimize(self.objective, [0.0, slope, _PRIOR_MEAN], jac=True, method="L-BFGS-B", bounds=_BOUNDS)
                for slope in (0.0, 0.6)
            ),
            key=lambda result: result.fun,
        )
        step = 1e-3
        moves = step * np.eye(3)
        curvature = np.stack(
            [(self.objective(found.x + move)[1] - self.objective(found.x - move)[1]) / (2 * step) for move in moves]
        )
        by_prompt = np.zeros((prompt_n.max() + 1, 3))
        np.add.at(by_prompt, prompt_n, self.row_scores(found.x))
        bread = np.linalg.pinv((curvature + curvature.T) / 2)
        variance = bread @ (by_prompt.T @ by_prompt) @ bread
        return float(found.x[1]), float(np.sqrt(max(variance[1, 1], 0.0)))


def _mean_one(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or array.size == 0 or array.min() < 0 or array.max() <= 0:
        raise InputError(f"{name}: expected finite numbers >= 0 in one row, not all 0")
    return np.asarray(array / array.mean(), np.float64)
