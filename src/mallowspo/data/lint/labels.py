"""Labels: columns out of range, votes against the label, and how well length alone predicts it."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mallowspo.data.annotations import OPTIONAL_COLUMNS, read_annotations
from mallowspo.data.lint.ledger import Ledger
from mallowspo.data.lint.rows import LintRow
from mallowspo.data.problems import RowError

__all__ = ["ColumnChecks", "LengthCount", "wilson_interval"]

# Beyond this distance from 1/2, with its whole interval, the share of pairs won by the longer response is a finding.
_BIAS = 0.05


@dataclass
class ColumnChecks:
    """Optional columns: values out of range, and columns that only some rows have."""

    _positions: Any = field(default_factory=lambda: array("q"))
    _present: Any = field(default_factory=lambda: array("B"))

    def check(self, row: LintRow, ledger: Ledger) -> None:
        """Flag every value out of range, and votes that speak against the label."""
        ranked = "responses" in row.values
        present = 0
        for bit, name in enumerate(OPTIONAL_COLUMNS):
            # Tables write null where a row lacks the column; lines of JSON leave it out.
            if row.values.get(name) is None:
                continue
            present |= 1 << bit
            try:
                found = read_annotations(row.values, len(row.responses), pair=not ranked, columns=(name,))
            except RowError as error:
                ledger.flag(row.position, error.kind, error.detail)
                continue
            if name == "votes" and found["votes"][1] > found["votes"][0]:
                chosen, rejected, _ = found["votes"]
                ledger.flag(row.position, "votes_against_label", f"{chosen:g} for chosen, {rejected:g} for rejected")
        self._positions.append(row.position)
        self._present.append(present)

    def finish(self, ledger: Ledger) -> None:
        """Flag the rows that lack a column which others have."""
        positions = np.frombuffer(self._positions, dtype=np.int64)
        present = np.frombuffer(self._present, dtype=np.uint8)
        for bit, name in enumerate(OPTIONAL_COLUMNS):
            if name == "votes":
                continue  # nobody voted on that row, which training takes as it is
            lacking = (present & (1 << bit)) == 0
            if lacking.any() and not lacking.all():
                rows = int((~lacking).sum())
                for position in positions[lacking].tolist():
                    ledger.flag(position, f"bad_{name}", f"{name} is missing here; {rows:,} other rows have it")


def wilson_interval(successes: float, total: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Give Wilson's score interval of a share."""
    share = successes / total
    centre = share + z * z / (2 * total)
    arm = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max((centre - arm) / scale, 0.0), min((centre + arm) / scale, 1.0)


@dataclass
class LengthCount:
    """How often the longer response is the chosen one; lengths in tokens, end token included."""

    pairs: int = 0
    longer_chosen: int = 0
    equal: int = 0
    chosen_tokens: int = 0
    rejected_tokens: int = 0

    def add(self, chosen: int, rejected: int) -> None:
        """Count one pair."""
        self.pairs += 1
        self.longer_chosen += chosen > rejected
        self.equal += chosen == rejected
        self.chosen_tokens += chosen
        self.rejected_tokens += rejected

    def to_dict(self) -> dict[str, Any]:
        """Give the counts and the accuracy of "the longer one is preferred" with its interval."""
        total = max(self.pairs, 1)
        wins = self.longer_chosen + self.equal / 2
        low, high = wilson_interval(wins, self.pairs) if self.pairs else (0.0, 1.0)
        return {
            "pairs": self.pairs,
            "longer_chosen": self.longer_chosen,
            "equal_length": self.equal,
            "accuracy_of_longer": wins / total if self.pairs else None,
            "interval_95": [low, high],
            "mean_chosen_tokens": self.chosen_tokens / total,
            "mean_rejected_tokens": self.rejected_tokens / total,
        }

    def severity(self) -> str | None:
        """Say how far the 95 % interval is from one half: `warning` beyond 0.05, `info` beyond 0, else None."""
        if not self.pairs:
            return None
        low, high = wilson_interval(self.longer_chosen + self.equal / 2, self.pairs)
        distance = max(low - 0.5, 0.5 - high)
        return "warning" if distance > _BIAS else "info" if distance > 0 else None
