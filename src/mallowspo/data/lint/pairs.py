"""Pairs that say little or contradict each other, prompts on both sides of a split, and what length alone tells."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data.blank import content_text, is_blank, looks
from mallowspo.data.limits import Limits
from mallowspo.data.lint.findings import EXAMPLES, Finding, Ledger, clip
from mallowspo.data.lint.rows import LintRow
from mallowspo.data.problems import RowError
from mallowspo.data.records import common_length, row_from_columns
from mallowspo.data.rendering import RowTokens
from mallowspo.data.sources import stream_rows
from mallowspo.errors import InputError, told_as

__all__ = ["EvalPrompts", "LengthCount", "PairIndex", "check_near_identical", "prompt_of", "similarity"]

# Beyond this distance from 1/2, with its whole interval, the share of pairs won by the longer response is a finding.
_BIAS = 0.05
_OF_OTHER_WIDTH = re.compile("[\uff01-\uffee]+")


def _normalised(text: str) -> str:
    """Fold case, width, white space and what nobody sees: what a reader takes for the same text is the same."""
    return _OF_OTHER_WIDTH.sub(lambda run: unicodedata.normalize("NFKC", run[0]), looks(text)).casefold()


def _grams(text: str) -> Counter[str]:
    return Counter(text[i : i + 3] for i in range(max(len(text) - 2, 1)))


def similarity(left: str, right: str, *, floor: float = 0.0) -> float:
    """Give the Jaccard index of two texts' multisets of character 3-grams, in [0, 1]; 0 may stand for one below floor.

    Blind to case, width and white space, to the order of longer passages, and to other forms of a character that
    Unicode calls compatible: a ligature, a digit in a circle. A text shorter than three characters is one gram.
    """
    left, right = (unicodedata.normalize("NFKC", _normalised(text)) for text in (left, right))
    if left == right:
        return 1.0
    # The index is at most the ratio of the sizes, which spares nearly all pairs the counting.
    sizes = sorted((max(len(left) - 2, 1), max(len(right) - 2, 1)))
    if sizes[0] < floor * sizes[1]:
        return 0.0
    a, b = _grams(left), _grams(right)
    shared = sum(min(count, b[gram]) for gram, count in a.items() if gram in b)
    return shared / (sizes[0] + sizes[1] - shared)


def check_near_identical(row: LintRow, threshold: float, ledger: Ledger) -> None:
    """Flag a row with a pair whose `similarity` is at least `threshold`."""
    for better, worse in row.pairs:
        chosen, rejected = row.responses[better], row.responses[worse]
        found = similarity(chosen, rejected, floor=threshold)
        if found >= threshold:
            ledger.flag(row.position, "near_identical_pair", f"{found:.3f}: {_difference(chosen, rejected)}")


def _difference(left: str, right: str) -> str:
    """Show where two texts first differ."""
    start = max(common_length(left, right) - 20, 0)
    return f"…{clip(left[start:], 50)} ≠ …{clip(right[start:], 50)}"


def _hash(*parts: str) -> int:
    # Lengths keep ("ab", "c") and ("a", "bc") apart.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _canonical(value: Any, *, fold_case: bool) -> str:
    """Write a text or messages so that those which are equal but for white space give equal strings."""
    if isinstance(value, str):
        return _normalised(value) if fold_case else looks(value)
    return json.dumps([_folded(message, fold_case) for message in value], sort_keys=True, default=str)


def _folded(message: Mapping[str, Any], fold_case: bool) -> dict[str, Any]:
    said = {name: item for name, item in message.items() if item is not None}
    if isinstance(said.get("content"), str | list):
        said["content"] = _canonical(content_text(said), fold_case=fold_case)
    return said


def _prompt_key(prompt: Any, values: Mapping[str, Any]) -> int:
    """Name a prompt in 64 bits: equal for prompts that differ in case and white space only."""
    # Two different prompts of a million have the same name with probability 3e-8.
    tools = values.get("tools")
    said = _canonical(prompt, fold_case=True)
    return _hash(said, json.dumps(tools, sort_keys=True, default=str)) if tools else _hash(said)


class PairIndex:
    """What is kept of every sound row to find repetitions among all of them: 64-bit names."""

    def __init__(self) -> None:
        self._prompts: Any = array("Q")
        self._rows: Any = array("Q")
        self._pairs: Any = array("Q")
        self._pair_positions: Any = array("q")

    def add(self, row: LintRow) -> int:
        """Take in one row; give the name of its prompt."""
        prompt = _prompt_key(row.record.prompt, row.values)
        responses = [_canonical(response, fold_case=False) for response in row.record.responses]
        names = []
        for better, worse in row.pairs:
            left, right = responses[better], responses[worse]
            unordered = _hash(f"{prompt}", *sorted((left, right)))
            # The lowest bit says which way round the pair stands.
            names.append((unordered & ~1) | (left < right))
            self._pair_positions.append(row.position)
        self._pairs.extend(names)
        self._prompts.append(prompt)
        self._rows.append(names[0] if len(names) == 1 else _hash(*(f"{name}" for name in sorted(names))))
        return prompt

    def finish(self, ledger: Ledger) -> dict[str, dict[int, int]]:
        """Flag what only shows among all rows; give the first rows by kind, each with the one that it is like."""
        positions = ledger.sound_positions
        row_first, prompt_first = (
            _first_of_equals(np.frombuffer(names, dtype=np.uint64)) for names in (self._rows, self._prompts)
        )
        again = np.arange(len(positions))
        repeated = row_first != again
        other_pair = (prompt_first != again) & ~repeated
        shown = {}
        for kind, which, first in (
            ("duplicate_row", repeated, row_first),
            ("duplicate_prompt", other_pair, prompt_first),
        ):
            ledger.flag_many(positions[which], kind)
            some = np.flatnonzero(which)[:EXAMPLES].tolist()
            shown[kind] = {int(positions[i]): int(positions[first[i]]) for i in some}
        shown["both_orders"] = self._both_orders(ledger)
        return shown

    def _both_orders(self, ledger: Ledger) -> dict[int, int]:
        names = np.frombuffer(self._pairs, dtype=np.uint64)
        positions = np.frombuffer(self._pair_positions, dtype=np.int64)
        swapped = names ^ np.uint64(1)
        contradicted = np.isin(names, swapped)
        found = np.unique(positions[contradicted])
        ledger.flag_many(found, "both_orders")
        partners: dict[int, int] = {}
        for position in found[:EXAMPLES].tolist():
            mine = swapped[(positions == position) & contradicted]
            partners[position] = int(positions[np.isin(names, mine)][0])
        return partners


def _first_of_equals(names: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Give for each entry the index of the first entry that equals it."""
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    result: NDArray[np.int64] = first[inverse]
    return result


class EvalPrompts:
    """The prompts of the evaluation data, 64 bits and a row number each."""

    @told_as({"dataset": "eval_data"})
    def __init__(self, source: str | os.PathLike[str], *, split: str, limits: Limits) -> None:
        names, numbers = array("Q"), array("q")
        self.rows = chats = 0
        for row in stream_rows(source, split=split, limits=limits):
            self.rows += 1
            prompt = None if row.values is None else prompt_of(row.values)
            if prompt is not None:
                names.append(_prompt_key(prompt, row.values or {}))
                numbers.append(row.index)
                chats += not isinstance(prompt, str)
        if not names:
            raise InputError(f"{source}: no prompt in the {self.rows:,} rows of the evaluation data")
        self.is_chat = 2 * chats > len(names)
        self._keys, first = np.unique(np.frombuffer(names, dtype=np.uint64), return_index=True)
        self._numbers = np.frombuffer(numbers, dtype=np.int64)[first]
        self._met = np.zeros(len(self._keys), dtype=bool)

    def check(self, row: LintRow, key: int, ledger: Ledger) -> None:
        """Flag a training row whose prompt, named `key`, is among them."""
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        if at < len(self._keys) and int(self._keys[at]) == key:
            self._met[at] = True
            shows = f"as in evaluation row {self._numbers[at] + 1:,}: {clip(row.prompt, end=True)}"
            ledger.flag(row.position, "prompt_in_eval", shows)

    def to_dict(self) -> dict[str, int]:
        """Count the rows, the different prompts, and those of them that were met in the training data."""
        return {"rows": self.rows, "prompts": len(self._keys), "prompts_in_train": int(self._met.sum())}


def prompt_of(values: Mapping[str, Any]) -> Any:
    """Give the prompt; a row whose pair is unusable still has one."""
    try:
        return row_from_columns(values, 0, columns=()).prompt
    except RowError:
        prompt = values.get("prompt")
        is_chat = isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt)
        return prompt if is_chat or (isinstance(prompt, str) and not is_blank(prompt)) else None


def _wilson_interval(successes: float, total: int) -> tuple[float, float]:
    """Give Wilson's score interval of a share at 95 %; a tie may count as half a success, for which scipy has none."""
    z = 1.959963984540054
    share = successes / total
    centre = share + z * z / (2 * total)
    arm = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max((centre - arm) / scale, 0.0), min((centre + arm) / scale, 1.0)


@dataclass
class LengthCount:
    """Lengths in tokens, and how often the longer response is the chosen one; its end token is counted."""

    pairs: int = 0
    longer_chosen: int = 0
    equal: int = 0  # they count one half
    chosen_tokens: int = 0
    rejected_tokens: int = 0
    rows: int = 0
    longest_tokens: int = 0  # of prompt and longest response, summed over rows
    most_tokens: int = 0

    def add(self, row: LintRow, tokens: RowTokens) -> None:
        """Count one row."""
        lengths = [len(ids) - tokens.cut for ids in tokens.full]
        for chosen, rejected in ((lengths[better], lengths[worse]) for better, worse in row.pairs):
            self.pairs += 1
            self.longer_chosen += chosen > rejected
            self.equal += chosen == rejected
            self.chosen_tokens += chosen
            self.rejected_tokens += rejected
        longest = tokens.cut + max(lengths)
        self.rows += 1
        self.longest_tokens += longest
        self.most_tokens = max(self.most_tokens, longest)

    def to_dict(self) -> dict[str, Any]:
        """Give the counts and the accuracy of "the longer one is preferred" with its interval."""
        total = max(self.pairs, 1)
        wins = self.longer_chosen + self.equal / 2
        low, high = _wilson_interval(wins, self.pairs) if self.pairs else (0.0, 1.0)
        return {
            "pairs": self.pairs,
            "longer_chosen": self.longer_chosen,
            "equal_length": self.equal,
            "accuracy_of_longer": wins / total if self.pairs else None,
            "interval_95": [low, high],
            "mean_chosen_tokens": self.chosen_tokens / total,
            "mean_rejected_tokens": self.rejected_tokens / total,
        }

    def findings(self) -> list[Finding]:
        """Give the finding, if the 95 % interval excludes one half; a warning beyond 0.05 from it."""
        told = self.to_dict()
        low, high = told["interval_95"]
        distance = max(low - 0.5, 0.5 - high)
        if distance <= 0:
            return []
        low, high, percent = 100 * low, 100 * high, 100 * told["accuracy_of_longer"]
        count, word = self.longer_chosen, "longer"
        if percent < 50:
            count, word = self.pairs - self.longer_chosen - self.equal, "shorter"
            low, high, percent = 100 - high, 100 - low, 100 - percent
        detail = (
            f"the {word} response, in tokens, is preferred in {percent:.1f} % of {self.pairs:,} pairs "
            f"(95 % interval {low:.1f} to {high:.1f}, equal lengths count one half); "
            f"{told['mean_chosen_tokens']:.0f} tokens on average against {told['mean_rejected_tokens']:.0f}"
        )
        severity = "warning" if distance > _BIAS else "info"
        return [Finding.of("length_bias", count, percent, severity=severity, detail=detail)]
