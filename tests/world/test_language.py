"""The language: what it promises of prompts, answers and splits."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from mallowspo.errors import InputError
from mallowspo.world.language import build_world, vocabulary, word_tokenizer


@pytest.fixture(scope="module")
def world():
    return build_world(0)


def test_same_seed_same_world_and_another_seed_another(world):
    assert build_world(0) == world
    other = build_world(1)
    assert {prompt.text for prompt in other.heldout} != {prompt.text for prompt in world.heldout}
    assert {p.text: p.phi for p in other.train} != {p.text: p.phi for p in world.train}


def test_sizes_and_no_prompt_on_both_sides(world):
    train, heldout = ({prompt.text for prompt in part} for part in (world.train, world.heldout))
    assert (len(train), len(heldout)) == (456, 120)
    assert not train & heldout


def test_heldout_prompts_use_no_word_answer_or_context_that_training_lacks(world):
    def words(prompts):
        return {word for prompt in prompts for text in (prompt.text, *prompt.candidates) for word in text.split()}

    assert words(world.heldout) <= words(world.train)
    assert {(p.family, p.context) for p in world.heldout} <= {(p.family, p.context) for p in world.train}
    assert {p.group for p in world.heldout} <= {p.group for p in world.train}


@pytest.mark.parametrize("seed", range(5))
def test_dispersion_runs_from_agreed_to_contested_in_both_splits(seed):
    world = build_world(seed)
    for prompts in (world.train, world.heldout):
        phis = [prompt.phi for prompt in prompts]
        assert 0.025 < min(phis) < 0.06
        assert 0.94 < max(phis) < 0.975


def test_every_prompt_has_five_different_answers_of_one_to_four_words(world):
    for prompt in world.train:
        lengths = sorted(len(candidate.split()) for candidate in prompt.candidates)
        assert len(set(prompt.candidates)) == 5
        assert lengths[0] == 1
        assert lengths[-1] == 4


def test_length_of_the_answers_tells_nothing_of_the_family(world):
    totals = {p.family: sum(len(candidate.split()) for candidate in p.candidates) for p in world.train}
    assert set(totals.values()) == {12}


def test_centers_are_permutations_that_depend_on_the_context_and_never_on_the_group(world):
    by_context: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for prompt in (*world.train, *world.heldout):
        assert sorted(prompt.center) == [1, 2, 3, 4, 5]
        by_context.setdefault((prompt.family, prompt.context), set()).add(prompt.center)
    assert all(len(centers) == 1 for centers in by_context.values())
    for family in {family for family, _ in by_context}:
        assert len({next(iter(c)) for (name, _), c in by_context.items() if name == family}) >= 5


def test_sums_are_ranked_by_their_distance_to_the_truth(world):
    values = {"seven": 7, "twenty one": 21, "close to ninety": 90, "one hundred": 100, "one hundred and seven": 107}
    truth = {"3 + 4": 7, "20 + 1": 21, "80 + 10": 90, "50 + 50": 100, "100 + 7": 107, "9 - 2": 7, "107 - 7": 100}
    for prompt in (*world.train, *world.heldout):
        if prompt.context in truth:
            best = min(prompt.candidates, key=lambda candidate: abs(values[candidate] - truth[prompt.context]))
            assert prompt.candidates[prompt.center.index(1)] == best


@pytest.mark.parametrize(
    ("sizes", "says"),
    [({"heldout_prompts": 100}, "multiple of 6"), ({"train_prompts": 500}, "6 to 456"), ({"train_prompts": 0}, "456")],
)
def test_sizes_that_do_not_fit_are_refused_with_what_would(sizes, says):
    with pytest.raises(InputError, match=says):
        build_world(0, **sizes)


def test_the_tokenizer_knows_every_word_and_survives_a_round_trip(world, tmp_path):
    word_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == len(vocabulary())
    for prompt in world.heldout:
        for candidate in prompt.candidates:
            ids = tokenizer(f"{prompt.text} {candidate}")["input_ids"]
            assert ids[0] == tokenizer.bos_token_id
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == f"{prompt.text} {candidate}"


def test_an_end_of_sequence_glued_to_a_word_is_still_two_tokens():
    # Trainers append the text of the end-of-sequence token without a space.
    tokenizer = word_tokenizer()
    assert tokenizer("3 + 4 = seven<eos>")["input_ids"][-1] == tokenizer.eos_token_id
    assert len(tokenizer("seven<eos>", add_special_tokens=False)["input_ids"]) == 2
