"""Packed scores on CUDA: both attentions against plain passes, the fused head, and memory.

Marked `gpu` and skipped without CUDA: `pytest -m gpu`, or benchmarks/gpu.sh. What the tests beside this file hold on
a CPU is held here for the kernels that a CPU does not have.
"""

import copy

import packing
import pytest
import torch
from packing import REAL, SHAPES, check, collate, gradients_of, naive, rows
from transformers.utils import is_triton_available
from triton_head import CASES, hold

from mallowspo import compat
from mallowspo.compat import add_score_head
from mallowspo.scoring import score_padded
from mallowspo.scoring.packed import add_packed_head, score_packed
from mallowspo.scoring.response_head import LogitTransform, response_head

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # what compilers say of a card is not a test's business
]
DEVICE = "cuda"
ATTENTIONS = ("sdpa", "flex_attention")

# Heads of 32: the kernel of FlexAttention takes none below 16.
WIDE = {"hidden_size": 128, "head_dim": 32}


@pytest.fixture(autouse=True)
def compiled_anew():
    """Each test compiles for itself; together they would pass torch's limit of variants of one function."""
    torch._dynamo.reset()


def plain_model(model_type):
    return packing.plain_model(model_type, **WIDE).to(DEVICE)


def packing_model(model_type, attention):
    return packing.packing_model(model_type, attention, **WIDE).to(DEVICE)


def batch_of(lengths):
    return {name: value.to(DEVICE) for name, value in collate(rows(lengths)).items()}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3_text", "gpt_neox", "mistral", "qwen2"])
def test_softcaps_windows_and_shared_keys(model_type, attention):
    """Gemma 2's softcap, sliding windows, keys that heads share and keys that they do not; float32, all gradients."""
    check(packing_model(model_type, attention), batch_of(SHAPES), plain=plain_model(model_type))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_lengths_of_real_work(attention):
    """Rows of several lengths one after the other, so that the compiled kernel meets what it was not traced with."""
    for count, shape in zip((1, 3, 6), REAL, strict=True):
        check(packing_model("llama", attention), batch_of([shape] * count), path="packed", plain=plain_model("llama"))


@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_bfloat16_is_no_worse_than_naive_bfloat16(model_type, attention, how):
    batch = batch_of([REAL[1], (40, 60, 50), (10, 12, 40)])
    plain, model = plain_model(model_type), packing_model(model_type, attention)
    truth = naive(plain, batch, 2, torch.float64)
    rounded = naive(copy.deepcopy(plain).to(torch.bfloat16), batch, 2, torch.bfloat16)
    model = model.to(torch.bfloat16) if how == "weights" else model
    add_packed_head(model)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=how == "autocast"):
        scores = score_packed(model, batch)
    assert scores.entropy_sum_bk.dtype == torch.float64
    found = {"log-probability": scores.logp_bk, "entropy": scores.entropy_sum_bk, **gradients_of(model, scores)}
    same = {"log-probability": rounded["logp"], "entropy": rounded["entropy"], **rounded["gradients"]}
    exact = {"log-probability": truth["logp"], "entropy": truth["entropy"], **truth["gradients"]}
    for name, value in exact.items():
        errors = [(values[name].detach().double() - value).norm() for values in (found, same)]
        assert errors[0] <= 1.5 * errors[1] + 1e-2 * value.norm(), name  # bfloat16 keeps 8 bits


def test_both_attentions_score_alike_without_gradient():
    batch, found = batch_of([REAL[0], REAL[1], (3, 4, 5)]), []
    for attention in ATTENTIONS:
        model = packing_model("llama", attention)
        add_packed_head(model)
        with torch.no_grad():
            found.append(score_packed(model, batch))
    torch.testing.assert_close(found[1].logp_bk, found[0].logp_bk, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[1].entropy_sum_bk, found[0].entropy_sum_bk, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_flex_attention_under_gradient_checkpointing_and_lora(checkpointing):
    from peft import LoraConfig, get_peft_model

    batch, found = batch_of([REAL[1], (40, 60, 50)]), []
    for attention in ATTENTIONS:
        torch.manual_seed(0)
        lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(packing_model("llama", attention), lora)
        add_packed_head(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            model.train()
        found.append(gradients_of(model, score_packed(model, batch)))
    for name, gradient in found[0].items():
        assert (found[1][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


needs_triton = pytest.mark.skipif(not is_triton_available(), reason="Triton is not installed")


@needs_triton
@pytest.mark.parametrize(("transform", "bias"), CASES, ids=str)
def test_the_fused_head(transform, bias):
    hold(transform, bias, DEVICE)


@needs_triton
def test_the_fused_head_in_bfloat16():
    hold(LogitTransform(), False, DEVICE, torch.bfloat16)


@needs_triton
def test_the_fused_head_is_the_one_that_runs(monkeypatch):
    asked, fused = [], compat.triton_response_head
    monkeypatch.setattr(compat, "triton_response_head", lambda *args, **kw: asked.append(1) or fused(*args, **kw))
    response_head(
        torch.zeros(3, 16, device=DEVICE), torch.ones(40, 16, device=DEVICE), None,
        torch.zeros(3, dtype=torch.long, device=DEVICE), LogitTransform(),
    )  # fmt: skip
    assert asked


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_peak_memory_is_below_that_of_padded_rows(attention):
    """A long prompt is held once and no token is padding."""
    batch = batch_of([(384, 96, 70), (200, 30, 96), (384, 20, 90), (300, 96, 96)] * 2)
    peaks = []
    for packed in (False, True):
        model = packing_model("llama", attention if packed else "sdpa")
        if packed:
            add_packed_head(model)
        else:
            add_score_head(model, ("log_probs", "entropy", "mean_logits", "is_top1"))
        score = score_packed if packed else score_padded
        gradients_of(model, score(model, batch))  # compiles, and fills the caches of the libraries
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        gradients_of(model, score(model, batch))
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del model
    assert peaks[1] < 0.8 * peaks[0], peaks
