"""What the linter can find, how bad it is, why it matters and what to do; and who has what, with a few examples."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXAMPLES", "KINDS", "Example", "Finding", "Kind", "Ledger", "clip", "visible"]


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    # `error`: training on it is wrong, or `mallowspo train` refuses it. `warning`: it teaches something that was
    # hardly meant. `info`: worth knowing.
    severity: str
    why: str  # one sentence: what it does to training
    todo: str  # one sentence: what to do
    error_above: float | None = None  # the share of rows, in [0, 1], above which a warning becomes an error
    drop: bool = False  # whether `--fix` drops such rows even where they are no error

    def severity_at(self, share: float) -> str:
        """Give the severity where this share of the rows, in [0, 1], is concerned."""
        return "error" if self.error_above is not None and share > self.error_above else self.severity


# A few rows among many do no harm where TRL has a way of going on; more of them say that the template is at fault.
_ONE_PERCENT = 0.01

_error, _warning, _info = (partial(Kind, severity) for severity in ("error", "warning", "info"))

KINDS: dict[str, Kind] = {
    # Rows that cannot be read.
    "unparsable": _error("The line holds no row, so a loader stops or skips it.", "Mend or remove the line."),
    "malformed_row": _error(
        "The row is no preference in any accepted layout.",
        "Give prompt, chosen and rejected as text or as messages, or responses with ranks.",
    ),
    "mixed_layout": _error(
        "TRL decides by the first row whether all rows are chat, so the others lose or gain an EOS token.",
        "Bring all rows into one layout: text, or lists of messages.",
    ),
    "unpaired_surrogate": _error(
        "Half of a surrogate pair is no character, and a tokenizer fails on it.",
        "Mend the text where it was cut or decoded.",
    ),
    # Pairs that carry no preference.
    "empty_prompt": _error("Nothing is asked, so nothing can be preferred.", "Remove the row."),
    "empty_response": _error(
        "A response is missing or blank; TRL trains on it without a word.",
        "Remove the row, or fetch the response again.",
    ),
    "identical_pair": _error(
        "Chosen and rejected are the same, so the gradient is zero and the accuracy is noise.", "Remove the row."
    ),
    "near_identical_pair": _warning(
        "Chosen and rejected differ in a few characters, so the label rests on next to nothing.",
        "Read the examples; remove such rows unless the difference is the point.",
        drop=True,
    ),
    "both_orders": _warning(
        "The same two responses are preferred one way in one row and the other way in another; they cancel out.",
        "If several people answered, give one row with a votes column; otherwise remove both.",
        drop=True,
    ),
    "duplicate_row": _warning(
        "The same prompt and pair stand there again with the same label, and count twice.",
        "Keep one; if several people answered, give one row with a votes column.",
        drop=True,
    ),
    "duplicate_prompt": _info(
        "The prompt stood in an earlier row with another pair; a random split would put it on both sides.",
        "Split by prompt, not by row.",
    ),
    "prompt_in_eval": _error(
        "The prompt is in the evaluation data too, so the evaluation rewards memory.", "Remove it from one of the two."
    ),
    "eval_in_other_layout": _warning(
        "The evaluation data are text and the data messages, or the other way round, so the two are not one task.",
        "Bring both into one layout: text, or lists of messages.",
    ),
    # Tokens.
    "unknown_token_id": _error(
        "A token's id lies beyond the model's embedding, so the first step on this row fails.",
        "Call the model's resize_token_embeddings with the tokenizer's length and save it, or take its own tokenizer.",
    ),
    "bos_doubled": _error(
        "A begin-of-sequence token stands inside the text or twice at its start; the model never saw that.",
        "Take the BOS out of the text, or out of the chat template.",
    ),
    "bos_missing": _warning(
        "The tokenizer begins every text with a BOS token, the chat template does not.",
        "Add {{ bos_token }} to the head of the chat template, unless the model was trained without it.",
    ),
    "eos_missing": _warning(
        "The response does not end in an end token, so the model does not learn to stop.",
        "Close the assistant turn with the EOS or end-of-turn token in the chat template.",
        error_above=_ONE_PERCENT,
    ),
    "eos_doubled": _warning(
        "The response ends in the same end token twice.",
        "Take the end token out of the text; the template or TRL adds it.",
        error_above=_ONE_PERCENT,
    ),
    "eos_inside": _warning(
        "An end token stands inside the response; generation would have stopped there.",
        "Take it out, or cut the response there.",
        error_above=_ONE_PERCENT,
    ),
    "eos_in_prompt": _warning(
        "An end token is typed inside the prompt, so the model reads on behind the end of a text.",
        "Take it out of the text, or break it up with a space.",
    ),
    "special_token_in_message": _warning(
        "A message holds the text of a special token, which becomes that token and may open a turn of its own.",
        "Take it out of the message, or break it up with a space.",
    ),
    "boundary_merge": _warning(
        "The last tokens of the prompt merge with the response, so the model is trained on a context that it never "
        "sees at inference.",
        "End the prompt on a token boundary: move a trailing space or line break to the responses.",
        error_above=_ONE_PERCENT,
    ),
    "template_prefix_mismatch": _warning(
        "The chat template renders the prompt alone otherwise than the prompt with its answer, so training and "
        "inference differ.",
        "Use a template whose generation prompt is a prefix of the answered conversation.",
        error_above=_ONE_PERCENT,
    ),
    "refused_by_template": _error(
        "The chat template raises an error on these messages.",
        "Bring the roles into the order that the template expects.",
    ),
    "bad_tools": _error(
        "What the row gives to the chat template beside its messages cannot be read.",
        "Give tools as a list of functions, chat_template_kwargs as a mapping, or either as JSON text.",
    ),
    "prompt_too_long": _error(
        "The prompt alone fills max_length; TRL drops the row without a word.", "Raise max_length, or remove the row."
    ),
    "truncated_chosen": _warning(
        "The chosen response is cut to max_length and loses its end.", "Raise max_length, or remove long rows."
    ),
    "truncated_rejected": _warning(
        "The rejected response is cut to max_length and loses its end.", "Raise max_length, or remove long rows."
    ),
    "truncated_one_side": _warning(
        "Only one of the two is cut, so the cut itself tells them apart.", "Raise max_length, or remove long rows."
    ),
    "longer_than_model": _warning(
        "More tokens are kept than the tokenizer says the model can hold; positions beyond are untrained.",
        "Lower max_length to the model's context.",
    ),
    "empty_as_tokens": _error(
        "Nothing of a response is left once it is tokens, beside its end.", "Remove the row, or raise max_length."
    ),
    "identical_as_tokens": _error(
        "Chosen and rejected are the same tokens, as they stand or once cut to max_length.",
        "Remove the row, or raise max_length.",
    ),
    # Labels.
    "bad_votes": _error("The votes are not counts >= 0.", "Give [chosen, rejected] or [chosen, rejected, ties]."),
    "bad_rankings": _error("A ranking is no permutation.", "Give each of 1..K once in every ranking."),
    "bad_weight": _error("The weight is no number >= 0.", "Mend the column."),
    "bad_scores": _error("The scores of a list are no numbers.", "Give one number for each response, or null."),
    "bad_beta": _error("The row's beta is no finite number > 0.", "Mend the column, or rename it."),
    "bad_loss_weight": _error("The row's loss_weight is no finite number >= 0.", "Mend the column."),
    "bad_margin": _error("The margin is no finite number >= 0.", "Mend the column."),
    "bad_dispersion": _error("The dispersion is no number in (0, 1].", "Mend the column."),
    "votes_against_label": _warning(
        "More people voted for the rejected response than for the chosen one.",
        "Swap the two, or check in which order the votes are counted.",
    ),
    "length_bias": _warning(
        "Length alone predicts the label, so a model learns to write longer (or shorter) answers.",
        "Compare length-controlled win rates, or use a length-normalised objective.",
    ),
    # Text.
    "replacement_character": _warning(
        "U+FFFD stands where a character was lost in decoding.",
        "Decode the source again with its own encoding.",
        drop=True,
    ),
    "mojibake": _warning(
        "UTF-8 was read as Latin-1 or Windows-1252, and the model would learn to write it so.",
        "Decode the source again as UTF-8.",
        drop=True,
    ),
    "mixed_script_word": _warning(
        "Letters of another script stand inside a Latin word: wrong decoding, or a look-alike.",
        "Decode the source again with its own encoding, or replace the letters.",
    ),
    "private_use_character": _warning(
        "A character without a meaning of its own: often a bullet or arrow of a symbol font.",
        "Replace it by the character that was meant.",
    ),
    "control_character": _warning(
        "The text holds control characters, which people neither see nor type.", "Remove them.", drop=True
    ),
    "html_entity": _info(
        "The text holds HTML entities, which may be left over from a web page.",
        "Unescape them unless the text is about HTML.",
    ),
    "turn_in_response": _warning(
        "The response goes on into another turn, or begins with a speaker's name, by the marks that the prompt uses.",
        "Cut the response before the mark, or take the name out.",
    ),
    "odd_script": _info(
        "The responses are mostly in another script than at least nine in ten rows.",
        "Read the examples: another language is fine where it is meant.",
    ),
}
"""By the word that `check.json` and the log of dropped rows use; findings stand in this order."""

EXAMPLES = 5
# A row's flags are one word of 64 bits.
_BIT = {name: 1 << i for i, name in enumerate(KINDS)}
# Spans are counted by their text; a data set may have as many different ones as rows.
_SPANS = 2_000


@dataclass(frozen=True)
class Example:
    """One row that shows a finding."""

    row: int  # its number in the source, from 1
    shows: str  # a short excerpt, escaped so that what is invisible can be seen


@dataclass(frozen=True)
class Finding:
    """What was found of one kind."""

    kind: str
    severity: str
    count: int  # rows concerned
    percent: float  # the same in percent of all rows
    why: str
    todo: str
    detail: str = ""  # a sentence with the numbers, where a count does not say it all
    examples: tuple[Example, ...] = ()  # the first rows, at most five
    top: tuple[tuple[str, int], ...] = ()  # the commonest spans with their counts, where the kind has spans

    @classmethod
    def of(cls, kind: str, count: int, percent: float, *, severity: str | None = None, **more: Any) -> Finding:
        """Fill in what the catalogue says."""
        entry = KINDS[kind]
        severity = severity or entry.severity_at(percent / 100)
        return cls(kind, severity, count, percent, entry.why, entry.todo, **more)


def visible(text: str) -> str:
    """Write line breaks, tabs and unprintable characters as escapes."""
    # Half a surrogate pair is not printable, so that what comes out can always be written as UTF-8.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def clip(text: str, limit: int = 80, *, end: bool = False) -> str:
    """Shorten a text to `limit` characters of its start, or of its end, and make it visible."""
    if len(text) <= limit:
        return visible(text)
    return "…" + visible(text[-limit:]) if end else visible(text[:limit]) + "…"


@dataclass
class Ledger:
    """Flags of every row, in the order in which they were read; a row is named by its position here, from 0."""

    sound: Any = field(default_factory=lambda: array("q"))  # positions of the rows whose layout is sound
    _flags: Any = field(default_factory=lambda: array("Q"))
    _numbers: Any = field(default_factory=lambda: array("Q"))
    _examples: dict[str, list[Example]] = field(default_factory=dict)
    _spans: dict[str, Counter[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._flags)

    def add_row(self, row_index: int) -> int:
        """Open the account of the next row; give its position."""
        self._flags.append(0)
        self._numbers.append(row_index)
        return len(self._flags) - 1

    def flag(self, position: int, kind: str, shows: str | Callable[[], str], span: str | None = None) -> None:
        """Note a finding about one row, with an excerpt, or what makes it, for the first few; and count its span."""
        bit = _BIT[kind]
        if self._flags[position] & bit:
            return
        self._flags[position] |= bit
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(Example(self._numbers[position] + 1, shows if isinstance(shows, str) else shows()))
        if span is not None:
            spans = self._spans.setdefault(kind, Counter())
            if span in spans or len(spans) < _SPANS:
                spans[span] += 1

    def flag_many(self, positions: NDArray[np.int64], kind: str) -> None:
        """Note a finding that only the whole data set could show."""
        if len(positions):
            self.flags[positions] |= np.uint64(_BIT[kind])

    def add_examples(self, kind: str, examples: list[Example]) -> None:
        """Give the examples of what `flag_many` noted."""
        self._examples[kind] = examples

    def first_example(self, kind: str) -> str:
        """What the first row with a finding of this kind shows."""
        return self._examples[kind][0].shows

    # The arrays are views: rows cannot be added while one is held.

    @property
    def flags(self) -> NDArray[np.uint64]:
        """The flags of all rows, one word each."""
        return np.frombuffer(self._flags, dtype=np.uint64)

    @property
    def numbers(self) -> NDArray[np.uint64]:
        """The position of each row in its source, from 0."""
        return np.frombuffer(self._numbers, dtype=np.uint64)

    @property
    def sound_positions(self) -> NDArray[np.int64]:
        """The positions here of the rows whose layout is sound."""
        return np.frombuffer(self.sound, dtype=np.int64)

    def having(self, kind: str) -> NDArray[np.bool_]:
        """Say of each row whether it has a finding of this kind."""
        result: NDArray[np.bool_] = (self.flags & np.uint64(_BIT[kind])) != 0
        return result

    def findings(self) -> list[Finding]:
        """Count by kind, in the order of the catalogue."""
        counts = {kind: int(self.having(kind).sum()) for kind in KINDS}
        return [
            Finding.of(
                kind,
                count,
                100 * count / len(self),
                examples=tuple(self._examples.get(kind, ())),
                top=tuple(self._spans.get(kind, Counter()).most_common(EXAMPLES)),
            )
            for kind, count in counts.items()
            if count
        ]
