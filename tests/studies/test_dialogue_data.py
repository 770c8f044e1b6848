"""The dialogues of the study: which rows are used, and who sees which."""

from dataclasses import replace

import pytest

from dialogue_world import dialogue_rows, dialogue_world, write_lines
from mallowspo.errors import InputError
from mallowspo.studies.dialogue.data import first_turn, prompts_that_fit, read_dialogues, study_tokenizer
from mallowspo.studies.dialogue.design import DialogueSettings, DialogueSetup, fast
from tiny import save_tiny, tiny_tokenizer


@pytest.fixture
def setup(tmp_path):
    return DialogueSetup(train_pairs=10, **dialogue_world(tmp_path))


def read(setup, **changes):
    return read_dialogues(replace(setup, **changes))


def test_no_dialogue_is_in_two_parts(setup):
    data = read(setup)
    parts = (data.sft, data.policy, data.judge)
    groups = [set(part.groups) for part in parts]
    assert sum(map(len, parts)) == 90 and sum(map(len, groups)) == len(set.union(*groups))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    for part, group in zip(parts, groups, strict=True):
        assert {first_turn(prompt) for prompt in part.rows["prompt"]} == group


def test_every_row_is_accounted_for_and_fits_whole(setup):
    data = read(setup, max_length=60)
    for pairs in (data.policy, *data.tests):
        lost = sum(count for reason, count in pairs.account.items() if reason not in ("read", "fit whole"))
        assert pairs.account["read"] == pairs.account["fit whole"] + lost
        for row in pairs.rows:
            assert len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= 60
    assert data.policy.account["longer than max_length"] > 0


def test_texts_belong_to_their_tokens(setup):
    tokenizer = study_tokenizer(setup)
    for pairs in read(setup, max_length=60).tests:
        for row in pairs.rows:
            assert tokenizer.decode(row["chosen_ids"], skip_special_tokens=True) == row["chosen"]
            assert tokenizer.decode(row["prompt_ids"], skip_special_tokens=True) == row["prompt"]


def test_one_human_turn(setup):
    data = read(setup, single_turn=True)
    assert all(prompt.count("Human:") == 1 for prompt in data.policy.rows["prompt"])
    assert data.policy.account["several turns"] == 30


def test_votes_become_pairs_by_majority(setup):
    votes = read(setup).tests[2]
    assert votes.account["read"] == 20 and votes.account["no majority or two prompts"] == 4
    assert set(votes.rows["chosen"]) == {" good one"} and votes.rows["prompt"][0].startswith("\n\nHuman: what is")
    number = [int(prompt.split("?")[0].split()[-1]) for prompt in votes.rows["prompt"]]
    assert votes.unanimous_n.tolist() == [n % 2 == 0 for n in number]


def test_hh_as_it_is_published(setup, tmp_path):
    rows = dialogue_rows(60, seed=4)
    whole = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]
    whole.append({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: other\n\nAssistant: c"})
    data = read(setup, train_data=write_lines(tmp_path / "whole.jsonl", whole))
    given = {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    used = {
        (r["prompt"], r["chosen"], r["rejected"]) for part in (data.sft, data.policy, data.judge) for r in part.rows
    }
    assert used == given and data.policy.account["read"] == 61


def test_turns_are_rendered_by_the_chat_template_of_the_model(setup, tmp_path):
    """What the tokenizer makes of the conversation is what is trained on, scored and answered."""
    tokenizer = tiny_tokenizer(chat=True)
    save_tiny(tmp_path / "model", chat=True)
    data = read(setup, model_name_or_path=str(tmp_path / "model"), prompt_format="chat")
    turns = {"Human": "<|user|>", "Assistant": "<|assistant|>"}
    seen = set()
    for row in [*data.policy.rows, *data.tests[0].rows, *data.tests[2].rows]:
        wanted = ""
        for part in row["prompt"].split("\n\n")[1:]:
            who, said = part.split(":", 1)
            wanted += turns[who] + (said.strip() + "</s>" if said.strip() else "")
        assert tokenizer.decode(row["prompt_ids"]) == wanted
        assert tokenizer.decode(row["chosen_ids"]) == row["chosen"].strip() + "</s>"
        seen.add(wanted.count("<|user|>"))
    assert seen == {1, 2}


@pytest.mark.parametrize(("model", "said"), [("plain", "no chat template"), ("chat", "reads turns")])
def test_what_no_chat_template_can_render_is_refused(model, said, setup, tmp_path):
    save_tiny(tmp_path / "model", chat=model == "chat")
    rows = [{"prompt": f"Say {number}.", "chosen": " a", "rejected": " b"} for number in range(60)]
    with pytest.raises(InputError, match=f"prompt_format: .*{said}"):
        read(
            setup,
            model_name_or_path=str(tmp_path / "model"),
            prompt_format="chat",
            train_data=write_lines(tmp_path / "rows.jsonl", rows),
        )


def test_chat_messages_are_refused(setup, tmp_path):
    chat = [{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "a"}],
             "rejected": [{"role": "assistant", "content": "b"}]}]  # fmt: skip
    with pytest.raises(InputError, match="raw text"):
        read(setup, train_data=write_lines(tmp_path / "chat.jsonl", chat))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_pairs": 1000}, "train_pairs: got 1000"),
        ({"max_length": 5}, "raise it"),
        ({"test_data": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_used_is_named(setup, changes, said):
    with pytest.raises(InputError, match=said):
        read(setup, **changes)


def test_one_dialogue_cannot_be_split(setup, tmp_path):
    row = {"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " b", "rejected": " c"}
    with pytest.raises(InputError, match="holds 1 dialogues"):
        read(setup, train_data=write_lines(tmp_path / "one.jsonl", [row, row | {"chosen": " d"}]))


def test_a_fast_run_keeps_what_was_asked(setup):
    config = fast(DialogueSettings(setup=setup, judge="reward:x", seeds=(5, 6)))
    assert config.judge == "reward:x" and config.seeds == (5,) and config.setup.train_data == setup.train_data
    assert config.judge_steps == DialogueSettings.judge_steps


def test_prompts_leave_room_for_an_answer_and_are_one_of_each_dialogue(setup):
    roomy = prompts_that_fit(replace(setup, max_length=80, max_new_tokens=20), 100)
    assert 0 < len(roomy) <= 20 and all(len(ids) <= 60 for _, ids in roomy)
    assert len({first_turn(text) for text, _ in roomy}) == len(roomy)
    with pytest.raises(InputError, match="max_new_tokens"):
        prompts_that_fit(replace(setup, max_new_tokens=255), 100)
