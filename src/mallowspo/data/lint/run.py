"""The linter's one pass over the data: rows stream through every check, in chunks."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mallowspo.data.limits import Limits
from mallowspo.data.lint.findings import Example, Finding, Ledger, clip
from mallowspo.data.lint.pairs import EvalPrompts, LengthCount, PairIndex, check_near_identical, prompt_of
from mallowspo.data.lint.rows import ColumnChecks, plain_text, read_row
from mallowspo.data.lint.text import ScriptCount, check_text
from mallowspo.data.lint.tokens import TokenChecks
from mallowspo.data.readers import SourceRow
from mallowspo.data.records import TOKEN_COLUMNS
from mallowspo.data.rendering import Truncation
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

    max_length: int | None = 1024  # tokens kept of prompt and response together, or None for all
    truncation_mode: str = "keep_start"
    split: str = "train"
    eval_split: str = "train"
    near_duplicate_threshold: float = 0.9  # similarity in (0, 1] from which two responses are near-identical
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
    rows: int  # unreadable lines included
    findings: tuple[Finding, ...]  # by severity, and in the order of the catalogue
    statistics: dict[str, Any]  # lengths, the predictive power of length, scripts, the evaluation data
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
    """Check preference data as a tokenizer and its chat template will see it; some sixty bytes a row are held."""
    settings = settings or CheckSettings()
    tokens = TokenChecks(tokenizer, Truncation(settings.max_length, settings.truncation_mode), end_ids, vocabulary)
    evaluation = None
    if eval_source is not None:
        evaluation = EvalPrompts(eval_source, split=settings.eval_split, limits=settings.limits)
    checks = _Checks(settings, tokens, evaluation)
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
    if checks.ledger.having("unparsable").all():
        first = checks.ledger.first_example("unparsable")
        raise InputError(f"{source}: none of the {done:,} rows can be read; row 1: {first}")
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
        self.ledger = Ledger()
        self._settings = settings
        self._tokens = tokens
        self._evaluation = evaluation
        self._pairs = PairIndex()
        self._columns = ColumnChecks()
        self._lengths = LengthCount()
        self._scripts = ScriptCount()
        self._layouts: Any = array("B")  # of the sound rows: 1 for messages, 0 for text

    def add(self, chunk: list[SourceRow]) -> None:
        """Check one chunk of rows."""
        ledger = self.ledger
        rows = []
        for source_row in chunk:
            row = read_row(source_row, ledger)
            if row is None:
                continue
            if not self._layouts:
                self._tokens.require_for(row)
            rows.append(row)
            self._layouts.append(row.record.is_conversational)
            check_near_identical(row, self._settings.near_duplicate_threshold, ledger)
            key = self._pairs.add(row)
            if self._evaluation is not None:
                self._evaluation.check(row, key, ledger)
            self._columns.check(row, ledger)
            check_text(row, ledger)
            self._scripts.add(row)
        for row, tokens in self._tokens.tokenise(rows, ledger):
            self._tokens.check(row, tokens, ledger)
            self._lengths.add(row, tokens)

    def finish(self, source: str | os.PathLike[str]) -> CheckReport:
        """Add what only all rows together show, and sum up."""
        ledger, lengths = self.ledger, self._lengths
        partners = self._pairs.finish(ledger)
        chats = self._mixed_layout()
        self._columns.finish(ledger)
        statistics: dict[str, Any] = {
            "rows_tokenised": lengths.rows,
            "tokens": {"mean_longer_side": lengths.longest_tokens / max(lengths.rows, 1), "max": lengths.most_tokens},
            "length": lengths.to_dict(),
            "scripts": self._scripts.finish(ledger),
        }
        if self._evaluation is not None:
            statistics["evaluation"] = self._evaluation.to_dict()
        _add_repetitions(source, self._settings, partners, ledger)
        findings = [*ledger.findings(), *self._other_layout(chats), *lengths.findings()]
        findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
        return CheckReport(str(source), self._settings, len(ledger), tuple(findings), statistics, ledger)

    def _mixed_layout(self) -> bool | None:
        """Flag the rows of the layout that fewer have; say whether most are messages, None where there are none."""
        layouts = np.frombuffer(self._layouts, dtype=np.uint8)
        if not len(layouts):
            return None
        chats = int(layouts.sum())
        usual = 2 * chats > len(layouts)
        found, other = ("text", "messages") if usual else ("messages", "text")
        for position in self.ledger.sound_positions[layouts != usual].tolist():
            self.ledger.flag(position, "mixed_layout", f"the row is {found}, most rows are {other}")
        return usual

    def _other_layout(self, is_chat: bool | None) -> list[Finding]:
        evaluation = self._evaluation
        if evaluation is None or is_chat is None or evaluation.is_chat == is_chat:
            return []
        theirs, ours = ("text", "messages") if is_chat else ("messages", "text")
        detail = f"the evaluation data are {theirs}, the data {ours} ({evaluation.rows:,} rows of it)"
        return [Finding.of("eval_in_other_layout", evaluation.rows, 100.0, detail=detail)]


def _add_repetitions(
    source: str | os.PathLike[str], settings: CheckSettings, partners: dict[str, dict[int, int]], ledger: Ledger
) -> None:
    """Read the first repeated rows again, to show them."""
    number = {p: int(ledger.numbers[p]) for found in partners.values() for pair in found.items() for p in pair}
    wanted = {number[position] for found in partners.values() for position in found}
    texts: dict[int, str] = {}
    if wanted:
        for row in stream_rows(source, split=settings.split, limits=settings.limits, quiet=True):
            if row.index in wanted and row.values is not None:
                texts[row.index] = clip(plain_text(prompt_of(row.values) or ""), end=True)
                if len(texts) == len(wanted):
                    break
    word = {"both_orders": "the other way round in", "duplicate_row": "as", "duplicate_prompt": "prompt as in"}
    for kind, found in partners.items():
        examples = []
        for position, partner in found.items():
            text = texts.get(number[position], "")
            examples.append(Example(number[position] + 1, f"{word[kind]} row {number[partner] + 1:,}: {text}"))
        ledger.add_examples(kind, examples)
