"""Rows in every layout: one record, the same whichever way it was written."""

from __future__ import annotations

import json
import math
from itertools import product

import pytest
from data_rows import assistant, chat, pair, user
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import extract_prompt

from mallowspo.data.annotations import read_rankings, read_votes
from mallowspo.data.blank import is_blank
from mallowspo.data.problems import RowError, RowProblem, problem_table, settle
from mallowspo.data.records import (
    PreferenceRow,
    TokenizedRow,
    is_tokenized,
    prompt_id_of_ids,
    prompt_id_of_text,
    row_from_columns,
)
from mallowspo.errors import InputError

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
SOLID = TEXT.filter(lambda text: not is_blank(text))


@given(SOLID, SOLID, SOLID)
def test_explicit_text_is_kept_to_the_letter(prompt, chosen, rejected):
    mapping = pair(prompt, chosen, rejected, source="s")
    if chosen == rejected:
        with pytest.raises(RowError, match="identical_responses"):
            row_from_columns(mapping, 3)
        return
    row = row_from_columns(mapping, 3)
    assert (row.prompt, row.responses, row.ranks, row.row_index) == (prompt, (chosen, rejected), (1, 2), 3)
    assert row.other == {"source": "s"}
    assert not row.is_conversational


@given(st.text("ab \n", max_size=8), st.text("ab \n", max_size=8))
@settings(max_examples=500)
def test_implicit_text_is_split_as_trl_splits_it(chosen, rejected):
    mapping = {"chosen": chosen, "rejected": rejected}
    try:
        row = row_from_columns(mapping, 0)
    except RowError as error:
        # A refused row must really be one that leaves nothing to learn from.
        try:
            found = extract_prompt(mapping)
        except (UnboundLocalError, IndexError):
            return
        blank = [is_blank(value) for value in found.values()]
        assert any(blank) or chosen == rejected or chosen[:1] != rejected[:1], error
        return
    assert extract_prompt(mapping) == dict(
        zip(("prompt", "chosen", "rejected"), (row.prompt, *row.responses), strict=True)
    )


@given(st.text("ab \n", min_size=1, max_size=80), SOLID, SOLID)
def test_long_shared_beginnings_are_split_as_trl_splits_them(prompt, chosen, rejected):
    mapping = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    expected = extract_prompt(mapping)
    if any(is_blank(value) for value in expected.values()) or chosen == rejected:
        return
    row = row_from_columns(mapping, 0)
    assert expected == {"prompt": row.prompt, "chosen": row.responses[0], "rejected": row.responses[1]}


@given(SOLID, SOLID, SOLID)
def test_implicit_and_explicit_conversations_are_one(prompt, chosen, rejected):
    if chosen == rejected:
        return
    explicit = chat(prompt, chosen, rejected)
    implicit = {name: explicit["prompt"] + explicit[name] for name in ("chosen", "rejected")}
    beside = {"prompt": prompt, **implicit}  # a text prompt beside whole conversations, as in UltraFeedback
    rows = [row_from_columns(mapping, 0) for mapping in (explicit, implicit, beside)]
    assert rows[0] == rows[1] == rows[2]
    assert rows[0].is_conversational and rows[0].responses == ([assistant(chosen)], [assistant(rejected)])


def ranked(responses, ranks, **more):
    return {"prompt": "p", "responses": responses, "ranks": ranks, **more}


BAD = [
    *((pair(prompt), "empty_prompt") for prompt in ("", " \n", None)),
    (chat() | {"prompt": []}, "empty_prompt"),
    (pair(chosen=""), "empty_response"),
    (pair(rejected=None), "empty_response"),
    (chat() | {"chosen": []}, "empty_response"),
    (chat(chosen=" "), "empty_response"),
    (pair(chosen=3), "not_text"),
    (pair(chosen={"text": "a"}), "not_text"),
    (pair("p", "a", "a"), "identical_responses"),
    ({"chosen": "", "rejected": ""}, "identical_responses"),
    ({"chosen": "", "rejected": "abc"}, "no_shared_prompt"),
    ({"chosen": "abc ", "rejected": "xyz"}, "no_shared_prompt"),
    ({"chosen": [], "rejected": [user("a")]}, "no_shared_prompt"),
    ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no_shared_prompt"),
    ({"chosen": " a", "rejected": " b"}, "no_shared_prompt"),
    (pair(rejected=[assistant("b")]), "mixed_layout"),
    (pair([user("p")]), "mixed_layout"),
    (chat() | {"prompt": ["p"]}, "malformed_messages"),
    (chat() | {"prompt": [{"content": "p"}]}, "malformed_messages"),
    (chat(chosen=None), "malformed_messages"),
    (chat([{"type": "image"}]), "malformed_messages"),
    (ranked(["a"], [1]), "bad_responses"),
    (ranked("ab", [1, 2]), "bad_responses"),
    *((ranked(["a", "b"], ranks), "bad_ranks") for ranks in ([1, 2, 3], [0, 1], [1.5, 2], None)),
    (ranked(["a", "b"], [2, 2]), "no_preference"),
    (ranked(["a", "b", "a"], [1, 2, 2]), "identical_responses"),
    (ranked(["a", ""], [1, 2]), "empty_response"),
]


@pytest.mark.parametrize(("mapping", "kind"), BAD)
def test_rows_that_cannot_be_used(mapping, kind):
    with pytest.raises(RowError) as caught:
        row_from_columns(mapping, 0)
    assert caught.value.kind == kind and caught.value.detail


@pytest.mark.parametrize("write", [json.dumps, str, lambda value: " " + json.dumps(value, indent=1) + "\n"])
def test_conversations_written_as_text_are_named(write):
    prompt, good, bad = ([user("p")], [assistant("a")], [{"content": "b", "role": "assistant"}])
    for mapping in (
        pair(write(prompt), write(good), write(bad)),
        pair("p", write(prompt + good), write(prompt + bad)),
        {"chosen": write(prompt + good), "rejected": write(prompt + bad)},
        pair(write(prompt)),
        ranked(["a", "b"], [1, 2]) | {"prompt": write(prompt)},
        ranked([write(good), write(bad)], [1, 2]),
    ):
        with pytest.raises(RowError, match=r"messages_as_text: .*keep conversations in JSON lines or parquet"):
            row_from_columns(mapping, 0)


def test_text_about_messages_text_parts_and_tool_calls_are_fine():
    written = json.dumps([user("p")])
    row = row_from_columns(pair(f"{written} What is this?", written, "A list."), 0)
    assert row.responses == (written, "A list.")
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    row = row_from_columns(chat([{"type": "text", "text": "p"}]) | {"chosen": [call]}, 0)
    assert row.responses[0] == [call]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_pairs_are_all_strict_preferences(ranks):
    responses = tuple(f"r{i}" for i in range(len(ranks)))
    row = PreferenceRow("p", responses, tuple(ranks), row_index=9, weight=2.0)
    expected = {(responses[i], responses[j]) for i, j in product(range(len(ranks)), repeat=2) if ranks[i] < ranks[j]}
    pairs = row.to_pairs()
    assert {one.responses for one in pairs} == expected and len(pairs) == len(expected)
    assert all(one.ranks == (1, 2) and one.row_index == 9 and one.weight == 2.0 for one in pairs)


# Optional columns


@pytest.mark.parametrize(
    ("given_votes", "expected"),
    [
        ([3, 1], (3, 1, 0)),
        ([3, 1, 2], (3, 1, 2)),
        ((0, 0), (0, 0, 0)),
        ({"chosen": 3, "rejected": 1}, (3, 1, 0)),
        ({"chosen": 3, "rejected": 1, "tie": 2}, (3, 1, 2)),
        ({"chosen": 3, "rejected": 1, "ties": None}, (3, 1, 0)),
        ("[2.5, 1]", (2.5, 1, 0)),
        (None, (0, 0, 0)),
        ("null", (0, 0, 0)),
        (" ", (0, 0, 0)),
    ],
)
def test_votes(given_votes, expected):
    assert read_votes(given_votes) == expected


@pytest.mark.parametrize(
    "votes",
    [3, [3], [1, 2, 3, 4], [-1, 2], [10**400, 1], [math.nan, 1], [None, 1], [math.inf, 1], ["3", 1], [True, 1],
     {"chosen": 1}, {"chosen": 1, "rejected": 1, "other": 1}, "many"],
)  # fmt: skip
def test_bad_votes(votes):
    with pytest.raises(RowError, match="bad_votes"):
        row_from_columns(pair(votes=votes), 0)


@pytest.mark.parametrize(
    "rankings",
    [None, [[1, 2]], [[1, 2], [1, 1]], [[0, 1], [1, 0]], [[1, 2, 3], [1, 2, 3]], [[1, 2], [1.5, 2]], [1, 2]],
)
def test_rankings(rankings):
    assert read_rankings("[[1, 2], [2, 1]]", 2) == ((1, 2), (2, 1))
    with pytest.raises(RowError, match="bad_rankings"):
        read_rankings(rankings, 2)


NUMBERS = {
    "weight": ([0], [-0.1, math.inf, "many", "", "true", "NaN", "1" + "0" * 400, 10**400, True, None]),
    "margin": ([0, 0.5], [-0.1, math.nan, math.inf, "-0.1"]),
    "dispersion": ([1, 1e-9], [0, 1.01]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    good, bad = NUMBERS[name]
    for value in good:
        assert getattr(row_from_columns(pair(**{name: value}), 0), name) == value
    for value in bad:
        with pytest.raises(RowError, match=f"bad_{name}"):
            row_from_columns(pair(**{name: value}), 0)
        assert getattr(row_from_columns(pair(**{name: value}), 0, columns=()), name) is None


@pytest.mark.parametrize("name", ["weight", "margin", "dispersion"])
def test_numbers_may_be_text_as_votes_may(name):
    for text in ("1.0", " 1 ", "1e0"):
        row = row_from_columns(pair(votes="[2, 1]", **{name: text}), 0)
        assert getattr(row, name) == 1.0 and isinstance(getattr(row, name), float)
        assert row.votes == (2, 1, 0)


def test_ranked_rows_take_rankings_but_no_votes():
    mapping = ranked(["a", "b", "c"], [2, 1, 3])
    row = row_from_columns({**mapping, "rankings": [[2, 1, 3], [1, 2, 3]]}, 0)
    assert all(one.rankings == ((2, 1, 3), (1, 2, 3)) for one in row.to_pairs())
    with pytest.raises(RowError, match="votes need chosen and rejected"):
        row_from_columns({**mapping, "votes": [1, 2]}, 0)
    assert row_from_columns({**mapping, "votes": None}, 0).votes == (0, 0, 0)


# Names of prompts


def test_prompt_ids():
    # What stores and files of votes on disk have as names.
    assert prompt_id_of_text("The sky is") == "dcc609b1226e63a8de723b4bd1f2ca60"
    assert prompt_id_of_text("a") == prompt_id_of_text("a", {"tools": None})
    plain = [user("a")]
    assert prompt_id_of_text(plain) == prompt_id_of_text([{"content": "a", "role": "user", "name": None}])
    names = [
        *(prompt_id_of_text(prompt) for prompt in ("a", "a ", plain)),
        prompt_id_of_text(plain, {"tools": [{"name": "f"}]}),
        *(prompt_id_of_ids(ids) for ids in ([1, 2], [12])),
    ]
    assert len(set(names)) == len(names) and all(len(name) == 32 for name in names)
    assert prompt_id_of_ids((1, 2)) == prompt_id_of_ids([1, 2])


def test_tokenized_rows():
    row = {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4], "row_index": 5, "prompt_id": "x"}
    assert TokenizedRow.from_columns(row) == TokenizedRow((1,), ((2, 3), (4,)), 5, "x")
    assert is_tokenized(row) and not is_tokenized(row | pair())


# The report on problems


def test_problem_table_counts_and_names_the_first_rows():
    problems = [RowProblem(i, "empty_response", f"row {i} says") for i in (6999, 3, 9, 11, 20, 21)]
    problems.append(RowProblem(4, "not_text", "found 3"))
    assert problem_table(problems, 10_000).splitlines() == [
        "  empty_response  6 rows (0.06 %): rows 4, 10, 12, 21, 22, …",
        "    row 4: row 3 says",
        "  not_text        1 row (0.01 %): row 5",
        "    row 5: found 3",
    ]


def test_settle():
    problem = RowProblem(0, "not_text", "found 3")
    settle((), 3, 3, invalid_rows="error", source="x")
    settle([problem], 3, 2, invalid_rows="drop", source="x")
    with pytest.raises(InputError, match=r"(?s)x: 1 of 3 rows .*Mend these rows, or .*`invalid_rows: drop`"):
        settle([problem], 3, 2, invalid_rows="error", source="x")
    with pytest.raises(InputError, match="none of the 1 rows"):
        settle([problem], 1, 0, invalid_rows="drop", source="x")
    with pytest.raises(InputError, match="there are no rows"):
        settle((), 0, 0, invalid_rows="drop", source="x")
