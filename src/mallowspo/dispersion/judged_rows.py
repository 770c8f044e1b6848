"""What several judges said of the responses to one prompt: one record behind every form of votes and rankings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mallowspo.data.records import prompt_id_of_text
from mallowspo.errors import InputError, listed

__all__ = ["MIXED_JUDGES", "Judged", "JudgedRow", "as_text", "mixed_judges", "preference_rows"]

MIXED_JUDGES = "verdicts of different judges cannot be compared: what differs may be the judges"

Floats = NDArray[np.float64]
Text = str | list[dict[str, Any]]


@dataclass(frozen=True)
class JudgedRow:
    """The K >= 2 responses to one prompt and what J judges said of them."""

    position: int  # in the source, from 0; of rows that were joined, the first
    prompt: Text  # text or chat messages; empty where the source has none
    responses: tuple[Text, ...]  # K responses, no two alike
    # A judge's score of each response, shape (J, K): larger is better, alike is a tie, NaN where the judge did not
    # look. Only the order within a judge counts, never by how much.
    opinions: Floats
    weights: Floats  # how many people each judge stands for, shape (J,)
    # A prompt that is text is what a user said to an assistant: training data made of it are messages.
    chat: bool = False
    raters: tuple[str | None, ...] = ()  # who each judge is, None for somebody without a name; empty: all are others

    @property
    def prompt_id(self) -> str:
        """What names the prompt in a reference store that was made from `preference_rows`."""
        return prompt_id_of_text(_messages(self.prompt, "user") if self.chat else self.prompt)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Every two responses i < j."""
        return tuple(combinations(range(len(self.responses)), 2))

    @cached_property
    def votes(self) -> Floats:
        """The votes for i, for j and for neither, of the judges who saw both, shape (pairs, 3)."""
        return np.asarray(self._sides.sum(axis=1).T, np.float64)

    @cached_property
    def own(self) -> Floats:
        """What those who voted more than once would add to pairs of voters by themselves; see `vote_disagreement`."""
        own = np.zeros((len(self.pairs), 2))
        for judges in self.repeated:
            first, second, _ = self._sides[:, judges].sum(axis=1)
            own += np.column_stack([first * second, (first + second) * (1 - first - second)])
        return own

    @cached_property
    def repeated(self) -> list[list[int]]:
        """The judges that are one person, for each person who judged more than once."""
        counts = Counter(self.raters)
        names = [name for name, times in counts.items() if name is not None and times > 1]
        return [[judge for judge, other in enumerate(self.raters) if other == name] for name in names]

    @property
    def people(self) -> float:
        """How many people judged; who did more than once is one."""
        again = [self.weights[judges].sum() - self.weights[judges].mean() for judges in self.repeated]
        return float(self.weights.sum() - sum(again))

    @cached_property
    def _sides(self) -> Floats:
        """The votes of each judge for i, for j and for neither, shape (3, J, pairs); of a person one a pair in all."""
        first, second = np.array(self.pairs).T
        gap = self.opinions[:, first] - self.opinions[:, second]  # NaN where one of the two was not seen
        times = np.ones_like(gap)
        for judges in self.repeated:
            times[judges] = np.maximum(np.isfinite(gap[judges]).sum(axis=0), 1)
        return np.stack([gap > 0, gap < 0, gap == 0]) * (self.weights[:, None] / times)

    def ranks(self) -> Floats:
        """Give each judge's ranks, 1 is best and ties share the best of their ranks; NaN where not seen; (J, K)."""
        ranks = np.full_like(self.opinions, np.nan)
        for judge, scores in enumerate(self.opinions):
            seen = np.isfinite(scores)
            ranks[judge, seen] = rankdata(-scores[seen], method="min")
        return ranks


@dataclass(frozen=True)
class Judged:
    """What a file holds."""

    form: str
    rows: tuple[JudgedRow, ...]  # one row a prompt, or a set of responses
    notes: tuple[str, ...] = ()  # what was left out, one sentence each


def mixed_judges(judges: Sequence[str]) -> str | None:
    """Say that verdicts come from different judges; None where one judge gave them all.

    Example:
        >>> mixed_judges(["a", "a"])
        >>> mixed_judges(["a", "b"])
        '2 different judges (a, b); verdicts of different judges cannot be compared: what differs may be the judges'
    """
    names = list(dict.fromkeys(judges))
    return f"{len(names)} different judges ({listed(names)}); {MIXED_JUDGES}" if len(names) > 1 else None


def preference_rows(judged: Judged) -> Iterator[dict[str, Any]]:
    """Turn what people said into preference data: rows that `mallowspo check` and `mallowspo train` read.

    Each two responses that more votes prefer one way than the other give a pair with its votes, the majority's choice
    first. Where nobody but one judge scored more than two responses, a row is a ranked list instead.
    """
    lists = all(len(row.opinions) <= 1 for row in judged.rows) and any(len(row.responses) > 2 for row in judged.rows)
    for row in judged.rows:
        if not row.prompt:
            continue
        chat = row.chat or not isinstance(row.prompt, str)
        prompt = _messages(row.prompt, "user") if chat else row.prompt
        responses = [_messages(text, "assistant") if chat else text for text in row.responses]
        if lists:
            ranks = row.ranks()[0] if len(row.opinions) else np.zeros(0)
            seen = np.flatnonzero(np.isfinite(ranks))
            if len(np.unique(ranks[seen])) > 1:
                kept = [responses[place] for place in seen]
                yield {"prompt": prompt, "responses": kept, "ranks": [int(ranks[place]) for place in seen]}
            continue
        for (first, second), (wins, losses, ties) in zip(row.pairs, row.votes.tolist(), strict=True):
            if wins == losses:
                continue
            best, worst = (first, second) if wins > losses else (second, first)
            votes = [max(wins, losses), min(wins, losses), ties]
            yield {"prompt": prompt, "chosen": responses[best], "rejected": responses[worst], "votes": votes}


def _messages(text: Text, role: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def as_text(value: Any) -> str:
    """Show a prompt or a response as text: chat messages one after the other, each with its role."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(message, Mapping) for message in value):
        return "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in value)
    return "" if value is None else str(value)


def distinct(responses: Sequence[Text | None], opinions: Floats) -> tuple[tuple[Text, ...], Floats]:
    """Leave out responses that are missing, and of equal ones all but the first; (J, K) shrinks with them."""
    first_of: dict[str, int] = {}
    for place, response in enumerate(responses):
        if response:
            first_of.setdefault(as_text(response), place)
    kept = list(first_of.values())
    if len(kept) < 2:
        raise InputError(f"expected at least two different outputs, found {len(kept)}")
    return tuple(response for place in kept if (response := responses[place])), opinions[:, kept]
