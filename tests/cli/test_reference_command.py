"""`mallowspo reference` as people call it: what it writes, that it goes on, and what it answers to mistakes."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from cli import commands
from forks import finish, program, ranks
from mallowspo.scoring import ReferenceStore
from tiny import tiny_llama, tiny_tokenizer

ROWS = [
    {"prompt": f"Question {i}: how are you?", "chosen": f" fine, {i}" + " so" * (i % 7), "rejected": f" no {i} no"}
    for i in range(40)
]


def call(*arguments):
    """Run `mallowspo reference`; returns exit code, stdout, stderr."""
    return commands.call("reference", *arguments)


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


def test_two_processes_kill_and_one_process_give_the_same_bytes(model, data, tmp_path):
    common = ["--model_name_or_path", model, "--dataset_name", data, "--shard_rows", 2, "--batch_size", 2]
    code, _, err = call(*common, "--output_dir", tmp_path / "one")
    assert code == 0 and "40 (2 responses each)" in err, err
    log = tmp_path / "log"
    two = program(["reference", *common, "--output_dir", tmp_path / "two", "--num_processes", 2], log, cwd=tmp_path)
    killed = program(["reference", *common, "--output_dir", tmp_path / "killed"], tmp_path / "log2", cwd=tmp_path)
    while not list((tmp_path / "killed" / ".progress").glob("shard-*.json")):
        time.sleep(0.0005)
    os.kill(killed, signal.SIGKILL)
    assert finish(killed, tmp_path / "log2").returncode == -signal.SIGKILL
    code, _, err = call("--verify", "--output_dir", tmp_path / "killed")
    assert code == 2 and "was not finished" in err
    code, _, err = call(*common, "--output_dir", tmp_path / "killed")
    assert code == 0 and "rows are there" in err, err
    assert contents(tmp_path / "killed") == contents(tmp_path / "one")
    done = finish(two, log)
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_two_processes_train_from_a_store(model, data, tmp_path):
    common = ["--model_name_or_path", str(model), "--dataset_name", str(data)]
    assert call(*common, "--output_dir", tmp_path / "r")[0] == 0
    command = [
        "train", *common, "--reference_store", tmp_path / "r",
        "--output_dir", tmp_path / "out", "--use_cpu", "--bf16", "false", "--gradient_checkpointing", "false",
        "--report_to", "none", "--max_steps", "2", "--per_device_train_batch_size", "2", "--logging_steps", "1",
    ]  # fmt: skip
    logs = [tmp_path / "rank0", tmp_path / "rank1"]
    both = [program(command, log, environment=rank) for log, rank in zip(logs, ranks(2), strict=True)]
    for child, log in zip(both, logs, strict=True):
        done = finish(child, log)
        assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["processes"] == 2 and record["final_metrics"]["dispersion/weight_mean"] > 0


def test_log_probabilities_are_those_of_plain_logits(model, data, tmp_path):
    code, _, err = call("--model_name_or_path", model, "--dataset_name", data, "--output_dir", tmp_path / "r")
    assert code == 0, err
    stored = ReferenceStore.open(tmp_path / "r").read()
    check_against_logits(stored, AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer(), ROWS, range(0, 40, 7))


def check_against_logits(stored, model, tokenizer, rows, places):
    model = model.double().eval()
    for i in places:
        prompt = tokenizer(rows[i]["prompt"]).input_ids
        for k, side in enumerate(("chosen", "rejected")):
            ids = tokenizer(rows[i]["prompt"] + rows[i][side] + tokenizer.eos_token).input_ids
            with torch.no_grad():
                logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            response = torch.tensor(ids[len(prompt) :])
            expected = logp.gather(1, response[:, None]).sum().item()
            assert stored.scores.logp_nk[i, k] == pytest.approx(expected, rel=1e-5, abs=1e-4)
            assert stored.scores.length_nk[i, k] == len(response)
            entropy = -(logp.exp() * logp).sum().item()
            assert stored.scores.entropy_sum_nk[i, k] == pytest.approx(entropy, rel=1e-5, abs=1e-4)


@pytest.mark.shared
def test_a_real_model_on_real_pairs(shared, tmp_path):
    from transformers import AutoTokenizer

    path = shared / "models/stories-260k"
    text = "Once upon a time there was a little girl. "
    rows = [
        {"prompt": text + f"She had {n} cats.", "chosen": " She was happy.", "rejected": " The bug is loud"}
        for n in ("one", "two", "three", "no", "many")
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    code, _, err = call(
        "--model_name_or_path", path, "--dataset_name", data, "--output_dir", tmp_path / "r", "--per_token"
    )
    assert code == 0, err
    stored = ReferenceStore.open(tmp_path / "r").read(token_entropies=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    check_against_logits(stored, model, tokenizer, rows, range(5))
    assert (stored.scores.logp_nk[:, 0] > stored.scores.logp_nk[:, 1]).all()  # it has read stories


def test_appended_rows_and_a_damaged_shard(model, data, tmp_path):
    store = tmp_path / "r"
    common = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", store]
    assert call(*common, "--shard_rows", 16)[0] == 0
    write_rows(data, [*ROWS, *[row | {"prompt": "And " + row["prompt"]} for row in ROWS[:10]]])
    code, _, err = call(*common)
    assert code == 0 and "40 rows are there, 10 are to be computed" in err
    assert call("--verify", "--output_dir", store)[:2] == (
        0, f"{store}: 4 of 4 shards are whole, key {ReferenceStore.open(store).manifest.key.digest}\n",
    )  # fmt: skip
    before = contents(store)
    shard = store / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    code, out, _ = call("--verify", "--output_dir", store)
    assert code == 1 and "shard-00001.parquet: its checksum is not the one in manifest.json" in out
    code, _, err = call(*common)
    assert code == 0 and "shard-00001.parquet: its checksum is wrong" in err
    assert "1 computed, 3 reused" in err and contents(store) == before


def test_list_and_remove(model, data, tmp_path):
    call("--model_name_or_path", model, "--dataset_name", data, "--output_dir", tmp_path / "r")
    code, out, _ = call("--ls", "--output_dir", tmp_path)
    assert code == 0 and str(tmp_path / "r") in out.replace("\n", "") and "40" in out
    assert call("--rm", "--output_dir", tmp_path / "r")[0] == 2 and (tmp_path / "r").exists()
    assert call("--rm", "--yes", "--output_dir", tmp_path / "r")[0] == 0 and not (tmp_path / "r").exists()
    assert "no reference stores" in call("--ls", "--output_dir", tmp_path)[1]


def test_a_recipe_gives_the_options(model, data, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {model}\ndataset_name: {data}\noutput_dir: {tmp_path}/model\nbeta: 0.1\n"
        f"max_length: 64\nbf16: false\nreference_store: {tmp_path}/r\nobjective: mallows_theta\n"
    )
    code, _, err = call("--config", recipe)
    assert code == 0, err
    key = ReferenceStore.open(tmp_path / "r").manifest.key
    assert (key.max_length, key.mixed_precision) == (64, "no") and not (tmp_path / "model").exists()
    assert call("--config", recipe, "--max_length", 32)[0] == 2  # the line overrides the recipe: another reference


def test_an_adapter_is_part_of_the_reference(model, data, tmp_path):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    common = ["--model_name_or_path", model, "--dataset_name", data]
    call(*common, "--output_dir", tmp_path / "bare")
    code, _, err = call(*common, "--output_dir", tmp_path / "with", "--adapter", tmp_path / "adapter")
    assert code == 0, err
    bare, adapted = (ReferenceStore.open(tmp_path / name) for name in ("bare", "with"))
    assert [d.field for d in bare.manifest.key.differences(adapted.manifest.key)] == ["adapter"]
    assert not np.allclose(bare.read().scores.logp_nk, adapted.read().scores.logp_nk)
    code, _, err = call(*common, "--output_dir", tmp_path / "bare", "--adapter", tmp_path / "adapter")
    assert code == 2 and "another reference: adapter is none in the store" in err


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_plain_trl_trains_from_the_exported_columns(model, data, tmp_path, suffix):
    """TRL reads the columns where it is told that they are there; its own live reference gives the same losses."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    path = tmp_path / f"with_columns.{suffix}"
    code, _, err = call(
        "--model_name_or_path", model, "--dataset_name", data, "--output_dir", tmp_path / "r", "--export_trl", path
    )
    assert code == 0, err
    kind = {"jsonl": "json"}.get(suffix, suffix)
    rows = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["chosen"][3].startswith(ROWS[3]["chosen"])

    def losses(stored):
        options = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
        args = DPOConfig(
            str(tmp_path / "out"), **options, disable_tqdm=True, max_steps=3, logging_steps=1, learning_rate=1e-3,
            save_strategy="no",
        )  # fmt: skip
        trainer = DPOTrainer(str(model), args=args, train_dataset=rows)
        if stored:
            trainer.ref_model = None
            trainer.precompute_ref_logps = True
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert losses(stored=True) == pytest.approx(losses(stored=False), rel=1e-5)


def trained(model, data, out):
    """Losses of three steps of `mallowspo train`."""
    options = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", out, "--use_cpu"]
    options += ["--max_steps", 3, "--logging_steps", 1, "--learning_rate", 1e-3, "--save_strategy", "no"]
    code, _, err = commands.call("train", *options, "--report_to", "none")
    assert code == 0, err
    return [entry["loss"] for entry in json.loads((out / "run.json").read_text())["log_history"] if "loss" in entry]


def test_the_exported_file_trains_as_the_data_that_it_was_made_from(model, data, tmp_path):
    wanted = trained(model, data, tmp_path / "out")
    assert len(wanted) == 3 and wanted[0] != wanted[2]
    for suffix in ("jsonl", "parquet"):
        path = tmp_path / f"exported.{suffix}"
        given = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", tmp_path / "r"]
        code, _, err = call(*given, "--use_cpu", "--export_trl", path)
        assert code == 0, err
        assert trained(model, path, tmp_path / suffix) == wanted


def test_written_preferences_train_as_the_same_pairs(tmp_path):
    model, tokenizer = tmp_path / "model", tiny_tokenizer(chat=True)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    shapes = Path(__file__).resolve().parents[1] / "dispersion/shapes"
    written, pairs = tmp_path / "preferences.jsonl", tmp_path / "pairs.jsonl"
    votes = ["--votes", shapes / "multipref.jsonl", "--write_preferences", written]
    assert commands.call("dispersion", *votes, "--output_dir", tmp_path / "dispersion")[0] == 0
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    write_rows(pairs, [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    found = trained(model, written, tmp_path / "a")
    assert len(found) == 3 and found == trained(model, pairs, tmp_path / "b")


def test_mistakes_get_one_message_and_exit_code_two(model, data, tmp_path):
    good = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", tmp_path / "r"]
    identical = write_rows(tmp_path / "same.jsonl", [*ROWS, {"prompt": "x", "chosen": "a", "rejected": "a"}])
    (tmp_path / "weights-missing").mkdir()
    tiny_tokenizer().save_pretrained(tmp_path / "weights-missing")
    (tmp_path / "weights-missing/config.json").write_text((model / "config.json").read_text())
    (tmp_path / "list.yaml").write_text("- 1\n")
    for arguments, said in [
        ([], "output_dir: it is missing"),
        (["--output_dir", tmp_path / "r"], "model_name_or_path: it is missing"),
        (["--output_dir", tmp_path / "r", "--model_name_or_path", model], "dataset_name: it is missing"),
        ([*good, "--dataset_name", "nowhere.jsonl"], "nowhere.jsonl"),
        ([*good, "--dataset_name", identical], "row 41"),
        ([*good, "--model_name_or_path", "./nowhere"], "there is no folder ./nowhere"),
        ([*good, "--model_name_or_path", tmp_path], "has no config.json"),
        ([*good, "--model_name_or_path", tmp_path / "weights-missing"], "cannot be loaded"),
        ([*good, "--adapter", tmp_path], "has no adapter_config.json"),
        ([*good, "--dtype", "float8"], "dtype: got 'float8', expected one of 'float32'"),
        ([*good, "--mixed_precision", "half"], "mixed_precision: got 'half'"),
        ([*good, "--attn_implementation", "magic"], "magic"),
        ([*good, "--batch_size", 0], "batch_size: got 0"),
        ([*good, "--shard_rows", -1], "shard_rows: got -1"),
        ([*good, "--max_length", -5], "max_length: got -5"),
        ([*good, "--max_length", 1], "max_length: got 1"),
        ([*good, "--truncation_mode", "middle"], "truncation_mode"),
        ([*good, "--invalid_rows", "skip"], "invalid_rows"),
        ([*good, "--dataset_train_split", "dev"], "dev"),
        ([*good, "--output_dir", data], "is a file"),
        ([*good, "--output_dir", model], "holds other files"),
        ([*good, "--export_trl", "x.csv"], "export_trl: got x.csv"),
        ([*good, "--num_processes", 0], "num_processes"),
        ([*good, "--bate", 1], "--bate"),
        ([*good, "--config", "no.yaml"], "there is no file no.yaml"),
        ([*good, "--config", tmp_path / "list.yaml"], "must hold a mapping"),
        (["--ls", "--verify"], "give one of them"),
        (["--ls", "--output_dir", tmp_path / "nowhere"], "there is no folder"),
        (["--verify", "--output_dir", tmp_path / "nowhere"], "there is no folder"),
        (["--verify", "--output_dir", model], "holds no manifest.json"),
        (["--rm", "--yes", "--output_dir", model], "holds no reference store"),
    ]:
        code, _, err = call(*arguments)
        assert code == 2, (arguments, err)
        assert said in err and "Traceback" not in err, (said, err)
        assert not (tmp_path / "r" / "manifest.json").exists()
    assert (model / "config.json").exists()


def test_dropping_rows_names_them(model, data, tmp_path):
    write_rows(data, [*ROWS, {"prompt": "x", "chosen": "a", "rejected": "a"}])
    code, _, err = call(
        "--model_name_or_path", model, "--dataset_name", data, "--output_dir", tmp_path / "r",
        "--invalid_rows", "drop",
    )  # fmt: skip
    assert code == 0 and "left out: row 41" in err
    assert ReferenceStore.open(tmp_path / "r").manifest.rows == 40


def test_a_store_is_judged_before_the_model_is_loaded(model, data, tmp_path):
    """The folder is refused by what the tokenizer and the options say; the weights are not even there."""
    call("--model_name_or_path", model, "--dataset_name", data, "--output_dir", tmp_path / "r")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((model / name).read_bytes())
    code, _, err = call(
        "--model_name_or_path", bare, "--dataset_name", data, "--output_dir", tmp_path / "r", "--max_length", 99
    )
    assert code == 2 and "max_length is 1,024 in the store and 99 here" in err


def test_ids_that_the_model_has_no_row_for_are_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path / "model")
    data = write_rows(tmp_path / "rows.jsonl", [*ROWS[:3], ROWS[3] | {"chosen": " <tool>"}])
    code, _, said = call(
        "--model_name_or_path", tmp_path / "model", "--dataset_name", data, "--output_dir", tmp_path / "store"
    )
    assert code == 2 and "row 4: '<tool>'" in said and "resize_token_embeddings" in said


def test_an_adapter_on_the_head_is_refused(model, data, tmp_path):
    config = LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    code, _, said = call(
        "--model_name_or_path", model, "--adapter", tmp_path / "adapter", "--dataset_name", data, "--output_dir",
        tmp_path / "store",
    )  # fmt: skip
    assert code == 2 and "lm_head" in said and not (tmp_path / "store/manifest.json").exists()
