"""What a reference says of its prompts in the embedded world under one condition: material for every index at once.

A job builds a world, puts it under a condition, trains the reference on the corpus that its population then writes,
and reads from it all that an index can be made of: the scores of two preference pairs a prompt, and sampled answers.
Nothing is judged here; that is done on the results, so that no index costs another reference.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.dispersion import ESTIMATORS, prompt_index
from mallowspo.dispersion.answer_samples import SampledAnswer, sample_answers
from mallowspo.errors import InputError
from mallowspo.studies.estimator.indexes import SINGLE_PASS
from mallowspo.studies.estimator.scores import ScoredResponse, pair_statistics, score_responses
from mallowspo.studies.policies import one_thread, quiet_libraries
from mallowspo.world.conditions import (
    EXTRA_WORDS,
    WrittenWorld,
    apply_condition,
    condition_named,
    write_condition_corpus,
)
from mallowspo.world.language import WorldPrompt, build_world, word_tokenizer
from mallowspo.world.population import PreferencePair, collect_preferences, top_choice_probabilities
from mallowspo.world.reference import ReferenceTraining, tokenize_forms, train_reference

__all__ = [
    "Reading",
    "WorldJob",
    "WorldSettings",
    "read_reference",
    "run_world_job",
    "scored_prompts",
    "train_world",
    "written_world",
]

Floats = NDArray[np.float64]
Forms = Sequence[Sequence[Sequence[str]]]

_MAX_ANSWER_TOKENS = 20
_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """What all references of the study share."""

    train_prompts: int = 456  # training prompts of a world
    heldout_prompts: int = 120  # held-out prompts, a multiple of 6: on these the indexes are judged
    scored_train_prompts: int = 120  # training prompts on which the indexes are read as well: maps are fitted on these
    samples: int = 32  # answers that are sampled from the reference for each scored prompt
    pairs_per_prompt: int = 2  # preference pairs of each scored prompt
    # Size and schedule of the reference; the condition may cut its steps, the job sets its seed
    reference: ReferenceTraining = field(default_factory=ReferenceTraining)

    def __post_init__(self) -> None:
        for name, least in (("scored_train_prompts", 6), ("samples", 2), ("pairs_per_prompt", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class WorldJob:
    """One reference: which condition (`a+b` combines two), and which world."""

    condition: str
    seed: int


@dataclass(frozen=True)
class Reading:
    """What a reference says of P prompts."""

    indexes: dict[str, Floats]  # estimator of `mallowspo.dispersion` → u of each prompt, shape (P,)
    pairs: list[PreferencePair]  # two candidates each and which of them one person preferred, ordered by prompt
    # For each pair the forms in which the chosen and the rejected candidate are written
    pair_forms: list[tuple[int, int]]
    form_logp_pk: Floats  # log-probability of one form of each candidate, nats, shape (P, K)
    answers: list[list[SampledAnswer]]  # sampled answers of each prompt


def written_world(settings: WorldSettings, job: WorldJob) -> WrittenWorld:
    """The world of a job; the same job, the same world."""
    world = build_world(job.seed, train_prompts=settings.train_prompts, heldout_prompts=settings.heldout_prompts)
    return apply_condition(world, condition_named(job.condition))


def train_world(settings: WorldSettings, job: WorldJob, written: WrittenWorld, tokenizer: Any) -> Any:
    """Let the population write the corpus and train the reference on it."""
    plan, condition = settings.reference, written.condition
    training = replace(plan, steps=max(1, round(condition.training_share * plan.steps)), seed=job.seed)
    corpus_pk = write_condition_corpus(written, rng=np.random.default_rng([job.seed, 2**20]))
    return train_reference(tokenizer, written.world.train, corpus_pk, forms=written.train_forms, training=training)


def scored_prompts(settings: WorldSettings, job: WorldJob, written: WrittenWorld) -> list[int]:
    """Positions of the training prompts that are scored, drawn from those that the condition has kept."""
    size = len(written.world.train)
    draw = np.random.default_rng([job.seed, 11]).permutation(size)[: settings.scored_train_prompts]
    return sorted(draw.tolist())


def read_reference(
    model: Any, tokenizer: Any, prompts: Sequence[WorldPrompt], forms: Forms, settings: WorldSettings, *, seed: int
) -> Reading:
    """Read all that an index can be made of; the model gets the score head, the seed draws pairs and samples."""
    from mallowspo.compat import add_score_head

    add_score_head(model)
    rng = np.random.default_rng([seed, 13])
    prompt_ids = [tuple(tokenizer(prompt.text)["input_ids"]) for prompt in prompts]
    form_ids = tokenize_forms(tokenizer, forms)
    count_pk = np.array([[len(texts) for texts in candidates] for candidates in form_ids])
    # One form of every candidate for each pair of a prompt: two answers rarely come in the same wording.
    drawn_jpk = (rng.random((settings.pairs_per_prompt, *count_pk.shape)) * count_pk).astype(np.int64)
    sequences = [
        (list(prompt_ids[p]), list(form_ids[p][k][form]))
        for drawn_pk in drawn_jpk
        for p, drawn_k in enumerate(drawn_pk.tolist())
        for k, form in enumerate(drawn_k)
    ]
    flat = score_responses(model, sequences, _BATCH)
    scored = np.empty(len(flat), dtype=object)
    scored[:] = flat
    scored_jpk = scored.reshape(drawn_jpk.shape)
    logp_pk = np.vectorize(lambda response: response.logp, otypes=[np.float64])(scored_jpk[0])
    pairs = collect_preferences(
        prompts, np.exp(logp_pk) * count_pk, pairs_per_prompt=settings.pairs_per_prompt, rng=rng
    )
    order = [n % settings.pairs_per_prompt for n in range(len(pairs))]
    responses: list[tuple[ScoredResponse, ScoredResponse]] = [
        (scored_jpk[j, pair.prompt, pair.chosen], scored_jpk[j, pair.prompt, pair.rejected])
        for j, pair in zip(order, pairs, strict=True)
    ]
    statistics = pair_statistics(responses, len(tokenizer))
    prompt_n = [pair.prompt for pair in pairs]
    per_prompt = slice(None, None, settings.pairs_per_prompt)
    return Reading(
        indexes={
            name: prompt_index(name, read(statistics), [f"{n:06d}" for n in prompt_n])[per_prompt]
            for name, read in ((name, ESTIMATORS[name]) for name in SINGLE_PASS)
        },
        pairs=pairs,
        pair_forms=[
            (int(drawn_jpk[j, pair.prompt, pair.chosen]), int(drawn_jpk[j, pair.prompt, pair.rejected]))
            for j, pair in zip(order, pairs, strict=True)
        ],
        form_logp_pk=logp_pk,
        answers=sample_answers(
            model,
            prompt_ids,
            samples=settings.samples,
            max_new_tokens=_MAX_ANSWER_TOKENS,
            end_id=int(tokenizer.eos_token_id),
            seed=seed,
        ),
    )


def _excess_nats(written: WrittenWorld, form_logp_pk: Floats) -> float:
    """KL of what the held-out prompts' people would write from the reference, over the candidates, nats."""
    prompts, careless = written.world.heldout, written.condition.careless
    wanted_pk = np.stack([top_choice_probabilities(prompt) for prompt in prompts])
    wanted_pk = (1 - careless) * wanted_pk + careless / wanted_pk.shape[1]
    forms_pk = np.array([[len(texts) for texts in candidates] for candidates in written.heldout_forms])
    return float((wanted_pk * (np.log(wanted_pk / forms_pk) - form_logp_pk[: len(prompts)])).sum(axis=1).mean())


def run_world_job(settings: WorldSettings, job: WorldJob) -> dict[str, Any]:
    """Train one reference and read it."""
    started = time.process_time()
    with quiet_libraries(), one_thread():
        written, tokenizer = written_world(settings, job), word_tokenizer(EXTRA_WORDS)
        model = train_world(settings, job, written, tokenizer)
        rows = scored_prompts(settings, job, written)
        prompts = [*written.world.heldout, *(written.world.train[row] for row in rows)]
        forms = [*written.heldout_forms, *(written.train_forms[row] for row in rows)]
        reading = read_reference(model, tokenizer, prompts, forms, settings, seed=job.seed)
    return {
        "excess_nats": _excess_nats(written, reading.form_logp_pk),
        "indexes": {name: [round(float(u), 6) for u in index_p] for name, index_p in reading.indexes.items()},
        "pairs": [[pair.prompt, pair.chosen, pair.rejected] for pair in reading.pairs],
        "answers": [
            [
                [list(answer.ids), answer.count, round(answer.logp, 4), [round(h, 3) for h in answer.token_entropy]]
                for answer in answers
            ]
            for answers in reading.answers
        ],
        "seconds": time.process_time() - started,
    }
