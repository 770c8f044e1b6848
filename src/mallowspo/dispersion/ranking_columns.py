"""Which columns of a table of rankings are the items: by their names, and where names leave a doubt by their ranks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError, listed

__all__ = ["items_sentence", "names_things", "settled_items"]

Floats = NDArray[np.float64]

_PEOPLE = (
    "annotator|assignment|ballot|batch|case|entry|evaluator|hit|judge|labeler|labeller|observation|panelist|"
    "participant|person|record|respondent|response|rater|reviewer|row|session|subject|subj|survey|task|user|voter|worker"
)
_NUMBERS = "id|ids|pid|uid|sid|qid|uuid|guid|no|nr|num|number|nummer|numero|idx|index|seq|sequence"
# Names of one of these words, or of several ("age group", "rater name"), rank nothing.
_THINGS = re.compile(
    rf"{_PEOPLE}|{_NUMBERS}|resp|prompt|group|name|email|gender|sex|age|country|wave|key|serial|date|time|timestamp|"
    r"start|end|started|submitted|created|at|column|unnamed|(?:wid|cid|rid|tid)"
)
_LAST = re.compile(rf"{_NUMBERS}|timestamp")
_IN_ONE = re.compile(rf"(?:{_PEOPLE}|resp|prompt|group|question|item|line)(?:{_NUMBERS}|name)")
_SAMPLE = 100  # rows by which a column is judged
_FEW = 5  # rows from which on ties can be told from a number that stands beside the ranks
_SHOWN = 20
_MARGIN = 8  # columns at the edges of a table that may be left out together


def names_things(column: str) -> bool:
    """Say whether a column's name is that of a number, a person or a time, and no item's."""
    text = unicodedata.normalize("NFKD", column.replace("°", "o"))
    if text.startswith(("Unnamed", "unnamed", "__index")):
        return True
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", "".join(filter(str.isascii, text)))
    words = re.findall(r"[a-z0-9]+", text.casefold())
    if not words:
        return not re.search(r"\w", column)  # "#", or no name at all
    # "Group A" may be an item; so may "Casino", "Madrid" and "liquid", which end in no word of their own.
    return all(map(_thing, words)) or (len(words) > 1 and _LAST.fullmatch(words[-1]) is not None)


def _thing(word: str) -> bool:
    return bool(_THINGS.fullmatch(word) or _IN_ONE.fullmatch(word))


def settled_items(
    values: Mapping[str, Floats], named: Mapping[str, Floats], check: Callable[[Floats], object]
) -> set[str]:
    """Settle which columns are the items, by what makes rankings of the rows.

    Columns with an item's name are left out where the others are rankings in every row, and few rows are rankings with
    them (a number beside the ranks). Columns with another name are taken where all rows are rankings with them and not
    without (a fruit that is called date).
    """
    items = list(values)
    count = len(values[items[0]]) if items else 0
    if not count:
        return set(items)
    sample = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int))
    columns = {name: given[sample] for name, given in (*values.items(), *named.items())}

    def strict(names: list[str]) -> NDArray[np.bool_]:
        table = np.sort(np.column_stack([columns[name] for name in names]), axis=1)
        return np.asarray((table == np.arange(1, len(names) + 1)).all(axis=1))

    def valid(names: list[str]) -> Iterator[bool]:
        return (_passes(check, row[None]) for row in np.column_stack([columns[name] for name in names]))

    rankings = list(valid(items))
    if not all(rankings):
        sets = [list(named), *([name] for name in named), *([o for o in named if o != name] for name in named)]
        for hold in (strict, valid):
            for more in sets:
                if more and all(hold([*items, *more])):
                    return {*items, *more}
    ties = all(rankings)
    if strict(items).mean() > 0.5 or len(sample) < (_FEW if ties else 2):
        return set(items)
    # An item may be blank or not shown; a number that stands beside the ranks is there in every row.
    whole = {name for name in items if np.isfinite(values[name]).all()}
    for others in _leaving_out(items, whole, least=3 if ties else 2):
        found = [rest for rest in others if strict(rest).all()]
        if len(found) == 1:
            return set(found[0])
    if sum(rankings) <= len(sample) / 2:
        found = [rest for rest in next(_leaving_out(items, whole, least=2)) if all(valid(rest))]
        if len(found) == 1:
            return set(found[0])
    return set(items)


def _passes(check: Callable[[Floats], object], rankings: Floats) -> bool:
    try:
        check(rankings)
    except InputError:
        return False
    return True


def _leaving_out(items: list[str], whole: set[str], least: int) -> Iterator[list[list[str]]]:
    """Give what is left without one column, then without two and more at the edges of the table."""
    yield [[other for other in items if other != one] for one in items if one in whole and len(items) > least]
    for size in range(2, min(_MARGIN, len(items) - max(least, 3)) + 1):
        middles = [(start, len(items) - size + start) for start in range(size + 1)]
        yield [items[a:b] for a, b in middles if whole.issuperset(items[:a] + items[b:])]


def items_sentence(items: list[str], others: list[str]) -> str:
    """Say which columns were taken as items, and which were not."""
    no_items = f"; no items: {listed(others, _SHOWN)}" if others else ""
    return f"{len(items)} items are ranked: {listed(items, _SHOWN)}{no_items}."
