"""The data of the recipes, made of small sets in the columns of the published ones."""

import json

import pytest
import torch

from dialogue_world import dialogue_rows, write_lines
from recipes.stand_ins import script
from tiny import tiny_llama, tiny_tokenizer


@pytest.fixture(scope="module")
def prepare():
    module = script("prepare")
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_single_turns_of_whole_dialogues(prepare, tmp_path):
    rows = dialogue_rows(12, turns=2)
    (tmp_path / "hh").mkdir()
    for split in ("train", "test"):
        whole = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in rows]
        write_lines(tmp_path / f"hh/{split}.jsonl", whole)
    assert prepare("hh", tmp_path / "hh", tmp_path / "out") == 0
    single = [row for row in rows if row["prompt"].count("Human:") == 1]
    assert lines(tmp_path / "out/test.jsonl") == single and len(single) == 8
    sft = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in single]
    assert lines(tmp_path / "out/sft/train.jsonl") == sft


def test_questions_become_prompts_of_hh_once_each(prepare, tmp_path, capsys):
    reddit = [{"post_id": str(i // 2), "history": f"Why\n is {i // 2} &amp; odd?", "labels": 1} for i in range(8)]
    write_lines(tmp_path / "shp.jsonl", [*reddit, {"post_id": "9", "history": "long " * 300, "labels": 0}])
    assert prepare("shp", tmp_path / "shp.jsonl", tmp_path / "out.jsonl", "--prompts", 5) == 0
    made = {row["prompt"] for row in lines(tmp_path / "out.jsonl")}
    assert made == {f"\n\nHuman: Why is {i} & odd?\n\nAssistant:" for i in range(4)}
    assert "1 longer" in capsys.readouterr().out

    stack = [{"qid": i, "question": f"<p>Is <code>{i}</code> &lt; 7?</p>\n", "answers": []} for i in range(6)]
    write_lines(tmp_path / "se.jsonl", stack)
    assert prepare("stack_exchange", tmp_path / "se.jsonl", tmp_path / "se_out.jsonl", "--prompts", 3) == 0
    made = [row["prompt"] for row in lines(tmp_path / "se_out.jsonl")]
    assert len(set(made)) == 3 and set(made) <= {f"\n\nHuman: Is {i} < 7?\n\nAssistant:" for i in range(6)}
    assert prepare("shp", tmp_path / "nowhere.jsonl", tmp_path / "x.jsonl") == 2


def test_pairs_are_a_models_own_answers_in_the_classifiers_order(prepare, tmp_path):
    from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    tokenizer = tiny_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, pad_token_id=0,
            num_attention_heads=4, id2label={0: "NEGATIVE", 1: "POSITIVE"}, initializer_range=0.2,
        )  # fmt: skip
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    for folder in ("model", "judge"):
        tokenizer.save_pretrained(tmp_path / folder)
    words = "good bad yes no maybe one two three four five six seven eight nine ten".split()
    write_lines(tmp_path / "films.jsonl", [{"text": f"{a} {b} film and more"} for a in words for b in words])
    code = prepare(
        "imdb", tmp_path / "model", tmp_path / "out", "--texts", tmp_path / "films.jsonl", "--classifier",
        tmp_path / "judge", "--prompts", 5, "--held_out", 3, "--response_tokens", 6,
    )  # fmt: skip
    assert code == 0
    rows = lines(tmp_path / "out/train.jsonl")
    assert len({tuple(row["prompt_ids"]) for row in rows}) == 5 and 20 <= len(rows) <= 30
    judge = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()

    def positive(row, side):
        ids = tokenizer(tokenizer.decode(row["prompt_ids"] + row[side], skip_special_tokens=True))["input_ids"]
        with torch.no_grad():
            return judge(torch.tensor([ids])).logits.softmax(-1)[0, 1].item()

    assert all(positive(row, "chosen_ids") > positive(row, "rejected_ids") for row in rows)
