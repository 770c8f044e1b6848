"""What the study of the indexes runs on models: responses are scored, references trained and read, policies trained.

A reference belongs to a world under one condition; from it is read all that an index can be made of: the scores of two
preference pairs a prompt, and sampled answers. Nothing is judged here; that is done on the results, so that no index
costs another reference. What an index is worth: θ with it, θ with the true index and DPO start from one reference, see
the same pairs in the same order, and are measured exactly over all the forms in which held-out answers are written.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.dispersion import ESTIMATORS, prompt_index
from mallowspo.dispersion.answer_samples import SampledAnswer, sample_answers
from mallowspo.dispersion.entropy import ReferenceStatistics
from mallowspo.dispersion.panel import panel_neg_log_phi
from mallowspo.dispersion.votes_file import VoteRows
from mallowspo.errors import InputError
from mallowspo.evaluation.candidate_tree import score_candidates, sequence_kl
from mallowspo.evaluation.exact import agreement, outside_mass
from mallowspo.evaluation.local_model import prompt_ids
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.studies.estimator.indexes import SINGLE_PASS
from mallowspo.studies.policies import BASELINE, Job, check_at_least, grouped, padded, pair_rows, quietly, train_policy
from mallowspo.studies.world.bench import score_prompts
from mallowspo.world.conditions import (
    EXTRA_WORDS,
    WrittenWorld,
    apply_condition,
    condition_named,
    write_condition_corpus,
)
from mallowspo.world.language import WorldPrompt, build_world, word_tokenizer
from mallowspo.world.population import PreferencePair, collect_preferences, preference_matrix, top_choice_probabilities
from mallowspo.world.reference import ReferenceTraining, TokenizedPrompts, tokenize_forms, train_reference

__all__ = [
    "DOWNSTREAM_METHODS", "DownstreamSettings", "Reading", "ScoredPairs", "ScoredResponse", "WorldJob",
    "WorldSettings", "prompt_tokens", "read_reference", "run_downstream_job", "run_world_job", "score_pairs",
    "scored_prompts", "train_world", "written_world",
]  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredResponse:
    """One response as the model read it."""

    tokens: tuple[int, ...]  # its token ids
    entropy: Floats  # entropy of the next-token distribution at each of them, nats, shape (T,)
    logp: float  # log-probability of the whole, nats


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of responses that people voted on, as the model sees them."""

    statistics: ReferenceStatistics  # of N pairs, K = 2
    responses: int  # responses that were scored
    cut_responses: int  # responses that did not fit whole
    cut_prompts: int  # prompts that did not fit whole
    prompts: int


def divergent_place(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Where two responses first differ, perhaps at the end of the shorter one; None where they are the same."""
    if tuple(first) == tuple(second):
        return None
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def prompt_tokens(tokenizer: Any, text: str, *, most: int, chat: bool) -> tuple[list[int], bool]:
    """The tokens of a prompt, the end of a longer one, and whether it was cut; `chat` makes it the user's turn."""
    ids = tokenizer(text if chat else text + "\n", add_special_tokens=False, verbose=False)["input_ids"]
    cut = len(ids) > most - 1
    if not chat:
        return [tokenizer.bos_token_id, *ids[-(most - 1) :]], cut
    content = tokenizer.decode(ids[-(most - 1) :]) if cut else text
    return prompt_ids(EvaluationPrompt(0, content), tokenizer, "chat"), cut


def score_pairs(
    model: Any,
    tokenizer: Any,
    rows: VoteRows,
    *,
    max_prompt_tokens: int,
    max_length: int,
    batch_size: int,
    chat: bool = False,
) -> ScoredPairs:
    """Score each response once, after its own prompt, and pair the scores as people judged them."""
    # Of a longer prompt the end is kept; of what is then beyond `max_length`, the beginning.
    prompt_of = dict(zip(rows.prompt_ids, rows.prompts, strict=True))
    named = list(dict.fromkeys((rows.prompt_ids[n], text) for n, pair in enumerate(rows.responses) for text in pair))
    before: dict[str, list[int]] = {}
    cut_prompts = 0
    for name, text in prompt_of.items():
        before[name], cut = prompt_tokens(tokenizer, text, most=max_prompt_tokens, chat=chat)
        cut_prompts += cut
    sequences, cut_responses = [], 0
    for name, text in named:
        ids = [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
        room = max_length - len(before[name])
        if room < 1:
            raise InputError(
                f"max_length: got {max_length}, but a prompt takes {len(before[name])} tokens; raise it, or lower "
                "max_prompt_tokens"
            )
        cut_responses += len(ids) > room
        sequences.append((before[name], ids[:room]))
    scored = dict(zip(named, score_responses(model, sequences, batch_size), strict=True))
    pairs = [
        (scored[name, first], scored[name, second])
        for name, (first, second) in zip(rows.prompt_ids, rows.responses, strict=True)
    ]
    statistics = pair_statistics(pairs, int(model.get_output_embeddings().weight.shape[0]))
    return ScoredPairs(statistics, len(named), cut_responses, cut_prompts, len(prompt_of))


def pair_statistics(pairs: Sequence[tuple[ScoredResponse, ScoredResponse]], vocab_size: int) -> ReferenceStatistics:
    """Lay scored responses out as the estimators read them, N pairs, K = 2."""
    divergent = np.full((len(pairs), 2), np.nan)
    for row, (first, second) in enumerate(pairs):
        place = divergent_place(first.tokens, second.tokens)
        for side, response in enumerate((first, second)):
            if place is not None and place < len(response.entropy):
                divergent[row, side] = response.entropy[place]

    def both(read: Callable[[ScoredResponse], float]) -> Floats:
        return np.array([[read(response) for response in pair] for pair in pairs])

    return ReferenceStatistics(
        logp_nk=both(lambda r: r.logp),
        entropy_sum_nk=both(lambda r: float(r.entropy.sum())),
        length_nk=both(lambda r: float(len(r.tokens))),
        vocab_size=vocab_size,
        first_entropy_nk=both(lambda r: float(r.entropy[0])),
        divergent_entropy_nk=divergent,
    )


def score_responses(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[ScoredResponse]:
    """Score responses, given as (ids of the prompt, ids of the response), with a model that has the score head."""
    import torch

    from mallowspo.scoring import score_padded
    from mallowspo.scoring.reference_scores import longest_first, score_batches

    prompts, responses = ([sequence[part] for sequence in sequences] for part in (0, 1))
    order_n = longest_first(prompts, responses, responses)

    def batch(chosen: NDArray[np.intp]) -> dict[str, Any]:
        ids, mask = padded([[*prompts[i], *responses[i]] for i in chosen])
        completion = mask.clone()
        for row, i in enumerate(chosen):
            completion[row, : len(prompts[i])] = 0
        return {"input_ids": ids, "attention_mask": mask, "completion_mask": completion}

    with torch.no_grad():
        scores = score_batches(
            (batch(order_n[start : start + batch_size]) for start in range(0, len(order_n), batch_size)),
            order_n,
            forward=lambda rows: score_padded(model, rows, responses=1, per_token=True),
            per_token=True,
        )
    assert scores.token_entropies is not None
    return [
        ScoredResponse(tuple(response), entropy.astype(np.float64), float(logp))
        for response, (entropy,), (logp,) in zip(responses, scores.token_entropies, scores.logp_nk, strict=True)
    ]


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
    reference: ReferenceTraining = field(default_factory=ReferenceTraining)  # a condition may cut its steps

    def __post_init__(self) -> None:
        check_at_least(self, scored_train_prompts=6, samples=2, pairs_per_prompt=1)


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
    pair_forms: list[tuple[int, int]]  # for each pair the forms of chosen and rejected
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


def scored_prompts(settings: WorldSettings, job: WorldJob, written: WrittenWorld) -> tuple[list[WorldPrompt], Forms]:
    """All held-out prompts, then training prompts, drawn from those that the condition has kept; and their forms."""
    world, size = written.world, len(written.world.train)
    rows = sorted(np.random.default_rng([job.seed, 11]).permutation(size)[: settings.scored_train_prompts].tolist())
    forms = [*written.heldout_forms, *(written.train_forms[row] for row in rows)]
    return [*world.heldout, *(world.train[row] for row in rows)], forms


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
            name: prompt_index(name, ESTIMATORS[name](statistics), [f"{n:06d}" for n in prompt_n])[per_prompt]
            for name in SINGLE_PASS
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
    with quietly():
        written, tokenizer = written_world(settings, job), word_tokenizer(EXTRA_WORDS)
        model = train_world(settings, job, written, tokenizer)
        prompts, forms = scored_prompts(settings, job, written)
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


DOWNSTREAM_METHODS = (BASELINE, "theta_mean_entropy", "theta_panel", "theta_true")
"""DPO; θ with the released index and map; θ with the panel of one pass; θ with the true φ."""


@dataclass(frozen=True, kw_only=True)
class DownstreamSettings:
    """How the policies are trained; fixed on DPO in the quick start."""

    world: WorldSettings = field(default_factory=WorldSettings)  # world and reference
    alternatives: int = 5  # N of the panel
    betas: tuple[float, ...] = (0.5, 1.5, 4.5)
    learning_rate: float = 4e-4  # peak learning rate
    epochs: int = 2  # passes over the pairs
    batch_size: int = 32  # pairs in a step

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < float("inf") for beta in self.betas):
            raise InputError(f"betas: got {self.betas}, expected finite numbers > 0")


def run_downstream_job(settings: DownstreamSettings, job: WorldJob) -> dict[str, Any]:
    """Train every method at every β from one reference."""
    started, runs = time.process_time(), []
    with quietly(), tempfile.TemporaryDirectory() as folder:
        written, tokenizer = written_world(settings.world, job), word_tokenizer(EXTRA_WORDS)
        reference = train_world(settings.world, job, written, tokenizer)
        reader = copy.deepcopy(reference)
        prompts = written.world.train
        reading = read_reference(reader, tokenizer, prompts, written.train_forms, settings.world, seed=job.seed)
        phi = _dispersions(settings, prompts, reading)
        yardstick = _Yardstick(written, tokenizer, reference)
        for method in DOWNSTREAM_METHODS:
            data = _dataset(written, tokenizer, reading, phi.get(method))
            for beta in settings.betas:
                trainer = train_policy(
                    reference,
                    data,
                    tokenizer,
                    Job(seed=job.seed, method=method, beta=beta, learning_rate=settings.learning_rate),
                    folder,
                    epochs=settings.epochs,
                    batch_size=settings.batch_size,
                    # A prompt of six tokens is cheaper computed twice than shared.
                    share_prompts=False,
                    use_cpu=True,
                    bf16=False,
                )
                runs.append({"method": method, "beta": beta} | yardstick.measure(trainer.model, job.seed))
    return {"runs": runs, "seconds": time.process_time() - started}


def _dispersions(settings: DownstreamSettings, prompts: Sequence[WorldPrompt], reading: Reading) -> dict[str, Floats]:
    """φ of each training prompt as each method takes it."""
    unit = float(np.log(len(word_tokenizer(EXTRA_WORDS))))
    panel = panel_neg_log_phi(
        {name: unit * reading.indexes[name] for name in ("first_token", "divergent_token")},
        -np.log(reading.indexes["reference_margin"]),
        alternatives=settings.alternatives,
    )
    if not panel.any():
        # A reference that knows nothing calls every prompt as contested as can be: all count alike.
        panel = np.ones_like(panel)
    return {
        # The trainer takes −2 log φ for the raw weight; the released one is −log u.
        "theta_mean_entropy": np.sqrt(reading.indexes["mean_entropy"]),
        "theta_panel": np.exp(-panel),
        "theta_true": np.array([prompt.phi for prompt in prompts]),
    }


def _dataset(written: WrittenWorld, tokenizer: Any, reading: Reading, phi_p: Floats | None) -> Any:
    forms, prompts = tokenize_forms(tokenizer, written.train_forms), written.world.train
    both = list(zip(reading.pairs, reading.pair_forms, strict=True))
    return pair_rows(
        [tokenizer(prompts[pair.prompt].text)["input_ids"] for pair, _ in both],
        [forms[pair.prompt][pair.chosen][form] for pair, (form, _) in both],
        [forms[pair.prompt][pair.rejected][form] for pair, (_, form) in both],
        None if phi_p is None else [phi_p[pair.prompt] for pair, _ in both],
    )


class _Yardstick:
    """Measures policies on the held-out prompts; prompts with as many forms are laid out together."""

    def __init__(self, written: WrittenWorld, tokenizer: Any, reference: Any) -> None:
        self._reference, self._end = reference, int(tokenizer.eos_token_id)
        forms = tokenize_forms(tokenizer, written.heldout_forms)
        groups = grouped(range(len(forms)), lambda p: tuple(map(len, forms[p])))
        self._parts = []
        for counts, rows in groups.items():
            owner = np.repeat(np.arange(len(counts)), counts)
            tokens = TokenizedPrompts(
                tuple(tuple(tokenizer(written.world.heldout[p].text)["input_ids"]) for p in rows),
                tuple(tuple(text for texts in forms[p] for text in texts) for p in rows),
            )
            # Two forms of one candidate are one answer to people: its row says ½.
            preference = np.stack([preference_matrix(written.world.heldout[p])[np.ix_(owner, owner)] for p in rows])
            self._parts.append((*score_prompts(reference, tokens), preference))

    def measure(self, policy: Any, seed: int) -> dict[str, float]:
        """Counted agreement, KL over whole sequences and outside mass, means over the held-out prompts."""
        found: dict[str, list[Floats]] = {"agreement": [], "kl": [], "outside": []}
        for tree, reference_scores, preference in self._parts:
            scores = score_candidates(policy, tree)
            reached = agreement(scores.logp_pk, reference_scores.logp_pk, preference)
            kl = sequence_kl(
                policy, self._reference, tree, scores, reference_scores, end_id=self._end, seed=seed,
                exits_per_prompt=4,
            )  # fmt: skip
            found["agreement"].append(reached.counted_p)
            found["kl"].append(kl.total_p)
            found["outside"].append(outside_mass(scores.logp_pk))
        return {name: float(np.concatenate(values).mean()) for name, values in found.items()}
