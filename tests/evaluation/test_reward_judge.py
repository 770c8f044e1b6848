"""Judges that need no server."""

import json

import pytest
import torch

from mallowspo.errors import InputError
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.evaluation.reward_judge import (
    RewardModel,
    check_reward_model,
    judge_with_callable,
    judge_with_reward_model,
    load_classifier,
    load_judge_callable,
)
from mallowspo.evaluation.verdicts import AnswerPair
from tiny import tiny_tokenizer

PAIRS = [AnswerPair("p0 ", "long answer", "short"), AnswerPair("p1 ", "a", "bb"), AnswerPair("p2 ", "same", "same")]
PROMPTS = [EvaluationPrompt(i, pair.prompt) for i, pair in enumerate(PAIRS)]


@pytest.fixture
def judges(tmp_path, monkeypatch):
    (tmp_path / "my_judges.py").write_text(
        "def longer(prompt, a, b):\n    return 'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'\n"
        "def first(prompt, a, b):\n    return 0.9\n"
        "def soft(prompt, a, b):\n    return len(a) / (len(a) + len(b))\n"
        "def wrong(prompt, a, b):\n    return 'first'\n"
        "def none(prompt, a, b):\n    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_function_judges_both_orders_and_resumes(judges):
    log = judges / "v.jsonl"
    found = judge_with_callable(PAIRS, load_judge_callable("my_judges:longer"), log)
    assert found.model_first_n.tolist() == found.model_second_n.tolist() == [1.0, 0.0, 0.5]
    assert (found.asked, found.identical) == (4, 1)
    again = judge_with_callable(PAIRS, load_judge_callable("my_judges:longer"), log)
    assert again.asked == 0 and again.model_first_n.tolist() == [1.0, 0.0, 0.5]
    assert len(log.read_text().splitlines()) == 4


def test_a_function_may_give_preferences(judges):
    soft = judge_with_callable(PAIRS, load_judge_callable("my_judges:soft"), judges / "v.jsonl")
    assert soft.model_first_n == pytest.approx([11 / 16, 1 / 3, 0.5])
    assert soft.model_second_n == pytest.approx([11 / 16, 1 / 3, 0.5])
    first = judge_with_callable(PAIRS, load_judge_callable("my_judges:first"), judges / "w.jsonl")
    assert first.model_first_n == pytest.approx([0.9, 0.9, 0.5])
    assert first.model_second_n == pytest.approx([0.1, 0.1, 0.5])


@pytest.mark.parametrize("name", ["wrong", "none"])
def test_a_function_that_says_something_else_is_named(judges, name):
    with pytest.raises(InputError, match=f"my_judges:{name} returned"):
        judge_with_callable(PAIRS, load_judge_callable(f"my_judges:{name}"), judges / "v.jsonl")


def test_a_function_that_is_not_there_is_named(judges):
    with pytest.raises(InputError, match="no function 'shorter'; it has first, longer"):
        load_judge_callable("my_judges:shorter")
    with pytest.raises(InputError, match="'no_such_module'"):
        load_judge_callable("no_such_module:f")


@pytest.fixture
def reward_folder(tmp_path):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    return tmp_path / "rm", model, tokenizer


def test_the_higher_reward_wins(reward_folder, tmp_path):
    folder, model, tokenizer = reward_folder

    def reward(text):
        with torch.no_grad():
            return float(model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits)

    rm = RewardModel(str(folder), use_cpu=True)
    found = judge_with_reward_model(PROMPTS, PAIRS, rm, tmp_path / "r.jsonl")
    values = [(reward(p.prompt + p.answer), reward(p.prompt + p.baseline)) for p in PAIRS]
    assert found.model_first_n.tolist() == [0.5 if a == b else float(a > b) for a, b in values]
    assert found.details["mean_reward_model"] == pytest.approx(sum(a for a, _ in values) / 3, abs=1e-6)
    assert not found.both_orders and found.asked == 5 and found.identical == 1
    again = judge_with_reward_model(PROMPTS, PAIRS, rm, tmp_path / "r.jsonl")
    assert again.asked == 0 and again.details == found.details
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 5
    assert set(json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])) == {"key", "reward"}


def test_what_is_no_reward_model_is_refused(reward_folder, tmp_path):
    folder, model, _ = reward_folder
    with pytest.raises(InputError, match="takes 64"):
        judge_with_reward_model(
            PROMPTS[:1], [AnswerPair("p0 ", "word " * 80, "b")], RewardModel(str(folder), use_cpu=True), tmp_path / "r"
        )
    model.config.num_labels = 2
    model.score = torch.nn.Linear(32, 2, bias=False)
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="2 outputs"):
        judge_with_reward_model(PROMPTS, PAIRS, RewardModel(str(folder), use_cpu=True), tmp_path / "s")
    for kind, match in (("LlamaForSequenceClassification", "2 outputs"), ("LlamaForCausalLM", "drawn at random")):
        model.config.architectures = [kind]
        model.config.save_pretrained(folder)
        with pytest.raises(InputError, match=f"^judge: .*{match}"):
            check_reward_model(RewardModel(str(folder)))
    with pytest.raises(InputError, match="judge: .*none cannot be loaded"):
        judge_with_reward_model(PROMPTS, PAIRS, RewardModel(str(tmp_path / "none")), tmp_path / "s")


def test_a_model_whose_output_was_not_trained_is_refused(reward_folder, tmp_path):
    """Transformers would draw the missing output at random and go on."""
    folder, model, _ = reward_folder
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("score")}
    model.save_pretrained(folder, state_dict=weights)
    with pytest.raises(InputError, match=r"^judge: .*score\.weight"):
        judge_with_reward_model(PROMPTS, PAIRS, RewardModel(str(folder), use_cpu=True), tmp_path / "s")
    with pytest.raises(InputError, match=r"^reward_model: .*score\.weight"):
        load_classifier(str(folder), option="reward_model")
