"""The trial of a model's scores: no false alarm for what the other tests hold exact, an alarm for what is wrong."""

import copy

import pytest
import torch
from packing import tiny_model
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from mallowspo.compat import add_score_head
from mallowspo.errors import InputError
from mallowspo.scoring.packed import add_packed_head
from mallowspo.scoring.packed_attention import VERIFIED_ARCHITECTURES
from mallowspo.scoring.self_check import check_scores
from tiny import tiny_llama

CPU = torch.device("cpu")


def prepared(model, *, packed=True):
    add_score_head(model)
    return not packed or add_packed_head(model).path != "padded"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", VERIFIED_ARCHITECTURES)
def test_no_verified_architecture_fails(model_type, dtype):
    """Softcaps, scales and windows are known, and rounding is let through."""
    model = tiny_model(model_type).to(dtype)
    assert prepared(model)
    assert check_scores(model, CPU, packed=True) is None
    assert check_scores(model, CPU, packed=False) is None


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_no_attention_fails(attention):
    model = tiny_model("llama", attn_implementation=attention)
    assert prepared(model)
    packed = model.config._attn_implementation
    assert check_scores(model, CPU, packed=True) is None
    assert model.config._attn_implementation == packed


@pytest.mark.parametrize("how", ["adapter", "virtual tokens", "autocast", "vocabulary of 3"])
def test_no_way_to_run_a_model_fails(how):
    model = tiny_llama(3) if how == "vocabulary of 3" else tiny_llama()
    prepared(model, packed=how != "virtual tokens")
    if how == "adapter":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    if how == "virtual tokens":
        model = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    mixed = "bf16" if how == "autocast" else "no"
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed != "no"):
        assert check_scores(model, CPU, packed=how != "virtual tokens", mixed_precision=mixed) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_that_packing_does_not_reach_is_seen_in_any_precision(dtype):
    model = tiny_llama().to(dtype)
    model.model.layers[1] = copy.deepcopy(model.model.layers[1])
    assert prepared(model)
    complaint = check_scores(model, CPU, packed=True)
    assert complaint is not None and "packed rows" in complaint
    assert check_scores(model, CPU, packed=False) is None


def test_logits_that_are_more_than_the_heads_product_are_refused():
    model = tiny_llama()
    prepared(model)
    model.lm_head.register_forward_hook(lambda module, given, out: out * 0.5)
    for packed in (True, False):
        with pytest.raises(InputError, match="^lm_head: "):
            check_scores(model, CPU, packed=packed)


def test_broken_weights_are_left_to_the_first_loss():
    model = tiny_llama()
    prepared(model)
    model.lm_head.weight.data[0] = float("nan")
    assert check_scores(model, CPU, packed=True) is None


def test_every_module_keeps_its_mode_and_no_gradient_is_left():
    model = tiny_llama()
    prepared(model)
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    check_scores(model, CPU, packed=True)
    assert [module.training for module in model.modules()] == before
    assert all(value.grad is None for value in model.parameters()) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("router_logits", [False, True])
def test_a_model_that_cannot_be_called_as_it_must_be_is_told(router_logits, monkeypatch):
    model = tiny_llama()
    assert prepared(model, packed=False)
    inner = model.forward

    def forward(*args, **kwargs):
        if router_logits == ("output_router_logits" in kwargs):
            raise AttributeError("no experts")
        return inner(*args, **kwargs)

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(InputError, match="^model: LlamaForCausalLM .*no experts") as told:
        check_scores(model, CPU, packed=False, router_logits=router_logits)
    assert ("router_aux_loss_coef" in str(told.value)) == router_logits
