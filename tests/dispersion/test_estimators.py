"""The family of indexes against entropies set by hand, and against cases made to mislead each of them."""

import numpy as np
import pytest

from mallowspo.dispersion import ESTIMATORS, ReferenceStatistics, sampled_entropy
from mallowspo.dispersion.panel import neg_log_phi_from_choice_entropy
from mallowspo.errors import InputError

LOG_V = np.log(16)


def statistics(tokens_nk, logp_nk=None):
    """Statistics of rows given as the entropies, in units of log |V|, of each response's tokens; row by row, K = 2.

    The responses of a row share their first token and differ from the second on.
    """
    n = len(tokens_nk)
    at = [[[share * LOG_V for share in tokens] for tokens in row] for row in tokens_nk]
    return ReferenceStatistics(
        logp_nk=np.zeros((n, 2)) if logp_nk is None else np.asarray(logp_nk),
        entropy_sum_nk=np.array([[sum(tokens) for tokens in row] for row in at]),
        length_nk=np.array([[len(tokens) for tokens in row] for row in at]),
        vocab_size=16,
        first_entropy_nk=np.array([[tokens[0] for tokens in row] for row in at]),
        divergent_entropy_nk=np.array([[tokens[1] if len(tokens) > 1 else np.nan for tokens in row] for row in at]),
    )


def test_each_reads_what_it_says():
    one = statistics([[[0.1, 0.6], [0.1, 0.6, 0.2, 0.3]]])
    middle = neg_log_phi_from_choice_entropy([0.6 * LOG_V], alternatives=10)[0]  # of three estimates of -log phi
    found = {name: float(estimator(one)[0]) for name, estimator in ESTIMATORS.items()}
    assert found == pytest.approx(
        {
            "mean_entropy": (0.35 + 0.3) / 2,
            "answer_entropy": (0.7 + 1.2) / 2,
            "first_token": 0.1,
            "divergent_token": 0.6,
            "reference_margin": 1.0,  # equally likely responses: nothing tells them apart
            "panel": np.exp(-middle),
        }
    )


def test_confounders_move_the_one_that_they_should():
    plain = statistics([[[0.5, 0.5], [0.5, 0.5]]])
    longer = statistics([[[0.5, 0.5] + [0.0] * 8, [0.5, 0.5] + [0.0] * 8]])
    opening = statistics([[[0.0, 0.5], [0.0, 0.5]]])
    moved = {
        name: [float(e(other)[0]) != pytest.approx(float(e(plain)[0])) for other in (longer, opening)]
        for name, e in ESTIMATORS.items()
    }
    assert moved["mean_entropy"] == [True, True]
    assert moved["answer_entropy"] == [False, True]
    assert moved["first_token"] == [False, True]
    assert moved["divergent_token"] == [False, False]
    # Margin and divergent token stay where they are, and with them the median.
    assert moved["panel"] == [False, False]


def test_the_margin_is_minus_log_phi_times_the_gap():
    # Three answers with probability ∝ φ^rank: gaps 1, 1 and 2, mean 4/3.
    phi = 0.3
    logp = np.log([[1, phi, phi**2]])
    one = np.ones((1, 3))
    index = ESTIMATORS["reference_margin"](ReferenceStatistics(logp, one, one, vocab_size=16))
    assert -np.log(index) == pytest.approx(-np.log(phi) * 4 / 3)
    apart = ESTIMATORS["reference_margin"](ReferenceStatistics(1e6 * logp, one, one, vocab_size=16))
    assert np.isfinite(-np.log(apart)).all()


def test_a_row_without_a_divergent_token_gets_the_median_of_the_others():
    one = statistics([[[0.1, 0.2]] * 2, [[0.1], [0.1]], [[0.1, 0.4]] * 2, [[0.1, 0.9]] * 2])
    assert ESTIMATORS["divergent_token"](one) == pytest.approx([0.2, 0.4, 0.4, 0.9])
    with pytest.raises(InputError, match="no row has a value"):
        ESTIMATORS["divergent_token"](statistics([[[0.1], [0.1]]]))


def test_a_pass_that_kept_no_landmarks_is_refused():
    one = np.ones((1, 2))
    for name in ("first_token", "divergent_token", "panel"):
        with pytest.raises(InputError, match="mallowspo reference"):
            ESTIMATORS[name](ReferenceStatistics(one, one, one, vocab_size=16))


def test_sampled_answers_cluster_by_the_users_rule():
    answers = [["The cat.", "a cat", "the dog", "A dog!"]]

    def same(first, second):
        return first.lower().strip(" .!").split()[-1] == second.lower().strip(" .!").split()[-1]

    assert sampled_entropy(answers).tolist() == [1.0]
    assert sampled_entropy(answers, same=same) == pytest.approx(np.log(2) / np.log(4))
    with pytest.raises(InputError, match="at least 2"):
        sampled_entropy([["one"]])
