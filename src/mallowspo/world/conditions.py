"""Conditions of the world that put a dispersion index under stress, without touching what people prefer.

A condition changes how answers are written (length, common openings, style), how much the population wrote, or how φ
and the topics are spread; it says nothing of a prompt's dispersion unless it says so. An index that follows
disagreement keeps its order under all of them; one that follows the surface does not. Two conditions combine into one.

"Agreed" are the first three families of questions, "contested" the last three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError, not_one_of
from mallowspo.world.language import FAMILY_NAMES, GROUP_NAMES, LARGEST_LOGIT, World, WorldPrompt
from mallowspo.world.population import write_corpus

__all__ = [
    "CONDITIONS",
    "EXTRA_WORDS",
    "Condition",
    "WrittenWorld",
    "apply_condition",
    "combine",
    "condition_named",
    "write_condition_corpus",
]

_WHERE = ("none", "all", "agreed", "contested")
_LENGTHS = ("mixed", "one_word", "by_group", "contested_longer")

_PREFIX = "i would say"
_FIRST_WORDS = ("the", "the", "some", "some", "my")
_TAIL = "and that is what they said".split()
_ENDINGS = ("for sure", "i guess", "dear friend", "or so")
_OPENERS = ("well then", "look here", "in short", "between us")
# Four words for each family, none of which another family uses.
_RARE = (
    "amen", "aye", "indeed", "verily", "cheers", "howdy", "mate", "sir", "hurrah", "ahoy", "alas", "yep",
    "bravo", "gosh", "hmm", "oops", "phew", "wow", "bah", "yay", "duh", "ugh", "meh", "ooh",
)  # fmt: skip

EXTRA_WORDS = tuple(
    sorted({word for text in (_PREFIX, *_FIRST_WORDS, *_TAIL, *_ENDINGS, *_OPENERS, *_RARE) for word in text.split()})
)
"""Words that the conditions add to the language; give them to `word_tokenizer`, which drops those it has already."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What differs from the plain world."""

    # `mixed` (1 to 4 words, as in the plain world), `one_word`, `by_group` (0 to 3 words more, by who is asked) or
    # `contested_longer` (0 to 5 words more, the more contested the family is)
    length: str = "mixed"
    prefix: str = "none"  # where answers begin with the same three words: also `all`, `agreed`, `contested`
    shared_first: bool = False  # whether answers begin with one of three words, two of which two answers share each
    endings: str = "none"  # where answers end in one of four phrases at random
    opener: str = "none"  # where answers begin with one of four phrases at random
    rare_style: bool = False  # where the endings are, four single words that only this family uses take their place
    careless: float = 0.0  # share of the corpus that is any candidate, each as likely
    answers_per_prompt: int = 200  # people who answer each prompt in the corpus
    training_share: float = 1.0  # share of the reference's optimiser steps that are taken
    phi_range: tuple[float, float] | None = None  # None for the world's own, .03 to .97
    agreed_share: float = 1.0  # of the agreed families' training prompts: topics are unevenly frequent
    one_center: str = "none"  # or `agreed`: where all contexts share one central ranking

    def __post_init__(self) -> None:
        if self.length not in _LENGTHS:
            raise not_one_of("length", self.length, _LENGTHS)
        for name in ("prefix", "endings", "opener"):
            if getattr(self, name) not in _WHERE:
                raise not_one_of(name, getattr(self, name), _WHERE)
        if self.one_center not in ("none", "agreed"):
            raise not_one_of("one_center", self.one_center, ("none", "agreed"))
        if self.rare_style and self.endings == "none":
            raise InputError("rare_style: got True without endings, which it would replace; set endings as well")
        for name in ("training_share", "agreed_share"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected a share above 0 and up to 1")
        low, high = self.phi_range or (0.1, 0.9)
        if not 0 < low < high < 1:
            raise InputError(f"phi_range: got [{low}, {high}], expected 0 < low < high < 1")


CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        "mixed_length": Condition(),
        "one_word": Condition(length="one_word"),
        "length_by_topic": Condition(length="by_group"),
        "contested_longer": Condition(length="contested_longer"),
        "prefix_all": Condition(prefix="all"),
        "prefix_agreed": Condition(prefix="agreed"),
        "prefix_contested": Condition(prefix="contested"),
        "shared_first_word": Condition(shared_first=True),
        "style_all": Condition(endings="all"),
        "style_agreed": Condition(endings="agreed"),
        "style_contested": Condition(endings="contested"),
        "opener_agreed": Condition(opener="agreed"),
        "rare_style_agreed": Condition(endings="agreed", rare_style=True),
        "careless": Condition(careless=0.3),
        "few_answers": Condition(answers_per_prompt=20),
        "narrow_phi": Condition(phi_range=(0.3, 0.5)),
        "agreed_rare": Condition(agreed_share=0.5),
        "one_center_agreed": Condition(one_center="agreed"),
        "undertrained": Condition(training_share=0.2),
    }
)
"""The single conditions; `mixed_length` is the plain world."""


def combine(first: Condition, second: Condition) -> Condition:
    """Put two conditions on one world."""
    plain, changed = Condition(), {}
    for field in fields(Condition):
        values = {getattr(c, field.name) for c in (first, second)} - {getattr(plain, field.name)}
        if len(values) > 1:
            raise InputError(
                f"conditions: both set {field.name!r}, to {sorted(map(str, values))}; they do not combine"
            )
        if values:
            changed[field.name] = values.pop()
    return replace(plain, **changed)


def condition_named(name: str) -> Condition:
    """Look a condition up; `a+b` combines two."""
    found = Condition()
    for part in name.split("+"):
        if part not in CONDITIONS:
            raise not_one_of("condition", part, CONDITIONS)
        found = combine(found, CONDITIONS[part])
    return found


@dataclass(frozen=True)
class WrittenWorld:
    """A world under a condition."""

    condition: Condition
    world: World  # the prompts; the candidates are in their first form, φ and centre as the condition has them
    train_forms: tuple[tuple[tuple[str, ...], ...], ...]  # the texts of each candidate, each as often
    heldout_forms: tuple[tuple[tuple[str, ...], ...], ...]  # the same for the held-out prompts


def apply_condition(world: World, condition: Condition) -> WrittenWorld:
    """Put a world under a condition."""
    train = _thinned(world.train, condition, world.seed)
    train_forms = tuple(_forms(prompt, condition) for prompt in train)
    heldout_forms = tuple(_forms(prompt, condition) for prompt in world.heldout)
    changed = World(
        seed=world.seed,
        train=tuple(_changed(p, f, condition) for p, f in zip(train, train_forms, strict=True)),
        heldout=tuple(_changed(p, f, condition) for p, f in zip(world.heldout, heldout_forms, strict=True)),
    )
    return WrittenWorld(condition, changed, train_forms, heldout_forms)


def write_condition_corpus(written: WrittenWorld, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Let the population write the corpus of the training prompts; see `write_corpus`."""
    return write_corpus(
        written.world.train,
        answers_per_prompt=written.condition.answers_per_prompt,
        careless=written.condition.careless,
        rng=rng,
    )


def _is_there(where: str, prompt: WorldPrompt) -> bool:
    agreed = FAMILY_NAMES.index(prompt.family) < len(FAMILY_NAMES) / 2
    return where == "all" or (where == "agreed" and agreed) or (where == "contested" and not agreed)


def _thinned(prompts: Sequence[WorldPrompt], condition: Condition, seed: int) -> list[WorldPrompt]:
    """Keep a share of the agreed families' prompts; the same ones for the same seed."""
    draw_p = np.random.default_rng([seed, 7]).random(len(prompts))
    return [
        prompt
        for prompt, draw in zip(prompts, draw_p, strict=True)
        if draw < condition.agreed_share or not _is_there("agreed", prompt)
    ]


def _changed(prompt: WorldPrompt, forms: Sequence[Sequence[str]], condition: Condition) -> WorldPrompt:
    phi, center = prompt.phi, prompt.center
    if condition.phi_range is not None:
        low, high = (math.log(end / (1 - end)) for end in condition.phi_range)
        place = (math.log(phi / (1 - phi)) + LARGEST_LOGIT) / (2 * LARGEST_LOGIT)
        phi = 1 / (1 + math.exp(-(low + place * (high - low))))
    if _is_there(condition.one_center, prompt):
        center = tuple(range(1, len(center) + 1))
    return replace(prompt, candidates=tuple(texts[0] for texts in forms), phi=phi, center=center)


def _forms(prompt: WorldPrompt, condition: Condition) -> tuple[tuple[str, ...], ...]:
    """Write every candidate in all of its ways."""
    family = FAMILY_NAMES.index(prompt.family)
    contents = list(prompt.candidates)
    if condition.length == "one_word":
        contents = _one_word_each(prompt)
    extra = {"by_group": GROUP_NAMES.index(prompt.group) % 4, "contested_longer": family}.get(condition.length, 0)
    openers: Sequence[str] = _OPENERS if _is_there(condition.opener, prompt) else ("",)
    endings: Sequence[str] = ("",)
    if _is_there(condition.endings, prompt):
        endings = _RARE[4 * family : 4 * family + 4] if condition.rare_style else _ENDINGS
    prefix = _PREFIX if _is_there(condition.prefix, prompt) else ""
    return tuple(
        tuple(
            " ".join(
                part
                for part in (
                    opener,
                    prefix,
                    _FIRST_WORDS[k] if condition.shared_first else "",
                    content,
                    *_TAIL[:extra],
                    ending,
                )
                if part
            )
            for opener in openers
            for ending in endings
        )
        for k, content in enumerate(contents)
    )


def _one_word_each(prompt: WorldPrompt) -> list[str]:
    """Shorten every candidate to its longest word that neither a candidate before it nor the question has."""
    taken = prompt.text.split()
    for candidate in prompt.candidates:
        taken.append(max((word for word in candidate.split() if word not in taken), key=len))
    return taken[-len(prompt.candidates) :]
