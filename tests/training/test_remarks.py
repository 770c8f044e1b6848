"""What a run says of itself: its reference, weights that do nothing, rows seen twice, a training that was none."""

import logging

import pytest
from accelerate.data_loader import BatchSamplerShard
from pairs import options, small_pairs
from peft import LoraConfig, get_peft_model
from torch.utils.data import BatchSampler

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.training.adapters import reference_words
from mallowspo.training.description import rows_filled_up, run_table_rows
from tiny import tiny_llama, tiny_tokenizer

ROWS = small_pairs(12)


def build(setting, tmp_path, rows=ROWS, model=None, arguments=None, **changes):
    args = MallowsPOConfig(**options(tmp_path, **changes))
    given = {"processing_class": tiny_tokenizer()} if model is not None else {}
    return MallowsPOTrainer(model or setting.path, args=args, train_dataset=rows, **given, **(arguments or {}))


def notes(run):
    return [text for label, text in run_table_rows(run) if label == "note"]


@pytest.mark.parametrize(("spread", "said"), [(0.01, True), (0.5, False)])
def test_weights_that_hardly_differ_are_said(random_setting, tmp_path, caplog, spread, said):
    rows = ROWS.add_column("weight", [1 + spread * (-1) ** i for i in range(12)])
    with caplog.at_level(logging.WARNING):
        run = build(random_setting, tmp_path, rows, dispersion="column", dispersion_per="pair")
    assert any("hardly differ" in note for note in notes(run)) is said
    assert any("hardly differ" in record.message for record in caplog.records) is said


@pytest.mark.parametrize("rows", [7, 8, 9, 16, 1])
@pytest.mark.parametrize(("batch_size", "processes"), [(2, 2), (4, 2), (3, 3)])
def test_rows_filled_up_are_accelerates(rows, batch_size, processes):
    sampler = BatchSampler(range(rows), batch_size, drop_last=False)
    shards = [BatchSamplerShard(sampler, processes, i) for i in range(processes)]
    drawn = sum(len(batch) for shard in shards for batch in shard)
    assert drawn - rows == rows_filled_up(rows, batch_size=batch_size, processes=processes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"learning_rate": 0.0, "max_steps": 2}, "learning rate was 0"),
        ({"num_train_epochs": 0, "max_steps": -1}, "0 steps"),
        ({"max_steps": 2}, None),
    ],
    ids=str,
)
def test_a_training_that_was_none_is_said(random_setting, tmp_path, caplog, changes, why):
    run = build(random_setting, tmp_path, objective="dpo", **changes)
    with caplog.at_level(logging.WARNING):
        run.train()
    said = [record.message for record in caplog.records if "nothing was trained" in record.message]
    assert len(said) == (why is not None) and all(why in text for text in said)


def lora():
    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


def test_the_card_of_an_adapter_is_ours(random_setting, tmp_path):
    run = build(random_setting, tmp_path, objective="dpo", max_steps=1, arguments={"peft_config": lora()})
    run.train()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        run.save_model(str(folder))
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "MallowsPO" in card and "arxiv.org" in card.lower() or "2405.14953" in card
        assert "More Information Needed" not in card and "library_name: peft" in card


def held():
    model = tiny_llama(len(tiny_tokenizer()))
    model.add_adapter(lora())
    return model


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: ({"arguments": {"peft_config": lora()}}), "the policy with its adapter off"),
        (lambda: ({"model": get_peft_model(tiny_llama(len(tiny_tokenizer())), lora())}), "frozen copy of the adapter"),
        (lambda: ({"model": held(), "precompute_ref_log_probs": True}), "adapters that transformers holds included"),
        (lambda: ({"model": held(), "arguments": {"ref_model": tiny_llama(400)}}), "a separate model"),
        (lambda: ({"objective": "simpo"}), "none"),
    ],
)
def test_the_reference_is_named(random_setting, tmp_path, made, said):
    assert said in reference_words(build(random_setting, tmp_path, **({"objective": "dpo"} | made())))
