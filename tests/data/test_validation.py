"""Whole data sets: what is refused, what is named, what comes out, and how fast."""

from __future__ import annotations

import time

import pytest
from data_rows import assistant, chat, pair, user, write
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from trl import extract_prompt

from mallowspo.data.records import LIST_COLUMN
from mallowspo.data.sources import load_preferences
from mallowspo.data.validation import require_dataset, validate_rows
from mallowspo.errors import InputError

GOOD = pair()


def loaded(tmp_path, rows):
    return load_preferences(write(tmp_path / "rows.jsonl", rows)).dataset


def kinds(found):
    return [(problem.row_index, problem.kind) for problem in found.problems]


def test_good_rows_come_out_as_they_went_in():
    rows = [{**GOOD, "prompt": f"p{i}", "source": f"s{i}"} for i in range(5)]
    found = validate_rows(Dataset.from_list(rows))
    assert found.problems == ()
    assert list(found.dataset) == [{**row, "row_index": i} for i, row in enumerate(rows)]


def test_all_problems_are_named_at_once(tmp_path):
    rows = [{**GOOD, "n": n} for n in range(7000)]
    rows[6999]["chosen"] = ""
    rows[10]["rejected"] = rows[10]["chosen"]
    rows[11]["prompt"] = None
    rows[12]["chosen"] = 42
    rows[13] = {"prompt": "only"}
    dataset = loaded(tmp_path, rows)
    with pytest.raises(InputError) as caught:
        validate_rows(dataset, source="train data")
    for said in (
        "train data: 5 of 7,000 rows cannot be used\n",
        "empty_response       2 rows (0.03 %): rows 14, 7,000",
        "row 13: chosen must be text or a list of messages, found 42",
        "`invalid_rows: drop`",
    ):
        assert said in str(caught.value)
    found = validate_rows(dataset, invalid_rows="drop")
    assert kinds(found) == [
        (10, "identical_responses"), (11, "empty_prompt"), (12, "not_text"), (13, "empty_response"),
        (6999, "empty_response"),
    ]  # fmt: skip
    assert found.dataset["n"][:] == [n for n in range(7000) if n not in {10, 11, 12, 13, 6999}]
    assert found.dataset["row_index"][:] == found.dataset["n"][:]
    assert found.dataset["chosen"][10] == " blue."
    # Numbers among the texts are gone, so the column must be plain text again.
    assert found.dataset.features["chosen"].dtype == "string"


def test_an_answer_that_reads_as_json_stays_text(tmp_path):
    rows = [pair("6 * 7 =", "42", "[1]"), pair("x", 3, "y")]
    found = validate_rows(loaded(tmp_path, rows), invalid_rows="drop")
    assert found.dataset["chosen"][:] == ["42"]
    assert found.dataset.map(lambda row: row)["rejected"][:] == ["[1]"]


def test_row_numbers_survive_lines_that_were_dropped(tmp_path):
    path = write(tmp_path / "rows.jsonl", ["oops", GOOD, pair(chosen=""), GOOD])
    data = load_preferences(path, invalid_rows="drop")
    found = validate_rows(data.dataset, invalid_rows="drop")
    assert [p.row_number for p in (*data.dropped, *found.problems)] == [1, 3]
    assert found.dataset["row_index"][:] == [1, 3]
    again = validate_rows(found.dataset)
    assert list(again.dataset) == list(found.dataset)


@pytest.mark.parametrize("numbers", [["a", "b"], [-1, 0], [None, 1], [0.5, 1.0], [7, 7]])
def test_a_row_index_that_numbers_nothing_is_replaced(numbers):
    dataset = Dataset.from_list([GOOD, GOOD]).add_column("row_index", numbers)
    assert validate_rows(dataset).dataset["row_index"][:] == [0, 1]


@pytest.mark.parametrize("from_file", [False, True])
def test_the_four_layouts_give_the_same_pairs(tmp_path, from_file):
    explicit = [chat(f"p{i}") for i in range(4)]
    implicit = [{k: row["prompt"] + row[k] for k in ("chosen", "rejected")} for row in explicit]
    beside = [{"prompt": "p", "messages": row["chosen"], "prompt_id": "x", **row} for row in implicit]
    for rows in (explicit, implicit, beside):
        dataset = loaded(tmp_path, rows) if from_file else Dataset.from_list(rows)
        out = validate_rows(dataset).dataset
        assert [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in out] == explicit
        assert "messages" not in out.column_names
    texts = [{"chosen": f"The sky {i} is blue.", "rejected": f"The sky {i} is green."} for i in range(4)]
    out = validate_rows(Dataset.from_list(texts)).dataset.select_columns(["prompt", "chosen", "rejected"])
    assert list(out) == [extract_prompt(row) for row in texts]


def test_trl_crashes_on_what_is_named_here():
    rows = [{"chosen": "a b", "rejected": "a c"}, {"chosen": "", "rejected": ""}, {"chosen": "", "rejected": "x"}]
    dataset = Dataset.from_list(rows)
    with pytest.raises(UnboundLocalError):
        dataset.map(extract_prompt)
    found = validate_rows(dataset, invalid_rows="drop")
    assert kinds(found) == [(1, "identical_responses"), (2, "no_shared_prompt")]


def test_ragged_messages_keep_their_fields(tmp_path):
    rows = [chat("p0"), chat("p1")]
    rows[1]["prompt"].insert(0, {"role": "system", "content": "42", "name": "x"})
    out = validate_rows(loaded(tmp_path, rows)).dataset
    assert [row["prompt"] for row in out] == [row["prompt"] for row in rows]


def test_conversations_in_a_csv_file_are_refused(tmp_path):
    path = write(tmp_path / "chat.csv", [chat()] * 3)
    with pytest.raises(InputError) as caught:
        validate_rows(load_preferences(path).dataset, source="chat.csv")
    first, second, third, _ = str(caught.value).splitlines()
    assert first == "chat.csv: 3 of 3 rows cannot be used"
    assert second.startswith("  messages_as_text  3 rows")
    assert "keep conversations in JSON lines or parquet" in third


def test_text_among_conversations_is_named(tmp_path):
    dataset = loaded(tmp_path, [GOOD, chat(), chat()])
    with pytest.raises(InputError, match="row 1: the row is text, most rows are lists of messages"):
        validate_rows(dataset)
    found = validate_rows(dataset, invalid_rows="drop")
    assert found.dataset["row_index"][:] == [1, 2]
    assert isinstance(found.dataset[0]["prompt"], list)
    reverse = validate_rows(loaded(tmp_path, [GOOD, GOOD, chat()]), invalid_rows="drop")
    assert reverse.dataset.features["prompt"].dtype == "string"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"question": ["a"], "answer": ["b"]}, r"(?s)columns question, answer; .*prompt, responses, ranks"),
        ({"prompt": ["a"], "chosen": ["b"]}, "columns prompt, chosen;"),
        ({"responses": [["a", "b"]], "prompt": ["p"]}, "no preference"),
        ({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"], "images": [["x"]]}, "'images' holds images"),
        ({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"], "responses": [["x"]]}, "both responses and chosen"),
        ({"prompt": [], "chosen": [], "rejected": []}, "there are no rows"),
    ],
)
def test_columns_that_cannot_be_used(columns, reason):
    for mode in ("error", "drop"):
        with pytest.raises(InputError, match=reason):
            validate_rows(Dataset.from_dict(columns), invalid_rows=mode)


@pytest.mark.parametrize("name", ["question", "Instruction", "INPUT", "query", "context", "prompt_text", "Prompt"])
def test_a_prompt_of_another_name_is_named(name, tmp_path):
    """Without it the prompt would be "The", which both responses happen to begin with."""
    row = {"system": "s", name: "What is the sky?", "chosen": "The sky is blue.", "rejected": "The sky? Green."}
    rows = loaded(tmp_path, [row])
    with pytest.raises(InputError, match=f"^train data: .* no column 'prompt', but there is '{name}'; rename it"):
        validate_rows(rows, source="train data", invalid_rows="drop")
    assert validate_rows(rows.rename_column(name, "prompt")).dataset["prompt"][:] == ["What is the sky?"]
    assert validate_rows(rows.remove_columns(name)).dataset["prompt"][:] == ["The sky"]
    assert validate_rows(rows.add_column("prompt", ["p"])).dataset["prompt"][:] == ["p"]


def test_two_names_for_a_prompt_and_conversations_beside_one():
    texts = Dataset.from_list([{"instruction": "i", "input": "j", "chosen": "a b", "rejected": "a c"}])
    with pytest.raises(InputError, match="there is 'instruction' and 'input'; rename the one with the prompt"):
        validate_rows(texts)
    whole = [user("p")]
    chats = [{"question": "p", "chosen": [*whole, assistant("a")], "rejected": [*whole, assistant("b")]}]
    assert validate_rows(Dataset.from_list(chats)).dataset["prompt"][:] == [whole]


ROWS = Dataset.from_list([GOOD])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([GOOD], "got list; pass datasets.Dataset.from_list(rows)"),
        ({"prompt": ["p"]}, "got dict; pass datasets.Dataset.from_dict(columns)"),
        (DatasetDict({"test": ROWS, "train": ROWS}), "dataset['train']; it has test, train"),
        (DatasetDict({"test": ROWS}), "got DatasetDict; pass one of its splits, such as dataset['test']; it has test"),
        ({"a": ROWS, "b": ROWS}, "got dict; pass one of its splits, such as dataset['a']; it has a, b"),
        (IterableDataset.from_generator(lambda: iter([GOOD])), "got IterableDataset; load it whole (streaming=False"),
        (IterableDatasetDict(), "got IterableDatasetDict; load it whole (streaming=False"),
        ("pairs.jsonl", "got str; load it first: mallowspo.data.load_preferences('pairs.jsonl').dataset"),
        (ROWS.to_pandas(), "got DataFrame; pass datasets.Dataset.from_pandas(frame)"),
        (None, "it is missing; pass a datasets.Dataset"),
        (7, "got int; expected a datasets.Dataset"),
    ],
)
def test_what_is_no_dataset_is_told_how_to_become_one(value, said):
    with pytest.raises(InputError) as caught:
        require_dataset(value, "train_dataset")
    assert str(caught.value).startswith("train_dataset: ") and said in str(caught.value)
    assert require_dataset(ROWS, "train_dataset") is ROWS
    with pytest.raises(InputError, match="^train data: "):
        validate_rows(value, source="train data")


@pytest.mark.parametrize(
    "rows",
    [
        [{**GOOD, "chosen": ""}],
        [{**GOOD, "weight": -1}],
        [{**GOOD, "images": "x"}],
        [{"question": "q", "chosen": "a b", "rejected": "a c"}],
        [{"question": "q"}],
        [{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3], "weight": -1}],
        [],
    ],
)
def test_where_nothing_is_left_both_modes_say_of_which_data(rows):
    for mode in ("error", "drop"):
        with pytest.raises(InputError, match="^eval data: "):
            validate_rows(Dataset.from_list(rows), source="eval data", invalid_rows=mode)
    with pytest.raises(InputError, match=r"(?s)none of the 3 rows.*empty_response  3 rows \(100.00 %\)"):
        validate_rows(Dataset.from_list([pair(chosen="")] * 3), invalid_rows="drop")


def test_wrong_arguments():
    dataset = Dataset.from_list([GOOD])
    with pytest.raises(InputError, match="invalid_rows: got 'keep'"):
        validate_rows(dataset, invalid_rows="keep")
    with pytest.raises(InputError, match="columns: got 'weights', expected one of 'votes'"):
        validate_rows(dataset, columns=["weights"])
    with pytest.raises(InputError, match="got IterableDataset"):
        validate_rows(IterableDataset.from_generator(lambda: iter([GOOD])))


def test_optional_columns_are_checked_or_handed_on():
    rows = [{**GOOD, "weight": 1, "votes": [3, 1]}, {**GOOD, "weight": -1, "votes": [2, 2]}]
    dataset = Dataset.from_list(rows)
    with pytest.raises(InputError, match="row 2: weight must be a finite number >= 0, found -1"):
        validate_rows(dataset)
    out = validate_rows(dataset, columns=["votes"]).dataset
    assert out["votes"][:] == [[3.0, 1.0, 0.0], [2.0, 2.0, 0.0]]
    assert out["weight"][:] == [1, -1]
    out = validate_rows(dataset, columns=()).dataset
    assert (out["weight"][:], out["votes"][:]) == ([1, -1], [[3, 1], [2, 2]])


def test_columns_that_are_not_read_cost_no_row():
    unread = {
        "votes": [[1, 2]] + [None] * 11,
        "rankings": [[[1, 1]]] + [None] * 11,
        "weight": ["a lot"] + [None] * 11,
        "margin": [-1.0] + [None] * 11,
        "dispersion": [7.0] + [None] * 11,
    }
    rows = {name: [value] * 12 for name, value in GOOD.items()}
    found = validate_rows(Dataset.from_dict({**rows, **unread}), columns=())
    assert found.problems == ()
    assert {name: found.dataset[name][:] for name in unread} == unread
    found = validate_rows(Dataset.from_dict({**rows, **unread}), columns=["votes"])
    assert found.dataset["votes"][:] == [[1.0, 2.0, 0.0]] + [[0.0, 0.0, 0.0]] * 11
    assert found.dataset["margin"][:] == unread["margin"]


@pytest.mark.parametrize("name", ["v.jsonl", "v.csv"])
def test_rows_without_votes_are_rows_on_which_nobody_voted(tmp_path, name):
    path = write(tmp_path / name, [pair(votes="[2, 1]"), GOOD])
    found = validate_rows(load_preferences(path).dataset)
    assert found.dataset["votes"][:] == [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_ranked_rows_become_pairs():
    people = [[1, 2, 3], [2, 1, 3]]
    rows = [
        {"prompt": name, "responses": responses, "ranks": ranks, "rankings": people, "s": name.upper()}
        for name, responses, ranks in (
            ("p", list("abc"), [2, 1, 2]),
            ("q", list("dde"), [1, 1, 2]),
            ("r", list("fgh"), [1] * 3),
        )
    ]
    found = validate_rows(Dataset.from_list(rows), invalid_rows="drop")
    picked = found.dataset.select_columns(["prompt", "chosen", "rejected", "row_index", "s"])
    assert [tuple(row.values()) for row in picked] == [
        ("p", "b", "a", 0, "P"), ("p", "b", "c", 0, "P"), ("q", "d", "e", 1, "Q"), ("q", "d", "e", 1, "Q"),
    ]  # fmt: skip
    assert found.dataset["rankings"][0] == people
    assert found.dataset[LIST_COLUMN][:] == [0, 0, 1, 1]
    assert list(validate_rows(found.dataset, columns=()).dataset) == list(found.dataset)
    assert kinds(found) == [(2, "no_preference")]


IDS = {"prompt_ids": [[1]] * 4, "chosen_ids": [[2]] * 4, "rejected_ids": [[3]] * 4}


def test_sound_tokenised_rows_pass_untouched():
    sound = {
        "row_index": [4, 4, 5, 6],
        LIST_COLUMN: [4, 4, 5, 6],
        "votes": [[2.0, 1.0, 0.0]] * 4,
        "rankings": [[[1, 2, 3], [2, 1, 3]]] * 4,  # of all three responses of a ranked row
        "weight": [1.0] * 4,
        "margin": [0.0] * 4,
        "dispersion": [0.5] * 4,
    }
    for columns in ({}, sound):
        dataset = Dataset.from_dict({**IDS, **columns})
        assert validate_rows(dataset).dataset is dataset


@pytest.mark.parametrize(
    ("name", "values", "bad"),
    [
        ("votes", [[2, 1], None, [-1, 2], [0, 0, 3]], [2]),
        ("rankings", [[[1, 2], [2, 1]], None, [[1, 2]], [[1, 2], [1, 1]]], [1, 2, 3]),
        ("weight", [1.0, None, -1.0, float("inf")], [1, 2, 3]),
        ("margin", ["0.5", "-1", "x", "1"], [1, 2]),
        ("dispersion", [0.5, 1.0, 0.0, 2.0], [2, 3]),
    ],
)
def test_columns_beside_tokens_are_checked(name, values, bad):
    dataset = Dataset.from_dict({**IDS, name: values})
    with pytest.raises(InputError, match=rf"^train data: {len(bad)} of 4 rows cannot be used\n  bad_{name}"):
        validate_rows(dataset, source="train data")
    found = validate_rows(dataset, invalid_rows="drop")
    assert kinds(found) == [(i, f"bad_{name}") for i in bad]
    assert found.dataset["row_index"][:] == [i for i in range(4) if i not in bad]
    assert validate_rows(dataset, columns=()).dataset is dataset
    again = validate_rows(found.dataset)
    assert again.dataset is found.dataset
    if name == "votes":
        assert found.dataset["votes"][:] == [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    if name == "margin":
        assert found.dataset["margin"][:] == [0.5, 1.0]


def test_numbers_of_tokenised_rows_that_number_nothing_are_replaced():
    dataset = Dataset.from_dict({**IDS, "row_index": ["a", "b", "c", "d"]})
    assert validate_rows(dataset).dataset["row_index"][:] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="none of the 4 rows"):
        validate_rows(Dataset.from_dict({**IDS, "weight": [-1.0] * 4}), invalid_rows="drop")


def test_saved_data_sets_stay_on_disk(tmp_path):
    Dataset.from_list([GOOD] * 10).save_to_disk(tmp_path / "saved")
    out = validate_rows(load_preferences(tmp_path / "saved").dataset).dataset
    assert out.cache_files  # mapped from the file, not copied into memory


@pytest.mark.parametrize("extra", [{}, {"votes": [2, 1]}])
def test_100_000_rows_take_seconds(extra):
    size = 100_000
    columns = {
        "prompt": [f"prompt number {i} " * 10 for i in range(size)],
        "chosen": [f"chosen {i} " * 30 for i in range(size)],
        "rejected": [f"rejected {i} " * 30 for i in range(size)],
        **{name: [value] * size for name, value in extra.items()},
    }
    columns["chosen"][size // 2] = None
    dataset = Dataset.from_dict(columns)
    start = time.process_time()
    found = validate_rows(dataset, invalid_rows="drop")
    assert len(found.dataset) == size - 1
    # About 2 s here; a look-up in Arrow per row takes more than 20 s.
    assert time.process_time() - start < 15
