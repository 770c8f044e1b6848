"""Prompts on both sides of a split."""

from __future__ import annotations

import os
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data.blank import is_blank
from mallowspo.data.limits import Limits
from mallowspo.data.lint.ledger import Ledger, clip
from mallowspo.data.lint.pairs import prompt_key
from mallowspo.data.lint.rows import LintRow
from mallowspo.data.problems import RowError
from mallowspo.data.records import row_from_columns
from mallowspo.data.sources import stream_rows
from mallowspo.errors import InputError, told_as

__all__ = ["EvalPrompts"]


class EvalPrompts:
    """The prompts of the evaluation data, 64 bits and a row number each.

    Args:
        source: The evaluation data, as `stream_rows` takes it.
        split: Its split.
        limits: What a row may cost; None for the defaults.

    Attributes:
        rows: How many rows there are.
        chats: How many of the prompts are lists of messages.

    Raises:
        InputError: It cannot be read, or no row of it is a preference.
    """

    @told_as({"dataset": "eval_data"})
    def __init__(self, source: str | os.PathLike[str], *, split: str, limits: Limits | None = None) -> None:
        names, numbers = array("Q"), array("q")
        self.rows = self.chats = 0
        for row in stream_rows(source, split=split, limits=limits):
            self.rows += 1
            prompt = None if row.values is None else _prompt_of(row.values)
            if prompt is not None:
                names.append(prompt_key(prompt, row.values or {}))
                numbers.append(row.index)
                self.chats += not isinstance(prompt, str)
        if not names:
            raise InputError(f"{source}: no prompt in the {self.rows:,} rows of the evaluation data")
        keys, first = np.unique(np.frombuffer(names, dtype=np.uint64), return_index=True)
        self._keys: NDArray[np.uint64] = keys
        self._numbers: NDArray[np.int64] = np.frombuffer(numbers, dtype=np.int64)[first]
        self._prompts = len(names)
        self._met = np.zeros(len(keys), dtype=bool)

    @property
    def is_chat(self) -> bool:
        """Whether most prompts are lists of messages."""
        return 2 * self.chats > self._prompts

    @property
    def prompts(self) -> int:
        """How many different prompts there are."""
        return len(self._keys)

    @property
    def leaked(self) -> int:
        """How many of them were met in the training data so far."""
        return int(self._met.sum())

    def check(self, row: LintRow, key: int, ledger: Ledger) -> None:
        """Flag a training row whose prompt, named `key`, is among them."""
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        if at < len(self._keys) and int(self._keys[at]) == key:
            self._met[at] = True
            number = self._numbers[at] + 1
            ledger.flag(
                row.position, "prompt_in_eval", f"as in evaluation row {number:,}: {clip(row.prompt, end=True)}"
            )


def _prompt_of(values: Any) -> Any:
    """Give the prompt; a row whose pair is unusable still has one."""
    try:
        return row_from_columns(values, 0, columns=()).prompt
    except RowError:
        prompt = values.get("prompt")
        is_chat = isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt)
        return prompt if is_chat or (isinstance(prompt, str) and not is_blank(prompt)) else None
