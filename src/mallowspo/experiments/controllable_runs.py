"""One training run of the controllable-generation study, and what all runs of a seed share.

A process builds a `Bench` once and the pairs of a seed once, and then runs any number of jobs on them. A job's result
depends on the job and the inputs alone, never on which process ran it or what it ran before.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.divergence import sequence_kl
from mallowspo.evaluation.local_model import (
    context_length,
    end_token_ids,
    load_causal_model,
    load_tokenizer,
    model_stamp,
)
from mallowspo.experiments.controllable_config import METHODS, VADER, ControllableDesign, Job
from mallowspo.experiments.controllable_pairs import SeedPairs, make_pairs, text_of
from mallowspo.experiments.controllable_prompts import StudyPrompts, read_prompts
from mallowspo.experiments.controllable_rewards import Reward, load_reward
from mallowspo.experiments.policy_training import QUIET, final_loss, train_quietly
from mallowspo.loading import check_saved_model
from mallowspo.scoring.reference_cache import CACHE_VARIABLE
from mallowspo.studies.policies import one_thread, quiet_libraries

__all__ = [
    "Bench",
    "Inputs",
    "bench_of",
    "measure",
    "open_bench",
    "quiet_libraries",
    "reference_cache",
    "run_job",
    "stamp_of",
    "threads_for",
]

Floats = NDArray[np.float64]

SMALL = 20_000_000  # parameters below which a second thread costs more than it brings


@dataclass(frozen=True)
class Inputs:
    """What all jobs depend on.

    Attributes:
        design: The settings.
        stamp: Tells one state of the model's files, the data and the reward from another.
    """

    design: ControllableDesign
    stamp: str


def stamp_of(design: ControllableDesign) -> str:
    """Tell one state of a study's files from another, so that no finished run of other files is taken for this one's.

    Args:
        design: Names model, data and reward.

    Returns:
        Digests of the files' sizes and times; a hub's data set goes by its name.
    """
    stamps = [model_stamp(design.model_name_or_path)]
    data = Path(design.dataset_name).expanduser()
    for path in sorted(data.rglob("*")) if data.is_dir() else [data]:
        if path.is_file():
            stamps.append(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}")
    if design.reward_model != VADER:
        stamps.append(model_stamp(design.reward_model))
    return ";".join(stamps)


@dataclass(frozen=True)
class Bench:
    """What all runs share.

    Attributes:
        design: The settings.
        tokenizer: Of the policy.
        reference: The reference model, in eval mode, on its device.
        end_ids: Tokens that end a response.
        prompts: Training and held-out prompts.
        reward: The scorer.
        pairs: The pairs of the seeds that were asked for; one at a time is kept.
    """

    design: ControllableDesign
    tokenizer: Any
    reference: Any
    end_ids: tuple[int, ...]
    prompts: StudyPrompts
    reward: Reward
    pairs: dict[int, SeedPairs]

    def pairs_of(self, seed: int) -> SeedPairs:
        """The pairs of a seed, made where they are not there yet."""
        if seed not in self.pairs:
            self.pairs.clear()
            self.pairs[seed] = make_pairs(
                self.reference,
                self.tokenizer,
                self.prompts.train,
                self.reward,
                design=self.design,
                end_ids=self.end_ids,
                seed=seed,
            )
        return self.pairs[seed]


def open_bench(design: ControllableDesign) -> Bench:
    """Load the models and read the prompts.

    Args:
        design: The settings.

    Returns:
        The bench.

    Raises:
        InputError: A model, the data or the reward cannot be used.
    """
    check_saved_model("model_name_or_path", design.model_name_or_path, trust_remote_code=design.trust_remote_code)
    reward = load_reward(design)  # first: a missing package is found before a model is loaded
    tokenizer = load_tokenizer(
        design.model_name_or_path, option="model_name_or_path", trust_remote_code=design.trust_remote_code
    )
    prompts = read_prompts(design, tokenizer)
    with quiet_libraries():
        reference = load_causal_model(
            design.model_name_or_path,
            option="model_name_or_path",
            dtype=design.dtype,
            use_cpu=design.use_cpu,
            trust_remote_code=design.trust_remote_code,
        )
    room = context_length(reference.config)
    if room is not None and design.prompt_tokens + design.response_tokens > room:
        raise InputError(
            f"response_tokens: {design.prompt_tokens} tokens of a prompt and {design.response_tokens} of a response "
            f"do not fit into the {room} positions of {design.model_name_or_path}; lower one of them"
        )
    return Bench(design, tokenizer, reference, end_token_ids(reference, tokenizer), prompts, reward, {})


_BENCHES: dict[Inputs, Bench] = {}  # of this process: it opens its bench with its first job


def bench_of(inputs: Inputs) -> Bench:
    """The bench of this process; another one that it may hold is given up."""
    if inputs not in _BENCHES:
        _BENCHES.clear()
        _BENCHES[inputs] = open_bench(inputs.design)
    return _BENCHES[inputs]


@contextlib.contextmanager
def reference_cache(folder: Path) -> Iterator[None]:
    """Keep the reference's scores of a seed's pairs below `folder` inside the block: all methods read the same ones.

    A cache that the user has named stays in use.
    """
    if CACHE_VARIABLE in os.environ:
        yield
        return
    os.environ[CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[CACHE_VARIABLE]


def threads_for(model: Any) -> contextlib.AbstractContextManager[None]:
    """Hold torch at one thread where a model is too small to gain from more."""
    return one_thread() if model.num_parameters() < SMALL else contextlib.nullcontext()


def _dataset(bench: Bench, seed: int) -> Any:
    from datasets import Dataset

    pairs = bench.pairs_of(seed).pairs
    return Dataset.from_dict(
        {
            "prompt_ids": [list(bench.prompts.train[pair.prompt]) for pair in pairs],
            "chosen_ids": [list(pair.chosen) for pair in pairs],
            "rejected_ids": [list(pair.rejected) for pair in pairs],
        }
    )


def _train(bench: Bench, job: Job, folder: str) -> Any:
    """Train the policy of a job; returns the trainer."""
    from mallowspo.training import MallowsPOConfig, MallowsPOTrainer

    design = bench.design
    args = MallowsPOConfig(
        output_dir=folder,
        **METHODS[job.method],
        beta=job.beta,
        learning_rate=job.learning_rate,
        num_train_epochs=design.epochs,
        per_device_train_batch_size=design.batch_size,
        max_length=design.prompt_tokens + design.response_tokens,
        precompute_ref_batch_size=4 * design.batch_size,
        seed=job.seed,
        use_cpu=design.use_cpu,
        bf16=design.bf16,
        **QUIET,
    )
    trainer = MallowsPOTrainer(
        model=copy.deepcopy(bench.reference),
        args=args,
        train_dataset=_dataset(bench, job.seed),
        processing_class=bench.tokenizer,
    )
    return train_quietly(trainer)


def measure(bench: Bench, policy: Any, seed: int) -> dict[str, Any]:
    """Measure reward and KL of a policy on the same responses to the held-out prompts.

    Args:
        bench: What all runs share.
        policy: A causal language model in eval mode.
        seed: Of the responses: under one seed all policies are asked with the same random numbers.

    Returns:
        `reward` and `kl` (nats per response) with their standard errors over prompts, and what goes with them.
    """
    design, prompts = bench.design, bench.prompts.heldout
    responses: dict[tuple[int, int], list[int]] = {}
    found = sequence_kl(
        policy,
        bench.reference,
        prompts,
        samples=design.eval_samples,
        max_new_tokens=design.response_tokens,
        seed=seed,
        batch_size=design.generation_batch_size,
        end_ids=bench.end_ids,
        on_response=lambda p, s, response: responses.update({(p, s): response}),
    )
    keys = sorted(responses)
    texts = [text_of(bench.tokenizer, [*prompts[p], *responses[p, s]]) for p, s in keys]
    reward_p = bench.reward.score(texts).reshape(len(prompts), design.eval_samples).mean(axis=1)
    return {
        "reward": float(reward_p.mean()),
        "reward_standard_error": float(reward_p.std(ddof=1) / np.sqrt(len(reward_p))),
        "kl": found.kl,
        "kl_standard_error": found.kl_standard_error,
        "kl_plain": found.kl_plain,
        "kl_plain_standard_error": found.kl_plain_standard_error,
        "tokens_per_response": found.tokens_per_response,
        "cut": found.cut,
        "distinct_responses": len(set(texts)) / len(texts),
        "example": text_of(bench.tokenizer, responses[0, 0]),
    }


def run_job(inputs: Inputs, job: Job) -> dict[str, Any]:
    """Train one policy and measure it.

    Args:
        inputs: What all runs share.
        job: The run.

    Returns:
        The job's fields, those of `measure`, `steps`, `train_loss`, `cpu_seconds` (processor time, the pairs of the
        seed left out), and for methods that read a dispersion `weight_quantiles`: 5%, 50%, 95% of the weights.
    """
    bench = bench_of(inputs)
    with quiet_libraries(), threads_for(bench.reference), tempfile.TemporaryDirectory() as folder:
        bench.pairs_of(job.seed)
        started = time.process_time()
        trainer = _train(bench, job, folder)
        result = measure(bench, trainer.model.eval(), job.seed)
    result |= {
        "seed": job.seed,
        "method": job.method,
        "beta": job.beta,
        "learning_rate": job.learning_rate,
        "steps": int(trainer.state.global_step),
        "train_loss": final_loss(trainer),
        "cpu_seconds": time.process_time() - started,
    }
    if trainer.calibration is not None:
        raw_n = np.asarray(trainer.train_dataset["dispersion_raw"], dtype=np.float64)
        result["weight_quantiles"] = np.quantile(trainer.calibration.scale * raw_n, [0.05, 0.5, 0.95]).tolist()
    return result
