r"""One loss per ranked list, for the three objectives that read a list whole.

Shapes: `B` lists of up to `K` responses to one prompt each. Log-probabilities are in nats, summed over a response's
tokens. Legend: s_k = beta times the response's score (policy minus alpha times the reference), lam = -log phi = w/2.

A ranking is read as successive choices: the best of all, then the best of the rest. With M the responses that are
left, the chance that k is chosen from them is a softmax over M of

    plackett_luce      s_k
    mallows_list_phi   -lam * v_k,   v_k = sum over j in M of sigma((s_j - s_k) / tau)

v_k counts the responses of M that are better than k. As tau -> 0 it is the whole number i - 1 for the i-th best, the
softmax is phi^(i-1) (1 - phi)/(1 - phi^m), and the product over the choices is the likelihood of the Mallows model
with Kendall's tau. The softmax keeps the relaxed choices a distribution, so that the chances of all rankings sum to 1
at every tau. Where responses share a rank nothing is said of their order: the likelihood is the sum over all orders
that agree with the list. Responses that share the last place have their order summed to 1, which leaves the first k
choices: a top k.

`mallows_list_theta` is the composite likelihood: the sum over the list's pairs of the pairwise loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mallowspo.errors import InputError
from mallowspo.objectives.pairwise import (
    as_float,
    check_beta,
    check_shape,
    check_values,
    objective_loss,
    response_scores,
)
from mallowspo.objectives.presets import Objective, resolve_objective

__all__ = ["listwise_loss"]

# Subsets of a list with inner ties are gone through one by one: 2^12 are milliseconds, 2^20 are not.
MAX_TIED = 12


def listwise_loss(
    policy_logps: Tensor,
    reference_logps: Tensor | None,
    ranks: Tensor,
    *,
    objective: str | Objective = "mallows_list_theta",
    beta: float | Tensor = 0.1,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    link: str | None = None,
    length_normalized: bool | None = None,
    reference_weight: float | None = None,
    margin: float | None = None,
    label_smoothing: float | None = None,
    kendall_smoothing: float | None = None,
    rank_temperature: float | None = None,
) -> Tensor:
    r"""Loss of each ranked list under one of the objectives for lists.

    Args:
        policy_logps: log pi(y_k | x), shape (B, K), nats.
        reference_logps: log pi_ref(y_k | x), shape (B, K), nats; None with `reference_weight` 0.
        ranks: Shape (B, K), 1 is best, any finite numbers of which the smaller is better. Equal ranks leave the order
            open; the first k of K known is the same with all others in one last place.
        objective: `plackett_luce`, `mallows_list_theta` or `mallows_list_phi`, or an `Objective` for lists.
        beta: Scale of the implicit reward, > 0: one number, or one a list, shape (B,).
        weight: Dispersion weight w(x) = -2 log phi(x) >= 0, one a list, shape (B,). Required by the mallows
            objectives, refused by `plackett_luce`, whose chances know no dispersion. No gradient flows into it.
        mask: True where a response is there, shape (B, K); all are where it is left out. What stands at the other
            places is not read.
        lengths: Tokens, shape (B, K); required by length normalisation.
        link: Axis of `mallows_list_theta`: the link of its pairs; None takes the preset's value, here and below.
        length_normalized: Axis: mean instead of summed log-probability.
        reference_weight: Axis: alpha in [0, 1].
        margin: Axis of `mallows_list_theta`: gamma >= 0 in the gap's unit.
        label_smoothing: Axis of `mallows_list_theta`: epsilon in [0, 0.5).
        kendall_smoothing: Axis of `mallows_list_theta` with the Kendall link.
        rank_temperature: Axis of `mallows_list_phi`: tau > 0 in the unit of s. At the default 1/4 the pull of a pair
            at a gap of 0 is that of `mallows_theta`.

    Returns:
        Losses, shape (B,), nats, float32 or better, not reduced: minus the log-likelihood of the list
        (`mallows_list_theta`: the sum over its pairs, not divided by their number). 0 where a list has no two
        responses in an order.

    Raises:
        InputError: An unknown objective, a value outside its range, a tensor that is missing or that the objective
            cannot use, shapes that differ, or inner ties among more than 12 responses.

    Source:
        Rafailov et al. 2023 (arXiv 2305.18290), appendix A.3, for Plackett-Luce; Fligner and Verducci, Journal of the
        Royal Statistical Society B 1986, for repeated selection under Kendall's tau; the relaxation is ours.

    Example:
        >>> policy, reference = torch.tensor([[-10.0, -12.0, -11.0]]), torch.tensor([[-11.0, -11.0, -11.0]])
        >>> ranks = torch.tensor([[1, 3, 2]])  # s = 1, -1, 0: log(1 + e^-1 + e^-2) + log(1 + e^-1)
        >>> listwise_loss(policy, reference, ranks, objective="plackett_luce", beta=1.0).round(decimals=4)
        tensor([0.7209])
    """
    resolved = resolve_objective(
        objective,
        link=link,
        length_normalized=length_normalized,
        reference_weight=reference_weight,
        margin=margin,
        label_smoothing=label_smoothing,
        kendall_smoothing=kendall_smoothing,
        rank_temperature=rank_temperature,
    )
    if resolved.form == "pair":
        raise InputError(
            f"objective: {objective!r} reads pairs; use pairwise_loss, or one of 'plackett_luce', "
            "'mallows_list_theta', 'mallows_list_phi' for lists"
        )
    if weight is None and resolved.dispersion != "none":
        raise InputError(
            f"weight: objective {objective!r} weighs every prompt by its dispersion; give weight, shape (B,)"
        )
    return objective_list_loss(
        resolved, policy_logps, reference_logps, ranks, beta=beta, weight=weight, mask=mask, lengths=lengths
    )


def objective_list_loss(
    objective: Objective,
    policy_logps: Tensor,
    reference_logps: Tensor | None,
    ranks: Tensor,
    *,
    beta: float | Tensor,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Loss of each list for a resolved objective; what the trainer calls. See `listwise_loss`."""
    beta = check_beta(beta)
    if policy_logps.ndim != 2:
        raise InputError(f"policy_logps: got shape {tuple(policy_logps.shape)}, expected (B, K)")
    check_shape("ranks", ranks, policy_logps)
    if isinstance(beta, Tensor):
        check_shape("beta", beta, policy_logps[:, 0])
        beta = beta.to(as_float(policy_logps))[:, None]
    mask_bk = torch.ones_like(policy_logps, dtype=torch.bool) if mask is None else mask.bool()
    check_shape("mask", mask_bk, policy_logps)
    ranks_bk = ranks.to(torch.float64)
    if not bool(torch.isfinite(ranks_bk[mask_bk]).all()):
        raise InputError(
            "ranks: a response has no finite rank; give all that are only known to be worse than the others one "
            "last rank, and take out by mask those of which nothing is known"
        )
    if weight is not None:
        if objective.form == "plackett_luce":
            raise InputError("weight: plackett_luce knows no dispersion; use mallows_list_theta or mallows_list_phi")
        check_shape("weight", weight, policy_logps[:, 0])
        check_values("weight", weight, low=0.0)
    # What stands at a missing response may be anything, NaN too: it must reach neither loss nor gradient.
    policy_bk = as_float(policy_logps).masked_fill(~mask_bk, 0.0)
    reference_bk = None if reference_logps is None else as_float(reference_logps).masked_fill(~mask_bk, 0.0)
    lengths_bk = None if lengths is None else lengths.masked_fill(~mask_bk, 1)
    if objective.form == "pairs":
        return _pairs_loss(objective, policy_bk, reference_bk, ranks_bk, mask_bk, beta, weight, lengths_bk)
    scores_bk = beta * response_scores(objective, policy_bk, reference_bk, lengths_bk)
    neg_log_phi_b = None if weight is None else weight.detach().to(scores_bk) / 2
    if objective.form == "choices" and neg_log_phi_b is None:
        raise InputError("weight: the Mallows chances are a function of the dispersion; give weight, shape (B,)")
    chances = _Chances(scores_bk, neg_log_phi_b, objective.rank_temperature)
    return -_log_likelihood(chances, ranks_bk.masked_fill(~mask_bk, float("inf")), mask_bk)


def _pairs_loss(
    objective: Objective,
    policy_bk: Tensor,
    reference_bk: Tensor | None,
    ranks_bk: Tensor,
    mask_bk: Tensor,
    beta: float | Tensor,
    weight: Tensor | None,
    lengths_bk: Tensor | None,
) -> Tensor:
    """Sum of the pairwise loss over all pairs of a list that stand in an order."""
    ordered = (ranks_bk[:, :, None] < ranks_bk[:, None, :]) & mask_bk[:, :, None] & mask_bk[:, None, :]
    row, better, worse = ordered.nonzero(as_tuple=True)
    sides = {"chosen": (row, better), "rejected": (row, worse)}

    def take(values_bk: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if values_bk is None else values_bk[side] for side in sides.values())

    chosen_lengths, rejected_lengths = take(lengths_bk)
    loss_p = objective_loss(
        objective,
        policy_bk[row, better],
        policy_bk[row, worse],
        *take(reference_bk),
        beta=beta[row, 0] if isinstance(beta, Tensor) else beta,
        weight=None if weight is None else weight[row],
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    return loss_p.new_zeros(len(policy_bk)).index_add(0, row, loss_p)


class _Chances:
    """Log-chance that each response of a set is chosen from it; sets are (…, S, K) of booleans."""

    def __init__(self, scores_bk: Tensor, neg_log_phi_b: Tensor | None, temperature: float) -> None:
        self.scores_bk, self.neg_log_phi_b, self.temperature = scores_bk, neg_log_phi_b, temperature

    def take(self, rows: Tensor, places_bk: Tensor) -> _Chances:
        """Those of some lists, and of some of their responses."""
        phi = None if self.neg_log_phi_b is None else self.neg_log_phi_b[rows]
        return _Chances(self.scores_bk[rows].gather(1, places_bk), phi, self.temperature)

    def log_prob(self, sets_bsk: Tensor) -> Tensor:
        """Shape (B, S, K); only the entries of a set's own members mean something."""
        if self.neg_log_phi_b is None:
            logits_bsk = self.scores_bk[:, None, :].expand(sets_bsk.shape)
        else:
            better_bjk = torch.sigmoid((self.scores_bk[:, :, None] - self.scores_bk[:, None, :]) / self.temperature)
            # A response counts itself by one half, alike for all: the softmax takes it out.
            ranks_bsk = sets_bsk.to(better_bjk) @ better_bjk
            logits_bsk = -self.neg_log_phi_b[:, None, None] * ranks_bsk
        # Finite, so that an empty set has no NaN in its gradient.
        outside = torch.finfo(logits_bsk.dtype).min / 4
        return torch.log_softmax(logits_bsk.masked_fill(~sets_bsk, outside), dim=-1)


def _log_likelihood(chances: _Chances, ranks_bk: Tensor, mask_bk: Tensor) -> Tensor:
    """Log-likelihood of each list; missing responses have the rank infinity."""
    last_b1 = ranks_bk.masked_fill(~mask_bk, -float("inf")).max(dim=1, keepdim=True).values
    inner = mask_bk & (ranks_bk < last_b1)
    same = (ranks_bk[:, :, None] == ranks_bk[:, None, :]) & inner[:, :, None]
    tied_b = (same.sum(dim=(1, 2)) > inner.sum(dim=1)).nonzero()[:, 0]
    # One choice after the other: what is left then is whatever is not ranked before the chosen one.
    left_bsk = (ranks_bk[:, None, :] >= ranks_bk[:, :, None]) & mask_bk[:, None, :]
    chosen_bk = chances.log_prob(left_bsk).diagonal(dim1=1, dim2=2)
    found_b = chosen_bk.masked_fill(~inner, 0.0).sum(dim=1)
    if not len(tied_b):
        return found_b
    # Missing responses to the end: the subsets to be summed over are those of the longest tied list.
    longest = int(mask_bk[tied_b].sum(dim=1).max())
    if longest > MAX_TIED:
        raise too_many_tied(f"a list of {longest}")
    order_tk = torch.argsort((~mask_bk[tied_b]).to(torch.int8), dim=1, stable=True)[:, :longest]
    ranks_tk, inner_tk, mask_tk = (values[tied_b].gather(1, order_tk) for values in (ranks_bk, inner, mask_bk))
    tied = _tied_log_likelihood(chances.take(tied_b, order_tk), ranks_tk, inner_tk, mask_tk)
    return found_b.index_copy(0, tied_b, tied)


def too_many_tied(what: str) -> InputError:
    """The error for a list whose ties cannot be summed over."""
    return InputError(
        f"ranks: {what} has ties above its last place; at most {MAX_TIED} responses can be summed over: put the tied "
        "ones into the last place, break the ties, or use mallows_list_theta"
    )


def _tied_log_likelihood(chances: _Chances, ranks_bk: Tensor, inner_bk: Tensor, mask_bk: Tensor) -> Tensor:
    """Sum over all orders that agree with a list, by the set of those already chosen."""
    (count, k), device = ranks_bk.shape, ranks_bk.device
    bits_k = 2 ** torch.arange(k, device=device)
    taken_sk = (torch.arange(2**k, device=device)[:, None] & bits_k) > 0
    left_bsk = ~taken_sk & mask_bk[:, None, :]
    log_prob_bsk = chances.log_prob(left_bsk)
    # A response may come next where nothing that is left is ranked before it.
    first_bs = ranks_bk[:, None, :].masked_fill(~left_bsk, float("inf")).min(dim=2).values
    next_bsk = left_bsk & (ranks_bk[:, None, :] == first_bs[:, :, None]) & inner_bk[:, None, :]
    never = torch.finfo(log_prob_bsk.dtype).min / 4
    step_bsk = torch.where(next_bsk, log_prob_bsk, never)
    sizes_s = taken_sk.sum(dim=1)
    reached_bs = torch.full((count, 2**k), never, dtype=log_prob_bsk.dtype, device=device)
    reached_bs[:, 0] = 0.0
    for size in range(1, k + 1):
        sets_t = (sizes_s == size).nonzero()[:, 0]
        members_tk = taken_sk[sets_t]
        before_ti = (sets_t[:, None] - bits_k)[members_tk].view(-1, size)
        chosen_ti = torch.arange(k, device=device).expand(len(sets_t), k)[members_tk].view(-1, size)
        ways_bti = reached_bs[:, before_ti] + step_bsk[:, before_ti, chosen_ti]
        reached_bs = reached_bs.index_copy(1, sets_t, torch.logsumexp(ways_bti, dim=2).clamp(min=never))
    end_b = (inner_bk * bits_k).sum(dim=1)
    return reached_bs.gather(1, end_b[:, None])[:, 0]
