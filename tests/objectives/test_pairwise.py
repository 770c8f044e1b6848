"""Every preset against hand-derived numbers, TRL's own code and what all losses have in common."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mallowspo.errors import InputError
from mallowspo.objectives import OBJECTIVES, objective_loss, pairwise_loss, resolve_objective

# Two pairs. Log-ratio gaps (policy minus reference, chosen minus rejected): 2 - (-1) = 3 and -0.5 - 1.5 = -2.
POLICY_CHOSEN = torch.tensor([-8.0, -20.5], dtype=torch.float64)
POLICY_REJECTED = torch.tensor([-13.0, -6.5], dtype=torch.float64)
REFERENCE_CHOSEN = torch.tensor([-10.0, -20.0], dtype=torch.float64)
REFERENCE_REJECTED = torch.tensor([-12.0, -8.0], dtype=torch.float64)
LOGPS = (POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)
LENGTHS = {"chosen_lengths": torch.tensor([4, 10]), "rejected_lengths": torch.tensor([5, 2])}
ONES = torch.ones(2, dtype=torch.float64)


def softplus(x):
    return math.log1p(math.exp(x))


def close(loss, expected):
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_dpo_by_hand():
    close(pairwise_loss(*LOGPS, objective="dpo", beta=0.5), [softplus(-1.5), softplus(1.0)])


def test_theta_by_hand():
    weight = torch.tensor([2.0, 0.5], dtype=torch.float64)
    close(pairwise_loss(*LOGPS, objective="mallows_theta", beta=0.5, weight=weight), [softplus(-3.0), softplus(0.5)])


def test_phi_by_hand_at_whole_gaps():
    # Rank gaps 3 and -2 at beta 1; h(k) = k / (1 - phi^k); phi = exp(-w/2) = 1/2.
    def h(k):
        return k / (1 - 0.5**k)

    weight = torch.full((2,), 2 * math.log(2), dtype=torch.float64)
    loss = pairwise_loss(*LOGPS, objective="mallows_phi", beta=1.0, weight=weight)
    close(loss, [-math.log(h(4) - h(3)), -math.log(1 - (h(3) - h(2)))])


def test_ipo_by_hand():
    # Mean over tokens, as TRL: 2/4 - (-1)/5 = 0.7 and -0.5/10 - 1.5/2 = -0.8; target 1/(2 * 0.25) = 2.
    close(pairwise_loss(*LOGPS, objective="ipo", beta=0.25, **LENGTHS), [(0.7 - 2) ** 2, (-0.8 - 2) ** 2])


def test_ipo_of_the_paper_sums():
    close(pairwise_loss(*LOGPS, objective="ipo", beta=0.25, length_normalized=False), [(3 - 2) ** 2, (-2 - 2) ** 2])


def test_mallows_ipo_by_hand():
    weight = torch.tensor([2.0, 0.5], dtype=torch.float64)
    loss = pairwise_loss(*LOGPS, objective="mallows_ipo", beta=0.25, weight=weight, **LENGTHS)
    close(loss, [(1.4 - 2) ** 2, (-0.4 - 2) ** 2])


def test_the_authors_second_ipo_form_is_the_first_times_beta_squared():
    weight, beta = torch.tensor([2.0, 0.5], dtype=torch.float64), 0.25
    loss = pairwise_loss(*LOGPS, objective="mallows_ipo", beta=beta, weight=weight, length_normalized=False)
    delta = torch.tensor([3.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(beta**2 * loss, (beta * weight * delta - 0.5) ** 2)


def test_simpo_by_hand():
    # Mean log-probabilities -2 against -2.6, and -2.05 against -3.25; margin 0.4.
    loss = pairwise_loss(POLICY_CHOSEN, POLICY_REJECTED, objective="simpo", beta=2.0, margin=0.4, **LENGTHS)
    close(loss, [softplus(-2 * (0.6 - 0.4)), softplus(-2 * (1.2 - 0.4))])


def test_mallows_simpo_multiplies_the_margin_too():
    loss = pairwise_loss(
        POLICY_CHOSEN, POLICY_REJECTED, objective="mallows_simpo", beta=2.0, margin=0.4, weight=3 * ONES, **LENGTHS
    )
    close(loss, [softplus(-6 * (0.6 - 0.4)), softplus(-6 * (1.2 - 0.4))])


def test_rainbow_by_hand():
    # Policy means as above; reference means -2.5 against -2.4, and -2 against -4; alpha 0.5, margin 0.2.
    loss = pairwise_loss(
        *LOGPS, objective="rainbow", beta=2.0, reference_weight=0.5, margin=0.2, weight=2 * ONES, **LENGTHS
    )
    close(loss, [softplus(-4 * (0.6 + 0.05 - 0.1)), softplus(-4 * (1.2 - 1.0 - 0.1))])


def test_hinge_by_hand():
    close(pairwise_loss(*LOGPS, objective="hinge", beta=0.5), [0.0, 2.0])


def test_label_smoothing_by_hand():
    loss = pairwise_loss(*LOGPS, objective="dpo", beta=0.5, label_smoothing=0.1)
    close(loss, [0.9 * softplus(-1.5) + 0.1 * softplus(1.5), 0.9 * softplus(1.0) + 0.1 * softplus(-1.0)])


def test_sft_term_by_hand():
    loss = pairwise_loss(*LOGPS, objective="dpo", beta=0.5, sft_weight=0.5, **LENGTHS)
    close(loss, [softplus(-1.5) + 0.5 * 2.0, softplus(1.0) + 0.5 * 2.05])


def test_sft_term_over_the_batchs_tokens_by_hand():
    """With the mean chosen length, the mean over pairs is the mean over all chosen tokens of the batch."""
    length = LENGTHS["chosen_lengths"].double().mean().item()
    with_term = objective_loss(
        resolve_objective("dpo", sft_weight=0.5), *LOGPS, beta=0.5, **LENGTHS, sft_length=length
    )
    without = objective_loss(resolve_objective("dpo"), *LOGPS, beta=0.5)
    per_token = -POLICY_CHOSEN.sum() / LENGTHS["chosen_lengths"].sum()
    torch.testing.assert_close((with_term - without).mean(), 0.5 * per_token)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
@pytest.mark.parametrize("name", ["weight", "margin"])
def test_a_weight_or_margin_that_is_no_number_is_refused(name, value):
    given = ONES.clone()
    given[1] = value
    objective = {"weight": "mallows_theta", "margin": "simpo"}[name]
    with pytest.raises(InputError, match=f"{name}: got .* for pair 2"):
        pairwise_loss(*LOGPS, objective=objective, **LENGTHS, **{name: given})


def test_margin_per_pair():
    margin = torch.tensor([0.1, 0.9], dtype=torch.float64)
    both = pairwise_loss(POLICY_CHOSEN, POLICY_REJECTED, objective="simpo", beta=2.0, margin=margin, **LENGTHS)
    for i, value in enumerate(margin.tolist()):
        one = pairwise_loss(POLICY_CHOSEN, POLICY_REJECTED, objective="simpo", beta=2.0, margin=value, **LENGTHS)
        assert one[i] == both[i]


@pytest.mark.parametrize(
    ("mallows", "plain"),
    [("mallows_theta", "dpo"), ("mallows_norm", "dpo_norm"), ("mallows_ipo", "ipo"), ("mallows_simpo", "simpo")],
)
def test_weight_one_is_the_plain_method_exactly(mallows, plain):
    with_weight = pairwise_loss(*LOGPS, objective=mallows, weight=ONES, **LENGTHS)
    assert torch.equal(with_weight, pairwise_loss(*LOGPS, objective=plain, **LENGTHS))


@pytest.mark.parametrize("name", [name for name, preset in OBJECTIVES.items() if not preset.reads_lists])
class TestEveryPreset:
    """A new preset is tested before its author writes a line."""

    def loss(self, name, logps=LOGPS, weight=1.5 * ONES, **axes):
        return pairwise_loss(*logps, objective=name, beta=0.7, weight=weight, **LENGTHS, **axes)

    def test_is_per_example_finite_and_unreduced(self, name):
        loss = self.loss(name)
        assert loss.shape == (2,) and torch.isfinite(loss).all() and (loss >= 0).all()

    def test_half_precision_is_computed_in_float32(self, name):
        loss = self.loss(name, [x.bfloat16() for x in LOGPS], weight=ONES.bfloat16())
        assert loss.dtype == torch.float32

    def test_permuting_the_batch_permutes_the_losses(self, name):
        lengths = {key: value.flip(0) for key, value in LENGTHS.items()}
        weight = torch.tensor([0.4, 1.7], dtype=torch.float64)
        swapped = pairwise_loss(
            *[x.flip(0) for x in LOGPS], objective=name, beta=0.7, weight=weight.flip(0), **lengths
        )
        assert torch.equal(swapped.flip(0), self.loss(name, weight=weight))

    def test_gradient_is_right_and_reaches_the_policy_alone(self, name):
        tensors = [x.clone().requires_grad_() for x in LOGPS]
        weight = (1.5 * ONES).requires_grad_()
        self.loss(name, tensors, weight=weight).sum().backward()
        assert weight.grad is None
        assert tensors[0].grad is not None and tensors[1].grad is not None
        policy = [x.clone().requires_grad_() for x in LOGPS[:2]]
        assert torch.autograd.gradcheck(lambda a, b: self.loss(name, (a, b, *LOGPS[2:])), policy)

    def test_pulls_the_chosen_response_up(self, name):
        chosen = POLICY_CHOSEN.clone().requires_grad_()
        # At a gap below every target and margin each link still pulls.
        self.loss(name, (chosen - 60, *LOGPS[1:])).sum().backward()
        assert (chosen.grad < 0).all()

    def test_label_smoothing_and_sft_term_change_it(self, name):
        plain = self.loss(name)
        assert not torch.equal(self.loss(name, label_smoothing=0.2), plain)
        assert not torch.equal(self.loss(name, sft_weight=0.2), plain)

    def test_weight_changes_it(self, name):
        assert not torch.equal(self.loss(name, weight=0.3 * ONES), self.loss(name))

    def test_weight_required_by_the_mallows_presets_only(self, name):
        if OBJECTIVES[name].dispersion == "none":
            assert torch.equal(self.loss(name, weight=None), self.loss(name, weight=ONES))
        else:
            with pytest.raises(InputError, match="weight: objective"):
                self.loss(name, weight=None)


@settings(max_examples=50)
@given(
    gap=st.floats(-50, 50),
    weight=st.floats(0, 5),
    beta=st.floats(0.01, 5),
    epsilon=st.floats(0, 0.49),
    name=st.sampled_from(["mallows_theta", "mallows_phi", "mallows_ipo", "hinge"]),
)
def test_smoothing_mixes_the_loss_and_that_of_the_flipped_pair(gap, weight, beta, epsilon, name):
    zero, gaps = torch.zeros(1, dtype=torch.float64), torch.tensor([gap], dtype=torch.float64)
    weights = torch.tensor([weight], dtype=torch.float64)

    def loss(first, second, smoothing):
        return pairwise_loss(
            first, second, zero, zero, objective=name, beta=beta, weight=weights, label_smoothing=smoothing,
            length_normalized=False,
        )  # fmt: skip

    mixed = (1 - epsilon) * loss(gaps, zero, 0.0) + epsilon * loss(zero, gaps, 0.0)
    torch.testing.assert_close(loss(gaps, zero, epsilon), mixed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_equals_trl(loss_type, tmp_path):
    """TRL's own trainer computes the peer: its losses cannot be called without a model, so give it one."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from mallowspo.compat import add_score_head
    from mallowspo.scoring import score_padded
    from tiny import tiny_llama, tiny_tokenizer

    tokenizer, policy, reference = tiny_tokenizer(), tiny_llama(seed=0), tiny_llama(seed=1)
    rows = {"prompt": ["What is rice?"] * 3, "chosen": [" a", " good food", " yes"], "rejected": [" no", " b c", " x"]}
    args = DPOConfig(str(tmp_path), loss_type=[loss_type], beta=0.3, use_cpu=True, bf16=False, report_to="none")
    trainer = DPOTrainer(policy, reference, args, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    with torch.no_grad():
        theirs = trainer.compute_loss(policy, batch)
        add_score_head(policy), add_score_head(reference)
        ours, base = score_padded(policy, batch), score_padded(reference, batch)
    loss = pairwise_loss(
        *ours.logp_bk.unbind(1), *base.logp_bk.unbind(1),
        objective={"sigmoid": "dpo"}.get(loss_type, loss_type), beta=0.3,
        chosen_lengths=ours.length_bk[:, 0], rejected_lengths=ours.length_bk[:, 1],
    )  # fmt: skip
    assert loss.mean().item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"beta": 0.0}, "beta: got 0.0"),
        ({"beta": float("nan")}, "beta: got nan"),
        ({"weight": torch.ones(3)}, r"weight: got shape \(3,\), expected \(2,\)"),
        ({"objective": "ipo", "chosen_lengths": None}, "chosen_lengths and rejected_lengths"),
        ({"objective": "dpo", "margin": ONES}, "margin: this objective has none"),
        ({"objective": "dpo", "sft_weight": 1.0, "chosen_lengths": None}, "the SFT term is a mean over tokens"),
    ],
)
def test_what_cannot_be_used_is_refused(change, said):
    with pytest.raises(InputError, match=said):
        pairwise_loss(*LOGPS, **({"weight": ONES, **LENGTHS} | change))


def test_missing_reference_is_refused():
    with pytest.raises(InputError, match="reference_weight is 1"):
        pairwise_loss(POLICY_CHOSEN, POLICY_REJECTED, weight=ONES)


def test_kendall_link_without_a_weight_is_refused():
    with pytest.raises(InputError, match="Kendall link is a function of the dispersion"):
        objective_loss(resolve_objective("dpo", link="kendall"), *LOGPS, beta=0.1)


def test_a_response_without_tokens_scores_zero_not_nan():
    lengths = {"chosen_lengths": torch.tensor([0, 10]), "rejected_lengths": torch.tensor([5, 2])}
    chosen = torch.tensor([0.0, -20.5], dtype=torch.float64)
    loss = pairwise_loss(chosen, POLICY_REJECTED, objective="simpo", margin=0.0, beta=1.0, **lengths)
    close(loss, [softplus(-2.6), softplus(-1.2)])
