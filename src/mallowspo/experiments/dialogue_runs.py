"""One job of the dialogue study: train a policy, save it, and measure it on every test set.

A process opens its bench (data, tokenizer, reference) once and runs any number of jobs on it; a job's result depends
on the setup and the job alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.evaluation.divergence import sequence_kl
from mallowspo.evaluation.local_model import end_token_ids, load_causal_model
from mallowspo.experiments.dialogue_config import METHODS, DialogueJob, DialogueSetup
from mallowspo.experiments.dialogue_data import DialogueData, PairSet, read_dialogues
from mallowspo.experiments.dialogue_models import study_tokenizer
from mallowspo.experiments.policy_training import QUIET, final_loss, train_quietly
from mallowspo.studies.policies import one_thread, quiet_libraries

__all__ = ["Bench", "Reference", "open_bench", "policy_dir", "prompts_that_fit", "run_dialogue_job"]

_SCORED_AT_A_TIME = 8  # pairs in a batch of a test set; it changes no number but for rounding


@dataclass(frozen=True)
class Reference:
    """What all jobs depend on: the settings, and by `key` the reference and the data that it was made from."""

    setup: DialogueSetup
    key: str


@dataclass(frozen=True)
class Bench:
    """What all jobs of a process share.

    Attributes:
        setup: The settings.
        data: The dialogues.
        tokenizer: The base model's.
    """

    setup: DialogueSetup
    data: DialogueData
    tokenizer: Any


_BENCHES: dict[DialogueSetup, Bench] = {}


def open_bench(setup: DialogueSetup) -> Bench:
    """Read the data once in a process."""
    if setup not in _BENCHES:
        with quiet_libraries():
            tokenizer = study_tokenizer(setup)
            _BENCHES[setup] = Bench(setup, read_dialogues(setup, tokenizer), tokenizer)
    return _BENCHES[setup]


def policy_dir(setup: DialogueSetup, job: DialogueJob) -> Path:
    """Where a job's policy is saved; the reference's own folder for the job that scores it."""
    return setup.reference_dir if job.method == "reference" else setup.folder / "policies" / job.name


def prompts_that_fit(bench: Bench, count: int) -> list[tuple[str, list[int]]]:
    """Prompts of the in-distribution test set that leave room for an answer, one of each dialogue.

    Args:
        bench: The data.
        count: How many at most.

    Returns:
        Texts and token ids, in the order of the data.
    """
    test, room = bench.data.tests[0], bench.setup.max_length - bench.setup.max_new_tokens
    found: dict[str, tuple[str, list[int]]] = {}
    for group, row in zip(test.groups, test.rows, strict=True):
        if len(row["prompt_ids"]) <= room:
            found.setdefault(group, (row["prompt"], row["prompt_ids"]))
    return list(found.values())[:count]


def run_dialogue_job(reference: Reference, job: DialogueJob) -> dict[str, Any]:
    """Train one policy and measure it; for `reference`, only measure the reference.

    Args:
        reference: What all jobs share.
        job: The run.

    Returns:
        The job's fields; `tests`: for each test set the log-probability of both responses of every row, in nats, and
        for the reference their entropies and lengths too; `kl`: from the reference by sampling; `calibration`: what
        the trainer made of the index; `train`: loss, steps and pairs; `cpu_seconds` of this process.
    """
    started = time.process_time()
    setup = reference.setup
    bench = open_bench(setup)
    folder = policy_dir(setup, job)
    result: dict[str, Any] = asdict(job)
    with quiet_libraries(), one_thread():
        if job.method != "reference":
            result |= _train(bench, job, folder)
        model = load_causal_model(
            str(folder),
            option="policy",
            dtype="float32",
            use_cpu=setup.use_cpu,
            trust_remote_code=setup.trust_remote_code,
        )
        scores = {test.name: _score(model, test, bench) for test in bench.data.tests}
        result["tests"] = {
            name: {"logp_nk": found.logp_nk}
            | (
                {"entropy_sum_nk": found.entropy_sum_nk, "length_nk": found.length_nk}
                if job.method == "reference"
                else {}
            )
            for name, found in scores.items()
        }
        if job.method == "reference":
            result["vocab_size"] = int(model.get_output_embeddings().weight.shape[0])
        else:
            result["kl"] = _kl(model, bench, job)
    result["cpu_seconds"] = time.process_time() - started
    return result


def _train(bench: Bench, job: DialogueJob, folder: Path) -> dict[str, Any]:
    from mallowspo.training import MallowsPOConfig, MallowsPOTrainer

    setup, pool = bench.setup, bench.data.policy
    drawn = np.random.default_rng([setup.data_seed, 4, job.seed]).permutation(len(pool))[: setup.train_pairs]
    columns = ["prompt_ids", "chosen_ids", "rejected_ids", "prompt_id"]
    model = load_causal_model(
        str(setup.reference_dir),
        option="reference",
        dtype="float32",
        use_cpu=setup.use_cpu,
        trust_remote_code=setup.trust_remote_code,
    )
    args = MallowsPOConfig(
        output_dir=str(folder),
        **METHODS[job.method],
        beta=job.beta,
        learning_rate=setup.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        num_train_epochs=setup.epochs,
        per_device_train_batch_size=setup.batch_size,
        max_length=setup.max_length,
        precompute_ref_batch_size=setup.batch_size,
        seed=job.seed,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type != "cpu",
        bf16=model.device.type == "cuda",
        **QUIET,
    )
    trainer = MallowsPOTrainer(
        model=model,
        args=args,
        train_dataset=pool.rows.select(np.sort(drawn)).select_columns(columns),
        processing_class=bench.tokenizer,
    )
    train_quietly(trainer)
    trainer.save_model(str(folder))
    calibration = None if trainer.calibration is None else trainer.calibration.to_dict()
    return {
        "train": {
            "loss": final_loss(trainer),
            "steps": int(trainer.state.global_step),
            "pairs": len(drawn),
        },
        "calibration": calibration,
    }


def _score(model: Any, test: PairSet, bench: Bench) -> Any:
    """Score the rows of a test set in packed rows where the model supports them, as the trainer does."""
    from mallowspo.compat import add_score_head
    from mallowspo.data.collation import PreferenceCollator
    from mallowspo.scoring import add_packed_head, score_rows
    from mallowspo.training.scoring_path import ScoringPath

    if not hasattr(model, "_dialogue_path"):
        support = add_packed_head(model)
        if support.path == "padded":
            add_score_head(model)
        model._dialogue_path = ScoringPath(support.path, support.reason, None if support.path == "padded" else 1024)
    path = model._dialogue_path

    def forward(batch: Mapping[str, Any]) -> Any:
        moved = {name: value.to(model.device) for name, value in batch.items()}
        return path.score_all(model, moved, per_token=True)

    collate = PreferenceCollator(pad_token_id=bench.tokenizer.pad_token_id, max_length=bench.setup.max_length)
    rows = test.rows.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    return score_rows(rows, forward=forward, collate=collate, batch_size=_SCORED_AT_A_TIME)


def _kl(policy: Any, bench: Bench, job: DialogueJob) -> dict[str, Any]:
    setup = bench.setup
    reference = load_causal_model(
        str(setup.reference_dir),
        option="reference",
        dtype="float32",
        use_cpu=setup.use_cpu,
        trust_remote_code=setup.trust_remote_code,
    )
    found = sequence_kl(
        policy,
        reference,
        [ids for _, ids in prompts_that_fit(bench, setup.kl_prompts)],
        max_new_tokens=setup.max_new_tokens,
        seed=job.seed,
        batch_size=setup.sampled_at_a_time,
        end_ids=end_token_ids(policy, bench.tokenizer),
    )
    return asdict(found)
