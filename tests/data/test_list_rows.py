"""Ranked lists: read with ranks or scores, and cut into as few rows as hold every response."""

import json

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mallowspo.data import load_preferences, validate_rows
from mallowspo.data.problems import RowError
from mallowspo.data.records import PLACES_COLUMN, RANKS_COLUMN, PreferenceRow, row_from_columns
from mallowspo.errors import InputError


@settings(max_examples=200)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=9).filter(lambda ranks: len(set(ranks)) > 1))
def test_every_response_stands_equally_often_and_keeps_its_rank(ranks):
    row = PreferenceRow("p", tuple(f"r{i}" for i in range(len(ranks))), tuple(ranks), 0)
    found = [side for pair in row.to_cover() for side in zip(pair.places, pair.ranks, pair.responses, strict=True)]
    assert {place: (rank, text) for place, rank, text in found} == {i: (rank, f"r{i}") for i, rank in enumerate(ranks)}
    assert len(found) == len(ranks) * (1 + len(ranks) % 2)
    assert all(pair.ranks[0] <= pair.ranks[1] for pair in row.to_cover())


def test_equal_responses_of_one_rank_stand_once():
    row = PreferenceRow("p", ("same", "same", "other"), (1, 1, 2), 0)
    assert [pair.responses for pair in row.to_cover()] == [("same", "other")]


def test_scores_become_ranks_and_a_response_without_one_is_left_out():
    row = row_from_columns({"prompt": "p", "responses": ["a", "b", "c", "d"], "scores": [4.5, None, 5, 4.5]}, 0)
    assert (row.responses, row.ranks) == (("a", "c", "d"), (2, 1, 2))
    both = row_from_columns({"prompt": "p", "responses": ["a", "b"], "scores": [9, 1], "ranks": [2, 1]}, 0)
    assert both.ranks == (2, 1)  # ranks are what people said, scores may be anything beside them


@pytest.mark.parametrize(
    ("scores", "kind"),
    [([1], "bad_scores"), (["a", 1], "bad_scores"), ([True, 1], "bad_scores"), ([None, 1], "bad_scores"),
     ([float("nan"), 1.0], "bad_scores"), (3, "bad_scores"), ([2, 2], "no_preference"), (None, "bad_ranks")],
)  # fmt: skip
def test_scores_that_say_nothing(scores, kind):
    with pytest.raises(RowError) as caught:
        row_from_columns({"prompt": "p", "responses": ["a", "b"], "scores": scores}, 0)
    assert caught.value.kind == kind


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_lists_in_the_shape_of_ultrafeedback_are_read_from_every_format(tmp_path, form):
    rows = [
        {"prompt": f"q{i}?", "responses": [f"a{i}", f"b{i}", f"c{i}", f"d{i}"], "scores": [5, 4.5, 3 + i % 2, 4.5]}
        for i in range(4)
    ]
    file = tmp_path / f"lists.{form}"
    if form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "json":
        file.write_text(json.dumps(rows))
    else:
        Dataset.from_list(rows).to_parquet(file)
    read = load_preferences(file).dataset
    lists = validate_rows(read, lists=True).dataset
    assert len(lists) == 8 and lists[PLACES_COLUMN][:2] == [[0, 1], [3, 2]]
    assert lists[RANKS_COLUMN][:2] == [[1, 2], [2, 4]]
    assert len(validate_rows(read).dataset) == 4 * 5  # six pairs, of which one is a tie


def test_scores_beside_chosen_and_rejected_are_nobodys_business(tmp_path):
    file = tmp_path / "pairs.jsonl"
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    file.write_text("".join(json.dumps(pair | {"scores": scores}) + "\n" for scores in (1, "x", [1])))
    assert len(validate_rows(load_preferences(file).dataset).dataset) == 3


def test_a_list_without_ranks_or_scores_is_refused():
    with pytest.raises(InputError, match="scores"):
        validate_rows(Dataset.from_list([{"prompt": "p", "responses": ["a", "b"]}]))
