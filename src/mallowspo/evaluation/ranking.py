"""Rankings of several answers to a prompt, from a judge that compares two at a time.

Each vote on a list is a ranking of its own: by merge sort, or from all pairs. A judge that is asked again for another
vote may say another thing, and so may the two orders of one comparison; how far votes differ is the list's dispersion.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.errors import not_one_of
from mallowspo.evaluation.judge import AnswerPair, Judge, Judgement
from mallowspo.evaluation.prompts import EvaluationPrompt

__all__ = ["ORDERS", "RankedLists", "comparisons", "consensus", "rank_answers"]

ORDERS = ("merge", "all")
"""How a ranking is found: by merge sort, or from all pairs."""

# Asks about pairs of answers; is sent whether the first of each is the better one. Its end is the order, best first.
_Sorting = Generator[list[tuple[int, int]], list[bool], list[int]]


@dataclass(frozen=True)
class RankedLists:
    """What a judge said of N lists."""

    rankings: list[list[list[int]]]  # of each list, of each vote: the rank of each answer, 1 is best
    comparisons: int
    asked: int  # verdicts asked for by this run; the rest was in the log
    ties: int  # comparisons in which neither answer won, decided by lot
    undecided: int
    refused: int
    usage: Any  # of the judge, where it counts tokens
    answered_by: Mapping[str, int]  # model that a server says it was → verdicts


def comparisons(answers: int, order: str = "merge") -> int:
    """The most comparisons that one ranking of so many answers takes.

    Example:
        >>> comparisons(4), comparisons(8), comparisons(8, "all")
        (5, 17, 28)
    """
    if order == "all":
        return answers * (answers - 1) // 2
    depth = (answers - 1).bit_length()
    return answers * depth - 2**depth + 1


def rank_answers(
    judge: Judge,
    prompts: Sequence[EvaluationPrompt],
    answers: Sequence[Sequence[str]],
    folder: Path,
    *,
    order: str = "merge",
    votes: int = 1,
    seed: int = 0,
    progress: Callable[[int, int, Any], None] | None = None,
) -> RankedLists:
    """Let a judge rank the answers to each prompt, so many votes each.

    Every comparison is asked in both orders, where the judge sees two answers at a time; a tie is decided by lot, and
    so is the order in which answers are sorted. Equal answers to one prompt are not told apart by the judge either.

    Args:
        judge: Whom to ask.
        prompts: N prompts.
        answers: Of each prompt its answers, two or more.
        folder: Where the judge keeps its log; what stands there is not asked again.
        order: `merge` takes at most `comparisons(K)` comparisons, `all` K (K - 1)/2.
        votes: Rankings of each list.
        seed: Of the lots.
        progress: Gets comparisons done, the most that there may be, and the judge's usage.

    Returns:
        The rankings.

    Raises:
        InputError: An order that is none, or the judge cannot be asked.

    Source:
        Ailon, Charikar and Newman, JACM 2008, for rankings from comparisons that contradict each other.
    """
    if order not in ORDERS:
        raise not_one_of("rank_order", order, ORDERS)
    sort = _all_pairs if order == "all" else _merge_sort
    most = votes * sum(comparisons(len(texts), order) for texts in answers)
    rngs = {(n, vote): np.random.default_rng([seed, n, vote]) for n in range(len(prompts)) for vote in range(votes)}
    running: dict[tuple[int, int], _Sorting] = {}
    wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
    found: dict[tuple[int, int], list[int]] = {}

    def go_on(key: tuple[int, int], better: list[bool] | None) -> None:
        try:
            wanted[key] = next(running[key]) if better is None else running[key].send(better)
        except StopIteration as ended:
            wanted.pop(key, None)
            found[key] = ended.value

    for key, rng in rngs.items():
        running[key] = sort(rng.permutation(len(answers[key[0]])).tolist())
        go_on(key, None)
    done = asked = ties = 0
    everything: list[AnswerPair] = []
    while wanted:
        asking = [(n, vote, one, other) for (n, vote), pairs in wanted.items() for one, other in pairs]
        pairs = [AnswerPair(prompts[n], answers[n][one], answers[n][other], vote) for n, vote, one, other in asking]

        def told(part: int, total: int, so_far: Any, done: int = done, count: int = len(pairs)) -> None:
            if progress is not None:
                progress(min(done + count * part // max(total, 1), most), most, None)

        judgement = judge.judge(pairs, folder, told)
        better: dict[tuple[int, int], list[bool]] = {key: [] for key in wanted}
        for (n, vote, *_), preference in zip(asking, _preferences(judgement), strict=True):
            tie = preference == 0.5
            ties += tie
            better[n, vote].append(bool(rngs[n, vote].integers(2)) if tie else preference > 0.5)
        for key, said in better.items():
            go_on(key, said)
        done, asked = done + len(pairs), asked + judgement.asked
        everything += pairs
    # Asks about nothing that was answered, and counts each verdict once, whatever the round in which it was had.
    whole = judge.judge(everything, folder)
    rankings = [
        [[found[n, vote].index(place) + 1 for place in range(len(answers[n]))] for vote in range(votes)]
        for n in range(len(prompts))
    ]
    return RankedLists(
        rankings, done, asked + whole.asked, ties, whole.undecided, whole.refused, whole.usage, whole.answered_by
    )


def consensus(rankings: Sequence[Sequence[int]]) -> list[int]:
    """One ranking of several, by mean rank, in which answers may share a rank; where all would, the first vote's.

    Example:
        >>> consensus([[1, 2, 3], [1, 3, 2]]), consensus([[1, 2], [2, 1]])
        ([1, 2, 2], [1, 2])
    """
    mean = np.asarray(rankings, np.float64).mean(axis=0)
    if (mean == mean[0]).all():
        return list(rankings[0])
    return [1 + int((mean < value).sum()) for value in mean]


def _preferences(judgement: Judgement) -> list[float]:
    """Preference for the first of each pair: ½ where the two orders contradict each other."""
    both = (judgement.model_first_n + judgement.model_second_n) / 2
    return [float(value) for value in np.where(np.abs(both - 0.5) < 1e-12, 0.5, both)]


def _merge_sort(items: list[int]) -> _Sorting:
    """Sort by comparisons that somebody else makes; best first."""
    if len(items) < 2:
        return items
    middle = len(items) // 2
    left = yield from _merge_sort(items[:middle])
    right = yield from _merge_sort(items[middle:])
    merged: list[int] = []
    while left and right:
        (left_wins,) = yield [(left[0], right[0])]
        merged.append((left if left_wins else right).pop(0))
    return merged + left + right


def _all_pairs(items: list[int]) -> _Sorting:
    """Sort by the number of answers that each wins against; equal numbers as they were drawn."""
    wins = dict.fromkeys(items, 0)
    pairs = list(combinations(items, 2))
    won = yield pairs
    for (one, other), first_wins in zip(pairs, won, strict=True):
        wins[one if first_wins else other] += 1
    return sorted(items, key=lambda item: -wins[item])
