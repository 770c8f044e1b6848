"""Indexes of sampled answers, on populations whose answers are written by hand."""

import math

import pytest

from mallowspo.dispersion.answer_samples import SampledAnswer
from mallowspo.dispersion.topics import (
    cluster_answers,
    estimate_alternatives,
    topic_entropy,
    topics_of,
    weighted_clusters,
)
from mallowspo.errors import InputError

SAMPLES = 1_000


def answers_of(content, *, topic, wordings=1):
    """Answers "content, wording" with content's probabilities, each wording as likely."""
    entropy = -sum(p * math.log(p) for p in content if p > 0) + math.log(wordings)
    return [
        SampledAnswer((10 * topic + k, 900 + s), round(SAMPLES * p / wordings), (math.log(p / wordings),), (entropy,))
        for k, p in enumerate(content)
        for s in range(wordings)
        if p > 0
    ]


def entropy(content):
    return -sum(p * math.log(p) for p in content if p > 0)


@pytest.fixture(scope="module")
def population():
    """Two topics; in the first everything is worded in four ways."""
    contents = [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]
    worded = [answers_of(content, topic=1, wordings=4) for content in contents]
    plain = [answers_of(content, topic=2) for content in contents]
    return contents, worded + plain


def test_topics_are_those_that_share_answers(population):
    _, answers = population
    assert topics_of(answers).tolist() == [0] * 5 + [1] * 5


def test_topics_that_hardly_exchange_answers_are_still_joined():
    # Nobody gives an answer of the other group twice, but now and then once.
    first = [SampledAnswer((1,), 30, (0.0,), (0.0,)), SampledAnswer((2,), 1, (-3.0,), (0.0,))]
    second = [SampledAnswer((2,), 30, (0.0,), (0.0,)), SampledAnswer((1,), 1, (-3.0,), (0.0,))]
    other = [SampledAnswer((3,), 31, (0.0,), (0.0,))]
    assert topics_of([first, second, other]).tolist() == [0, 0, 1]
    assert topics_of([first[:1], second[:1], other]).tolist() == [0, 1, 2]


def test_topic_entropy_takes_the_wording_away_and_the_content_not(population):
    contents, answers = population
    found = topic_entropy(answers, alternatives=3)
    # Three answers are nearly as frequent as one another over each topic, so that log 3 is right for both.
    assert found[:5] == pytest.approx([entropy(content) for content in contents], abs=0.02)
    assert found[5:] == pytest.approx([entropy(content) for content in contents], abs=1e-9)
    assert estimate_alternatives(answers) == pytest.approx(3, rel=0.02)
    with pytest.raises(InputError, match="alternatives"):
        topic_entropy(answers, alternatives=0.5)


def test_clusters_are_weighted_by_the_model_s_own_probability(population):
    contents, answers = population
    # The wordings are common, so that they tell nothing: twenty other prompts have them.
    others = [[SampledAnswer((900 + s,), 1, (0.0,), (0.0,)) for s in range(4)]] * 20
    found = weighted_clusters([*answers, *others])[: len(answers)]
    assert found == pytest.approx([entropy(content) for content in contents] * 2, abs=1e-9)


def test_common_words_join_nothing_and_telling_words_do():
    others = [[["and", "so"], ["and", "then"]]] * 8
    found = cluster_answers([[["red", "and", "so"], ["red", "and", "then"], ["blue", "and", "so"]], *others])
    assert found[0] == [0, 0, 1]


def test_a_single_prompt_of_one_answer_has_no_entropy():
    assert topic_entropy([answers_of([1.0], topic=1)], alternatives=5).tolist() == [0.0]
