"""From a scored batch to the metrics that are logged: one gather a batch, one mean a log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mallowspo.dispersion.calibration import ENTROPY_FLOOR
from mallowspo.objectives import response_scores
from mallowspo.training.metrics import MetricStore, pair_metrics, token_metrics
from mallowspo.training.row_weights import RAW_COLUMN
from mallowspo.training.scoring_path import ScoredPairs

__all__ = ["Recorder"]


class Recorder:
    """Keeps the metrics of training and of the evaluation that is going on, each since its last log.

    Attributes:
        eval_prefix: Under which name the evaluation that is going on is logged: `eval`, `eval_<split>`, or what the
            caller of `evaluate` chose.
    """

    def __init__(self) -> None:
        self._stores = {"train": MetricStore(), "eval": MetricStore()}
        self.eval_prefix = "eval"

    def begin_evaluation(self, prefix: str) -> None:
        """Forget what an earlier evaluation left unlogged, as `predict` does."""
        self._stores["eval"] = MetricStore()
        self.eval_prefix = prefix

    def drain(self, mode: str) -> dict[str, float]:
        """The metrics since the last log of `train` or `eval`."""
        return self._stores[mode].drain()

    def add(self, trainer: Any, inputs: Any, scored: ScoredPairs) -> None:
        """Take one batch.

        Args:
            trainer: A `MallowsPOTrainer`.
            inputs: The batch.
            scored: Its scores and losses.
        """
        mode, accelerator = trainer.mode, trainer.accelerator
        values = self._values(trainer, inputs, scored)
        # One gather for all metrics. In evaluation it drops the rows with which accelerate fills up an uneven last
        # batch. In training those rows are trained on, and so they count; there the same call would also cut every
        # batch that is accumulated with the last one, since transformers reads that far ahead.
        dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
        table = torch.stack([v.to(accelerator.device, dtype) for v in values.values()], dim=1)
        gathered = accelerator.gather(table) if mode == "train" else accelerator.gather_for_metrics(table)
        columns = dict(zip(values, gathered.cpu().unbind(1), strict=True))
        tokens = int(columns.pop("_rows").sum().item()) // trainer.tensor_parallel_size
        if mode == "train":
            trainer.total_train_tokens += tokens
            trainer.displacement.add(columns)
        self._stores[mode].add(columns)
        self._stores[mode].set("num_tokens", float(trainer.total_train_tokens))

    def _values(self, trainer: Any, inputs: Any, scored: ScoredPairs) -> dict[str, Tensor]:
        policy, calibration = scored.policy, trainer.calibration
        logp_bk = policy.logp_bk.detach()
        chosen_b, rejected_b = response_scores(
            trainer.objective, logp_bk, scored.reference_bk, policy.length_bk
        ).unbind(1)
        values = pair_metrics(
            beta=trainer.beta,
            chosen_score_b=chosen_b,
            rejected_score_b=rejected_b,
            weight_b=scored.weight_b,
            policy_logp_bk=logp_bk,
            reference_logp_bk=scored.reference_bk,
            length_bk=policy.length_bk,
            length_normalized=trainer.objective.length_normalized,
        ) | token_metrics(
            entropy_sum_bk=policy.entropy_sum_bk,
            length_bk=policy.length_bk,
            logit_sum_bk=policy.logit_sum_bk,
            top1_bk=policy.top1_bk,
        )
        if scored.weight_b is not None and calibration is not None:
            scaled_b = calibration.scale * inputs[RAW_COLUMN].double()
            values["dispersion/weight"] = scored.weight_b
            values["dispersion/weight_clipped"] = (scaled_b < calibration.clip[0]) | (scaled_b > calibration.clip[1])
        if "dispersion_index" in inputs:
            values["dispersion/entropy_mean"] = inputs["dispersion_index"]
            values["dispersion/weight_floored"] = inputs["dispersion_index"] < ENTROPY_FLOOR
        if policy.aux_loss is not None:
            values["aux_loss"] = policy.aux_loss.detach().expand(len(logp_bk))
        mask = inputs["attention_mask"]
        values["_rows"] = mask.view(2, -1, mask.size(1)).sum(dim=(0, 2))
        return values
