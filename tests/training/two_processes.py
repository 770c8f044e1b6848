"""Run by `test_scoring_path.py` in each process: train in small pieces and count the synchronisations."""

import json
from pathlib import Path

import torch
from pairs import history, options, small_pairs
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from transformers import TrainerCallback

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.training import scoring_path


class CountSynchronisations(TrainerCallback):
    """Counts the gradient buckets that data parallelism exchanges; a model this small has one bucket."""

    def __init__(self):
        self.trainer, self.calls = None, 0

    def hook(self, group, bucket):
        self.calls += 1
        return allreduce_hook(group, bucket)

    def on_step_begin(self, args, state, control, **kwargs):
        wrapped = self.trainer.model_wrapped
        if state.global_step == 0 and hasattr(wrapped, "register_comm_hook"):
            wrapped.register_comm_hook(None, self.hook)


def main(model, folder, batch_size):
    scoring_path._cpu_row_tokens = lambda config: 60
    counter = CountSynchronisations()
    args = MallowsPOConfig(
        **options(folder, objective="dpo", max_steps=4, gradient_accumulation_steps=2) | {
            "per_device_train_batch_size": int(batch_size)
        }
    )  # fmt: skip
    # Columns that change the loss of their row, so that the mean over ranks is seen to be one weighted mean.
    rows = small_pairs(16).add_column("beta", [0.1, 0.5] * 8).add_column("loss_weight", [1.0, 0.0, 2.0, 0.5] * 4)
    run = MallowsPOTrainer(model, args=args, train_dataset=rows, callbacks=[counter])
    counter.trainer = run
    run.train()
    if run.accelerator.is_main_process:
        pieces = len(run.scoring.pieces(run.data_collator([run.train_dataset[i] for i in range(int(batch_size))])))
        found = {
            "world": run.accelerator.num_processes, "calls": counter.calls, "pieces": pieces,
            "loss": history(run, "loss"), "grad_norm": history(run, "grad_norm"), "path": run.scoring.path,
            "drift": sorted(run.displacement.pairs[:, 0].tolist()),
        }  # fmt: skip
        (Path(folder) / "found.json").write_text(json.dumps(found))
        torch.save(run.accelerator.unwrap_model(run.model).state_dict(), Path(folder) / "weights.pt")
