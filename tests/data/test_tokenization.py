"""The tokens are TRL's own, and no row is lost without being named."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from data_rows import chat, empty_tokenizer, pair
from datasets import Dataset, concatenate_datasets, load_dataset

from mallowspo.data.records import LIST_COLUMN
from mallowspo.data.sources import load_preferences
from mallowspo.data.tokenization import tokenize_pairs
from mallowspo.data.validation import validate_rows
from mallowspo.errors import InputError
from tiny import tiny_tokenizer
from trl_tokens import TOKENS, trl_tokens

TEXTS = [
    pair("Question: how are you?", " I am fine.", " no"),
    pair("The best way to cook rice is", " rinse it</s>", " boil it in water"),
    pair(" one two three four five six seven eight nine ten" * 4, "yes", "maybe no"),
    pair("a word cut at the hel", "lo", " of it"),
]


def valid(rows, **options):
    return validate_rows(Dataset.from_list(rows), **options).dataset


def tokens(pairs):
    return list(pairs.dataset.select_columns(TOKENS))


@pytest.mark.parametrize("max_length", [None, 30, 1024])
def test_text_tokens_are_those_of_trl(max_length):
    ours = tokenize_pairs(valid(TEXTS), tiny_tokenizer(), max_length=max_length, invalid_rows="drop")
    assert tokens(ours) == trl_tokens(TEXTS, tiny_tokenizer(), max_length=max_length)
    assert len(ours.dataset) == (3 if max_length == 30 else 4)


@pytest.mark.parametrize("implicit", [False, True])
def test_chat_tokens_are_those_of_trl(implicit):
    tokenizer = tiny_tokenizer(chat=True)
    rows = [chat("hello"), chat("how are you", "I am fine", "no")]
    rows[1]["prompt"].insert(0, {"role": "system", "content": "be good"})
    if implicit:
        rows = [{k: row["prompt"] + row[k] for k in ("chosen", "rejected")} for row in rows]
    ours = tokenize_pairs(valid(rows), tokenizer, max_length=100)
    assert tokens(ours) == trl_tokens(rows, tokenizer, max_length=100)


def test_files_give_the_tokens_of_the_rows_that_trl_loads_from_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    Dataset.from_list(TEXTS).to_json(path)
    theirs = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    ours = tokenize_pairs(validate_rows(load_preferences(path).dataset).dataset, tiny_tokenizer(), max_length=512)
    assert tokens(ours) == trl_tokens(theirs, tiny_tokenizer(), max_length=512)


def test_prompts_that_fill_max_length_are_named():
    tokenizer = tiny_tokenizer()
    length = len(tokenizer(TEXTS[2]["prompt"])["input_ids"])
    assert tokenize_pairs(valid(TEXTS), tokenizer, max_length=length + 1).problems == ()
    with pytest.raises(InputError) as caught:
        tokenize_pairs(valid(TEXTS), tokenizer, max_length=length, dataset_name="eval")
    assert str(caught.value).splitlines() == [
        f"eval (as tokens, max_length {length}): 1 of 4 rows cannot be used",
        "  prompt_too_long  1 row (25.00 %): row 3",
        f"    row 3: the prompt alone has {length} tokens, max_length is {length}",
        "Raise max_length, or leave them out with `invalid_rows: drop`.",
    ]
    found = tokenize_pairs(valid(TEXTS), tokenizer, max_length=length, invalid_rows="drop")
    assert [(p.row_index, p.kind) for p in found.problems] == [(2, "prompt_too_long")]
    assert found.dataset["row_index"][:] == [0, 1, 3]


def test_repeated_row_numbers_are_told_apart():
    ranked = [{"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]}]
    found = tokenize_pairs(valid(ranked), tiny_tokenizer(), max_length=20)
    assert found.dataset["row_index"][:] == [0, 0, 0]
    assert len(set(found.dataset["prompt_id"][:])) == 1


def test_none_left_is_an_error_in_both_modes():
    for mode in ("error", "drop"):
        with pytest.raises(InputError, match="prompt_too_long  4 rows"):
            tokenize_pairs(valid(TEXTS), tiny_tokenizer(), max_length=3, invalid_rows=mode)


def test_pairs_that_are_the_same_as_tokens():
    tokenizer = tiny_tokenizer()
    # TRL adds the EOS to the first response only: the second ends in it.
    rows = [pair("p", " yes", " yes</s>"), pair("p", " yes", " no")]
    found = tokenize_pairs(valid(rows), tokenizer, max_length=None, invalid_rows="drop")
    assert [(p.row_index, p.kind) for p in found.problems] == [(0, "identical_as_tokens")]
    assert tokens(found)[0]["chosen_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_what_is_kept_agrees_with_trls_collator(mode, rng):
    """Counts and problems follow from the batches that TRL's collator makes of the same rows."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    def words(low, high):
        known = "yes no maybe one two three four five six".split()
        return "".join(f" {word}" for word in rng.choice(known, rng.integers(low, high)))

    rows = []
    for _ in range(200):
        shared = words(0, 9)
        sides = [words(0, 2) + shared + words(0, 2) for _ in range(2)]
        rows.append(pair("say" + words(0, 8), *sides))
    data = valid(rows, invalid_rows="drop")
    tokenizer = tiny_tokenizer()
    whole = tokenize_pairs(data, tokenizer, max_length=None, invalid_rows="drop").dataset
    seen = set()
    for max_length in (6, 10, 14):
        collator = DataCollatorForPreference(0, max_length=max_length, truncation_mode=mode)
        options = {"max_length": max_length, "truncation_mode": mode, "invalid_rows": "drop"}
        found = tokenize_pairs(data, tokenizer, **options)
        expected = {}
        cut = [0, 0]
        for row in whole:
            batch = collator([row])
            answer = batch["completion_mask"]
            same = batch["input_ids"][0].tolist() == batch["input_ids"][1].tolist()
            if mode == "keep_start" and len(row["prompt_ids"]) >= max_length:
                expected[row["row_index"]] = "prompt_too_long"
            elif (answer.sum(1) == 0).any():
                expected[row["row_index"]] = "empty_as_tokens"
            elif same and (answer[0] == answer[1]).all():
                expected[row["row_index"]] = "identical_after_truncation"
            else:
                for side, name in enumerate(TOKENS[1:]):
                    cut[side] += len(row["prompt_ids"]) + len(row[name]) > max_length
        reported = {p.row_index: p.kind for p in found.problems if p.kind != "identical_as_tokens"}
        assert reported == expected
        seen |= set(expected.values())
        assert [found.truncated_chosen, found.truncated_rejected] == cut
        assert min(cut) > 0
    assert seen == {"identical_after_truncation"} | ({"prompt_too_long"} if mode == "keep_start" else set())


def test_tokenizers_that_do_not_fit():
    text, conversation = (Dataset.from_list([row]) for row in (TEXTS[0], chat("hello")))
    for data, tokenizer, said in (
        (text, tiny_tokenizer(eos=False), "no EOS token"),
        (text, empty_tokenizer(), "makes no tokens"),
        (conversation, tiny_tokenizer(chat=True, eos=False, pad=False), "neither a pad nor an EOS"),
        (conversation, tiny_tokenizer(), r"prompts of eval are lists of messages.*set tokenizer\.chat_template,"),
    ):
        with pytest.raises(InputError, match=f"^tokenizer: .*{said}"):
            tokenize_pairs(data, tokenizer, max_length=50, dataset_name="eval")
    assert len(tokenize_pairs(text, tiny_tokenizer(pad=False), max_length=50).dataset) == 1
    equal = tiny_tokenizer()
    equal.pad_token = equal.eos_token
    assert tokenize_pairs(text, equal, max_length=50).dataset[0]["chosen_ids"][-1] == equal.eos_token_id


def test_rows_that_the_template_refuses_are_named():
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + tokenizer.chat_template
    )
    rows = [chat("hello"), chat("hello")]
    rows[1]["prompt"].insert(0, {"role": "system", "content": "be good"})
    dataset = valid(rows)
    with pytest.raises(InputError, match="row 2: the chat template refuses the messages: no system role"):
        tokenize_pairs(dataset, tokenizer, max_length=50)
    found = tokenize_pairs(dataset, tokenizer, max_length=50, invalid_rows="drop")
    assert found.dataset["row_index"][:] == [0]
    with pytest.raises(InputError, match="refused_by_template"):
        tokenize_pairs(dataset.select([1]), tokenizer, max_length=50, invalid_rows="drop")


def test_other_failures_are_not_hidden():
    broken = SimpleNamespace(pad_token_id=0, eos_token_id=2, eos_token="</s>", chat_template=None)
    with pytest.raises(TypeError):
        tokenize_pairs(Dataset.from_list(TEXTS[:1]), broken, max_length=50)


def test_prompt_id_is_the_prompts_own():
    rows = [TEXTS[3], pair(TEXTS[3]["prompt"], " yes", " no"), pair("another", " yes", " no")]
    dataset = valid([row | {"prompt_id": "theirs"} for row in rows])
    out = tokenize_pairs(dataset, tiny_tokenizer(), max_length=100).dataset
    first, second, third = out["prompt_id"][:]
    # TRL cuts the first prompt's tokens where "hel" and "lo" merge; it is the same prompt all the same.
    assert out[0]["prompt_ids"] != out[1]["prompt_ids"]
    assert first == second != third


def test_sound_tokenised_rows_pass_untouched():
    columns = {"prompt_ids": [[1, 2], [1, 2]], "chosen_ids": [[3, 4], [5]], "rejected_ids": [[7, 4], [6]]}
    named = Dataset.from_dict({**columns, "prompt_id": ["x", "x"], "row_index": [4, 7], LIST_COLUMN: [4, 7]})
    found = tokenize_pairs(named, None, max_length=3)
    assert found.dataset is named
    assert (found.truncated_chosen, found.truncated_rejected) == (1, 1)
    added = tokenize_pairs(Dataset.from_dict(columns), None, max_length=None).dataset
    assert added["row_index"][:] == [0, 1]
    assert added["prompt_id"][0] == added["prompt_id"][1]


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_tokenised_rows_are_checked(mode):
    prompts = [[1, 2, 3], [1, 2], [1, 2], None, [1, 2], [1, 2, 3, 4], [], [1]]
    chosen = [[5, 6], [5], [], [5], [5, 6, 7], [5], [5], None]
    rejected = [[5, 7], [5], [6], [6], [5, 6, 8], [6], [6], [5]]
    dataset = Dataset.from_dict({"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected})
    options = {"max_length": 4, "truncation_mode": mode}
    expected = {1: "identical_as_tokens", 2: "empty_as_tokens", 3: "empty_prompt", 6: "empty_prompt"}
    expected[7] = "empty_as_tokens"
    if mode == "keep_start":
        expected |= {0: "identical_after_truncation", 4: "identical_after_truncation", 5: "prompt_too_long"}
    with pytest.raises(InputError) as caught:
        tokenize_pairs(dataset, None, dataset_name="eval", **options)
    assert str(caught.value).startswith(f"eval (as tokens, max_length 4): {len(expected)} of 8 rows cannot be used\n")
    if mode == "keep_start":
        assert "row 6: the prompt alone has 4 tokens, max_length is 4\n" in str(caught.value)
        with pytest.raises(InputError, match="none of the 8 rows can be used"):
            tokenize_pairs(dataset, None, invalid_rows="drop", **options)
        dataset = concatenate_datasets([dataset, Dataset.from_dict({n: [[i]] for i, n in enumerate(TOKENS)})])
    found = tokenize_pairs(dataset, None, invalid_rows="drop", **options)
    assert {p.row_index: p.kind for p in found.problems} == expected
    assert found.dataset["row_index"][:] == [i for i in range(len(dataset)) if i not in expected]
    again = tokenize_pairs(found.dataset, None, **options)
    assert again.dataset is found.dataset
    assert (again.truncated_chosen, again.truncated_rejected) == (found.truncated_chosen, found.truncated_rejected)


def test_what_was_prepared_passes_again_as_it_is():
    rows = [{**row, "votes": votes} for row, votes in zip(TEXTS, ([2, 1], None, [0, 0, 1], [1, 0]), strict=True)]
    for max_length in (None, 30):
        options = {"max_length": max_length, "invalid_rows": "drop"}
        first = tokenize_pairs(valid(rows), tiny_tokenizer(), **options)
        again = tokenize_pairs(validate_rows(first.dataset).dataset, None, max_length=max_length)
        assert again.dataset is first.dataset


@pytest.mark.parametrize("ids", [["1 2"], [None], [[1.5]], [[[1]]], [3]])
def test_columns_of_tokens_that_hold_something_else(ids):
    dataset = Dataset.from_dict({"prompt_ids": [[1]], "chosen_ids": ids, "rejected_ids": [[2]]})
    with pytest.raises(InputError, match="eval: the column 'chosen_ids' must hold lists of token ids, found"):
        tokenize_pairs(dataset, None, max_length=4, dataset_name="eval")


def test_checks_of_tokenised_rows_take_milliseconds():
    size = 900
    columns = {
        "prompt_ids": [[1, 2, 3, 4, i % 50] for i in range(size)],
        "chosen_ids": [[5 + i % 50, 7, 9, 2] for i in range(size)],
        "rejected_ids": [[6 + i % 50, 7, 9, 2] for i in range(size)],
        "dispersion": [0.5] * size,
    }
    dataset = tokenize_pairs(validate_rows(Dataset.from_dict(columns)).dataset, None, max_length=1024).dataset
    start = time.process_time()
    for _ in range(10):
        tokenize_pairs(validate_rows(dataset).dataset, None, max_length=1024)
    # About 10 ms each here; a look-up in Arrow per row takes 20 times as long.
    assert (time.process_time() - start) / 10 < 0.1


@pytest.mark.parametrize("option", [{"truncation_mode": "middle"}, {"max_length": 1}, {"invalid_rows": "no"}])
def test_wrong_arguments(option):
    with pytest.raises(InputError, match=f"^{next(iter(option))}: got"):
        tokenize_pairs(Dataset.from_list(TEXTS), tiny_tokenizer(), **({"max_length": 50} | option))
    with pytest.raises(InputError, match="there are no rows"):
        tokenize_pairs(Dataset.from_list(TEXTS).select([]), tiny_tokenizer(), max_length=50)


def test_mixed_columns_do_not_reach_trl(tmp_path):
    path = tmp_path / "rows.jsonl"
    Dataset.from_list([{**TEXTS[0], "meta": "x"}]).to_json(path)
    path.write_text(path.read_text() + path.read_text().replace('"x"', "3"))
    dataset = validate_rows(load_preferences(path).dataset).dataset
    assert dataset["meta"][:] == ["x", 3]
    assert "meta" not in tokenize_pairs(dataset, tiny_tokenizer(), max_length=50).dataset.column_names


def test_data_on_disk_never_give_tokens_of_another_tokenizer(tmp_path):
    """`datasets` caches the tokens of a data set on disk beside it, under a name that must change with either."""
    Dataset.from_list(TEXTS).save_to_disk(tmp_path / "saved")
    other = tiny_tokenizer()
    other.add_tokens(["fine", "rinse"])
    for tokenizer in (tiny_tokenizer(), other):
        for max_length in (1024, 30):
            saved = validate_rows(load_preferences(tmp_path / "saved").dataset).dataset
            options = {"max_length": max_length, "invalid_rows": "drop"}
            one, two = (tokenize_pairs(data, tokenizer, **options) for data in (saved, valid(TEXTS)))
            assert tokens(one) == tokens(two)


def test_two_processes_give_the_tokens_of_one():
    one, two = (tokenize_pairs(valid(TEXTS * 3), tiny_tokenizer(), max_length=100, num_proc=n) for n in (None, 2))
    assert list(one.dataset) == list(two.dataset)


@pytest.mark.shared
def test_hh_with_a_real_tokenizer(shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories-260k")
    dataset = load_preferences(shared / "data" / "hh" / "helpful_test.jsonl.gz").dataset
    found = validate_rows(dataset, invalid_rows="drop")
    ours = tokenize_pairs(found.dataset, tokenizer, max_length=512, invalid_rows="drop")
    lost = {p.row_index for p in (*found.problems, *ours.problems) if p.kind != "prompt_too_long"}
    sound = dataset.select([i for i in range(1000) if i not in lost])
    assert tokens(ours) == trl_tokens(sound, tokenizer, max_length=512)
    assert len(ours.dataset) + len(found.problems) + len(ours.problems) == 1000
    assert ours.truncated_chosen > 0
