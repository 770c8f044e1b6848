"""Exact agreement of a policy with a population, where the answers can be enumerated.

Everything here is a function of three arrays: the log-probabilities of a policy and of a reference over the K
candidates of each prompt (`mallowspo.evaluation.candidate_tree` computes them), and the population's pairwise
preferences. No sampling, no judge, no model.

A model also puts some mass outside the candidates. Agreement is therefore given twice:

- *counted*: an answer outside the candidates is no answer. When the policy gives one it has lost, whatever the
  reference says; when only the reference gives one, the policy has won.
- *renormalised*: both models are conditioned on answering with a candidate. This flatters a policy that
  wanders off, and is reported beside the first, never instead of it.

Suffixes: p prompts, k candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError

__all__ = [
    "Agreement",
    "Frontier",
    "agreement",
    "agreement_of_answers",
    "choice_entropy",
    "expected_value",
    "optimal_frontier",
    "optimal_policies",
    "order_accuracy",
    "outside_mass",
    "share_of_optimum",
    "terciles",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Probability that a random member of the population prefers the policy's answer to the reference's.

    Attributes:
        counted_p: With mass outside the candidates counted as lost, shape (P,).
        renormalised_p: Given that both answer with a candidate, shape (P,).
    """

    counted_p: Floats
    renormalised_p: Floats


@dataclass(frozen=True)
class Frontier:
    """The best agreement that any policy can reach at each KL from the reference; means over the prompts.

    Attributes:
        temperature: τ of each point, shape (T,).
        kl: Mean KL over whole sequences, nats, shape (T,), increasing.
        agreement: Mean agreement, counted, shape (T,).
    """

    temperature: Floats
    kl: Floats
    agreement: Floats


def _logps(logp_pk: ArrayLike) -> Floats:
    array = np.asarray(logp_pk, dtype=np.float64)
    if array.ndim != 2 or not np.all(np.exp(array).sum(axis=1) <= 1.0 + 1e-6):
        raise InputError(
            f"log-probabilities of candidates: got shape {array.shape}, expected (prompts, candidates) in nats, "
            f"with probabilities that sum to at most 1 for each prompt"
        )
    return array


def _preferences(preference_pkk: ArrayLike, shape: tuple[int, ...]) -> Floats:
    array = np.asarray(preference_pkk, dtype=np.float64)
    expected = (shape[0], shape[1], shape[1])
    if array.shape != expected or not np.allclose(array + array.transpose(0, 2, 1), 1.0, atol=1e-9):
        raise InputError(
            f"preference_pkk: got shape {array.shape}, expected {expected} with entries (i, j) and (j, i) that sum "
            f"to 1 and ½ on the diagonal"
        )
    return array


def outside_mass(logp_pk: ArrayLike) -> Floats:
    """Probability that a model's answer is none of the candidates, 1 − Σ_k π(y_k | x).

    Args:
        logp_pk: Log-probabilities of the whole candidates, nats, shape (P, K).

    Returns:
        Mass in [0, 1], shape (P,).

    Example:
        >>> outside_mass(np.log([[0.5, 0.25]])).round(6).tolist()
        [0.25]
    """
    return np.asarray(np.maximum(0.0, 1.0 - np.exp(_logps(logp_pk)).sum(axis=1)), dtype=np.float64)


def agreement_of_answers(reference_logp_pk: ArrayLike, preference_pkk: ArrayLike) -> Floats:
    """A_i: probability that a random member prefers candidate i to the reference's answer, shape (P, K)."""
    reference = _logps(reference_logp_pk)
    preferences = _preferences(preference_pkk, reference.shape)
    beats_candidates = np.einsum("pij,pj->pi", preferences, np.exp(reference))
    return np.asarray(beats_candidates + outside_mass(reference)[:, None])


def expected_value(logp_pk: ArrayLike, value_pk: ArrayLike) -> Floats:
    """Mean value of a model's answer, E_π[V], where any answer outside the candidates is worth 0.

    Args:
        logp_pk: Log-probabilities of the whole candidates, nats, shape (P, K).
        value_pk: What each candidate is worth, shape (P, K).

    Returns:
        Mean per prompt, shape (P,).

    Example:
        >>> expected_value(np.log([[0.5, 0.25]]), [[1.0, 0.4]]).round(6).tolist()
        [0.6]
    """
    return np.asarray((np.exp(_logps(logp_pk)) * np.asarray(value_pk, dtype=np.float64)).sum(axis=1))


def order_accuracy(policy_logp_pk: ArrayLike, reference_logp_pk: ArrayLike, rank_pk: ArrayLike) -> Floats:
    """Share of the pairs of candidates that the implicit reward log π/π_ref puts in the order of a ranking.

    Args:
        policy_logp_pk: Log-probabilities of the whole candidates under the policy, nats, shape (P, K).
        reference_logp_pk: The same under the reference.
        rank_pk: Ranks of the candidates, 1 is best, none twice, shape (P, K).

    Returns:
        Share per prompt, shape (P,); equal rewards count half, so that a policy equal to the reference has ½.

    Example:
        >>> order_accuracy(np.log([[0.6, 0.1, 0.3]]), np.log([[0.3, 0.3, 0.4]]), [[1, 2, 3]]).round(6).tolist()
        [0.666667]
    """
    reward_pk = _logps(policy_logp_pk) - _logps(reference_logp_pk)
    rank = np.asarray(rank_pk, dtype=np.float64)
    first, second = np.triu_indices(rank.shape[1], k=1)
    right = np.sign(reward_pk[:, first] - reward_pk[:, second]) * np.sign(rank[:, second] - rank[:, first])
    return np.asarray((0.5 + 0.5 * right).mean(axis=1))


def agreement(policy_logp_pk: ArrayLike, reference_logp_pk: ArrayLike, preference_pkk: ArrayLike) -> Agreement:
    """How often a random member of the population prefers the policy's answer to the reference's, exactly.

    Σ_ij π(i) π_ref(j) P(i ≻ j), equal answers counting ½. The module's head says what becomes of other answers.

    Args:
        policy_logp_pk: Log-probabilities of the whole candidates under the policy, nats, shape (P, K).
        reference_logp_pk: The same under the reference.
        preference_pkk: P(a random member prefers candidate i to candidate j), shape (P, K, K), diagonal ½.

    Returns:
        Agreement per prompt. A policy equal to the reference has renormalised agreement ½, and counted agreement
        ½(1 − o²) where both put mass o outside.

    Raises:
        InputError: Shapes do not fit or values are no probabilities.

    Example:
        >>> result = agreement(np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]]), [[[0.5, 0.8], [0.2, 0.5]]])
        >>> result.counted_p.round(6).tolist()  # 0.9 · (0.25 + 0.4) + 0.1 · (0.1 + 0.25)
        [0.62]
    """
    policy, reference = _logps(policy_logp_pk), _logps(reference_logp_pk)
    if policy.shape != reference.shape:
        raise InputError(
            f"agreement: got shapes {policy.shape} and {reference.shape}; score both models on the same candidates"
        )
    preferences = _preferences(preference_pkk, policy.shape)
    counted_p = expected_value(policy, agreement_of_answers(reference, preferences))
    renormalised_p = np.einsum("pi,pij,pj->p", _conditional(policy), preferences, _conditional(reference))
    return Agreement(counted_p, renormalised_p)


def _conditional(logp_pk: Floats) -> Floats:
    """Probabilities given that the answer is a candidate."""
    shifted = np.exp(logp_pk - logp_pk.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def choice_entropy(logp_pk: ArrayLike) -> Floats:
    """Entropy of the choice among the candidates, given that one of them is chosen.

    Args:
        logp_pk: Log-probabilities, nats, shape (P, K); they need not sum to 1.

    Returns:
        Entropy in nats, between 0 and log K, shape (P,).

    Example:
        >>> choice_entropy(np.log([[0.25, 0.25]])).round(6).tolist()
        [0.693147]
    """
    probability_pk = _conditional(np.asarray(logp_pk, dtype=np.float64))
    with np.errstate(divide="ignore"):
        log_pk = np.where(probability_pk > 0, np.log(probability_pk), 0.0)
    return np.asarray(-(probability_pk * log_pk).sum(axis=1))


def optimal_frontier(
    reference_logp_pk: ArrayLike, preference_pkk: ArrayLike, temperatures: Sequence[float] | Floats
) -> Frontier:
    """The exact frontier of agreement against KL: no policy lies above it.

    Agreement with a fixed reference is linear in the policy, so that the policy with the highest
    E_π[A] − τ KL(π ‖ π_ref) is π*(y | x) ∝ π_ref(y | x) exp(A(y)/τ), with A(y) the agreement of answer y and A = 0
    for every answer outside the candidates (Rafailov et al. 2023, arXiv 2305.18290, eq. 4, with A as the reward). It
    scales all outside answers alike: its KL over whole sequences equals the KL over candidates and outside mass.

    Args:
        reference_logp_pk: Log-probabilities of the whole candidates under the reference, nats, shape (P, K).
        preference_pkk: P(a random member prefers candidate i to candidate j), shape (P, K, K), diagonal ½.
        temperatures: τ > 0, in units of agreement; one τ holds for all prompts.

    Returns:
        The frontier, ordered by KL.

    Raises:
        InputError: Shapes do not fit, values are no probabilities, or a temperature is not positive.

    Example:
        >>> frontier = optimal_frontier(np.log([[0.5, 0.5]]), [[[0.5, 1.0], [0.0, 0.5]]], [1e3, 1e-3])
        >>> frontier.agreement.round(3).tolist(), frontier.kl.round(4).tolist()
        ([0.5, 0.75], [0.0, 0.6931])
    """
    value_pk = agreement_of_answers(reference_logp_pk, preference_pkk)
    tau, kl, logp_tpk = optimal_policies(reference_logp_pk, value_pk, temperatures)
    return Frontier(tau, kl, np.asarray([expected_value(logp_pk, value_pk).mean() for logp_pk in logp_tpk]))


def optimal_policies(
    reference_logp_pk: ArrayLike, value_pk: ArrayLike, temperatures: Sequence[float] | Floats
) -> tuple[Floats, Floats, Floats]:
    """The policies with the highest E_π[V] − τ KL(π ‖ π_ref): π* ∝ π_ref exp(V/τ), with V = 0 outside the candidates.

    Args:
        reference_logp_pk: Log-probabilities of the whole candidates under the reference, nats, shape (P, K).
        value_pk: What each candidate is worth, shape (P, K).
        temperatures: τ > 0, in units of the value; one τ holds for all prompts.

    Returns:
        τ in falling order, shape (T,); the mean KL over whole sequences, nats, shape (T,); the policies'
        log-probabilities of the candidates, shape (T, P, K).

    Raises:
        InputError: Values are no probabilities, or a temperature is not positive.

    Example:
        >>> _, kl, logp = optimal_policies(np.log([[0.5, 0.5]]), [[1.0, 0.0]], [1.0])
        >>> np.exp(logp[0, 0]).round(4).tolist(), kl.round(4).tolist()
        ([0.7311, 0.2689], [0.1109])
    """
    reference, value = _logps(reference_logp_pk), np.asarray(value_pk, dtype=np.float64)
    tau = np.sort(np.asarray(temperatures, dtype=np.float64))[::-1]
    if tau.size == 0 or not np.all(tau > 0):
        raise InputError(f"temperatures: got {temperatures!r}, expected numbers > 0")
    # The outside is one more answer, of value 0, with all of the outside mass.
    with np.errstate(divide="ignore"):
        all_logp = np.concatenate([reference, np.log(outside_mass(reference))[:, None]], axis=1)
    all_value = np.concatenate([value, np.zeros((len(value), 1))], axis=1)
    kl, logps = [], []
    for temperature in tau:
        tilt = all_logp + all_value / temperature
        top = tilt.max(axis=1, keepdims=True)
        log_normalizer = top + np.log(np.exp(tilt - top).sum(axis=1, keepdims=True))
        logps.append(tilt - log_normalizer)
        # log π*/π_ref = V/τ − log Z needs no logarithm of an outside mass that may be 0.
        kl.append((np.exp(logps[-1]) * (all_value / temperature - log_normalizer)).sum(axis=1).mean())
    return tau, np.maximum(0.0, np.asarray(kl)), np.stack(logps)[:, :, :-1]


def share_of_optimum(agreement_mean: float, kl_mean: float, frontier: Frontier) -> float:
    """Share of the possible gain over the reference that a policy reaches at its own KL.

    Args:
        agreement_mean: The policy's mean agreement, counted.
        kl_mean: Its mean KL from the reference over whole sequences, nats.
        frontier: The exact optimum; its first point should lie near KL = 0.

    Returns:
        The policy's gain in agreement over the reference, divided by the optimum's at the same KL; 1 on the frontier,
        negative where the policy is worse than the reference. NaN at KL = 0, where nothing can be gained.

    Example:
        >>> line = Frontier(np.array([9.0, 1.0]), np.array([0.0, 0.2]), np.array([0.5, 0.6]))
        >>> round(share_of_optimum(0.525, 0.1, line), 6)
        0.5
    """
    start = float(frontier.agreement[0])
    possible = float(np.interp(kl_mean, frontier.kl, frontier.agreement)) - start
    return (agreement_mean - start) / possible if possible > 0 else float("nan")


def terciles(values_p: ArrayLike) -> NDArray[np.int64]:
    """Split prompts into three groups of (nearly) equal size by a value.

    Args:
        values_p: One number per prompt, shape (P,), P ≥ 3.

    Returns:
        0 for the lowest third, 1 for the middle, 2 for the highest, shape (P,). Ties are split by position.

    Raises:
        InputError: Fewer than three prompts.

    Example:
        >>> terciles([0.9, 0.1, 0.5]).tolist()
        [2, 0, 1]
    """
    values = np.asarray(values_p, dtype=np.float64)
    if values.ndim != 1 or len(values) < 3:
        raise InputError(f"terciles: got shape {values.shape}, expected one number for each of at least 3 prompts")
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank * 3 // len(values)
