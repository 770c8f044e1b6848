"""A row as the linter looks at it: the record, its strict pairs, its texts, and what its optional columns say."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mallowspo.data.annotations import OPTIONAL_COLUMNS, read_annotations
from mallowspo.data.blank import content_text
from mallowspo.data.lint.findings import Ledger, clip
from mallowspo.data.problems import RowError
from mallowspo.data.readers import SourceRow
from mallowspo.data.records import PreferenceRow, row_from_columns

__all__ = ["ColumnChecks", "LintRow", "plain_text", "read_row"]

# What the reader of records calls a problem, and what the linter calls it; the others are malformed rows.
_NAMES = {
    "identical_responses": "identical_pair",
    "empty_prompt": "empty_prompt",
    "empty_response": "empty_response",
}


@dataclass(frozen=True)
class LintRow:
    """A row whose layout is sound."""

    position: int  # its place in the ledger
    record: PreferenceRow
    pairs: tuple[tuple[int, int], ...]  # (better, worse) responses, for every strict preference
    prompt: str  # as text; of messages, their contents
    responses: tuple[str, ...]
    values: Mapping[str, Any]  # the row as it stands in the source
    names: tuple[str, ...]  # what to call each response: `chosen` and `rejected`, or its number

    def texts(self) -> Iterator[tuple[str, str]]:
        """Give prompt and responses, each with its name."""
        return zip(("prompt", *self.names), (self.prompt, *self.responses), strict=True)


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
        ledger.flag(position, _NAMES.get(error.kind, "malformed_row"), clip(error.detail, 160))
        return None
    count = len(record.responses)
    numbered = tuple(f"response {number}" for number in range(1, count + 1))
    names = numbered if "responses" in row.values else ("chosen", "rejected")
    responses = tuple(map(plain_text, record.responses))
    made = LintRow(position, record, record.strict_pairs(), plain_text(record.prompt), responses, row.values, names)
    for name, text in made.texts():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            around = text[max(error.start - 20, 0) : error.start + 20]
            ledger.flag(position, "unpaired_surrogate", f"{name}: {clip(around)}")
            return None
    if row.problem:  # in a column beside the texts, or a field of a message: the texts can still be compared
        ledger.flag(position, "unpaired_surrogate", row.problem)
    ledger.sound.append(position)
    return made


class ColumnChecks:
    """Optional columns: values out of range, and columns that only some rows have, which training refuses to use."""

    def __init__(self) -> None:
        self._present: Any = array("B")  # one bit a column

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
        self._present.append(present)

    def finish(self, ledger: Ledger) -> None:
        """Flag the rows that lack a column which others have."""
        present = np.frombuffer(self._present, dtype=np.uint8)
        for bit, name in enumerate(OPTIONAL_COLUMNS):
            if name == "votes":
                continue  # nobody voted on that row, which training takes as it is
            lacking = (present & (1 << bit)) == 0
            if lacking.any() and not lacking.all():
                rows = int((~lacking).sum())
                for position in ledger.sound_positions[lacking].tolist():
                    ledger.flag(position, f"bad_{name}", f"{name} is missing here; {rows:,} other rows have it")
