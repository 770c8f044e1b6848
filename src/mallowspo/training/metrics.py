"""TRL's metrics and ours, exact over ranks, uneven batches and accumulation: one gather a batch, one mean a log.

TRL logs the mean of per-batch means. Here every pair's values are gathered, and the mean is taken once, when they are
logged: a short last batch counts for as many pairs as it has.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mallowspo.dispersion import Calibration
from mallowspo.dispersion.calibration import ENTROPY_FLOOR
from mallowspo.objectives import Objective, response_scores
from mallowspo.training.lists import ListBatch
from mallowspo.training.row_weights import RAW_COLUMN
from mallowspo.training.scoring_path import ScoredPairs

__all__ = ["METRICS", "MetricStore", "batch_metrics", "gathered"]

METRICS = (
    "entropy", "num_tokens", "mean_token_accuracy", "logits/chosen", "logits/rejected", "logps/chosen",
    "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
    "rewards/margins_weighted", "logps_delta/chosen", "logps_delta/rejected", "logps_delta/chosen_per_token",
    "logps_delta/displaced", "rewards/ndcg",
    "dispersion/weight_mean", "dispersion/weight_std", "dispersion/weight_p10",
    "dispersion/weight_p90", "dispersion/weight_clipped", "dispersion/weight_floored", "dispersion/entropy_mean",
    "beta", "loss_weight", "aux_loss",
)  # fmt: skip
"""Every metric that is logged beside the loss."""

# Relative rounding of a float32 sum of log-probabilities: a smaller gap than this is the order of addition.
_ROUNDING = 1e-6

# Metrics that are a ratio of two sums over pairs: name, numerator, denominator.
_RATIOS = (
    ("entropy", "_entropy_sum", "_tokens"),
    ("logits/chosen", "_chosen_logit_sum", "_chosen_tokens"),
    ("logits/rejected", "_rejected_logit_sum", "_rejected_tokens"),
    ("mean_token_accuracy", "_chosen_top1", "_chosen_tokens"),
)


def batch_metrics(
    objective: Objective,
    calibration: Calibration | None,
    inputs: Any,
    scored: ScoredPairs,
    *,
    beta: float | Tensor,
    loss_weight_scale: float = 1.0,
) -> dict[str, Tensor]:
    """What is known of each pair or list after its loss, by name, shape (B,); `_` begins a sum that is divided later.

    For a ranked list chosen is its best response and rejected its last.
    """
    policy, weight_b, length_bk = scored.policy, scored.weight_b, scored.policy.length_bk
    logp_bk = policy.logp_bk.detach()
    score_bk = response_scores(objective, logp_bk, scored.reference_bk, length_bk)  # without margin
    beta_b = torch.as_tensor(beta).to(score_bk).expand(len(score_bk))
    reward_bk = beta_b[:, None] * score_bk
    # A margin within the rounding of the log-probabilities is a tie, so that before training every pair is one,
    # whatever was padded with it.
    scale_bk = logp_bk.abs() / (length_bk.clamp(min=1) if objective.length_normalized else 1)
    slack_bk = _ROUNDING * beta_b[:, None] * scale_bk
    values = _of_two(reward_bk, logp_bk, length_bk, scored.reference_bk)
    margin_b = values["rewards/margins"]
    tie_b = margin_b.abs() <= slack_bk.sum(1)
    values["rewards/accuracies"] = torch.where(tie_b, 0.5, (margin_b > 0).float())
    if weight_b is not None:
        values["rewards/margins_weighted"] = weight_b * margin_b
    if policy.entropy_sum_bk is not None:
        values |= {"_entropy_sum": policy.entropy_sum_bk.sum(1), "_tokens": length_bk.sum(1)}
    if policy.logit_sum_bk is not None and policy.top1_bk is not None:
        values["_chosen_tokens"], values["_rejected_tokens"] = length_bk.unbind(1)
        values["_chosen_logit_sum"], values["_rejected_logit_sum"] = policy.logit_sum_bk.unbind(1)
        values["_chosen_top1"] = policy.top1_bk[:, 0]
    if weight_b is not None and calibration is not None:
        values["dispersion/weight"] = weight_b
        values["dispersion/weight_clipped"] = calibration.is_clipped(inputs[RAW_COLUMN].double())
    if "dispersion_index" in inputs:
        values["dispersion/entropy_mean"] = inputs["dispersion_index"]
        values["dispersion/weight_floored"] = inputs["dispersion_index"] < ENTROPY_FLOOR
    if "beta" in inputs:
        values["beta"] = beta_b
    if "loss_weight" in inputs:
        values["loss_weight"] = loss_weight_scale * inputs["loss_weight"]
    if policy.aux_loss is not None:
        values["aux_loss"] = policy.aux_loss.detach().expand(len(logp_bk))
    mask = inputs["attention_mask"]
    values["_rows"] = mask.view(2, -1, mask.size(1)).sum(dim=(0, 2))
    if not objective.reads_lists:
        return values
    lists = ListBatch.of(inputs)
    of_lists = lists.of_lists(values)
    reward, logp, length = (
        lists.ends(lists.lists(table_bk.to(logp_bk))) for table_bk in (reward_bk, logp_bk, length_bk)
    )
    reference = None if scored.reference_bk is None else lists.ends(lists.lists(scored.reference_bk))
    of_lists |= _of_two(reward, logp, length, reference)
    of_lists |= lists.order_metrics(lists.lists(reward_bk), lists.lists(slack_bk))
    if weight_b is not None:
        of_lists["rewards/margins_weighted"] = weight_b[lists.first_b] * of_lists["rewards/margins"]
    return of_lists


def _of_two(reward_b2: Tensor, logp_b2: Tensor, length_b2: Tensor, reference_b2: Tensor | None) -> dict[str, Tensor]:
    """What is logged of two responses: of a pair's, or of the best and the last of a list."""
    chosen_b, rejected_b = reward_b2.unbind(1)
    values = {"rewards/chosen": chosen_b, "rewards/rejected": rejected_b, "rewards/margins": chosen_b - rejected_b}
    values["logps/chosen"], values["logps/rejected"] = logp_b2.unbind(1)
    if reference_b2 is not None:
        delta_b2 = logp_b2 - reference_b2
        values["logps_delta/chosen"], values["logps_delta/rejected"] = delta_b2.unbind(1)
        values["logps_delta/chosen_per_token"] = delta_b2[:, 0] / length_b2[:, 0].clamp(min=1)
        # A fall within the rounding of the log-probability displaces nothing.
        values["logps_delta/displaced"] = (delta_b2[:, 0] < -_ROUNDING * logp_b2[:, 0].abs()).float()
    return values


def gathered(
    values: Mapping[str, Tensor], accelerator: Any, *, training: bool, own: int | None = None
) -> dict[str, Tensor]:
    """The values of all processes, by one gather, without those with which an uneven last batch was filled up."""
    # In training there are `own` in the batch that ends an epoch. accelerate's own answer would cut every batch that
    # is accumulated with that one too, since transformers reads so far ahead.
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    table = torch.stack([value.to(accelerator.device, dtype) for value in values.values()], dim=1)
    table = accelerator.gather(table)[:own] if training else accelerator.gather_for_metrics(table)
    return dict(zip(values, table.cpu().unbind(1), strict=True))


class MetricStore:
    """Values of pairs since the last log, by metric name."""

    def __init__(self) -> None:
        # Eight bytes a value: a run that never logs keeps all of them.
        self._columns: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._num_tokens: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor], *, num_tokens: int) -> None:
        """Take the gathered values of one batch, each of shape (B,), and the count of tokens so far."""
        for name, value in values.items():
            self._columns[name].extend(value.tolist())
        self._num_tokens = {"num_tokens": float(num_tokens)}

    def drain(self) -> dict[str, float]:
        """Means and quantiles over everything added; empties the store."""
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in self._columns.items()}
        result = dict(self._num_tokens)
        for name, numerator, denominator in _RATIOS:
            if numerator in columns:
                total = columns[denominator].sum().item()
                result[name] = columns[numerator].sum().item() / total if total > 0 else 0.0
        for name, values in columns.items():
            if name == "dispersion/weight":
                result["dispersion/weight_mean"] = values.mean().item()
                result["dispersion/weight_std"] = values.std(unbiased=False).item()
                low, high = torch.quantile(values, torch.tensor([0.1, 0.9], dtype=values.dtype)).tolist()
                result["dispersion/weight_p10"], result["dispersion/weight_p90"] = low, high
            elif not name.startswith("_"):
                result[name] = values.mean().item()
        self._columns.clear()
        self._num_tokens = {}
        return result
