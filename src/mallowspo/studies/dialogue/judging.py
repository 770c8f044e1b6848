"""Answers of every policy at several temperatures, judged against the reference's and against DPO's.

All pairs of a study go to the judge in one call: a judge that is a model is loaded once, and an address is asked for
each pair once, however often the study is stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mallowspo.evaluation.generation import LocalModel, generate_locally
from mallowspo.evaluation.judge import AnswerPair, Judge, open_judge
from mallowspo.evaluation.local_model import Sampling
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.evaluation.win_rates import check_orders
from mallowspo.files import write_json
from mallowspo.loading import check_saved_model
from mallowspo.studies.dialogue import models
from mallowspo.studies.dialogue.data import prompts_that_fit, read_dialogues
from mallowspo.studies.dialogue.design import HELDOUT_JUDGE, REFERENCE, DialogueSettings, DialogueSetup
from mallowspo.studies.dialogue.models import Place, note_of
from mallowspo.studies.dialogue.training import policy_dir, policy_name
from mallowspo.studies.policies import BASELINE, Job, one_thread, quiet_libraries
from mallowspo.studies.study import Done, Results, say

__all__ = [
    "JUDGED", "AnswerJob", "VerdictJob", "answer", "answer_jobs", "check_judge", "judge", "judge_key", "sides",
    "texts_of", "verdict_jobs",
]  # fmt: skip

JUDGED = "judged"
"""Folder of the notes that say what was judged in full."""


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
        prompt_format="text", batch_size=setup.sampled_at_a_time, use_cpu=setup.use_cpu,
        trust_remote_code=setup.trust_remote_code,
    )  # fmt: skip
    prompts = [EvaluationPrompt(at, text) for at, (text, _) in enumerate(prompts_that_fit(setup, job.prompts))]
    sampling, log = Sampling(setup.max_new_tokens, job.temperature), place.folder / "generations.jsonl"
    with quiet_libraries(), one_thread():
        return {"texts": generate_locally(prompts, local, sampling, log, seed=setup.data_seed).texts}


def texts_of(settings: DialogueSettings, done: Done) -> dict[tuple[str, int, float], list[str]]:
    """Method, seed (−1: the reference) and temperature → answers."""
    jobs = answer_jobs(settings, done)
    return {
        (job.policy.method, job.policy.seed, job.temperature): found["texts"]
        for job, found in zip(jobs, done["answers"], strict=True)
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
            other = -1 if baseline == REFERENCE.method else seed
            yield from zip(prompts, texts[method, seed, temperature], texts[baseline, other, temperature], strict=True)
    for row in read_dialogues(settings.setup).tests[0].rows:
        yield row["prompt"], row["chosen"].strip(), row["rejected"].strip()


def verdict_jobs(settings: DialogueSettings, done: Done) -> list[VerdictJob]:
    """Everything that the judge is asked, in one job."""
    pairs = tuple(_pairs(settings, done))
    return [VerdictJob(judge=settings.judge, api_key_env=settings.judge_api_key_env, pairs=pairs)]


def judge(place: Place, job: VerdictJob) -> Results:
    """Ask the judge; what its log in the study's folder holds is not asked again.

    Returns:
        Preferences for the first answer of each pair, `first` shown first, and `second` shown second (None for a
        judge that scores an answer alone); and what was counted.
    """
    with quiet_libraries(), one_thread():
        pairs = [AnswerPair(EvaluationPrompt(at, prompt), *both) for at, (prompt, *both) in enumerate(job.pairs)]
        with contextlib.closing(_open_judge(job.judge, job.api_key_env, place.basis.setup, place.folder)) as opened:
            found = opened.judge(pairs, place.folder, lambda count, total, usage: say("Verdicts", count, total))
    if not found.refused:  # what a server refuses is asked again by the next run: that costs nothing
        write_json(note_of(place.folder / JUDGED, place.basis, job), {})
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
        check_saved_model("judge_base", settings.judge_base, trust_remote_code=settings.setup.trust_remote_code)


def judge_key(settings: DialogueSettings, done: Done) -> str:
    """What tells one state of the judge from another under the same name."""
    if done["judge"]:
        return str(done["judge"][0]["key"])
    folder = Path(settings.output_dir)
    with contextlib.closing(_open_judge(settings.judge, settings.judge_api_key_env, settings.setup, folder)) as opened:
        return opened.stamp


def _open_judge(name: str, api_key_env: str | None, setup: DialogueSetup, folder: Path) -> Judge:
    if name == HELDOUT_JUDGE:
        name = f"reward:{folder / models.JUDGE}"
    return open_judge(name, api_key_env=api_key_env, use_cpu=setup.use_cpu, trust_remote_code=setup.trust_remote_code)
