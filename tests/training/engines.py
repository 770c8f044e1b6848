"""Runs under the engines that shard a model, in processes on a CPU, which accelerate keeps these engines from."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from pairs import build, history, small_pairs
from safetensors.torch import load_file

from forks import in_child, ranks

METRICS = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected", "entropy", "num_tokens")
_PATIENCE = 240  # seconds for a run of some steps, on a machine that does other things too


def allow_on_a_cpu(engine: str) -> dict[str, Any]:
    """Let accelerate take an engine in this process, over gloo; gives the options of the run that ask for it.

    accelerate knows FSDP and DeepSpeed beside accelerators alone, and on a CPU trains without them. What it says of
    the device is replaced; all that it, transformers, TRL and the engine then do is theirs.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    if engine in ("one", "ddp"):
        return {}
    PartialState._prepare_backend = lambda self, *given, **named: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    sys.modules["transformers.training_args"].is_torch_bf16_gpu_available = lambda *given, **named: True
    if engine == "fsdp2":
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
        os.environ |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"  # as in TRL's own file for accelerate
        return {"use_cpu": False, "dataloader_pin_memory": False}
    import deepspeed.comm.torch  # noqa: F401

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # it would be compiled now
    zero: dict[str, Any] = {"stage": int(engine[-1])}
    if engine == "zero3":
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    batch = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps", "gradient_clipping")
    config = dict.fromkeys(batch, "auto") | {"zero_optimization": zero, "zero_force_ds_cpu_optimizer": False}
    config["zero_allow_untested_optimizer"] = True
    return {"use_cpu": False, "dataloader_pin_memory": False, "deepspeed": config}


def _work(engine: str, world: int, setting: Any, folder: Path, cache: str, changes: dict[str, Any]) -> None:
    """In each process: train, evaluate where there are rows for it, and write what came of it."""
    os.environ["MALLOWSPO_CACHE"] = cache
    from mallowspo.training import scoring_path

    # Rows that hold two prompts or three in several processes, and whole batches in one.
    scoring_path._cpu_row_tokens = lambda config: 60 if world > 1 else 10**6
    changes = {"max_steps": 10, **allow_on_a_cpu(engine), **changes}
    size = changes.pop("batch", 8)
    changes |= {f"per_device_{mode}_batch_size": size // world for mode in ("train", "eval")}
    first = changes.pop("stop_after", None)
    if first is not None:
        stopped = build(setting, folder / "run", **changes | {"save_strategy": "steps", "save_steps": first})
        stopped.args.max_steps = first
        stopped.train()
    run = build(setting, folder / "run", **changes)
    run.train(resume_from_checkpoint=None if first is None else str(folder / f"run/checkpoint-{first}"))
    found = {name: history(run, name) for name in METRICS}
    if changes.get("eval_dataset") is not None:
        evaluated = run.evaluate()
        found["eval"] = {k: v for k, v in evaluated.items() if not k.endswith(("_runtime", "_per_second"))}
    found |= {
        "engine": run.accelerator.distributed_type.value, "world": run.accelerator.num_processes,
        "path": run.scoring.path, "reason": run.scoring.reason, "weights": run.reference_weights,
        "scale": run.calibration and run.calibration.scale, "reference": run.reference_sources,
    }  # fmt: skip
    run.save_model(str(folder / "model"))
    if run.accelerator.is_main_process:
        (folder / "found.json").write_text(json.dumps(found))


def in_processes(work: Any, folder: Path, world: int) -> list[int]:
    """Run `work` in forked processes that form one group; gives their exit codes, and leaves their words in logs."""

    def told(log: Path) -> None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            raise

    folder.mkdir(parents=True, exist_ok=True)
    environments = ranks(world) if world > 1 else [{}]
    children = [
        in_child(partial(told, folder / f"log-{i}"), environment=environment)
        for i, environment in enumerate(environments)
    ]
    end, codes = time.monotonic() + _PATIENCE, {}
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(ended[1])
        if time.monotonic() > end:
            for child in set(children) - set(codes):
                os.kill(child, 9)
        time.sleep(0.02)
    return [codes[child] for child in children]


def words(folder: Path) -> str:
    """The ends of what the processes of a run have said."""
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("log-*")))


def run_under(engine: str, setting: Any, folder: Path, *, cache: str = "", **changes: Any) -> dict[str, Any]:
    """Train in two processes under an engine, or in one; what was logged, and the weights."""
    world = 1 if engine == "one" else 2
    codes = in_processes(partial(_work, engine, world, setting, folder, cache, changes), folder, world)
    assert codes == [0] * world, words(folder)
    found = json.loads((folder / "found.json").read_text())
    names = ("model.safetensors", "adapter_model.safetensors")
    found["model"] = load_file(next(folder / "model" / name for name in names if (folder / "model" / name).is_file()))
    return found


def ranked_lists(count: int) -> Dataset:
    """Lists of two to four responses, no two prompts alike."""
    rows = []
    for i, row in enumerate(small_pairs(count)):
        responses = [f"{row['chosen']} {'really ' * j}{i}" for j in range(2 + i % 3)]
        rows.append({"prompt": row["prompt"], "responses": responses, "ranks": list(range(1, len(responses) + 1))})
    return Dataset.from_list(rows)
