"""FlexAttention over a packed row: its mask by enumeration, its kernel, and what is not its business.

`test_packed.py` holds its numbers against plain passes, `test_scoring_on_gpu.py` those of the compiled kernel.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import SHAPES, collate, flex_by_hand, plain_model, rows, tiny_model
from torch.nn.attention import flex_attention as torch_file

from mallowspo.errors import InputError
from mallowspo.scoring import flex_attention as file
from mallowspo.scoring.flex_attention import BLOCK, block_mask, fill_blocks, flex_inputs
from mallowspo.scoring.packed import add_packed_head, score_packed
from mallowspo.scoring.packed_attention import dense_masks, packed_support, plain_attention
from mallowspo.scoring.packed_layout import PromptGroup, pack
from mallowspo.scoring.reference_key import model_fields


@pytest.fixture
def by_hand(monkeypatch):
    flex_by_hand(monkeypatch)


def seen_by(mask, tokens):
    """The mask function at every pair of places, shape (T, T)."""
    place = torch.arange(tokens)
    return mask.mask_mod(torch.tensor(0), torch.tensor(0), place[:, None], place[None, :])


@settings(max_examples=12)
@given(
    st.integers(2, 4).flatmap(
        lambda k: st.lists(st.tuples(st.integers(1, 150), *[st.integers(1, 90)] * k), min_size=1, max_size=3)
    ),
    st.sampled_from([None, 1, 2, 5, 64, 200]),
)
def test_the_mask_is_the_dense_one_at_every_pair_of_places(lengths, window):
    packed = pack(collate(rows(lengths)), responses=len(lengths[0]) - 1)
    filled = fill_blocks(packed)
    text, tokens = packed.input_ids.size(1), filled.input_ids.size(1)
    expected = dense_masks(packed, SimpleNamespace(sliding_window=window), torch.float32)[0, 0] == 0
    mask = block_mask(filled.groups, window, torch.device("cpu"))
    seen = seen_by(mask, tokens)
    assert torch.equal(seen[:text, :text], expected)
    # The filling is apart, and none of its places sees nothing, which would be a division by zero.
    assert not seen[text:, :text].any() and not seen[:text, text:].any() and seen.diagonal().all()
    # The blocks are those that torch finds by looking at every pair.
    reference = torch_file.create_block_mask(mask.mask_mod, None, None, tokens, tokens, device="cpu")
    assert mask.shape == reference.shape and mask.BLOCK_SIZE == reference.BLOCK_SIZE
    for side in ("kv", "full_kv", "q", "full_q"):
        counts, numbers = (getattr(mask, f"{side}_{what}") for what in ("num_blocks", "indices"))
        assert torch.equal(counts, getattr(reference, f"{side}_num_blocks")), side
        for row, count in enumerate(counts[0, 0].tolist()):  # what stands after them is not read
            known = getattr(reference, f"{side}_indices")[0, 0, row, :count]
            assert torch.equal(numbers[0, 0, row, :count], known), side


def test_the_filling_is_a_group_of_its_own_and_changes_no_prediction():
    packed = pack(collate(rows([(100, 20, 20), (7, 5, 3)])))
    filled = fill_blocks(packed)
    tokens = packed.input_ids.size(1)
    assert filled.input_ids.shape == filled.position_ids.shape == (1, 2 * BLOCK)
    assert torch.equal(filled.input_ids[:, :tokens], packed.input_ids)
    assert filled.groups == (*packed.groups, PromptGroup((tokens, 2 * BLOCK), ()))
    assert filled.predictor_n is packed.predictor_n and filled.target_n is packed.target_n
    assert fill_blocks(filled) is filled


def test_each_kind_of_layer_has_its_window():
    config = tiny_model("gemma3_text").config
    packed = pack(collate(rows(SHAPES)))
    filled, inputs = flex_inputs(packed, config)
    assert inputs["prompt_groups"] is filled.groups
    full, sliding = (inputs["attention_mask"][kind] for kind in ("full_attention", "sliding_attention"))
    text = packed.input_ids.size(1)
    for mask, kind in ((full, "full_attention"), (sliding, "sliding_attention")):
        seen = seen_by(mask, filled.input_ids.size(1))[:text, :text]
        assert torch.equal(seen, dense_masks(packed, config, torch.float32)[kind][0, 0] == 0)
    # One function for both: a second would be compiled anew.
    assert full.mask_mod.__code__ is sliding.mask_mod.__code__


def test_equals_the_split_path_in_double_precision(by_hand):
    batch = collate(rows([(40, 30, 20, 25), (90, 3, 8, 1)]))
    found = []
    for attention in ("sdpa", "flex_attention"):
        model = tiny_model("gemma3_text", attn_implementation=attention).double()
        add_packed_head(model)
        with torch.no_grad():
            found.append(score_packed(model, batch, responses=3))
    torch.testing.assert_close(found[1].logp_bk, found[0].logp_bk, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1].entropy_sum_bk, found[0].entropy_sum_bk, rtol=1e-12, atol=1e-12)


def test_bfloat16_under_autocast(by_hand):
    """Rotary positions leave float32 beside bfloat16; the kernel is given one type."""
    batch = collate(rows([(20, 30, 25), (10, 12, 40)]))
    found = []
    for attention in ("sdpa", "flex_attention"):
        model = tiny_model("llama", attn_implementation=attention)
        add_packed_head(model)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            found.append(score_packed(model, batch).logp_bk)
    assert (found[1] - found[0]).abs().max() < 0.02 * found[0].abs().max()  # bfloat16 keeps 8 bits


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's tracer looks there
def test_few_compilations_whatever_the_layout(monkeypatch):
    """Twice with gradient and twice without: as the row first comes, and when its length first changes."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    monkeypatch.setattr(torch_file, "_validate_device", lambda query, key, value: None)
    counter = CompileCounter()
    compiled = torch.compile(torch_file.flex_attention, backend=counter, fullgraph=True)
    monkeypatch.setattr(file, "_flex_attention", lambda device: compiled)
    model = tiny_model("gemma3_text", attn_implementation="flex_attention")
    add_packed_head(model)
    counts = []
    for lengths in ([(90, 40, 30)] * 2, [(7, 5, 3)], [(200, 150, 90)] * 2, [(30, 400, 20)], [(5, 6, 7)] * 40):
        with torch.no_grad():
            score_packed(model, collate(rows(lengths)))
        score_packed(model, collate(rows(lengths))).logp_bk.sum().backward()
        counts.append(counter.frame_count)
    torch._dynamo.reset()
    assert counts == [2, 4, 4, 4, 4]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_on_a_cpu_without_gradient(model_type):
    batches = [collate(rows(lengths)) for lengths in (SHAPES, [(100, 90, 60)] * 2)]
    plain, model = plain_model(model_type), tiny_model(model_type, attn_implementation="flex_attention")
    add_packed_head(plain)
    add_packed_head(model)
    with torch.no_grad():
        for batch in batches:
            expected, found = (score_packed(m, batch) for m in (plain, model))
            torch.testing.assert_close(found.logp_bk, expected.logp_bk, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(found.entropy_sum_bk, expected.entropy_sum_bk, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_compiled_for_a_cpu_the_kernel_gives_the_same(model_type, monkeypatch):
    """By torch's own compiler, as on a card: forwards, and of one length, which is all that it can on a CPU."""
    torch._dynamo.reset()
    compiled = torch.compile(torch_file.flex_attention, dynamic=False, fullgraph=True)
    monkeypatch.setattr(file, "_flex_attention", lambda device: compiled)
    batch = collate(rows(SHAPES))
    plain, model = plain_model(model_type), tiny_model(model_type, attn_implementation="flex_attention")
    add_packed_head(plain)
    add_packed_head(model)
    with torch.no_grad():
        expected, found = (score_packed(m, batch) for m in (plain, model))
    torch._dynamo.reset()
    torch.testing.assert_close(found.logp_bk, expected.logp_bk, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.entropy_sum_bk, expected.entropy_sum_bk, rtol=1e-5, atol=1e-4)


def test_dropout_is_refused():
    with pytest.raises(InputError, match="set attention_dropout to 0"):
        file._attention(None, *[torch.zeros(1, 1, BLOCK, 8)] * 3, None, dropout=0.1, prompt_groups=())


def test_calls_without_a_packed_row_are_those_of_transformers(monkeypatch):
    from transformers.integrations import flex_attention as theirs

    asked = []
    monkeypatch.setattr(
        theirs, "flex_attention_forward", lambda *args, **kw: asked.append((args, kw)) or ("out", None)
    )
    q = torch.zeros(1, 1, 2, 8)
    assert file._attention("module", q, q, q, "mask", scaling=0.5, softcap=3.0, sliding_window=4) == ("out", None)
    assert asked == [
        (("module", q, q, q, "mask"), {"dropout": 0.0, "scaling": 0.5, "softcap": 3.0, "sliding_window": 4})
    ]


def test_path_and_store_know_the_users_own_name():
    model = tiny_model("gemma2", attn_implementation="flex_attention")
    before = model_fields(copy.copy(model))
    assert packed_support(model).reason == "gemma2 with flex attention"
    assert add_packed_head(model) == packed_support(model)
    assert plain_attention(model.config) == "flex_attention" and model_fields(model) == before


def test_a_model_on_several_devices_does_not_share():
    model = tiny_model("llama", attn_implementation="flex_attention")
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    support = packed_support(model)
    assert support.path == "padded" and "several devices" in support.reason
