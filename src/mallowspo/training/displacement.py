"""The alarm of likelihood displacement: chosen responses that have become less likely than under the reference.

A preference loss reads the difference of two responses alone. It falls just as well when both lose probability, the
rejected one more; what both lose goes to responses that are in no pair (Razin et al. 2024, arXiv 2410.08847; Pal et
al. 2024, arXiv 2402.13228, section 3). Margins and accuracies look healthy meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

__all__ = ["CONFIDENCE", "MIN_PAIRS", "DisplacementAlarm", "DisplacementMonitor"]

CONFIDENCE = 0.999
"""Of the one-sided interval. A run looks at every log, often a thousand times: at 95% some fifty would cry wolf."""

MIN_PAIRS = 32
"""Pairs that are judged together at least: a log of a few pairs is filled up from the logs before it."""

_WORSE = 2.0  # times the loss of the last warning
_COLUMNS = ("logps_delta/chosen_per_token", "logps_delta/chosen", "logps_delta/rejected", "logps_delta/displaced")


@dataclass(frozen=True)
class DisplacementAlarm:
    """What was seen when the alarm went off; means over pairs, policy minus reference."""

    step: int
    pairs: int  # that were judged together
    chosen_per_token: float  # nats, < 0
    chosen_per_token_upper: float  # end of its one-sided interval
    chosen: float  # nats per response, and below
    rejected: float
    displaced: float  # share of the chosen responses

    def message(self, *, learning_rate: float, beta: float, sft_weight: float) -> str:
        """What the log says."""
        return (
            f"step {self.step}: likelihood displacement. Chosen responses have become less likely than under the "
            f"reference: {self.chosen_per_token:+.3g} nats per token over the last {self.pairs} pairs (below "
            f"{self.chosen_per_token_upper:+.3g} with {100 * CONFIDENCE:g}% confidence), {self.chosen:+.3g} per "
            f"response; rejected ones {self.rejected:+.3g}. {100 * self.displaced:.0f}% of the chosen responses lost "
            f"probability. The loss falls nevertheless, since it reads only the difference; the probability goes to "
            f"responses that are in no pair. Lower learning_rate (now {learning_rate:g}), raise beta (now {beta:g}), "
            f"or add sft_weight (now {sft_weight:g}), which holds the chosen responses up"
        )


class DisplacementMonitor:
    """Judges the pairs since the last log, and warns once, and again whenever the loss has doubled."""

    # The mean of the chosen responses' log-ratio per token (so that long responses do not decide) is held against the
    # threshold by Student's t: the alarm goes off where the upper end of its one-sided 99.9% interval lies below
    # −threshold. Pairs count as independent; those that share a prompt or a batch are a little less so.

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.alarms: list[DisplacementAlarm] = []
        self._open: list[NDArray[np.float64]] = []
        self._window: list[NDArray[np.float64]] = []

    @property
    def pairs(self) -> NDArray[np.float64]:
        """What was judged last, one row per pair, shape (N, 4): `logps_delta/chosen_per_token` stands first."""
        return np.concatenate(self._window) if self._window else np.empty((0, len(_COLUMNS)))

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take one batch."""
        if _COLUMNS[0] in values:
            self._open.append(torch.stack([values[name].double().cpu() for name in _COLUMNS], dim=1).numpy())

    def check(self, step: int) -> DisplacementAlarm | None:
        """Judge the pairs that were added since the last check."""
        if not self._open:
            return None
        self._window.append(np.concatenate(self._open))
        self._open = []
        while sum(map(len, self._window[1:])) >= MIN_PAIRS:
            self._window.pop(0)
        pairs = self.pairs
        if len(pairs) < MIN_PAIRS:
            return None
        mean = pairs.mean(axis=0)
        error = pairs[:, 0].std(ddof=1) / np.sqrt(len(pairs))
        below = float(mean[0] + stats.t.ppf(CONFIDENCE, len(pairs) - 1) * error)
        allowed = -_WORSE * abs(self.alarms[-1].chosen_per_token) if self.alarms else -self.threshold
        if not below < allowed:
            return None
        per_token, chosen, rejected, displaced = map(float, mean)
        alarm = DisplacementAlarm(step, len(pairs), per_token, below, chosen, rejected, displaced)
        self.alarms.append(alarm)
        return alarm

    def to_dict(self) -> dict[str, Any]:
        """For `run.json`: the threshold, and what every alarm saw."""
        return {"threshold": self.threshold, "alarms": [asdict(alarm) for alarm in self.alarms]}
