"""A row as the linter looks at it: the record, its strict pairs, and its texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mallowspo.data.blank import content_text
from mallowspo.data.lint.ledger import Ledger, clip
from mallowspo.data.problems import RowError
from mallowspo.data.readers import SourceRow
from mallowspo.data.records import PreferenceRow, row_from_columns

__all__ = ["LintRow", "plain_text", "read_row"]

# What the reader of records calls a problem, and what the linter calls it; the others are malformed rows.
_RENAMED = {
    "identical_responses": "identical_pair",
    "empty_prompt": "empty_prompt",
    "empty_response": "empty_response",
}
_RENAMED["no_shared_prompt"] = "malformed_row"


@dataclass(frozen=True)
class LintRow:
    """A row whose layout is sound."""

    position: int
    record: PreferenceRow
    pairs: tuple[tuple[int, int], ...]
    prompt: str
    responses: tuple[str, ...]
    values: Mapping[str, Any]
    names: tuple[str, ...]


def plain_text(value: Any) -> str:
    """Give the text of a prompt or response: itself, or the contents of its messages."""
    if isinstance(value, str):
        return value
    return "\n".join(text for text in map(content_text, value) if text)


def read_row(row: SourceRow, ledger: Ledger) -> LintRow | None:
    """Open the row's account and read it; None where it can only be flagged."""
    position = ledger.add_row(row.index)
    if row.values is None:
        ledger.flag(position, "unparsable", row.problem)
        return None
    try:
        record = row_from_columns(row.values, row.index, columns=())
    except RowError as error:
        ledger.flag(position, _RENAMED.get(error.kind, "malformed_row"), clip(error.detail, 160))
        return None
    texts = [plain_text(text) for text in (record.prompt, *record.responses)]
    names = _names(record, row.values)
    for name, text in zip(("prompt", *names), texts, strict=True):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            around = text[max(error.start - 20, 0) : error.start + 20]
            ledger.flag(position, "unpaired_surrogate", f"{name}: {clip(around)}")
            return None
    if row.problem:  # in a column beside the texts, or a field of a message: the texts can still be compared
        ledger.flag(position, "unpaired_surrogate", row.problem)
    return LintRow(position, record, _pairs(record), texts[0], tuple(texts[1:]), row.values, names)


def _names(record: PreferenceRow, values: Mapping[str, Any]) -> tuple[str, ...]:
    if "responses" not in values:
        return ("chosen", "rejected")
    return tuple(f"response {number}" for number in range(1, len(record.responses) + 1))


def _pairs(record: PreferenceRow) -> tuple[tuple[int, int], ...]:
    if record.ranks == (1, 2):
        return ((0, 1),)
    order = sorted(range(len(record.ranks)), key=lambda i: record.ranks[i])
    return tuple((i, j) for i, j in combinations(order, 2) if record.ranks[i] < record.ranks[j])
