"""What is done in the controllable-generation study: pairs are made, policies trained and measured.

A process loads the models once and makes the pairs of a seed once. A job's result depends on the job and the inputs
alone, never on which process did it or what it did before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.divergence import sequence_kl
from mallowspo.evaluation.local_model import (
    Sampling,
    context_length,
    end_token_ids,
    load_causal_model,
    load_tokenizer,
    model_stamp,
    prompt_uniforms,
    sample_batch,
)
from mallowspo.files import write_lines
from mallowspo.loading import check_saved_model
from mallowspo.scoring.reference_cache import CACHE_VARIABLE
from mallowspo.studies.controllable.design import (
    LEXICONS,
    ControllableDesign,
    Reward,
    StudyPrompts,
    load_reward,
    read_prompts,
)
from mallowspo.studies.policies import Job, final_loss, pair_rows, quietly, train_policy, weight_quantiles

__all__ = [
    "Bench", "Inputs", "OptimumJob", "Pair", "SeedJob", "SeedPairs", "compare", "describe_pairs", "estimate_optimum",
    "make_pairs", "measure", "measure_reference", "open_bench", "run_job", "stamp_of", "text_of", "tilted_reference",
]  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A compared pair of responses to one prompt."""

    prompt: int  # its place among the training prompts
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen_reward: float
    rejected_reward: float


@dataclass(frozen=True)
class SeedPairs:
    """The pairs of one seed."""

    pairs: tuple[Pair, ...]  # in the order of the prompts
    compared: int  # pairs of responses that there were
    equal: int  # of these, pairs without a preference: equal rewards under `sign`, or the same tokens twice
    reward_pk: Floats  # rewards of all responses, shape (P, K)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """What the reward reads of a sequence of tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def whole_texts(
    tokenizer: Any, prompts: Sequence[Sequence[int]], drawn: Mapping[tuple[int, int], Sequence[int]]
) -> list[str]:
    """Every prompt with each of its responses as text, in the order of prompts and samples."""
    return [text_of(tokenizer, [*prompts[p], *drawn[p, k]]) for p, k in sorted(drawn)]


def compare(
    reward_k: Sequence[float], *, preferences: str, scale: float, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """(chosen, rejected) of all pairs of the responses to a prompt; under `sign` equal rewards give no preference."""
    for first, second in itertools.combinations(range(len(reward_k)), 2):
        difference = float(reward_k[first]) - float(reward_k[second])
        if preferences == "bradley_terry":
            difference = 1.0 / (1.0 + np.exp(-scale * difference)) - rng.random()
        if difference > 0:
            yield first, second
        elif difference < 0:
            yield second, first


FEWEST = 10.0  # responses, effective number: below it the estimate leans on a handful of lucky draws


def tilted_reference(reward_ps: ArrayLike, *, points: int = 60) -> tuple[Floats, Floats]:
    r"""Mean KL (nats, ascending from 0) and reward of the best policies, from rewards of the reference's responses.

    Among all policies with a given mean KL the mean reward is largest for $\pi_\eta(y \mid x) \propto
    \pi_{\mathrm{ref}}(y \mid x)\, e^{\eta r(x, y)}$, with one $\eta$ for all prompts: weighted means over the S
    responses to each prompt. It is biased low at large KL, since no KL above log S can be seen.
    """
    reward = np.asarray(reward_ps, dtype=np.float64)
    if reward.ndim != 2 or reward.shape[1] < 2 or not np.isfinite(reward).all():
        raise InputError(f"tilted_reference: got shape {reward.shape}, expected (P, S) finite rewards with S >= 2")
    samples = reward.shape[1]
    spread = float(reward.std()) or 1.0
    fewest = min(FEWEST, samples / 2)
    kl, mean = [], []
    for tilt in np.concatenate([[0.0], np.geomspace(0.03, 30.0, points - 1) / spread]):
        weight_ps = np.exp(tilt * (reward - reward.max(axis=1, keepdims=True)))
        weight_ps /= weight_ps.sum(axis=1, keepdims=True)
        if float((1.0 / (weight_ps**2).sum(axis=1)).mean()) < fewest:
            break
        logs = np.log(np.where(weight_ps > 0, weight_ps, 1.0) * samples)
        kl.append(float((weight_ps * logs).sum(axis=1).mean()))
        mean.append(float((weight_ps * reward).sum(axis=1).mean()))
    return np.asarray(kl), np.asarray(mean)


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
    if design.reward_model not in LEXICONS:
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
    pairs: dict[int, SeedPairs]  # of the seed that was asked for last: a new one needs new pairs, not new models

    def pairs_of(self, seed: int) -> SeedPairs:
        """The pairs of a seed, made where they are not there yet."""
        if seed not in self.pairs:
            self.pairs.clear()
            self.pairs[seed] = make_pairs(self, seed)
        return self.pairs[seed]


def draw(
    bench: Bench, prompts: Sequence[Sequence[int]], samples: int, seed: int, purpose: str
) -> tuple[dict[tuple[int, int], list[int]], Floats]:
    """Responses of the reference at temperature 1 by (prompt, sample), and their rewards, shape (P, S).

    `purpose` keeps the draws of different uses apart.
    """
    design = bench.design
    sampling = Sampling(max_new_tokens=design.response_tokens, temperature=1.0)
    work = [(p, k) for p in range(len(prompts)) for k in range(samples)]
    work.sort(key=lambda item: -len(prompts[item[0]]))
    drawn: dict[tuple[int, int], list[int]] = {}
    for start in range(0, len(work), design.generation_batch_size):
        batch = work[start : start + design.generation_batch_size]
        uniform_bt = np.stack([prompt_uniforms(seed, f"{purpose}/{p}/{k}", design.response_tokens) for p, k in batch])
        asked = [prompts[p] for p, _ in batch]
        rows = sample_batch(bench.reference, asked, uniform_bt, sampling, end_ids=bench.end_ids)
        drawn |= dict(zip(batch, rows, strict=True))
    reward = bench.reward.score(whole_texts(bench.tokenizer, prompts, drawn))
    return drawn, reward.reshape(len(prompts), samples)


def make_pairs(bench: Bench, seed: int) -> SeedPairs:
    """Draw responses of the reference to the training prompts and compare them."""
    design, prompts, samples = bench.design, bench.prompts.train, bench.design.samples_per_prompt
    drawn, reward_pk = draw(bench, prompts, samples, seed, "pairs")
    rng = np.random.default_rng([seed, 1])
    pairs = []
    for p in range(len(prompts)):
        told_apart = compare(
            reward_pk[p].tolist(), preferences=design.preferences, scale=design.preference_scale, rng=rng
        )
        for chosen, rejected in told_apart:
            if drawn[p, chosen] != drawn[p, rejected]:
                rewards = float(reward_pk[p, chosen]), float(reward_pk[p, rejected])
                pairs.append(Pair(p, tuple(drawn[p, chosen]), tuple(drawn[p, rejected]), *rewards))
    compared = len(prompts) * samples * (samples - 1) // 2
    if not pairs:
        raise InputError(
            f"reward_model: {bench.reward.name} is the same for both responses of all {compared} pairs, so there is "
            "nothing to learn; lengthen response_tokens, or take another reward or more prompts"
        )
    return SeedPairs(tuple(pairs), compared, compared - len(pairs), reward_pk)


def open_bench(inputs: Inputs, job: Any, folder: Path) -> Bench:
    """Load the models and read the prompts; the job is not looked at."""
    design = inputs.design
    check_saved_model("model_name_or_path", design.model_name_or_path, trust_remote_code=design.trust_remote_code)
    reward = load_reward(design)  # first: a missing package is found before a model is loaded
    tokenizer = load_tokenizer(
        design.model_name_or_path, option="model_name_or_path", trust_remote_code=design.trust_remote_code
    )
    prompts = read_prompts(design, tokenizer)
    with quietly(one_thread=False):
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


def _at_work(bench: Bench) -> contextlib.AbstractContextManager[None]:
    """Quietly, and at one thread where the model is too small to gain from more."""
    return quietly(one_thread=bench.reference.num_parameters() < SMALL)


_OF_KL = (
    "kl", "kl_standard_error", "kl_plain", "kl_plain_standard_error", "tokens_per_response", "cut",
)  # fmt: skip


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
        **{name: getattr(found, name) for name in _OF_KL},
        "distinct_responses": len(set(texts)) / len(texts),
        "example": text_of(bench.tokenizer, responses[0, 0]),
    }


def run_job(bench: Bench, job: Job) -> dict[str, Any]:
    """Train one policy and measure it."""
    design = bench.design
    with _at_work(bench), _cached_below(bench.folder), tempfile.TemporaryDirectory() as folder:
        pairs = bench.pairs_of(job.seed).pairs
        rows = pair_rows(
            [bench.prompts.train[pair.prompt] for pair in pairs],
            [pair.chosen for pair in pairs],
            [pair.rejected for pair in pairs],
        )
        started = time.process_time()
        trainer = train_policy(
            bench.reference,
            rows,
            bench.tokenizer,
            job,
            folder,
            epochs=design.epochs,
            batch_size=design.batch_size,
            max_length=design.prompt_tokens + design.response_tokens,
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
    with _at_work(bench):
        _, reward_ps = draw(bench, bench.prompts.heldout, job.samples, bench.design.prompt_seed, "optimum")
    kl, mean = tilted_reference(reward_ps)
    return {"kl": kl, "reward": mean, "samples": job.samples}


def describe_pairs(bench: Bench, job: SeedJob) -> dict[str, Any]:
    """Write a seed's pairs, and tell what the page says of model, prompts and pairs."""
    with _at_work(bench):
        found = bench.pairs_of(job.seed)
    write_lines(bench.folder / "preferences.jsonl", (_as_text(bench, pair) for pair in found.pairs))
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


def _as_text(bench: Bench, pair: Pair) -> dict[str, Any]:
    prompt = bench.prompts.train[pair.prompt]
    start = text_of(bench.tokenizer, prompt)
    # Decoded together with the prompt: a response alone may lose the blank before its first word.
    sides = {
        side: text_of(bench.tokenizer, [*prompt, *ids])[len(start) :]
        for side, ids in (("chosen", pair.chosen), ("rejected", pair.rejected))
    }
    rewards = {"chosen_reward": pair.chosen_reward, "rejected_reward": pair.rejected_reward}
    return {"prompt": start, **sides, **rewards}
