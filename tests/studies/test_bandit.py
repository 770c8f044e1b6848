"""The bandit study: its people, its training, its measures and what it says of them."""

import numpy as np
import pytest
import torch

from mallowspo.maths import MallowsModel
from mallowspo.studies.bandit.bench import METHODS, TRAINED, BanditDesign, Run, infinite_pairs, matched_betas, train
from mallowspo.studies.bandit.minimiser import minimise, policy_log_probs
from mallowspo.studies.bandit.population import (
    NEG_LOG_PHI_RANGE,
    READ_AT,
    YARDSTICKS,
    Population,
    compare_at_equal_kl,
    compare_at_kl,
    count_pairs,
    draw_pairs,
    draw_votes,
    index_from_pairs,
    measure,
    paired,
)
from mallowspo.studies.bandit.summary import count_verdicts

FEW = Population(np.array([0.2, 0.5, 0.9]), 4)


def test_the_design_holds_what_the_study_promises():
    design = BanditDesign()
    assert min(design.pairs) == min(design.training_pairs) == 16
    assert max(design.pairs) == max(design.training_pairs) == 1024
    assert design.seeds >= 100 and design.training_seeds >= 100
    assert {METHODS[name].objective for name in TRAINED} == {"dpo", "ipo", "mallows_theta", "mallows_phi"}


def test_pairs_come_as_often_as_the_population_prefers():
    pairs = draw_pairs(FEW, 4000, range(5))
    counts = count_pairs(pairs, 4).sum(axis=0)
    assert np.all(counts.sum(axis=(1, 2)) == 5 * 4000)
    both = counts + counts.transpose(0, 2, 1)
    off = ~np.eye(4, dtype=bool)
    share = np.where(off, counts / np.maximum(both, 1), 0.5)
    assert np.allclose(share, FEW.preference_pkk, atol=0.03)
    assert np.allclose(both[:, off] / both.sum(axis=(1, 2))[:, None], 1 / 12, atol=0.01)


def test_more_pairs_or_seeds_leave_the_first_ones_alone():
    small, large = draw_pairs(FEW, 8, range(2)), draw_pairs(FEW, 32, range(1, 4))
    assert np.array_equal(small.winner_spn[1], large.winner_spn[0, :, :8])


def test_phi_is_found_from_many_pairs_and_kept_in_range_from_few():
    lam = FEW.neg_log_phi_p
    counts = count_pairs(draw_pairs(FEW, 20000, range(3)), 4)
    assert np.allclose(index_from_pairs(counts, grid=400), lam, atol=0.06)
    unanimous = np.zeros((1, 4, 4))
    unanimous[0, 0, 1] = 1.0
    for found in (index_from_pairs(unanimous), draw_votes(FEW, 1, range(20))):
        assert np.all((found >= NEG_LOG_PHI_RANGE[0]) & (found <= NEG_LOG_PHI_RANGE[1]))


def test_phi_from_pairs_is_the_likeliest_ranking_and_phi():
    # Enumerated: the marginal probability of every pair under every ranking, from the model itself.
    import itertools

    counts = count_pairs(draw_pairs(FEW, 30, range(1)), 4)[0, 1]
    doubt = (1 - np.eye(4)) / 12
    grid = np.geomspace(*NEG_LOG_PHI_RANGE, 40)
    best = [
        max(
            float(((counts + doubt) * np.log(MallowsModel(np.array(c) + 1, np.exp(-lam)).pairwise_matrix())).sum())
            for c in itertools.permutations(range(4))
        )
        for lam in grid
    ]
    assert index_from_pairs(counts[None], grid=40)[0] == pytest.approx(grid[int(np.argmax(best))])


def test_measures_by_enumeration():
    policy = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        found = measure(np.log(policy), FEW)
    agreement = [
        sum(policy[s, i] * 0.25 * FEW.preference_pkk[s, i, j] for i in range(4) for j in range(4)) for s in range(3)
    ]
    regret = [sum(policy[s, i] * (FEW.preference_pkk[s, 0, i] - 0.5) for i in range(4)) for s in range(3)]
    assert found["agreement"] == pytest.approx(np.mean(agreement))
    assert found["regret"] == pytest.approx(np.mean(regret))
    assert found["agreement_agreed"] == pytest.approx(agreement[0])
    assert found["agreement_contested"] == pytest.approx(agreement[2])
    assert found["collapsed"] == pytest.approx(1 / 3) and found["top"] == pytest.approx((0.7 + 0.25 + 1) / 3)
    assert found["kl"] == pytest.approx(np.log(4) - found["entropy"])
    assert found["consensus"] == pytest.approx(np.mean([0.7 + 0.1 * (2 / 3 + 1 / 3), 0.5, 1.0]))
    assert found["best"] == pytest.approx((0.7 + 0.25 + 1.0) / 3)
    # Of 6 pairs of arms the first state orders 3 and ties 3, the second ties all, the third orders 3, 3 lose alike.
    assert found["order"] == pytest.approx((4.5 + 3 + 4.5) / 18)
    assert found["consensus_middle"] == pytest.approx(0.5) and found["order_agreed"] == pytest.approx(4.5 / 6)


def test_on_infinitely_many_pairs_phi_is_the_optimum_of_consensus_and_ipo_that_of_agreement():
    # As docs/theory.md has it; differences at equal KL are read between neighbouring β, hence not to the last digit.
    found = infinite_pairs((0.1, 0.3, 0.6, 0.9), 5)
    for method, optimum in (("mallows_phi_true", "optimum_consensus"), ("ipo", "optimum_agreement")):
        for yardstick in YARDSTICKS:
            mine, best = (found[name]["minus_dpo"][yardstick] for name in (method, optimum))
            assert mine == pytest.approx(best, abs=1e-5), (method, yardstick)
    gain = {name: np.array(one["minus_dpo"]["consensus"]) for name, one in found.items()}
    assert np.all(gain["optimum_consensus"] > gain["mallows_theta_true"] - 1e-6)
    assert np.all(gain["mallows_theta_true"] > gain["theta_true_50"]) and np.all(gain["theta_true_50"] > 0)


def test_matched_scales_are_matched():
    betas = matched_betas(FEW, (0.1, 0.5))
    assert set(betas) == set(METHODS)
    for name, both in betas.items():
        method = METHODS[name]
        weight = (2 * FEW.neg_log_phi_p) ** method.settings.get("dispersion_power", 1)
        every_pair = FEW.preference_pkk * (1 - np.eye(4))
        optimum = minimise(method.objective, every_pair, weight, rng=np.random.default_rng(1))
        for beta, strength in zip(both, (0.1, 0.5), strict=True):
            assert measure(policy_log_probs(optimum, beta), FEW)["kl"] == pytest.approx(strength, abs=1e-9)


def naive_training(run, pairs, arms, learning_rate, steps):
    """One seed, full batches, autograd through a softmax, DPO's loss as torch has it."""
    winner, loser = torch.from_numpy(pairs.winner_spn[0]), torch.from_numpy(pairs.loser_spn[0])
    logits = torch.zeros(winner.shape[0], arms, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=learning_rate)
    weight = torch.from_numpy(run.weight_sp[0])[:, None] if run.weight_sp is not None else 1.0
    for _ in range(steps):
        log_prob = logits.log_softmax(dim=1)
        gap = log_prob.gather(1, winner) - log_prob.gather(1, loser)
        loss = -torch.nn.functional.logsigmoid(weight * run.beta * gap).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return logits.log_softmax(dim=1).detach().numpy()


@pytest.mark.parametrize("weight", [None, np.array([[3.0, 1.0, 0.2]])])
def test_training_is_that_of_a_plain_loop(weight):
    pairs = draw_pairs(FEW, 10, range(1))
    run = Run("mallows_theta" if weight is not None else "dpo", 0.7, weight)
    others = [Run("ipo", 0.3), Run("mallows_phi", 1.0, np.ones((1, 3)))]
    schedule = dict(learning_rate=0.05, batch_size=30, steps=(3, 20), shared=False)
    kept = train([others[0], run, others[1]], pairs, 4, range(1), **schedule)
    assert kept.shape == (2, 3, 1, 3, 4)
    for place, steps in enumerate((3, 20)):
        assert np.allclose(kept[place, 1, 0], naive_training(run, pairs, 4, 0.05, steps), atol=1e-8)


@pytest.mark.parametrize("shared", [False, True])
def test_long_training_ends_at_the_exact_minimiser(shared):
    population = Population(np.array([0.6, 0.8]), 3)
    pairs = draw_pairs(population, 100, range(3))
    counts = count_pairs(pairs, 3)
    weight = np.broadcast_to(2 * population.neg_log_phi_p, (3, 2)).copy()
    schedule = dict(learning_rate=0.05, batch_size=200, steps=(500,), shared=shared)
    runs = [Run("dpo", 1.0), Run("ipo", 0.5), Run("mallows_theta", 1.0, weight), Run("mallows_phi", 1.0, weight)]
    kept = train(runs, pairs, 3, range(3), **schedule)[0]
    for run, found in zip(runs, kept, strict=True):
        exact = minimise(run.objective, counts.reshape(-1, 3, 3), weight.ravel(), rng=np.random.default_rng(0))
        assert exact.finite_b.all()
        assert np.allclose(found.reshape(-1, 3), policy_log_probs(exact, run.beta), atol=5e-3), run.objective


def test_the_first_step_of_adam_forgets_the_weights_only_with_separate_parameters():
    pairs = draw_pairs(FEW, 30, range(4))
    weight = np.broadcast_to(np.array([4.0, 1.0, 0.1]), (4, 3)).copy()
    runs = [Run("dpo", 1.0), Run("mallows_theta", 1.0, weight)]
    gap = {}
    for shared in (False, True):
        schedule = dict(learning_rate=0.01, batch_size=90, steps=(1,), shared=shared)
        dpo, theta = train(runs, pairs, 4, range(4), **schedule)[0]
        gap[shared] = np.abs(dpo - theta).max()
    assert gap[False] < 1e-6 and gap[True] > 1e-3


def test_equal_kl_compares_lines_where_both_have_moved():
    kl = np.array([[0.001, 0.1, 0.4]]).T
    line = {"kl": kl, "agreement": np.array([[9.0, 0.6, 0.7]]).T}  # what is measured at next to no KL plays no part
    base = {"kl": kl, "agreement": np.array([[0.0, 0.5, 0.6]]).T}
    found = compare_at_equal_kl(line, base, ("agreement",))
    assert found["agreement"][0] == pytest.approx(0.1) and found["seeds"] == 1 and found["kl"] == [0.1, 0.4]


def test_lines_are_compared_at_each_kl_that_both_reach():
    kl = np.array([[0.05, 0.2, 0.5], [0.05, 0.2, 0.9]]).T  # two data sets
    line = {"kl": kl, "consensus": 0.5 + kl}
    base = {"kl": kl, "consensus": 0.4 + kl}
    at = compare_at_kl(line, base, ("consensus",))["consensus"]
    assert [one[0] for one in at] == pytest.approx([0.1] * len(READ_AT))
    assert at[0][1:] == pytest.approx([0.1, 0.1]) and np.isnan(at[-1][1])  # one data set reaches the last KL: no ends


def test_rounding_is_no_difference():
    assert paired(np.array([1e-12, -2e-12]), np.zeros(2)) == [0.0, 0.0, 0.0]


def row(method, entropies, agreements):
    return {
        "regime": "many_exact", "method": method, "entropies": entropies, "agreements": agreements,
        "consensuses": agreements,
    }  # fmt: skip


def test_verdicts_follow_from_the_intervals():
    less, more, none, same = [0.2, 0.1, 0.3], [-0.2, -0.3, -0.1], [0.0, -0.1, 0.1], [0.0, 0.0, 0.0]
    rows = [
        row("mallows_theta_true", [less, same], [more]),
        row("mallows_theta_true", [less, none], [[None, None, None]]),
        row("mallows_phi_true", [more, more], [less]),
    ]
    theta, phi = count_verdicts(rows)
    assert theta["collapse"] == {"less collapsed": 2, "the same": 1, "not told apart": 1}
    assert theta["agreement"] == theta["consensus"] == {"behind": 1, "no common KL": 1}
    assert phi["collapse"] == {"more collapsed": 2} and phi["agreement"] == {"ahead": 1}
