"""Which path a model takes and why, and what the attention function does outside of a packed row."""

import copy
import weakref
from functools import partial

import pytest
import torch
from packing import SHAPES, VOCABULARY, collate, rows, tiny_model
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from mallowspo.scoring import packed_attention as file
from mallowspo.scoring.packed import add_packed_head, score_packed
from mallowspo.scoring.packed_attention import PACKED_ATTENTION, packed_support
from mallowspo.scoring.reference_key import model_fields
from tiny import tiny_llama


@pytest.mark.parametrize(
    ("model_type", "changes", "path", "said"),
    [
        ("llama", {}, "packed", "llama with sdpa attention"),
        ("llama", {"attn_implementation": "eager"}, "dense_mask", "llama with eager attention"),
        ("gemma2", {"attn_implementation": "eager"}, "dense_mask", "gemma2 with softcapped attention"),
        ("gemma3_text", {}, "packed", "gemma3_text with sdpa attention"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "padded",
            "llama: rope type dynamic depends on the longest row of a batch",
        ),
    ],
)
def test_path_follows_from_the_configuration(model_type, changes, path, said):
    support = packed_support(tiny_model(model_type, **changes))
    assert (support.path, support.reason) == (path, said)


@pytest.mark.parametrize(
    ("model_type", "fields", "said"),
    [
        ("bloom", {"n_head": 4, "hidden_size": 32, "n_layer": 1}, "bloom: ALiBi"),
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 1}, "mamba: its recurrent state"),
        ("gpt_neo", {"num_heads": 4, "hidden_size": 32, "num_layers": 1, "attention_types": [[["local"], 1]]},
         "gpt_neo is not among the architectures that were verified"),
    ],
)  # fmt: skip
def test_what_cannot_share_says_why_and_is_left_alone(model_type, fields, said):
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, **fields)
    model = AutoModelForCausalLM.from_config(config)
    before = model.config._attn_implementation
    support = add_packed_head(model)
    assert support.path == "padded" and said in support.reason
    assert model.config._attn_implementation == before and "forward" not in vars(model)


def test_adapters():
    lora = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert packed_support(lora).path == "packed"
    prompt = get_peft_model(tiny_model("llama"), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    support = packed_support(prompt)
    assert support.path == "padded" and "prompt-learning" in support.reason


def test_all_other_calls_stay_as_they_were(tmp_path):
    """Padded rows, generation and the saved configuration know nothing of packing."""
    model = tiny_llama()
    plain = copy.deepcopy(model)
    add_packed_head(model)
    ids = torch.tensor([[5, 6, 7, 8], [9, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert torch.equal(model(ids, attention_mask=mask).logits, plain(ids, attention_mask=mask).logits)
    options = {"max_new_tokens": 5, "do_sample": False, "attention_mask": mask.flip(1)}
    assert torch.equal(model.generate(ids.flip(1), **options), plain.generate(ids.flip(1), **options))
    model.save_pretrained(tmp_path)
    assert PACKED_ATTENTION not in (tmp_path / "config.json").read_text()


def test_a_store_of_the_plain_model_is_the_packed_models_too():
    model = tiny_llama()
    before = model_fields(model)
    add_packed_head(model)
    assert model_fields(model) == before and before["attn_implementation"] == "sdpa"


def test_keys_joined_with_a_prompts_are_not_kept_for_the_backward_pass(monkeypatch):
    # Query, the prompt's and the response's own keys, then values.
    states = [torch.randn(1, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5, 3, 5, 3)]
    query, *parts = states
    monkeypatch.setattr(file, "_WORTH_JOINING_AGAIN", 0)
    kept, unpack = [], file._unpack
    monkeypatch.setattr(file, "_unpack", lambda value: kept.append(value) or unpack(value))
    attend = partial(file._attend, window=None, dropout=0.0, scaling=None)
    output = file._attend_joined(query, tuple(parts[:2]), tuple(parts[2:]), attend)
    grads = torch.autograd.grad(output.square().sum(), states)
    assert [tuple(part.size(2) for part in value) for value in kept if isinstance(value, tuple)] == [(5, 3), (5, 3)]
    whole = [value for value in kept if isinstance(value, torch.Tensor) and value.shape[-1] == 4]
    assert whole and all(value.size(2) == 3 for value in whole)
    scores = query @ torch.cat(parts[:2], 2).transpose(2, 3) / 2
    seen = torch.ones(3, 8, dtype=torch.bool).tril(5)
    plain = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ torch.cat(parts[2:], 2)
    torch.testing.assert_close(output, plain, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(plain.square().sum(), states)
    torch.testing.assert_close(grads, expected, rtol=1e-12, atol=1e-12)


def test_checkpointed_layers_keep_nothing_of_attention(monkeypatch):
    model = tiny_llama().train()
    add_packed_head(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    monkeypatch.setattr(file, "_WORTH_JOINING_AGAIN", 0)
    queries, attend = [], file._attend

    def watched(query, *arguments, **options):
        queries.append(weakref.ref(query))
        return attend(query, *arguments, **options)

    monkeypatch.setattr(file, "_attend", watched)
    logps = score_packed(model, collate(rows(SHAPES))).logp_bk
    called = len(queries)
    assert called and [query() for query in queries] == [None] * called  # before the backward pass
    logps.sum().backward()
    assert len(queries) > called and [query() for query in queries] == [None] * len(queries)  # and after it
