"""The analyses on data whose dispersion is known by construction."""

from dataclasses import replace

import numpy as np
import pytest

from mallowspo.dispersion import ReferenceStatistics, rankings_index, raw_from_phi
from mallowspo.dispersion.analysis import PromptOpinion
from mallowspo.dispersion.panel import choice_entropy
from mallowspo.dispersion.people import LIKELIHOODS
from mallowspo.dispersion.rankings_analysis import analyse_rankings, opinion_of_rankings
from mallowspo.dispersion.rankings_file import RankingRows
from mallowspo.dispersion.reference_analysis import RowTexts, analyse_reference
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.side_by_side import side_by_side
from mallowspo.dispersion.votes_analysis import analyse_votes, opinion_of_votes
from mallowspo.dispersion.votes_file import VOTE_FORMS, VoteRows
from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel
from mallowspo.reports.dispersion.report import few_prompts

V = 64


def reference_rows(rng, prompts=40, pairs=3, noise=0.05, true=None):
    """Prompts whose answers have 4 tokens, the entropy of a choice among 5 spread over them."""
    true = rng.uniform(0.1, 2.5, prompts) if true is None else true
    owner = np.repeat(np.arange(prompts), pairs)
    entropy = choice_entropy(true, alternatives=5)[owner, None] * np.exp(noise * rng.normal(size=(len(owner), 2)))
    length = np.full((len(owner), 2), 4.0)
    logp = -rng.exponential(3.0, (len(owner), 2))
    statistics = ReferenceStatistics(logp, entropy, length, V, entropy, entropy)
    return statistics, [f"p{i}" for i in owner], true, owner


def test_the_table_trains_to_the_weights_that_it_shows(rng):
    statistics, names, *_ = reference_rows(rng)
    found = analyse_reference(statistics, names, settings=DispersionSettings())
    weight = found.columns["dispersion_weight"]
    assert weight.mean() == pytest.approx(1.0)
    # `dispersion: column` computes -2 log phi and scales it to mean 1.
    raw = raw_from_phi(found.columns["dispersion"])
    assert raw / raw.mean() == pytest.approx(weight)
    facts = found.summary
    assert facts["effective_sample_size"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert facts["effective_beta"][2]["beta"] == pytest.approx(0.1 * np.median(weight))


def test_each_way_to_the_weights_orders_prompts_by_their_dispersion(rng):
    statistics, names, true, owner = reference_rows(rng, noise=0.001)
    said = PromptOpinion(
        {f"p{i}": float(v) for i, v in enumerate(true)}, {f"p{i}": 9.0 for i in range(40)}, {}, "votes"
    )
    for change in (
        {},
        {"estimator": "answer_entropy", "map": "mallows", "alternatives": 5},
        {"estimator": "divergent_token", "map": "quantile"},
        {"estimator": "first_token", "map": "isotonic"},
    ):
        found = analyse_reference(statistics, names, settings=DispersionSettings(**change), people=said)
        weight = found.columns["dispersion_weight"]
        ordered = weight[np.argsort(true[owner], kind="stable")]
        assert (np.diff(ordered) > -0.02).all(), change
    # With the number of answers known, the spread itself comes back.
    settings = DispersionSettings(estimator="answer_entropy", map="mallows", alternatives=5)
    found = analyse_reference(statistics, names, settings=settings)
    assert found.columns["dispersion_weight"] == pytest.approx(true[owner] / true[owner].mean(), rel=0.02)
    flips = np.mean(np.exp(-true) / (1 + np.exp(-true)))
    assert found.summary["flip"]["rate"]["value"] == pytest.approx(flips, abs=0.005)
    assert found.summary["flip"]["scale_measured"]


def test_the_interval_holds_what_other_responses_would_have_given(rng):
    statistics, names, true, _ = reference_rows(rng, prompts=300, pairs=2, noise=0.2)
    found = analyse_reference(statistics, names, settings=DispersionSettings(estimator="answer_entropy"
                                                                             , map="quantile"))  # fmt: skip
    low, high = found.columns["index_low"], found.columns["index_high"]
    expected = np.repeat(choice_entropy(true, alternatives=5) / np.log(V), 2)
    assert 0.9 < ((low <= expected * 1.02) & (expected * 0.98 <= high)).mean() <= 1.0
    facts = found.summary["interval"]
    assert facts["known"] and 0.7 < facts["reliability"] < 1.0
    single = analyse_reference(statistics, [f"q{i}" for i in range(600)],
                               settings=DispersionSettings(estimator="reference_margin"))  # fmt: skip
    assert not single.summary["interval"]["known"] and np.isnan(single.columns["index_low"]).all()
    assert "single value" in single.summary["interval"]["why"]


def test_a_response_in_several_pairs_counts_once():
    # Three responses to one prompt as three pairs, and two responses to another: 3 + 2 values, 3 degrees of freedom.
    entropy = np.log(V) * np.array([[0.2, 0.3], [0.2, 0.4], [0.3, 0.4], [0.6, 0.7]])
    logp = -10 * entropy
    one = np.ones((4, 2))
    found = analyse_reference(
        ReferenceStatistics(logp, entropy, one, V), ["a", "a", "a", "b"], settings=DispersionSettings()
    )
    assert found.summary["interval"]["degrees"] == 3


def test_what_the_index_follows_is_found(rng):
    n = 60
    length = rng.integers(5, 50, (n, 2)).astype(float)
    entropy = length * np.log(V) * (0.2 + 0.01 * length.mean(axis=1, keepdims=True))
    statistics = ReferenceStatistics(-length, entropy, length, V)
    texts = RowTexts([f"prompt {i}" for i in range(n)], [("x", "y")] * n, reward_margin=rng.normal(size=n))
    facts = analyse_reference(
        statistics, [str(i) for i in range(n)], settings=DispersionSettings(), texts=texts
    ).summary
    found = {item["with"]: item for item in facts["correlations"]}
    assert found["response length (tokens)"]["value"] > 0.95
    assert found["reward margin in the data"]["low"] < 0 < found["reward margin in the data"]["high"]
    assert facts["agreed"][0]["index"] < facts["contested"][0]["index"]
    assert facts["agreed"][0]["prompt"].startswith("prompt") and facts["agreed"][0]["responses"] == ["x", "y"]


def test_votes_tell_flips_within_bounds(rng):
    # Pairs with their own flip probabilities, five voters each: the mean flip lies between the bounds.
    flip = rng.uniform(0, 0.4, 4000)
    minority = rng.binomial(5, flip)
    votes = np.column_stack([5 - minority, minority, np.zeros(4000)])
    rows = VoteRows(votes, [str(i) for i in range(4000)], np.arange(4000), [""] * 4000, [("", "")] * 4000, "")
    facts = analyse_votes(rows, settings=DispersionSettings(resamples=100)).summary
    low, high = facts["flip"]["bounds"]
    assert low <= flip.mean() <= high
    assert facts["flip"]["differ"]["value"] == pytest.approx(np.mean(2 * flip * (1 - flip)), abs=0.01)


def test_intervals_that_cover_too_little_are_pointed_out():
    def notes(votes):
        n = len(votes)
        names = [str(i) for i in range(n)]
        rows = VoteRows(np.array(votes, float), names, np.arange(n), [""] * n, [("", "")] * n, "")
        found = analyse_votes(rows, settings=DispersionSettings(resamples=100)).summary
        return found["notes"], " ".join(few_prompts(found))

    # Of four voters who toss a coin, all agree in 2 of 16 cases: then the interval ends below 1.
    found, words = notes([[2, 2, 0], [2, 2, 0], [3, 1, 0], [4, 0, 0], [3, 0, 0], [2, 2, 1], [1.5, 2.5, 0]])
    assert len(found) == 1 and "2 pairs" in found[0] and "0.88" in found[0] and "4 votes" in found[0]
    assert "7 prompts" in words
    found, words = notes([[3, 0, 0], [2, 1, 0]] * 15)
    assert found == [] and "prompts" not in words


def test_votes_are_summed_up_by_hand():
    votes = np.array([[3, 0, 0], [1, 2, 0], [0, 0, 3], [2, 0, 1], [0, 0, 0], [1, 0, 0]], float)
    names = ["a", "a", "b", "c", "d", "e"]
    responses = [(f"one two {i}", "three") for i in range(6)]
    rows = VoteRows(votes, names, np.arange(6), list("aabcde"), responses, VOTE_FORMS[0])
    facts = analyse_votes(rows, settings=DispersionSettings()).summary
    assert {name: facts[name] for name in ("voted", "decided", "contradicted", "unanimous", "all_tied")} == {
        "voted": 5, "decided": 3, "contradicted": 1, "unanimous": 1, "all_tied": 1,
    }  # fmt: skip
    assert facts["label_against_votes"] == 1 and facts["tie_share"] == pytest.approx(4 / 13)
    assert facts["contested"][0]["prompt"] == "a" and facts["contested"][0]["votes"] == [1, 2, 0]
    said = opinion_of_votes(rows, settings=DispersionSettings())
    assert set(said.neg_log_phi) == {"a", "b", "c", "e"} and said.diverging == {"a": True, "c": False}
    assert said.count == {"a": 6, "b": 3, "c": 3, "d": 0, "e": 1}
    with pytest.raises(InputError, match="split evenly on every prompt"):
        even = VoteRows(np.array([[1.0, 1, 0]]), ["a"], np.arange(1), [""], [("", "")], "")
        analyse_votes(even, settings=DispersionSettings())


def ranking_rows(rng, phis, people=30, items=5):
    models = [MallowsModel(rng.permutation(items) + 1, phi) for phi in phis]
    ranks = [model.sample(people, rng).astype(float) for model in models]
    names = [f"p{i}" for i in range(len(phis))]
    return RankingRows(ranks, names, names, [[f"r{i}" for i in range(items)]] * len(phis), ""), models


def test_rankings_are_fitted_both_ways_and_measured_by_the_truth(rng):
    rows, models = ranking_rows(rng, [0.2, 0.7], people=200)
    facts = analyse_rankings(rows, settings=DispersionSettings(fit_draws=19), truth=models[0].center).summary
    first, second = facts["detail"]
    assert first["kendall"]["phi"] == pytest.approx(0.2, abs=0.05)
    assert first["truth"] == {
        "center_distance": 0,
        "largest_distance": 10,
        "mean_distance": pytest.approx(first["kendall"]["mean_distance"]),
    }  # fmt: skip
    assert second["spearman"]["phi"] == pytest.approx(rankings_index([rows.ranks[1]], "spearman").phi_n[0])
    assert facts["equal_phi"]["p"] < 1e-6 and first["fit_p"] > 0.05
    assert [first["order"][rank - 1] for rank in models[0].center] == [f"r{i}" for i in range(5)]


def test_records_with_gaps_are_analysed_and_say_what_is_left_out(rng):
    rows, models = ranking_rows(rng, [0.3, 0.6], people=40)
    first = rows.ranks[0].copy()
    first[:20, 4] = np.nan  # Half of the people never saw the last item, and nobody saw it in the second prompt.
    second = rows.ranks[1].copy()
    second[:, 4] = np.nan
    rows = replace(rows, ranks=[first, second])
    found = analyse_rankings(rows, settings=DispersionSettings(fit_draws=19), truth=models[0].center)
    index = rankings_index([first, second], ties="unordered")
    assert found.columns["dispersion"].tolist() == index.phi_n.tolist()
    facts = found.summary
    assert facts["likelihood"] == [LIKELIHOODS["gaps"]] and any("no test of fit" in note for note in facts["notes"])
    assert all(item["fit_p"] is None and "mean_distance" not in item["truth"] for item in facts["detail"])
    shown = {item["prompt"]: dict(zip(item["responses"], item["mean_ranks"], strict=True))
             for item in (*facts["agreed"], *facts["contested"])}  # fmt: skip
    assert shown["p0"]["r4"] == pytest.approx(first[20:, 4].mean()) and np.isnan(shown["p1"]["r4"])
    with pytest.raises(InputError, match="prompt 0: distance: .*row 0"):
        analyse_rankings(rows, settings=DispersionSettings(distance="spearman"))


@pytest.mark.parametrize(
    ("people", "phi", "ties", "word"),
    [
        (12, 0.5, False, ""),  # simulated
        (12, 0.5, True, "people and a profile"),  # halves are not
        (60, 0.98, False, "the centre is a guess"),
        (300, 0.5, False, ""),
    ],
)
def test_ranking_intervals_that_cover_too_little_are_pointed_out(people, phi, ties, word, rng):
    rows, _ = ranking_rows(rng, [phi], people=people)
    if ties:
        rows.ranks[0][0] = 1.0
        rows = replace(rows, ties="half")
    notes = analyse_rankings(rows, settings=DispersionSettings(fit_draws=0)).summary["notes"]
    assert [word in note for note in notes] == [True] if word else notes == []


def test_the_test_of_fit_is_left_out_only_where_it_cannot_be(rng):
    rows, _ = ranking_rows(rng, [0.3, 0.3, 0.3], people=20)
    rows.ranks[1][0, :2] = 1.0  # one shared rank
    rows = replace(rows, counts=[np.ones(20), np.ones(20), np.full(20, 1.5)])
    settings = DispersionSettings(fit_draws=19)
    detail = analyse_rankings(rows, settings=settings).summary["detail"]
    assert [item["fit_p"] is None for item in detail] == [False, True, True]
    assert [item["people"] for item in detail] == [20, 20, 30]
    # A ranking that nobody gave is no shared rank.
    rows.counts[1][0] = 0
    detail = analyse_rankings(rows, settings=settings).summary["detail"]
    assert detail[1]["fit_p"] is not None and detail[1]["people"] == 19


def test_a_prompt_with_several_sets_of_responses_has_the_mean_of_them(rng):
    rows, _ = ranking_rows(rng, [0.2, 0.8, 0.5], people=40)
    rows = replace(rows, prompt_ids=["a", "a", "b"])
    each = rankings_index(rows.ranks).neg_log_phi_n
    said = opinion_of_rankings(rows, settings=DispersionSettings())
    assert said.neg_log_phi == pytest.approx({"a": each[:2].mean(), "b": each[2]})
    assert said.count == {"a": 40, "b": 40}


def test_equal_dispersion_is_rejected_as_often_as_it_should(rng):
    p = []
    for _ in range(150):
        rows, _ = ranking_rows(rng, [0.5, 0.5, 0.5], people=60)
        p.append(
            analyse_rankings(rows, settings=DispersionSettings(fit_draws=0, resamples=100)).summary["equal_phi"]["p"]
        )
    assert 0.0 <= np.mean(np.array(p) < 0.1) <= 0.2


def test_side_by_side_needs_common_prompts_and_finds_them(rng):
    rows, _ = ranking_rows(rng, [0.2, 0.4, 0.6, 0.8], people=80)
    said = opinion_of_rankings(rows, settings=DispersionSettings())
    found = side_by_side([0.1, 0.3, 0.5, 0.9, 0.9], ["p0", "p1", "p2", "p3", "other"], said, rng=rng).summary
    assert found["prompts"] == 4 and found["prompts_of_model"] == 5 and found["correlation"]["value"] == 1.0
    assert found["auroc"] is None
    with pytest.raises(InputError, match="1 of its 4 prompts are among the 1"):
        side_by_side([0.1], ["p0"], said, rng=rng)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"estimator": "median"}, "dispersion_estimator"),
        ({"map": "neglog", "estimator": "answer_entropy"}, "exceeds 1"),
        ({"map": "mallows"}, "alternatives"),
        ({"alternatives": 5}, "alternatives"),
        ({"spread": (0.1, 1.0)}, "spread"),
        ({"per": "row"}, "dispersion_per"),
        ({"distance": "cayley"}, "distance"),
        ({"level": 1.0}, "level: got 1.0"),
        ({"beta": 0.0}, "beta: got 0.0"),
        ({"vote_prior": 0.0}, "vote_prior"),
        ({"ranking_prior": -1.0}, "ranking_prior"),
        ({"fit_draws": -1}, "fit_draws"),
        ({"resamples": 10}, "resamples"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, match):
    with pytest.raises(InputError, match=match):
        DispersionSettings(**change)


def test_isotonic_without_people_is_refused(rng):
    statistics, names, *_ = reference_rows(rng, prompts=4)
    with pytest.raises(InputError, match="add --votes or --rankings"):
        analyse_reference(statistics, names, settings=DispersionSettings(map="isotonic"))
    with pytest.raises(InputError, match="no rows"):
        analyse_reference(statistics, [], settings=DispersionSettings())
