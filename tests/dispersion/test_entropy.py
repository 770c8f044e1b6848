"""The entropy index against distributions whose entropy is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mallowspo.dispersion import entropy_index, mean_by_prompt
from mallowspo.errors import InputError


def test_uniform_model_has_index_one():
    entropy = [[3 * np.log(50), 7 * np.log(50)]]
    assert entropy_index(entropy, [[3, 7]], vocab_size=50) == pytest.approx(1.0, abs=1e-12)


def test_each_response_counts_the_same_whatever_its_length():
    index = entropy_index([[0.5 * np.log(10), 0.0]], [[1, 99]], vocab_size=10)
    assert index == pytest.approx(0.25)


@given(
    arrays(np.float64, (4, 3), elements=st.floats(0, 1)),
    arrays(np.int64, (4, 3), elements=st.integers(1, 30)),
)
def test_lies_between_zero_and_one(share, lengths):
    index = entropy_index(share * lengths * np.log(7), lengths, vocab_size=7)
    np.testing.assert_allclose(index, share.mean(axis=1), atol=1e-12)


def test_rows_of_one_prompt_share_their_mean():
    entropy, lengths = np.array([[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]]), np.ones((3, 2))
    index = entropy_index(entropy, lengths, vocab_size=1000, prompt_ids=["a", "a", "b"])
    assert index == pytest.approx(np.full(3, 2 / np.log(1000)))


def test_mean_by_prompt_needs_one_id_a_row():
    with pytest.raises(InputError, match="got 1 of them for 2 rows"):
        mean_by_prompt([1.0, 2.0], ["a"])


def test_a_row_without_tokens_is_named():
    with pytest.raises(InputError, match="no response of row 1 has a token"):
        entropy_index([[1.0, 1.0], [0.0, 0.0]], [[1, 1], [0, 0]], vocab_size=10)
