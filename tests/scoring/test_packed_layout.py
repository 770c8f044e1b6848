"""The row that a batch becomes: every token once, every prediction where it belongs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import collate, ranked_pairs, rows

from mallowspo.errors import InputError
from mallowspo.scoring.packed_layout import PromptGroup, pack, split_by_tokens


def test_a_prompt_stands_once_and_predicts_the_first_token_of_each_response():
    batch = collate([{"prompt_ids": [10, 11, 12], "response_0": [20, 21, 22], "response_1": [30]}])
    row = pack(batch)
    assert row.input_ids.tolist() == [[10, 11, 12, 20, 21]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4]]
    assert row.groups == (PromptGroup((0, 3), ((3, 5), (5, 5))),)
    assert row.predictor_n.tolist() == [2, 3, 4, 2]
    assert row.target_n.tolist() == [20, 21, 22, 30]
    assert row.response_n.tolist() == [0, 0, 0, 1]


@settings(max_examples=30)
@given(
    st.integers(2, 8).flatmap(lambda k: st.lists(st.tuples(*[st.integers(1, 6)] * (k + 1)), min_size=1, max_size=4)),
    st.sampled_from([None, (6, "keep_start"), (6, "keep_end"), (3, "keep_end")]),
)
def test_reading_the_row_back_gives_the_batch(lengths, cut):
    """Following each prediction through the row spells every response, with its prompt before it."""
    options = {} if cut is None else {"max_length": cut[0], "truncation_mode": cut[1]}
    batch = collate(rows(lengths), **options)
    responses = len(lengths[0]) - 1
    row = pack(batch, responses=responses)
    ids, positions = row.input_ids[0], row.position_ids[0]
    context = {}
    for group in row.groups:
        for span in group.responses:
            places = [*range(*group.prompt), *range(*span)]
            assert positions[places].tolist() == list(range(len(places)))
            context |= {
                place: places[: i + 1]
                for i, place in enumerate(
                    places[group.prompt[1] - group.prompt[0] :], group.prompt[1] - group.prompt[0]
                )
            }
        for i, place in enumerate(range(*group.prompt)):
            context[place] = list(range(group.prompt[0], place + 1))
            assert i == positions[place]
    found = {}
    for predictor, target, response, column in zip(
        row.predictor_n.tolist(), row.target_n.tolist(), row.response_n.tolist(), row.column_n.tolist(), strict=True
    ):
        found[response, column] = (ids[context[predictor]].tolist(), target)
    # Equal responses of a row are computed once; the others are handed the first one's values.
    for cell, carrier in enumerate(row.carrier_c.tolist()):
        found |= {(cell, column): value for (response, column), value in list(found.items()) if response == carrier}
    expected = {}
    for r, (sequence, completion) in enumerate(zip(batch["input_ids"], batch["completion_mask"], strict=True)):
        k, b = divmod(r, len(lengths))
        for column in range(1, len(sequence)):
            if completion[column]:
                expected[b * responses + k, column - 1] = (sequence[:column].tolist(), sequence[column].item())
    assert found == expected
    assert row.input_ids.size(1) <= batch["attention_mask"].sum()


def test_prompts_that_truncation_cut_apart_are_not_shared():
    batch = collate(rows([(4, 2, 5)]), max_length=6, truncation_mode="keep_end")
    assert [len(group.responses) for group in pack(batch).groups] == [1, 1]
    assert len(pack(collate(rows([(4, 2, 5)]), max_length=6)).groups) == 1


def test_padding_is_told_by_position():
    """The padding token may be the end-of-sequence token, which ends every response."""
    data = [{"prompt_ids": [5, 2], "response_0": [7, 2], "response_1": [8, 9, 2]}]
    row = pack(collate(data, pad=2))
    assert row.input_ids.tolist() == [[5, 2, 7, 8, 9]] and row.target_n.tolist() == [7, 2, 8, 9, 2]


def test_left_padding_and_a_masked_token_inside_a_response():
    batch = {
        "input_ids": torch.tensor([[0, 5, 6, 7, 8], [5, 6, 9, 1, 3]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]),
        "completion_mask": torch.tensor([[0, 0, 0, 1, 1], [0, 0, 1, 0, 1]]),
    }
    row = pack(batch)
    assert row.input_ids.tolist() == [[5, 6, 7, 9, 1]] and len(row.groups) == 1
    assert row.target_n.tolist() == [7, 8, 9, 3] and row.column_n.tolist() == [2, 3, 1, 3]
    assert row.predictor_n.tolist() == [1, 2, 1, 4]


def test_a_response_that_truncation_ate_scores_nothing():
    row = pack(collate(rows([(6, 2, 3)]), max_length=6))
    assert len(row.target_n) == 0 and row.input_ids.size(1) == 6


def test_positions_of_the_batch_are_not_overruled():
    batch = collate(rows([(2, 1, 1)]))
    with pytest.raises(InputError, match="brings its own 'position_ids'; set share_prompts: false"):
        pack({**batch, "position_ids": torch.zeros_like(batch["input_ids"])})


@pytest.mark.parametrize(("budget", "sizes"), [(1, [1, 1, 1, 1]), (16, [2, 1, 1]), (28, [3, 1]), (1000, [4])])
def test_pieces_hold_whole_prompts_within_the_budget(budget, sizes):
    batch = collate(rows([(4, 2, 2), (4, 2, 2), (8, 2, 2), (30, 3, 3)])) | {"margin": torch.arange(4.0)}
    pieces = split_by_tokens(batch, budget)
    assert [len(piece["margin"]) for piece in pieces] == sizes
    assert torch.cat([piece["margin"] for piece in pieces]).tolist() == [0, 1, 2, 3]
    whole = pack(batch)
    parts = [pack(piece) for piece in pieces]
    assert torch.equal(torch.cat([part.input_ids for part in parts], dim=1), whole.input_ids)
    assert torch.equal(torch.cat([part.target_n for part in parts]), whole.target_n)


def test_the_pairs_of_a_list_share_its_prompt_and_its_responses():
    batch = collate(rows([(4, 3, 1, 2), (2, 2, 5, 4)]))
    pairs, places = ranked_pairs(batch, 3)
    row = pack(pairs)
    assert torch.equal(row.input_ids, pack(batch, responses=3).input_ids)
    assert [len(group.responses) for group in row.groups] == [3, 3]
    # b * 2 + k of the pairs -> the first cell with that response
    first = {}
    cells = [
        first.setdefault((b, side), 2 * n + k) for n, (b, i, j) in enumerate(places) for k, side in ((0, i), (1, j))
    ]
    assert row.carrier_c.tolist() == cells and set(row.response_n.tolist()) == set(cells)


def test_a_piece_counts_what_its_pairs_share_once():
    batch = collate(rows([(10, 3, 3, 3), (10, 3, 3, 3)]))
    pairs, _ = ranked_pairs(batch, 3)
    assert [len(piece["input_ids"]) // 2 for piece in split_by_tokens(pairs, 19)] == [3, 3]
    assert [len(piece["input_ids"]) // 2 for piece in split_by_tokens(pairs, 18)] == [1, 1, 1, 1, 1, 1]
    assert [len(piece["input_ids"]) // 2 for piece in split_by_tokens(pairs, 38)] == [6]
