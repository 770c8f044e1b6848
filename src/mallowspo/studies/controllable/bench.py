"""What the runs of the controllable-generation study share, and what is done on it.

A process loads the models once and makes the pairs of a seed once, and then does any number of jobs on them. A job's
result depends on the job and the inputs alone, never on which process did it or what it did before.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.errors import InputError
from mallowspo.evaluation.divergence import sequence_kl
from mallowspo.evaluation.local_model import (
    context_length,
    end_token_ids,
    load_causal_model,
    load_tokenizer,
    model_stamp,
)
from mallowspo.files import write_text
from mallowspo.loading import check_saved_model
from mallowspo.scoring.reference_cache import CACHE_VARIABLE
from mallowspo.studies.controllable.design import VADER, ControllableDesign
from mallowspo.studies.controllable.optimum import tilted_reference
from mallowspo.studies.controllable.pairs import SeedPairs, draw_responses, make_pairs, text_of, whole_texts
from mallowspo.studies.controllable.prompts import StudyPrompts, read_prompts
from mallowspo.studies.controllable.rewards import Reward, load_reward
from mallowspo.studies.policies import Job, final_loss, one_thread, quiet_libraries, train_policy, weight_quantiles

__all__ = [
    "Bench",
    "Inputs",
    "OptimumJob",
    "SeedJob",
    "describe_pairs",
    "estimate_optimum",
    "measure",
    "measure_reference",
    "open_bench",
    "run_job",
    "stamp_of",
    "written_pairs",
]

SMALL = 20_000_000  # parameters below which a second thread costs more than it brings


@dataclass(frozen=True)
class Inputs:
    """What all jobs depend on."""

    design: ControllableDesign
    stamp: str  # tells one state of the model's files, the data and the reward from another


@dataclass(frozen=True)
class SeedJob:
    """Describe the pairs of a seed, or measure the reference itself with its draws."""

    seed: int


@dataclass(frozen=True)
class OptimumJob:
    """Estimate the best possible trade-off."""

    samples: int


def stamp_of(design: ControllableDesign) -> str:
    """Sizes and times of the study's files: no finished run of other files is taken for this one's."""
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
    """What all jobs share."""

    design: ControllableDesign
    folder: Path
    tokenizer: Any  # of the policy
    reference: Any  # the reference model, in eval mode, on its device
    end_ids: tuple[int, ...]  # tokens that end a response
    prompts: StudyPrompts  # training and held-out prompts
    reward: Reward
    # Those of the seed that was asked for last: a new seed needs new pairs, not the models loaded again
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


def open_bench(inputs: Inputs, job: Any, folder: Path) -> Bench:
    """Load the models and read the prompts; the job is not looked at."""
    design = inputs.design
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
    return Bench(design, folder, tokenizer, reference, end_token_ids(reference, tokenizer), prompts, reward, {})


@contextlib.contextmanager
def _cached_below(folder: Path) -> Iterator[None]:
    """Keep the reference's scores of a seed's pairs in the study's folder: all methods read the same ones."""
    if CACHE_VARIABLE in os.environ:
        yield
        return
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    try:
        yield
    finally:
        del os.environ[CACHE_VARIABLE]


@contextlib.contextmanager
def _at_work(bench: Bench) -> Iterator[None]:
    """Quietly, and at one thread where the model is too small to gain from more."""
    with quiet_libraries(), one_thread() if bench.reference.num_parameters() < SMALL else contextlib.nullcontext():
        yield


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


def measure(bench: Bench, policy: Any, seed: int) -> dict[str, Any]:
    """Measure reward and KL of a policy on the same responses to the held-out prompts."""
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
    texts = whole_texts(bench.tokenizer, prompts, responses)
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


def run_job(bench: Bench, job: Job) -> dict[str, Any]:
    """Train one policy and measure it."""
    design = bench.design
    with _at_work(bench), _cached_below(bench.folder), tempfile.TemporaryDirectory() as folder:
        rows = _dataset(bench, job.seed)
        started = time.process_time()
        trainer = train_policy(
            bench.reference,
            rows,
            bench.tokenizer,
            job,
            folder,
            num_train_epochs=design.epochs,
            per_device_train_batch_size=design.batch_size,
            max_length=design.prompt_tokens + design.response_tokens,
            precompute_ref_batch_size=4 * design.batch_size,
            use_cpu=design.use_cpu,
            bf16=design.bf16,
        )
        result = measure(bench, trainer.model, job.seed)
    result |= asdict(job)
    result |= {
        "steps": int(trainer.state.global_step),
        "train_loss": final_loss(trainer),
        "cpu_seconds": time.process_time() - started,
    }
    weights = weight_quantiles(trainer)
    return result if weights is None else result | {"weight_quantiles": weights.tolist()}


def measure_reference(bench: Bench, job: SeedJob) -> dict[str, Any]:
    """Measure the reference itself, with the draws of a seed."""
    with _at_work(bench):
        return measure(bench, bench.reference, job.seed)


def estimate_optimum(bench: Bench, job: OptimumJob) -> dict[str, Any]:
    """Estimate the best possible trade-off from responses of the reference to the held-out prompts."""
    prompts, design = bench.prompts.heldout, bench.design
    with _at_work(bench):
        drawn = draw_responses(
            bench.reference,
            prompts,
            samples=job.samples,
            design=design,
            end_ids=bench.end_ids,
            seed=design.prompt_seed,
            purpose="optimum",
        )
        reward = bench.reward.score(whole_texts(bench.tokenizer, prompts, drawn))
    found = tilted_reference(reward.reshape(len(prompts), job.samples))
    return {"kl": found.kl.tolist(), "reward": found.reward.tolist(), "samples": job.samples}


def written_pairs(inputs: Inputs, job: SeedJob, folder: Path) -> Sequence[Path]:
    """Where `describe_pairs` leaves the pairs."""
    return [folder / "preferences.jsonl"]


def describe_pairs(bench: Bench, job: SeedJob) -> dict[str, Any]:
    """Write a seed's pairs, and tell what the page says of model, prompts and pairs."""
    with _at_work(bench):
        found = bench.pairs_of(job.seed)
    _write_pairs(bench, found)
    gaps = [pair.chosen_reward - pair.rejected_reward for pair in found.pairs]
    facts = {
        "parameters": int(bench.reference.num_parameters()),
        "device": bench.reference.device.type,
        "reward": bench.reward.name,
        "train_prompts": len(bench.prompts.train),
        "heldout_prompts": len(bench.prompts.heldout),
        "pairs": len(found.pairs),
        "compared": found.compared,
        "equal": found.equal,
        "against_reward": sum(gap < 0 for gap in gaps) / len(gaps),
        "mean_gap": sum(map(abs, gaps)) / len(gaps),
        "reward_mean": float(found.reward_pk.mean()),
        "reward_deviation": float(found.reward_pk.std()),
    }
    return {"facts": facts, "prompt": text_of(bench.tokenizer, bench.prompts.heldout[0])}


def _write_pairs(bench: Bench, found: SeedPairs) -> None:
    """Write pairs as text, the layout that `mallowspo train` and `trl dpo` read."""
    lines = []
    for pair in found.pairs:
        prompt = bench.prompts.train[pair.prompt]
        start = text_of(bench.tokenizer, prompt)
        # Decoded together with the prompt: a response alone may lose the blank before its first word.
        sides = {
            side: text_of(bench.tokenizer, [*prompt, *ids])[len(start) :]
            for side, ids in (("chosen", pair.chosen), ("rejected", pair.rejected))
        }
        rewards = {"chosen_reward": pair.chosen_reward, "rejected_reward": pair.rejected_reward}
        lines.append(json.dumps({"prompt": start, **sides, **rewards}, ensure_ascii=False))
    write_text(bench.folder / "preferences.jsonl", "\n".join(lines) + "\n")
