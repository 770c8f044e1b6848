"""Dispersion from people against the Beta law, the likelihood itself, simulation, and real rankings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import beta, binom, chi2

from mallowspo.dispersion import people
from mallowspo.dispersion.people import goodness_of_fit, rankings_index, vote_interval_coverage, votes_index
from mallowspo.errors import InputError
from mallowspo.maths import MAX_NEG_LOG_PHI, MallowsModel

counts = st.integers(0, 200)
NAN = float("nan")


def test_votes_by_hand():
    # (3 + .5)/(3 + 1 + 1) = 0.7 → φ = 3/7; with two ties each side gets one more: (4 + .5)/(6 + 1) = 9/14 → 5/9.
    index = votes_index([[3, 1, 0], [1, 3, 0], [3, 1, 2], [0, 0, 4]])
    assert index.agreement_n == pytest.approx([0.7, 0.7, 9 / 14, 0.5])
    assert index.phi_n == pytest.approx([3 / 7, 3 / 7, 5 / 9, 1.0])
    assert index.neg_log_phi_n == pytest.approx(-np.log(index.phi_n))
    assert index.votes_n.tolist() == [4, 4, 6, 4]
    assert votes_index([[3, 1]], prior=1.0).agreement_n == pytest.approx([4 / 6])


@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=20).filter(lambda rows: any(map(any, rows))))
def test_votes_properties(rows):
    votes = np.array(rows)
    index = votes_index(votes)
    assert ((index.agreement_n >= 0.5) & (index.agreement_n < 1)).all()
    assert ((index.phi_n > 0) & (index.phi_n <= 1)).all()
    assert (index.phi_low_n <= index.phi_high_n).all() and (index.phi_high_n <= 1).all()
    voted = index.voted_n
    assert (index.phi_low_n <= index.phi_n + 1e-12)[voted].all() and (index.phi_n <= index.phi_high_n + 1e-12)[
        voted
    ].all()
    # Whoever is called chosen, the dispersion is the same.
    mirrored = votes_index(votes[:, [1, 0, 2]])
    assert mirrored.phi_n == pytest.approx(index.phi_n) and mirrored.phi_low_n == pytest.approx(index.phi_low_n)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_is_the_image_of_the_beta_interval(level):
    index = votes_index([[18, 2], [2, 18], [6, 5]], level=level)
    theta = beta(18.5, 2.5).ppf([(1 - level) / 2, (1 + level) / 2])
    expected_high, expected_low = (1 - theta) / theta
    assert index.phi_low_n[:2] == pytest.approx([expected_low] * 2)
    assert index.phi_high_n[:2] == pytest.approx([expected_high] * 2)
    assert index.phi_high_n[2] == (1.0 if level == 0.95 else pytest.approx(1.0))
    # Posterior probability that φ is inside, by simulation.
    share = beta(6.5, 5.5).rvs(200_000, random_state=np.random.default_rng(3))
    phi = np.minimum(share, 1 - share) / np.maximum(share, 1 - share)
    assert ((phi >= index.phi_low_n[2]) & (phi <= index.phi_high_n[2])).mean() >= level - 0.01


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_the_vote_interval_covers_the_truth(share, rng):
    chosen = rng.binomial(20, share, size=3000)
    index = votes_index(np.column_stack([chosen, 20 - chosen]))
    phi = (1 - share) / share
    assert ((index.phi_low_n <= phi) & (phi <= index.phi_high_n)).mean() > 0.92


@pytest.mark.parametrize(("votes", "phi"), [(3, 0.3), (4, 0.95), (5, 0.05), (10, 0.28), (30, 1.0)])
@pytest.mark.parametrize(("prior", "level"), [(0.5, 0.95), (1.0, 0.8)])
def test_the_coverage_of_vote_intervals_is_that_of_simulated_voters(votes, phi, prior, level, rng):
    better = rng.binomial(votes, 1 / (1 + phi), size=20_000)
    index = votes_index(np.column_stack([better, votes - better]), prior=prior, level=level)
    simulated = ((index.phi_low_n <= phi) & (phi <= index.phi_high_n)).mean()
    assert vote_interval_coverage(votes, phi, prior=prior, level=level) == pytest.approx(simulated, abs=0.012)


@pytest.mark.parametrize(
    ("votes", "phi", "ends"), [(3, 0.1, (0.2, 0.3)), (3, 0.9, (0.45, 0.5)), (30, 0.9, (0.7, 0.8))]
)
def test_averages_of_few_votes_are_drawn_to_the_middle(votes, phi, ends):
    # What docs/dispersion.md says, exactly: the mean over all outcomes by their chance.
    better = np.arange(votes + 1)
    mean = binom.pmf(better, votes, 1 / (1 + phi)) @ votes_index(np.column_stack([better, votes - better])).phi_n
    assert ends[0] < mean < ends[1]


def test_a_row_without_votes_stays_at_the_mean():
    nan = float("nan")
    index = votes_index([[9, 1, 0], [0, 0, 0], [nan, nan, nan], [4, nan, 1], [3, 1, nan]])
    assert index.voted_n.tolist() == [True, False, False, False, True]
    assert index.neg_log_phi_n[1:4] == pytest.approx([index.neg_log_phi_n[[0, 4]].mean()] * 3)
    assert index.phi_n[4] == pytest.approx(3 / 7)
    assert (index.phi_low_n[1:4] < 0.01).all() and (index.phi_high_n[1:4] == 1).all()


@pytest.mark.parametrize(
    ("votes", "options", "message"),
    [
        ([[0, 0], [0, 0]], {}, "none of the 2 rows has a vote"),
        ([[1, 2, 3, 4]], {}, r"got shape \(1, 4\)"),
        ([3, 1], {}, r"got shape \(2,\)"),
        ([[3, 1], [-1, 2]], {}, "row 1 has"),
        ([["a", "b"]], {}, "expected numbers"),
        ([[3, 1]], {"prior": 0.0}, "prior: got 0.0"),
        ([[3, 1]], {"level": 95}, "level: got 95"),
    ],
)
def test_unusable_votes_are_refused(votes, options, message):
    with pytest.raises(InputError, match=message):
        votes_index(votes, **options)


@pytest.mark.parametrize("distance", ["kendall", "spearman"])
def test_rankings_of_different_prompts(distance, rng):
    models = [MallowsModel(rng.permutation(n) + 1, phi, distance) for n, phi in ((4, 0.3), (6, 0.8), (5, 0.99))]
    samples = [model.sample(60, rng) for model in models]
    index = rankings_index(samples, distance)
    assert index.rankings_n.tolist() == [60, 60, 60]
    assert index.centers[0].tolist() == models[0].center.tolist()
    for prompt, sample in enumerate(samples):
        fitted = MallowsModel.fit(sample, distance)
        assert index.phi_n[prompt] == pytest.approx(fitted.phi)
        # The ends of the interval are where the likelihood itself has fallen by χ²/2.
        best = fitted.log_prob(sample).sum()
        for phi in (index.phi_low_n[prompt], index.phi_high_n[prompt]):
            drop = best - MallowsModel(fitted.center, phi, distance).log_prob(sample).sum()
            limit = chi2.ppf(0.95, 1) / 2
            assert drop == pytest.approx(limit, rel=1e-6) if phi < 1 else drop <= limit


def test_the_ranking_interval_covers_the_truth(rng):
    model = MallowsModel([1, 2, 3, 4, 5], 0.5)
    index = rankings_index([model.sample(30, rng) for _ in range(200)])
    assert ((index.phi_low_n <= 0.5) & (index.phi_high_n >= 0.5)).mean() > 0.9
    assert index.phi_n.mean() == pytest.approx(0.5, abs=0.02)


def test_agreement_has_a_floor_and_a_prior_softens_it():
    same = [[[1, 2, 3]] * 3]
    index = rankings_index(same)
    assert index.neg_log_phi_n[0] == pytest.approx(MAX_NEG_LOG_PHI)
    assert index.phi_low_n[0] == pytest.approx(np.exp(-MAX_NEG_LOG_PHI)) and 0 < index.phi_high_n[0] < 1
    softened = rankings_index(same, prior=0.5)
    assert 0.1 < softened.phi_n[0] < 0.3
    # The prior adds half a uniform ranking (mean distance 3/2) to three at distance 0.
    assert MallowsModel([1, 2, 3], softened.phi_n[0]).expected_distance() == pytest.approx(0.5 * 1.5 / 3.5)


def test_disagreement_gives_one():
    index = rankings_index([[[1, 2], [2, 1]]])
    assert index.phi_n[0] == 1.0 and index.phi_high_n[0] == 1.0 and index.phi_low_n[0] < 0.5


@pytest.mark.parametrize(
    ("rankings", "options", "message"),
    [
        ([], {}, "no prompt"),
        ([[[1, 2], [1, 2]], [[1, 2]]], {}, "prompt 1: rankings: got 1 ranking"),
        ([[[1, 2], [1, 1]]], {}, "prompt 0: .*without ties"),
        ([[[1, 2], [1, 2]]], {"distance": "cayley"}, "'kendall', 'spearman'"),
        ([[[1, 2], [1, 2]]], {"prior": -1.0}, "prior"),
        ([[[1, 2], [1, 2]]], {"level": 0.0}, "level"),
        ([[[1, 2], [1, 2]]], {"ties": "random"}, "ties"),
        ([[[1, 1, 3], [1, NAN, 2]]], {"ties": "half"}, "row 1 has no rank for response 1"),
        ([[[1, 2, 3], [1, 2, NAN]]], {"ties": "unordered", "distance": "spearman"}, "row 1 "),
        ([[[1, 2, 3], [1, 2, NAN]]], {"ties": "error"}, "at 1"),
        *(
            ([rankings], {"ties": ties}, f"^prompt 0: rankings.*{match}")
            for ties in people.TIES
            for rankings, match in (
                ([[1], [1]], "at least 2 responses"),
                ([[], []], "at least 2 responses"),
                ([1, 2], "shape"),
                ([["a", "b"]], "expected numbers"),
                ([[1, 2, 3]], "needs at least 2"),
            )
        ),
    ],
)
def test_unusable_rankings_are_refused(rankings, options, message):
    with pytest.raises(InputError, match=message):
        rankings_index(rankings, **options)


def test_goodness_of_fit_is_level_and_sees_two_camps(rng):
    model = MallowsModel([1, 2, 3, 4], 0.5)
    p_values = [goodness_of_fit(model.sample(15, rng), rng=rng, draws=40) for _ in range(40)]
    assert np.mean(np.array(p_values) < 0.1) < 0.25
    assert 0.3 < np.mean(p_values) < 0.7
    # Two camps: every pair is split evenly, so that only the joint distribution gives them away.
    assert goodness_of_fit([[1, 2, 3, 4]] * 8 + [[4, 3, 2, 1]] * 8, rng=rng, draws=100) < 0.02
    with pytest.raises(InputError, match="draws"):
        goodness_of_fit([[1, 2], [2, 1]], rng=rng, draws=0)


def with_gaps(rng, phi=0.5, people=200, items=5):
    """Rankings of which each person gave a part: some items stay out, and of the rest some share the last rank."""
    ranks = MallowsModel(range(1, items + 1), phi).sample(people, rng).astype(float)
    ranks[rng.random(ranks.shape) < 0.3] = NAN
    top = rng.integers(2, items + 1, (people, 1))
    return np.where(ranks > top, items + 1, ranks)


def test_partial_rankings_of_many_items_take_the_chance_of_every_pair(rng, monkeypatch):
    monkeypatch.setattr(people, "_EXACT_BUDGET", 0)
    ranks = with_gaps(rng)
    weights = rng.integers(1, 4, len(ranks))
    index = rankings_index([ranks], ties="unordered", counts=[weights])
    assert index.likelihoods == ("pairs",)
    center = index.centers[0]

    def cost(phi):
        """Minus the composite log-likelihood, from the model's own table of pairs."""
        chance = MallowsModel(center, phi).pairwise_matrix()
        ahead = ranks[:, :, None] < ranks[:, None, :]
        return -float(weights @ np.where(ahead, np.log(np.where(ahead, chance, 1)), 0).sum(axis=(1, 2)))

    best = minimize_scalar(cost, bounds=(1e-6, 1), method="bounded", options={"xatol": 1e-10}).x
    assert index.phi_n[0] == pytest.approx(best, abs=1e-5)
    # One person's pairs hang together: the interval is wider than where the pairs' own likelihood falls by chi2 / 2.
    for phi in (index.phi_low_n[0], index.phi_high_n[0]):
        assert cost(phi) - cost(best) > chi2.ppf(0.95, 1) / 2


def test_pairs_and_the_exact_likelihood_agree_on_many_people(rng, monkeypatch):
    ranks = with_gaps(rng, phi=0.6, people=3000)
    exact = rankings_index([ranks], ties="unordered")
    monkeypatch.setattr(people, "_EXACT_BUDGET", 0)
    pairs = rankings_index([ranks], ties="unordered")
    assert (exact.likelihoods, pairs.likelihoods) == (("gaps",), ("pairs",))
    for index in (exact, pairs):
        assert index.phi_n[0] == pytest.approx(0.6, abs=0.03)
        assert index.phi_low_n[0] < 0.6 < index.phi_high_n[0]


def test_the_interval_of_pairs_covers_the_truth(rng, monkeypatch):
    monkeypatch.setattr(people, "_EXACT_BUDGET", 0)
    index = rankings_index([with_gaps(rng, people=60) for _ in range(200)], ties="unordered")
    assert 0.88 < ((index.phi_low_n <= 0.5) & (index.phi_high_n >= 0.5)).mean()


@pytest.mark.parametrize("ties", ["unordered", "half"])
def test_where_all_is_tied_nothing_is_known(ties):
    index = rankings_index([[[1, 1, 1]] * 4, [[1, 1], [1, 1]]], ties=ties)
    assert index.phi_n.tolist() == [1, 1] and index.phi_high_n.tolist() == [1, 1]
    if ties == "unordered":  # All of (0, 1]: no order was given. Halves are people at random, who do show scatter.
        assert index.phi_low_n == pytest.approx([np.exp(-MAX_NEG_LOG_PHI)] * 2)
    gone = rankings_index([[[1, NAN, NAN], [NAN, 1, NAN], [NAN, NAN, 1]]], ties="unordered")
    assert gone.phi_n[0] == 1 and gone.phi_low_n == pytest.approx([np.exp(-MAX_NEG_LOG_PHI)])


@pytest.mark.parametrize("distance", ["kendall", "spearman"])
def test_a_ranking_that_nobody_gave_changes_nothing(distance):
    given = [[1, 2, 3], [2, 1, 3], [1, 3, 2]]
    bare = rankings_index([given], distance, counts=[[3, 1, 1]])
    for beside in ([3, 2, 1], [1, 1, 3], [NAN, 1, 2]):
        more = rankings_index([[*given, beside]], distance, counts=[[3, 1, 1, 0]])
        for name in ("phi_n", "phi_low_n", "phi_high_n", "rankings_n", "mean_distance_n"):
            assert getattr(more, name).tolist() == getattr(bare, name).tolist()
        p = [
            goodness_of_fit(rows, distance, rng=np.random.default_rng(1), draws=20, counts=counts)
            for rows, counts in ((given, [3, 1, 1]), ([*given, beside], [3, 1, 1, 0]))
        ]
        assert p[0] == p[1]
    with pytest.raises(InputError, match="rankings: got 0 ranking"):
        rankings_index([given], distance, counts=[[0, 0, 0]])


def test_parts_of_people_weigh_in_the_fit_and_are_refused_by_its_test():
    given, counts = [[1, 2, 3], [2, 1, 3]], np.array([2.5, 0.75])
    index = rankings_index([given], counts=[counts])
    assert index.rankings_n[0] == 3.25 and index.mean_distance_n[0] == pytest.approx(0.75 / 3.25)
    assert MallowsModel([1, 2, 3], index.phi_n[0]).expected_distance() == pytest.approx(0.75 / 3.25)
    with pytest.raises(InputError, match="^counts: got 2.5"):
        goodness_of_fit(given, rng=np.random.default_rng(0), counts=counts)


def test_counted_people_are_tested_as_those_written_out():
    given, counts = np.array([[1, 2, 3, 4], [2, 1, 4, 3], [4, 3, 2, 1]]), [9, 4, 7]
    p = [
        goodness_of_fit(rows, rng=np.random.default_rng(3), draws=50, counts=many)
        for rows, many in ((given, counts), (np.repeat(given, counts, axis=0), None), (given, [9.0, 4.0, 7.0]))
    ]
    assert p[0] == p[1] == p[2] < 0.05
