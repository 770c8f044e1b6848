"""Read what people said in the forms in which data sets are published; a form is told by its shape.

The page `docs/peoples-data.md` says which data sets have which form, and what counts as a vote.
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data import load_preferences
from mallowspo.data.problems import RowProblem, settle
from mallowspo.dispersion.judged_rows import Judged, JudgedRow, Text, as_text, distinct
from mallowspo.errors import InputError, not_one_of
from mallowspo.files import is_whole, parse_json

if TYPE_CHECKING:
    import datasets

__all__ = [
    "COLUMN_NAMES",
    "ONE_JUDGE",
    "PUBLISHED_FORMS",
    "holds_orders",
    "number_or_none",
    "read_judged",
    "opened",
    "row_numbers",
]

Floats = NDArray[np.float64]
Row = Mapping[str, Any]
Scores = tuple[float, ...]

COLUMN_NAMES = (
    "prompt",
    "chosen",
    "rejected",
    "votes",
    "votes_chosen",
    "votes_rejected",
    "votes_tie",
    "first",
    "second",
    "vote",
    "rater",
    "count",
    "response",
    "ratings",
    "responses",
    "rankings",
)
"""The names that `--columns` may give to a file's own columns."""

ONE_JUDGE = "every row has one judge, which says nothing of how far people differ"

# What data sets call the prompt; the first that a file has is taken.
_PROMPTS = ("prompt", "text", "instruction", "question", "context", "query", "source")
# Two columns that hold the two responses of a pair.
_STEMS = ("completion", "response", "answer", "output")
_SIDES = (("_a", "_b"), ("_A", "_B"), ("1", "2"), ("_1", "_2"))
_PAIRS = (("first", "second"), *((stem + a, stem + b) for stem in _STEMS for a, b in _SIDES))
_VERDICTS = ("vote", "winner", "preference", "preferred", "verdict", "choice", "label")
_RATINGS = ("ratings", "helpfulness", "overall", "rating", "scores", "score")
_RATERS = (
    *("rater", "annotator", "evaluator", "annotator_id", "rater_id", "evaluator_id", "worker_id", "participant_id"),
    *("prolific_pid", "respondent_id", "labeler_id", "user_id", "worker", "participant", "labeler", "judge"),
)
_ALONE = "no row beside it has the same prompt"
# HelpSteer2's mark for "neither response is valid", beside strengths of -3 to 3.
_NEITHER_VALID = -100

_WINS = re.compile(
    r"(?:model|response|output|answer|completion|assistant|option)?[-_ ]?(a|b|1|2)(?:\.0)?"
    r"(?:[-_ ]is[-_ ](?:\w+[-_ ])?better)?"
)
# How a list of messages begins that was written into a cell of text.
_WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")
_WORDS = {"first": 0, "left": 0, "chosen": 0, "second": 1, "right": 1, "rejected": 1}
_TIES = ("0", "0.0", "tie", "tied", "draw", "same", "equal", "both", "neither", "tie (bothbad)", "both_bad", "bothbad")


class _NoVote(Exception):
    """A row on which nobody voted, or on which there is nothing to vote; says why."""


@dataclass(frozen=True)
class _Told:
    """What one row tells: its responses, and the votes on them, each by a rater and so many times."""

    prompt: Text
    responses: Sequence[Text | None]
    votes: list[tuple[Any, Scores, float]]
    wrong: str = ""  # why its vote means nothing, where its words are still those of a row


@dataclass(frozen=True)
class _Form:
    """One shape: how it is told, and how it is read."""

    words: str  # what it looks like
    # From the columns and a few rows to the columns that matter by their part, or None.
    find: Callable[[Sequence[str], Sequence[Row]], dict[str, Any] | None]
    # From a row, or from two that follow each other, and the columns by part to what they tell. Raises `_NoVote`, and
    # `ValueError` for a value that means nothing.
    tell: Callable[..., _Told]
    chat: bool = True  # a prompt that is text is what a user said to an assistant
    joined: bool = False  # rows with the same words belong together
    either_way: bool = False  # also where the two responses stand the other way round
    any_words: bool = (
        False  # votes count where the words are missing or alike: nothing but the words is compared there
    )
    couples: bool = False  # two rows that follow each other hold the two responses to one prompt


def read_judged(dataset: datasets.Dataset, source: str, *, invalid_rows: str = "error") -> Judged | None:
    """Read what people said, in whichever of `PUBLISHED_FORMS` the rows have; None where they have none."""
    dataset = dataset.with_format(None)
    try:
        head = dataset[:200]
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: a text in it is no UTF-8 ({error.reason}); write the file again") from error
    sample = [dict(zip(head, row, strict=True)) for row in zip(*head.values(), strict=True)]
    for form in PUBLISHED_FORMS:
        parts = form.find(dataset.column_names, sample)
        if parts is not None:
            return _read(dataset, form, parts, source, invalid_rows)
    return None


def _read(dataset: datasets.Dataset, form: _Form, parts: dict[str, Any], source: str, invalid_rows: str) -> Judged:
    numbers = row_numbers(dataset)
    columns = {name for part in parts.values() for name in ([part] if isinstance(part, str) else part)}
    needed = dataset.select_columns([name for name in dataset.column_names if name in columns])
    if "verdict" in parts:
        _tell_ties(dataset[parts["verdict"]][:], parts["verdict"])
    report = _Report()
    # Words stay words: an answer may read as a list.
    words = {*parts["prompt"], *parts.get("pair", ()), parts.get("response")}
    given = [{name: value if name in words else _value(value) for name, value in row.items()} for row in needed]
    rows = _judged_rows(list(enumerate(given)), form, parts, report)
    wrong = [RowProblem(numbers[position], "bad_votes", detail) for position, detail in report.wrong]
    settle(wrong, len(dataset), len(dataset) - len(wrong), invalid_rows=invalid_rows, source=source)
    mute = [row for row in rows if not row.votes.any()]
    report.silent += [(row.position, "nobody judged two of its responses") for row in mute]
    if len(mute) == len(rows):
        place, why = min(report.silent)
        raise InputError(f"{source}: no row has a vote that can be used; row {numbers[place] + 1:,}: {why}")
    return Judged(form.words, tuple(rows), _notes(rows, wrong, report.silent, numbers))


@dataclass
class _Report:
    """What a reader found beside its rows: positions with the reason."""

    # Nobody voted there, or there is nothing to vote on.
    silent: list[tuple[int, str]] = field(default_factory=list)
    wrong: list[tuple[int, str]] = field(default_factory=list)  # a value means nothing


def _notes(
    rows: Sequence[JudgedRow], wrong: list[RowProblem], silent: list[tuple[int, str]], numbers: list[int]
) -> tuple[str, ...]:
    """Say what was left out, and where one judge is taken for people."""
    notes = []
    if wrong:
        notes.append(f"{_rows(problem.row_index for problem in wrong)} cannot be used and left out: {wrong[0].detail}")
    reasons: dict[str, list[int]] = {}
    for position, why in silent:
        reasons.setdefault(why, []).append(numbers[position])
    notes += [f"{_rows(places)} without a vote that can be used: {why}" for why, places in reasons.items()]
    unseen = [numbers[row.position] for row in rows if row.votes.any() and not row.votes.any(axis=1).all()]
    if unseen:
        notes.append(
            f"{_rows(unseen)} with pairs that no rater scored both sides of: they count as pairs without votes"
        )
    if all(row.people <= 1 for row in rows):
        notes.append(ONE_JUDGE)
    return tuple(notes)


def _rows(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    shown = ", ".join(f"{number + 1:,}" for number in found[:5]) + (", …" if len(found) > 5 else "")
    return f"{len(found):,} row{'s' * (len(found) != 1)} ({shown})"


def row_numbers(dataset: datasets.Dataset) -> list[int]:
    """Give each row's number for messages: the file's own where each has one of its own, its position otherwise.

    A column of a user's own may be called `row_index` and repeat; it names no row then.
    """
    if "row_index" in dataset.column_names:
        found: list[Any] = dataset["row_index"][:]
        sound = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in found)
        if sound and len(set(found)) == len(found):
            return found
    return list(range(len(dataset)))


def opened(
    source: str | os.PathLike[str], *, columns: str, split: str, invalid_rows: str = "error"
) -> datasets.Dataset:
    """The rows of a file of people's judgements, with its columns under the names that are read."""
    dataset = load_preferences(source, split=split, invalid_rows=invalid_rows).dataset
    if len(dataset) == 0:
        raise InputError(f"{source}: there are no rows")
    return _renamed(dataset, columns, str(source)) if columns else dataset


def _renamed(dataset: datasets.Dataset, columns: str, source: str) -> datasets.Dataset:
    """Rename a file's columns by `name=column` pairs; a column whose name another takes is left out."""
    mapping: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in columns.split(","))):
        name, equals, column = (text.strip() for text in item.partition("="))
        if not equals or not column:
            raise InputError(f"columns: got {item!r}, expected name=column pairs such as prompt=question,vote=winner")
        if name not in COLUMN_NAMES:
            raise not_one_of("columns", name, COLUMN_NAMES)
        if name in mapping or column in mapping.values():
            raise InputError(f"columns: {name if name in mapping else column!r} is given twice in {columns!r}")
        if column not in dataset.column_names:
            raise InputError(f"columns: {source} has no column {column!r}, it has {', '.join(dataset.column_names)}")
        mapping[name] = column
    taken = [name for name in mapping if name in dataset.column_names and name not in mapping.values()]
    dataset = dataset.remove_columns(taken)
    return dataset.rename_columns({column: name for name, column in mapping.items() if name != column})


# ---- values


def _value(value: Any) -> Any:
    """Read a list or a mapping that a cell of a CSV file holds as text, as JSON or as Python writes it."""
    if not isinstance(value, str) or not re.match(r"\s*(\[\s*[\[{\d\"'-]|\{\s*[\"'])", value):
        return value
    try:
        return parse_json(value)
    except ValueError:
        pass
    try:
        read = ast.literal_eval(value.strip())
        return read if is_whole(read) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value


def _words(value: Any) -> Text | None:
    """Read a prompt or a response: text, messages, a mapping that holds one of them, or a bare JSON value as text."""
    if isinstance(value, str):
        written = _written_messages(value)
        if written is None:
            return value if value.strip() else None
        value = written
    if isinstance(value, Mapping):
        inner = next((value[name] for name in ("messages", "content", "response", "text") if value.get(name)), None)
        return None if inner is value else _words(inner)
    if _is_messages(value):
        return [{name: part for name, part in item.items() if part is not None} for item in value]
    return str(value) if isinstance(value, bool | int) else None


def _written_messages(text: str) -> list[Any] | None:
    """Give the messages that a cell of a CSV file holds as text, alone or as `messages` of an object."""
    whole = _WRITTEN_MESSAGES.match(text) is not None
    if not whole and not (text.lstrip().startswith("{") and re.search(r"""["']messages["']""", text)):
        return None
    read = _value(text)
    found = read.get("messages") if isinstance(read, Mapping) else read
    return found if _is_messages(found) else None


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


def _is_words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, Mapping) for item in value))


def _items(value: Any) -> list[Any]:
    """Give a list's items; `datasets` at times keeps a list of mappings as a mapping of lists."""
    if isinstance(value, Mapping) and value and all(isinstance(part, list) for part in value.values()):
        return [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)]
    return value if isinstance(value, list) else []


def number_or_none(value: Any) -> float | None:
    """Read a number, also one that is written as text; None where there is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float | Decimal):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _numbers(given: list[Any]) -> Scores:
    """Read numbers, NaN where there is none."""
    return tuple(math.nan if (number := number_or_none(value)) is None else number for value in given)


def _verdict(value: Any) -> tuple[float, float] | None:
    """Read one vote as scores of the two responses; None where nobody voted. Raises `ValueError` for other words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = "?" if isinstance(value, bool) else str(value).strip().lower()
    if text in ("", "none", "null", "n/a", "nan", "skip"):
        return None
    if text in _TIES:
        return (0.0, 0.0)
    found = _WINS.fullmatch(text)
    side = _WORDS.get(text, "ab".find(found[1]) if found and found[1] in "ab" else int(found[1]) - 1 if found else -1)
    if side < 0:
        raise ValueError(f"the verdict {value!r} is none; expected 1, 2 or 0 for a tie, A-is-better, model_b, tie, …")
    return (1.0, 0.0) if side == 0 else (0.0, 1.0)


def _strength(value: Any) -> tuple[float, float] | None:
    """Read a strength from -3 (the first is much better) to 3; only its sign is a vote."""
    number = number_or_none(value)
    if number is None or number == _NEITHER_VALID:
        if value is None or number == _NEITHER_VALID or (isinstance(value, float) and math.isnan(value)):
            return None
        raise ValueError(f"the strength {value!r} is no number")
    if abs(number) > 3:
        raise ValueError(f"the strength is {number:g}, expected -3 (the first is much better) to 3")
    return (-number, 0.0)


def _first(names: Sequence[str], wanted: Iterable[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _rater_of(names: Iterable[str]) -> str | None:
    """The column of who voted, however it is written."""
    return next((name for wanted in _RATERS for name in names if name.casefold() == wanted), None)


def _pair_of(names: Sequence[str]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if set(pair) <= set(names)), None)


def _prompt_parts(names: Sequence[str]) -> list[str]:
    """The columns of the prompt; an instruction may have its input beside it."""
    found = _first(names, _PROMPTS)
    if found == "instruction" and "input" in names:
        return ["instruction", "input"]
    return [found] if found else []


def _prompt(row: Row, columns: Sequence[str]) -> Text:
    # Blank text is kept here, for the prompt's name hangs on every character.
    found = [words for column in columns if (words := _words(row[column]) or row[column]) and _is_words(words)]
    if len(found) == 1:
        return found[0]
    return "\n\n".join(as_text(part) for part in found)


def _judged_rows(rows: list[tuple[int, Row]], form: _Form, parts: dict[str, Any], report: _Report) -> list[JudgedRow]:
    """One row for what each row tells, for what rows with the same words tell together, or for each couple of rows."""
    judged: list[JudgedRow] = []
    groups: dict[tuple[str, ...], tuple[int, _Told]] = {}
    for position, *given in _couples(rows, parts, report) if form.couples else rows:
        try:
            told = form.tell(*given, parts)
        except _NoVote as why:
            report.silent.append((position, str(why)))
            continue
        except ValueError as error:
            report.wrong.append((position, str(error)))
            continue
        if told.wrong:
            report.wrong.append((position, told.wrong))
        if not form.joined:
            judged += _judged_row(position, told, form, report)
            continue
        prompt, *shown = as_text(told.prompt), *map(as_text, told.responses)
        swapped = form.either_way and (prompt, *reversed(shown)) in groups
        key = (prompt, *(reversed(shown) if swapped else shown))
        votes = groups.setdefault(key, (position, replace(told, votes=[])))[1].votes
        votes += [(rater, scores[::-1] if swapped else scores, count) for rater, scores, count in told.votes]
    for position, told in groups.values():
        judged += _judged_row(position, told, form, report)
    return judged


def _couples(rows: list[tuple[int, Row]], parts: dict[str, Any], report: _Report) -> Iterator[tuple[int, Row, Row]]:
    """Every two rows that follow each other and have the same prompt, with the place of the first."""
    waiting: list[tuple[int, Row]] = []
    for position, row in rows:
        if waiting and _prompt(waiting[0][1], parts["prompt"]) == _prompt(row, parts["prompt"]):
            yield *waiting.pop(), row
            continue
        alone, waiting = waiting, [(position, row)]
        report.silent += [(place, _ALONE) for place, _ in alone]
    report.silent += [(place, _ALONE) for place, _ in waiting]


def _judged_row(position: int, told: _Told, form: _Form, report: _Report) -> list[JudgedRow]:
    """Make the row, or none where it has fewer than two responses that differ."""
    # A rater may be named by anything that a file holds, such as an object; blanks and NaN name nobody.
    raters = [None if repr(rater) in ("None", "nan", "''") else repr(rater) for rater, _, _ in told.votes]
    weights = np.array([count for _, _, count in told.votes], np.float64)
    scores = np.asarray([scores for _, scores, _ in told.votes], np.float64).reshape(-1, max(len(told.responses), 1))
    if form.any_words:
        words = tuple(text or "" for text in told.responses)
        return [JudgedRow(position, told.prompt, words, scores, weights, form.chat, tuple(raters))]
    try:
        kept, scores = distinct(told.responses, scores)
    except InputError as error:
        report.silent.append((position, str(error)))
        return []
    return [JudgedRow(position, told.prompt, kept, scores, weights, form.chat, tuple(raters))]


# ---- lists of verdicts (MultiPref) and of strengths (HelpSteer3, HelpSteer2 preference)


def _annotation_columns(
    names: Sequence[str], sample: Sequence[Row], keys: Sequence[str]
) -> dict[str, tuple[str, int]]:
    """The columns that hold lists of mappings with one of these keys: column to (key, items in the sample)."""
    found = {}
    for name in names:
        lists = [_items(_value(row[name])) for row in sample]
        items = [item for part in lists for item in part if isinstance(item, Mapping)]
        key = next((key for key in keys if any(item.get(key) is not None for item in items)), None)
        if key:
            found[name] = (key, len(items))
    return found


def _find_verdict_lists(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    pair = _pair_of(names)
    found = _annotation_columns(names, sample, ("overall_pref",)) if pair else {}
    return {"prompt": _prompt_parts(names), "pair": pair, "lists": list(found)} if found else None


def _find_strength_lists(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    pair = _pair_of(names)
    if not pair:
        return None
    found = _annotation_columns(names, sample, ("score", "strength"))
    if found:
        # HelpSteer2 keeps all of them beside the three that agree best: the fuller column has every vote.
        return {"prompt": _prompt_parts(names), "pair": pair, "lists": [max(found, key=lambda name: found[name][1])]}
    overall = _first(names, ("overall_preference", "preference_strength"))
    return {"prompt": _prompt_parts(names), "pair": pair, "lists": [], "overall": overall} if overall else None


def _tell_lists(row: Row, parts: dict[str, Any]) -> _Told:
    votes: list[tuple[Any, Scores, float]] = []
    for item in (item for column in parts["lists"] for item in _items(row[column]) if isinstance(item, Mapping)):
        if "overall_pref" in item:
            vote = _verdict(item["overall_pref"])
        else:
            vote = _strength(next((item[key] for key in ("score", "strength") if key in item), None))
        if vote is not None:
            rater = _rater_of(item)
            votes.append((item[rater] if rater else None, vote, 1.0))
    if parts.get("overall") and (vote := _strength(row[parts["overall"]])) is not None:
        votes.append((None, vote, 1.0))
    return _Told(_prompt(row, parts["prompt"]), [_words(row[column]) for column in parts["pair"]], votes)


# ---- ratings of single responses (HelpSteer2)


def _find_ratings(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    prompt = _prompt_parts(names)
    if "response" not in names or not prompt:
        return None

    def rated(name: str) -> bool:
        found = [value for row in sample if (value := _value(row[name])) is not None]
        return bool(found) and all(
            all(number_or_none(item) is not None for item in value if item is not None)
            if isinstance(value, list)
            else number_or_none(value) is not None
            for value in found
        )

    named = _first([name for name in names if name in _RATINGS and rated(name)], _RATINGS)
    if named is None:
        lists = [n for n in names if any(isinstance(_value(row[n]), list) for row in sample) and rated(n)]
        named = lists[0] if len(lists) == 1 else None
    return {"prompt": prompt, "response": "response", "ratings": named} if named else None


def _tell_ratings(first: Row, second: Row, parts: dict[str, Any]) -> _Told:
    """Compare the ratings of two responses: one by one where they are as many, and else each with each.

    Nobody knows who gave which rating where the numbers of raters differ. Each with each tells the same share of
    preferences; all comparisons together count as many votes as the shorter list has ratings.
    """
    given = [row[parts["ratings"]] for row in (first, second)]
    ratings = [_numbers(value if isinstance(value, list) else [value]) for value in given]
    if len(ratings[0]) == len(ratings[1]):
        every, weight = list(zip(*ratings, strict=True)), 1.0
    else:
        known = [[rating for rating in some if not math.isnan(rating)] for some in ratings]
        every = list(product(*known))
        weight = min(map(len, known)) / max(len(every), 1)
    responses = [_words(row[parts["response"]]) for row in (first, second)]
    return _Told(_prompt(first, parts["prompt"]), responses, [(None, scores, weight) for scores in every])


# ---- one judge's scores (UltraFeedback)


def _find_completions(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    prompt = _prompt_parts(names)
    if not prompt:
        return None
    for name in ("completions", "responses", "generations"):
        if name not in names:
            continue
        items = [item for row in sample for item in _items(_value(row[name]))]
        if any(isinstance(item, Mapping) and {"overall_score", "fine-grained_score"} & set(item) for item in items):
            return {"prompt": prompt, "completions": name, "scores": []}
        scores = _first(names, ("overall_score", "overall_scores", "ratings", "scores"))
        if scores and any(isinstance(_value(row[scores]), list) for row in sample):
            return {"prompt": prompt, "completions": name, "scores": [scores]}
    return None


def _tell_completions(row: Row, parts: dict[str, Any]) -> _Told:
    items = _items(row[parts["completions"]])
    given = (row[parts["scores"][0]] or []) if parts["scores"] else [_overall(item) for item in items]
    if not isinstance(given, list) or len(given) != len(items):
        raise ValueError(f"there are {len(items)} responses, expected as many scores: {given!r:.60}")
    scores = _numbers(given)
    # Without a score a completion says nothing: it stays out, for a ranked list has a place for every response.
    responses = [None if math.isnan(score) else _words(item) for item, score in zip(items, scores, strict=True)]
    if len([text for text in responses if text]) < 2:
        raise _NoVote("fewer than two responses have a score")
    return _Told(_prompt(row, parts["prompt"]), responses, [(None, scores, 1.0)])


def _overall(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return None
    overall = item.get("overall_score")
    return item.get("fine-grained_score") if number_or_none(overall) is None else overall


# ---- orders of the same responses (collective alignment)


def _orders_in(row: Row, columns: Sequence[str]) -> list[tuple[Any, Any]]:
    """The orders such as "B>A=C=D" that a row holds, each with its rater."""
    found: list[tuple[Any, Any]] = []
    for column in columns:
        value = row[column]
        items = value.get("assessments") if isinstance(value, Mapping) and "assessments" in value else value
        for item in items if isinstance(items, list) else [items]:
            rater = item.get(_rater_of(item)) if isinstance(item, Mapping) else None
            found += [(rater, order) for order in _orders_of(item)]
    return found


def _orders_of(item: Any) -> list[Any]:
    if isinstance(item, str):
        return [item]
    if not isinstance(item, Mapping):
        return []
    blocks = item.get("ranking_blocks", item)
    # Everybody was asked what is best for the world, a quarter also what is best for themselves: two questions.
    world = blocks.get("world", blocks.get("ranking")) if isinstance(blocks, Mapping) else None
    if isinstance(world, list):
        return [entry.get("ranking") if isinstance(entry, Mapping) else entry for entry in world[:1]]
    return [world] if isinstance(world, str) else []


def _is_order(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\s*\w+\s*([>=]\s*\w+\s*)+", value) is not None


def holds_orders(dataset: datasets.Dataset, column: str) -> bool:
    """Say whether a column holds orders such as "B>A=C=D", alone or in lists."""
    return any(_is_order(order) for row in dataset.select_columns([column]) for _, order in _orders_in(row, [column]))


def _find_orders(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    if "responses" not in names:
        return None
    rows = [{name: _value(value) for name, value in row.items()} for row in sample]
    for name in ("metadata", "assessments", "ranking_blocks", "rankings", "ranking"):
        if name in names and any(_is_order(order) for row in rows for _, order in _orders_in(row, [name])):
            rater = _rater_of(names)
            return {"prompt": _prompt_parts(names), "responses": "responses", "orders": [name], "rater": rater or []}
    return None


def _tell_orders(row: Row, parts: dict[str, Any]) -> _Told:
    given = _items(row[parts["responses"]])
    if len(given) < 2:
        raise _NoVote(f"expected at least two responses, found {len(given)}")
    labels = [_label(item, place) for place, item in enumerate(given)]
    named = row[parts["rater"]] if parts["rater"] else None
    votes = [
        (named if rater is None else rater, scores, 1.0)
        for rater, order in _orders_in(row, parts["orders"])
        if (scores := _order(order, labels)) is not None
    ]
    return _Told(_prompt(row, parts["prompt"]), [_words(item) for item in given], votes)


def _label(item: Any, place: int) -> str:
    found = (
        item.get(_first(list(item), ("response_index", "label", "id")) or "") if isinstance(item, Mapping) else None
    )
    return chr(ord("A") + place) if found is None or isinstance(found, int) else str(found).strip()


def _order(order: Any, labels: list[str]) -> tuple[float, ...] | None:
    """Read "B>A=C" as scores, larger is better, NaN for a response that it does not name."""
    if order is None or (isinstance(order, str) and not order.strip()):
        return None
    levels = [[name.strip() for name in level.split("=")] for level in str(order).split(">")]
    places = [name for level in levels for name in level]
    if len(set(places)) < len(places) or not set(places) <= set(labels):
        raise ValueError(f"the order {order!r:.60} must name each of {', '.join(labels)} once at most, with > and =")
    score = {name: -float(level) for level, level_names in enumerate(levels) for name in level_names}
    return tuple(score.get(label, math.nan) for label in labels)


# ---- one verdict a column (PandaLM), penalties of systems (WMT), one row a vote


def _find_annotators(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    raters = sorted(name for name in names if re.fullmatch(r"annotator_?\d+", name))
    if not raters:
        return None
    return {"prompt": _prompt_parts(names), "pair": _pair_of(names) or [], "raters": raters}


def _tell_annotators(row: Row, parts: dict[str, Any]) -> _Told:
    given = [row[name] for name in parts["raters"]]
    try:
        verdicts = [verdict for value in given if (verdict := _verdict(value)) is not None]
    except ValueError as error:
        raise ValueError(f"the verdicts are {given}: {error}") from error
    responses = [_words(row[column]) for column in parts["pair"]] or [None, None]
    return _Told(_prompt(row, parts["prompt"]), responses, [(None, verdict, 1.0) for verdict in verdicts])


def _find_penalties(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    if not {"outputs", "penalty"} <= set(names):
        return None
    return {"prompt": [name for name in ("source", "prompt") if name in names][:1], "columns": ("outputs", "penalty")}


def _tell_penalties(row: Row, parts: dict[str, Any]) -> _Told:
    outputs, penalty = row["outputs"], row["penalty"]
    if not isinstance(outputs, Mapping) or not isinstance(penalty, Mapping):
        raise ValueError("expected outputs as system -> text and penalty as system -> rater -> score")
    systems = [name for name, text in outputs.items() if isinstance(text, str)]
    scores: dict[Any, dict[str, float]] = {}
    for name in systems:
        by_rater = penalty.get(name) or {}
        if not isinstance(by_rater, Mapping):
            raise ValueError(f"the penalty of {name!r} is {by_rater!r:.40}, expected rater -> score")
        for rater, value in by_rater.items():
            number = number_or_none(value)
            if number is not None:
                scores.setdefault(rater, {})[name] = -number
            elif value is not None and not (isinstance(value, float) and math.isnan(value)):
                raise ValueError(f"the penalty of {name!r} by {rater!r} is {value!r:.40}, expected a number")
    votes = [(None, tuple(given.get(name, math.nan) for name in systems), 1.0) for given in scores.values()]
    return _Told(_prompt(row, parts["prompt"]), [outputs[name] for name in systems], votes)


def _find_single_votes(names: Sequence[str], sample: Sequence[Row]) -> dict[str, Any] | None:
    pair, verdict = _pair_of(names), _first(names, _VERDICTS)
    if pair is None or verdict is None:
        return None
    if any(isinstance(row[verdict], list | Mapping) for row in sample):
        return None
    found = {"prompt": _prompt_parts(names), "pair": pair, "verdict": verdict}
    return found | {
        "rater": _rater_of(names) or [],
        "count": _first(names, ("count", "weight")) or [],
    }


def _tell_ties(verdicts: Sequence[Any], column: str) -> None:
    """Refuse numbers of which nobody can tell whether 0 is a tie."""
    numbers = {number for value in verdicts if (number := number_or_none(value)) is not None}
    if numbers and max(numbers) < 2 and 0 in numbers:
        raise InputError(
            f"votes: the numbers in the column {column!r} go from {min(numbers):g} to {max(numbers):g}, which does "
            "not tell a tie from a vote for the first; write 1, 2 and 0 for a tie, or first, second and tie"
        )


def _tell_single_vote(row: Row, parts: dict[str, Any]) -> _Told:
    told = _Told(_prompt(row, parts["prompt"]), [_words(row[column]) for column in parts["pair"]], [])
    try:
        vote = _verdict(row[parts["verdict"]])
        count = number_or_none(row[parts["count"]]) if parts["count"] else 1.0
        if count is None or count < 0:
            raise ValueError(f"the count of the vote is {row[parts['count']]!r}, expected a number >= 0")
    except ValueError as error:
        return replace(told, wrong=str(error))
    rater = row[parts["rater"]] if parts["rater"] else None
    return told if vote is None else replace(told, votes=[(rater, vote, count)])


PUBLISHED_FORMS = (
    _Form(
        "columns `annotator1`, `annotator2`, ... with 1, 2 or 0 for a tie (PandaLM)",
        _find_annotators,
        _tell_annotators,
        chat=False,
        any_words=True,
    ),
    _Form(
        "a column `penalty` with system -> rater -> score, less is better (WMT side by side)",
        _find_penalties,
        _tell_penalties,
        chat=False,
    ),
    _Form("two responses and lists of annotations with `overall_pref` (MultiPref)", _find_verdict_lists, _tell_lists),
    _Form(
        "two responses and a list of annotations with `score` or `strength` from -3 to 3 (HelpSteer3, HelpSteer2's "
        "preferences)",
        _find_strength_lists,
        _tell_lists,
    ),
    _Form(
        "`responses` and orders of them such as B>A=C=D (collective alignment)",
        _find_orders,
        _tell_orders,
        joined=True,
    ),
    _Form(
        "`completions`, each with an `overall_score` of one judge (UltraFeedback)",
        _find_completions,
        _tell_completions,
    ),
    _Form(
        "one row a vote: two responses and a column `vote`",
        _find_single_votes,
        _tell_single_vote,
        chat=False,
        joined=True,
        either_way=True,
    ),
    _Form(
        "`prompt`, `response` and a list of ratings, two rows a prompt (HelpSteer2's disagreements)",
        _find_ratings,
        _tell_ratings,
        couples=True,
    ),
)
