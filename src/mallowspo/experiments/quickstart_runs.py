"""One training run of the quick start, and what all runs share.

A process builds a `Bench` once (world, reference, what the reference says of every prompt) and then runs any number of
jobs on it. A job's result depends on the job and the bench alone, never on which process ran it or what it ran before.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.evaluation.candidate_tree import (
    CandidateScores,
    CandidateTree,
    build_candidate_tree,
    score_candidates,
    sequence_kl,
)
from mallowspo.evaluation.exact import (
    Agreement,
    Frontier,
    agreement,
    choice_entropy,
    optimal_frontier,
    outside_mass,
    terciles,
)
from mallowspo.experiments.policy_training import QUIET, final_loss, train_quietly
from mallowspo.experiments.quickstart_config import METHOD_OPTIONS, Job, QuickstartConfig
from mallowspo.progress import Progress, silent
from mallowspo.world.language import World, WorldPrompt, build_world, word_tokenizer
from mallowspo.world.population import PreferencePair, collect_preferences, preference_matrix, write_corpus
from mallowspo.world.reference import TokenizedPrompts, tokenize_prompts, train_reference

__all__ = [
    "Bench",
    "Split",
    "agreement_facts",
    "make_reference",
    "one_thread",
    "open_bench",
    "open_split",
    "pairs_of_seed",
    "quiet_libraries",
    "run_job",
    "score_prompts",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Prompts on which policies are measured, and what is true of them.

    Attributes:
        prompts: The prompts.
        tree: Their candidates, laid out for scoring.
        reference_scores: What the reference says on them.
        preference_pkk: The population's preferences.
        tercile_p: 0, 1, 2: agreed, middle, contested third of the prompts by true φ.
    """

    prompts: tuple[WorldPrompt, ...]
    tree: CandidateTree
    reference_scores: CandidateScores
    preference_pkk: Floats
    tercile_p: NDArray[np.int64]

    def by_tercile(self, values_p: Floats) -> list[float]:
        """Means over the agreed, the middle and the contested third."""
        return [float(values_p[self.tercile_p == tercile].mean()) for tercile in range(3)]

    def optimum(self) -> Frontier:
        """The most agreement that any policy reaches at each KL."""
        temperatures = np.geomspace(5e-3, 1e3, 200)
        return optimal_frontier(self.reference_scores.logp_pk, self.preference_pkk, temperatures)


@dataclass(frozen=True)
class Bench:
    """What all runs share.

    Attributes:
        config: The settings.
        world: The prompts and what is true of them.
        tokenizer: The tokenizer of the language.
        reference: The reference model, in eval mode.
        train_tokens: The training prompts as ids.
        train_probability_pk: The reference's probabilities of the candidates, training prompts.
        heldout: The held-out prompts.
    """

    config: QuickstartConfig
    world: World
    tokenizer: Any
    reference: Any
    train_tokens: TokenizedPrompts
    train_probability_pk: Floats
    heldout: Split


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the progress bars and notices of the training libraries inside the block: the study shows one bar."""
    import datasets
    from transformers.utils import logging

    datasets_bars, bars = datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # The libraries warn of each other's names that are to change; nobody who runs the study can mend that.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if not datasets_bars:
            datasets.enable_progress_bars()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch at one thread: a tiny model gains nothing from two, and sums come out the same on every machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def score_prompts(model: Any, tokens: TokenizedPrompts) -> tuple[CandidateTree, CandidateScores]:
    """Lay prompts out and score their candidates."""
    tree = build_candidate_tree(tokens.prompt_ids, tokens.candidate_ids)
    return tree, score_candidates(model, tree)


def open_split(reference: Any, tokenizer: Any, prompts: Sequence[WorldPrompt]) -> Split:
    """Lay prompts out for measuring, and let the reference score them."""
    tree, scores = score_prompts(reference, tokenize_prompts(tokenizer, prompts))
    return Split(
        prompts=tuple(prompts),
        tree=tree,
        reference_scores=scores,
        preference_pkk=np.stack([preference_matrix(prompt) for prompt in prompts]),
        tercile_p=terciles([prompt.phi for prompt in prompts]),
    )


def make_reference(config: QuickstartConfig, report: Progress = silent) -> None:
    """Let the population write the corpus, train the reference on it and save it."""
    stage = "Training the reference"
    report(stage, 0, config.reference.steps)
    world = build_world(config.world_seed, train_prompts=config.train_prompts, heldout_prompts=config.heldout_prompts)
    tokenizer = word_tokenizer()
    corpus_pk = write_corpus(
        world.train,
        answers_per_prompt=config.answers_per_prompt,
        rng=np.random.default_rng([config.world_seed, 2**20]),
    )
    with quiet_libraries(), one_thread():
        model = train_reference(
            tokenizer,
            world.train,
            corpus_pk,
            training=config.reference,
            on_step=lambda done, total: report(stage, done, total),
        )
        model.save_pretrained(config.reference_dir)
        tokenizer.save_pretrained(config.reference_dir)


def open_bench(config: QuickstartConfig) -> Bench:
    """Build the bench from the settings and the saved reference."""
    from transformers import AutoModelForCausalLM

    with quiet_libraries(), one_thread():
        world = build_world(
            config.world_seed, train_prompts=config.train_prompts, heldout_prompts=config.heldout_prompts
        )
        tokenizer = word_tokenizer()
        reference = AutoModelForCausalLM.from_pretrained(config.reference_dir, trust_remote_code=False).eval()
        train_tokens = tokenize_prompts(tokenizer, world.train)
        _, train_scores = score_prompts(reference, train_tokens)
        heldout = open_split(reference, tokenizer, world.heldout)
    return Bench(
        config=config,
        world=world,
        tokenizer=tokenizer,
        reference=reference,
        train_tokens=train_tokens,
        train_probability_pk=np.exp(train_scores.logp_pk),
        heldout=heldout,
    )


def pairs_of_seed(bench: Bench, seed: int) -> list[PreferencePair]:
    """The preference pairs of a seed: answers drawn from the reference, each pair judged by one person."""
    return collect_preferences(
        bench.world.train,
        bench.train_probability_pk,
        pairs_per_prompt=bench.config.pairs_per_prompt,
        rng=np.random.default_rng([bench.config.world_seed, seed]),
    )


def _dataset(bench: Bench, pairs: list[PreferencePair], *, with_truth: bool) -> Any:
    from datasets import Dataset

    tokens = bench.train_tokens
    columns: dict[str, list[Any]] = {
        "prompt_ids": [list(tokens.prompt_ids[pair.prompt]) for pair in pairs],
        "chosen_ids": [list(tokens.candidate_ids[pair.prompt][pair.chosen]) for pair in pairs],
        "rejected_ids": [list(tokens.candidate_ids[pair.prompt][pair.rejected]) for pair in pairs],
    }
    if with_truth:
        columns["dispersion"] = [bench.world.train[pair.prompt].phi for pair in pairs]
    return Dataset.from_dict(columns)


def _train(bench: Bench, job: Job, pairs: list[PreferencePair]) -> Any:
    """Train the policy of a job; returns the trainer."""
    from mallowspo.training import MallowsPOConfig, MallowsPOTrainer

    config, settings = bench.config, METHOD_OPTIONS[job.method]
    args = MallowsPOConfig(
        output_dir=str(Path(config.output_dir) / "runs"),
        **settings,
        beta=job.beta,
        learning_rate=job.learning_rate,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        precompute_ref_batch_size=4 * config.batch_size,
        # A prompt of six tokens is cheaper computed twice than shared: padded rows took a quarter less time here.
        share_prompts=False,
        seed=job.seed,
        use_cpu=True,
        bf16=False,
        **QUIET,
    )
    trainer = MallowsPOTrainer(
        model=copy.deepcopy(bench.reference),
        args=args,
        train_dataset=_dataset(bench, pairs, with_truth=settings.get("dispersion") == "column"),
        processing_class=bench.tokenizer,
    )
    return train_quietly(trainer)


def agreement_facts(split: Split, scores: CandidateScores) -> dict[str, Any]:
    """What a policy reaches on a split, exactly; its KL aside."""
    reached: Agreement = agreement(scores.logp_pk, split.reference_scores.logp_pk, split.preference_pkk)
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


def measure(bench: Bench, policy: Any, seed: int) -> dict[str, Any]:
    """Measure a policy on the held-out prompts, exactly but for the part of the KL beyond the candidates."""
    split = bench.heldout
    scores = score_candidates(policy, split.tree)
    kl = sequence_kl(
        policy,
        bench.reference,
        split.tree,
        scores,
        split.reference_scores,
        end_id=bench.tokenizer.eos_token_id,
        seed=seed,
    )
    return agreement_facts(split, scores) | {
        "kl": float(kl.total_p.mean()),
        "kl_on_candidates": float(kl.tree_p.mean()),
        "kl_standard_error": kl.standard_error,
        "kl_by_tercile": split.by_tercile(kl.total_p),
        "probability_pk": np.exp(scores.logp_pk),
    }


def _index_of_run(trainer: Any, pairs: list[PreferencePair], prompts: int) -> dict[str, Any]:
    """What the trainer took for the index of each training prompt, from its own prepared rows."""
    data = trainer.train_dataset
    prompt_n = np.asarray([pairs[row].prompt for row in data["row_index"]])
    raw_n = np.asarray(data["dispersion_raw"], dtype=np.float64)
    counts = np.bincount(prompt_n, minlength=prompts)
    entropy_n = np.asarray(data["ref_chosen_entropy"]) + np.asarray(data["ref_rejected_entropy"])
    return {
        # w = −2 log φ, so that half of the calibrated weight stands beside −log φ.
        "neg_log_phi_p": 0.5 * trainer.calibration.scale * np.bincount(prompt_n, raw_n) / counts,
        "answer_entropy_p": 0.5 * np.bincount(prompt_n, entropy_n) / counts,
        "weight_quantiles": np.quantile(trainer.calibration.scale * raw_n, [0.05, 0.5, 0.95]),
    }


def run_job(bench: Bench, job: Job, *, selection: Split | None = None) -> dict[str, Any]:
    """Train one policy and measure it.

    Args:
        bench: What all runs share.
        job: The run.
        selection: Further prompts, on which settings are to be chosen.

    Returns:
        The job's fields, the measurements of `measure`, `train_loss` in nats, `seconds`, for methods that read a
        dispersion under `index` what the trainer made of it, and under `selection` the measurements of
        `agreement_facts` on those prompts.
    """
    started = time.perf_counter()
    pairs = pairs_of_seed(bench, job.seed)
    with quiet_libraries(), one_thread():
        trainer = _train(bench, job, pairs)
        policy = trainer.model.eval()
        result = measure(bench, policy, job.seed)
        if selection is not None:
            result["selection"] = agreement_facts(selection, score_candidates(policy, selection.tree))
    result |= {
        "seed": job.seed,
        "method": job.method,
        "beta": job.beta,
        "learning_rate": job.learning_rate,
        "steps": int(trainer.state.global_step),
        "train_loss": final_loss(trainer),
        "seconds": time.perf_counter() - started,
    }
    if trainer.calibration is not None:
        result["index"] = _index_of_run(trainer, pairs, len(bench.world.train))
    return result
