"""From verdicts to win rates: raw, with its errors, by tercile of dispersion, and how far the two orders agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.exact import terciles
from mallowspo.stats.bootstrap import bootstrap

__all__ = [
    "OrderCheck",
    "WinRate",
    "both_orders",
    "check_orders",
    "no_result",
    "win_rate",
    "win_rate_by_tercile",
]

Floats = NDArray[np.float64]

# A pair on which the orders name different winners is a tie, so that a judge who always takes the first place makes
# 50% with a narrow interval whatever it is shown. Two orders that are independent coins agree on half of the pairs.
AGREEMENT_FOR_A_RESULT = 0.5


@dataclass(frozen=True)
class WinRate:
    """How often a model beat the baseline; all rates in percent, ties counted as half."""

    win_rate: float
    standard_error: float  # of the mean over prompts, in points; NaN for one prompt
    low: float  # of the 95% bootstrap interval over prompts
    high: float
    wins: int  # prompts with a preference above ½
    ties: int  # prompts with ½
    losses: int  # prompts below ½
    prompts: int


@dataclass(frozen=True)
class OrderCheck:
    """What swapping the answers did to the judge."""

    consistent: float  # share of prompts on which both orders named the same winner, or both a tie
    first_preferred: float  # mean preference for the answer shown first; ½ for a judge whom places do not move
    win_rate_shown_first: float  # in percent, where the model's answer stood first
    win_rate_shown_second: float


def _preferences(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise InputError(f"{name}: got shape {array.shape}, expected one preference for each of at least one prompt")
    if not np.all((array >= 0.0) & (array <= 1.0)):
        raise InputError(f"{name}: preferences must lie in [0, 1]; 1 is the model's win, ½ a tie")
    return array


def _orders(model_first_n: ArrayLike, model_second_n: ArrayLike) -> tuple[Floats, Floats]:
    first = _preferences(model_first_n, "model_first_n")
    second = _preferences(model_second_n, "model_second_n")
    if first.shape != second.shape:
        raise InputError(
            f"model_second_n: got {len(second)} verdicts, {len(first)} of the other order; expected as many"
        )
    return first, second


def both_orders(model_first_n: ArrayLike, model_second_n: ArrayLike) -> Floats:
    """Join the verdicts of both orders: where they disagree on the winner, the pair is a tie."""
    first, second = _orders(model_first_n, model_second_n)
    same_side = (first - 0.5) * (second - 0.5) > 0
    return np.where(same_side, (first + second) / 2, 0.5)


def check_orders(model_first_n: ArrayLike, model_second_n: ArrayLike) -> OrderCheck:
    """Measure what the order in which two answers are shown does to a judge."""
    first, second = _orders(model_first_n, model_second_n)
    return OrderCheck(
        consistent=float(np.mean(np.sign(first - 0.5) == np.sign(second - 0.5))),
        first_preferred=float(np.mean(np.concatenate([first, 1.0 - second]))),
        win_rate_shown_first=100.0 * float(first.mean()),
        win_rate_shown_second=100.0 * float(second.mean()),
    )


def no_result(orders: OrderCheck, prompts: int, missing: int = 0) -> str | None:
    """Say why the win rate of a judge that was asked in both orders is no result; None where it is one."""
    if missing > prompts:
        return (
            f"no result: the judge gave no verdict that can be read in {missing:,} of {2 * prompts:,} cases, so that "
            "the win rate is mostly ties that stand for nothing"
        )
    if orders.consistent >= AGREEMENT_FOR_A_RESULT:
        return None
    place = "first" if orders.first_preferred > 0.5 else "second"
    share = max(orders.first_preferred, 1 - orders.first_preferred)
    bias = f", and prefers the answer shown {place} in {100 * share:.0f}%" if share > 0.6 else ""
    return (
        f"no result: the judge contradicts itself when the answers swap places (both orders agree on "
        f"{100 * orders.consistent:.0f}% of {prompts:,} pairs{bias}), so that the win rate is mostly ties that it made"
    )


def win_rate(preference_n: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> WinRate:
    """Average preferences over prompts.

    Args:
        preference_n: Preference for the model on each prompt, in [0, 1]; ½ is a tie. Shape (N,), N ≥ 1.
        resamples: Of the bootstrap over prompts (percentile interval, 95%), at least 1.
        seed: Of the bootstrap.

    Returns:
        The win rate and its errors. The standard error is std(ddof=1)/√N, as AlpacaEval reports it.

    Raises:
        InputError: No preference, or one outside [0, 1].

    Example:
        >>> found = win_rate([1, 1, 0, 0.5])
        >>> found.win_rate, round(found.standard_error, 3), found.ties
        (62.5, 23.936, 1)
    """
    y = _preferences(preference_n, "preference_n")
    n = len(y)
    rng = np.random.default_rng(seed)
    found = bootstrap(lambda rows: float(y[rows].mean()), range(n), rng=rng, resamples=resamples, fewest_groups=1)
    return WinRate(
        win_rate=100.0 * found.mean,
        standard_error=100.0 * float(np.std(y, ddof=1)) / float(np.sqrt(n)) if n > 1 else float("nan"),
        low=100.0 * found.low,
        high=100.0 * found.high,
        wins=int(np.sum(y > 0.5)),
        ties=int(np.sum(y == 0.5)),
        losses=int(np.sum(y < 0.5)),
        prompts=n,
    )


def win_rate_by_tercile(
    preference_n: ArrayLike, dispersion_n: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> tuple[WinRate, WinRate, WinRate]:
    """Split the prompts into thirds by dispersion, lowest first, and average in each."""
    y = _preferences(preference_n, "preference_n")
    values = np.asarray(dispersion_n, dtype=np.float64)
    if values.shape != y.shape:
        raise InputError(f"dispersion: got {values.size} values for {len(y)} prompts, expected one for each")
    if not np.all(np.isfinite(values)):
        raise InputError("dispersion: a value is not a finite number")
    group = terciles(values)
    low, middle, high = (win_rate(y[group == k], resamples=resamples, seed=seed) for k in range(3))
    return low, middle, high
