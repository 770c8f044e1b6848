"""`mallowspo train` as a process: what it writes, and what it answers to mistakes."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from cli.commands import PAIRS as ROWS
from cli.commands import call
from forks import run_program
from tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
COMMON = ["--use_cpu", "--bf16", "false", "--report_to", "none", "--gradient_checkpointing", "false"]


ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def mallowspo(*arguments, cwd, log="log"):
    """The program in a process of its own, forked."""
    return run_program(arguments, Path(cwd) / log, cwd=cwd, environment=ENVIRONMENT)


def installed_program(*arguments, cwd, timeout=240):
    """The program as a shell starts it, with its imports."""
    program = Path(sys.executable).with_name("mallowspo")
    return subprocess.run(
        [program, *map(str, arguments)], check=False, cwd=cwd, env=os.environ | ENVIRONMENT, capture_output=True,
        text=True, timeout=timeout,
    )  # fmt: skip


def write_rows(path, rows=ROWS):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_yaml_and_flags_together_train_and_leave_a_record(model, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.jsonl")
    write_rows(data / "test.jsonl", ROWS[:5])
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: {model}\ndataset_name: {data}\nobjective: mallows_theta\nbeta: 0.2\n"
        "per_device_train_batch_size: 4\nmax_steps: 2\neval_strategy: steps\neval_steps: 2\nlogging_steps: 1\n"
        "use_cpu: true\nbf16: false\ngradient_checkpointing: false\ndispersion_scale: 0.5\n"
        "dispersion_clip: [0.0, 5.0]\n"
    )
    done = mallowspo("train", "--config", "recipe.yaml", "--output_dir", "out", "--beta", "0.3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["config"]["beta"] == 0.3 and record["objective"]["preset"] == "mallows_theta"
    assert record["calibration"]["scale"] == 0.5 and record["steps"] == 2
    assert record["displacement"] == {"threshold": 0.01, "alarms": []}
    assert record["data"]["splits"]["train"]["rows_used"] == 12
    assert len(record["data"]["fingerprint"]) == 64
    assert record["versions"]["trl"] and record["final_metrics"]["eval_loss"] > 0
    assert "dispersion" in done.stderr and "weight mean" in done.stderr
    assert "FutureWarning" not in done.stderr
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_streamed_run_leaves_its_model_and_record(model, tmp_path):
    """Of its rows the record knows those of the first window."""
    data = write_rows(tmp_path / "rows.jsonl", [row | {"dispersion": 0.05 * i + 0.1} for i, row in enumerate(ROWS)])
    done = mallowspo("train", "--model_name_or_path", model, "--dataset_name", data, *COMMON, "--output_dir", "out",
                     "--dataset_streaming", "true", "--dispersion", "column", "--stream_window", 5, "--max_steps", 2,
                     "--per_device_train_batch_size", 2, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["data"]["splits"]["train"]["streamed"] and record["steps"] == 2
    assert record["data"]["splits"]["train"]["first_window"]["rows_used"] == 5
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_two_processes_train_as_one(model, tmp_path):
    """Batch 2 on each of 2 ranks against batch 4 on one; evaluation of 5 rows, which 2 ranks cannot share evenly."""
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.jsonl")
    write_rows(data / "test.jsonl", [row | {"chosen": f" yes {i}"} for i, row in enumerate(ROWS[:5])])
    common = ["--model_name_or_path", model, "--dataset_name", data, *COMMON, "--max_steps", 3, "--logging_steps", 1]
    common += ["--train_sampling_strategy", "sequential", "--learning_rate", "1e-3"]
    common += ["--eval_strategy", "steps", "--eval_steps", 3]
    one = mallowspo("train", *common, "--output_dir", "one", "--per_device_train_batch_size", 4,
                    "--per_device_eval_batch_size", 4, cwd=tmp_path)  # fmt: skip
    assert one.returncode == 0, one.stderr
    two = mallowspo(
        "train", *common, "--output_dir", "two", "--per_device_train_batch_size", 2,
        "--per_device_eval_batch_size", 2, "--num_processes", 2, cwd=tmp_path,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-2000:]
    left, right = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    assert right["processes"] == 2
    assert left["calibration"]["scale"] == pytest.approx(right["calibration"]["scale"], rel=1e-6)
    for name in ("loss", "grad_norm", "rewards/accuracies", "dispersion/weight_p90", "entropy",
                 "eval_rewards/accuracies", "eval_rewards/margins", "eval_dispersion/weight_mean"):  # fmt: skip
        assert left["final_metrics"][name] == pytest.approx(right["final_metrics"][name], rel=1e-3, abs=1e-5), name


def test_displacement_is_said_and_recorded(model, tmp_path):
    data = write_rows(tmp_path / "train.jsonl", [row | {"rejected": f"{row['chosen']} fine"} for row in ROWS])
    done = mallowspo(
        "train", "--model_name_or_path", model, "--dataset_name", data, *COMMON, "--output_dir", "out",
        "--objective", "dpo", "--learning_rate", "3e-2", "--max_steps", 16, "--logging_steps", 4,
        "--per_device_train_batch_size", 12, "--displacement_alarm", "0.02", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/run.json").read_text())["displacement"]
    assert record["threshold"] == 0.02 and record["alarms"][0]["chosen_per_token_upper"] < -0.02
    assert f"step {record['alarms'][0]['step']}: likelihood displacement" in done.stderr


def malformed(tmp_path):
    path = tmp_path / "bad.jsonl.gz"
    lines = [json.dumps(ROWS[0]) for _ in range(7100)]
    lines[6999] = '{"prompt": "x", "chosen": '
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def empty(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    return path


def long_prompt(tmp_path):
    return write_rows(tmp_path / "long.jsonl", [*ROWS, {"prompt": "word " * 400, "chosen": "a", "rejected": "b"}])


def identical(tmp_path):
    return write_rows(tmp_path / "same.jsonl", [*ROWS, {"prompt": "x", "chosen": "a", "rejected": "a"}])


def infinite_weight(tmp_path):
    path = tmp_path / "weight.jsonl"
    path.write_text("".join(json.dumps(row | {"weight": float("inf")}) + "\n" for row in ROWS))
    return path


def other_columns(tmp_path):
    return write_rows(tmp_path / "columns.jsonl", [{"question": "a", "answer": "b"}])


GOOD = "rows.jsonl"
MISTAKES = {
    "missing file": ("nowhere.jsonl", [], "nowhere.jsonl"),
    "missing folder": ("no/such/folder/x.jsonl", [], "no/such/folder"),
    "wrong column": (other_columns, [], "question"),
    "malformed line": (malformed, [], "7,000"),
    "empty": (empty, [], "is empty"),
    "identical": (identical, [], "row 13"),
    "long prompt": (long_prompt, ["--max_length", "64"], "row 13"),
    "non-finite weight": (infinite_weight, ["--dispersion", "column"], "weight"),
    "unknown preset": (GOOD, ["--objective", "dop"], "expected one of 'mallows_theta'"),
    "unknown link": (GOOD, ["--link", "logit"], "expected one of 'sigmoid'"),
    "unknown option": (GOOD, ["--bate", "0.1"], "--bate"),
    "kendall without dispersion": (GOOD, ["--objective", "mallows_phi", "--dispersion", "none"], "Kendall link"),
    "margin without one": (GOOD, ["--objective", "mallows_ipo", "--margin", "0.5"], "has no margin"),
    "beta zero": (GOOD, ["--beta", "0"], "beta: got 0"),
    "beta negative": (GOOD, ["--beta=-0.1"], "beta: got -0.1"),
    "beta no number": (GOOD, ["--beta", "much"], "beta"),
    "no such split": (GOOD, ["--dataset_train_split", "dev"], "dev"),
    "no such model": (GOOD, ["--model_name_or_path", "./nowhere"], "there is no folder"),
    "no such config": (GOOD, ["--config", "no.yaml"], "there is no file no.yaml"),
    "no such store": (GOOD, ["--reference_store", "x"], "reference_store"),
    "a path that belongs to nothing": (GOOD, ["base.yaml"], "did you mean --config"),
    "no such checkpoint": (GOOD, ["--resume_from_checkpoint", "nope"], "is not a checkpoint"),
    "nothing to resume": (GOOD, ["--resume_from_checkpoint", "true"], "there is no checkpoint in out"),
    "metric that is never logged": (GOOD, ["--metric_for_best_model", "nope"], "metric_for_best_model"),
    "lora on no module": (GOOD, ["--use_peft", "--lora_target_modules", "nope"], "nope"),
    "output is a file": (GOOD, ["--output_dir", GOOD], "is a file"),
    "four bits without the package": (GOOD, ["--load_in_4bit"], "bitsandbytes"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_message_and_exit_code_two(name, model, tmp_path):
    data, extra, said = MISTAKES[name]
    write_rows(tmp_path / GOOD)
    path = data(tmp_path) if callable(data) else data
    done = in_folder(
        tmp_path, "train", "--model_name_or_path", model, "--dataset_name", path, "--output_dir", "out", *COMMON,
        "--max_steps", "1", *extra,
    )  # fmt: skip
    assert done.code == 2, done.err
    assert said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def in_folder(folder, *arguments):
    """The program in this process; one for each mistake would cost ten seconds of imports."""
    with contextlib.chdir(folder):
        code, _, err = call(*arguments)
    return SimpleNamespace(code=code, err=err)


def test_tokenizer_without_eos(tmp_path):
    folder = tmp_path / "no-eos"
    tokenizer = tiny_tokenizer(eos=False)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    data = write_rows(tmp_path / GOOD)
    arguments = ["train", "--model_name_or_path", str(folder), "--dataset_name", str(data), "--output_dir", "o"]
    done = in_folder(tmp_path, *arguments, *COMMON)
    assert done.code == 2 and "EOS" in done.err


def test_a_mistake_as_a_process_prints_no_traceback(model, tmp_path):
    done = installed_program(
        "train", "--model_name_or_path", model, "--dataset_name", "x.jsonl", *COMMON, cwd=tmp_path
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].startswith("mallowspo: dataset_name: there is no file or folder x.jsonl")
    )


def test_dropping_what_is_malformed_goes_on(model, tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{broken\n")
    arguments = ["train", "--model_name_or_path", str(model), "--dataset_name", str(path), "--output_dir", "out"]
    done = in_folder(tmp_path, *arguments, *COMMON, "--max_steps", "1", "--invalid_rows", "drop")
    assert done.code == 0, done.err
    assert "could not be read: line 13" in done.err
    assert json.loads((tmp_path / "out/run.json").read_text())["data"]["splits"]["train"]["rows_used"] == 12


def test_help_lists_the_commands():
    done = installed_program("--help", cwd=ROOT)
    assert done.returncode == 0 and "quickstart" in done.stdout and "train" in done.stdout


def test_help_of_train_shows_trls_options_and_ours(tmp_path):
    done = mallowspo("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in ("--objective", "--dispersion_scale", "--learning_rate", "--use_peft", "--dataset_name"):
        assert option in done.stdout


def test_launch_options_in_the_yaml_do_not_start_it_again_and_again(model, tmp_path):
    write_rows(tmp_path / GOOD)
    (tmp_path / "one.yaml").write_text(
        f"model_name_or_path: {model}\ndataset_name: {GOOD}\noutput_dir: out\nmax_steps: 1\nuse_cpu: true\n"
        "bf16: false\ngradient_checkpointing: false\nnum_processes: 1\n"
    )
    done = mallowspo("train", "--config=one.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out/run.json").exists()


def test_a_model_without_weights_is_told_before_data_is_read(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    (tmp_path / "m/config.json").write_text("{}")
    done = in_folder(
        tmp_path, "train", "--model_name_or_path", tmp_path / "m", "--dataset_name", "nowhere.jsonl", *COMMON
    )
    assert done.code == 2 and "has no weights" in done.err


def test_resume_true_goes_on_from_the_last_checkpoint(model, tmp_path):
    write_rows(tmp_path / GOOD)
    common = ["train", "--model_name_or_path", str(model), "--dataset_name", GOOD, "--output_dir", "out", *COMMON]
    common += ["--save_strategy", "steps", "--save_steps", "1", "--logging_steps", "1"]
    assert in_folder(tmp_path, *common, "--max_steps", "2").code == 0
    done = in_folder(tmp_path, *common, "--max_steps", "3", "--resume_from_checkpoint", "true")
    assert done.code == 0, done.err
    steps = [entry["step"] for entry in json.loads((tmp_path / "out/run.json").read_text())["log_history"]]
    assert steps == sorted(steps) and steps[-1] == 3


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ([], ["--use_peft"], "peft_config (use_peft)"),
        (["--use_peft", "--lora_r", "4"], [], "peft_config (use_peft)"),
        (["--use_peft", "--lora_r", "4"], ["--use_peft", "--lora_r", "8"], "peft_config (r)"),
        (["--use_peft", "--lora_r", "4"], ["--use_peft", "--lora_r", "4", "--use_dora", "true"], "(use_dora)"),
    ],
)
def test_another_adapter_is_refused_before_data_and_model_are_read(model, tmp_path, before, after, named):
    write_rows(tmp_path / GOOD)
    common = ["train", "--model_name_or_path", str(model), "--output_dir", "out", *COMMON]
    common += ["--save_strategy", "steps", "--save_steps", "1"]
    assert in_folder(tmp_path, *common, "--dataset_name", GOOD, "--max_steps", "1", *before).code == 0
    resumed = ["--dataset_name", "nowhere.jsonl", "--max_steps", "2", "--resume_from_checkpoint", "true"]
    done = in_folder(tmp_path, *common, *resumed, *after)
    assert done.code == 2 and named in done.err and "nowhere.jsonl" not in done.err and "Traceback" not in done.err
