"""The dialogue study: does the dispersion index help on real dialogues, in distribution and out of it?

A base model is fine-tuned on the chosen answers of a third of the data (SFT); from this reference DPO, MallowsPO-θ
and MallowsPO-φ are trained on another third, with equal budgets, over several β and seeds. Measured: reward accuracy
and margins, calibration by thirds of the dispersion, in and out of distribution, and win rates by a judge at several
temperatures.

The reference, the judge and the policies stay in the folder as Hugging Face checkpoints, answers in
`generations.jsonl`, verdicts in `rewards.jsonl` or `verdicts.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.local_model import model_stamp
from mallowspo.loading import check_saved_model
from mallowspo.studies.dialogue import judging, models, training
from mallowspo.studies.dialogue.data import PARTS, prompts_that_fit, read_dialogues, read_parts
from mallowspo.studies.dialogue.design import HELDOUT_JUDGE, REFERENCE, DialogueSettings, fast
from mallowspo.studies.dialogue.judging import VerdictJob
from mallowspo.studies.dialogue.models import Basis, JudgeJob, ReferenceJob, note_of, open_place
from mallowspo.studies.dialogue.page import figures, page
from mallowspo.studies.dialogue.summary import summarise
from mallowspo.studies.policies import Job
from mallowspo.studies.study import Done, Stage, Study

__all__ = ["DIALOGUE"]


def _basis_of_reference(settings: DialogueSettings, done: Done) -> Basis:
    """Also the place where everything is looked at that can be wrong, before hours of work."""
    setup = settings.setup
    check_saved_model("model_name_or_path", setup.model_name_or_path, trust_remote_code=setup.trust_remote_code)
    judging.check_judge(settings)
    prompts_that_fit(setup, settings.judged_prompts)
    sft, _, _ = read_parts(setup)
    return Basis(setup.only(*PARTS, "use_cpu"), key_of(base=model_stamp(setup.model_name_or_path), rows=sft.key))


def _reference_jobs(settings: DialogueSettings, done: Done) -> Sequence[ReferenceJob]:
    setup = settings.setup
    return [ReferenceJob(steps=setup.sft_steps, batch_size=setup.batch_size, learning_rate=setup.sft_learning_rate)]


def _judge_base(settings: DialogueSettings) -> str:
    return settings.judge_base or settings.setup.model_name_or_path


def _basis_of_judge(settings: DialogueSettings, done: Done) -> Basis:
    _, _, judge = read_parts(settings.setup)
    key = key_of(base=model_stamp(_judge_base(settings)), rows=judge.key)
    return Basis(settings.setup.only(*PARTS, "use_cpu"), key)


def _judge_jobs(settings: DialogueSettings, done: Done) -> Sequence[JudgeJob]:
    if settings.judge != HELDOUT_JUDGE:
        return []
    return [
        JudgeJob(
            base=_judge_base(settings),
            steps=settings.judge_steps,
            batch_size=settings.setup.batch_size,
            learning_rate=settings.judge_learning_rate,
        )
    ]


def _basis_of_policies(settings: DialogueSettings, done: Done) -> Basis:
    data = read_dialogues(settings.setup)
    rows = [pairs.key for pairs in (data.policy, *data.tests)]
    return Basis(settings.setup, key_of(reference=done["reference"][0]["key"], rows=rows))


def _policy_jobs(settings: DialogueSettings, done: Done) -> Sequence[Job]:
    return settings.jobs


def _basis_of_verdicts(settings: DialogueSettings, done: Done) -> Basis:
    return Basis(settings.setup.only(*PARTS, "use_cpu"), judging.judge_key(settings, done))


def _files(basis: Basis, job: Any, folder: Path) -> Sequence[Path]:
    """What says that a model in the folder is this job's."""
    if job == REFERENCE:
        return []
    kinds = {ReferenceJob: models.REFERENCE, JudgeJob: models.JUDGE, VerdictJob: judging.JUDGED}
    kept = training.policy_dir(folder, job) if isinstance(job, Job) else folder / kinds[type(job)]
    return [note_of(kept, basis, job)]


def _default(output_dir: str) -> DialogueSettings:
    return DialogueSettings(output_dir=output_dir)


def _fast(output_dir: str) -> DialogueSettings:
    return fast(_default(output_dir))


DIALOGUE: Study[DialogueSettings] = Study(
    name="dialogue",
    version=1,
    stages=(
        Stage(
            "reference",
            "Making the reference",
            jobs=_reference_jobs,
            setup=_basis_of_reference,
            bench=open_place,
            work=models.make_reference,
            files=_files,
        ),
        Stage(
            "judge",
            "Making the judge",
            jobs=_judge_jobs,
            setup=_basis_of_judge,
            bench=open_place,
            work=models.make_judge,
            files=_files,
        ),
        Stage(
            "policies",
            "Training the policies",
            jobs=_policy_jobs,
            setup=_basis_of_policies,
            bench=open_place,
            work=training.run_job,
            files=_files,
        ),
        # One process writes the logs of answers and of verdicts, and asks a server.
        Stage(
            "answers",
            "Answering",
            jobs=judging.answer_jobs,
            setup=_basis_of_policies,
            bench=open_place,
            work=judging.answer,
            parallel=False,
        ),
        Stage(
            "verdicts",
            "Judging",
            jobs=judging.verdict_jobs,
            setup=_basis_of_verdicts,
            bench=open_place,
            work=judging.judge,
            files=_files,
            parallel=False,
        ),
    ),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={"default": _default, "fast": _fast},
)
"""The declaration; `mallowspo experiment dialogue` runs it."""
