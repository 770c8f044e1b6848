"""The driver of the benchmark for CUDA, on a CPU with a model of some thousand parameters; and its refusal there."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 2000}  # fmt: skip


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr(gpu, "lengths", lambda regime, count: [(6, 4, 5)] * count)
    import workload

    monkeypatch.setitem(workload.REGIMES, "a", (6, 4))
    return gpu


def test_every_arm_trains_and_what_fails_is_noted(gpu):
    """FlexAttention cannot train on a CPU: its arms fail, say why, and the others go on."""
    work = gpu.Work({"tiny": TINY}, regimes=("a",), pairs=2, warm=1, timed=2, device="cpu")
    kept = []
    lines, skipped = gpu.measure_all(work, time.monotonic() + 600, kept.extend, rounds=1)
    assert kept == lines and not skipped
    steps = {arm: [line["step"] for line in lines if line["arm"] == arm and not line["note"]] for arm in gpu.ARMS}
    notes = {line["arm"]: line["note"] for line in lines if line["note"]}
    assert {arm for arm, found in steps.items() if found == [2, 3]} == {
        "trl_stored", "trl_live", "split_stored", "split_live",
    }  # fmt: skip
    assert set(notes) == {"flex_stored", "flex_live"} and all("no backward pass" in note for note in notes.values())
    assert len({frozenset(line) for line in lines}) == 1  # the CSV has one header
    rows = gpu.table(lines, work)
    assert len(rows) == 1 + len(gpu.ARMS)
    assert [row.split()[3] for row in rows[1:]] == ["2", "0", "2", "2", "0", "2"]
    assert float(rows[1].split()[8]) == 1  # TRL's speed over its own
    assert "no backward pass" in rows[2]


def test_what_no_longer_fits_is_left_out_by_name(gpu):
    work = gpu.Work({"tiny": TINY}, regimes=("a", "c"))
    lines, skipped = gpu.measure_all(work, time.monotonic() - 1, lambda found: None, rounds=2)
    assert lines == [] and len(skipped) == 2 * 2 * len(gpu.ARMS)
    assert skipped[0] == "tiny, regime a, trl_stored, round 0"
    assert all("left out: time was up" in row for row in gpu.table(lines, work)[1:])


def test_rounds_are_whole_and_the_arms_turn(gpu):
    tasks = gpu.tasks_of(gpu.Work({"tiny": TINY}, regimes=("a",)), 2)
    assert [task["arm"] for task in tasks[:6]] == list(gpu.ARMS)
    assert [task["arm"] for task in tasks[6:9]] == ["flex_stored", "split_stored", "trl_stored"]


def test_a_model_is_the_same_whenever_it_is_built(gpu):
    first, second = (gpu.build_model(TINY, attention, "cpu") for attention in ("sdpa", "flex_attention"))
    assert (first.config._attn_implementation, second.config._attn_implementation) == ("sdpa", "flex_attention")
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("arguments", [["--wheels"], ["--wheels", "no-such-folder", "--smoke"], ["--fast"]])
def test_a_mistake_is_named(arguments):
    done = subprocess.run(
        ["bash", str(BENCHMARKS / "gpu.sh"), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2 and f"{arguments[0]}: " in done.stderr and done.stdout == ""


@pytest.mark.slow
def test_the_smoke_run_measures_every_arm_that_a_cpu_can_run():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--smoke"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("tiny")]
    ran = {row[2] for row in rows if row[3] == "2"}
    assert ran == {"trl_stored", "split_stored", "trl_live", "split_live"} and len(rows) == 6


@pytest.mark.parametrize("command", [["bash", "gpu.sh"], [sys.executable, "gpu.py"]], ids=["sh", "py"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_says_so_and_measures_nothing(command):
    done = subprocess.run(
        [command[0], str(BENCHMARKS / command[1])], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2 and "no CUDA device" in done.stderr and done.stdout == ""
