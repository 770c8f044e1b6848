"""The linter's one pass over the data: rows stream through every check, in chunks."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data.limits import Limits
from mallowspo.data.lint.kinds import KIND_BY_NAME
from mallowspo.data.lint.labels import ColumnChecks, LengthCount
from mallowspo.data.lint.ledger import Example, Finding, Ledger, clip
from mallowspo.data.lint.pairs import PairIndex, check_near_identical
from mallowspo.data.lint.rows import LintRow, plain_text, read_row
from mallowspo.data.lint.splits import EvalPrompts
from mallowspo.data.lint.text import ScriptCount, check_text
from mallowspo.data.lint.tokens import TokenChecks, TokenisedRow
from mallowspo.data.problems import RowError
from mallowspo.data.readers import SourceRow
from mallowspo.data.records import TOKEN_COLUMNS, row_from_columns
from mallowspo.data.sources import stream_rows
from mallowspo.data.validation import check_columns
from mallowspo.errors import InputError

__all__ = ["CheckReport", "CheckSettings", "check_preferences"]

_CHUNK_ROWS = 512
_CHUNK_CHARACTERS = 4_000_000
_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class CheckSettings:
    """What the rows are checked against."""

    max_length: int | None = 1024
    truncation_mode: str = "keep_start"
    split: str = "train"
    eval_split: str = "train"
    near_duplicate_threshold: float = 0.9
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not 0 < self.near_duplicate_threshold <= 1:
            raise InputError(
                f"near_duplicate_threshold: got {self.near_duplicate_threshold}, expected a number in (0, 1]"
            )


@dataclass(frozen=True)
class CheckReport:
    """What was found."""

    source: str
    settings: CheckSettings
    rows: int
    findings: tuple[Finding, ...]
    statistics: dict[str, Any]
    ledger: Ledger = field(repr=False)

    @property
    def has_errors(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def counts(self) -> dict[str, int]:
        """Give the rows concerned by kind."""
        return {finding.kind: finding.count for finding in self.findings}

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON takes it."""
        return {
            "format": 1,
            "data": self.source,
            "settings": asdict(self.settings),
            "rows": self.rows,
            "exit_code": int(self.has_errors),
            "findings": [asdict(finding) for finding in self.findings],
            "statistics": self.statistics,
        }


def check_preferences(
    source: str | os.PathLike[str],
    tokenizer: Any,
    settings: CheckSettings | None = None,
    *,
    eval_source: str | os.PathLike[str] | None = None,
    end_ids: frozenset[int] | None = None,
    vocabulary: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> CheckReport:
    """Check preference data as a tokenizer and its chat template will see it."""
    settings = settings or CheckSettings()
    checks = _Checks(
        settings,
        TokenChecks(
            tokenizer,
            max_length=settings.max_length,
            truncation_mode=settings.truncation_mode,
            end_ids=end_ids,
            vocabulary=vocabulary,
        ),
        None if eval_source is None else EvalPrompts(eval_source, split=settings.eval_split, limits=settings.limits),
    )
    done = 0
    for chunk in _chunks(stream_rows(source, split=settings.split, limits=settings.limits)):
        if done == 0:
            _require_columns(chunk, str(source))
        checks.add(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done)
    if done == 0:
        raise InputError(f"{source}: there are no rows")
    if checks.unreadable == done:
        raise InputError(f"{source}: none of the {done:,} rows can be read; row 1: {checks.first_problem}")
    return checks.finish(source)


def _chunks(rows: Iterator[SourceRow]) -> Iterator[list[SourceRow]]:
    """Group rows, bounded by number and by size, for the tokenizer is quicker on many at once."""
    chunk: list[SourceRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        # Texts make up nearly all of a row; messages are measured by what Python prints of them.
        size += sum(len(v) if isinstance(v, str) else len(repr(v)) for v in (row.values or {}).values())
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _require_columns(chunk: list[SourceRow], source: str) -> None:
    """Tell a file with other columns, which is a mistake, from one with broken rows, which are findings."""
    names = dict.fromkeys(name for row in chunk for name in row.values or ())
    if set(TOKEN_COLUMNS) <= set(names) and "chosen" not in names:
        raise InputError(f"{source}: the rows are token ids already; check the text that they were made of")
    if names:
        messages = any(isinstance((row.values or {}).get("chosen"), list) for row in chunk)
        check_columns(list(names), source, messages=messages)


class _Checks:
    """Every check, and what each keeps between rows."""

    def __init__(self, settings: CheckSettings, tokens: TokenChecks, evaluation: EvalPrompts | None) -> None:
        self._settings = settings
        self._tokens = tokens
        self._evaluation = evaluation
        self._ledger = Ledger()
        self._pairs = PairIndex()
        self._columns = ColumnChecks()
        self._lengths = LengthCount()
        self._scripts = ScriptCount()
        # 1 for messages, 0 for text; in the order of the index of pairs.
        self._layouts: Any = array("B")
        self.unreadable = 0
        self.first_problem = ""
        self._tokenised = 0
        self._token_sum = 0
        self._token_max = 0

    def add(self, chunk: list[SourceRow]) -> None:
        """Check one chunk of rows."""
        ledger = self._ledger
        rows = []
        for source_row in chunk:
            if source_row.values is None:
                self.unreadable += 1
                self.first_problem = self.first_problem or source_row.problem
            row = read_row(source_row, ledger)
            if row is None:
                continue
            rows.append(row)
            self._note_layout(row)
            check_near_identical(row, self._settings.near_duplicate_threshold, ledger)
            key = self._pairs.add(row)
            if self._evaluation is not None:
                self._evaluation.check(row, key, ledger)
            self._columns.check(row, ledger)
            check_text(row, ledger)
            self._scripts.add(row)
        for tokens in self._tokens.tokenise(rows, ledger):
            self._tokens.check(tokens, ledger)
            self._count(tokens)

    def _note_layout(self, row: LintRow) -> None:
        if not self._layouts:
            self._tokens.require_for(row)
        self._layouts.append(row.record.is_conversational)

    def _count(self, tokens: TokenisedRow) -> None:
        lengths = [len(ids) - tokens.cut for ids in tokens.full_ids]
        for better, worse in tokens.row.pairs:
            self._lengths.add(lengths[better], lengths[worse])
        longest = tokens.cut + max(lengths)
        self._tokenised += 1
        self._token_sum += longest
        self._token_max = max(self._token_max, longest)

    def finish(self, source: str | os.PathLike[str]) -> CheckReport:
        """Add what only all rows together show, and sum up."""
        ledger = self._ledger
        partners = self._pairs.finish(ledger)
        chats = self._mixed_layout()
        self._columns.finish(ledger)
        scripts = self._scripts.finish(ledger)
        _add_repetitions(source, self._settings, partners, ledger)
        findings = [*ledger.findings(), *self._other_layout(chats), *self._length_bias()]
        findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
        tokenised = max(self._tokenised, 1)
        statistics: dict[str, Any] = {
            "rows_tokenised": self._tokenised,
            "tokens": {"mean_longer_side": self._token_sum / tokenised, "max": self._token_max},
            "length": self._lengths.to_dict(),
            "scripts": scripts,
        }
        if self._evaluation is not None:
            evaluation = self._evaluation
            statistics["evaluation"] = {
                "rows": evaluation.rows,
                "prompts": evaluation.prompts,
                "prompts_in_train": evaluation.leaked,
            }
        return CheckReport(str(source), self._settings, len(ledger), tuple(findings), statistics, ledger)

    def _mixed_layout(self) -> bool | None:
        """Flag the rows of the layout that fewer have; say whether most are messages, None where there are none."""
        layouts = np.frombuffer(self._layouts, dtype=np.uint8)
        chats = int(layouts.sum())
        usual = int(2 * chats > len(layouts))
        if chats in (0, len(layouts)):
            return bool(usual) if len(layouts) else None
        found, other = ("text", "messages") if usual else ("messages", "text")
        positions = np.frombuffer(self._pairs.positions, dtype=np.int64)[layouts != usual]
        for position in positions.tolist():
            self._ledger.flag(position, "mixed_layout", f"the row is {found}, most rows are {other}")
        return bool(usual)

    def _other_layout(self, is_chat: bool | None) -> list[Finding]:
        evaluation = self._evaluation
        if evaluation is None or is_chat is None or evaluation.is_chat == is_chat:
            return []
        kind = KIND_BY_NAME["eval_in_other_layout"]
        detail = (
            "the evaluation data are text, the data messages"
            if is_chat
            else ("the evaluation data are messages, the data text")
        )
        rows = evaluation.rows
        return [Finding(kind.name, kind.severity, rows, 100.0, kind.why, kind.todo, f"{detail} ({rows:,} rows of it)")]

    def _length_bias(self) -> list[Finding]:
        severity = self._lengths.severity()
        if severity is None:
            return []
        told = self._lengths.to_dict()
        kind = KIND_BY_NAME["length_bias"]
        low, high = (100 * end for end in told["interval_95"])
        percent, count, word = 100 * told["accuracy_of_longer"], told["longer_chosen"], "longer"
        if percent < 50:
            count = told["pairs"] - count - told["equal_length"]
            low, high, percent, word = 100 - high, 100 - low, 100 - percent, "shorter"
        detail = (
            f"the {word} response, in tokens, is preferred in {percent:.1f} % of {told['pairs']:,} pairs "
            f"(95 % interval {low:.1f} to {high:.1f}, equal lengths count one half); "
            f"{told['mean_chosen_tokens']:.0f} tokens on average against {told['mean_rejected_tokens']:.0f}"
        )
        return [Finding(kind.name, severity, count, percent, kind.why, kind.todo, detail)]


def _add_repetitions(
    source: str | os.PathLike[str], settings: CheckSettings, partners: dict[str, dict[int, int]], ledger: Ledger
) -> None:
    """Read the first repeated rows again, to show them."""
    numbers: NDArray[np.uint64] = ledger.numbers
    wanted = {int(numbers[position]) for found in partners.values() for position in found}
    texts: dict[int, str] = {}
    if wanted:
        for row in stream_rows(source, split=settings.split, limits=settings.limits, quiet=True):
            if row.index in wanted and row.values is not None:
                texts[row.index] = _prompt_excerpt(row)
                if len(texts) == len(wanted):
                    break
    word = {"both_orders": "the other way round in", "duplicate_row": "as", "duplicate_prompt": "prompt as in"}
    for kind, found in partners.items():
        examples = []
        for position, partner in found.items():
            number = int(numbers[position])
            shows = f"{word[kind]} row {int(numbers[partner]) + 1:,}: {texts.get(number, '')}"
            examples.append(Example(number + 1, shows))
        ledger.add_examples(kind, examples)


def _prompt_excerpt(row: SourceRow) -> str:
    try:
        return clip(plain_text(row_from_columns(row.values or {}, row.index, columns=()).prompt), end=True)
    except RowError:
        return ""
