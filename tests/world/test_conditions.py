"""The conditions: they change the wording and the corpus, and nothing that people prefer."""

from __future__ import annotations

import numpy as np
import pytest

from mallowspo.errors import InputError
from mallowspo.evaluation.candidate_tree import build_candidate_tree
from mallowspo.world.conditions import (
    CONDITIONS,
    EXTRA_WORDS,
    Condition,
    apply_condition,
    combine,
    condition_named,
    write_condition_corpus,
)
from mallowspo.world.language import FAMILY_NAMES, build_world, word_tokenizer
from mallowspo.world.population import top_choice_probabilities
from mallowspo.world.reference import tokenize_forms

AGREED = set(FAMILY_NAMES[:3])


@pytest.fixture(scope="module")
def world():
    return build_world(0, train_prompts=120, heldout_prompts=30)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(EXTRA_WORDS)


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_form_is_one_event_in_known_words_and_people_stay_as_they_are(world, tokenizer, name):
    written = apply_condition(world, CONDITIONS[name])
    ids = tokenize_forms(tokenizer, written.heldout_forms)
    assert not any(tokenizer.unk_token_id in text for prompt in ids for texts in prompt for text in texts)
    for prompt in ids:  # the tree refuses an answer that is the beginning of another, or stands twice
        build_candidate_tree([[1]], [[text for texts in prompt for text in texts]])
    for before, after, forms in zip(world.heldout, written.world.heldout, written.heldout_forms, strict=True):
        assert after.text == before.text and after.candidates == tuple(texts[0] for texts in forms)
        assert name == "narrow_phi" or after.phi == before.phi
        assert name == "one_center_agreed" or after.center == before.center


def test_a_condition_is_where_it_says(world):
    for name, where in {"style_all": {*FAMILY_NAMES}, "style_agreed": AGREED, "opener_agreed": AGREED}.items():
        written = apply_condition(world, CONDITIONS[name])
        for prompt, forms in zip(written.world.train, written.train_forms, strict=True):
            assert {len(set(texts)) for texts in forms} == {4 if prompt.family in where else 1}
    written = apply_condition(world, CONDITIONS["prefix_contested"])
    for prompt in written.world.train:
        assert all(text.startswith("i would say ") == (prompt.family not in AGREED) for text in prompt.candidates)


def test_rare_style_shares_no_word_between_families(world):
    seen: dict[str, set[str]] = {}
    for prompt in apply_condition(world, condition_named("rare_style_agreed")).world.train:
        if prompt.family in AGREED:
            seen.setdefault(prompt.family, set()).update(text.split()[-1] for text in prompt.candidates)
    first, second, third = seen.values()
    assert not (first & second or first & third or second & third)


def test_one_word_answers_are_the_same_in_every_context(world):
    found: dict[str, set[tuple[str, ...]]] = {}
    for prompt in apply_condition(world, CONDITIONS["one_word"]).world.train:
        assert len(set(prompt.candidates)) == 5 and all(" " not in text for text in prompt.candidates)
        found.setdefault(prompt.family, set()).add(prompt.candidates)
    assert {len(answers) for answers in found.values()} == {1}


def test_longer_answers_follow_the_group_or_the_family_alone(world):
    plain = {prompt.text: prompt.candidates for prompt in world.train}
    for name, key in {"length_by_topic": "group", "contested_longer": "family"}.items():
        extra: dict[str, set[int]] = {}
        for prompt in apply_condition(world, CONDITIONS[name]).world.train:
            words = zip(prompt.candidates, plain[prompt.text], strict=True)
            extra.setdefault(getattr(prompt, key), set()).update(len(a.split()) - len(b.split()) for a, b in words)
        assert all(len(numbers) == 1 for numbers in extra.values())
        assert len(set.union(*extra.values())) >= 4


def test_narrow_phi_keeps_the_order_within_its_range(world):
    before = [prompt.phi for prompt in world.train]
    after = [prompt.phi for prompt in apply_condition(world, CONDITIONS["narrow_phi"]).world.train]
    assert 0.3 < min(after) and max(after) < 0.5
    assert np.argsort(before, kind="stable").tolist() == np.argsort(after, kind="stable").tolist()


def test_rare_topics_lose_prompts_and_the_others_none(world):
    kept = [prompt.family for prompt in apply_condition(world, CONDITIONS["agreed_rare"]).world.train]
    before = [prompt.family for prompt in world.train]
    agreed = sum(family in AGREED for family in before)
    assert 0.3 * agreed < sum(family in AGREED for family in kept) < 0.7 * agreed
    assert sum(family not in AGREED for family in kept) == len(before) - agreed
    assert apply_condition(world, CONDITIONS["agreed_rare"]) == apply_condition(world, CONDITIONS["agreed_rare"])


def test_the_careless_write_any_candidate(world):
    written = apply_condition(world, Condition(careless=0.3, answers_per_prompt=100_000))
    share_pk = write_condition_corpus(written, rng=np.random.default_rng(0)) / 100_000
    wanted_pk = np.stack([0.7 * top_choice_probabilities(prompt) + 0.06 for prompt in written.world.train])
    assert np.abs(share_pk - wanted_pk).max() < 5 * np.sqrt(0.25 / 100_000)


def test_two_conditions_combine_or_are_refused():
    assert condition_named("style_agreed+careless") == combine(CONDITIONS["careless"], CONDITIONS["style_agreed"])
    with pytest.raises(InputError, match="'endings'"):
        condition_named("style_agreed+style_all")
    with pytest.raises(InputError, match="'nonsense'"):
        condition_named("nonsense")


@pytest.mark.parametrize(
    "given",
    [{"length": "long"}, {"prefix": "some"}, {"rare_style": True}, {"agreed_share": 0.0}, {"phi_range": (0.5, 0.3)}],
)
def test_values_out_of_range_are_refused(given):
    with pytest.raises(InputError, match=next(iter(given))):
        Condition(**given)
