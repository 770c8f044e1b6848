"""TRL's metrics and ours, exact over ranks, uneven batches and accumulation.

TRL logs the mean of per-batch means. Here every pair's values are gathered, and the mean is taken once, when they are
logged: a short last batch counts for as many pairs as it has.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["METRICS", "MetricStore", "pair_metrics", "token_metrics"]

METRICS = (
    "entropy", "num_tokens", "mean_token_accuracy", "logits/chosen", "logits/rejected", "logps/chosen",
    "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
    "rewards/margins_weighted", "logps_delta/chosen", "logps_delta/rejected", "logps_delta/chosen_per_token",
    "logps_delta/displaced", "dispersion/weight_mean", "dispersion/weight_std", "dispersion/weight_p10",
    "dispersion/weight_p90", "dispersion/weight_clipped", "dispersion/weight_floored", "dispersion/entropy_mean",
    "aux_loss",
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


def pair_metrics(
    *,
    beta: float,
    chosen_score_b: Tensor,
    rejected_score_b: Tensor,
    weight_b: Tensor | None,
    policy_logp_bk: Tensor,
    reference_logp_bk: Tensor | None,
    length_bk: Tensor,
    length_normalized: bool = False,
) -> dict[str, Tensor]:
    """What is known of each pair after its loss.

    Args:
        beta: Strength of the pull towards the reference.
        chosen_score_b: The chosen response's part of the gap, without margin, shape (B,), nats.
        rejected_score_b: The rejected response's part, shape (B,), nats.
        weight_b: Dispersion weights, shape (B,); None without an index.
        policy_logp_bk: Summed log-probabilities, shape (B, 2), nats.
        reference_logp_bk: Likewise of the reference; None where there is none.
        length_bk: Tokens of the responses, shape (B, 2).
        length_normalized: Scores are means over the tokens.

    Returns:
        Values by metric name, each of shape (B,). In `rewards/accuracies` a margin within the rounding of the
        log-probabilities is a tie, so that before training every pair is one, whatever was padded with it. Nor is a
        response displaced whose log-probability fell within it.

    Example:
        >>> values = pair_metrics(beta=0.1, chosen_score_b=torch.zeros(1), rejected_score_b=torch.zeros(1),
        ...                       weight_b=None, policy_logp_bk=torch.zeros(1, 2), reference_logp_bk=None,
        ...                       length_bk=torch.ones(1, 2))
        >>> values["rewards/accuracies"].item()  # a tie is half a hit
        0.5
    """
    chosen, rejected = beta * chosen_score_b, beta * rejected_score_b
    margin = chosen - rejected
    scale_bk = policy_logp_bk.abs() / (length_bk.clamp(min=1) if length_normalized else 1)
    tie = margin.abs() <= _ROUNDING * beta * scale_bk.sum(1)
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": torch.where(tie, 0.5, (margin > 0).float()),
        "rewards/margins": margin,
        "logps/chosen": policy_logp_bk[:, 0],
        "logps/rejected": policy_logp_bk[:, 1],
    }
    if reference_logp_bk is not None:
        delta_bk = policy_logp_bk - reference_logp_bk
        values["logps_delta/chosen"], values["logps_delta/rejected"] = delta_bk.unbind(1)
        values["logps_delta/chosen_per_token"] = delta_bk[:, 0] / length_bk[:, 0].clamp(min=1)
        values["logps_delta/displaced"] = (delta_bk[:, 0] < -_ROUNDING * policy_logp_bk[:, 0].abs()).float()
    if weight_b is not None:
        values["rewards/margins_weighted"] = weight_b * margin
    return values


def token_metrics(
    *, entropy_sum_bk: Tensor | None, length_bk: Tensor, logit_sum_bk: Tensor | None, top1_bk: Tensor | None
) -> dict[str, Tensor]:
    """Sums over tokens of each pair; `MetricStore` divides them when they are logged.

    Args:
        entropy_sum_bk: Shape (B, 2), nats, or None.
        length_bk: Shape (B, 2).
        logit_sum_bk: Shape (B, 2), or None.
        top1_bk: Shape (B, 2), or None.

    Returns:
        Sums by internal name, each of shape (B,).
    """
    values: dict[str, Tensor] = {}
    if entropy_sum_bk is not None:
        values |= {"_entropy_sum": entropy_sum_bk.sum(1), "_tokens": length_bk.sum(1)}
    if logit_sum_bk is not None and top1_bk is not None:
        values |= {
            "_chosen_tokens": length_bk[:, 0],
            "_rejected_tokens": length_bk[:, 1],
            "_chosen_logit_sum": logit_sum_bk[:, 0],
            "_rejected_logit_sum": logit_sum_bk[:, 1],
            "_chosen_top1": top1_bk[:, 0],
        }
    return values


@dataclass
class MetricStore:
    """Values of pairs since the last log, by metric name."""

    _columns: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    _last: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, Tensor]) -> None:
        """Take the gathered values of one batch; each tensor has shape (B,)."""
        for name, value in values.items():
            self._columns[name].append(value.detach().double().cpu())

    def set(self, name: str, value: float) -> None:
        """Set a metric that is not a mean, such as a count."""
        self._last[name] = value

    def drain(self) -> dict[str, float]:
        """Means and quantiles over everything added; empties the store.

        Example:
            >>> store = MetricStore()
            >>> store.add({"rewards/accuracies": torch.tensor([1.0, 0.0, 0.0])})
            >>> store.add({"rewards/accuracies": torch.tensor([1.0])})
            >>> store.drain()
            {'rewards/accuracies': 0.5}
        """
        columns = {name: torch.cat(parts) for name, parts in self._columns.items()}
        result = dict(self._last)
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
        self._last.clear()
        return result
