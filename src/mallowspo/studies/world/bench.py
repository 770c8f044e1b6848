"""A world of its own for a seed: its reference, its prompts, and one policy trained and measured exactly.

A job's result depends on the setup and the job alone, never on which process ran it or what it ran before.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.candidate_tree import (
    CandidateScores,
    CandidateTree,
    build_candidate_tree,
    score_candidates,
    sequence_kl,
)
from mallowspo.evaluation.exact import (
    Frontier,
    agreement,
    choice_entropy,
    optimal_frontier,
    outside_mass,
    share_of_optimum,
    terciles,
)
from mallowspo.files import parse_json, plain, write_json
from mallowspo.stats.bootstrap import spearman
from mallowspo.studies.policies import (
    METHODS,
    Job,
    check_at_least,
    final_loss,
    pair_rows,
    quietly,
    train_policy,
    weight_quantiles,
)
from mallowspo.studies.study import Done, Results, Stage
from mallowspo.world.language import World, WorldPrompt, build_world, word_tokenizer
from mallowspo.world.population import (
    PreferencePair,
    collect_preferences,
    preference_matrix,
    top_choice_probabilities,
    write_corpus,
)
from mallowspo.world.reference import ReferenceTraining, TokenizedPrompts, tokenize_prompts, train_reference

__all__ = [
    "WORLDS", "Bench", "Split", "WorldJob", "WorldSetup", "describe_world", "make_world", "open_world",
    "pairs_of_seed", "run_job", "runs_stage", "score_prompts", "world_folder",
]  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class WorldSetup:
    """What every run of the study shares; a run's result depends on this and on its job alone."""

    world_seed: int | None = None  # the one world of all seeds; None: a world, corpus and reference for every seed
    train_prompts: int = 396  # training prompts of each world
    # Prompts on which β and the learning rate are chosen, on which no model is trained; 0 for none, and then nothing
    # is chosen but the better learning rate at a KL
    selection_prompts: int = 60
    heldout_prompts: int = 120  # prompts on which everything is measured, a multiple of 6
    answers_per_prompt: int = 200  # people who answer each training prompt in the corpus
    pairs_per_prompt: int = 2  # preference pairs of each training prompt, each judged by one person
    reference: ReferenceTraining = field(default_factory=ReferenceTraining)  # size and schedule of the references
    epochs: int = 1  # passes over the pairs
    batch_size: int = 32  # pairs in a step
    examples: bool = False  # keep what the page of a single world shows: the index of every prompt, some answers

    def __post_init__(self) -> None:
        check_at_least(self, epochs=1, batch_size=1, pairs_per_prompt=1, answers_per_prompt=1)
        if self.selection_prompts and self.selection_prompts < 6:
            raise InputError(f"selection_prompts: got {self.selection_prompts}, expected 0 or at least 6")
        try:
            self._build(0, self.train_prompts + self.selection_prompts)
        except InputError as error:
            raise InputError(f"training and selection prompts together, as {error}") from error

    def _build(self, world_seed: int, train_prompts: int) -> World:
        return build_world(world_seed, train_prompts=train_prompts, heldout_prompts=self.heldout_prompts)

    def world_of(self, seed: int) -> int:
        """The seed of the world in which a seed's policies are trained."""
        return seed if self.world_seed is None else self.world_seed

    def build(self, world_seed: int) -> World:
        """A world with its training and held-out prompts."""
        return self._build(world_seed, self.train_prompts)

    def selection(self, world_seed: int) -> tuple[WorldPrompt, ...]:
        """The prompts of a world on which settings are chosen: neither trained on nor held out."""
        # A world's training prompts are the first ones of a random order, so that a larger world holds them all.
        larger = self._build(world_seed, self.train_prompts + self.selection_prompts)
        trained = {prompt.text for prompt in self.build(world_seed).train}
        return tuple(prompt for prompt in larger.train if prompt.text not in trained)


@dataclass(frozen=True)
class WorldJob:
    """A world that is made once: its corpus is written, its reference trained and described."""

    world: int


@dataclass(frozen=True)
class Split:
    """Prompts on which policies are measured, and what is true of them."""

    prompts: tuple[WorldPrompt, ...]
    tree: CandidateTree  # their candidates, laid out for scoring
    reference_scores: CandidateScores  # what the reference says on them
    preference_pkk: Floats  # the population's preferences
    tercile_p: NDArray[np.int64]  # 0, 1, 2: agreed, middle, contested third of the prompts by true φ

    def by_tercile(self, values_p: Floats) -> list[float]:
        """Means over the agreed, the middle and the contested third."""
        return [float(values_p[self.tercile_p == tercile].mean()) for tercile in range(3)]

    def optimum(self) -> Frontier:
        """The most agreement that any policy reaches at each KL."""
        temperatures = np.geomspace(5e-3, 1e3, 200)
        return optimal_frontier(self.reference_scores.logp_pk, self.preference_pkk, temperatures)

    @property
    def shown(self) -> list[int]:
        """One prompt of each family, at its median dispersion, so that nobody has picked it; from agreed on."""
        families: dict[str, list[int]] = {}
        for index, prompt in enumerate(self.prompts):
            families.setdefault(prompt.family, []).append(index)
        middle = [sorted(each, key=lambda p: self.prompts[p].phi)[len(each) // 2] for each in families.values()]
        return sorted(middle, key=lambda p: self.prompts[p].phi)


@dataclass(frozen=True)
class Bench:
    """What all runs in one world share."""

    setup: WorldSetup
    world_seed: int
    folder: Path
    world: World  # the prompts and what is true of them
    tokenizer: Any
    reference: Any  # the reference model, in eval mode
    train_tokens: TokenizedPrompts  # the training prompts as ids
    train_probability_pk: Floats  # the reference's probabilities of the candidates, training prompts
    heldout: Split
    selection: Split | None  # the prompts on which settings are chosen; None where there are none
    optimum: Frontier  # the best possible on the held-out prompts


def world_folder(folder: Path, world_seed: int) -> Path:
    """Where a world's reference lies in the folder of a study."""
    return folder / "worlds" / str(world_seed)


def score_prompts(model: Any, tokens: TokenizedPrompts) -> tuple[CandidateTree, CandidateScores]:
    """Lay prompts out and score their candidates."""
    tree = build_candidate_tree(tokens.prompt_ids, tokens.candidate_ids)
    return tree, score_candidates(model, tree)


def _open_split(reference: Any, tokenizer: Any, prompts: Sequence[WorldPrompt]) -> Split:
    tree, scores = score_prompts(reference, tokenize_prompts(tokenizer, prompts))
    return Split(
        prompts=tuple(prompts),
        tree=tree,
        reference_scores=scores,
        preference_pkk=np.stack([preference_matrix(prompt) for prompt in prompts]),
        tercile_p=terciles([prompt.phi for prompt in prompts]),
    )


def make_world(setup: WorldSetup, job: WorldJob, folder: Path) -> Bench:
    """Train a world's reference on what its population writes, unless it lies there; open the world."""
    place = world_folder(folder, job.world)
    facts = plain({"world": job.world, **asdict(setup)})
    for name in ("selection_prompts", "pairs_per_prompt", "epochs", "batch_size", "examples", "world_seed"):
        del facts[name]  # no reference depends on these
    record = place / "reference.json"
    if not (record.is_file() and parse_json(record.read_text(encoding="utf-8")) == facts):
        record.unlink(missing_ok=True)
        shutil.rmtree(place / "reference", ignore_errors=True)
        world, tokenizer = setup.build(job.world), word_tokenizer()
        corpus_pk = write_corpus(
            world.train,
            answers_per_prompt=setup.answers_per_prompt,
            rng=np.random.default_rng([job.world, 2**20]),
        )
        with quietly():
            model = train_reference(tokenizer, world.train, corpus_pk, training=setup.reference)
            model.save_pretrained(place / "reference")
            tokenizer.save_pretrained(place / "reference")
        write_json(record, facts)  # last: without it a reference was cut short, and is made again
    return open_world(setup, job.world, folder)


def open_world(setup: WorldSetup, world_seed: int, folder: Path) -> Bench:
    """Build what the runs in a world share from its saved reference."""
    from transformers import AutoModelForCausalLM

    with quietly():
        world, tokenizer = setup.build(world_seed), word_tokenizer()
        path = world_folder(folder, world_seed) / "reference"
        reference = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False).eval()
        train_tokens = tokenize_prompts(tokenizer, world.train)
        _, train_scores = score_prompts(reference, train_tokens)
        heldout = _open_split(reference, tokenizer, world.heldout)
        chosen_on = setup.selection(world_seed) if setup.selection_prompts else ()
        selection = _open_split(reference, tokenizer, chosen_on) if chosen_on else None
    return Bench(
        setup, world_seed, folder, world, tokenizer, reference, train_tokens, np.exp(train_scores.logp_pk), heldout,
        selection, heldout.optimum(),
    )  # fmt: skip


def describe_world(bench: Bench, job: WorldJob) -> dict[str, Any]:
    """What is to be known of one world and its reference, and its exact optimum."""
    world, split = bench.world, bench.heldout
    prompts = (*world.train, *world.heldout)
    families: dict[str, list[float]] = {}
    for prompt in prompts:
        families.setdefault(prompt.family, []).append(prompt.phi)
    logp_pk = split.reference_scores.logp_pk
    truth_pk = np.stack([top_choice_probabilities(prompt) for prompt in split.prompts])
    phi_p = np.asarray([prompt.phi for prompt in split.prompts])
    return {
        "seed": job.world,
        "candidates": len(prompts[0].candidates),
        "groups": len({prompt.group for prompt in prompts}),
        "questions": len({(prompt.family, prompt.context) for prompt in prompts}),
        "vocabulary": len(world.vocabulary),
        "families": {name: [min(phi), max(phi)] for name, phi in families.items()},
        "phi_by_tercile": [
            [float(phi_p[split.tercile_p == t].min()), float(phi_p[split.tercile_p == t].max())] for t in range(3)
        ],
        "reference_parameters": sum(parameter.numel() for parameter in bench.reference.parameters()),
        # KL of the people's first choices from the reference: its cross-entropy above the truth's own entropy.
        "reference_excess_nats": float((truth_pk * (np.log(truth_pk) - logp_pk)).sum(axis=1).mean()),
        "reference_outside": float(outside_mass(logp_pk).mean()),
        "reference_agreement": float(agreement(logp_pk, logp_pk, split.preference_pkk).counted_p.mean()),
        "reference_entropy_by_tercile": split.by_tercile(choice_entropy(logp_pk)),
        "population_entropy_by_tercile": split.by_tercile(choice_entropy(np.log(truth_pk))),
        "optimum": asdict(bench.optimum),
        "shown": [
            {
                "prompt": split.prompts[p].text,
                "phi": split.prompts[p].phi,
                "candidates": split.prompts[p].candidates,
                "center": split.prompts[p].center,
                "population": truth_pk[p],
                "reference": np.exp(logp_pk[p]),
            }
            for p in split.shown
        ],
    }


def pairs_of_seed(bench: Bench, seed: int) -> list[PreferencePair]:
    """The preference pairs of a seed: answers drawn from the reference, each pair judged by one person."""
    return collect_preferences(
        bench.world.train,
        bench.train_probability_pk,
        pairs_per_prompt=bench.setup.pairs_per_prompt,
        rng=np.random.default_rng([bench.world_seed, seed]),
    )


def _dataset(bench: Bench, pairs: list[PreferencePair], *, with_truth: bool) -> Any:
    tokens = bench.train_tokens
    return pair_rows(
        [tokens.prompt_ids[pair.prompt] for pair in pairs],
        [tokens.candidate_ids[pair.prompt][pair.chosen] for pair in pairs],
        [tokens.candidate_ids[pair.prompt][pair.rejected] for pair in pairs],
        [bench.world.train[pair.prompt].phi for pair in pairs] if with_truth else None,
    )


def _reached(split: Split, scores: CandidateScores) -> dict[str, Any]:
    """What a policy reaches on a split, exactly; its KL aside."""
    reached = agreement(scores.logp_pk, split.reference_scores.logp_pk, split.preference_pkk)
    outside_p = outside_mass(scores.logp_pk)
    return {
        "agreement": float(reached.counted_p.mean()),
        "agreement_renormalised": float(reached.renormalised_p.mean()),
        "outside": float(outside_p.mean()),
        "agreement_by_tercile": split.by_tercile(reached.counted_p),
        "agreement_renormalised_by_tercile": split.by_tercile(reached.renormalised_p),
        "outside_by_tercile": split.by_tercile(outside_p),
        "entropy_by_tercile": split.by_tercile(choice_entropy(scores.logp_pk)),
    }


def _index_of_run(trainer: Any, bench: Bench, pairs: list[PreferencePair]) -> dict[str, Any]:
    """What the trainer took for the index of each training prompt, from its own prepared rows, against the truth."""
    data, scale = trainer.train_dataset, trainer.calibration.scale
    prompts = bench.world.train
    prompt_n = np.asarray([pairs[row].prompt for row in data["row_index"]])
    raw_n = np.asarray(data["dispersion_raw"], dtype=np.float64)
    counts = np.bincount(prompt_n, minlength=len(prompts))
    entropy_n = np.asarray(data["ref_chosen_entropy"]) + np.asarray(data["ref_rejected_entropy"])
    # w = −2 log φ, so that half of the calibrated weight stands beside −log φ.
    estimate_p = 0.5 * scale * np.bincount(prompt_n, raw_n) / counts
    truth_p = np.asarray([prompt.neg_log_phi for prompt in prompts])
    families = np.asarray([prompt.family for prompt in prompts])
    within = [
        spearman(estimate_p[families == family], truth_p[families == family])
        for family in dict.fromkeys(families)
        if (families == family).sum() >= 3
    ]
    found = {
        "rank_correlation": spearman(estimate_p, truth_p),
        "within_families": float(np.mean(within)) if within else float("nan"),
        # The same entropies summed over the answer, not averaged over its tokens; −log φ falls with both.
        "answer_entropy": spearman(-0.5 * np.bincount(prompt_n, entropy_n) / counts, truth_p),
        "weight_quantiles": weight_quantiles(trainer),
    }
    if bench.setup.examples:
        found |= {"estimated_p": estimate_p, "true_p": truth_p, "family_p": families}
    return found


def run_job(bench: Bench, job: Job, pairs: list[PreferencePair] | None = None) -> dict[str, Any]:
    """Train one policy in the world of its seed and measure it."""
    started = time.process_time()
    setup, split = bench.setup, bench.heldout
    pairs = pairs_of_seed(bench, job.seed) if pairs is None else pairs
    with quietly():
        trainer = train_policy(
            bench.reference,
            _dataset(bench, pairs, with_truth=METHODS[job.method].index == "true"),
            bench.tokenizer,
            job,
            str(world_folder(bench.folder, bench.world_seed) / "runs"),
            epochs=setup.epochs,
            batch_size=setup.batch_size,
            # A prompt of six tokens is cheaper computed twice than shared: padded rows took a quarter less time here.
            share_prompts=False,
            use_cpu=True,
            bf16=False,
        )
        policy = trainer.model
        scores = score_candidates(policy, split.tree)
        kl = sequence_kl(
            policy, bench.reference, split.tree, scores, split.reference_scores, end_id=bench.tokenizer.eos_token_id,
            seed=job.seed,
        )  # fmt: skip
        chosen_on = bench.selection
        selected = {} if chosen_on is None else _reached(chosen_on, score_candidates(policy, chosen_on.tree))
    result = asdict(job) | _reached(split, scores)
    result |= {
        "kl": float(kl.total_p.mean()),
        "kl_on_candidates": float(kl.tree_p.mean()),
        "kl_standard_error": kl.standard_error,
        "kl_by_tercile": split.by_tercile(kl.total_p),
        "selection_agreement": selected.get("agreement", result["agreement"]),
        "steps": int(trainer.state.global_step),
        "train_loss": final_loss(trainer),
    }
    result["share_of_optimum"] = share_of_optimum(result["agreement"], result["kl"], bench.optimum)
    if trainer.calibration is not None:
        result["index"] = _index_of_run(trainer, bench, pairs)
    if setup.examples:
        result["answers"] = np.exp(scores.logp_pk[split.shown])
    return result | {"cpu_seconds": time.process_time() - started}


def _open(setup: WorldSetup, job: Job, folder: Path) -> Bench:
    return open_world(setup, setup.world_of(job.seed), folder)


WORLDS: Stage[Any] = Stage(
    "worlds",
    "Training the references",
    jobs=lambda settings, done: [*map(WorldJob, dict.fromkeys(map(settings.setup.world_of, settings.seeds)))],
    setup=lambda settings, done: settings.setup,
    bench=make_world,
    shares=lambda job: job.world,
    work=describe_world,
    files=lambda setup, job, folder: [world_folder(folder, job.world) / "reference.json"],
)
"""One reference per world: the first stage of every study in the embedded worlds."""


def runs_stage(jobs: Callable[[Any, Done], Sequence[Any]], work: Callable[[Any, Any], Results]) -> Stage[Any]:
    """The stage that trains policies, in the world of each job's seed."""
    return Stage(
        "runs", "Training the policies", jobs=jobs, setup=lambda settings, done: settings.setup, bench=_open,
        shares=lambda job: job.seed, work=work,
    )  # fmt: skip
