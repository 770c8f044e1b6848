"""Training from a reference store and from the cache: the same numbers, or a refusal that names the difference."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pairs import history, options, small_pairs
from peft import LoraConfig, PeftModel, get_peft_model
from training_stores import store_of
from transformers import AutoModelForCausalLM

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError
from mallowspo.scoring import ReferenceKey, ReferenceStore
from mallowspo.scoring.store_format import file_checksum
from mallowspo.training.reference import live_tolerance
from tiny import tiny_llama, tiny_tokenizer

ROWS = small_pairs(24)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, random_setting):
    """A store of the random model's scores; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("stores") / "r"
    store_of(folder, random_setting.path, ROWS)
    return folder


def copy_of(store, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in store.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def build(model, tmp_path, rows=ROWS, **changes):
    keep = {
        key: changes.pop(key)
        for key in ("eval_dataset", "peft_config", "ref_model", "processing_class", "data_collator")
        if key in changes
    }
    args = MallowsPOConfig(**options(tmp_path / "out", **changes))
    return MallowsPOTrainer(model, args=args, train_dataset=rows, **keep)


def reference_values(trainer):
    return np.stack([trainer.train_dataset["ref_chosen_logps"][:], trainer.train_dataset["ref_rejected_logps"][:]], 1)


@pytest.mark.parametrize("objective", ["mallows_theta", "dpo", "mallows_simpo"])
def test_a_run_from_a_store_is_a_run_without(random_setting, stored, tmp_path, objective):
    with_store = build(random_setting.path, tmp_path, reference_store=str(stored), objective=objective, max_steps=6)
    without = build(random_setting.path, tmp_path, objective=objective, max_steps=6, precompute_ref_log_probs=True)
    assert "reused from" in with_store.reference_sources["train"] and with_store.ref_model is None
    np.testing.assert_array_equal(reference_values(with_store), ReferenceStore.open(stored).read().scores.logp_nk)
    for run in (with_store, without):
        run.train()
    assert history(with_store, "loss") == pytest.approx(history(without, "loss"), rel=1e-5)
    if objective != "dpo":
        assert with_store.calibration.scale == pytest.approx(without.calibration.scale, rel=1e-6)


def test_what_changes_no_score_changes_no_store(random_setting, stored, tmp_path):
    run = build(
        random_setting.path, tmp_path, reference_store=str(stored), learning_rate=3e-4, seed=11, beta=0.3,
        per_device_train_batch_size=3, objective="mallows_phi", dispersion_per="pair",
    )  # fmt: skip
    assert "reused from" in run.reference_sources["train"]


@pytest.mark.parametrize(
    ("said", "rows", "changes"),
    [
        ("max_length is 256 in the store and 200 here", ROWS, {"max_length": 200}),
        ("max_length is 256 in the store and unlimited here", ROWS, {"max_length": None}),
        ("truncation_mode is keep_start in the store and keep_end here", ROWS, {"truncation_mode": "keep_end"}),
        ("rows is [0-9a-f]{12}… in the store", ROWS.select(range(23, -1, -1)), {}),
        ("row_count is 24 in the store and 23 here", ROWS.select(range(23)), {}),
        ("computes the new rows only", small_pairs(26), {}),
        ("tokenizer is ", ROWS, {"processing_class": tiny_tokenizer(eos=False)}),
        ("chat_template is none in the store", ROWS, {"processing_class": tiny_tokenizer(chat=True)}),
    ],
    ids=str,
)
def test_other_data_is_refused_before_a_model_is_loaded(stored, tmp_path, said, rows, changes):
    tokenizer = changes.pop("processing_class", tiny_tokenizer())
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": "<end>"})
    with pytest.raises(InputError, match=f"reference_store: .*{said}"):
        build("no/model/is/here", tmp_path, rows, reference_store=str(stored), processing_class=tokenizer, **changes)


def bumped():
    model = tiny_llama(vocab_size=len(tiny_tokenizer()))
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 3] += 1e-5
    return model


MODELS = {
    "weights": lambda _: bumped(),
    "config": lambda _: tiny_llama(vocab_size=len(tiny_tokenizer()), rope_theta=1e5),
    "dtype": lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16),
    "attn_implementation": lambda path: AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager"),
}


@pytest.mark.parametrize("field", MODELS)
def test_another_reference_is_refused_and_the_field_named(random_setting, stored, tmp_path, field):
    with pytest.raises(InputError, match=f"was not made for this run: {field} is .* in the store and "):
        build(
            MODELS[field](random_setting.path), tmp_path, reference_store=str(stored),
            processing_class=tiny_tokenizer(),
        )  # fmt: skip


def test_numbers_that_are_not_the_models_are_caught_live(random_setting, stored, tmp_path):
    """The key and the checksums fit, the numbers do not: as after a change of a library or of a machine."""
    copy = copy_of(stored, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    for shard in manifest["shards"]:
        table = pq.read_table(copy / shard["file"])
        wrong = [value - 0.05 for value in table.column("logp").to_pylist()]
        table = table.set_column(table.schema.get_field_index("logp"), "logp", [wrong])
        pq.write_table(table, copy / shard["file"])
        shard["sha256"] = file_checksum(copy / shard["file"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"logps of row \d+ \(chosen\) is -[\d.]+ in it and -[\d.]+ live"):
        build(random_setting.path, tmp_path, reference_store=str(copy))


def test_a_damaged_store_is_refused_and_the_shard_named(random_setting, stored, tmp_path):
    copy = copy_of(stored, tmp_path)
    data = bytearray((copy / "shard-00001.parquet").read_bytes())
    data[100] ^= 4
    (copy / "shard-00001.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"reference_store: .*shard-00001\.parquet: its checksum"):
        build(random_setting.path, tmp_path, reference_store=str(copy))


def test_no_store_there(tmp_path):
    with pytest.raises(InputError, match="reference_store: there is no folder .*mallowspo reference"):
        build("no/model/is/here", tmp_path, reference_store=str(tmp_path / "x"), processing_class=tiny_tokenizer())


def test_an_evaluation_split_is_taken_from_the_store_or_scored_now(random_setting, stored, tmp_path):
    run = build(
        random_setting.path, tmp_path, reference_store=str(stored), eval_strategy="steps", eval_steps=1, max_steps=1,
        eval_dataset={"same": ROWS, "other": ROWS.select(range(5))},
    )  # fmt: skip
    assert "reused from" in run.reference_sources["same"] and "a pass" in run.reference_sources["other"]
    assert run.eval_dataset["other"]["ref_chosen_logps"] == pytest.approx(
        run.train_dataset["ref_chosen_logps"][:5], rel=1e-5
    )


LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_the_reference_of_a_new_adapter_is_the_bare_model(random_setting, stored, tmp_path):
    run = build(random_setting.path, tmp_path, reference_store=str(stored), peft_config=LORA)
    assert "reused from" in run.reference_sources["train"]


def test_the_reference_of_a_trained_adapter_is_its_copy(random_setting, stored, tmp_path):
    torch.manual_seed(3)
    trained = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(random_setting.path), trained).save_pretrained(tmp_path / "a")
    store_of(tmp_path / "with", random_setting.path, ROWS, adapter=str(tmp_path / "a"))

    def policy():
        base = AutoModelForCausalLM.from_pretrained(random_setting.path)
        return PeftModel.from_pretrained(base, tmp_path / "a", is_trainable=True)

    run = build(policy(), tmp_path, reference_store=str(tmp_path / "with"), processing_class=tiny_tokenizer())
    assert "reused from" in run.reference_sources["train"]
    with pytest.raises(InputError, match="adapter is none in the store"):
        build(policy(), tmp_path, reference_store=str(stored), processing_class=tiny_tokenizer())


def test_a_separate_reference_is_the_one_that_is_compared(random_setting, stored, tmp_path):
    other = tiny_llama(vocab_size=len(tiny_tokenizer()), seed=9)
    other.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    store_of(tmp_path / "of-other", tmp_path / "other", ROWS)
    run = build(random_setting.path, tmp_path, ref_model=other, reference_store=str(tmp_path / "of-other"))
    assert "reused from" in run.reference_sources["train"]
    with pytest.raises(InputError, match="weights is"):
        build(
            random_setting.path, tmp_path, ref_model=tiny_llama(vocab_size=len(tiny_tokenizer()), seed=8),
            reference_store=str(stored),
        )  # fmt: skip


def test_a_store_in_half_precision_passes_its_own_check(random_setting, tmp_path):
    store_of(tmp_path / "half", random_setting.path, ROWS, dtype="bfloat16", batch_size=7)
    model = AutoModelForCausalLM.from_pretrained(random_setting.path, dtype=torch.bfloat16)
    run = build(model, tmp_path, reference_store=str(tmp_path / "half"), processing_class=tiny_tokenizer())
    assert "reused from" in run.reference_sources["train"]


def test_tolerance_is_that_of_the_precision():
    def allowed(dtype, mixed):
        return live_tolerance(ReferenceKey(dtype=dtype, mixed_precision=mixed), [0, 1, 100]).tolist()

    assert allowed("float32", "no") == pytest.approx([0.002, 0.002, 0.02])
    assert allowed("float32", "bf16") == allowed("bfloat16", "no") == pytest.approx([0.3, 0.3, 3.0])
    assert allowed("float32", "fp16") == pytest.approx([0.05, 0.05, 0.5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "simpo"}, "reference_store: objective 'simpo' with dispersion 'none' reads nothing"),
        ({"objective": "dpo", "sync_ref_model": True}, "reference_store: .*sync_ref_model"),
    ],
    ids=str,
)
def test_a_store_that_would_not_be_read_is_refused(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        MallowsPOConfig(**options(tmp_path, reference_store="r", **changes))


# The cache


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MALLOWSPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


def test_the_second_run_takes_the_scores_of_the_first(random_setting, tmp_path, cache):
    first = build(random_setting.path, tmp_path, eval_dataset=ROWS.select(range(4)))
    second = build(random_setting.path, tmp_path, learning_rate=1e-4, seed=8, eval_dataset=ROWS.select(range(4)))
    assert set(first.reference_sources.values()) == {"a pass of the reference before training"}
    assert all("reused from" in text for text in second.reference_sources.values())
    assert {"train", "eval"} == set(second.reference_sources) and len(list(cache.iterdir())) == 2
    assert first.train_dataset.to_dict() == second.train_dataset.to_dict()
    assert first.calibration == second.calibration
    third = build(random_setting.path, tmp_path, max_length=200)
    assert "a pass" in third.reference_sources["train"]


def test_a_cached_store_is_a_store_like_any_other(random_setting, stored, tmp_path, cache):
    build(random_setting.path, tmp_path)
    (folder,) = cache.iterdir()
    cached, written = (ReferenceStore.open(path) for path in (folder, stored))
    assert cached.manifest.key == written.manifest.key and folder.name == cached.manifest.key.digest
    for name in ("logp_nk", "entropy_sum_nk", "first_entropy_nk", "divergent_entropy_nk"):
        np.testing.assert_allclose(
            getattr(cached.read().scores, name), getattr(written.read().scores, name), rtol=1e-4, err_msg=name
        )
    assert cached.read().prompt_ids == written.read().prompt_ids


def test_a_damaged_cache_is_mended(random_setting, tmp_path, cache):
    first = build(random_setting.path, tmp_path)
    (folder,) = cache.iterdir()
    shard = folder / "shard-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-7])
    again = build(random_setting.path, tmp_path)
    assert "a pass" in again.reference_sources["train"] and shard.read_bytes() == whole
    np.testing.assert_array_equal(reference_values(again), reference_values(first))


def test_no_cache_where_it_is_switched_off_or_cannot_be_written(random_setting, tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOWSPO_CACHE", "")
    build(random_setting.path, tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MALLOWSPO_CACHE", str(tmp_path / "file"))
    run = build(random_setting.path, tmp_path)
    assert "a pass" in run.reference_sources["train"] and Path(tmp_path / "file").is_file()


def test_another_collator_is_never_cached(random_setting, tmp_path, cache):
    class Other:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, rows):
            return self.inner(rows)

    inner = build(random_setting.path, tmp_path, objective="dpo").data_collator
    build(random_setting.path, tmp_path, data_collator=Other(inner))
    assert not cache.exists()
