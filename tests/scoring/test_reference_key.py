"""The key changes with everything that changes a score, and with nothing else."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from stores import TinyReference, token_rows
from transformers import AutoModelForCausalLM

from mallowspo.scoring import model_fields, rows_key, tokenizer_fields
from mallowspo.scoring.reference_key import STORE_FORMAT
from tiny import tiny_llama, tiny_tokenizer

ROWS = token_rows(6)


def bumped(model):
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6
    return model


def with_lora(scale=0.0, **config):
    torch.manual_seed(1)
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.add_(scale)
    return model


MODELS = {
    "weights": lambda: bumped(tiny_llama()),
    "config": lambda: tiny_llama(rms_norm_eps=1e-3),
    "vocab_size": lambda: tiny_llama(vocab_size=408),
    "dtype": lambda: tiny_llama().to(torch.bfloat16),
    "attn_implementation": lambda: tiny_llama(attn_implementation="eager"),
}


@pytest.mark.parametrize("field", MODELS)
def test_each_part_of_the_model_changes_the_key(field):
    reference = TinyReference()
    key = reference.key(ROWS)
    other = reference.key(ROWS, **model_fields(MODELS[field]()))
    assert other.digest != key.digest
    assert field in [difference.field for difference in key.differences(other)]


def test_the_adapter_changes_the_key():
    bare = model_fields(tiny_llama())
    assert model_fields(with_lora(), adapter=None) == bare  # switched off: the reference is the bare model
    digests = {
        model_fields(model, adapter="default")["adapter"]
        for model in (with_lora(), with_lora(scale=0.1), with_lora(lora_alpha=4))
    }
    assert len(digests) == 3 and bare["adapter"] not in digests
    assert {model_fields(with_lora(scale=s), adapter="default")["weights"] for s in (0, 1)} == {bare["weights"]}


def test_adapter_key_survives_saving(tmp_path):
    from peft import PeftModel

    model = with_lora(scale=0.1)
    model.save_pretrained(tmp_path, save_embedding_layers=False)  # peft < 0.21 warns of a model without a name
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert model_fields(loaded, adapter="default") == model_fields(model, adapter="default")


def changed_text(tokenizer):
    tokenizer.add_tokens(["wombat"])
    return tokenizer


@pytest.mark.parametrize(
    ("field", "tokenizer"),
    [
        ("tokenizer", lambda: changed_text(tiny_tokenizer())),
        ("tokenizer", lambda: tiny_tokenizer(eos=False)),
        ("chat_template", lambda: tiny_tokenizer(chat=True)),
    ],
)
def test_the_tokenizer_and_its_template_change_the_key(field, tokenizer):
    before, after = tokenizer_fields(tiny_tokenizer()), tokenizer_fields(tokenizer())
    assert before[field] != after[field]


def test_using_a_tokenizer_leaves_the_key_alone():
    tokenizer = tiny_tokenizer()
    before = tokenizer_fields(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fields(tokenizer) == before


def with_token(row, column):
    rows = ROWS.to_list()
    rows[row][column] = [*rows[row][column][:-1], 7]
    return type(ROWS).from_list(rows)


@pytest.mark.parametrize(
    "rows",
    [
        *(with_token(4, column) for column in ("prompt_ids", "chosen_ids", "rejected_ids")),
        ROWS.select([1, 0, 2, 3, 4, 5]),
        ROWS.select(range(5)),
    ],
)
def test_the_rows_and_their_order_change_the_key(rows):
    assert rows_key(rows)["rows"] != rows_key(ROWS)["rows"]


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 63}, {"truncation_mode": "keep_end"}, {"mixed_precision": "bf16"},
        {"format": STORE_FORMAT + 1}, {"max_length": "unlimited"},
    ],
    ids=str,
)  # fmt: skip
def test_each_setting_changes_the_key(change):
    reference = TinyReference()
    key, other = reference.key(ROWS), reference.key(ROWS, **change)
    assert key.digest != other.digest
    assert [difference.field for difference in key.differences(other)] == list(change)


def test_what_does_not_change_a_score_does_not_change_the_key(tmp_path):
    """A copy on disk, a pad token, a cache switch, a gradient, another name."""
    reference = TinyReference()
    key = reference.key(ROWS)
    tiny_llama().save_pretrained(tmp_path / "copy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    loaded.config.pad_token_id, loaded.config.use_cache = 2, False
    loaded.requires_grad_(False).train()
    assert reference.key(ROWS, **model_fields(loaded)) == key
    other_names = ROWS.remove_columns("prompt_id").add_column("prompt_id", ["x"] * 6)
    assert reference.key(other_names) == key


def test_another_dtype_is_named_alone():
    """Its weights have other bytes too, which says nothing new."""
    reference = TinyReference()
    other = reference.key(ROWS, **model_fields(tiny_llama().to(torch.bfloat16)))
    (difference,) = reference.key(ROWS).differences(other)
    assert str(difference) == "dtype is float32 in the store and bfloat16 here"
