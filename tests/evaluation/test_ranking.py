"""Rankings by comparisons: of judges whose order is known, of judges that err, and what is asked of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallowspo.dispersion import rankings_index
from mallowspo.errors import InputError
from mallowspo.evaluation.judge import Judge, Judgement
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.evaluation.ranking import comparisons, consensus, rank_answers

HERE = Path(".")


class Knowing(Judge):
    """Prefers the answer of the larger number; errs in so many comparisons, and counts what it is asked."""

    kind = "callable"

    def __init__(self, errs=0.0, seed=0):
        self.errs, self.rng, self.known = errs, np.random.default_rng(seed), {}

    @property
    def asked(self):
        return list(self.known)

    def judge(self, pairs, folder, progress=None):
        before = len(self.known)
        said = []
        for pair in pairs:
            key = (pair.prompt.index, pair.vote, pair.answer, pair.baseline)
            if key not in self.known:  # as the log of a judge remembers
                one, other = float(pair.answer), float(pair.baseline)
                right = (one > other) != (self.rng.random() < self.errs)
                self.known[key] = 0.5 if one == other else float(right)
            said.append(self.known[key])
        return Judgement(np.array(said), np.array(said), asked=2 * (len(self.known) - before))


def prompts(count):
    return [EvaluationPrompt(n, f"question {n}") for n in range(count)]


@settings(max_examples=80)
@given(st.lists(st.lists(st.integers(0, 99), min_size=2, max_size=9, unique=True), min_size=1, max_size=4), st.data())
def test_a_judge_that_knows_gives_the_order_in_few_comparisons(numbers, data):
    order = data.draw(st.sampled_from(["merge", "all"]))
    judge = Knowing()
    answers = [[str(number) for number in one] for one in numbers]
    ranked = rank_answers(judge, prompts(len(answers)), answers, HERE, order=order, votes=2, seed=3)
    for one, votes in zip(numbers, ranked.rankings, strict=True):
        assert votes[0] == votes[1] == [1 + sum(other > number for other in one) for number in one]
    most = 2 * sum(comparisons(len(one), order) for one in numbers)
    assert ranked.comparisons == len(judge.asked) <= most and ranked.asked == 2 * len(judge.asked)
    if order == "all":
        assert ranked.comparisons == most


def test_merge_sort_takes_at_most_so_many_comparisons_for_every_order():
    from itertools import permutations

    worst = 0
    for numbers in permutations(range(5)):
        judge = Knowing()
        rank_answers(judge, prompts(1), [[str(number) for number in numbers]], HERE, seed=1)
        worst = max(worst, len(judge.asked))
    assert worst <= comparisons(5) == 8


def test_ties_are_decided_by_lot_alike_every_time_and_counted():
    answers = [["1", "1.0", "2"]] * 40
    runs = [rank_answers(Knowing(), prompts(40), answers, HERE, seed=7) for _ in range(2)]
    assert runs[0].rankings == runs[1].rankings and runs[0].ties == 40
    first = [votes[0][0] for votes in runs[0].rankings]
    assert all(votes[0][2] == 1 for votes in runs[0].rankings) and 10 < first.count(2) < 30


@pytest.mark.parametrize("order", ["merge", "all"])
def test_the_more_a_judge_errs_the_more_dispersed_its_votes_are(order):
    answers = [[str(number) for number in range(5)]] * 60
    found = []
    for errs in (0.02, 0.2, 0.5):
        ranked = rank_answers(Knowing(errs), prompts(60), answers, HERE, order=order, votes=4)
        found.append(float(np.mean(rankings_index([np.array(votes) for votes in ranked.rankings]).phi_n)))
    # With four votes the centre fits some of the noise, so that chance alone does not reach 1.
    assert found[0] < 0.2 < found[1] < found[2] and found[2] > 0.55


def test_every_vote_is_asked_for_anew_and_the_progress_never_goes_back():
    judge, seen = Knowing(), []
    answers = [["3", "1", "2"], ["1", "2"]]
    ranked = rank_answers(
        judge, prompts(2), answers, HERE, votes=3, progress=lambda done, most, usage: seen.append((done, most))
    )
    assert {vote for _, vote, *_ in judge.asked} == {0, 1, 2} and len(ranked.rankings[0]) == 3
    assert seen == sorted(seen)


def test_consensus_and_refusals():
    assert consensus([[1, 2, 3], [2, 1, 3], [1, 2, 3]]) == [1, 2, 3]
    with pytest.raises(InputError, match="rank_order"):
        rank_answers(Knowing(), prompts(1), [["1", "2"]], HERE, order="bubble")
