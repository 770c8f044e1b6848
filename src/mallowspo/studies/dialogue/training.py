"""One job of the dialogue study: train a policy, save it, and measure it on every test set."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.evaluation.divergence import sequence_kl
from mallowspo.evaluation.local_model import end_token_ids
from mallowspo.files import write_json
from mallowspo.studies.dialogue import models
from mallowspo.studies.dialogue.data import PairSet, prompts_that_fit, read_dialogues
from mallowspo.studies.dialogue.design import REFERENCE
from mallowspo.studies.dialogue.models import Place, load_model, note_of, renew
from mallowspo.studies.policies import Job, final_loss, one_thread, quiet_libraries, train_policy
from mallowspo.studies.study import Results

__all__ = ["policy_dir", "policy_name", "run_job"]

_SCORED_AT_A_TIME = 8  # pairs in a batch of a test set; it changes no number but for rounding


def policy_name(job: Job) -> str:
    """A policy's folder, and part of the seed of its answers."""
    return f"{job.method}-beta{job.beta:g}-seed{job.seed}"


def policy_dir(folder: Path, job: Job) -> Path:
    """Where a job's policy is saved; the reference's own folder for the job that measures it."""
    return folder / models.REFERENCE if job == REFERENCE else folder / "policies" / policy_name(job)


def run_job(place: Place, job: Job) -> Results:
    """Train one policy and measure it; for the reference, only measure it."""
    started = time.process_time()
    setup, folder = place.basis.setup, policy_dir(place.folder, job)
    result: Results = asdict(job)
    with quiet_libraries(), one_thread():
        if job != REFERENCE:
            result |= _train(place, job, folder)
        model = load_model(folder, setup, option="policy")
        scores = {test.name: _score(model, test, place) for test in read_dialogues(setup).tests}
        kept = ("logp_nk", "entropy_sum_nk", "length_nk") if job == REFERENCE else ("logp_nk",)
        result["tests"] = {name: {kind: getattr(found, kind) for kind in kept} for name, found in scores.items()}
        if job == REFERENCE:
            result["vocab_size"] = int(model.get_output_embeddings().weight.shape[0])
        else:
            result["kl"] = _kl(model, place, job)
    result["cpu_seconds"] = time.process_time() - started
    return result


def _train(place: Place, job: Job, folder: Path) -> Results:
    setup, pool = place.basis.setup, read_dialogues(place.basis.setup).policy
    drawn = np.random.default_rng([setup.data_seed, 4, job.seed]).permutation(len(pool))[: setup.train_pairs]
    columns = ["prompt_ids", "chosen_ids", "rejected_ids", "prompt_id"]
    reference = load_model(place.folder / models.REFERENCE, setup, option="reference")
    renew(folder)
    trainer = train_policy(
        reference,
        pool.rows.select(np.sort(drawn)).select_columns(columns),
        place.tokenizer,
        job,
        str(folder),
        fresh=True,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        num_train_epochs=setup.epochs,
        per_device_train_batch_size=setup.batch_size,
        max_length=setup.max_length,
        precompute_ref_batch_size=setup.batch_size,
        use_cpu=reference.device.type == "cpu",
        dataloader_pin_memory=reference.device.type != "cpu",
        bf16=reference.device.type == "cuda",
    )
    trainer.save_model(str(folder))
    write_json(note_of(folder, place.basis, job), {})
    return {
        "train": {"loss": final_loss(trainer), "steps": int(trainer.state.global_step), "pairs": len(drawn)},
        "calibration": None if trainer.calibration is None else trainer.calibration.to_dict(),
    }


def _score(model: Any, test: PairSet, place: Place) -> Any:
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

    collate = PreferenceCollator(pad_token_id=place.tokenizer.pad_token_id, max_length=place.basis.setup.max_length)
    rows = test.rows.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    return score_rows(rows, forward=forward, collate=collate, batch_size=_SCORED_AT_A_TIME)


def _kl(policy: Any, place: Place, job: Job) -> Results:
    setup = place.basis.setup
    found = sequence_kl(
        policy,
        load_model(place.folder / models.REFERENCE, setup, option="reference"),
        [ids for _, ids in prompts_that_fit(setup, setup.kl_prompts)],
        max_new_tokens=setup.max_new_tokens,
        seed=job.seed,
        batch_size=setup.sampled_at_a_time,
        end_ids=end_token_ids(policy, place.tokenizer),
    )
    return asdict(found)
