"""Packed scores are those of plain passes over single sequences: every architecture, every shape of a batch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import (
    REAL,
    SHAPES,
    VOCABULARY,
    assert_as_good_as,
    check,
    collate,
    flex_by_hand,
    gradients_of,
    naive,
    packing_model,
    plain_model,
    ranked_pairs,
    rows,
    tiny_model,
)
from peft import LoraConfig, get_peft_model

from mallowspo.compat import add_score_head
from mallowspo.scoring import packed_attention, score_padded
from mallowspo.scoring.flex_attention import PACKED_FLEX
from mallowspo.scoring.packed import add_packed_head, score_packed
from mallowspo.scoring.packed_attention import VERIFIED_ARCHITECTURES
from tiny import tiny_llama

ATTENTIONS = ("sdpa", "flex_attention")
WITH_FLEX = [name for name in VERIFIED_ARCHITECTURES if name != "gpt2"]  # transformers has none for GPT-2


@pytest.fixture(autouse=True, scope="module")
def joined_again():
    """Keys are joined again in the backward pass, as with prompts and models of real size."""
    with pytest.MonkeyPatch.context() as patch:
        flex_by_hand(patch)
        patch.setattr(packed_attention, "_WORTH_JOINING_AGAIN", 0)
        yield


@pytest.mark.parametrize(
    ("model_type", "attention"),
    [*((name, None) for name in VERIFIED_ARCHITECTURES), *((name, "flex_attention") for name in WITH_FLEX)],
)
def test_every_verified_architecture(model_type, attention):
    model = tiny_model(model_type, attn_implementation=attention)
    path = "dense_mask" if model.config._attn_implementation == "eager" else "packed"  # as transformers chooses
    check(model, collate(rows(SHAPES)), path=path, plain=plain_model(model_type) if attention else None)
    assert attention is None or model.config._attn_implementation == PACKED_FLEX


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "mistral", "gpt2", "qwen2"])
def test_dense_masks_under_eager_attention(model_type):
    check(tiny_model(model_type, attn_implementation="eager"), collate(rows(SHAPES)), path="dense_mask")


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("shape", REAL, ids="abc")
def test_lengths_of_real_work(shape, attention):
    check(packing_model("llama", attention), collate(rows([shape, shape])), path="packed", plain=plain_model("llama"))


@settings(max_examples=12)
@given(
    st.integers(2, 8).flatmap(
        lambda k: st.lists(st.tuples(st.integers(1, 5), *[st.integers(1, 5)] * k), min_size=1, max_size=3)
    ),
    st.sampled_from([{}, {"pad": 2}, {"max_length": 5}, {"max_length": 4, "truncation_mode": "keep_end"}]),
)
def test_any_number_of_responses_cut_in_any_way(lengths, options):
    data = [{key: [*ids[:-1], 2] for key, ids in row.items()} for row in rows(lengths)]  # all end in the eos token
    check(tiny_model("llama"), collate(data, **options), responses=len(lengths[0]) - 1)


def test_pairs_of_ranked_lists_score_as_the_lists():
    """Responses that stand in several pairs are computed once, and their gradients add up."""
    model, batch = tiny_model("llama"), collate(rows([(5, 6, 4, 3, 1), (3, 4, 4, 2, 5)]))
    pairs, places = ranked_pairs(batch, 4)
    add_packed_head(model)
    lists = score_packed(model, batch, responses=4, per_token=True)
    scores = score_packed(model, pairs, per_token=True)
    for name in ("logp_bk", "entropy_sum_bk", "length_bk", "token_entropy_bkt", "token_mask_bkt"):
        whole = getattr(lists, name)
        expected = torch.stack([torch.stack([whole[b, i], whole[b, j]]) for b, i, j in places])
        assert torch.equal(getattr(scores, name), expected), name
    truth = naive(tiny_model("llama"), pairs, 2, torch.float64)
    torch.testing.assert_close(scores.logp_bk, truth["logp"], rtol=1e-5, atol=1e-5)
    for name, gradient in gradients_of(model, scores).items():
        torch.testing.assert_close(gradient.double(), truth["gradients"][name], rtol=1e-3, atol=1e-4)


def test_equals_the_padded_layout():
    """The same fields, of the same shapes and meaning, as the layout that it replaces."""
    batch = collate(rows(SHAPES))
    model = tiny_llama(VOCABULARY)
    add_score_head(model, ("log_probs", "entropy", "mean_logits", "is_top1"))
    padded = score_padded(model, batch, per_token=True)
    padded_gradients = {k: g.clone() for k, g in gradients_of(model, padded).items()}
    add_packed_head(model)
    packed = score_packed(model, batch, per_token=True)
    for name in ("logp_bk", "entropy_sum_bk", "logit_sum_bk", "top1_bk", "token_entropy_bkt"):
        torch.testing.assert_close(getattr(packed, name), getattr(padded, name), rtol=1e-5, atol=1e-5)
    assert torch.equal(packed.token_mask_bkt, padded.token_mask_bkt)
    assert torch.equal(packed.length_bk, padded.length_bk)
    for name, gradient in gradients_of(model, packed).items():
        torch.testing.assert_close(gradient, padded_gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "attention"),
    [*((name, "sdpa") for name in ("llama", "gpt2", "gemma2", "gemma3_text")), ("gemma2", "flex_attention")],
)
def test_a_change_in_one_response_changes_no_number_of_its_sibling(model_type, attention):
    model = packing_model(model_type, attention)
    add_packed_head(model)
    data = rows([(5, 6, 4), (3, 4, 4)])
    with torch.no_grad():
        before = score_packed(model, collate(data), per_token=True)
        data[0]["response_0"] = [(token + 7) % VOCABULARY for token in data[0]["response_0"]]
        after = score_packed(model, collate(data), per_token=True)
    assert before.logp_bk[0, 0] != after.logp_bk[0, 0]
    for name in ("logp_bk", "entropy_sum_bk", "token_entropy_bkt"):
        one, two = getattr(before, name), getattr(after, name)
        assert torch.equal(one[0, 1], two[0, 1]) and torch.equal(one[1], two[1])


def test_no_gradient_flows_between_siblings():
    """The derivative of a response's score along its sibling's tokens is exactly zero."""
    model = tiny_model("llama")
    add_packed_head(model)
    found = {}
    model.get_input_embeddings().register_forward_hook(
        lambda *call: found.update(rows=call[2]) or call[2].retain_grad()
    )
    scores = score_packed(model, collate(rows([(3, 4, 5)])))
    scores.logp_bk[0, 0].backward()
    gradient = found["rows"].grad[0].abs().sum(-1)  # prompt 0-2, first response 3-5, second 6-9
    assert (gradient[:6] > 0).all() and (gradient[6:] == 0).all()


def test_lora_trains_the_adapter_only():
    batch = collate(rows(SHAPES))
    torch.manual_seed(0)
    model = get_peft_model(
        tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    check(model, batch, path="packed")
    with torch.no_grad(), model.disable_adapter():
        off = score_packed(model, batch)
    assert_as_good_as(off.logp_bk, off.logp_bk.float(), naive(tiny_model("llama"), batch, 2, torch.float64)["logp"])


def test_gradient_checkpointing_computes_the_same():
    batch = collate(rows(SHAPES))
    model = tiny_model("llama")
    add_packed_head(model)
    plain = {k: g.clone() for k, g in gradients_of(model, score_packed(model, batch)).items()}
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for name, gradient in gradients_of(model, score_packed(model, batch)).items():
        assert torch.equal(gradient, plain[name]), name


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_is_no_worse_than_naive_bfloat16(how):
    batch = collate(rows([(20, 30, 25), (10, 12, 40)] * 2))
    model = tiny_model("llama")
    truth = naive(model, batch, 2, torch.float64)
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    plain = naive(rounded, batch, 2, torch.bfloat16)
    if how == "weights":
        model = rounded
    add_packed_head(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        scores = score_packed(model, batch)
    assert_as_good_as(scores.logp_bk, plain["logp"], truth["logp"])
    assert scores.entropy_sum_bk.dtype == torch.float64
    gradients = gradients_of(model, scores)
    for name, value in truth["gradients"].items():
        errors = [(g[name].double() - value).norm() for g in (gradients, plain["gradients"])]
        assert errors[0] <= 1.5 * errors[1] + 1e-2 * value.norm(), name  # bfloat16 keeps 8 bits


def test_nothing_scored_is_zero_and_differentiable():
    model = tiny_model("llama")
    add_packed_head(model)
    scores = score_packed(model, collate(rows([(6, 2, 3)]), max_length=6))
    scores.logp_bk.sum().backward()
    assert scores.logp_bk.tolist() == [[0, 0]] and scores.length_bk.tolist() == [[0, 0]]
