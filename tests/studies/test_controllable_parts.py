"""Prompts, rewards, pairs and the optimum of the controllable-generation study, each on its own."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import optimize

from mallowspo.errors import InputError
from mallowspo.evaluation.local_model import load_causal_model
from mallowspo.studies.controllable.bench import Bench, compare, make_pairs, text_of, tilted_reference
from mallowspo.studies.controllable.design import (
    ControllableDesign,
    Reward,
    StudyPrompts,
    first_words,
    load_reward,
    read_prompts,
    read_texts,
)
from studies.controllable_inputs import write_classifier, write_texts
from tiny import save_tiny, tiny_tokenizer


def design(**changes):
    given = {"model_name_or_path": "m", "dataset_name": "texts.txt", "use_cpu": True, "eval_prompts": 8}
    return ControllableDesign(**(given | changes))


# Prompts


@pytest.mark.parametrize("longest", [3, 6, 10])
def test_a_prompt_is_the_longest_start_of_whole_words_that_fits(longest):
    tokenizer = tiny_tokenizer()
    text = "Once upon a time there was a little girl who lived in a small house"
    ids = first_words(text, tokenizer, longest)
    words = tokenizer.decode(ids, skip_special_tokens=True).split(" ")
    assert text.startswith(" ".join(words) + " ")
    assert len(ids) <= longest < len(tokenizer(" ".join(text.split(" ")[: len(words) + 1]))["input_ids"])


def test_a_text_without_a_second_word_gives_no_prompt():
    assert first_words("Once", tiny_tokenizer(), 8) == []
    assert first_words("antidisestablishmentarianism is", tiny_tokenizer(), 3) == []


def test_prompts_differ_and_are_held_out(tmp_path):
    source = str(write_texts(tmp_path / "texts.txt"))
    found = read_prompts(design(dataset_name=source, opening="Once"), tiny_tokenizer())
    every = [*found.train, *found.heldout]
    assert len(found.heldout) == 8 and len(set(every)) == len(every) > 20
    assert all(tiny_tokenizer().decode(ids, skip_special_tokens=True).startswith("Once") for ids in every)
    again = read_prompts(design(dataset_name=source, opening="Once", train_prompts=5), tiny_tokenizer())
    assert again.heldout == found.heldout and again.train == found.train[:5]
    assert read_prompts(design(dataset_name=source, prompt_seed=1), tiny_tokenizer()).heldout != found.heldout


def test_a_data_set_gives_its_column(tmp_path):
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"review": "good film"}\n{"review": "bad film"}\n', encoding="utf-8")
    assert read_texts(design(dataset_name=str(path), text_column="review")) == ["good film", "bad film"]
    with pytest.raises(InputError, match="text_column.*'text'.*review"):
        read_texts(design(dataset_name=str(path)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"opening": "Never"}, "no text that begins with 'Never'"),
        ({"eval_prompts": 500}, "lower eval_prompts"),
        ({"dataset_name": "absent.txt"}, "cannot be read"),
    ],
)
def test_texts_that_cannot_be_used_are_named(tmp_path, changes, says):
    source = str(write_texts(tmp_path / "texts.txt"))
    with pytest.raises(InputError, match=says):
        read_prompts(design(**({"dataset_name": source} | changes)), tiny_tokenizer())


# Rewards


def test_vader_gives_the_score_that_its_authors_print():
    pytest.importorskip("vaderSentiment")
    # From the examples of its own README.
    texts = ["VADER is smart, handsome, and funny.", "VADER is not smart, handsome, nor funny.", "The book was good."]
    assert load_reward(design()).score(texts).tolist() == [0.8316, -0.7424, 0.4404]


def test_afinn_gives_the_score_that_its_author_prints():
    """The example of its README, 3 for the whole text, over its four words."""
    pytest.importorskip("afinn")
    found = load_reward(design(reward_model="afinn")).score(["This is utterly excellent!", ""])
    assert found.tolist() == [0.75, 0.0]


@pytest.mark.parametrize(("lexicon", "module"), [("vader", "vaderSentiment.vaderSentiment"), ("afinn", "afinn")])
def test_a_missing_package_says_what_to_install(lexicon, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'mallowspo\[experiments\]'"):
        load_reward(design(reward_model=lexicon))


def test_a_classifier_gives_what_transformers_pipeline_gives(tmp_path):
    from transformers import pipeline

    folder = str(write_classifier(tmp_path / "classifier"))
    texts = ["the lazy dog", "a little girl lived in a house", "the quick brown fox", "good"]
    peer = pipeline("text-classification", model=folder, top_k=None, device="cpu", batch_size=1)
    wanted = {
        label: [next(s["score"] for s in row if s["label"] == label) for row in peer(texts)]
        for label in ("POSITIVE", "NEGATIVE")
    }
    found = load_reward(design(reward_model=folder, generation_batch_size=2)).score(texts)
    np.testing.assert_allclose(found, wanted["POSITIVE"], rtol=1e-5)
    other = load_reward(design(reward_model=folder, reward_label="negative")).score(texts)
    np.testing.assert_allclose(other, wanted["NEGATIVE"], rtol=1e-5)
    assert len(set(found.round(4))) == 4


def test_a_single_output_is_the_reward_itself(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = str(write_classifier(tmp_path / "classifier", ("LABEL_0",)))
    ids = tiny_tokenizer()("the lazy dog", return_tensors="pt")
    with torch.no_grad():
        logit = AutoModelForSequenceClassification.from_pretrained(folder)(**ids).logits.item()
    assert load_reward(design(reward_model=folder)).score(["the lazy dog"])[0] == pytest.approx(logit, rel=1e-5)
    with pytest.raises(InputError, match="single output"):
        load_reward(design(reward_model=folder, reward_label="positive"))


def test_an_unknown_label_is_answered_with_those_there_are(tmp_path):
    folder = str(write_classifier(tmp_path / "classifier", ("joy", "anger")))
    with pytest.raises(InputError, match="none was given.*'joy', 'anger'"):
        load_reward(design(reward_model=folder))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_reward(design(reward_model=str(tmp_path)))


# Pairs


def test_bradley_terry_prefers_as_often_as_it_says(rng):
    draws = 4000
    first = sum(
        next(compare([0.5, 0.2], preferences="bradley_terry", scale=3.0, rng=rng)) == (0, 1) for _ in range(draws)
    )
    wanted = 1 / (1 + np.exp(-0.9))
    assert first / draws == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / draws))


def bench_of(folder, prompts, reward, **changes):
    model = load_causal_model(str(save_tiny(folder)), option="model_name_or_path", use_cpu=True)
    given = StudyPrompts(train=tuple(map(tuple, prompts)), heldout=())
    return Bench(design(**changes), folder, tiny_tokenizer(), model, (2,), given, reward, {})


def test_pairs_are_the_policys_own_responses_in_the_order_of_the_reward(tmp_path):
    prompts = [tiny_tokenizer()(text)["input_ids"] for text in ("Once", "the lazy dog")]
    length = Reward("length of the text", lambda texts: np.asarray([float(len(text)) for text in texts]))
    bench = bench_of(tmp_path, prompts, length, response_tokens=6, samples_per_prompt=4)
    found = make_pairs(bench, 0)
    assert found.compared == 12 and found.equal == 12 - len(found.pairs) < 12
    for pair in found.pairs:
        chosen, rejected = (
            len(text_of(bench.tokenizer, [*prompts[pair.prompt], *ids])) for ids in (pair.chosen, pair.rejected)
        )
        assert chosen == pair.chosen_reward > pair.rejected_reward == rejected
    assert found.pairs == make_pairs(bench, 0).pairs != make_pairs(bench, 1).pairs


def test_a_reward_that_tells_nothing_apart_is_refused(tmp_path):
    flat = Reward("nothing", lambda texts: np.zeros(len(texts)))
    with pytest.raises(InputError, match="nothing to learn"):
        make_pairs(bench_of(tmp_path, [[1, 50]], flat), 0)


# The optimum


@pytest.mark.filterwarnings("ignore:Values in x were outside bounds:RuntimeWarning")  # an older SciPy's search
def test_the_tilted_reference_is_the_constrained_optimum():
    reward_ps = np.asarray([[0.0, 0.2, 0.9, 0.4, 0.4], [0.1, -0.5, 0.3, 0.8, 0.0]])
    samples = reward_ps.shape[1]
    kl, reward = tilted_reference(reward_ps, points=400)
    for budget in (0.05, 0.3):
        # Peer: SciPy maximises the mean reward over all pairs of distributions with this mean KL from uniform ones.
        best = optimize.minimize(
            lambda p: -(p.reshape(2, samples) * reward_ps).sum() / 2,
            np.full(2 * samples, 1 / samples),
            jac=lambda _: -reward_ps.ravel() / 2,
            bounds=[(1e-9, 1)] * (2 * samples),
            constraints=[
                {"type": "eq", "fun": lambda p: p.reshape(2, samples).sum(axis=1) - 1},
                {"type": "ineq", "fun": lambda p, b=budget: b - (p * np.log(p * samples)).sum() / 2},
            ],
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert np.interp(budget, kl, reward) == pytest.approx(-best.fun, abs=2e-4)


def test_the_tilted_reference_starts_at_the_reference_and_ends_before_few_draws_decide(rng):
    reward_ps = rng.normal(size=(5, 40))
    kl, reward = tilted_reference(reward_ps)
    assert (kl[0], reward[0]) == pytest.approx((0.0, reward_ps.mean()))
    assert np.all(np.diff(kl) > 0) and np.all(np.diff(reward) > 0)
    # With e^KL a rough count of how much fewer draws carry the weight, ten of forty are left at log 4.
    assert 0.5 < kl[-1] < np.log(40 / 5)
    with pytest.raises(InputError, match="S >= 2"):
        tilted_reference(reward_ps[:, :1])
