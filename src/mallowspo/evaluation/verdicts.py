"""Verdicts on pairs of answers: what they are known by, what a log of them says, what they add up to.

A verdict is known by a digest of all that it depends on: the prompt, both answers, their order, the judge with its
parameters, and the template's version. The log of verdicts is therefore also the memory: what stands in it is not
asked again, by this run or the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.judge_prompt import UNDECIDED

__all__ = [
    "AnswerPair",
    "Judgement",
    "Prices",
    "Progress",
    "Task",
    "Tally",
    "Usage",
    "VerdictState",
    "judgement_of",
    "states_of",
    "tasks_for",
]

Floats = NDArray[np.float64]

REFUSED = "refused"
# Preference for the answer shown first.
FIRST_WINS = {"A": 1.0, "B": 0.0, "tie": 0.5}
MODEL_FIRST, BASELINE_FIRST = "model_first", "baseline_first"


@dataclass(frozen=True)
class AnswerPair:
    """What is judged: a prompt, the model's answer and the baseline's; and the row of the data that it came from."""

    prompt: str
    answer: str
    baseline: str
    row: int | None = None

    def shown(self, order: str) -> tuple[str, str]:
        """The answers as A and B."""
        return (self.answer, self.baseline) if order == MODEL_FIRST else (self.baseline, self.answer)


@dataclass(frozen=True)
class Prices:
    """What a judge's tokens cost, in the user's currency per million tokens."""

    prompt: float
    completion: float

    @classmethod
    def parse(cls, text: str) -> Prices:
        """Read `IN,OUT`, such as `2.5,10`.

        Raises:
            InputError: There are not two numbers of at least 0.

        Example:
            >>> Prices.parse("2.5,10").completion
            10.0
        """
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        if len(values) != 2 or not all(0 <= value < float("inf") for value in values):
            raise InputError(f"judge_prices: got {text!r}, expected IN,OUT per million tokens, such as 2.5,10")
        return cls(*values)


@dataclass(frozen=True)
class Usage:
    """What the verdicts in a log took, over all runs that wrote to it.

    Attributes:
        replies: Replies of the judge, undecided ones included.
        prompt_tokens: As the server counted.
        completion_tokens: As the server counted.
        without_count: Replies for which the server gave no count.
        cost: In the currency of the prices; None where none were given.
    """

    replies: int
    prompt_tokens: int
    completion_tokens: int
    without_count: int
    cost: float | None


Progress = Callable[[int, int, Usage | None], None]


@dataclass(frozen=True)
class Judgement:
    """The verdicts on N pairs.

    Attributes:
        model_first_n: Preference for the model when its answer stood first, in [0, 1]; ½ is a tie. Shape (N,).
        model_second_n: The same with its answer second. Shape (N,).
        both_orders: Whether the two were asked apart; a reward model scores an answer alone, without an order.
        identical: Pairs with the same text twice, ties without being asked about.
        undecided: Verdicts (of 2N) that stayed undecided after all attempts, counted as ties.
        refused: Verdicts that the server refused to give, such as for a prompt too long, counted as ties.
        asked: Verdicts that this run asked for; the rest was in the log.
        usage: Tokens and cost.
        details: What else the judge tells, such as mean rewards.
    """

    model_first_n: Floats
    model_second_n: Floats
    both_orders: bool = True
    identical: int = 0
    undecided: int = 0
    refused: int = 0
    asked: int = 0
    usage: Usage | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One verdict to be had."""

    key: str
    pair: AnswerPair
    order: str
    prompt_index: int


@dataclass
class VerdictState:
    """What is known of one verdict.

    Attributes:
        verdict: `A`, `B`, `tie` or a preference for A; None while there is none.
        undecided: Replies so far that could not be read.
        last_reply: The last of these.
        refused: Whether the server refused the request in this run; the next run asks again, since that costs nothing.
    """

    verdict: str | float | None = None
    undecided: int = 0
    last_reply: str = ""
    refused: bool = False


def _check_record(record: Mapping[str, Any], where: str) -> None:
    verdict = record.get("verdict")
    fine = (
        verdict in (*FIRST_WINS, UNDECIDED, REFUSED)
        if isinstance(verdict, str)
        else isinstance(verdict, int | float) and not isinstance(verdict, bool) and 0 <= verdict <= 1
    )
    if not fine or not isinstance(record.get("key"), str):
        raise InputError(
            f"{where} has the key {record.get('key')!r} and the verdict {verdict!r}, expected a key and one of "
            f"{', '.join((*FIRST_WINS, UNDECIDED, REFUSED))} or a preference in [0, 1]; take the line out, or give "
            "another output_dir"
        )
    for name in ("prompt_tokens", "completion_tokens"):
        count = record.get(name)
        if count is not None and (not isinstance(count, int) or count < 0):
            raise InputError(f"{where} has {count!r} as {name}, expected a number of tokens; take the line out")


def states_of(records: Sequence[Mapping[str, Any]], source: str = "verdicts") -> dict[str, VerdictState]:
    """Read a log of verdicts.

    Args:
        records: Its lines, in order.
        source: The log's name, for the message.

    Returns:
        Key -> what is known. A verdict that was written twice counts once, and the first one stands.

    Raises:
        InputError: A line holds no verdict, or one out of range.
    """
    states: dict[str, VerdictState] = {}
    for number, record in enumerate(records, start=1):
        _check_record(record, f"{source}: line {number}")
        state = states.setdefault(str(record.get("key")), VerdictState())
        verdict = record.get("verdict")
        if state.verdict is not None or verdict == REFUSED:
            continue
        if verdict == UNDECIDED:
            state.undecided += 1
            state.last_reply = str(record.get("reply", ""))
        else:
            state.verdict = verdict
    return states


def tasks_for(pairs: Sequence[AnswerPair], **judge: Any) -> list[list[Task]]:
    """List the verdicts that are wanted.

    Args:
        pairs: What to judge.
        **judge: All that a verdict depends on beside the pair and the order.

    Returns:
        For each pair both orders; none for a pair whose answers are the same, which is a tie.
    """
    tasks: list[list[Task]] = []
    for index, pair in enumerate(pairs):
        both = []
        if pair.answer != pair.baseline:
            for order in (MODEL_FIRST, BASELINE_FIRST):
                first, second = pair.shown(order)
                key = key_of(prompt=pair.prompt, first=first, second=second, **judge)
                both.append(Task(key, pair, order, index if pair.row is None else pair.row))
        tasks.append(both)
    return tasks


def judgement_of(tasks: Sequence[Sequence[Task]], states: Mapping[str, VerdictState], **known: Any) -> Judgement:
    """Gather the verdicts of all pairs.

    Args:
        tasks: From `tasks_for`.
        states: Key -> what is known of each.
        **known: Further fields of the judgement.

    Returns:
        The judgement; what has no verdict is a tie there, and counted.
    """
    preferences = np.full((2, len(tasks)), 0.5)
    undecided = refused = 0
    for index, both in enumerate(tasks):
        for row, task in enumerate(both):
            state = states[task.key]
            if state.verdict is None:
                refused += state.refused
                undecided += not state.refused
                continue
            first_wins = FIRST_WINS[state.verdict] if isinstance(state.verdict, str) else float(state.verdict)
            preferences[row, index] = first_wins if row == 0 else 1.0 - first_wins
    return Judgement(
        model_first_n=preferences[0],
        model_second_n=preferences[1],
        identical=sum(not both for both in tasks),
        undecided=undecided,
        refused=refused,
        **known,
    )


class Tally:
    """Counts verdicts and tokens while threads bring them in.

    Args:
        total: Verdicts wanted.
        prices: For the cost.
        progress: Called after each change.
    """

    def __init__(self, total: int, prices: Prices | None, progress: Progress | None) -> None:
        self._total = total
        self._prices = prices
        self._progress = progress
        self._lock = threading.Lock()
        self._done = self._replies = self._prompt = self._completion = self._without = 0

    def add_reply(self, record: Mapping[str, Any]) -> None:
        """Count the tokens of one line of the log."""
        if record.get("verdict") == REFUSED:
            return
        with self._lock:
            self._replies += 1
            self._prompt += record.get("prompt_tokens") or 0
            self._completion += record.get("completion_tokens") or 0
            self._without += record.get("prompt_tokens") is None

    def add_done(self, number: int = 1) -> None:
        """Count verdicts that need no more work, and show it."""
        with self._lock:
            self._done += number
            done = self._done
        if self._progress is not None:
            self._progress(done, self._total, self.usage())

    def usage(self) -> Usage:
        """What the replies took so far."""
        with self._lock:
            cost = None
            if self._prices is not None:
                cost = (self._prompt * self._prices.prompt + self._completion * self._prices.completion) / 1e6
            return Usage(self._replies, self._prompt, self._completion, self._without, cost)
