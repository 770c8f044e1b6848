"""Two processes under every engine are one process: losses, metrics, evaluation and weights after ten steps."""

import copy
import math
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from engines import allow_on_a_cpu, in_processes, ranked_lists, run_under, words
from pairs import build, llama, lora, small_pairs
from torch.distributed.fsdp import fully_shard

from mallowspo.scoring import Processes, add_packed_head, score_packed
from mallowspo.scoring.reference_key import weights_digest

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
DEEPSPEED = [pytest.param(name, marks=[needs_deepspeed, pytest.mark.slow]) for name in ("zero2", "zero3")]
SLOW = pytest.mark.slow


def weighted(count):
    """Rows whose loss has a factor and a beta of its own, so that a mean over processes is seen to be one."""
    rows = small_pairs(count)
    return rows.add_column("beta", ([0.1, 0.5] * count)[:count]).add_column(
        "loss_weight", ([1.0, 0.0, 2.0] * count)[:count]
    )


# 13 rows in batches of 8: the last of an epoch has 5, which two processes of 4 cannot share evenly.
CASES = {
    "whole": lambda: {"rows": weighted(13), "eval_dataset": small_pairs(30).select(range(25, 30))},
    "adapter": lambda: {
        "rows": small_pairs(13), "objective": "dpo", "peft_config": lora(), "learning_rate": 1e-2,
        "precompute_ref_log_probs": False,
    },
    "few rows": lambda: {"rows": small_pairs(1), "objective": "simpo", "eval_dataset": small_pairs(1)},
    "lists": lambda: {"rows": ranked_lists(13), "objective": "mallows_list_phi", "peft_config": lora()},
    "accumulated": lambda: {
        "rows": small_pairs(13), "objective": "mallows_phi", "gradient_accumulation_steps": 2, "sft_weight": 0.5,
        "gradient_checkpointing": True,
    },
    "whole, live reference": lambda: {"rows": small_pairs(13), "objective": "dpo"},
    "padded": lambda: {"rows": small_pairs(13), "share_prompts": False},
    "head trained whole": lambda: {"rows": small_pairs(13), "peft_config": lora(modules_to_save=["lm_head"])},
}  # fmt: skip
IN_DEFAULT = {("ddp", "whole"), ("ddp", "few rows"), ("fsdp2", "whole"), ("fsdp2", "adapter"), ("fsdp2", "lists")}


@pytest.fixture(scope="module")
def alone(random_setting, tmp_path_factory):
    """What one process makes of a case; trained once."""
    kept = {}

    def result(case):
        if case not in kept:
            kept[case] = run_under("one", random_setting, tmp_path_factory.mktemp("one") / "run", **CASES[case]())
        return kept[case]

    return result


def assert_equal_runs(one, two):
    for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected", "entropy", "num_tokens"):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name
    # Begins at 0 where a stored reference differs from the policy by rounding alone.
    assert two["rewards/margins"] == pytest.approx(one["rewards/margins"], rel=1e-4, abs=1e-5)
    for name, value in one.get("eval", {}).items():
        assert two["eval"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert two["scale"] == (one["scale"] and pytest.approx(one["scale"], rel=1e-5))
    assert two["weights"] == one["weights"]  # a reference that is sharded has the name of the whole one
    assert one["model"].keys() <= two["model"].keys()
    for name, value in one["model"].items():
        assert (two["model"][name] - value).norm() <= 1e-4 * value.norm(), name


@pytest.mark.parametrize(
    ("engine", "case"),
    [
        pytest.param(engine, case, marks=[] if (engine, case) in IN_DEFAULT else SLOW)
        for engine in ("ddp", "fsdp2")
        for case in CASES
    ]
    + [pytest.param(engine.values[0], case, marks=engine.marks) for engine in DEEPSPEED for case in CASES],
)
def test_two_processes_train_as_one(alone, random_setting, tmp_path, engine, case):
    one = alone(case)
    two = run_under(engine, random_setting, tmp_path, **CASES[case]())
    assert (two["world"], two["path"]) == (2, one["path"])
    assert two["engine"] == {"ddp": "MULTI_CPU", "fsdp2": "FSDP"}.get(engine, "DEEPSPEED")
    assert two["path"] == ("padded" if case == "padded" else "packed")
    assert_equal_runs(one, two)


@pytest.mark.parametrize("engine", ["fsdp2", *DEEPSPEED])
@pytest.mark.parametrize("adapter", [False, pytest.param(True, marks=SLOW)], ids=["whole", "adapter"])
def test_scores_that_one_process_kept_are_found_by_sharded_weights(random_setting, tmp_path, engine, adapter):
    changes = {"rows": small_pairs(9), "max_steps": 1, "cache": str(tmp_path / "cache")}
    changes["peft_config"] = lora() if adapter else None
    one, two = (run_under(name, random_setting, tmp_path / name, **changes) for name in ("one", engine))
    assert "reused from" in two["reference"]["train"] and "reused from" not in one["reference"]["train"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.parametrize("engine", ["ddp", pytest.param("fsdp2", marks=SLOW), *DEEPSPEED])
@pytest.mark.parametrize(
    "case", ["whole", "pairs of lists", *(pytest.param(c, marks=SLOW) for c in ("adapter", "lists"))]
)
def test_a_resumed_run_is_one_that_was_not_stopped(random_setting, tmp_path, engine, case):
    """Stopped within the second epoch, whose order is not that of the first."""
    changes = {"rows": ranked_lists(4), "objective": "dpo"} if case == "pairs of lists" else {"rows": small_pairs(13)}
    changes = CASES["lists"]() if case == "lists" else changes
    changes |= {"max_steps": 6, "lr_scheduler_type": "constant"}
    if case == "adapter":
        changes["peft_config"] = lora()
    whole = run_under(engine, random_setting, tmp_path / "whole", **changes)
    resumed = run_under(engine, random_setting, tmp_path / "resumed", stop_after=3, **changes)
    for name in ("loss", "grad_norm", "num_tokens"):
        assert resumed[name] == pytest.approx(whole[name], rel=1e-4), name
    for name, value in whole["model"].items():
        assert (resumed["model"][name] - value).norm() <= 1e-4 * value.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "adapter"])
def test_fsdp_in_bfloat16_begins_near_log_2_and_keeps_log_probabilities_whole(random_setting, tmp_path, adapter):
    changes = {"rows": small_pairs(8), "max_steps": 1, "bf16": True, "peft_config": lora() if adapter else None}
    found = run_under("fsdp2", random_setting, tmp_path, **changes)
    assert found["loss"][0] == pytest.approx(math.log(2), abs=3e-3)


def grow_and_train(folder):
    """A model one of whose layers packing does not reach; see `grown` in test_scoring_path.py."""
    changes = allow_on_a_cpu("fsdp2")
    model = llama()
    layer = copy.deepcopy(model.model.layers[1])
    layer.self_attn.layer_idx = 2
    model.model.layers.append(layer)
    model.config.num_hidden_layers = 3
    run = build(model, folder, small_pairs(8), objective="dpo", max_steps=1, ref_model=llama(seed=5), **changes)
    assert run.scoring.path == "packed"
    run.train()
    assert run.scoring.path == "padded" and "on a trial" in run.scoring.reason


def test_the_trial_of_packed_rows_is_made_inside_of_the_engine(tmp_path):
    assert in_processes(partial(grow_and_train, tmp_path), tmp_path, 2) == [0, 0], words(tmp_path)


def shard(model, how):
    """The ways that a head's weight is sharded: with the rest, on its own, with the last norm, with its embedding."""
    for layer in model.model.layers:
        fully_shard(layer)
    if how == "own":
        fully_shard(model.lm_head)
    if how == "norm":
        fully_shard([model.model.norm, model.lm_head], reshard_after_forward=False)
    if how == "tied":
        fully_shard([model.model.norm, model.model.embed_tokens, model.lm_head], reshard_after_forward=False)
    return fully_shard(model)


def score_sharded():
    """In each of two processes: packed scores and all their gradients, sharded by hand, against the whole model's."""
    processes = Processes.of_accelerate(PartialState(cpu=True))
    assert processes.world == torch.distributed.get_world_size() == 2
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 10, 0], [20, 21, 22, 23, 0], [20, 24, 25, 0, 0]])
    completion = torch.zeros_like(ids)
    completion[:2, 2:] = completion[2:, 1:] = 1
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "completion_mask": completion * (ids > 0)}
    for how in ("root", "own", "norm", "tied"):
        whole, sharded = (llama(tie_word_embeddings=how == "tied") for _ in range(2))
        digest = weights_digest(whole)
        assert add_packed_head(whole).path == add_packed_head(sharded).path == "packed"
        shard(sharded, how)
        assert weights_digest(sharded, processes) == digest, how
        for _ in range(2):  # the second pass sees what the first has left sharded or whole
            for model in (whole, sharded):
                model.zero_grad()  # before the pass: inside of it FSDP shows other parameters
            expected, found = (score_packed(model, batch) for model in (whole, sharded))
            for name in ("logp_bk", "entropy_sum_bk", "logit_sum_bk", "top1_bk"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)
            for scores in (expected, found):
                (scores.logp_bk * torch.tensor([[1.0, -1.0], [0.5, 2.0]])).sum().backward()
            for (name, value), other in zip(whole.named_parameters(), sharded.parameters(), strict=True):
                gathered = other.grad.full_tensor()
                assert (gathered - value.grad).norm() <= 1e-5 * value.grad.norm(), (how, name)


def test_a_head_that_is_sharded_by_hand_gives_the_whole_models_scores_and_gradients(tmp_path):
    assert in_processes(score_sharded, tmp_path, 2) == [0, 0], words(tmp_path)


def test_the_support_matrix_names_tests_and_cases_that_there_are():
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/engines.md").read_text(encoding="utf-8")
    written = "".join(path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named and all(f"def {name}(" in written for name in named)
    matrix = page[page.index("| engine | trained |") :].split("\n\n")[0]
    assert set(re.findall(r"`([^`]+)`", matrix)) == CASES.keys()
