"""The paper's own bandit: its rewards and pairs, its optimiser, and the numbers that it published."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mallowspo.objectives import pairwise_loss
from mallowspo.studies.bandit.minimiser import minimise, policy_log_probs
from mallowspo.studies.bandit.paper import (
    ARM_REWARDS,
    MEAN_REWARD_K,
    PAPER_PAIRS,
    PaperDesign,
    PaperLoss,
    SlopeTable,
    descend,
    draw_sets,
)
from mallowspo.studies.bandit.population import Pairs, count_pairs

DPO, PHI = PaperLoss("dpo"), PaperLoss("mallows_phi", 0.1)
WEIGHT = -2 * np.log(0.05)
OWN = np.array(PAPER_PAIRS)[None] - 1
COMMITTED = Path(__file__).resolve().parents[2] / "docs/experiments/bandit/paper/results.json"


def test_mean_rewards_are_the_papers():
    assert MEAN_REWARD_K == pytest.approx([15.5, 16.5, 16.5, 14.95, 1.03])


def test_pairs_are_won_as_often_as_the_rewards_say():
    found = draw_sets(0, 400, pairs=40).reshape(-1, 2)
    assert np.all(found[:, 0] != found[:, 1])
    for one, two in itertools.combinations(range(5), 2):
        exact = sum(
            p * q * (1.0 if a > b else 0.5 if a == b else 0.0)
            for (a, p), (b, q) in itertools.product(ARM_REWARDS[one], ARM_REWARDS[two])
        )
        here = found[(np.sort(found, axis=1) == [one, two]).all(axis=1)]
        assert len(here) / len(found) == pytest.approx(0.1, abs=0.01)
        assert (here[:, 0] == one).mean() == pytest.approx(exact, abs=0.04), (one, two)
    assert np.array_equal(draw_sets(3, 2), draw_sets(0, 5)[3:])


@pytest.mark.parametrize(("loss", "within"), [(DPO, 1e-8), (PHI, 2e-5)], ids=["dpo", "phi"])
def test_the_descent_is_that_of_torch_on_the_loss_itself(loss, within):
    betas = (0.05, 0.5, 1.0)
    found = descend(SlopeTable(loss.resolved, WEIGHT), OWN, betas, learning_rate=5e-3, at_steps=[1, 200])
    winner, loser = torch.from_numpy(OWN[0].T)
    uniform = torch.full((16,), -np.log(5.0), dtype=torch.float64)
    for place, beta in enumerate(betas):
        logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        sgd = torch.optim.SGD([logits], lr=5e-3)
        for _ in range(200):
            log_prob = logits.log_softmax(0)
            if loss is DPO:
                each = -torch.nn.functional.logsigmoid(beta * (log_prob[winner] - log_prob[loser]))
            else:
                each = pairwise_loss(
                    log_prob[winner], log_prob[loser], uniform, uniform, objective=loss.resolved, beta=beta,
                    weight=torch.full_like(uniform, WEIGHT),
                )  # fmt: skip
            sgd.zero_grad()
            each.mean().backward()
            sgd.step()
        assert np.allclose(found[-1, 0, place], logits.log_softmax(0).detach().numpy(), atol=within)


def test_many_steps_end_at_the_fixed_point():
    # Every arm has lost and won, so that the minimum is finite; large steps, which a small problem stands.
    pairs = np.array([[(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2)]])
    counts = count_pairs(Pairs(pairs[:, None, :, 0], pairs[:, None, :, 1]), 5)[0]
    fixed = minimise("dpo", counts, np.ones(1), rng=np.random.default_rng(0))
    found = descend(SlopeTable(DPO.resolved, WEIGHT), pairs, (1.0,), learning_rate=1.0, at_steps=[3000])
    assert np.allclose(found[0, 0, 0], policy_log_probs(fixed, 1.0)[0], atol=1e-6)


def test_the_committed_run_has_the_numbers_that_the_paper_published_of_dpo():
    results = json.loads(COMMITTED.read_text(encoding="utf-8"))
    design, dpo = results["config"]["design"], results["paper"][0]
    assert design["steps"] == 500_000 and design["sets"] == 500
    assert dpo["peak"]["reward"] == pytest.approx(15.87, abs=0.01) and dpo["peak"]["kl"] == pytest.approx(
        0.3, abs=0.02
    )
    first = [dpo["last"]["probability"][design["betas"].index(beta)][0] for beta in (0.05, 0.1)]
    assert first == pytest.approx([0.97, 1.0], abs=0.006)


def test_the_design_is_as_the_paper_has_it():
    design = PaperDesign()
    assert (design.phi, design.learning_rate, design.steps) == (0.05, 5e-3, 500_000)
    assert design.training_betas == (0.05, 0.1, 0.5, 1.0) and len(PAPER_PAIRS) == 16
    assert {job.loss.name for job in design.redrawn_jobs} <= {loss.name for loss in design.paper_jobs}
    assert sum(job.sets for job in design.redrawn_jobs if job.loss == DPO and job.first >= 0) == design.sets
