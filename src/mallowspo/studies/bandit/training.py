"""Training of bandit policies as a practitioner trains: Adam, minibatches of pairs, a number of steps.

All seeds, methods and values of β of a job are trained at once. Under one seed all of them see the same pairs in the
same order.

Two choices of coordinates for the same policies. *Separate*: one logit for each arm of each state, as in a table;
Adam divides every logit's gradient by its own size, so that a weight per state cancels at first. *Shared*: the logits
are a random rotation of the parameters, so that every parameter serves every state, as in a network; there the
weights of the states compete.

Suffixes: s seeds, r runs of a seed (methods × β), d logits of all states (P·K), n pairs of all states, b pairs of a
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mallowspo.objectives import OBJECTIVES, pairwise_loss
from mallowspo.studies.bandit.population import Pairs

__all__ = ["Run", "Schedule", "train"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One method at one β."""

    objective: str
    beta: float
    weight_sp: Floats | None = None  # w = -2 log φ of each seed's states, shape (S, P); None for objectives without φ


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast."""

    learning_rate: float  # Adam's, constant
    batch_size: int  # pairs in a step; all pairs where there are fewer
    steps: Sequence[int]  # steps at which the policies are kept, rising; the last ends the run
    shared: bool  # whether every parameter serves all states


def train(runs: Sequence[Run], pairs: Pairs, arms: int, schedule: Schedule, seeds: range) -> Floats:
    """Train from the uniform reference."""
    seed_count, states, _ = pairs.winner_spn.shape
    offset = (np.arange(states) * arms)[None, :, None]
    winner_sn, loser_sn = (
        torch.from_numpy((side + offset).reshape(seed_count, -1)) for side in (pairs.winner_spn, pairs.loser_spn)
    )
    batch = min(schedule.batch_size, winner_sn.shape[1])
    basis = _rotations(states * arms, seeds) if schedule.shared else None
    parameters = torch.zeros(seed_count, len(runs), states * arms, dtype=torch.float64)
    optimizer = torch.optim.Adam([parameters], lr=schedule.learning_rate)
    groups = _groups(runs)
    kept = []
    for step, chosen_sb in enumerate(_batches(winner_sn.shape[1], batch, schedule.steps[-1], seeds), start=1):
        logits = parameters if basis is None else parameters @ basis
        winner_sb, loser_sb = winner_sn.gather(1, chosen_sb), loser_sn.gather(1, chosen_sb)
        gradient = _gradient(groups, logits, winner_sb, loser_sb, arms) / batch
        parameters.grad = gradient if basis is None else gradient @ basis.transpose(1, 2)
        optimizer.step()
        if step in schedule.steps:
            logits = parameters if basis is None else parameters @ basis
            table = logits.reshape(seed_count, len(runs), states, arms).permute(1, 0, 2, 3)
            kept.append(table.log_softmax(dim=-1).numpy().copy())
    return np.stack(kept)


def _rotations(size: int, seeds: range) -> Tensor:
    """One random rotation for each seed, shape (S, D, D)."""
    drawn = np.stack([np.random.default_rng([seed, 0, 2]).normal(size=(size, size)) for seed in seeds])
    return torch.from_numpy(np.linalg.qr(drawn)[0])


def _batches(pairs: int, batch: int, steps: int, seeds: range) -> list[Tensor]:
    """Indices of the pairs of every step: epochs in a fresh order, a rest smaller than a batch left out."""
    per_epoch = pairs // batch
    generators = [np.random.default_rng([seed, 0, 3]) for seed in seeds]
    order: list[Tensor] = []
    while len(order) < steps:
        epoch = torch.from_numpy(np.stack([rng.permutation(pairs) for rng in generators]))
        order += list(epoch[:, : per_epoch * batch].split(batch, dim=1))
    return order[:steps]


@dataclass(frozen=True, eq=False)
class _Group:
    """Runs of one objective, whose loss is one call."""

    objective: str
    at: Tensor
    betas: Tensor
    weight_rsp: Tensor | None


def _groups(runs: Sequence[Run]) -> list[_Group]:
    """Put runs together that differ in β and weight alone; those of the squared link also by β."""
    members: dict[tuple[str, float], list[int]] = {}
    for index, run in enumerate(runs):
        apart = run.beta if OBJECTIVES[run.objective].link == "squared" else 0.0
        members.setdefault((run.objective, apart), []).append(index)
    groups = []
    for (objective, _), at in members.items():
        weights = [run.weight_sp for run in (runs[index] for index in at) if run.weight_sp is not None]
        groups.append(
            _Group(
                objective,
                torch.tensor(at),
                torch.tensor([runs[index].beta for index in at], dtype=torch.float64),
                torch.from_numpy(np.stack(weights)) if weights else None,
            )
        )
    return groups


def _gradient(groups: Sequence[_Group], logits: Tensor, winner_sb: Tensor, loser_sb: Tensor, arms: int) -> Tensor:
    """Sum of the pairs' gradients along the logits, shape (S, R, D)."""
    gradient = torch.zeros_like(logits)
    for group in groups:
        # The normaliser of a state's softmax is the same for both answers: logits serve as log-probabilities.
        mine = logits[:, group.at]
        winner_srb, loser_srb = (side[:, None].expand(-1, len(group.at), -1) for side in (winner_sb, loser_sb))
        gap = (mine.gather(2, winner_srb) - mine.gather(2, loser_srb)).detach().requires_grad_(True)
        loss = _loss(group, gap, winner_sb // arms)
        (slope,) = torch.autograd.grad(loss.sum(), gap)
        part = torch.zeros_like(mine).scatter_add_(2, winner_srb, slope).scatter_add_(2, loser_srb, -slope)
        gradient[:, group.at] = part
    return gradient


def _loss(group: _Group, gap_srb: Tensor, state_sb: Tensor) -> Tensor:
    """The library's loss of every pair."""
    objective = OBJECTIVES[group.objective]
    weight = None
    if group.weight_rsp is not None:
        spread = state_sb[:, None].expand(-1, len(group.at), -1)
        weight = group.weight_rsp.permute(1, 0, 2).gather(2, spread).flatten()
    # β multiplies the gap inside these links, so that runs of different β share a call; in the squared link it is
    # the target that depends on it, and the group has one β.
    squared = objective.link == "squared"
    scaled = (gap_srb if squared else gap_srb * group.betas[None, :, None]).flatten()
    zero = torch.zeros_like(scaled)
    lengths = torch.ones_like(scaled) if objective.needs_lengths else None
    return pairwise_loss(
        scaled,
        zero,
        zero,
        zero,
        objective=objective,
        beta=float(group.betas[0]) if squared else 1.0,
        weight=weight,
        chosen_lengths=lengths,
        rejected_lengths=lengths,
    )
