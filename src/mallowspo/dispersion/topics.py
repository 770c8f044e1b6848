"""Two indexes from answers that were sampled from the reference, for references whose answers are short.

`weighted_clusters`: entropy over clusters of answers that share their telling words, each answer weighted by the
probability that the reference gives it.

`topic_entropy`: the entropy of the whole answer, less what all prompts of a topic have in common. A topic is a set of
prompts that share answers. Its answers, taken together, would have an entropy of at most log N if people chose among
N alternatives; what they have beyond is wording, which says nothing of how much people differ about any one prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mallowspo.dispersion.answer_samples import SampledAnswer
from mallowspo.errors import InputError

__all__ = ["cluster_answers", "estimate_alternatives", "topic_entropy", "topics_of", "weighted_clusters"]

Floats = NDArray[np.float64]
Answers = Sequence[Sequence[SampledAnswer]]

_SAME = 0.5
"""Cosine from which two answers count as saying the same."""


def cluster_answers(texts: Sequence[Sequence[Sequence[Hashable]]], *, same: float = _SAME) -> list[list[int]]:
    """Put answers together that share their telling words: cosine of tf-idf vectors, the first fitting cluster wins.

    A word tells the more, the fewer prompts have it in any of their answers.
    """
    prompts_with = Counter(word for answers in texts for word in {word for answer in answers for word in answer})
    idf = {word: math.log((1 + len(texts)) / count) for word, count in prompts_with.items()}

    def vector(answer: Sequence[Hashable]) -> dict[Hashable, float]:
        weight = {word: count * idf[word] for word, count in Counter(answer).items()}
        norm = math.sqrt(sum(value**2 for value in weight.values())) or 1.0
        return {word: value / norm for word, value in weight.items()}

    return [_clusters([vector(answer) for answer in answers], same) for answers in texts]


def _clusters(vectors: Sequence[Mapping[Hashable, float]], same: float) -> list[int]:
    heads: list[Mapping[Hashable, float]] = []
    places = []
    for own in vectors:
        cosines = [sum(value * head.get(word, 0.0) for word, value in own.items()) for head in heads]
        place = next((i for i, cosine in enumerate(cosines) if cosine >= same), len(heads))
        if place == len(heads):
            heads.append(own)
        places.append(place)
    return places


def weighted_clusters(answers: Answers) -> Floats:
    """Entropy over clusters of sampled answers, each answer weighted by the reference's own probability of it.

    The probabilities of the distinct answers that were drawn are scaled to sum to 1. Between long answers nearly all
    weight falls on one of them: take `sampled_entropy` there.
    """
    clusters = cluster_answers([[answer.ids for answer in given] for given in answers])
    entropy = []
    for given, places in zip(answers, clusters, strict=True):
        logp = np.array([answer.logp for answer in given])
        share = np.bincount(places, weights=np.exp(logp - logp.max()))
        share = share[share > 0] / share.sum()
        entropy.append(float(-(share * np.log(share)).sum()))
    return np.array(entropy, np.float64) + 0.0


def topics_of(answers: Answers, *, least: int = 2, exchange: float = 0.004) -> NDArray[np.int64]:
    """Sets of prompts that share answers, directly or through others.

    Prompts that both give an answer at least `least` times belong together. Topics so found are then joined, the
    closest first, as long as a share `exchange` of the answers of either is at home in the other, on average: prompts
    on which people agree rarely give each other's answers.
    """
    number: dict[tuple[int, ...], int] = {}
    edges = [
        (prompt, len(answers) + number.setdefault(answer.ids, len(number)))
        for prompt, some in enumerate(answers)
        for answer in some
        if answer.count >= least
    ]
    prompt_e, answer_e = np.array(edges, np.intp).reshape(-1, 2).T
    size = len(answers) + len(number)
    graph = coo_array((np.ones(len(edges)), (prompt_e, answer_e)), shape=(size, size))
    topics = _numbered(connected_components(graph, directed=False)[1][: len(answers)].tolist())
    while topics.max() > 0:
        pools = _pools(answers, topics)
        total = np.maximum(1, np.array([pool.total() for pool in pools]))
        flow = np.zeros((len(pools), len(pools)))
        for i, j in permutations(range(len(pools)), 2):
            flow[i, j] = sum(n for y, n in pools[i].items() if pools[j][y] >= 0.003 * total[j] and y in pools[j])
        flow = flow / total[:, None]
        flow = (flow + flow.T) / 2
        near, far = divmod(int(flow.argmax()), len(pools))
        if flow[near, far] < exchange:
            break
        topics = _numbered(np.where(topics == far, near, topics).tolist())
    return topics


def _numbered(labels: Sequence[int]) -> NDArray[np.int64]:
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([number[label] for label in labels], np.int64)


def _pools(answers: Answers, topics: NDArray[np.int64]) -> list[Counter[tuple[int, ...]]]:
    """All answers of each topic with their counts."""
    pools: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(int(topics.max()) + 1)]
    for given, topic in zip(answers, topics, strict=True):
        for answer in given:
            pools[topic][answer.ids] += answer.count
    return pools


def _pooled_entropy(answers: Answers, topics: NDArray[np.int64]) -> Floats:
    """Entropy of all answers of a topic taken together, nats, one value per topic."""
    entropy = []
    for pool in _pools(answers, topics):
        share = np.array(list(pool.values()), np.float64) / max(1, pool.total())
        entropy.append(float(-(share * np.log(share)).sum()))
    return np.array(entropy) + 0.0


def estimate_alternatives(answers: Answers, *, quantile: float = 0.25) -> float:
    """Among how many answers people choose, as the plainer topics show: e to the entropy of a topic's answers.

    It is too large where wording varies in most topics, and too small where most prompts of a topic have one answer.
    """
    topics = topics_of(answers)
    return float(np.exp(np.quantile(_pooled_entropy(answers, topics)[topics], quantile)))


def topic_entropy(answers: Answers, *, alternatives: float) -> Floats:
    """Entropy of the answer, less the wording that all prompts of its topic share.

    u(x) = H(y | x) − max(0, H(y | topic of x) − log N). H(y | x) is the mean, over the sampled answers, of the
    entropies summed along them: the first token's part of it is exact.
    """
    if not alternatives >= 1:
        raise InputError(f"alternatives: got {alternatives}, expected a number of answers, at least 1")
    topics = topics_of(answers)
    wording = np.maximum(0.0, _pooled_entropy(answers, topics) - math.log(alternatives))
    entropy = np.array(
        [
            sum(answer.count * sum(answer.token_entropy) for answer in given) / sum(answer.count for answer in given)
            for given in answers
        ]
    )
    return np.asarray(np.maximum(0.0, entropy - wording[topics]), np.float64)
