"""What must come out the same, on a random model and on a real one.

Against TRL both sides run padded rows (`share_prompts: false`): a reward is a small difference of large float32 sums,
and another layout moves it by 1e-6, which is more than 1e-5 of a reward near 0. `test_scoring_path.py` holds the
packed rows against the padded ones.
"""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from pairs import build, history, lora, options, small_pairs, trained
from peft import get_peft_model
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from tiny import tiny_tokenizer

SAME = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


def of_trl(setting, tmp_path, rows=None, *, peft_config=None, processing_class=None, **changes):
    args, rows = DPOConfig(**options(tmp_path, **changes)), setting.rows if rows is None else rows
    given = {"peft_config": peft_config, "processing_class": processing_class}
    run = DPOTrainer(setting.path, args=args, train_dataset=rows, **given)
    run.train()
    return run


def weights(run):
    return {name: value.detach().clone() for name, value in run.model.named_parameters()}


def assert_same_history(first, second, names=SAME, rel=1e-5, atol=1e-7):
    for name in names:
        left, right = history(first, name), history(second, name)
        assert len(left) == len(right) > 0
        np.testing.assert_allclose(left, right, rtol=rel, atol=atol, err_msg=name)


def test_objective_dpo_reproduces_trl_step_by_step(setting, tmp_path):
    theirs = of_trl(setting, tmp_path)
    ours = trained(setting, tmp_path, objective="dpo", share_prompts=False)
    assert len(history(ours, "loss")) == 20
    assert_same_history(theirs, ours, (*SAME, "entropy", "logits/chosen", "num_tokens", "mean_token_accuracy"))


@pytest.mark.parametrize(
    ("objective", "loss_type", "steps"), [("ipo", "ipo", 6), ("hinge", "hinge", 6), ("dpo_norm", "sigmoid_norm", 20)]
)
def test_other_presets_reproduce_trl(random_setting, tmp_path, objective, loss_type, steps):
    theirs = of_trl(random_setting, tmp_path, loss_type=[loss_type], max_steps=steps)
    ours = trained(random_setting, tmp_path, objective=objective, max_steps=steps, share_prompts=False)
    assert_same_history(theirs, ours, ("loss", "grad_norm", "logps/chosen"))


def layouts():
    """The same pairs in TRL's four layouts."""
    text = small_pairs(12).to_list()

    def said(role, content):
        return [{"role": role, "content": content}]

    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    chat = [{side: said(role, r[side]) for side, role in roles.items()} for r in text]
    return {
        "standard, explicit": text,
        "standard, implicit": [{k: r["prompt"] + r[k] for k in ("chosen", "rejected")} for r in text],
        "conversational, explicit": chat,
        "conversational, implicit": [{k: r["prompt"] + r[k] for k in ("chosen", "rejected")} for r in chat],
    }


@pytest.mark.parametrize("layout", layouts())
def test_every_layout_trains_as_with_trl(random_setting, tmp_path, layout):
    given, chat = (random_setting, tmp_path, Dataset.from_list(layouts()[layout])), layout.startswith("conv")
    theirs = of_trl(*given, max_steps=3, processing_class=tiny_tokenizer(chat=chat))
    ours = {"objective": "dpo", "share_prompts": False, "processing_class": tiny_tokenizer(chat=chat)}
    assert_same_history(theirs, trained(*given, max_steps=3, **ours))


def test_a_pretrained_adapter_is_its_own_reference(random_setting, tmp_path):
    """Training goes on from an adapter: the reference is a frozen copy of it, not the bare model."""
    base = AutoModelForCausalLM.from_pretrained(random_setting.path)
    policy = get_peft_model(base, lora())
    for name, value in policy.named_parameters():
        if "lora_B" in name:
            value.data.normal_(generator=torch.Generator().manual_seed(1))
    bare = build(random_setting, tmp_path)
    run = trained(policy, tmp_path, random_setting.rows, max_steps=3)
    assert history(run, "loss")[0] == pytest.approx(math.log(2), abs=2e-6)
    assert abs(history(run, "logps/chosen")[2] - history(run, "logps/chosen")[0]) > 0
    assert run.train_dataset["ref_chosen_logps"] != bare.train_dataset["ref_chosen_logps"]


def test_lora_dpo_reproduces_trl(setting, tmp_path):
    theirs = of_trl(setting, tmp_path, peft_config=lora(), max_steps=8)
    ours = trained(setting, tmp_path, objective="dpo", peft_config=lora(), max_steps=8, share_prompts=False)
    assert_same_history(theirs, ours)
    assert ours.ref_model is None


def test_theta_with_all_weights_one_is_dpo(setting, tmp_path):
    ones = setting.rows.add_column("weight", [1.0] * len(setting.rows))
    theta = trained(setting, tmp_path, ones, objective="mallows_theta", dispersion="column", max_steps=8)
    dpo = trained(setting, tmp_path, objective="dpo", max_steps=8)
    assert_same_history(theta, dpo, rel=1e-6)


def test_stored_reference_equals_live_reference(setting, tmp_path):
    live = trained(setting, tmp_path, objective="dpo", max_steps=8)
    stored = trained(setting, tmp_path, objective="dpo", precompute_ref_log_probs=True, max_steps=8)
    # The pass pads other batches than training does; 1e-5 of a log-probability of -200 is what float32 leaves.
    assert_same_history(live, stored, ("loss", "grad_norm", "logps/chosen"), rel=2e-4)


@pytest.mark.parametrize("objective", ["dpo", "mallows_theta", "mallows_phi"])
def test_batch_of_four_equals_accumulation_of_four(setting, tmp_path, objective):
    changes = {"objective": objective, "max_steps": 5, "lr_scheduler_type": "constant"}
    whole = trained(setting, tmp_path, **changes)
    parts = trained(setting, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, **changes)
    # Against a stored reference a reward of 0 is a difference of sums, of which float32 leaves 1e-5.
    assert_same_history(whole, parts, rel=2e-4, atol=1e-5)
    for name, value in weights(whole).items():
        # By norm: where a gradient is all rounding, Adam makes a whole step of its sign.
        assert (value - weights(parts)[name]).norm() <= 1e-4 * value.norm(), name


@pytest.mark.parametrize("objective", ["dpo", "mallows_theta"])
def test_four_steps_equal_two_resumed_for_two(setting, tmp_path, objective):
    changes = {"objective": objective, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trained(setting, tmp_path / "whole", **changes)
    again = build(setting, tmp_path / "whole", **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    # A resumed run has the history of its checkpoint before its own.
    assert history(whole, "loss") == history(again, "loss")
    assert history(whole, "num_tokens") == history(again, "num_tokens")


@pytest.mark.parametrize("objective", ["mallows_theta", "mallows_phi", "dpo", "rainbow"])
def test_loss_is_log_two_before_the_first_step(setting, tmp_path, objective):
    """Also with length normalisation, where the whole reference is in the gap and no margin is."""
    whole = {"reference_weight": 1.0} if objective == "rainbow" else {}
    run = trained(setting, tmp_path, objective=objective, max_steps=1, **whole)
    assert history(run, "loss")[0] == pytest.approx(math.log(2), abs=2e-6)
