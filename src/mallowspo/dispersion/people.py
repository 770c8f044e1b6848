"""Dispersion φ of a prompt from what people said: votes on a pair, or rankings of the responses.

Suffix: n prompts. Both indexes give λ = -log φ, and the weight of the objectives is w = 2 λ times a scale
(`calibrate` with the map of a known φ). Neither knows anything of a language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import betaincinv, logsumexp
from scipy.stats import binom, chi2, rankdata

from mallowspo.dispersion.ranking_intervals import FEW_PEOPLE, MAX_SIMULATED_ITEMS, simulated_interval
from mallowspo.errors import InputError, not_one_of
from mallowspo.maths import (
    MAX_NEG_LOG_PHI,
    MallowsModel,
    as_rankings,
    bucket_sizes,
    center_of_preferences,
    discordant_pairs,
    extension_counts,
    neg_log_phi_from_mean_distance,
    preference_counts,
    spearman_rho,
)
from mallowspo.maths.centre import KEMENY_LIMIT
from mallowspo.maths.kendall import expected_distance, log_normalizer, pairwise_tail
from mallowspo.maths.mallows import check_distance

__all__ = [
    "LIKELIHOODS",
    "TIES",
    "RankingsIndex",
    "VotesIndex",
    "fit_sample_size",
    "goodness_of_fit",
    "poor_intervals",
    "rankings_index",
    "shares_ranks",
    "untie",
    "vote_interval_coverage",
    "votes_index",
]

Floats = NDArray[np.float64]

TIES = ("error", "half", "unordered")

# Beyond so many votes the interval covers 0.93 or more of a nominal 0.95 at φ >= 0.05.
_MANY_VOTES = 100
# How much less than its level an interval may cover before it is pointed out.
_POOR_BY = 0.05
# Rankings that stand for the fitted model in the test of fit: their noise is part of the bootstrap too.
_MODEL_SAMPLE = 128
# People who enter the test of fit, at most: its cost is quadratic in them.
_FIT_PEOPLE = 500
# Array elements that the exact likelihood of rankings with gaps may take: about ten seconds.
_EXACT_BUDGET = 1e9
# Kinds of prompts (people, items, shared ranks) whose intervals are simulated in one call.
_MAX_SIMULATIONS = 64

LIKELIHOODS = {
    "full": "exact, of full rankings",
    "half": "a shared rank counts as half a discordance",
    "groups": "exact, summed over the orders of what shares a rank",
    "gaps": "exact, summed over the places of what was not ranked",
    "pairs": "composite: the exact probability of every ranked pair, multiplied as if they were independent",
}
"""What `RankingsIndex.likelihoods` says."""


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
        rankings_n: Number of people, by `counts` where they are given.
        distance: "kendall" or "spearman".
        level: Nominal coverage of the intervals.
        likelihoods: Which likelihood each prompt has, a key of `LIKELIHOODS`.
        intervals: How each prompt's interval was found: "simulated" or "profile".
        center_exact_n: False where the centre of many items is the best that was found, and perhaps not the best.
    """

    phi_n: Floats
    neg_log_phi_n: Floats
    phi_low_n: Floats
    phi_high_n: Floats
    centers: tuple[NDArray[np.int64], ...]
    mean_distance_n: Floats
    rankings_n: Floats
    distance: str
    level: float
    likelihoods: tuple[str, ...] = ()
    intervals: tuple[str, ...] = ()
    center_exact_n: NDArray[np.bool_] | None = None


def votes_index(votes: ArrayLike, *, prior: float = 0.5, level: float = 0.95) -> VotesIndex:
    """Turn votes on a pair of responses into a dispersion per prompt.

    With a votes for one response and b for the other, ties counted half to each, the majority's share is smoothed to
    p = (max(a, b) + prior)/(a + b + 2 prior), and φ̂ = (1 - p)/p, since Kendall's Mallows model puts the better of
    two neighbours first with probability 1/(1 + φ). Which response won plays no part: where `chosen` is the minority,
    φ̂ is still that of the majority's share.

    The interval for φ is the image of the central credible interval of the share θ of voters who prefer `chosen`,
    under a Beta(prior, prior) prior. It holds with posterior probability `level` or a little more, and has an upper
    end of 1 wherever θ = ½ is credible. With the default prior (Jeffreys) it also covers a fixed φ about that often in
    repetitions, if voters are independent: at level 0.95 for 3 to 50 votes and φ >= 0.05, between 0.87 and 1.00.
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


def vote_interval_coverage(votes: int, phi: float, *, prior: float = 0.5, level: float = 0.95) -> float:
    """Probability that the interval of `votes_index` holds φ, if so many independent voters have that φ; exact.

    A credible interval promises it in belief alone: coverage goes up and down with φ (Brown, Cai and DasGupta 2001).
    """
    low, high = _vote_intervals(votes, prior, level)
    chance = binom.pmf(np.arange(votes + 1), votes, 1 / (1 + phi))
    return float(chance[(low <= phi) & (phi <= high)].sum())


@lru_cache(maxsize=256)
def _vote_intervals(votes: int, prior: float, level: float) -> tuple[Floats, Floats]:
    """The intervals for every outcome, from no vote for the first response to all."""
    first = np.arange(votes + 1)
    index = votes_index(np.column_stack([first, votes - first]), prior=prior, level=level)
    return index.phi_low_n, index.phi_high_n


def poor_intervals(votes: Floats, index: VotesIndex, *, prior: float) -> tuple[int, float, int]:
    """Find the pairs whose interval holds φ clearly less often than it says, if φ is what the votes give."""
    total = votes.sum(axis=1)
    known = (votes[:, 2] == 0) & (total > 0) & (total <= _MANY_VOTES) & (votes == np.round(votes)).all(axis=1)
    cells, pairs = np.unique(np.column_stack([total, index.phi_n])[known], axis=0, return_counts=True)
    found = [
        (vote_interval_coverage(int(size), float(phi), prior=prior, level=index.level), int(size), int(count))
        for (size, phi), count in zip(cells, pairs, strict=True)
    ]
    poor = [cell for cell in found if cell[0] < index.level - _POOR_BY]
    if not poor:
        return 0, 1.0, 0
    worst, size, _ = min(poor)
    return sum(count for _, _, count in poor), worst, size


def rankings_index(
    rankings: Sequence[ArrayLike],
    distance: str = "kendall",
    *,
    level: float = 0.95,
    prior: float = 0.0,
    ties: str = "error",
    counts: Sequence[ArrayLike] | None = None,
) -> RankingsIndex:
    """Fit a Mallows model to the rankings of each prompt.

    The centre is the consensus (`mallowspo.maths.center_of_preferences`, exact to 20 items; Borda for Spearman) and φ̂
    the maximum-likelihood estimate. Identical rankings give the smallest φ̂ that is reported, e^-20; a `prior` of about
    half a ranking keeps such prompts from dwarfing all others where the rankings are few.

    The interval for φ is that of the profile likelihood: the φ whose log-likelihood is within χ²₁(level)/2 of the
    best. With up to 30 people and 12 items, Kendall's tau, no prior and nothing unranked, it is found by simulation
    instead, the fit of the centre included, and holds φ̂ too. What either covers is measured on docs/dispersion.md.

    Args:
        rankings: One array per prompt, shape (m, items); entry i of a row is the rank of response i, 1 is best.
            Prompts may differ in m and in items. There are two people or more.
        distance: "kendall", or "spearman" (to 20 items).
        level: Nominal coverage, in (0, 1).
        prior: Pseudo-rankings drawn at random, >= 0, added to the mean distance of φ̂ and of its interval (the
            conjugate prior of the exponential family). 0 is maximum likelihood.
        ties: `error` refuses ranks that are shared; `half` counts a tied pair as half a discordance, the average over
            all ways of breaking the ties (see `untie`). Then a person who ties everything
            is a person at random: the ranking says nothing of which response is better. `unordered` takes shared
            ranks for an order that was not given: the exact probability of all orders together. A top k shares the
            last rank among the rest. NaN is then allowed too: a response that this person did not see (Kendall). It
            has an exact likelihood where few items allow, and that of all ranked pairs otherwise. Spearman's rho has
            no such likelihood: it takes shared ranks by halves.
        counts: How many people gave each ranking, one array of shape (m,) per prompt; one each if left out.

    Returns:
        The index, with one row per prompt. Where nothing was put in an order, φ̂ is 1 and the interval all of (0, 1].

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
    check_distance(distance)
    if counts is not None and len(counts) != len(rankings):
        raise InputError(f"counts: got {len(counts)} arrays for the rankings of {len(rankings)} prompts")
    fits = []
    simulated: set[tuple[int, ...]] = set()
    for prompt, given in enumerate(rankings):
        try:
            ranks, weights = _checked_rankings(given, ties, None if counts is None else counts[prompt])
            fits.append(_fit_prompt(ranks, weights, distance, level, prior, ties, simulated))
        except InputError as error:
            raise InputError(f"prompt {prompt:,}: {error}") from error
    neg_log_phi = np.array([fit.likelihood.best for fit in fits])
    return RankingsIndex(
        phi_n=np.exp(-neg_log_phi),
        neg_log_phi_n=neg_log_phi,
        phi_low_n=np.exp(-np.array([fit.high for fit in fits])),
        phi_high_n=np.exp(-np.array([fit.low for fit in fits])),
        centers=tuple(fit.likelihood.center for fit in fits),
        mean_distance_n=np.array([fit.likelihood.mean_distance for fit in fits]),
        rankings_n=np.array([fit.people for fit in fits]),
        distance=distance,
        level=level,
        likelihoods=tuple(fit.likelihood.kind for fit in fits),
        intervals=tuple(fit.interval for fit in fits),
        center_exact_n=np.array([fit.center_exact for fit in fits]),
    )


def fit_sample_size(people: float, items: int) -> int:
    """How many people the test of fit looks at: all up to 500 (200 beyond 50 items), else a sample of so many."""
    return int(min(people, _FIT_PEOPLE if items <= 50 else 200))


def goodness_of_fit(
    rankings: ArrayLike,
    distance: str = "kendall",
    *,
    rng: np.random.Generator,
    draws: int = 200,
    counts: ArrayLike | None = None,
) -> float:
    """Test whether a Mallows model describes the rankings of one prompt: a parametric-bootstrap p-value.

    The statistic is the maximum mean discrepancy (Gretton et al. 2012) between the rankings and a sample from the
    fitted model, under the Mallows kernel exp(-d/E₁[d]) (Mania et al. 2018), which tells any two distributions over
    rankings apart. It is compared with samples of the same size from the fitted model, each fitted anew.
    """
    if draws < 1:
        raise InputError(f"draws: got {draws!r}, expected a positive number of bootstrap samples")
    check_distance(distance)
    ranks, weights = _checked_rankings(rankings, "error", counts)
    if (weights != np.round(weights)).any():
        raise InputError(
            f"counts: got {weights[weights != np.round(weights)][0]:g}, expected whole numbers of people; the test of "
            "fit draws people, and there are no parts of one"
        )
    people = weights.astype(np.int64)
    size = fit_sample_size(int(people.sum()), ranks.shape[1])
    if size < people.sum():
        # Without replacement, and without writing the counts out.
        chosen = np.sort(rng.choice(int(people.sum()), size, replace=False))
        ranks = ranks[np.searchsorted(np.cumsum(people), chosen, side="right")]
    else:
        ranks = np.repeat(ranks, people, axis=0)
    whole = ranks.astype(np.int64)
    model = _quick_fit(whole, distance)
    observed = _discrepancy(whole, model, rng)
    worse = 0
    for _ in range(draws):
        drawn = model.sample(size, rng)
        worse += _discrepancy(drawn, _quick_fit(drawn, distance), rng) >= observed
    return (1 + worse) / (1 + draws)


def _quick_fit(ranks: NDArray[np.int64], distance: str) -> MallowsModel:
    """Fit with a searched centre beyond a few items: hundreds of fits, where an exact centre would take minutes."""
    if distance != "kendall":
        return MallowsModel.fit(ranks, distance)
    return MallowsModel.fit(ranks, distance, center_of_preferences(preference_counts(ranks), exact_to=8))


@dataclass(frozen=True)
class _Likelihood:
    """What the rankings of one prompt say of -log φ around their centre."""

    kind: str  # a key of `LIKELIHOODS`
    center: NDArray[np.int64]
    mean_distance: float
    cost: Callable[[float], float]  # twice the negative log-likelihood at -log φ
    best: float  # -log φ where that is least
    inflation: float = 1.0  # how much wider it must be read
    scattered: bool = False  # whether a simulation of these people would scatter


@dataclass(frozen=True)
class _PromptFit:
    """One prompt's fit; low and high bound -log φ."""

    likelihood: _Likelihood
    low: float
    high: float
    people: float
    interval: str
    center_exact: bool


def _checked_rankings(given: ArrayLike, ties: str, counts: ArrayLike | None) -> tuple[Floats, Floats]:
    """Check one prompt's rankings, and return them with the number of people behind each (zeros left out)."""
    try:
        ranks = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("rankings: expected numbers, one row per person and one column per response") from error
    if ranks.ndim != 2 or ranks.shape[1] < 2:
        raise InputError(
            f"rankings: got shape {ranks.shape}, expected (people, responses) with at least 2 responses to rank"
        )
    try:
        weights = np.ones(len(ranks)) if counts is None else np.asarray(counts, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("counts: expected one number per ranking") from error
    if weights.shape != (len(ranks),) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(f"counts: expected {len(ranks):,} finite numbers >= 0, one per ranking")
    if weights.sum() < 2:
        raise InputError(f"rankings: got {weights.sum():g} ranking, a dispersion needs at least 2")
    given_by = weights > 0
    if ties == "error":
        as_rankings(np.asarray(given)[given_by])
    missing = np.isnan(ranks) & given_by[:, None]
    if ties == "half" and missing.any():
        row, column = (int(place[0]) for place in np.nonzero(missing))
        raise InputError(
            f"rankings: row {row:,} has no rank for response {column:,}; every response needs one, or ties='unordered'"
        )
    return ranks[given_by], weights[given_by]


def _fit_prompt(
    ranks: Floats,
    weights: Floats,
    distance: str,
    level: float,
    prior: float,
    ties: str,
    simulated: set[tuple[int, ...]],
) -> _PromptFit:
    items, people = ranks.shape[1], float(weights.sum())
    if distance == "spearman":
        found = _spearman(ranks, weights, prior)
    elif np.isnan(ranks).any():
        found = _kendall_of_parts(ranks, weights, prior)
    else:
        found = _kendall(ranks, weights, prior, ties)
    low, high = _profile(found.cost, found.best, float(chi2.ppf(level, 1)) * found.inflation)
    fit = _PromptFit(found, low, high, people, "profile", distance == "spearman" or items <= KEMENY_LIMIT)
    few = people <= FEW_PEOPLE and items <= MAX_SIMULATED_ITEMS and (weights == np.round(weights)).all()
    if not few or prior > 0 or not found.scattered:
        return fit
    rows = np.repeat(ranks, weights.astype(np.int64), axis=0)
    kind = (len(rows), items, hash(tuple(sorted(map(tuple, bucket_sizes(rows))))))
    if kind not in simulated and len(simulated) >= _MAX_SIMULATIONS:
        return fit
    simulated.add(kind)
    low, high = simulated_interval(rows, level)
    return replace(fit, low=min(low, found.best), high=max(high, found.best), interval="simulated")


def _kendall(ranks: Floats, weights: Floats, prior: float, ties: str) -> _Likelihood:
    """Of rankings of all items, some of which may share a rank."""
    items, people, shared = ranks.shape[1], float(weights.sum()), shares_ranks(ranks)
    center = center_of_preferences(preference_counts(ranks, weights))
    against = float(weights @ discordant_pairs(ranks, center))
    sizes = bucket_sizes(ranks)
    groups = np.zeros(items + 1)
    if shared and ties == "half":
        against += float(weights @ (sizes * (sizes - 1) / 4).sum(axis=1))
    elif shared:
        groups += np.bincount(sizes.ravel(), np.repeat(weights, items), items + 1)
        groups[:2] = 0
    size, target = people + prior, against + prior * items * (items - 1) / 4
    which = np.flatnonzero(groups)

    def expected(value: float) -> float:
        """Expected discordant pairs between groups at -log φ = value, all people together."""
        inside = sum(groups[s] * expected_distance(int(s), value) for s in which)
        return size * expected_distance(items, value) - float(inside)

    def cost(value: float) -> float:
        inside = sum(groups[s] * log_normalizer(int(s), value) for s in which)
        return float(2 * (value * target + size * log_normalizer(items, value) - float(inside)))

    if not shared:
        best = neg_log_phi_from_mean_distance(target / size, items)
    elif target >= expected(0.0) * (1 - 1e-12):
        best = 0.0
    elif target <= expected(MAX_NEG_LOG_PHI):
        best = MAX_NEG_LOG_PHI
    else:
        best = float(brentq(lambda value: expected(value) - target, 0.0, MAX_NEG_LOG_PHI, xtol=1e-13))
    kind = "full" if not shared else "half" if ties == "half" else "groups"
    scattered = kind != "half" and expected(0.0) != 0
    return _Likelihood(kind, center, against / people, cost, best, scattered=scattered)


def _spearman(ranks: Floats, weights: Floats, prior: float) -> _Likelihood:
    """Of rankings of all items; shared ranks count by halves."""
    if np.isnan(ranks).any():
        row = int(np.argmax(np.isnan(ranks).any(axis=1)))
        raise InputError(
            f"distance: spearman needs every response ranked by everybody, and row {row:,} leaves one out; kendall "
            "takes what was ranked"
        )
    shared, people = shares_ranks(ranks), float(weights.sum())
    strict = untie(ranks) if shared else untie(ranks)[: len(ranks)]
    share = np.concatenate([weights, weights]) / 2 if shared else weights
    items = strict.shape[1]
    center = np.empty(items, dtype=np.int64)
    center[np.argsort(np.round(share @ strict, 9), kind="stable")] = np.arange(1, items + 1)
    mean_distance = float(share @ spearman_rho(strict, center) / people)
    size = people + prior
    target = (people * mean_distance + prior * items * (items**2 - 1) / 6) / size

    def cost(value: float) -> float:
        return float(2 * size * (value * target + MallowsModel(center, math.exp(-value), "spearman").log_normalizer()))

    best = neg_log_phi_from_mean_distance(target, items, "spearman")
    return _Likelihood("half" if shared else "full", center, mean_distance, cost, best)


def untie(ranks: Floats) -> NDArray[np.int64]:
    """Turn each ranking with ties into two without: ties broken one way, and exactly the other way round; (2m, n).

    The mean over the two of Kendall's tau to any centre is that over all ways of breaking the ties: a tied pair counts
    half a discordance. The same holds for Spearman's rho, since the two ranks of a tied item lie as far above the
    middle of its group as below, and their squares add up to the group's variance. So a Mallows model fitted to the
    two has the centre and the dispersion of the average over all ways.
    """
    forward, backward = (rankdata(some, method="ordinal", axis=1) for some in (ranks, ranks[:, ::-1]))
    return np.concatenate([forward, backward[:, ::-1]]).astype(np.int64)


def shares_ranks(ranks: Floats) -> bool:
    """Whether any of the rankings, shape (m, n), gives two items one rank."""
    return bool((np.diff(np.sort(ranks, axis=1), axis=1) == 0).any())


def _kendall_of_parts(ranks: Floats, weights: Floats, prior: float) -> _Likelihood:
    """Of rankings of some of the items: exact where the items are few, otherwise that of their pairs."""
    items, people = ranks.shape[1], float(weights.sum())
    center = center_of_preferences(preference_counts(ranks, weights))
    mean_distance = float(weights @ discordant_pairs(ranks, center)) / people
    different, where = np.unique(np.nan_to_num(ranks), axis=0, return_inverse=True)
    different[different == 0] = np.nan
    weight = np.asarray(np.bincount(where.ravel(), weights, len(different)), np.float64)
    length = items * (items - 1) // 2 + 1
    few = len(different) * 2.0**items * items * length <= _EXACT_BUDGET
    distances = np.arange(length)
    log_counts = np.log(np.maximum(extension_counts(different, center), 1e-300)) if few else np.zeros((0, 1))
    agree, disagree = (np.zeros((0, 0)),) * 2 if few else _pairs_by_gap(different, center)

    def each(value: float) -> Floats:
        """Log-likelihood of each different ranking at -log φ = value."""
        if few:
            return np.asarray(logsumexp(log_counts - value * distances, axis=1) - log_normalizer(items, value))
        tail = np.maximum(pairwise_tail(np.arange(1, items), value), 1e-300)
        return np.asarray(agree @ np.log1p(-tail) + disagree @ np.log(tail))

    def cost(value: float) -> float:
        pseudo = prior * (value * items * (items - 1) / 4 + log_normalizer(items, value))
        return float(2 * (pseudo - float(weight @ each(value))))

    kind = "gaps" if few else "pairs"
    grid = np.concatenate([[0.0], np.geomspace(1e-3, MAX_NEG_LOG_PHI, 60)])
    costs = np.array([cost(value) for value in grid])
    if np.ptp(costs) < 1e-9:  # nothing was put in an order
        return _Likelihood(kind, center, mean_distance, cost, 0.0)
    least = int(np.argmin(costs))
    ends = (float(grid[max(0, least - 1)]), float(grid[min(len(grid) - 1, least + 1)]))
    inner = float(minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-9}).x)
    best = min((inner, float(grid[least])), key=cost)
    inflation = 1.0 if few else _pair_inflation(each, weight, best)
    return _Likelihood(kind, center, mean_distance, cost, best, inflation)


def _pairs_by_gap(ranks: Floats, center: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Pairs that each ranking orders with and against the centre, by their gap in it, shape (m, items - 1) each."""
    ordered = ranks[:, np.argsort(center)]
    items = ranks.shape[1]
    agree, disagree = np.zeros((len(ranks), items - 1)), np.zeros((len(ranks), items - 1))
    for gap in range(1, items):
        agree[:, gap - 1] = (ordered[:, :-gap] < ordered[:, gap:]).sum(axis=1)
        disagree[:, gap - 1] = (ordered[:, :-gap] > ordered[:, gap:]).sum(axis=1)
    return agree, disagree


def _pair_inflation(each: Callable[[float], Floats], weight: Floats, neg_log_phi: float) -> float:
    """How much wider the pairs' likelihood must be read, since one person's pairs are not independent (Godambe)."""
    step = min(max(1e-3, 1e-3 * neg_log_phi), 0.1)
    at = min(max(neg_log_phi, step), MAX_NEG_LOG_PHI - step)
    before, here, after = each(at - step), each(at), each(at + step)
    slope, bend = (after - before) / (2 * step), (before - 2 * here + after) / step**2
    curvature = -float(weight @ bend)
    mean = float(weight @ slope / weight.sum())
    return max(1.0, float(weight @ (slope - mean) ** 2) / curvature) if curvature > 0 else 1.0


def _profile(cost: Callable[[float], float], neg_log_phi: float, limit: float) -> tuple[float, float]:
    """Where twice the log-likelihood has fallen by the limit, on either side of its best."""
    best = cost(neg_log_phi)

    def excess(value: float) -> float:
        return cost(value) - best - limit

    low = 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, neg_log_phi))
    end = excess(MAX_NEG_LOG_PHI) <= 0
    return low, MAX_NEG_LOG_PHI if end else float(brentq(excess, neg_log_phi, MAX_NEG_LOG_PHI))


def _discrepancy(ranks: NDArray[np.int64], model: MallowsModel, rng: np.random.Generator) -> float:
    """Squared maximum mean discrepancy between rankings and a sample from a model."""
    first, second = np.triu_indices(model.items, 1)
    width = model.items * (model.items - 1) / 4

    def signs(some: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.where(some[:, first] < some[:, second], np.float32(1), np.float32(-1))

    def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        discordant = (len(first) - one @ other.T) / 2
        return float(np.exp(-discordant / width).mean(dtype=np.float64))

    given, expected = signs(ranks), signs(model.sample(_MODEL_SAMPLE, rng))
    return likeness(given, given) + likeness(expected, expected) - 2 * likeness(given, expected)


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
