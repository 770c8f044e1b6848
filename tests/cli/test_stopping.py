"""SIGTERM and Ctrl-C end a training run with one line and a state that can be gone on from."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mallowspo.training.checkpoints import faults

ROWS = [{"prompt": f"Say {word}:", "chosen": f" {word}", "rejected": " no"} for word in "one two three four".split()]


def command(model, folder, steps, *more):
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return [
        *("train", "--model_name_or_path", str(model), "--dataset_name", str(data), "--use_cpu", "--bf16", "false"),
        *("--report_to", "none", "--gradient_checkpointing", "false", "--save_strategy", "steps", "--save_steps", "1"),
        *("--max_steps", str(steps), "--per_device_train_batch_size", "2", "--disable_tqdm", "true", *more),
    ]


def in_child(arguments, log):
    """The program in a forked child, its output in a file."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            # A shell starts what runs in its background deaf to Ctrl-C, and the tests may be that.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            from mallowspo.cli.main import main

            try:
                main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
            sys.stderr.flush()
        finally:
            os._exit(code)
    return child


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_in_one_line_and_the_run_goes_on_as_if_nothing_was(model, tmp_path, number, code):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert os.waitpid(in_child(command(model, tmp_path, 40, "--output_dir", str(whole)), tmp_path / "a"), 0)[1] == 0
    log = tmp_path / "log"
    child = in_child(command(model, tmp_path, 40, "--output_dir", str(out)), log)
    while not (out / "checkpoint-3").exists():
        time.sleep(0.001)
    os.kill(child, number)
    if number == signal.SIGTERM:  # as make and schedulers do; a second Ctrl-C may cut a program short
        time.sleep(0.2)
        os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    text = log.read_text()
    assert "Traceback" not in text and text.count("mallowspo: interrupted") == 1
    assert not (out / "run.json").exists() and [path.name for path in out.glob("[._]*")] == ["_run"]
    assert not [path for path in out.glob("checkpoint-*") if faults(path)]
    again = command(model, tmp_path, 40, "--output_dir", str(out), "--resume_from_checkpoint", "true")
    assert os.waitpid(in_child(again, log), 0)[1] == 0, log.read_text()
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, out))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_sigterm_to_the_launcher_leaves_no_process_behind(model, tmp_path):
    out = tmp_path / "out"
    program = Path(sys.executable).with_name("mallowspo")
    arguments = command(model, tmp_path, 5000, "--output_dir", str(out), "--num_processes", "2")
    with open(tmp_path / "log", "w") as log:
        launcher = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        while not (out / "checkpoint-3").exists():
            assert launcher.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        workers = psutil.Process(launcher.pid).children(recursive=True)
        assert len(workers) >= 2
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 143
    assert not psutil.wait_procs(workers, timeout=5)[1]
    text = (tmp_path / "log").read_text()
    assert text.count("mallowspo: interrupted") == 1 and "Traceback" not in text
    assert not [path for path in out.glob("checkpoint-*") if faults(path)]


def test_a_second_run_in_the_same_folder_is_refused_before_its_model_is_loaded(model, tmp_path):
    from mallowspo.locks import folder_lock

    out = tmp_path / "out"
    log = tmp_path / "log"
    with folder_lock(out, "a training run"):
        child = in_child(command(model, tmp_path, 1, "--output_dir", str(out)), log)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    text = log.read_text()
    assert "output_dir" in text and "Traceback" not in text and "Loading weights" not in text


def test_the_record_of_an_earlier_run_is_kept(model, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    for _ in range(2):
        assert os.waitpid(in_child(command(model, tmp_path, 1, "--output_dir", str(out)), log), 0)[1] == 0
    kept = [path.name for path in out.glob("run-*.json")]
    assert len(kept) == 1 and kept[0] in log.read_text()


@pytest.mark.slow
def test_sigterm_ends_a_study_and_its_pool_of_processes_at_once(tmp_path):
    program = Path(sys.executable).with_name("mallowspo")
    with open(tmp_path / "log", "w") as log:
        study = subprocess.Popen(
            [program, "experiment", "world", "--fast", "--workers", "2", "--output_dir", str(tmp_path / "out")],
            stdout=log,
            stderr=log,
        )
        while len(workers := psutil.Process(study.pid).children(recursive=True)) < 2:
            assert study.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        study.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        study.send_signal(signal.SIGTERM)
        assert study.wait(40) == 143
    text = (tmp_path / "log").read_text()
    assert text.count("mallowspo: interrupted") == 1 and "Traceback" not in text
    assert not psutil.wait_procs(workers, timeout=5)[1]


POOL = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from mallowspo.cli.signals import end_children

if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    for _ in range(2):
        pool.submit(time.sleep, 600)
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.1)
    end_children()
    print("ended")
"""


def test_a_program_whose_pool_was_ended_ends_too(tmp_path):
    """The pool's manager waits for ever for processes of which another has taken the exit code."""
    (tmp_path / "pool.py").write_text(POOL)
    done = subprocess.run(
        [sys.executable, "pool.py"], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stdout) == (0, "ended\n") and "resource_tracker" not in done.stderr
