"""Scores of many rows against plain logits, row by row."""

import numpy as np
import pytest
import torch
from stores import TinyReference, token_rows

from tiny import tiny_llama


def test_every_column_against_unpadded_float64_logits():
    rows, reference = token_rows(20), TinyReference()
    scores = reference.score(rows, per_token=True)
    plain = tiny_llama(vocab_size=400).double()
    for i, row in enumerate(rows):
        responses = [row["chosen_ids"], row["rejected_ids"]]
        apart = next(t for t in range(99) if len({*(tuple(r[t : t + 1]) for r in responses)}) > 1)
        for k, response in enumerate(responses):
            with torch.no_grad():
                ids = torch.tensor([row["prompt_ids"] + response])
                logp = plain(ids).logits[0, len(row["prompt_ids"]) - 1 : -1].log_softmax(-1)
            entropy = -(logp.exp() * logp).sum(-1).numpy()
            assert scores.logp_nk[i, k] == pytest.approx(
                logp.gather(1, torch.tensor(response)[:, None]).sum().item(), rel=1e-5
            )
            assert scores.length_nk[i, k] == len(response)
            assert scores.entropy_sum_nk[i, k] == pytest.approx(entropy.sum(), rel=1e-5)
            assert scores.first_entropy_nk[i, k] == pytest.approx(entropy[0], rel=1e-5)
            np.testing.assert_allclose(scores.token_entropies[i][k], entropy, rtol=1e-5)
            if apart < len(response):
                assert scores.divergent_entropy_nk[i, k] == pytest.approx(entropy[apart], rel=1e-5)
            else:
                assert np.isnan(scores.divergent_entropy_nk[i, k])


def test_order_of_rows_is_kept_and_batches_only_move_the_last_bits():
    rows, reference = token_rows(13), TinyReference()
    one, many = reference.score(rows, batch_size=1), reference.score(rows, batch_size=13)
    np.testing.assert_allclose(one.logp_nk, many.logp_nk, rtol=1e-5)
    again = reference.score(rows.select(range(12, -1, -1)), batch_size=1)
    np.testing.assert_array_equal(again.logp_nk[::-1], one.logp_nk)


def test_a_response_that_ends_where_the_other_goes_on_has_no_divergent_entropy():
    rows, reference = token_rows(1), TinyReference()
    row = rows[0]
    row["rejected_ids"] = row["chosen_ids"] + [9, 2]
    scores = reference.score([row])
    assert np.isnan(scores.divergent_entropy_nk[0, 0]) and np.isfinite(scores.divergent_entropy_nk[0, 1])
