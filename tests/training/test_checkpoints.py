"""Checkpoints survive kills and full disks at any moment, in a save too; what is not whole is not resumed."""

import copy
import errno
import faulthandler
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from datasets import Dataset
from huggingface_hub.utils import filter_repo_objects
from pairs import add_by_transformers, history, lora, options, saved_llama, small_pairs
from pairs import build as build_trainer
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load as load_safetensors
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MixtralConfig, TrainerCallback
from trl import DPOConfig, DPOTrainer

from forks import in_child
from mallowspo.cli.signals import Terminated
from mallowspo.errors import InputError
from mallowspo.training.adapters import refuse_other_adapters
from mallowspo.training.checkpoints import (
    FILE_LIST,
    chosen_checkpoint,
    clear_leftovers,
    faults,
    newest_whole,
    publish,
    run_folder,
    seal,
)
from tiny import tiny_tokenizer

STEPS = 6
PATIENCE = 150  # seconds for a run of two or three


def build(setting, folder, rows=None, *, adapter=None, eval_rows=None, **changes):
    saving = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1, "share_prompts": False}
    given = {"peft_config": copy.deepcopy(adapter), "eval_dataset": eval_rows}  # PEFT fills the first in
    return build_trainer(setting, folder, rows, **given, **(saving | changes))


def resume(setting, folder, *rows, from_=True, **changes):
    """A run that has gone on from a folder's newest checkpoint, or from the one that is named."""
    run = build(setting, folder, *rows, **changes)
    run.train(resume_from_checkpoint=from_)
    return run


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def leftovers(folder):
    """What nobody but a save that was cut off leaves."""
    return [path.name for path in folder.rglob("*") if path.name.startswith((".", "_")) and path.name != "_run"]


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(random_setting, tmp_path_factory):
    """An uninterrupted run: its folder and its last weights."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    run = build(random_setting, folder)
    run.train()
    return folder, weights(run)


@pytest.fixture
def stopped(whole, tmp_path):
    """The folder of a run that ended after its fourth step."""
    return without(Path(shutil.copytree(whole[0], tmp_path / "out")), 5, 6)


def without(folder, *steps):
    for step in steps:
        shutil.rmtree(folder / f"checkpoint-{step}")
    return folder


class Slowly(TrainerCallback):
    """Leaves time between the steps of a run that is over in an instant."""

    def on_step_begin(self, args, state, control, **kwargs):
        time.sleep(0.02)


def started(setting, folder, last, kind):
    """Start a run in one child, or in one for each of its processes; its last step and weights are then in a file."""
    changes, kept = dict(KINDS[kind]), []
    world = changes.pop("processes", 1)

    def work(rank):
        # A rank waits half an hour for one that failed at its start.
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
        if world > 1:
            PartialState._reset_state()
            AcceleratorState._reset_state(True)
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
        run = build(setting, folder, **changes)
        assert run.args.world_size == world
        run.add_callback(Slowly())
        run.train(resume_from_checkpoint=newest_whole(Path(folder))[0] is not None)
        if rank == 0:
            torch.save({"step": run.state.global_step, "weights": weights(run)}, last)
        run.accelerator.wait_for_everyone()
        kept.append(run)  # freed here, DDP's reducer may wait for a thread of Gloo's that waits for the interpreter

    with socket.socket() as own:  # the children inherit it, so that nobody else gets the port before they listen there
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
        return [in_child(lambda rank=rank: work(rank)) for rank in range(world)]


def finished(setting, folder, kind):
    """Let a run come to its end."""
    last = folder.with_suffix(".last.pt")
    ended = [os.waitpid(child, 0)[1] for child in started(setting, folder, last, kind)]
    assert not any(ended), ended
    return torch.load(last)


def killed_run(setting, folder, draw, kind, *, in_save):
    """Train in children and kill them: at a random moment, or while a chosen checkpoint is being written.

    Returns whether the kill came before their end, and whether inside a save.
    """
    children = started(setting, folder, folder.with_suffix(".last.pt"), kind)
    step, moment = draw.randint(2, STEPS), time.monotonic() + draw.uniform(0.3, 1.6)
    staging = folder / f"_checkpoint-{step}.saving"
    while (ended := os.waitpid(children[0], os.WNOHANG)) == (0, 0):
        if staging.exists() if in_save else time.monotonic() > moment:
            time.sleep(draw.uniform(0.0, 0.02) if in_save else 0.0)
            for child in draw.sample(children, len(children)):
                os.kill(child, signal.SIGKILL)
            ended = os.waitpid(children[0], 0)
            break
        time.sleep(0.0005)
    for child in children[1:]:
        os.waitpid(child, 0)
    killed = os.WIFSIGNALED(ended[1])
    assert killed or ended[1] == 0
    return killed, killed and bool(list(folder.glob("_checkpoint-*.saving")))


def survives(setting, folder, whole, draw, kind="full", *, in_save):
    """Kill a run, then let it end; its weights must be those of a run that nobody killed."""
    killed = killed_run(setting, folder, draw, kind, in_save=in_save)
    for path in folder.glob("checkpoint-*"):  # what has the name of a checkpoint is one
        assert all(kind == "model only" and "would be" in fault for fault in faults(path)), path
    last = finished(setting, folder, kind)
    assert last["step"] == STEPS and same(last["weights"], whole)
    assert not leftovers(folder)
    return killed


EVALUATING = {"eval_rows": small_pairs(5), "eval_strategy": "steps", "eval_steps": 1}
KINDS = {
    "full": {},
    "lora": {"adapter": lora(lora_dropout=0.1, target_modules="all-linear")},
    "two processes": {"processes": 2, "per_device_train_batch_size": 2},
    "save_total_limit": {"save_total_limit": 1},
    "load_best_model_at_end": EVALUATING | {"save_total_limit": 1, "load_best_model_at_end": True},
    "model only": {"save_only_model": True},
}


def test_a_run_killed_inside_saves_ends_as_one_that_was_not(random_setting, whole, tmp_path):
    draw = random.Random(3)
    kills = [survives(random_setting, tmp_path / str(i), whole[1], draw, in_save=True) for i in range(3)]
    assert any(inside for _, inside in kills)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "runs", "least"),
    [
        ("full", 40, 30),
        ("lora", 14, 10),
        ("two processes", 14, 10),
        ("save_total_limit", 10, 7),
        ("load_best_model_at_end", 10, 7),
        ("model only", 6, 4),
    ],
)
def test_killed_runs_most_of_them_inside_a_save(random_setting, tmp_path, kind, runs, least):
    draw = random.Random(11)
    whole = finished(random_setting, tmp_path / "whole", kind)["weights"]
    kills = [
        survives(random_setting, tmp_path / str(i), whole, draw, kind, in_save=i < 2 * runs // 3) for i in range(runs)
    ]
    killed, inside = (sum(column) for column in zip(*kills, strict=True))
    print(f"{kind}: {runs} runs, {killed} killed, {inside} of them inside a save; all ended with the right weights")
    assert killed >= least and 2 * inside >= killed


class Interrupting:
    """Ends a run at the n-th moment at which it opens, makes, renames or removes a file, as a signal would."""

    def __init__(self):
        self.at, self.seen, self.where = None, 0, ""
        sys.addaudithook(self.audit)

    def audit(self, event, arguments):
        if self.at is not None and (event == "open" or event.startswith(("os.", "shutil."))):
            self.seen += 1
            if self.seen == self.at:
                self.where = f"{event}{arguments}"
                raise Terminated

    def run(self, work, at):
        """Whether the work was interrupted."""
        self.at, self.seen = at, 0
        try:
            work()
        except Terminated:
            return True
        finally:
            self.at = None
        return False


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_signal_at_any_moment_leaves_nothing_and_loses_no_checkpoint(random_setting, tmp_path, stride):
    """An empty folder of a save was once left, when the signal fell into its clearing away."""
    template, report = tmp_path / "template", tmp_path / "report.json"

    def work():
        signals, found = Interrupting(), []  # in a child, since a hook cannot be taken off again
        run = build(random_setting, template, max_steps=1)
        run.train()

        def again():
            with run_folder(folder):  # as the command does
                run.train()  # its checkpoint replaces that of the template
                run.save_model()

        moment, interrupted = 1 - stride, True
        while interrupted:
            moment += stride
            folder = Path(shutil.copytree(template, tmp_path / str(moment)))
            run.args.output_dir = str(folder)
            interrupted = signals.run(again, moment)
            left = leftovers(folder)
            wrong = faults(folder / "checkpoint-1") if (folder / "checkpoint-1").is_dir() else ["is lost"]
            if interrupted and signals.seen < moment or left or wrong:
                found.append([moment, signals.where, left, wrong])
            shutil.rmtree(folder)
        report.write_text(json.dumps({"moments": signals.seen, "found": found}))

    _, status = os.waitpid(in_child(work), 0)
    assert status == 0
    told = json.loads(report.read_text())
    print(f"{told['moments']} moments, every {stride}. of them interrupted")
    assert told["moments"] > 100 and not told["found"], told


def test_a_full_disk_inside_a_save_leaves_the_last_checkpoint_and_no_half_of_one(random_setting, whole, tmp_path):
    folder = tmp_path / "out"

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        run = build(random_setting, folder)

        class FillUp(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 3:  # from now on no file may be longer than 1,000 bytes
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        run.add_callback(FillUp())
        run.train()

    _, status = os.waitpid(in_child(work), 0)
    assert status != 0
    assert sorted(p.name for p in folder.glob("*checkpoint-*")) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    run = resume(random_setting, folder)
    assert same(weights(run), whole[1])


def test_the_newest_whole_checkpoint_is_taken_and_the_others_are_named(random_setting, whole, stopped, caplog):
    (stopped / "checkpoint-99").mkdir()
    (stopped / "checkpoint-4/optimizer.pt").unlink()
    run = resume(random_setting, stopped)
    assert same(weights(run), whole[1])
    assert "checkpoint-99 is passed over" in caplog.text
    assert "checkpoint-4 is passed over: optimizer.pt is missing" in caplog.text
    assert "going on from" in caplog.text and "checkpoint-3" in caplog.text


class EndAfter(TrainerCallback):
    """Ends a run after a step, its checkpoint included."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Terminated


def ended_after(step, run, resume=None):
    run.add_callback(EndAfter(step))
    with pytest.raises(Terminated):
        run.train(resume_from_checkpoint=resume)


def test_true_goes_on_from_the_last_run_and_not_from_an_earlier_one_that_came_further(
    random_setting, whole, tmp_path, caplog
):
    """The earlier run's checkpoint-6 was once taken for one of the later run, which had come to step 2."""
    alone = build(random_setting, tmp_path / "alone", seed=8)
    alone.train()
    folder = Path(shutil.copytree(whole[0], tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "README.md"}
    ended_after(0, build(random_setting, folder, seed=8))
    assert "output_dir" in caplog.text and "checkpoint-6" in caplog.text
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name != "_run")
    with pytest.raises(InputError, match="resume_from_checkpoint.*checkpoint-6 is passed over"):
        build(random_setting, folder, seed=8).train(resume_from_checkpoint=True)
    ended_after(2, build(random_setting, folder, seed=8))
    for step in (4, STEPS):  # interrupted once more, with checkpoints of the earlier run still before it
        run = build(random_setting, folder, seed=8)
        if step < STEPS:
            ended_after(step, run, True)
        else:
            run.train(resume_from_checkpoint=True)
    assert same(weights(run), weights(alone)) and not same(weights(run), whole[1])


def test_true_goes_on_from_a_run_that_began_at_a_checkpoint_with_later_ones(random_setting, whole, tmp_path):
    alone, folder = (Path(shutil.copytree(whole[0], tmp_path / name)) for name in ("alone", "out"))
    uninterrupted = build(random_setting, alone, max_grad_norm=0.01)
    uninterrupted.train(resume_from_checkpoint=str(alone / "checkpoint-2"))
    ended_after(2, build(random_setting, folder, max_grad_norm=0.01), str(folder / "checkpoint-2"))
    assert newest_whole(folder)[0] == folder / "checkpoint-2"
    ended_after(4, build(random_setting, folder, max_grad_norm=0.01), True)
    run = resume(random_setting, folder, max_grad_norm=0.01)
    assert same(weights(run), weights(uninterrupted)) and not same(weights(run), whole[1])


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_keeps_the_runs_own_newest_and_leaves_an_earlier_runs(random_setting, whole, tmp_path, limit):
    """Written within a second they go by step in transformers, which removed what the later run had written."""
    folder = Path(shutil.copytree(whole[0], tmp_path / "out"))
    without(folder, 1, 2)
    build(random_setting, folder, max_steps=2, save_total_limit=limit).train()
    own = ["checkpoint-1", "checkpoint-2"][-limit:]
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == [*own, *(f"checkpoint-{i}" for i in range(3, 7))]
    assert newest_whole(folder)[0] == folder / "checkpoint-2" and not leftovers(folder)


NEEDED = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "mallowspo.json"]


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_refused_with_the_name_of_the_file(stopped, name, damage):
    path = stopped / "checkpoint-4" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-5], "flipped": content, "empty": b""}[damage])
    with pytest.raises(InputError, match=name):
        chosen_checkpoint(str(stopped / "checkpoint-4"), stopped)
    found, (line,) = chosen_checkpoint("true", stopped)
    assert found == stopped / "checkpoint-3" and name in line


@pytest.mark.parametrize("name", NEEDED[:5])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_checkpoint_without_a_list_of_files_is_looked_through(stopped, name, damage):
    """TRL's own, or one of an earlier version of ours."""
    path = stopped / "checkpoint-4" / name
    (path.parent / FILE_LIST).unlink()
    assert not faults(path.parent)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    gone = name == "model.safetensors" and damage == "missing"
    with pytest.raises(InputError, match="the weights are missing" if gone else name):
        chosen_checkpoint(str(path.parent), stopped)


def test_a_checkpoint_of_trl_can_be_gone_on_from(random_setting, tmp_path):
    both = options(tmp_path / "out", max_steps=2, save_strategy="steps", save_steps=2)
    DPOTrainer(random_setting.path, args=DPOConfig(**both), train_dataset=random_setting.rows).train()
    run = resume(random_setting, tmp_path / "out", objective="dpo")
    assert run.state.global_step == STEPS


def rows_with(setting, **change):
    rows = setting.rows.to_list()
    rows[3] = rows[3] | change
    return Dataset.from_list(rows)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: {"rows": rows_with(s, chosen=" something else")}, "dataset_name.*allow_other_data"),
        (lambda s: {"rows": s.rows.select(range(16))}, "dataset_name.*30 training rows.*16.*allow_other_data"),
        (lambda s: {"rows": s.rows.select([1, 0, *range(2, 30)])}, "dataset_name.*other training rows"),
        (lambda s: {"beta": 0.5}, "beta.*0.1.*0.5"),
        (lambda s: {"objective": "dpo"}, "objective|dispersion"),
        (lambda s: {"optim": "sgd"}, "optim.*adamw_torch.*sgd"),  # once a KeyError
        (lambda s: {"objective": "mallows_phi"}, r"objective \(link\).*sigmoid.*kendall"),
        (lambda s: {"loss_weights": [0.5]}, "^loss_weights: .* 1.0 .* 0.5;"),
        (lambda s: {"optim_target_modules": ["q_proj"]}, "^optim_target_modules: .* None .*q_proj"),
        (lambda s: {"max_length": 32}, "^max_length: .* 256 .* 32,.*allow_other_data"),
        (lambda s: {"truncation_mode": "keep_end"}, "^truncation_mode: .*keep_start.*keep_end.*allow_other_data"),
        (
            lambda s: {"train_sampling_strategy": "sequential"},
            "^train_sampling_strategy: .*random.*sequential.*allow",
        ),
        (lambda s: {"seed": 8}, "^seed: .* 3 .* 8,.*allow_other_data"),
        (lambda s: {"data_seed": 8}, "^data_seed: .* None .* 8,.*allow_other_data"),
    ],
)
def test_going_on_with_something_else_is_refused_with_the_field(random_setting, stopped, change, named):
    run = build(random_setting, stopped, **change(random_setting))
    with pytest.raises(InputError, match=f"(?s){named}"):
        run.train(resume_from_checkpoint=True)


def test_other_rows_where_they_are_wanted(random_setting, stopped):
    rows = rows_with(random_setting, chosen=" something else")
    run = resume(random_setting, stopped, rows, allow_other_data=True)
    assert run.state.global_step == STEPS


@pytest.mark.parametrize(
    ("objective", "adapter"), [("mallows_theta", False), ("dpo", False), ("dpo", True), ("simpo", True)]
)
def test_going_on_from_a_model_of_other_weights_is_refused(random_setting, tmp_path, objective, adapter):
    """Whether the reference is read before the run (the first), live, or there is none beside the adapter's base."""
    other = SimpleNamespace(path=saved_llama(tmp_path / "other", seed=9), rows=random_setting.rows)
    changes = {"objective": objective, "adapter": lora() if adapter else None}
    build(random_setting, tmp_path / "out", max_steps=1, **changes).train()
    run = build(other, tmp_path / "out", **changes)
    with pytest.raises(InputError, match="^model_name_or_path: .*other weights"):
        run.train(resume_from_checkpoint=True)
    assert resume(random_setting, tmp_path / "out", max_steps=2, **changes).state.global_step == 2


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [
        ("per_device_train_batch_size", 4, 2),
        ("gradient_accumulation_steps", 1, 2),
        ("neftune_noise_alpha", None, 5.0),
        ("bf16", False, True),
        ("dataloader_drop_last", False, True),
        ("lr_scheduler_type", "linear", "constant"),
        ("max_grad_norm", 1.0, 0.01),
        ("max_steps", STEPS, STEPS + 1),
        ("warmup_steps", 0, 3),
        ("num_processes", 1, 2),
    ],
)
def test_another_step_is_gone_on_with_and_named(random_setting, whole, stopped, caplog, option, before, after):
    if option == "num_processes":  # of the checkpoint: this test has one
        path = stopped / "checkpoint-4/mallowspo.json"
        path.write_text(path.read_text().replace('"num_processes": 1', '"num_processes": 2'))
        (path.parent / FILE_LIST).unlink()
        run, before, after = resume(random_setting, stopped), 2, 1
    else:
        run = resume(random_setting, stopped, **{option: after})
    assert f"{option} was {before} and is {after} now" in caplog.text
    unchanged = option in ("num_processes", "dataloader_drop_last")  # no last batch by then
    assert same(weights(run), whole[1]) == unchanged  # the others change the steps that follow


class Drawn(TrainerCallback):
    """Notes which rows each step has trained on."""

    def __init__(self, run):
        self.rows, collate = [], run.data_collator

        def noting(batch):
            self.rows += [row["row_index"] for row in batch]
            return collate(batch)

        run.data_collator = noting


@pytest.mark.parametrize(
    ("option", "after", "step"),
    [("seed", 8, 4), ("train_sampling_strategy", "sequential", 4), ("seed", 8, 8)],
)
def test_another_order_is_refused_where_rows_would_come_twice(random_setting, tmp_path, caplog, option, after, step):
    """Of 30 rows in batches of 4, an epoch has 8 steps: at its end, another order of the next one skips no row."""
    run = build(random_setting, tmp_path / "out", max_steps=step)
    before, first = getattr(run.args, option), Drawn(run)
    run.train()
    changed = build(random_setting, tmp_path / "out", max_steps=8 if step == 4 else 16, **{option: after})
    if step == 4:
        with pytest.raises(InputError, match=f"^{option}: .*{before}.*{after}"):
            changed.train(resume_from_checkpoint=True)
        changed = build(random_setting, tmp_path / "out", max_steps=8, allow_other_data=True, **{option: after})
    second = Drawn(changed)
    changed.train(resume_from_checkpoint=True)
    assert f"{option} was {before} and is {after} now" in caplog.text
    # transformers draws the rows that it skips too
    seen = first.rows[: 4 * step], second.rows[(0 if step == 8 else 16) :]
    assert (len(set(seen[0] + seen[1])) < 30) == (step == 4)


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [("learning_rate", 0.001, 0.0005), ("weight_decay", 0.0, 0.5), ("adam_beta1", 0.9, 0.5)],
)
def test_what_the_optimizers_state_holds_is_not_taken_and_named(
    random_setting, whole, stopped, caplog, option, before, after
):
    """transformers ignores it without a word, and this log once said that it was taken."""
    run = resume(random_setting, stopped, **{option: after})
    (line,) = [one for one in caplog.messages if f"{option} was {before} and stays so" in one]
    assert str(after) in line and same(weights(run), whole[1])


@pytest.fixture(scope="module")
def adapted(random_setting, tmp_path_factory):
    """The folder of a LoRA run that ended after two steps."""
    folder = tmp_path_factory.mktemp("lora") / "out"
    build(random_setting, folder, adapter=lora(), max_steps=2).train()
    return folder


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (lora(target_modules=["k_proj", "o_proj"]), r"\(target_modules\): .*q_proj.*k_proj"),
        (lora(lora_alpha=64), r"\(lora_alpha\): .* 8 .* 64;"),
        (lora(use_rslora=True), r"\(use_rslora\): .* False .* True;"),
        (lora(r=8), r"\(r\): .* 4 .* 8;"),
        (lora(use_dora=True), r"\(use_dora\): .* False .* True;"),
        (lora(lora_dropout=0.5), r"\(lora_dropout\): .* 0.0 .* 0.5;"),
        (lora(rank_pattern={"q_proj": 2}), r"\(rank_pattern\): .* {} .* {'q_proj': 2};"),
        (lora(modules_to_save=["embed_tokens"]), r"\(modules_to_save\): .* None .*embed_tokens"),
        (LoHaConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"), r"\(peft_type\): .*LORA.*LOHA"),
        (None, r"\(use_peft\): .*an adapter \(LORA\).*whole model"),
    ],
)
def test_another_adapter_is_refused_with_its_field(random_setting, adapted, tmp_path, adapter, named):
    """PEFT loads what has the same names; of the rest the run began anew, under the old optimizer's state."""
    folder = shutil.copytree(adapted, tmp_path / "out")
    run = build(random_setting, folder, adapter=adapter)
    with pytest.raises(InputError, match=f"^peft_config {named}"):
        run.train(resume_from_checkpoint=True)


def test_an_adapter_is_not_put_on_a_checkpoint_of_a_whole_model(random_setting, stopped):
    run = build(random_setting, stopped, adapter=lora())
    with pytest.raises(InputError, match=r"^peft_config \(use_peft\): .*a whole model.*an adapter"):
        run.train(resume_from_checkpoint=True)


def held_by_transformers(setting):
    model = AutoModelForCausalLM.from_pretrained(setting.path)
    add_by_transformers(model, lora())
    return SimpleNamespace(path=model, rows=setting.rows)


def test_an_adapter_without_its_wrapper_is_said_to_be_beyond_resuming(random_setting, adapted, tmp_path):
    """transformers looks for the weights of a whole model there, and ended in a traceback."""
    folder = shutil.copytree(adapted, tmp_path / "out")
    with pytest.raises(InputError, match="^model: .*peft_config"):
        run = build(held_by_transformers(random_setting), folder, processing_class=tiny_tokenizer())
        run.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules="all-linear"),
        LoraConfig(r=4),
        LoraConfig(r=4, target_modules=r".*\.(q|v)_proj", alpha_pattern={"q_proj": 3}, init_lora_weights="gaussian"),
        LoraConfig(r=4, use_dora=True, layers_to_transform=[0], modules_to_save=["lm_head"]),
        LoHaConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"]),
        IA3Config(task_type="CAUSAL_LM"),
        VeraConfig(r=4, target_modules=["q_proj"]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_the_same_adapter_is_gone_on_with(random_setting, tmp_path, config):
    """Whatever PEFT fills in when it puts an adapter on, of a kind with fields of its own."""

    def put_on(given):
        return get_peft_model(AutoModelForCausalLM.from_pretrained(random_setting.path), given)

    again = copy.deepcopy(config)
    put_on(copy.deepcopy(config)).save_pretrained(tmp_path)
    refuse_other_adapters(tmp_path, {"default": config}, loaded=False)  # as the command line looks, before the model
    refuse_other_adapters(tmp_path, put_on(again).peft_config, loaded=True)


@pytest.mark.parametrize(("name", "right"), [("ref", True), ("second", False)])
def test_adapters_of_other_names_are_refused_but_for_a_frozen_copy(random_setting, tmp_path, name, right):
    """TRL puts `ref`, a copy of a pretrained adapter, beside it, and older versions did not."""
    model = AutoModelForCausalLM.from_pretrained(random_setting.path)
    policy = get_peft_model(model, lora())
    policy.save_pretrained(tmp_path)
    policy.add_adapter(name, lora())
    with nullcontext() if right else pytest.raises(InputError, match="^peft_config: .*default.*default, second"):
        refuse_other_adapters(tmp_path, policy.peft_config, loaded=True)
    policy.save_pretrained(tmp_path)
    refuse_other_adapters(tmp_path, policy.peft_config, loaded=True)
    policy.delete_adapter(name)
    with pytest.raises(InputError, match=f"^peft_config: .*default, {name}.*default;"):
        refuse_other_adapters(tmp_path, policy.peft_config, loaded=True)


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module", params=["head", "experts"])
def renamed(request, tmp_path_factory):
    """A model whose head has another name on disk, or whose experts are apart there."""
    folder, tokenizer = tmp_path_factory.mktemp("renamed"), tiny_tokenizer()
    kinds = {
        "head": (GPTNeoXConfig, {}),
        "experts": (MixtralConfig, {"num_local_experts": 2, "num_key_value_heads": 2}),
    }
    kind, more = kinds[request.param]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), **SMALL, **more)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SimpleNamespace(path=str(folder), rows=small_pairs())


def test_weights_with_other_names_on_disk_are_gone_on_with(renamed, tmp_path):
    """transformers' trainer left them as they were before training, with a warning of missing keys."""
    folder = tmp_path / "out"
    first = build(renamed, folder, learning_rate=1e-2)
    first.train()
    second = resume(renamed, without(folder, 5, 6), learning_rate=1e-2)
    assert same(weights(second), weights(first))


def test_the_best_model_has_its_weights_with_other_names_on_disk(renamed, tmp_path):
    worst = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    run = build(renamed, tmp_path / "out", learning_rate=1e-2, **EVALUATING, **worst)  # the first or so
    run.train()
    best = AutoModelForCausalLM.from_pretrained(run.state.best_model_checkpoint).state_dict()
    assert run.state.best_global_step < STEPS and same(best, weights(run))


def test_a_model_of_another_shape_is_refused(random_setting, tmp_path):
    """Without a reference nothing tells before the weights are read."""
    wide = SimpleNamespace(path=saved_llama(tmp_path / "wide", hidden_size=64), rows=random_setting.rows)
    build(random_setting, tmp_path / "out", objective="simpo", max_steps=1).train()
    run = build(wide, tmp_path / "out", objective="simpo")
    with pytest.raises(InputError, match="^model_name_or_path: .*another model"):
        run.train(resume_from_checkpoint=True)


def test_a_finished_run_says_that_nothing_was_trained(random_setting, whole, tmp_path, caplog):
    folder = shutil.copytree(whole[0], tmp_path / "out")
    run = resume(random_setting, folder)
    assert "nothing was trained" in caplog.text
    assert run.state.global_step == STEPS and same(weights(run), whole[1])


def test_two_runs_cannot_share_a_folder(random_setting, stopped):
    child = in_child(lambda: hold(stopped))
    try:
        while not (stopped / "held").exists():
            time.sleep(0.005)
        with pytest.raises(InputError, match="output_dir: process .* is writing a training run"):
            build(random_setting, stopped).train()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    build(random_setting, stopped).train()  # the lock has died with its process


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_a_run_warns_and_trains(random_setting, tmp_path, caplog, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = tmp_path / "out"
    build(random_setting, folder, max_steps=1).train()
    assert not faults(folder / "checkpoint-1") and not list(folder.glob("*lock"))
    (warning,) = [one for one in caplog.messages if "without locks" in one]
    assert str(folder) in warning and os.strerror(number) in warning


def hold(folder):
    from mallowspo.locks import folder_lock

    with folder_lock(folder, "a training run"):
        (folder / "held").touch()
        time.sleep(60)


def test_a_saved_model_has_whole_files_and_no_stale_weights(random_setting, tmp_path):
    run = build(random_setting, tmp_path / "out", max_steps=1)
    run.train()
    (tmp_path / "out/model-00001-of-00002.safetensors").write_bytes(b"of an earlier save")
    (tmp_path / "out/model.safetensors.index.json").write_text("{}")
    run.save_model()
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert same({k: v for k, v in weights(run).items() if k in saved}, saved)
    assert not list((tmp_path / "out").glob("model-*")) and not leftovers(tmp_path / "out")


def test_an_index_that_names_no_files_is_told_as_what_is_missing(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": 7, "b": "x", "c": ["y"]}}')
    assert {"7 is missing", "x is missing", "['y'] is missing"} <= set(faults(tmp_path))


def test_the_best_checkpoint_is_kept_loaded_and_named_by_where_it_is(random_setting, tmp_path):
    run = build(random_setting, tmp_path / "out", max_steps=4, **KINDS["load_best_model_at_end"])
    run.train()
    best = Path(run.state.best_model_checkpoint)
    assert best.parent == tmp_path / "out" and best.is_dir()
    last = max((tmp_path / "out").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    recorded = json.loads((last / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert Path(recorded) == best and not faults(best)


def test_a_finished_run_that_is_resumed_keeps_its_best_weights(random_setting, tmp_path):
    """It once saved those of its last checkpoint over the best ones, without a word."""
    changes = EVALUATING | {"load_best_model_at_end": True, "greater_is_better": True, "max_steps": 2}
    first = build(random_setting, tmp_path / "out", **changes)
    first.train()
    assert first.state.best_model_checkpoint.endswith("checkpoint-1")  # the highest loss is the first
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert same(weights(resume(random_setting, moved, **changes)), weights(first))
    (moved / "checkpoint-1/model.safetensors").unlink()
    with pytest.raises(InputError, match=r"load_best_model_at_end.*checkpoint-1.*model\.safetensors is missing"):
        resume(random_setting, moved, **changes)


def test_a_checkpoint_that_was_being_replaced_is_not_lost(stopped):
    """The run ends after the old checkpoint gave up its name and before the new one has it."""
    with pytest.raises(FileNotFoundError):
        publish(stopped / "nothing", stopped / "checkpoint-4")
    assert not (stopped / "checkpoint-4").exists()
    clear_leftovers(stopped)
    assert newest_whole(stopped) == (stopped / "checkpoint-4", [])
    assert not leftovers(stopped)


class Hub:
    """Stands for the hub: what it is given, and what uploads in the background would find at later moments."""

    def __init__(self):
        self.pushes, self.names, self.contents = [], set(), {}

    def create_repo(self, name, **_):
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, *, folder_path, ignore_patterns=None, path_in_repo="", **_):
        folder = Path(folder_path)
        self.pushes.append((folder, ignore_patterns, path_in_repo, folder.name != "out" and faults(folder)))
        self.look()
        done = Future()
        done.set_result(None)
        return done

    def look(self):
        for folder, ignored, target, _ in self.pushes:
            there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            for name in filter_repo_objects(there, ignore_patterns=ignored):
                self.names.add(name)
                self.contents[target, name] = (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("strategy", "checkpoints"),
    [
        ("end", []),
        ("every_save", []),
        ("checkpoint", ["last-checkpoint"] * 2),
        ("all_checkpoints", ["checkpoint-1", "checkpoint-2"]),
    ],
)
def test_what_is_pushed_is_whole_and_has_no_passing_files_and_no_secrets(
    random_setting, tmp_path, monkeypatch, strategy, checkpoints
):
    """Uploads run while the next checkpoint is being written: its folder was once among what they took."""
    hub, secret = Hub(), "hf_abcdefgh1234567890secret"
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)

    def seal_under_uploads(folder):
        hub.look()
        seal(folder)

    monkeypatch.setattr("mallowspo.training.trainer.seal", seal_under_uploads)
    pushing = {"push_to_hub": True, "hub_strategy": strategy, "hub_token": secret}
    run = build(random_setting, tmp_path / "out", max_steps=2, **pushing)
    with run_folder(tmp_path / "out"):
        run.train()
        run.save_model()
        run.push_to_hub()
    assert [target for _, _, target, _ in hub.pushes if target] == checkpoints
    assert not any(wrong for _, _, _, wrong in hub.pushes)
    assert not [name for name in hub.names if name.startswith((".", "_", "checkpoint-")) or "lock" in name], hub.names
    assert not [place for place, content in hub.contents.items() if secret.encode() in content]
    assert {"model.safetensors", "mallowspo.json", "training_args.bin", "README.md"} <= hub.names
    for target in ("", *checkpoints[-1:]):
        pushed = load_safetensors(hub.contents[target, "model.safetensors"])
        assert same(pushed, {name: value for name, value in weights(run).items() if name in pushed})
    for target in checkpoints[-1:]:
        listed = json.loads(hub.contents[target, FILE_LIST])["files"]
        assert {name for place, name in hub.contents if place == target} == {*listed, FILE_LIST}
        assert all(len(hub.contents[target, name]) == entry["bytes"] for name, entry in listed.items())


def test_a_moving_reference_is_gone_on_with_where_it_was(random_setting, tmp_path):
    moving = {"objective": "dpo", "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.7}
    whole = build(random_setting, tmp_path / "out", save_steps=3, **moving)
    whole.train()
    shutil.rmtree(tmp_path / "out/checkpoint-6")
    resumed = resume(random_setting, tmp_path / "out", save_steps=3, **moving)
    for name in ("loss", "rewards/margins"):
        assert history(resumed, name) == history(whole, name), name
    for ours, theirs in zip(resumed.ref_model.parameters(), whole.ref_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    shutil.rmtree(tmp_path / "out/checkpoint-6")
    shutil.rmtree(tmp_path / "out/checkpoint-3/reference")
    (tmp_path / "out/checkpoint-3" / FILE_LIST).unlink()  # as another program's, which keeps no reference
    with pytest.raises(InputError, match="^sync_ref_model: "):
        resume(random_setting, tmp_path / "out", save_steps=3, **moving)
