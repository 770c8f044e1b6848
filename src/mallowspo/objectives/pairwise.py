"""One loss per pair, for every objective.

Shapes: `B` pairs. Log-probabilities are in nats, summed over the response's tokens (at most 0).

    gap  = score(chosen) - score(rejected), of the policy minus alpha times the reference's, minus (1 - alpha) gamma
    loss = link loss of the gap, beta and the weight, averaged over the two labels by epsilon
           + sft_weight * (negative mean log-probability of a chosen token: of the pair's own, or of the whole batch)
"""

from __future__ import annotations

import torch
from torch import Tensor

from mallowspo.errors import InputError
from mallowspo.maths.links import hinge_loss, kendall_log_prob, sigmoid_log_prob, squared_loss
from mallowspo.objectives.presets import Objective, resolve_objective

__all__ = ["implicit_gap", "objective_loss", "pairwise_loss", "response_scores"]


def pairwise_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | None = None,
    reference_rejected_logps: Tensor | None = None,
    *,
    objective: str | Objective = "mallows_theta",
    beta: float | Tensor = 0.1,
    weight: Tensor | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    link: str | None = None,
    length_normalized: bool | None = None,
    reference_weight: float | None = None,
    margin: float | Tensor | None = None,
    label_smoothing: float | None = None,
    sft_weight: float | None = None,
    kendall_smoothing: float | None = None,
) -> Tensor:
    r"""Loss of each pair under a preset, with other values on its axes where they are given.

    Args:
        policy_chosen_logps: log pi(y_w | x), shape (B,), nats.
        policy_rejected_logps: log pi(y_l | x), shape (B,), nats.
        reference_chosen_logps: log pi_ref(y_w | x), shape (B,), nats; required unless `reference_weight` is 0.
        reference_rejected_logps: log pi_ref(y_l | x), shape (B,), nats; likewise.
        objective: A name in `OBJECTIVES`, or an `Objective`.
        beta: Strength of the pull towards the reference, > 0: one number, or one per pair, shape (B,); for the squared
            link, tau of the IPO paper.
        weight: Dispersion weight w(x) = -2 log phi(x) >= 0, shape (B,). Required by the mallows presets and
            by the Kendall link; 1 where it is left out otherwise. No gradient flows into it.
        chosen_lengths: Tokens of the chosen response, shape (B,); required by length normalisation and by the SFT
            term.
        rejected_lengths: Tokens of the rejected response, shape (B,); required by length normalisation.
        link: Axis of the objective; None takes the preset's value, here and below.
        length_normalized: Axis: mean instead of summed log-probability.
        reference_weight: Axis: alpha in [0, 1].
        margin: Axis: gamma >= 0 in the gap's unit; one number, or one per pair, shape (B,).
        label_smoothing: Axis: epsilon in [0, 0.5).
        sft_weight: Axis: factor of the SFT term, >= 0: here the mean over each response's own tokens. The trainer,
            like TRL, takes the mean over the tokens of the batch.
        kendall_smoothing: Axis: half-width of the Kendall link's blend, >= 0.

    Returns:
        Losses, shape (B,), nats (the squared and hinge links: no unit), float32 or better, not reduced.

    Raises:
        InputError: An unknown preset, a value outside its range, a tensor that is missing or that the
            objective cannot use, or shapes that differ.

    Source:
        Chen et al. 2025 (arXiv 2405.14953), generalised as in RainbowPO (arXiv 2410.04203).

    Example:
        >>> one = torch.tensor([-10.0])
        >>> two = torch.tensor([-12.0])
        >>> loss = pairwise_loss(one, two, two, two, objective="mallows_theta", beta=0.5, weight=torch.tensor([2.0]))
        >>> round(loss.item(), 6)  # -log sigmoid(2 * 0.5 * 2)
        0.126928
    """
    per_pair_margin = margin if isinstance(margin, Tensor) else None
    resolved = resolve_objective(
        objective,
        link=link,
        length_normalized=length_normalized,
        reference_weight=reference_weight,
        margin=None if per_pair_margin is not None else margin,
        label_smoothing=label_smoothing,
        sft_weight=sft_weight,
        kendall_smoothing=kendall_smoothing,
    )
    if resolved.reads_lists:
        raise InputError(f"objective: {objective!r} reads ranked lists; use listwise_loss")
    if weight is None and resolved.dispersion != "none":
        raise InputError(
            f"weight: objective {objective!r} weighs every prompt by its dispersion; give weight, shape (B,) "
            "(all ones takes the dispersion out)"
        )
    check_values("weight", weight, low=0.0)
    check_values("margin", per_pair_margin, low=0.0)
    return objective_loss(
        resolved,
        policy_chosen_logps,
        policy_rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        beta=beta,
        weight=weight,
        margin=per_pair_margin,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )


def objective_loss(
    objective: Objective,
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | None = None,
    reference_rejected_logps: Tensor | None = None,
    *,
    beta: float | Tensor,
    weight: Tensor | None = None,
    margin: Tensor | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    sft_length: float | None = None,
) -> Tensor:
    """Loss of each pair for a resolved objective; what the trainer calls. See `pairwise_loss`.

    Args:
        objective: The point on the axes; its `dispersion` is not read here, `weight` is.
        policy_chosen_logps: Shape (B,), nats.
        policy_rejected_logps: Shape (B,), nats.
        reference_chosen_logps: Shape (B,), nats, or None with `reference_weight` 0.
        reference_rejected_logps: Shape (B,), nats, or None with `reference_weight` 0.
        beta: Above 0, a number or shape (B,).
        weight: Shape (B,), >= 0; None stands for ones.
        margin: Shape (B,), instead of the objective's own margin.
        chosen_lengths: Shape (B,), tokens.
        rejected_lengths: Shape (B,), tokens.
        sft_length: Tokens that the SFT term divides a chosen log-probability by; None for each response's own. With
            the batch's mean chosen length, the term's mean over pairs is TRL's mean over the batch's chosen tokens.

    Returns:
        Losses, shape (B,), not reduced.

    Raises:
        InputError: As in `pairwise_loss`.

    Example:
        >>> from mallowspo.objectives import OBJECTIVES
        >>> minus_one, minus_three = torch.tensor([-1.0]), torch.tensor([-3.0])
        >>> objective_loss(OBJECTIVES["hinge"], minus_one, minus_three, minus_three, minus_three, beta=0.1)
        tensor([0.8000])
    """
    beta = check_beta(beta)
    gap_b = implicit_gap(
        objective,
        policy_chosen_logps,
        policy_rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        margin=margin,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    if isinstance(beta, Tensor):
        check_shape("beta", beta, gap_b)
        beta = beta.to(gap_b)
    if weight is not None:
        check_shape("weight", weight, gap_b)
        weight = weight.detach().to(gap_b)
    elif objective.link == "kendall":
        raise InputError("weight: the Kendall link is a function of the dispersion; give weight, shape (B,)")
    loss_b = _link_loss(objective, gap_b, weight, beta)
    if objective.label_smoothing:
        flipped_b = _link_loss(objective, -gap_b, weight, beta)
        loss_b = (1 - objective.label_smoothing) * loss_b + objective.label_smoothing * flipped_b
    if objective.sft_weight:
        if chosen_lengths is None:
            raise InputError("chosen_lengths: the SFT term is a mean over tokens; give the lengths, shape (B,)")
        length = _as_lengths(chosen_lengths, gap_b) if sft_length is None else max(sft_length, 1.0)
        mean_logp_b = as_float(policy_chosen_logps) / length
        loss_b = loss_b - objective.sft_weight * mean_logp_b
    return loss_b


def implicit_gap(
    objective: Objective,
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor | None = None,
    reference_rejected_logps: Tensor | None = None,
    *,
    margin: Tensor | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """The bracket that beta and the weight multiply.

    Chosen minus rejected, policy minus alpha times reference, minus (1 - alpha) times the margin.

    Args:
        objective: The point on the axes.
        policy_chosen_logps: Shape (B,), nats.
        policy_rejected_logps: Shape (B,), nats.
        reference_chosen_logps: Shape (B,), nats, or None with `reference_weight` 0.
        reference_rejected_logps: Shape (B,), nats, or None with `reference_weight` 0.
        margin: Shape (B,), instead of the objective's own margin.
        chosen_lengths: Shape (B,), tokens; for length normalisation.
        rejected_lengths: Shape (B,), tokens; for length normalisation.

    Returns:
        Gaps, shape (B,), nats (per token where length-normalised), float32 or better.

    Raises:
        InputError: As in `pairwise_loss`.

    Example:
        >>> from mallowspo.objectives import OBJECTIVES
        >>> args = [torch.tensor([x]) for x in (-4.0, -9.0, -5.0, -8.0)]
        >>> implicit_gap(OBJECTIVES["dpo"], *args)
        tensor([2.])
    """
    check_shape("policy_rejected_logps", policy_rejected_logps, policy_chosen_logps)
    if policy_chosen_logps.ndim != 1:
        raise InputError(f"policy_chosen_logps: got shape {tuple(policy_chosen_logps.shape)}, expected (B,)")
    chosen_b = response_scores(objective, policy_chosen_logps, reference_chosen_logps, chosen_lengths)
    rejected_b = response_scores(objective, policy_rejected_logps, reference_rejected_logps, rejected_lengths)
    gap_b = chosen_b - rejected_b
    if margin is None:
        return gap_b - (1 - objective.reference_weight) * objective.margin
    if not objective.accepts_margin:
        raise InputError(
            f"margin: this objective has none (link {objective.link}, reference_weight "
            f"{objective.reference_weight:g}); the gap subtracts (1 - reference_weight) * margin"
        )
    check_shape("margin", margin, gap_b)
    return gap_b - (1 - objective.reference_weight) * margin.detach().to(gap_b)


def response_scores(
    objective: Objective, policy_logps: Tensor, reference_logps: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Each response's part of the gap: policy minus alpha times reference, per token where length-normalised.

    Args:
        objective: The point on the axes.
        policy_logps: Summed log-probabilities of any number of responses, any shape, nats.
        reference_logps: Likewise of the reference, same shape, or None with `reference_weight` 0.
        lengths: Tokens, same shape; for length normalisation.

    Returns:
        Scores, same shape, nats (per token where length-normalised), float32 or better.

    Raises:
        InputError: A tensor that the objective needs is missing, or shapes differ.

    Example:
        >>> from mallowspo.objectives import OBJECTIVES
        >>> response_scores(OBJECTIVES["simpo"], torch.tensor([-6.0, -2.0]), lengths=torch.tensor([3, 2]))
        tensor([-2., -1.])
    """
    score = as_float(policy_logps)
    if objective.needs_reference:
        if reference_logps is None:
            raise InputError(
                f"reference log-probabilities are missing: reference_weight is {objective.reference_weight:g}; give "
                "reference_chosen_logps and reference_rejected_logps, or set reference_weight to 0"
            )
        check_shape("reference log-probabilities", reference_logps, policy_logps)
        # Difference per response first: two sums over hundreds of tokens cancel before they are compared.
        score = score - objective.reference_weight * as_float(reference_logps)
    if objective.length_normalized:
        if lengths is None:
            raise InputError("chosen_lengths and rejected_lengths: length normalisation divides by them; give both")
        score = score / _as_lengths(lengths, score)
    return score


def _link_loss(objective: Objective, gap_b: Tensor, weight_b: Tensor | None, beta: float | Tensor) -> Tensor:
    """Loss of a gap for the label as it stands; the gap is not yet scaled."""
    if objective.link == "kendall":
        if weight_b is None:
            raise InputError("weight: the Kendall link is a function of the dispersion")
        # w = -2 log phi (MallowsPO-theta's weight), so the link's -log phi is half of it.
        return -kendall_log_prob(beta * gap_b, weight_b / 2, smoothing=objective.kendall_smoothing)
    if weight_b is None:
        weight_b = torch.ones_like(gap_b)
    if objective.link == "sigmoid":
        return -sigmoid_log_prob(beta * gap_b, weight_b)
    if objective.link == "hinge":
        return hinge_loss(weight_b * beta * gap_b)
    # Eq. 17 of the IPO paper with the weight on the gap; beta is its tau.
    return squared_loss(weight_b * gap_b, 1 / (2 * beta))


def check_beta(beta: float | Tensor) -> float | Tensor:
    """A beta that can be used, one number or one per example; no gradient flows into it."""
    if isinstance(beta, Tensor) and beta.ndim:
        wrong_b = ~((beta > 0) & (beta < float("inf")))
        if bool(wrong_b.any()):
            place = int(torch.nonzero(wrong_b)[0])
            raise InputError(f"beta: got {beta[place].item():g} for row {place + 1}, expected finite numbers > 0")
        return beta.detach()
    value = float(beta)
    if not 0 < value < float("inf"):
        raise InputError(f"beta: got {value}, expected a finite number > 0")
    return value


def as_float(values: Tensor) -> Tensor:
    """Float32 at least: sums of log-probabilities lose their gap in half precision."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _as_lengths(lengths: Tensor, like: Tensor) -> Tensor:
    check_shape("lengths", lengths, like)
    # A response that was cut off whole has no tokens and a log-probability of 0; its mean is 0, not 0/0.
    return lengths.to(like).clamp(min=1)


def check_shape(name: str, given: Tensor, like: Tensor) -> None:
    if given.shape != like.shape:
        raise InputError(f"{name}: got shape {tuple(given.shape)}, expected {tuple(like.shape)} like the other pairs")


def check_values(name: str, given: Tensor | None, *, low: float) -> None:
    """Refuse what would make every loss of its pair NaN or turn its preference round."""
    if given is None:
        return
    wrong_b = ~((given >= low) & (given < float("inf")))
    if bool(wrong_b.any()):
        place = int(torch.nonzero(wrong_b.flatten())[0])
        raise InputError(
            f"{name}: got {given.flatten()[place].item():g} for pair {place + 1}, expected finite numbers >= {low:g}"
        )
