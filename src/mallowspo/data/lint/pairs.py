"""Pairs that say little or contradict each other: near-identical, repeated, in both orders."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data.blank import content_text, looks
from mallowspo.data.lint.ledger import Ledger, clip
from mallowspo.data.lint.rows import LintRow

__all__ = ["PairIndex", "check_near_identical", "normalised", "prompt_key", "similarity"]


_OF_OTHER_WIDTH = re.compile("[\uff01-\uffee]+")


def normalised(text: str) -> str:
    """Fold case, width, white space and what nobody sees: what a reader takes for the same text is the same."""
    return _OF_OTHER_WIDTH.sub(lambda run: unicodedata.normalize("NFKC", run[0]), looks(text)).casefold()


def _grams(text: str) -> Counter[str]:
    return Counter(text[i : i + 3] for i in range(max(len(text) - 2, 1)))


def similarity(left: str, right: str, *, floor: float = 0.0) -> float:
    """Compare two texts by the characters that they share, three at a time."""
    left, right = (unicodedata.normalize("NFKC", normalised(text)) for text in (left, right))
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
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    start = max(at - 20, 0)
    return f"…{clip(left[start:], 50)} ≠ …{clip(right[start:], 50)}"


def _hash(*parts: str) -> int:
    # Lengths keep ("ab", "c") and ("a", "bc") apart.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _canonical(value: Any, *, fold_case: bool) -> str:
    """Write a text or messages so that those which are equal but for white space give equal strings."""
    if isinstance(value, str):
        return normalised(value) if fold_case else looks(value)
    return json.dumps([_folded(message, fold_case) for message in value], sort_keys=True, default=str)


def _folded(message: Mapping[str, Any], fold_case: bool) -> dict[str, Any]:
    said = {name: item for name, item in message.items() if item is not None}
    if isinstance(said.get("content"), str | list):
        said["content"] = _canonical(content_text(said), fold_case=fold_case)
    return said


def prompt_key(prompt: Any, values: Mapping[str, Any]) -> int:
    """Name a prompt in 64 bits: equal for prompts that differ in case and white space only."""
    tools = values.get("tools")
    said = _canonical(prompt, fold_case=True)
    return _hash(said, json.dumps(tools, sort_keys=True, default=str)) if tools else _hash(said)


@dataclass
class PairIndex:
    """What is kept of every row to find repetitions among all of them: 64-bit names, in the order of the ledger."""

    positions: Any = field(default_factory=lambda: array("q"))
    prompts: Any = field(default_factory=lambda: array("Q"))
    rows: Any = field(default_factory=lambda: array("Q"))
    pairs: Any = field(default_factory=lambda: array("Q"))
    pair_positions: Any = field(default_factory=lambda: array("q"))

    def add(self, row: LintRow) -> int:
        """Take in one row; give the name of its prompt."""
        prompt = prompt_key(row.record.prompt, row.values)
        responses = [_canonical(response, fold_case=False) for response in row.record.responses]
        names = []
        for better, worse in row.pairs:
            left, right = responses[better], responses[worse]
            unordered = _hash(f"{prompt}", *sorted((left, right)))
            # The lowest bit says which way round the pair stands.
            names.append((unordered & ~1) | (left < right))
            self.pair_positions.append(row.position)
        self.pairs.extend(names)
        self.positions.append(row.position)
        self.prompts.append(prompt)
        self.rows.append(names[0] if len(names) == 1 else _hash(*(f"{name}" for name in sorted(names))))
        return prompt

    def finish(self, ledger: Ledger) -> dict[str, dict[int, int]]:
        """Flag what only shows among all rows."""
        positions = np.frombuffer(self.positions, dtype=np.int64)
        row_names = np.frombuffer(self.rows, dtype=np.uint64)
        prompt_names = np.frombuffer(self.prompts, dtype=np.uint64)
        row_first = _first_of_equals(row_names)
        prompt_first = _first_of_equals(prompt_names)
        again = np.arange(len(positions))
        repeated = row_first != again
        shown = {"duplicate_row": _partners(positions, repeated, row_first)}
        ledger.flag_many(positions[repeated], "duplicate_row")
        other_pair = (prompt_first != again) & ~repeated
        shown["duplicate_prompt"] = _partners(positions, other_pair, prompt_first)
        ledger.flag_many(positions[other_pair], "duplicate_prompt")
        shown["both_orders"] = self._both_orders(ledger)
        return shown

    def _both_orders(self, ledger: Ledger) -> dict[int, int]:
        names = np.frombuffer(self.pairs, dtype=np.uint64)
        positions = np.frombuffer(self.pair_positions, dtype=np.int64)
        one = np.uint64(1)
        swapped = names ^ one
        contradicted = np.isin(names, swapped)
        found = np.unique(positions[contradicted])
        ledger.flag_many(found, "both_orders")
        partners: dict[int, int] = {}
        for position in found[:_SHOWN]:
            mine = swapped[(positions == position) & contradicted]
            partners[int(position)] = int(positions[np.isin(names, mine)][0])
        return partners


_SHOWN = 5


def _first_of_equals(names: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Give for each entry the index of the first entry that equals it."""
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    result: NDArray[np.int64] = first[inverse]
    return result


def _partners(positions: NDArray[np.int64], which: NDArray[np.bool_], first: NDArray[np.int64]) -> dict[int, int]:
    at: Sequence[int] = np.flatnonzero(which)[:_SHOWN].tolist()
    return {int(positions[i]): int(positions[first[i]]) for i in at}
