"""The benchmarks' arithmetic, that no measurement is made twice, and that the page shows what was measured."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import measure  # noqa: E402
import step  # noqa: E402
import summary  # noqa: E402
import workload  # noqa: E402

from forks import run_script  # noqa: E402


def line(arm, round_, step_, seconds, peak=3.0, bare=1.0):
    values = {"model": "A", "regime": "a", "arm": arm, "round": round_, "step": step_, "seconds": seconds}
    return {key: str(value) for key, value in (values | {"peak_gb": peak, "bare_gb": bare}).items()}


def test_a_ratio_is_taken_between_the_same_steps_of_the_same_round():
    slow = [line("x", 0, 1, 10), line("x", 1, 1, 30), line("x", 1, 2, 7)]
    fast = [line("y", 1, 1, 10), line("y", 0, 1, 5)]
    assert summary.paired(slow, fast, summary.seconds) == [2.0, 3.0]


def test_the_floor_is_that_of_the_same_process_and_memory_is_above_the_bare_process():
    lines = [line("y", 1, 1, 6) | {"floor_operations": "8", "product_flops": speed} for speed in ("2", "4")]
    assert summary.over_floor(lines) == [1.5, 3.0]
    assert summary.memory(line("y", 0, 1, 6, peak=2.5, bare=0.5)) == 2.0


@pytest.mark.parametrize(
    ("value", "smaller", "said"),
    [(9, False, "aim reached"), (5, False, "reached"), (3, False, "**missed**"), (1.2, True, "aim reached")],
)
def test_a_goal_is_judged_whichever_way_it_goes(value, smaller, said):
    least, aim = (1.6, 1.3) if smaller else (4, 8)
    assert summary._judged(value, least, aim, smaller=smaller) == said


def test_what_was_measured_is_not_measured_again(tmp_path):
    ran = []

    def once(task):
        ran.append(task["arm"])
        if task["arm"] == "c" and len(ran) < 4:
            raise RuntimeError("stopped")
        return [{"step": 1, "seconds": 0.5}]

    tasks, path = [{"arm": arm, "round": 0} for arm in "abc"], tmp_path / "out.csv"
    with pytest.raises(RuntimeError):
        measure.measure_missing(path, tasks, once)
    found = measure.measure_missing(path, tasks, once)
    assert ran == ["a", "b", "c", "c"]
    assert [entry["arm"] for entry in found] == ["a", "b", "c"] == [entry["arm"] for entry in measure.read_lines(path)]


def test_every_arm_is_measured_in_every_round_and_none_is_always_first():
    args = step.argparse.Namespace(
        models=["A", workload.REAL_MODEL], regimes=["a"], arms=["trl_stored", "ours_stored"], rounds=3, pairs=8,
        warm=1, timed=4,
    )  # fmt: skip
    tasks = step.tasks_of(args)
    assert len(tasks) == len({str(task) for task in tasks}) == 2 * 3 * 2
    assert {task["arm"] for i, task in enumerate(tasks) if i % 2 == 0} == {"trl_stored", "ours_stored"}


def test_the_floor_counts_the_products_of_a_shared_prompt(tmp_path, monkeypatch):
    """Against torch's own count over as many tokens, forward and backward, the head on responses only."""
    from transformers import AutoModelForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 2000, "tie_word_embeddings": True}  # fmt: skip
    workload.prepare(tmp_path, shape)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).float()
    prompt, chosen, rejected = sizes = (60, 40, 50)
    with FlopCounterMode(display=False) as counter:
        hidden = model.model(torch.arange(2, 2 + sum(sizes))[None]).last_hidden_state
        model.lm_head(hidden[:, prompt:]).sum().backward()
    products = sum(
        n for name, n in counter.get_flop_counts()["Global"].items() if str(name) in ("aten.mm", "aten.addmm")
    )
    monkeypatch.setitem(step.MODELS, "tiny", shape)
    pairs = prompt**2 / 2 + sum(prompt * r + r**2 / 2 for r in (chosen, rejected))
    assert products == step.floor_operations("tiny", [sizes], 1) - 3 * 3 * 4 * 64 * pairs


def test_lengths_are_what_they_are_drawn_to_be():
    drawn = torch.tensor(workload.lengths("a", 4000), dtype=torch.float64)
    assert drawn.mean(0).tolist() == pytest.approx([384, 96, 96], rel=0.03)
    rows = workload.dataset("a", 3)
    assert [len(row["prompt"].split()) for row in rows] == [size[0] for size in workload.lengths("a", 3)]
    lists = workload.ranked_lists((10, 5), 2, 3)
    assert len(lists) == 2 and all(len(row["responses"]) == 3 and row["ranks"] == [1, 2, 3] for row in lists)


def test_the_page_shows_what_was_measured(tmp_path):
    done = run_script(ROOT / "benchmarks/summary.py", "--check", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr
