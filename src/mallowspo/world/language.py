"""The embedded world: a small English in which every question has known answers, order and dispersion.

A prompt is one of 6 families of questions × 8 contexts × 12 groups of people who are asked, for instance
"ask sailors : a good film for a date ?". Each family has five answers of one to four words. The context sets
the central ranking of the answers; family, group and context together set how much people differ about it:

    logit φ(x) = family + group + context.

φ runs from about .03 (sums, on which nearly everybody agrees) to about .97 (films, on which hardly anybody does).
Held-out prompts are combinations that the training prompts never show, so that a model that answers them well
has learnt how the parts combine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mallowspo.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "FAMILY_NAMES",
    "GROUP_NAMES",
    "LARGEST_LOGIT",
    "Family",
    "World",
    "WorldPrompt",
    "build_world",
    "vocabulary",
    "word_tokenizer",
]


@dataclass(frozen=True)
class Family:
    """One kind of question: how it reads, what can be answered, and in which order each context puts the answers."""

    name: str
    template: str  # the question, with `{}` where the context goes
    candidates: tuple[str, ...]
    contexts: dict[str, str]  # context → the indices of the answers from best to worst


# From the most agreed to the most contested. Answers of one to four words in every family, so that the length
# of an answer says nothing about how contested its prompt is.
# fmt: off
_FAMILIES = (
    Family("sums", "{} =",
        ("seven", "twenty one", "close to ninety", "one hundred", "one hundred and seven"), {
        "3 + 4": "01234", "20 + 1": "10234", "80 + 10": "23410", "50 + 50": "34210",
        "100 + 7": "43210", "9 - 2": "01234", "107 - 7": "34210", "3 times 7": "10234",
    }),
    Family("cities", "the city {} ?",
        ("paris", "new delhi", "mexico city", "london in england", "rome near the pope"), {
        "with the louvre": "04321", "with the thames": "30421", "with the ganges": "13240",
        "with the colosseum": "40312",
        "of the aztecs": "24103", "of napoleon": "04312", "of shakespeare": "34021", "of gandhi": "13042",
    }),
    Family("conduct", "what to do {} ?",
        ("wait", "run away", "call for help", "say sorry", "ask a friend first"), {
        "in a fire": "12403", "in a storm": "02143", "after a lie": "34021", "after a crash": "23041",
        "when lost": "42013", "when late": "31420", "before a vote": "40321", "with a thief": "21043",
    }),
    Family("remedies", "what helps against {} ?",
        ("sleep", "warm tea", "a long walk", "strong medicine", "fresh air and water"), {
        "a cold": "10342", "a headache": "30412", "fever": "03142", "stress": "24013",
        "boredom": "24130", "hunger": "14203", "sore feet": "01432", "bad dreams": "12403",
    }),
    Family("dishes", "a good dish {} ?",
        ("soup", "fried fish", "bread with cheese", "sweet pancakes", "rice with spicy beans"), {
        "for breakfast": "32041", "for a feast": "14302", "for a picnic": "23410", "for a guest": "41023",
        "in winter": "04123", "in summer": "21430", "after work": "20143", "near the sea": "10423",
    }),
    Family("films", "a good film {} ?",
        ("western", "war film", "a love story", "funny cartoon", "trip to the stars"), {
        "for a child": "34201", "for a date": "24301", "for a flight": "42310", "for a party": "30421",
        "for a poet": "24103", "in winter": "21034", "in summer": "40312", "after work": "03142",
    }),
)
# fmt: on

_GROUPS = (
    "bakers", "children", "cooks", "drivers", "farmers", "judges",
    "nurses", "painters", "sailors", "students", "teachers", "tailors",
)  # fmt: skip

# Half-widths of the three effects on logit φ. Their sum, 3.5, puts φ between .029 and .971.
_FAMILY_SPREAD, _GROUP_SPREAD, _CONTEXT_SPREAD = 2.4, 0.7, 0.4

FAMILY_NAMES = tuple(family.name for family in _FAMILIES)
"""Names of the families, from the most agreed to the most contested."""

GROUP_NAMES = _GROUPS
"""Names of the groups of people."""

LARGEST_LOGIT = _FAMILY_SPREAD + _GROUP_SPREAD + _CONTEXT_SPREAD
"""The largest |logit φ| that a prompt can have."""

_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class WorldPrompt:
    """A question, its possible answers and what is true of the people who are asked."""

    text: str  # the prompt as the model reads it
    family: str
    context: str  # the context, which sets the central ranking
    group: str  # who is asked
    candidates: tuple[str, ...]  # the possible answers, K = 5 strings of one to four words
    center: tuple[int, ...]  # rank of each candidate in the central ranking, 1 is best; shape (K,)
    phi: float  # dispersion φ(x) of the people asked, in (0, 1); near 0 everybody agrees

    @property
    def neg_log_phi(self) -> float:
        """−log φ(x) > 0, in nats: the true index that an estimate is compared with."""
        return float(-np.log(self.phi))


@dataclass(frozen=True)
class World:
    """All prompts of one seed, split into those that a model may learn from and those that it never sees."""

    seed: int  # what the effects and the split were drawn from
    train: tuple[WorldPrompt, ...]
    heldout: tuple[WorldPrompt, ...]  # held-out prompts: unseen combinations of seen parts

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every token of the language, special tokens first; the same for every seed and size."""
        return vocabulary()


def vocabulary() -> tuple[str, ...]:
    """List the tokens of the language, special tokens first, then the words in alphabetical order."""
    texts = ["ask :", *_GROUPS]
    for family in _FAMILIES:
        texts += [family.template.format(context) for context in family.contexts]
        texts += family.candidates
    return _SPECIAL + tuple(sorted({word for text in texts for word in text.split()}))


def _effects(rng: np.random.Generator, size: int, spread: float) -> np.ndarray:
    """Evenly spaced effects in [−spread, spread] in random order: every seed has the same range of φ."""
    return rng.permutation(np.linspace(-spread, spread, size))


def _all_prompts(rng: np.random.Generator) -> list[WorldPrompt]:
    """Write the 576 prompts, families in order of dispersion."""
    family_effects = np.linspace(-_FAMILY_SPREAD, _FAMILY_SPREAD, len(_FAMILIES))
    group_effects = _effects(rng, len(_GROUPS), _GROUP_SPREAD)
    prompts = []
    for family, family_effect in zip(_FAMILIES, family_effects, strict=True):
        context_effects = _effects(rng, len(family.contexts), _CONTEXT_SPREAD)
        for (context, order), context_effect in zip(family.contexts.items(), context_effects, strict=True):
            center = tuple(order.index(str(item)) + 1 for item in range(len(family.candidates)))
            for group, group_effect in zip(_GROUPS, group_effects, strict=True):
                logit = family_effect + group_effect + context_effect
                prompts.append(
                    WorldPrompt(
                        text=f"ask {group} : {family.template.format(context)}",
                        family=family.name,
                        context=context,
                        group=group,
                        candidates=family.candidates,
                        center=center,
                        phi=float(1.0 / (1.0 + np.exp(-logit))),
                    )
                )
    return prompts


def build_world(seed: int = 0, *, train_prompts: int = 456, heldout_prompts: int = 120) -> World:
    """Draw a world: the effects on dispersion, and which prompts are held out.

    The held-out prompts are spread evenly over the families; the training prompts are drawn from the rest.
    """
    families = len(_FAMILIES)
    total = families * 8 * len(_GROUPS)
    if heldout_prompts < families or heldout_prompts % families:
        raise InputError(
            f"heldout_prompts: got {heldout_prompts}, expected a multiple of {families}, at least {families}, "
            f"so that every family of questions is tested equally"
        )
    if train_prompts < families or train_prompts + heldout_prompts > total:
        raise InputError(
            f"train_prompts: got {train_prompts}, expected {families} to {total - heldout_prompts} "
            f"(the language has {total} prompts, {heldout_prompts} are held out)"
        )
    rng = np.random.default_rng(seed)
    prompts = _all_prompts(rng)
    heldout: list[WorldPrompt] = []
    rest: list[WorldPrompt] = []
    per_family = total // families
    for start in range(0, total, per_family):
        order = rng.permutation(per_family) + start
        heldout += [prompts[i] for i in sorted(order[: heldout_prompts // families])]
        rest += [prompts[i] for i in order[heldout_prompts // families :]]
    chosen = sorted(rng.permutation(len(rest))[:train_prompts])
    return World(seed=seed, train=tuple(rest[i] for i in chosen), heldout=tuple(heldout))


def word_tokenizer(extra_words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Build the tokenizer of the language: one token a word, `<bos>` before every text.

    It is an ordinary fast tokenizer of transformers, so that the whole pipeline treats the world as it would treat
    any other data. `<eos>` is not added: trainers do that at the end of a response.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(dict.fromkeys((*vocabulary(), *extra_words)))}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=64,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    return tokenizer
