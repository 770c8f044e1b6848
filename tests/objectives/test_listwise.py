"""Losses of ranked lists against enumeration of the likelihood that each claims, the Mallows model and choix."""

from itertools import permutations

import choix
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel, log_prob_with_ties
from mallowspo.objectives import OBJECTIVES, listwise_loss, pairwise_loss

LISTS = [name for name, objective in OBJECTIVES.items() if objective.reads_lists]
DOUBLE = torch.float64


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def loss_of(scores, ranks, objective, *, lam=0.7, mask=None, **axes):
    """One list whose implicit rewards are the scores: reference 0, beta 1."""
    scores = double(scores) if not isinstance(scores, torch.Tensor) else scores
    weight = None if objective == "plackett_luce" else double([2 * lam])
    mask = None if mask is None else torch.tensor([mask])
    zeros = torch.zeros_like(scores)[None]
    return listwise_loss(
        scores[None], zeros, double([ranks]), objective=objective, beta=1.0, weight=weight, mask=mask, **axes
    )[0]


def chance_by_hand(scores, order, objective, lam, temperature=0.25):
    """Chance of a full order (indices, best first) as successive choices, in plain numpy."""
    left, chance = list(range(len(scores))), 1.0
    for chosen in order:
        if objective == "plackett_luce":
            values = {k: np.exp(scores[k]) for k in left}
        else:
            better = {
                k: sum(1 / (1 + np.exp((scores[k] - scores[j]) / temperature)) for j in left if j != k) for k in left
            }
            values = {k: np.exp(-lam * better[k]) for k in left}
        chance *= values[chosen] / sum(values.values())
        left.remove(chosen)
    return chance


def agreeing_orders(ranks):
    """All full orders that a list with shared ranks allows."""
    return [
        order
        for order in permutations(range(len(ranks)))
        if all(ranks[a] <= ranks[b] for a, b in zip(order, order[1:], strict=False))
    ]


@pytest.mark.parametrize("objective", ["plackett_luce", "mallows_list_phi"])
@settings(max_examples=40)
@given(data=st.data())
def test_a_list_with_ties_is_the_sum_over_all_orders_that_agree(objective, data):
    k = data.draw(st.integers(2, 6))
    scores = data.draw(st.lists(st.floats(-2, 2), min_size=k, max_size=k))
    ranks = data.draw(st.lists(st.integers(1, 4), min_size=k, max_size=k))
    lam = data.draw(st.floats(0, 3))
    expected = sum(chance_by_hand(scores, order, objective, lam) for order in agreeing_orders(ranks))
    found = loss_of(scores, ranks, objective, lam=lam)
    np.testing.assert_allclose(float(found), -np.log(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["plackett_luce", "mallows_list_phi"])
def test_the_chances_of_all_orders_sum_to_one(objective):
    scores = [0.3, -1.0, 0.5, 0.1]
    chances = [torch.exp(-loss_of(scores, ranks, objective)) for ranks in permutations(range(4))]
    assert float(sum(chances)) == pytest.approx(1.0, abs=1e-12)


def test_plackett_luce_is_that_of_choix():
    scores, order = np.array([0.4, -0.3, 1.2, 0.0, -2.0]), [2, 0, 3, 1, 4]
    ranks = np.argsort(order) + 1
    likelihood = -float(loss_of(scores, ranks.tolist(), "plackett_luce"))
    assert likelihood == pytest.approx(choix.log_likelihood_rankings([order], scores), abs=1e-12)
    # Only the best is known: the chance to come first.
    top = -float(loss_of(scores, [2, 2, 1, 2, 2], "plackett_luce"))
    assert top == pytest.approx(choix.log_likelihood_top1([(2, [0, 1, 3, 4])], scores), abs=1e-12)


@pytest.mark.parametrize(
    "ranks", [[1, 2, 3, 4, 5], [5, 1, 4, 2, 3], [1, 2, 2, 2, 2], [2, 1, 1, 3, 3], [3, 2, 1, 3, 3]]
)
@pytest.mark.parametrize("lam", [0.05, 0.7, 2.5])
def test_as_the_temperature_falls_the_list_has_the_mallows_kendall_likelihood(ranks, lam):
    scores = [3.0, 2.0, 1.0, 0.0, -1.0]  # so the centre is 1, 2, 3, 4, 5
    expected = log_prob_with_ties([ranks], [1, 2, 3, 4, 5], lam)[0]
    found = [-float(loss_of(scores, ranks, "mallows_list_phi", lam=lam, rank_temperature=tau)) for tau in (0.2, 0.02)]
    assert found[1] == pytest.approx(expected, abs=1e-9)
    assert abs(found[0] - expected) < 0.2


def test_the_chance_to_be_chosen_first_is_phi_to_the_rank():
    phi, m = 0.6, 5
    scores = [4.0, 3.0, 2.0, 1.0, 0.0]
    for i in range(1, m + 1):
        ranks = [1 if k == i - 1 else 2 for k in range(m)]
        chance = torch.exp(-loss_of(scores, ranks, "mallows_list_phi", lam=-np.log(phi), rank_temperature=0.01))
        assert float(chance) == pytest.approx(phi ** (i - 1) * (1 - phi) / (1 - phi**m), abs=1e-12)


@settings(max_examples=30)
@given(st.floats(-3, 3), st.floats(0, 4), st.floats(0.01, 2))
def test_lists_of_two_are_the_pairwise_objectives(gap, weight, beta):
    logps, reference = double([[gap, 0.3]]), double([[0.1, -0.2]])
    pair = (*logps[0].split(1), *reference[0].split(1))
    ranks, weight_b = torch.tensor([[1, 2]]), double([weight])
    theta = listwise_loss(logps, reference, ranks, objective="mallows_list_theta", beta=beta, weight=weight_b)
    assert torch.equal(theta, pairwise_loss(*pair, objective="mallows_theta", beta=beta, weight=weight_b))
    luce = listwise_loss(logps, reference, ranks, objective="plackett_luce", beta=beta)
    torch.testing.assert_close(luce, pairwise_loss(*pair, objective="dpo", beta=beta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("phi", [0.05, 0.5, 0.95])
def test_a_pair_a_whole_rank_apart_tends_to_the_kendall_link(phi):
    lam = -np.log(phi)
    sharp = torch.exp(-loss_of([1.0, 0.0], [1, 2], "mallows_list_phi", lam=lam, rank_temperature=0.01))
    assert float(sharp) == pytest.approx(1 / (1 + phi), abs=1e-12)
    # mallows_phi at the same gap of 1 is the same number.
    link = pairwise_loss(
        double([1.0]), double([0.0]), double([0.0]), double([0.0]),
        objective="mallows_phi", beta=1.0, weight=double([2 * lam]),
    )  # fmt: skip
    assert float(sharp) == pytest.approx(float(torch.exp(-link)), abs=1e-9)


def test_at_a_gap_of_zero_the_default_temperature_pulls_as_theta_does():
    for lam in (0.2, 1.0):
        pulls = []
        for objective in ("mallows_list_phi", "mallows_list_theta"):
            scores = double([0.0, 0.0]).requires_grad_()
            loss_of(scores, [1, 2], objective, lam=lam).backward()
            pulls.append(scores.grad)
        torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-12, atol=1e-12)


def test_without_consensus_there_is_no_signal_and_with_all_of_it_the_order_decides():
    scores = double([0.4, -0.2, 0.9]).requires_grad_()
    even = loss_of(scores, [1, 2, 3], "mallows_list_phi", lam=0.0)
    even.backward()
    assert float(even.detach()) == pytest.approx(np.log(6)) and bool((scores.grad == 0).all())
    right = loss_of([3.0, 1.0, -1.0], [1, 2, 3], "mallows_list_phi", lam=40.0)
    wrong = loss_of([3.0, 1.0, -1.0], [2, 1, 3], "mallows_list_phi", lam=40.0)
    assert float(right) < 1e-9 and float(wrong) == pytest.approx(40.0, rel=0.01)


def test_theta_of_a_list_is_the_sum_over_its_pairs_in_an_order():
    logps, reference = double([[-3.0, -2.0, -7.0, -4.0]]), double([[-4.0, -2.5, -6.0, -4.0]])
    weight = double([1.3])
    found = listwise_loss(
        logps, reference, torch.tensor([[1, 2, 2, 3]]), objective="mallows_list_theta", weight=weight
    )
    pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    better, worse = (torch.tensor(side) for side in zip(*pairs, strict=True))
    one_by_one = pairwise_loss(
        logps[0, better], logps[0, worse], reference[0, better], reference[0, worse], weight=weight.expand(5)
    )
    torch.testing.assert_close(found, one_by_one.sum()[None])


@pytest.mark.parametrize("objective", LISTS)
def test_missing_responses_change_neither_loss_nor_gradient(objective):
    scores = double([0.3, float("nan"), -0.4, 0.8]).requires_grad_()
    here = loss_of(scores, [2, 1, 2, 1], objective, mask=[True, False, True, True])
    here.backward()
    alone = double([0.3, -0.4, 0.8]).requires_grad_()
    without = loss_of(alone, [2, 2, 1], objective)
    without.backward()
    torch.testing.assert_close(here, without)
    torch.testing.assert_close(scores.grad[[0, 2, 3]], alone.grad)
    assert scores.grad[1] == 0


@pytest.mark.parametrize("objective", LISTS)
@pytest.mark.parametrize("ranks", [[1, 2, 3, 4], [2, 1, 3, 3], [1, 1, 2, 3]])
def test_gradients_are_those_of_finite_differences(objective, ranks):
    scores = double([0.3, -0.2, 0.9, 0.1]).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss_of(s, ranks, objective), scores)


@pytest.mark.parametrize("objective", LISTS)
def test_a_batch_is_its_lists_one_by_one(objective):
    generator = torch.Generator().manual_seed(0)
    logps, reference = (torch.randn(6, 5, generator=generator, dtype=DOUBLE) for _ in range(2))
    ranks = torch.tensor(
        [[1, 2, 3, 4, 5], [1, 1, 2, 2, 3], [1, 2, 2, 2, 2], [1, 1, 1, 1, 1], [3, 1, 2, 2, 5], [1, 1, 1, 2, 2]]
    )
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[4, 4] = mask[0, 0] = False
    weight = None if objective == "plackett_luce" else torch.rand(6, generator=generator, dtype=DOUBLE)
    given_ = {"objective": objective, "beta": 0.8}
    whole = listwise_loss(logps, reference, ranks, weight=weight, mask=mask, **given_)
    single = [
        listwise_loss(
            logps[b : b + 1], reference[b : b + 1], ranks[b : b + 1],
            weight=None if weight is None else weight[b : b + 1], mask=mask[b : b + 1], **given_,
        )
        for b in range(6)
    ]  # fmt: skip
    torch.testing.assert_close(whole, torch.cat(single), rtol=1e-12, atol=1e-12)
    assert whole[3] == 0  # no two in an order


@pytest.mark.parametrize("objective", LISTS)
def test_half_precision_is_computed_in_float32_and_extremes_stay_finite(objective):
    logps = torch.tensor([[-300.0, -2.0, -150.0, -150.0]], dtype=torch.bfloat16).requires_grad_()
    weight = None if objective == "plackett_luce" else torch.tensor([20.0])
    loss = listwise_loss(
        logps, torch.zeros(1, 4), torch.tensor([[1, 2, 2, 3]]), objective=objective, beta=2.0, weight=weight
    )
    loss.sum().backward()
    assert loss.dtype == torch.float32 and bool(torch.isfinite(loss).all()) and bool(torch.isfinite(logps.grad).all())


def test_the_maximum_likelihood_of_a_list_loss_is_the_mallows_centre():
    """Sampled rankings: the order of the scores that the loss learns is the centre, under both Mallows forms."""
    model = MallowsModel([2, 4, 1, 3], 0.5)
    rankings = torch.tensor(model.sample(400, np.random.default_rng(0)))
    for objective in ("mallows_list_theta", "mallows_list_phi"):
        scores = torch.zeros(4, dtype=DOUBLE, requires_grad=True)
        optimizer = torch.optim.Adam([scores], lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            logps = scores.expand(400, 4)
            weight = torch.full((400,), 2 * np.log(2))
            listwise_loss(
                logps, torch.zeros_like(logps), rankings, objective=objective, beta=1.0, weight=weight
            ).mean().backward()
            optimizer.step()
        assert (torch.argsort(torch.argsort(-scores.detach())) + 1).tolist() == [2, 4, 1, 3]


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("objective", {"objective": "dpo"}),
        ("beta", {"beta": 0.0}),
        ("weight", {"weight": None}),
        ("weight", {"weight": double([1.0, 2.0])}),
        ("weight", {"weight": double([-1.0])}),
        ("weight", {"objective": "plackett_luce"}),
        ("ranks", {"ranks": double([[1.0, float("nan"), 2.0]])}),
        ("ranks", {"ranks": torch.tensor([[1, 2]])}),
        ("policy_logps", {"policy_logps": double([1.0, 2.0, 3.0])}),
        ("reference", {"reference_logps": None}),
        ("lengths", {"length_normalized": True}),
        ("mask", {"mask": torch.ones(1, 2)}),
        ("rank_temperature", {"rank_temperature": 0.1}),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(named, changes):
    values = {
        "policy_logps": double([[1.0, 2.0, 3.0]]), "reference_logps": double([[0.0, 0.0, 0.0]]),
        "ranks": torch.tensor([[1, 2, 3]]), "weight": double([1.0]),
    } | changes  # fmt: skip
    with pytest.raises(InputError, match=named):
        listwise_loss(**values)


def test_inner_ties_among_many_are_refused_and_a_long_strict_list_is_not():
    logps = torch.zeros(1, 40, dtype=DOUBLE)
    strict = torch.arange(40)[None]
    assert torch.isfinite(listwise_loss(logps, logps, strict, objective="plackett_luce")).all()
    tied = strict.clone()
    tied[0, 1] = 0
    with pytest.raises(InputError, match="ranks"):
        listwise_loss(logps, logps, tied, objective="plackett_luce")


def test_a_pair_objective_refuses_lists_and_the_other_way_round():
    one = double([1.0])
    with pytest.raises(InputError, match="listwise_loss"):
        pairwise_loss(one, one, one, one, objective="plackett_luce")
