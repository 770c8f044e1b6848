"""Dispersion φ of a prompt from what people said: votes on a pair, or rankings of the responses.

Suffix: n prompts. Both indexes give λ = -log φ, and the weight of the objectives is w = 2 λ times a scale
(`calibrate` with the map of a known φ). Neither knows anything of a language model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv
from scipy.stats import chi2

from mallowspo.dispersion.ties import untie
from mallowspo.errors import InputError, not_one_of
from mallowspo.maths import (
    MAX_NEG_LOG_PHI,
    MallowsModel,
    as_rankings,
    kendall_tau,
    neg_log_phi_from_mean_distance,
    spearman_rho,
)

__all__ = ["TIES", "RankingsIndex", "VotesIndex", "goodness_of_fit", "rankings_index", "votes_index"]

Floats = NDArray[np.float64]

TIES = ("error", "half")

# Rankings that stand for the fitted model in the test of fit: their noise is part of the bootstrap too.
_MODEL_SAMPLE = 128


@dataclass(frozen=True)
class VotesIndex:
    """Dispersion per prompt from votes.

    Attributes:
        phi_n: φ̂ in (0, 1], shape (N,).
        neg_log_phi_n: -log φ̂ >= 0, in nats.
        agreement_n: Smoothed share of the majority, in [1/2, 1).
        phi_low_n: Lower end of the interval for φ.
        phi_high_n: Upper end of the interval for φ; 1 where an even split is credible.
        votes_n: Number of votes, ties included.
        voted_n: False where there was no vote, and φ̂ is the mean of the others.
        level: Posterior probability that each interval holds.
    """

    phi_n: Floats
    neg_log_phi_n: Floats
    agreement_n: Floats
    phi_low_n: Floats
    phi_high_n: Floats
    votes_n: Floats
    voted_n: NDArray[np.bool_]
    level: float


@dataclass(frozen=True)
class RankingsIndex:
    """Dispersion per prompt from rankings.

    Attributes:
        phi_n: φ̂ in (0, 1], shape (N,).
        neg_log_phi_n: -log φ̂ in nats, from 0 to `mallowspo.maths.MAX_NEG_LOG_PHI`.
        phi_low_n: Lower end of the interval for φ.
        phi_high_n: Upper end of the interval for φ.
        centers: Estimated central ranking per prompt, each of shape (items,); items may differ between prompts.
        mean_distance_n: Mean distance of the rankings to their centre.
        rankings_n: Number of rankings.
        distance: "kendall" or "spearman".
        level: Nominal coverage of the intervals.
    """

    phi_n: Floats
    neg_log_phi_n: Floats
    phi_low_n: Floats
    phi_high_n: Floats
    centers: tuple[NDArray[np.int64], ...]
    mean_distance_n: Floats
    rankings_n: NDArray[np.int64]
    distance: str
    level: float


def votes_index(votes: ArrayLike, *, prior: float = 0.5, level: float = 0.95) -> VotesIndex:
    """Turn votes on a pair of responses into a dispersion per prompt.

    With a votes for one response and b for the other, ties counted half to each, the majority's share is smoothed to
    p = (max(a, b) + prior)/(a + b + 2 prior), and φ̂ = (1 - p)/p, since Kendall's Mallows model puts the better of
    two neighbours first with probability 1/(1 + φ). Which response won plays no part: where `chosen` is the minority,
    φ̂ is still that of the majority's share.

    The interval for φ is the image of the central credible interval of the share θ of voters who prefer `chosen`,
    under a Beta(prior, prior) prior. It holds with posterior probability `level` or a little more, and has an upper
    end of 1 wherever θ = ½ is credible. With the default prior (Jeffreys) it also covers a fixed φ about that often in
    repetitions, if voters are independent: simulated for 3 to 50 votes at level 0.95, between 0.90 and 1.00.
    Counting ties as half votes makes it wider than needed.

    A row without votes (zeros, or NaN for chosen or rejected) says nothing: it gets the mean -log φ̂ of the voted
    rows, which leaves its weight at their mean, the interval of the prior alone, and `voted_n` False.

    Args:
        votes: Counts, shape (N, 2) or (N, 3): chosen, rejected and, optionally, ties (NaN: none). Fractions are
            allowed.
        prior: Pseudo-votes given to each side, > 0. Without them one voter would mean full agreement.
        level: Probability of the interval, in (0, 1).

    Returns:
        The index, with N rows.

    Raises:
        InputError: If the shape is another, a count is negative, no row has a vote, or prior or level is out of range.

    Source:
        Busa-Fekete et al., ICML 2014, for the marginal; Brown, Cai and DasGupta, Statistical Science 2001, for the
        Jeffreys interval.

    Example:
        >>> index = votes_index([[9, 1], [1, 9], [5, 5]])
        >>> index.phi_n.round(4).tolist()
        [0.1579, 0.1579, 1.0]
    """
    _check_level(level)
    if not (math.isfinite(prior) and prior > 0):
        raise InputError(f"prior: got {prior!r}, expected a number of pseudo-votes > 0; 0.5 is Jeffreys' prior")
    chosen, rejected, ties = _vote_columns(votes)
    total = chosen + rejected + ties
    voted = total > 0
    if not voted.any():
        raise InputError(f"votes: none of the {len(total):,} rows has a vote; every count is zero or missing")
    for_chosen, for_rejected = chosen + ties / 2 + prior, rejected + ties / 2 + prior
    most, least = np.maximum(for_chosen, for_rejected), np.minimum(for_chosen, for_rejected)
    neg_log_phi = np.log(most / least)
    neg_log_phi[~voted] = neg_log_phi[voted].mean()

    low = betaincinv(for_chosen, for_rejected, (1 - level) / 2)
    high = betaincinv(for_chosen, for_rejected, (1 + level) / 2)
    # φ falls with the distance of θ from 1/2: the furthest end of [low, high] gives the lower limit.
    furthest = np.maximum(high, 1 - low)
    nearest = np.maximum(0.5, np.maximum(low, 1 - high))
    phi = np.exp(-neg_log_phi)
    return VotesIndex(
        phi_n=phi,
        neg_log_phi_n=neg_log_phi,
        agreement_n=1 / (1 + phi),
        phi_low_n=(1 - furthest) / furthest,
        phi_high_n=(1 - nearest) / nearest,
        votes_n=total,
        voted_n=voted,
        level=level,
    )


def rankings_index(
    rankings: Sequence[ArrayLike],
    distance: str = "kendall",
    *,
    level: float = 0.95,
    prior: float = 0.0,
    ties: str = "error",
) -> RankingsIndex:
    """Fit a Mallows model to the rankings of each prompt.

    The centre is the consensus (`mallowspo.maths.consensus`) and φ̂ the maximum-likelihood estimate. Identical
    rankings give the smallest φ̂ that is reported, e^-20; a `prior` of about half a ranking keeps such prompts from
    dwarfing all others where the rankings are few.

    The interval for φ is that of the profile likelihood: the φ whose log-likelihood is within χ²₁(level)/2 of the
    best. The consensus maximises the likelihood at every φ, so the profile is that of the fitted centre. Its coverage
    holds for many rankings; with a handful, the centre is fitted to the same rankings and the interval leans to
    small φ.

    Args:
        rankings: One array per prompt, shape (m, items), m >= 2; entry i of a row is the rank of response i, 1 is
            best. Prompts may differ in m and in items.
        distance: "kendall", or "spearman" (to 20 items).
        level: Nominal coverage, in (0, 1).
        prior: Pseudo-rankings drawn at random, >= 0, added to the mean distance of φ̂ and of its interval (the
            conjugate prior of the exponential family). 0 is maximum likelihood.
        ties: `error` refuses ranks that are shared; `half` counts a tied pair as half a discordance, the average over
            all ways of breaking the ties (see `mallowspo.dispersion.ties.untie`). Then a person who ties everything
            is a person at random: the ranking says nothing of which response is better.

    Returns:
        The index, with one row per prompt.

    Raises:
        InputError: If a prompt's rankings are unusable (the message names the prompt), there is no prompt, or level
            or prior is out of range.

    Source:
        Mallows, Biometrika 1957; Fligner and Verducci, Journal of the Royal Statistical Society B 1986; Diaconis and
        Ylvisaker, Annals of Statistics 1979, for the prior.

    Example:
        >>> index = rankings_index([[[1, 2, 3], [1, 2, 3], [2, 1, 3], [1, 3, 2]]])
        >>> index.phi_n.round(4).tolist(), index.centers[0].tolist()
        ([0.2578], [1, 2, 3])
    """
    _check_level(level)
    if not (math.isfinite(prior) and prior >= 0):
        raise InputError(f"prior: got {prior!r}, expected a number of pseudo-rankings >= 0")
    if ties not in TIES:
        raise not_one_of("ties", ties, TIES)
    if len(rankings) == 0:
        raise InputError("rankings: got no prompt, expected one array of rankings per prompt")
    fits = []
    for prompt, given in enumerate(rankings):
        try:
            fits.append(_fit_prompt(given, distance, level, prior, ties))
        except InputError as error:
            raise InputError(f"prompt {prompt:,}: {error}") from error
    neg_log_phi = np.array([fit.neg_log_phi for fit in fits])
    return RankingsIndex(
        phi_n=np.exp(-neg_log_phi),
        neg_log_phi_n=neg_log_phi,
        phi_low_n=np.exp(-np.array([fit.high for fit in fits])),
        phi_high_n=np.exp(-np.array([fit.low for fit in fits])),
        centers=tuple(fit.center for fit in fits),
        mean_distance_n=np.array([fit.mean_distance for fit in fits]),
        rankings_n=np.array([fit.rankings for fit in fits], dtype=np.int64),
        distance=distance,
        level=level,
    )


def goodness_of_fit(
    rankings: ArrayLike, distance: str = "kendall", *, rng: np.random.Generator, draws: int = 200
) -> float:
    """Test whether a Mallows model describes the rankings of one prompt: a parametric-bootstrap p-value.

    The statistic is the maximum mean discrepancy between the rankings and a sample from the fitted model, under the
    Mallows kernel exp(-d/E₁[d]) (d: Kendall's tau, E₁: uniform rankings), which tells any two distributions over
    rankings apart. It is compared with samples of the same size from the fitted model, each fitted anew. A small value
    says that one φ does not describe these people, for instance two camps.

    Args:
        rankings: Shape (m, items), m >= 2.
        distance: "kendall" or "spearman".
        rng: Source of randomness.
        draws: Number of bootstrap samples, >= 1.

    Returns:
        p-value, from 1/(draws + 1) to 1.

    Raises:
        InputError: If the rankings are unusable or draws is not positive.

    Source:
        Gretton et al., JMLR 2012 (discrepancy); Mania et al., Electronic Journal of Statistics 2018 (kernel).

    Example:
        >>> camps = [[1, 2, 3, 4]] * 10 + [[4, 3, 2, 1]] * 10
        >>> goodness_of_fit(camps, rng=np.random.default_rng(0), draws=50) < 0.05
        True
    """
    if draws < 1:
        raise InputError(f"draws: got {draws!r}, expected a positive number of bootstrap samples")
    model = MallowsModel.fit(rankings, distance)
    ranks = np.asarray(rankings, dtype=np.int64)
    observed = _discrepancy(ranks, model, rng)
    worse = 0
    for _ in range(draws):
        drawn = model.sample(len(ranks), rng)
        worse += _discrepancy(drawn, MallowsModel.fit(drawn, distance), rng) >= observed
    return (1 + worse) / (1 + draws)


@dataclass(frozen=True)
class _PromptFit:
    """One prompt's fit; low and high bound -log φ."""

    neg_log_phi: float
    low: float
    high: float
    center: NDArray[np.int64]
    mean_distance: float
    rankings: int


def _fit_prompt(given: ArrayLike, distance: str, level: float, prior: float, ties: str) -> _PromptFit:
    # Untied rankings come in twos, which are one person's.
    copies = 2 if ties == "half" else 1
    ranks = untie(given) if ties == "half" else as_rankings(given)
    if ranks.ndim == 2 and len(ranks) // copies < 2:
        raise InputError(f"rankings: got {len(ranks) // copies} ranking, a dispersion needs at least 2")
    fitted = MallowsModel.fit(ranks, distance)
    people = len(ranks) // copies
    measure = kendall_tau if distance == "kendall" else spearman_rho
    mean_distance = float(measure(ranks, fitted.center).mean())
    uniform = MallowsModel(fitted.center, 1.0, distance).expected_distance()
    size = people + prior
    target = (people * mean_distance + prior * uniform) / size
    neg_log_phi = neg_log_phi_from_mean_distance(target, fitted.items, distance)
    limit = float(chi2.ppf(level, 1))

    def cost(value: float) -> float:
        """Twice the negative log-likelihood at -log φ = value."""
        return 2 * size * (value * target + MallowsModel(fitted.center, math.exp(-value), distance).log_normalizer())

    best = cost(neg_log_phi)

    def excess(value: float) -> float:
        return cost(value) - best - limit

    low = 0.0 if excess(0.0) <= 0 else brentq(excess, 0.0, neg_log_phi)
    high = MAX_NEG_LOG_PHI if excess(MAX_NEG_LOG_PHI) <= 0 else brentq(excess, neg_log_phi, MAX_NEG_LOG_PHI)
    return _PromptFit(neg_log_phi, float(low), float(high), fitted.center, mean_distance, people)


def _discrepancy(ranks: NDArray[np.int64], model: MallowsModel, rng: np.random.Generator) -> float:
    """Squared maximum mean discrepancy between rankings and a sample from a model."""
    expected = model.sample(_MODEL_SAMPLE, rng)
    width = model.items * (model.items - 1) / 4

    def likeness(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
        return float(np.exp(-kendall_tau(first[:, None], second[None]) / width).mean())

    return likeness(ranks, ranks) + likeness(expected, expected) - 2 * likeness(ranks, expected)


def _vote_columns(votes: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Check the counts and return chosen, rejected and ties; a row with a missing side becomes a row of zeros."""
    try:
        counts = np.array(votes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("votes: expected numbers, one row of two or three counts per prompt") from error
    if counts.ndim != 2 or counts.shape[1] not in (2, 3) or len(counts) == 0:
        raise InputError(
            f"votes: got shape {counts.shape}, expected (prompts, 2) for chosen, rejected, or (prompts, 3) with ties"
        )
    if counts.shape[1] == 2:
        counts = np.column_stack([counts, np.zeros(len(counts))])
    wrong = (counts < 0) | np.isinf(counts)
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        raise InputError(f"votes: row {row:,} has {counts[row].tolist()}, expected finite counts >= 0, or NaN")
    counts[:, 2] = np.nan_to_num(counts[:, 2])
    counts[np.isnan(counts).any(axis=1)] = 0.0
    return counts[:, 0], counts[:, 1], counts[:, 2]


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level: got {level!r}, expected a probability in (0, 1) such as 0.95")
