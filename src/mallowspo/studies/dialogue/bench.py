"""What is done in the dialogue study: a reference and a judge are made, policies trained, answers written and judged.

All pairs of a study go to the judge in one call: a judge that is a model is loaded once, and an address is asked for
each pair once, however often the study is stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.errors import InputError, reason_of
from mallowspo.evaluation.divergence import sequence_kl
from mallowspo.evaluation.generation import LocalModel, generate_locally
from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.judge import AnswerPair, Judge, open_judge, reward_ids
from mallowspo.evaluation.local_model import (
    Sampling,
    end_token_ids,
    inference_device,
    load_causal_model,
    load_tokenizer,
)
from mallowspo.evaluation.win_rates import check_orders
from mallowspo.files import plain, write_json
from mallowspo.loading import check_saved_model
from mallowspo.studies.dialogue.data import (
    PairSet,
    as_prompt,
    prompts_that_fit,
    read_dialogues,
    read_parts,
    study_tokenizer,
)
from mallowspo.studies.dialogue.design import HELDOUT_JUDGE, REFERENCE, DialogueSettings, DialogueSetup
from mallowspo.studies.policies import BASELINE, Job, final_loss, padded, quietly, train_policy
from mallowspo.studies.study import Done, Results, say
from mallowspo.world.reference import fit

__all__ = [
    "AnswerJob", "Basis", "JudgeJob", "Place", "ReferenceJob", "VerdictJob", "answer", "answer_jobs", "check_judge",
    "judge", "judge_key", "left_by", "make_judge", "make_reference", "open_place", "run_job", "sides", "texts_of",
    "verdict_jobs",
]  # fmt: skip

_SIDES = ("chosen", "rejected")
_SCORED_AT_A_TIME = 8  # pairs in a batch of a test set; it changes no number but for rounding


@dataclass(frozen=True)
class Basis:
    """What all jobs of a stage depend on: the settings, and by `key` the models and rows that these name."""

    setup: DialogueSetup
    key: str


@dataclass(frozen=True)
class Place:
    """Where a job works: on what, in which folder, and the base model's tokenizer."""

    basis: Basis
    folder: Path
    tokenizer: Any


def open_place(basis: Basis, job: Any, folder: Path) -> Place:
    """The bench of all stages; the data is read once in a process, see `mallowspo.studies.dialogue.data`."""
    return Place(basis, folder, study_tokenizer(basis.setup))


def left_by(basis: Basis, job: Any, folder: Path) -> Sequence[Path]:
    """What says that a model in the folder is this job's."""
    if job == REFERENCE:
        return []
    kinds = {ReferenceJob: "reference", JudgeJob: "judge", VerdictJob: "judged"}
    kept = policy_dir(folder, job) if isinstance(job, Job) else folder / kinds[type(job)]
    return [note_of(kept, basis, job)]


def note_of(model: Path, basis: Basis, job: Any) -> Path:
    """The file that says of a saved model which job made it: another run may have left one in its place."""
    return model / f"made_by_{key_of(basis=plain(asdict(basis)), job=plain(asdict(job)))}.json"


def renew(model: Path) -> None:
    """Take away what says of a saved model which job made it, before another one writes into its folder."""
    for note in model.glob("made_by_*.json"):
        note.unlink()


@dataclass(frozen=True, kw_only=True)
class ReferenceJob:
    """The SFT of the base model."""

    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class JudgeJob(ReferenceJob):
    """The training of the held-out judge; `base` is the model that it starts from."""

    base: str


def load_model(folder: Path | str, setup: DialogueSetup, *, option: str) -> Any:
    """A language model in float32."""
    return load_causal_model(
        str(folder), option=option, dtype="float32", use_cpu=setup.use_cpu, trust_remote_code=setup.trust_remote_code
    )


def _save(model: Any, tokenizer: Any, note: Path) -> Results:
    renew(note.parent)
    model.save_pretrained(note.parent)
    tokenizer.save_pretrained(note.parent)
    write_json(note, {})
    return {"key": note.stem}


def make_reference(place: Place, job: ReferenceJob) -> Results:
    """Fine-tune the base model on the chosen responses of its part of the data, and save it."""
    setup, (sft, _, _) = place.basis.setup, read_parts(place.basis.setup)
    with quietly():
        model = load_model(setup.model_name_or_path, setup, option="model_name_or_path")
        rows = [(row["prompt_ids"], row["chosen_ids"]) for row in sft.rows]
        _fit("SFT", model, len(rows), lambda at: _response_loss(model, [rows[int(n)] for n in at]), setup, job)
        return _save(model, place.tokenizer, note_of(place.folder / "reference", place.basis, job))


def _response_loss(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> Any:
    """Mean negative log-probability of the responses' tokens, their ends included, nats a token."""
    ids, mask = padded([[*prompt, *response] for prompt, response in rows], model.device)
    labels = ids.masked_fill(mask == 0, -100)
    for row, (prompt, _) in enumerate(rows):
        labels[row, : len(prompt)] = -100
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def make_judge(place: Place, job: JudgeJob) -> Results:
    """Train a reward model (Bradley-Terry, one score an answer) on the part of the data that no policy saw."""
    setup, (_, _, judge) = place.basis.setup, read_parts(place.basis.setup)
    with quietly():
        tokenizer = load_tokenizer(job.base, option="judge_base", trust_remote_code=setup.trust_remote_code)
        model = _classifier(job.base, tokenizer, setup)
        # As `mallowspo.evaluation` will show it: the prompt with the stripped answer.
        ids = [
            [reward_ids(tokenizer, as_prompt(setup, 0, row["prompt"]), row[side].strip()) for side in _SIDES]
            for row in judge.rows
        ]
        _fit(
            "Training the judge", model, len(ids), lambda at: _preference_loss(model, [ids[int(n)] for n in at]),
            setup, job,
        )  # fmt: skip
        return _save(model, tokenizer, note_of(place.folder / "judge", place.basis, job))


def _classifier(base: str, tokenizer: Any, setup: DialogueSetup) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.data_seed)  # of the new head
        try:
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                base, num_labels=1, dtype="float32", trust_remote_code=setup.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"judge_base: {base} cannot be loaded as a sequence classifier ({reason_of(error)}); name "
                "another judge_base, or another judge"
            ) from error
    # The classifier finds the last token by this value; an end token never stands inside a text that it is shown.
    model.config.pad_token_id = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    return model.to(inference_device(setup.use_cpu))


def _preference_loss(model: Any, pairs: Sequence[Sequence[list[int]]]) -> Any:
    """−log σ(reward of the chosen − reward of the rejected), mean over pairs."""
    import torch

    rows = [pair[side] for side in (0, 1) for pair in pairs]
    ids, mask = padded(rows, model.device, model.config.pad_token_id)
    chosen, rejected = model(input_ids=ids, attention_mask=mask).logits[:, 0].chunk(2)
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


def _batches(rows: int, size: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seed, 3])
    while True:
        order = rng.permutation(rows)
        yield from (order[start : start + size] for start in range(0, rows - size + 1, size))


def _fit(
    title: str, model: Any, rows: int, loss_of: Callable[[np.ndarray], Any], setup: DialogueSetup, job: ReferenceJob
) -> None:
    batches = _batches(rows, min(job.batch_size, rows), setup.data_seed)
    fit(
        model, lambda: loss_of(next(batches)), job.steps, job.learning_rate,
        on_step=lambda done: say(title, done, job.steps),
    )  # fmt: skip


def policy_name(job: Job) -> str:
    """A policy's folder, and part of the seed of its answers."""
    return f"{job.method}-beta{job.beta:g}-seed{job.seed}"


def policy_dir(folder: Path, job: Job) -> Path:
    """Where a job's policy is saved; the reference's own folder for the job that measures it."""
    return folder / "reference" if job == REFERENCE else folder / "policies" / policy_name(job)


def run_job(place: Place, job: Job) -> Results:
    """Train one policy and measure it; for the reference, only measure it."""
    started = time.process_time()
    setup, folder = place.basis.setup, policy_dir(place.folder, job)
    result: Results = asdict(job)
    with quietly():
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
    reference = load_model(place.folder / "reference", setup, option="reference")
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
        epochs=setup.epochs,
        batch_size=setup.batch_size,
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
        load_model(place.folder / "reference", setup, option="reference"),
        [ids for _, ids in prompts_that_fit(setup, setup.kl_prompts)],
        max_new_tokens=setup.max_new_tokens,
        seed=job.seed,
        batch_size=setup.sampled_at_a_time,
        end_ids=end_token_ids(policy, place.tokenizer),
    )
    return asdict(found)


@dataclass(frozen=True, kw_only=True)
class AnswerJob:
    """One model's answers at one temperature: the job that made it, and how many prompts it answers at most."""

    policy: Job
    temperature: float
    prompts: int


@dataclass(frozen=True, kw_only=True)
class VerdictJob:
    """Everything that is judged, as (prompt, answer, the other answer), and by whom."""

    judge: str
    api_key_env: str | None
    pairs: tuple[tuple[str, str, str], ...]


def answer_jobs(settings: DialogueSettings, done: Done) -> list[AnswerJob]:
    """The reference and every policy with the judged β, each at every temperature."""
    return [
        AnswerJob(policy=job, temperature=temperature, prompts=settings.judged_prompts)
        for job in settings.jobs
        if job == REFERENCE or job.beta == settings.shown_beta
        for temperature in settings.temperatures
    ]


def answer(place: Place, job: AnswerJob) -> Results:
    """Let a model answer the prompts of `prompts_that_fit`; what `generations.jsonl` holds is not generated again."""
    setup = place.basis.setup
    # The option is part of each answer's seed: two models answer independently.
    local = LocalModel(
        str(policy_dir(place.folder, job.policy)), option=policy_name(job.policy), dtype="float32",
        prompt_format=setup.prompt_format, batch_size=setup.sampled_at_a_time, use_cpu=setup.use_cpu,
        trust_remote_code=setup.trust_remote_code,
    )  # fmt: skip
    prompts = [as_prompt(setup, at, text) for at, (text, _) in enumerate(prompts_that_fit(setup, job.prompts))]
    sampling, log = Sampling(setup.max_new_tokens, job.temperature), place.folder / "generations.jsonl"
    with quietly():
        return {"texts": generate_locally(prompts, local, sampling, log, seed=setup.data_seed).texts}


def texts_of(settings: DialogueSettings, done: Done) -> dict[tuple[str, int, float], list[str]]:
    """Method, seed and temperature → answers; those of the reference are the same under every seed."""
    jobs = answer_jobs(settings, done)
    return {
        (job.policy.method, seed, job.temperature): found["texts"]
        for job, found in zip(jobs, done["answers"], strict=True)
        for seed in (settings.seeds if job.policy == REFERENCE else [job.policy.seed])
    }


def sides(settings: DialogueSettings) -> list[tuple[str, str, float]]:
    """What is compared: method, baseline, temperature."""
    return [
        (method, baseline, temperature)
        for baseline in (REFERENCE.method, BASELINE)
        for method in settings.methods
        if method != baseline
        for temperature in settings.temperatures
    ]


def _pairs(settings: DialogueSettings, done: Done) -> Iterator[tuple[str, str, str]]:
    """Side by side and seed by seed all prompts with both answers; then the human pairs of the first test set."""
    texts = texts_of(settings, done)
    prompts = [text for text, _ in prompts_that_fit(settings.setup, settings.judged_prompts)]
    for method, baseline, temperature in sides(settings):
        for seed in settings.seeds:
            yield from zip(prompts, *(texts[who, seed, temperature] for who in (method, baseline)), strict=True)
    for row in read_dialogues(settings.setup).tests[0].rows:
        yield row["prompt"], row["chosen"].strip(), row["rejected"].strip()


def verdict_jobs(settings: DialogueSettings, done: Done) -> list[VerdictJob]:
    """Everything that the judge is asked, in one job."""
    pairs = tuple(_pairs(settings, done))
    return [VerdictJob(judge=settings.judge, api_key_env=settings.judge_api_key_env, pairs=pairs)]


def judge(place: Place, job: VerdictJob) -> Results:
    """Ask the judge; what its log in the study's folder holds is not asked again."""
    setup = place.basis.setup
    with quietly():
        pairs = [AnswerPair(as_prompt(setup, at, prompt), a, b) for at, (prompt, a, b) in enumerate(job.pairs)]
        with contextlib.closing(_open_judge(job.judge, job.api_key_env, setup, place.folder)) as opened:
            found = opened.judge(pairs, place.folder, lambda count, total, usage: say("Verdicts", count, total))
    if not found.refused:  # what a server refuses is asked again by the next run: that costs nothing
        write_json(note_of(place.folder / "judged", place.basis, job), {})
    second = found.model_second_n if found.both_orders else None
    return {
        "first": found.model_first_n,
        "second": second,
        "orders": None if second is None else asdict(check_orders(found.model_first_n, second)),
        "identical": found.identical,
        "undecided": found.undecided,
        "refused": found.refused,
    }


def check_judge(settings: DialogueSettings) -> None:
    """Raise `InputError` where the judge is none of the forms, or cannot be opened."""
    if settings.judge != HELDOUT_JUDGE:
        _open_judge(settings.judge, settings.judge_api_key_env, settings.setup, Path(settings.output_dir)).close()
    elif settings.judge_base:
        trust = settings.setup.trust_remote_code
        check_saved_model("judge_base", settings.judge_base, trust_remote_code=trust, causal=False)


def judge_key(settings: DialogueSettings, done: Done) -> str:
    """What tells one state of the judge from another under the same name."""
    if done["judge"]:
        return str(done["judge"][0]["key"])
    folder = Path(settings.output_dir)
    with contextlib.closing(_open_judge(settings.judge, settings.judge_api_key_env, settings.setup, folder)) as opened:
        return opened.stamp


def _open_judge(name: str, api_key_env: str | None, setup: DialogueSetup, folder: Path) -> Judge:
    if name == HELDOUT_JUDGE:
        name = f"reward:{folder / 'judge'}"
    return open_judge(name, api_key_env=api_key_env, use_cpu=setup.use_cpu, trust_remote_code=setup.trust_remote_code)
