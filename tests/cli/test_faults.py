"""One process of several fails: all end within a minute, and the cause is printed once, as the last thing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.commands import PAIRS
from forks import run_program


def command(model, folder, rows, *more):
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("train", "--model_name_or_path", model, "--dataset_name", data, "--output_dir", folder / "out"),
        *("--use_cpu", "--bf16", "false", "--report_to", "none", "--gradient_checkpointing", "false"),
        *("--objective", "simpo", "--per_device_train_batch_size", 1, "--train_sampling_strategy", "sequential"),
        *("--num_processes", 2, *more),
    ]


def test_a_loss_that_is_infinite_in_one_process_ends_both_and_is_told_once_and_last(model, tmp_path):
    rows = [row | {"margin": 0.0, "loss_weight": 1.0} for row in PAIRS]
    rows[3] |= {"margin": 1e308, "loss_weight": 100.0}  # the second row of the second process
    begun = time.monotonic()
    done = run_program(command(model, tmp_path, rows), tmp_path / "log", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("loss is not finite") == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.rsplit("mallowspo: ", 1)[1]
    assert last.startswith("rank 1: loss is not finite") and "row 4" in last and "torch" not in last
    assert time.monotonic() - begun < 150  # two imports of everything among other tests; see the slow test below
    assert not (tmp_path / "out/run.json").exists()


@pytest.mark.slow
def test_a_killed_process_takes_the_other_with_it_within_a_minute(model, tmp_path):
    program = Path(sys.executable).with_name("mallowspo")
    arguments = command(model, tmp_path, PAIRS, "--max_steps", 100_000, "--save_strategy", "steps", "--save_steps", 5)
    with open(tmp_path / "log", "w") as log:
        launcher = subprocess.Popen(
            [program, *map(str, arguments)], stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        while not (tmp_path / "out/checkpoint-5").exists():
            assert launcher.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        children = psutil.Process(launcher.pid).children(recursive=True)
        victim = next(child for child in children if child.environ().get("RANK") == "1")
        victim.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert launcher.wait(60) == 128 + signal.SIGKILL
    assert time.monotonic() - killed < 60
    assert not psutil.wait_procs(children, timeout=5)[1]
    text = (tmp_path / "log").read_text()
    assert "rank 1 was ended by SIGKILL" in text.rstrip().splitlines()[-1]
    assert text.count("SIGKILL,") == 1
