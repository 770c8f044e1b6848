"""The paper's own bandit (MallowsPO, section 5.2 and appendix C.1): its arms, rewards, 16 pairs and optimiser.

No context, five arms, a uniform reference, all pairs in one batch, plain gradient descent. The paper leaves the
smoothing ε of φ's link open, so that it is an axis here; and 16 pairs are one draw, so that sets of 16 are drawn anew.

Suffixes: s sets of pairs, r values of β, n pairs of a set, k arms, t measured steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mallowspo.errors import InputError
from mallowspo.objectives import Objective, resolve_objective
from mallowspo.stats.frontiers import SeedFrontier, interpolate_frontier
from mallowspo.studies.bandit.minimiser import gap_derivatives, minimise, policy_log_probs
from mallowspo.studies.bandit.population import Pairs, count_pairs, frontiers_of, interval_of, paired
from mallowspo.studies.policies import check_at_least, check_positive, equal_kl

__all__ = [
    "ARM_REWARDS", "DOMINANT", "MEAN_REWARD_K", "PAPER_PAIRS", "PAPER_KL", "PaperDesign", "PaperLoss", "RedrawnJob",
    "SlopeTable", "descend", "draw_sets", "run_as_written", "run_redrawn", "summarise_paper",
]  # fmt: skip

Floats = NDArray[np.float64]

# (reward, its probability) of each arm; of two arms the larger draw wins.
ARM_REWARDS = (
    ((20.0, 0.5), (11.0, 0.5)),
    ((30.0, 0.5), (3.0, 0.5)),
    ((18.0, 0.5), (15.0, 0.5)),
    ((15.0, 0.99), (10.0, 0.01)),
    ((1.0, 0.99), (4.0, 0.01)),
)
MEAN_REWARD_K = np.array([sum(reward * share for reward, share in arm) for arm in ARM_REWARDS])
ARMS = len(ARM_REWARDS)

# Winner and loser, arms from 1, as the paper lists them.
PAPER_PAIRS = (
    (3, 5), (2, 5), (2, 5), (1, 2), (3, 5), (1, 5), (1, 4), (1, 5),
    (4, 5), (2, 4), (2, 1), (2, 5), (1, 3), (3, 5), (3, 4), (4, 2),
)  # fmt: skip

_OWN_SET = np.array(PAPER_PAIRS, dtype=np.int64)[None] - 1

DOMINANT = 0.9
"""Probability of one arm from which a policy counts as collapsed here: the paper shows .97 as a collapse."""

PAPER_KL = (0.1, 0.3, 0.55, 0.8, 1.2)
"""KL (nats) at which frontiers are read: the paper's peaks lie at .3 and .55, its last figure of DPO at 1.2."""


@dataclass(frozen=True, kw_only=True)
class PaperDesign:
    """Everything that determines the numbers of the preset `paper`."""

    phi: float = 0.05
    # ε of φ's link: the paper leaves it open and mentions .1 and −2 log φ
    smoothings: tuple[float, ...] = (0.01, 0.03, 0.1, round(-2 * math.log(0.05), 4))
    learning_rate: float = 5e-3  # of plain gradient descent on the mean loss of all 16 pairs
    steps: int = 500_000
    betas: tuple[float, ...] = (
        0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85,
        1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0,
    )  # fmt: skip
    training_betas: tuple[float, ...] = (0.05, 0.1, 0.5, 1.0)  # over which the course of training is averaged
    sets: int = 500  # sets of 16 pairs that are drawn anew
    set_smoothings: tuple[float, ...] = (0.03, 0.1)  # ε of φ on these
    set_betas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
    # Steps on these are so many times as long and as few: the same path, followed coarsely. Above β = 2 such steps
    # leap out of φ's blend at ε = .03.
    set_stride: int = 10
    first_seed: int = 0  # of the first set; the others follow it

    def __post_init__(self) -> None:
        check_positive(self, "smoothings", "betas", "training_betas", "set_smoothings", "set_betas", "learning_rate")
        check_positive(self, "phi", below=1.0)
        if not set(self.training_betas) <= set(self.betas):
            raise InputError(f"training_betas: got {self.training_betas}, expected some of betas, {self.betas}")
        check_at_least(self, steps=1, sets=2, first_seed=0, set_stride=1)

    @property
    def paper_jobs(self) -> list[PaperLoss]:
        """DPO, and φ at every ε, on the paper's own pairs."""
        return [PaperLoss("dpo"), *(PaperLoss("mallows_phi", one) for one in self.smoothings)]

    @property
    def redrawn_jobs(self) -> list[RedrawnJob]:
        """The same on sets of pairs that are drawn anew, some sets a job."""
        losses = [PaperLoss("dpo"), *(PaperLoss("mallows_phi", one) for one in self.set_smoothings)]
        blocks = [(first, min(_SETS_A_JOB, self.sets - first)) for first in range(0, self.sets, _SETS_A_JOB)]
        return [RedrawnJob(loss=loss, first=first, sets=sets) for first, sets in [(-1, 1), *blocks] for loss in losses]


_SETS_A_JOB = 250


@dataclass(frozen=True)
class PaperLoss:
    """DPO, or φ with its smoothing ε."""

    objective: str
    smoothing: float | None = None

    @property
    def name(self) -> str:
        """What a reader calls it; DPO by the key of its look."""
        return "dpo" if self.smoothing is None else f"MallowsPO-φ, ε = {self.smoothing:g}"

    @property
    def resolved(self) -> Objective:
        """The library's objective."""
        return resolve_objective(self.objective, kendall_smoothing=self.smoothing)


@dataclass(frozen=True, kw_only=True)
class RedrawnJob:
    """One loss on some of the sets."""

    loss: PaperLoss
    first: int  # -1 is the paper's own set, alone
    sets: int


class SlopeTable:
    """Slope of the library's loss along the scaled gap, tabulated: half a million steps look it up."""

    # Linear between nodes that are 1/4,096 of a nat apart or closer; the bend of φ's link at ±ε lies on a node.
    def __init__(self, objective: Objective, weight: float, *, reach: float = 40.0) -> None:
        edge = objective.kendall_smoothing if objective.link == "kendall" else 1.0
        self.step = edge / math.ceil(edge * 4096)
        self.middle = math.ceil(reach / self.step)
        nodes = self.step * np.arange(-self.middle, self.middle + 1, dtype=np.float64)
        slope = gap_derivatives(objective, nodes, np.full_like(nodes, weight))[1]
        self.slope, self.rise = torch.from_numpy(slope), torch.from_numpy(np.append(np.diff(slope), 0.0))

    def at(self, place: Tensor) -> Tensor:
        """The slopes at places, which are gaps over `step` plus `middle`; what is given is overwritten."""
        node = place.int()
        part = place.sub_(node)
        slope, rise = (table.index_select(0, node.view(-1)).view_as(part) for table in (self.slope, self.rise))
        return slope.addcmul_(rise, part)


def descend(
    table: SlopeTable, pairs_sn2: NDArray[np.int64], betas: Sequence[float], *, learning_rate: float,
    at_steps: Sequence[int],
) -> Floats:  # fmt: skip
    """Gradient descent on the mean loss of all pairs from the uniform policy; log-probabilities (T, S, R, K)."""
    # The normaliser is the same for both answers of a pair, so that logits serve as log-probabilities; what moves here
    # is β times the logits, of which a step is β² times that of the logits.
    arms = np.eye(ARMS)
    difference_snk = torch.from_numpy(arms[pairs_sn2[..., 0]] - arms[pairs_sn2[..., 1]])
    to_places = (difference_snk.transpose(1, 2) / table.step).contiguous()
    to_rewards = (-learning_rate / pairs_sn2.shape[1] * difference_snk).contiguous()
    beta_r1 = torch.tensor(betas, dtype=torch.float64)[:, None]
    square_r1, middle = beta_r1.square(), torch.full((1, 1, 1), float(table.middle), dtype=torch.float64)
    reward_srk = torch.zeros(len(pairs_sn2), len(betas), ARMS, dtype=torch.float64)
    kept, measured = [], set(at_steps)
    for step in range(1, max(at_steps) + 1):
        slope_srn = table.at(torch.baddbmm(middle, reward_srk, to_places))
        reward_srk += torch.bmm(slope_srn, to_rewards).mul_(square_r1)
        if step in measured:
            kept.append((reward_srk / beta_r1).log_softmax(dim=-1).numpy())
    return np.stack(kept)


def draw_sets(first_seed: int, sets: int, pairs: int = len(PAPER_PAIRS)) -> NDArray[np.int64]:
    """Sets of pairs: two different arms evenly, a reward of each, the larger wins; winner and loser, (S, N, 2)."""
    # Two rewards of 15 (arms 3 and 4) are as likely to be judged either way.
    found = []
    for seed in range(first_seed, first_seed + sets):
        rng = np.random.default_rng([seed, 7])
        for _ in range(pairs):
            one, two = rng.permutation(ARMS)[:2]
            drawn = [
                rng.choice([reward for reward, _ in ARM_REWARDS[arm]], p=[share for _, share in ARM_REWARDS[arm]])
                for arm in (one, two)
            ]
            first_wins = drawn[0] > drawn[1] or (drawn[0] == drawn[1] and rng.random() < 0.5)
            found.append((one, two) if first_wins else (two, one))
    return np.array(found, dtype=np.int64).reshape(sets, pairs, 2)


def _measured(log_prob_k: Floats) -> dict[str, Floats]:
    """KL from the uniform reference, nats, and mean reward; leading axes stay."""
    probability = np.exp(log_prob_k)
    entropy = -(probability * np.where(probability > 0, log_prob_k, 0.0)).sum(axis=-1)
    return {"kl": np.maximum(np.log(ARMS) - entropy, 1e-12), "reward": probability @ MEAN_REWARD_K}


def _rounded(values: Any) -> Any:
    return [float(f"{value:.6g}") for value in np.ravel(values)]


def _table(design: PaperDesign, loss: PaperLoss) -> SlopeTable:
    return SlopeTable(loss.resolved, -2 * math.log(design.phi))


def run_as_written(design: PaperDesign, loss: PaperLoss) -> dict[str, Any]:
    """One loss on the paper's pairs: after the last step, along training, and at the fixed point."""
    started = time.process_time()
    at_steps = sorted({*np.geomspace(min(100, design.steps), design.steps, 61).astype(int).tolist(), design.steps})
    line = descend(
        _table(design, loss), _OWN_SET, design.betas, learning_rate=design.learning_rate, at_steps=at_steps
    )[:, 0]
    counts_1kk = count_pairs(Pairs(_OWN_SET[:, None, :, 0], _OWN_SET[:, None, :, 1]), ARMS)[0]
    weight = np.array([-2 * math.log(design.phi)])
    fixed = minimise(loss.resolved, counts_1kk, weight, rng=np.random.default_rng(0))
    fixed_rk = np.stack([policy_log_probs(fixed, beta)[0] for beta in design.betas])
    course = _measured(line[:, [design.betas.index(beta) for beta in design.training_betas]])

    def shown(log_prob_rk: Floats) -> dict[str, Any]:
        measures = {name: _rounded(values) for name, values in _measured(log_prob_rk).items()}
        return measures | {"probability": [_rounded(np.exp(row)) for row in log_prob_rk]}

    return {
        "last": shown(line[-1]),
        "fixed": shown(fixed_rk) | {"largest_slope": float(fixed.slope_b[0])},
        "course": {"step": at_steps} | {name: _rounded(values.mean(axis=1)) for name, values in course.items()},
        "processor_seconds": time.process_time() - started,
    }


def run_redrawn(design: PaperDesign, job: RedrawnJob) -> dict[str, Any]:
    """One loss on sets of pairs that are drawn anew, after the last step."""
    started = time.process_time()
    pairs = _OWN_SET if job.first < 0 else draw_sets(design.first_seed + job.first, job.sets)
    log_prob_srk = descend(
        _table(design, job.loss), pairs, design.set_betas, learning_rate=design.learning_rate * design.set_stride,
        at_steps=[max(1, design.steps // design.set_stride)],
    )[0]  # fmt: skip
    measures = _measured(log_prob_srk) | {"top": np.exp(log_prob_srk.max(axis=-1))}
    found: dict[str, Any] = {name: [_rounded(row) for row in values] for name, values in measures.items()}
    return found | {"processor_seconds": time.process_time() - started}


def summarise_paper(
    design: PaperDesign, as_written: Sequence[Mapping[str, Any]], redrawn: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The findings of the preset `paper`."""
    own = [
        {**asdict(loss), "name": loss.name, **{key: found[key] for key in ("last", "fixed", "course")}}
        | {"peak": _peak(found["last"], design.betas), "course_peak": _peak(found["course"])}
        for loss, found in zip(design.paper_jobs, as_written, strict=True)
    ]
    blocks: dict[str, list[Mapping[str, Any]]] = {}
    alone: dict[str, Mapping[str, Any]] = {}
    for job, found in zip(design.redrawn_jobs, redrawn, strict=True):
        if job.first < 0:
            alone[job.loss.name] = found
        else:
            blocks.setdefault(job.loss.name, []).append(found)
    measures = {
        name: {key: np.concatenate([np.array(one[key]) for one in found]) for key in ("kl", "reward", "top")}
        for name, found in blocks.items()
    }
    lines = {name: frontiers_of(*(np.array(found[key]) for key in ("kl", "reward"))) for name, found in alone.items()}
    return {
        "paper": own,
        "redrawn": [_redrawn(design, name, measures, lines) for name in measures],
        "stride_error": _stride_error(design, own, alone),
        "processor_seconds": sum(found["processor_seconds"] for found in (*as_written, *redrawn)),
    }


def _stride_error(
    design: PaperDesign, own: Sequence[Mapping[str, Any]], alone: Mapping[str, Mapping[str, Any]]
) -> float:
    """The largest difference of a mean reward that the longer steps make on the paper's own pairs."""
    shared = [beta for beta in design.set_betas if beta in design.betas]
    return max(
        abs(row["last"]["reward"][design.betas.index(beta)] - found["reward"][0][design.set_betas.index(beta)])
        for row in own
        if (found := alone.get(row["name"]))
        for beta in shared
    )


def _peak(line: Mapping[str, Any], betas: Sequence[float] | None = None) -> dict[str, float]:
    best = int(np.argmax(line["reward"]))
    found = {"reward": line["reward"][best], "kl": line["kl"][best]}
    return found | ({"beta": betas[best]} if betas is not None else {"step": line["step"][best]})


def _redrawn(
    design: PaperDesign, name: str, measures: Mapping[str, Mapping[str, Floats]],
    own: Mapping[str, list[SeedFrontier]],
) -> dict[str, Any]:  # fmt: skip
    """One loss on all sets: its mean frontier, how far the draws are apart, and the differences from DPO."""
    mine, base = measures[name], measures["dpo"]
    place = design.set_betas.index(min(design.set_betas))
    collapsed, theirs = ((side["top"][:, place] > DOMINANT).astype(float) for side in (mine, base))
    best, base_best = (side["reward"].max(axis=1) for side in (mine, base))
    found: dict[str, Any] = {
        "name": name,
        "line": {key: [interval_of(column) for column in mine[key].T] for key in ("kl", "reward")},
        "best": interval_of(best),
        "best_sd": float(best.std(ddof=1)),
        "best_minus_dpo": paired(best, base_best),
        "collapsed": interval_of(collapsed),
        "collapsed_minus_dpo": paired(collapsed, theirs),
        "at_kl": [_read_at(kl, mine, base) for kl in PAPER_KL],
    }
    if name == "dpo":
        return found
    my_lines, base_lines = (frontiers_of(side["kl"], side["reward"]) for side in (mine, base))
    compared = equal_kl(my_lines, base_lines)
    difference = np.asarray(compared.pop("per_seed"))
    difference = difference[np.isfinite(difference)]
    found["equal_kl"] = compared | {
        "sets": len(difference),
        "sd_over_sets": float(difference.std(ddof=1)),
        "ahead": float((difference > 0).mean()),
    }
    if name in own:
        on_own = float(equal_kl(own[name], own["dpo"])["per_seed"][0])
        if math.isfinite(on_own):
            found["equal_kl"] |= {"own": on_own, "sets_below_own": float((difference < on_own).mean())}
    return found


def _read_at(kl: float, mine: Mapping[str, Floats], base: Mapping[str, Floats]) -> dict[str, Any]:
    """The mean reward at one KL over the sets whose lines both reach it, and the difference from DPO."""
    here, there = (
        np.array([float(interpolate_frontier(*line, kl)) for line in zip(side["kl"], side["reward"], strict=True)])
        for side in (mine, base)
    )
    known = np.isfinite(here - there)
    return {
        "kl": kl,
        "sets": int(known.sum()),
        "reward": interval_of(here[known]),
        "sd_over_sets": float(here[known].std(ddof=1)) if known.sum() > 1 else None,
        "minus_dpo": paired(here[known], there[known]),
    }
