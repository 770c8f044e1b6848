r"""Exact minimisers of pairwise losses over softmax policies: to machine precision, or the limit if there is none.

With a uniform reference the loss of a state is a function of the scores s = β log π/π_ref of its arms alone, up to a
shift, and β only scales the policy: π ∝ exp(s/β). One minimisation serves every β.

Whether a finite minimiser exists is read off the pairs, not off an iteration that does not end. Draw an arrow from the
winner to the loser of every pair that was seen. Where every arm can be reached from every other one (Ford 1957) the
losses with an unbounded link (sigmoid, Kendall) grow in every direction, and the minimum is attained. Otherwise the
arms fall into groups that can be reached both ways (strongly connected components), and along any sequence of policies
that drives the loss to its infimum

- the gap across groups that are joined by an arrow goes to infinity, at no loss: every group that another one beats
  without ever losing to it vanishes from the policy;
- within a group the gaps go to the minimiser on that group's own pairs.

So the limit policy lives on the unbeaten groups: one group, as a rule, and if that is a single arm the policy has
collapsed onto it, whatever the link, β and φ. Where several groups are unbeaten the loss leaves open how they share
the mass; taken is the limit nearest to the reference in KL, which understates collapse and is the same rule for all
methods. The squared link has a finite minimiser always; where pairs leave arms unconnected, the same rule fills the
gap.

Suffixes: b problems (seeds × states), k arms, e ordered pairs of arms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mallowspo.objectives import OBJECTIVES, Objective, pairwise_loss, resolve_objective

__all__ = ["Minimiser", "components", "gap_derivatives", "gap_loss", "minimise", "policy_log_probs"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TOLERANCE = 1e-12
"""Largest slope of the mean loss at which a minimiser counts as exact."""

_MAX_STEPS = 300


@dataclass(frozen=True, eq=False)
class Minimiser:
    """Minimisers of many problems."""

    scores_bk: Floats  # s = β log π/π_ref up to a shift for each group, shape (B, K), nats
    same_bkk: Bools  # whether two arms are in one group, shape (B, K, K)
    kept_bk: Bools  # whether the arm keeps mass in the policy, shape (B, K): False for those beaten to infinity
    finite_b: Bools  # whether the loss attains its minimum at one policy, shape (B,)
    open_b: Bools  # whether the loss leaves the shares of several groups open, shape (B,)
    slope_b: Floats  # largest slope of the mean loss over each group's pairs: the certificate
    starts_b: NDArray[np.int64]  # distinct stationary points that the starts ended in


def components(counts_bkk: Floats, *, both_ways: bool) -> tuple[Bools, Bools]:
    """Group the arms by who has beaten whom."""
    arms = counts_bkk.shape[-1]
    reach = (counts_bkk > 0) | np.eye(arms, dtype=bool)
    if both_ways:
        reach = reach | reach.transpose(0, 2, 1)
    for _ in range(arms.bit_length()):  # paths of up to 2, 4, 8 ... arrows
        reach = reach @ reach
    same = reach & reach.transpose(0, 2, 1)
    beaten: Bools = np.asarray((reach & ~same).any(axis=1))
    return same, ~beaten


def minimise(
    objective: str | Objective, counts_bkk: Floats, weight_b: Floats, *, rng: np.random.Generator
) -> Minimiser:
    """Minimise the mean loss of the pairs for every problem."""
    # Sigmoid link: a convex function. Squared: one linear solve. Kendall: not convex around a gap of 0, where it is
    # smoothed; Newton on the absolute eigenvalues of the Hessian from four starts, of which the lowest end is kept.
    objective = resolve_objective(objective)
    link = objective.link
    same, kept = components(counts_bkk, both_ways=link == "squared")
    within = counts_bkk * same
    share = within / np.maximum(within.sum(axis=(1, 2), keepdims=True), 1.0)
    problem = _Problem(objective, share, same, weight_b)
    starts = [np.zeros(counts_bkk.shape[:2])]
    if link == "kendall":
        theta = _Problem(OBJECTIVES["mallows_theta"], share, same, weight_b)
        wins = share.sum(axis=2) - share.sum(axis=1)
        ranks = wins.argsort(axis=1).argsort(axis=1).astype(np.float64)
        starts += [_newton(theta, starts[0])[0], ranks, rng.normal(scale=3.0, size=ranks.shape)]
    found = [_newton(problem, start) for start in starts]
    value_tb = np.stack([value for _, value, _ in found])
    best_b = value_tb.argmin(axis=0)
    at = np.arange(len(counts_bkk))
    scores_tbk = np.stack([scores for scores, _, _ in found])
    slope_b = np.stack([slope for _, _, slope in found])[best_b, at]
    groups = _number_of_groups(same, kept)
    return Minimiser(
        scores_bk=scores_tbk[best_b, at],
        same_bkk=same,
        kept_bk=kept,
        finite_b=np.asarray(same.all(axis=(1, 2))),
        open_b=groups > 1,
        slope_b=slope_b,
        starts_b=_distinct(scores_tbk),
    )


def policy_log_probs(minimiser: Minimiser, beta: float) -> Floats:
    """The policy of a minimiser at some β."""
    scaled = minimiser.scores_bk / beta
    spread = np.where(minimiser.same_bkk, scaled[:, None, :], -np.inf)
    log_within = scaled - np.logaddexp.reduce(spread, axis=2)
    # The mixture of the groups' own policies with the highest entropy gives each a mass ∝ exp(its entropy).
    entropy = -np.einsum("bij,bj->bi", minimiser.same_bkk, np.exp(log_within) * log_within)
    mass = np.where(minimiser.kept_bk, log_within + entropy, -np.inf)
    return np.asarray(mass - np.logaddexp.reduce(mass, axis=1, keepdims=True))


class _Problem:
    """The loss of many problems, with its first and second derivatives along the gaps."""

    def __init__(self, objective: Objective, share_bkk: Floats, same_bkk: Bools, weight_b: Floats) -> None:
        self.objective = objective
        self.winner, self.loser = np.nonzero(~np.eye(share_bkk.shape[-1], dtype=bool))
        self.share_be = share_bkk[:, self.winner, self.loser]
        # A constant on each group changes no gap: this term makes the Hessian regular there and moves nothing.
        self.anchor_bkk = same_bkk / same_bkk.sum(axis=2, keepdims=True)
        self.weight_b = weight_b
        self.convex = objective.link != "kendall"

    def select(self, keep: NDArray[np.intp]) -> _Problem:
        """The same for some of the problems."""
        part = object.__new__(_Problem)
        part.__dict__.update(self.__dict__)
        for name in ("share_be", "anchor_bkk", "weight_b"):
            setattr(part, name, getattr(self, name)[keep])
        return part

    def derivatives(self, scores_bk: Floats) -> tuple[Floats, Floats, Floats]:
        """Mean loss, its gradient and its Hessian: shapes (B,), (B, K), (B, K, K)."""
        gap_be = scores_bk[:, self.winner] - scores_bk[:, self.loser]
        seen = self.share_be > 0
        share_e = self.share_be[seen]
        weight_e = np.broadcast_to(self.weight_b[:, None], gap_be.shape)[seen]
        parts = gap_derivatives(self.objective, gap_be[seen], weight_e)
        value, slope, bend = np.zeros((3, *gap_be.shape))
        for whole, part in zip((value, slope, bend), parts, strict=True):
            whole[seen] = part * share_e
        arms = np.eye(scores_bk.shape[1])
        direction_ek = arms[self.winner] - arms[self.loser]
        hessian = np.einsum("be,ei,ej->bij", bend, direction_ek, direction_ek, optimize=True)
        return value.sum(axis=1), slope @ direction_ek, hessian

    def newton_step(self, gradient_bk: Floats, hessian_bkk: Floats) -> Floats:
        """The step to the minimum of the quadratic model; downhill also where the loss is not convex."""
        curved = hessian_bkk + self.anchor_bkk
        if self.convex:
            # A hair on the diagonal: a pair that is nearly certain has next to no curvature.
            curved = curved + 1e-14 * np.eye(curved.shape[-1])
            step = -np.linalg.solve(curved, gradient_bk[..., None])[..., 0]
        else:
            values, vectors = np.linalg.eigh(curved)
            along = np.einsum("bij,bi->bj", vectors, gradient_bk) / np.maximum(np.abs(values), 1e-12)
            step = -np.einsum("bij,bj->bi", vectors, along)
        step -= np.einsum("bij,bj->bi", self.anchor_bkk, step)
        # Far out the links are flat and the quadratic model knows nothing: no step is longer than the link is wide.
        longest = np.abs(step).max(axis=1, keepdims=True)
        limit = np.inf if self.objective.link == "squared" else 10.0 / np.minimum(1.0, self.weight_b)[:, None]
        return np.asarray(step * np.minimum(1.0, limit / np.maximum(longest, 1e-300)))


def gap_loss(objective: str | Objective, gap: Tensor, *, beta: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """The library's loss of every gap between two log-probabilities; `weight` where the objective has one."""
    zero, objective = torch.zeros_like(gap), resolve_objective(objective)
    # An answer of the bandit is one token long, so that a mean over tokens is the sum.
    lengths = torch.ones_like(gap) if objective.needs_lengths else None
    weight = weight if objective.dispersion != "none" else None
    return pairwise_loss(
        gap, zero, zero, zero, objective=objective, beta=beta, weight=weight, chosen_lengths=lengths,
        rejected_lengths=lengths,
    )  # fmt: skip


def gap_derivatives(objective: str | Objective, gap_e: Floats, weight_e: Floats) -> tuple[Floats, Floats, Floats]:
    """Loss of the library for each gap at β = 1, its first and its second derivative (automatic)."""
    gap = torch.tensor(gap_e, dtype=torch.float64, requires_grad=True)
    loss = gap_loss(objective, gap, weight=torch.tensor(weight_e))
    (slope,) = torch.autograd.grad(loss.sum(), gap, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), gap)
    return loss.detach().numpy(), slope.detach().numpy(), bend.numpy()


def _newton(problem: _Problem, start_bk: Floats) -> tuple[Floats, Floats, Floats]:
    """Damped Newton: scores, mean loss and largest slope of every problem; those that are done rest."""
    scores = start_bk - np.einsum("bij,bj->bi", problem.anchor_bkk, start_bk)
    value, gradient, hessian = problem.derivatives(scores)
    step = problem.newton_step(gradient, hessian)
    for _ in range(_MAX_STEPS):
        active = np.flatnonzero((np.abs(gradient).max(axis=1) > TOLERANCE) & (np.abs(step).max(axis=1) > 1e-15))
        if active.size == 0:
            break
        part = problem.select(active)
        trial = scores[active] + step[active]
        new_value, new_gradient, new_hessian = part.derivatives(trial)
        promised = np.einsum("bi,bi->b", gradient[active], step[active])
        # Near the minimum the loss no longer tells two points apart, but the slope does.
        flat = np.abs(new_value - value[active]) <= 1e-14 * (1 + np.abs(value[active]))
        steeper = np.abs(new_gradient).max(axis=1) > np.abs(gradient[active]).max(axis=1)
        taken = (new_value <= value[active] + 1e-4 * promised) | (flat & ~steeper)
        done, short = active[taken], active[~taken]
        scores[done], value[done], gradient[done] = trial[taken], new_value[taken], new_gradient[taken]
        step[done] = part.select(np.flatnonzero(taken)).newton_step(new_gradient[taken], new_hessian[taken])
        step[short] *= 0.5
    return scores, value, np.abs(gradient).max(axis=1)


def _number_of_groups(same_bkk: Bools, kept_bk: Bools) -> Floats:
    """How many groups keep mass: every arm counts for its share of its group."""
    return np.rint((kept_bk / same_bkk.sum(axis=2)).sum(axis=1))


def _distinct(scores_tbk: Floats) -> NDArray[np.int64]:
    """Number of stationary points among the starts' ends that differ by more than 1e-4 in some score."""
    count = np.ones(scores_tbk.shape[1], dtype=np.int64)
    for index in range(1, len(scores_tbk)):
        apart = np.abs(scores_tbk[:index] - scores_tbk[index]).max(axis=2) > 1e-4
        count += apart.all(axis=0)
    return count
