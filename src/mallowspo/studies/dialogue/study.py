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
from typing import Any

from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.local_model import model_stamp
from mallowspo.loading import check_saved_model
from mallowspo.studies.dialogue import bench
from mallowspo.studies.dialogue.bench import Basis, JudgeJob, ReferenceJob
from mallowspo.studies.dialogue.data import PARTS, prompts_that_fit, read_dialogues, read_parts
from mallowspo.studies.dialogue.design import HELDOUT_JUDGE, DialogueSettings, fast
from mallowspo.studies.dialogue.page import figures, page
from mallowspo.studies.dialogue.summary import summarise
from mallowspo.studies.policies import only
from mallowspo.studies.study import Done, Stage, Study

__all__ = ["DIALOGUE"]


def _basis_of_reference(settings: DialogueSettings, done: Done) -> Basis:
    """Also the place where everything is looked at that can be wrong, before hours of work."""
    setup = settings.setup
    check_saved_model("model_name_or_path", setup.model_name_or_path, trust_remote_code=setup.trust_remote_code)
    bench.check_judge(settings)
    prompts_that_fit(setup, settings.judged_prompts)
    sft, _, _ = read_parts(setup)
    return Basis(only(setup, *PARTS, "use_cpu"), key_of(base=model_stamp(setup.model_name_or_path), rows=sft.key))


def _reference_jobs(settings: DialogueSettings, done: Done) -> Sequence[ReferenceJob]:
    setup = settings.setup
    return [ReferenceJob(steps=setup.sft_steps, batch_size=setup.batch_size, learning_rate=setup.sft_learning_rate)]


def _judge_base(settings: DialogueSettings) -> str:
    return settings.judge_base or settings.setup.model_name_or_path


def _basis_of_judge(settings: DialogueSettings, done: Done) -> Basis:
    key = key_of(base=model_stamp(_judge_base(settings)), rows=read_parts(settings.setup)[2].key)
    return Basis(only(settings.setup, *PARTS, "use_cpu"), key)


def _judge_jobs(settings: DialogueSettings, done: Done) -> Sequence[JudgeJob]:
    if settings.judge != HELDOUT_JUDGE:
        return []
    size, rate = settings.setup.batch_size, settings.judge_learning_rate
    return [JudgeJob(base=_judge_base(settings), steps=settings.judge_steps, batch_size=size, learning_rate=rate)]


def _basis_of_policies(settings: DialogueSettings, done: Done) -> Basis:
    data = read_dialogues(settings.setup)
    rows = [pairs.key for pairs in (data.policy, *data.tests)]
    return Basis(settings.setup, key_of(reference=done["reference"][0]["key"], rows=rows))


def _basis_of_verdicts(settings: DialogueSettings, done: Done) -> Basis:
    return Basis(only(settings.setup, *PARTS, "use_cpu"), bench.judge_key(settings, done))


def _stage(name: str, title: str, jobs: Any, setup: Any, work: Any, **more: Any) -> Stage[DialogueSettings]:
    return Stage(name, title, jobs=jobs, setup=setup, bench=bench.open_place, work=work, **more)


DIALOGUE: Study[DialogueSettings] = Study(
    name="dialogue",
    version=1,
    stages=(
        _stage(
            "reference",
            "Making the reference",
            _reference_jobs,
            _basis_of_reference,
            bench.make_reference,
            files=bench.left_by,
        ),
        _stage("judge", "Making the judge", _judge_jobs, _basis_of_judge, bench.make_judge, files=bench.left_by),
        _stage(
            "policies",
            "Training the policies",
            lambda settings, done: settings.jobs,
            _basis_of_policies,
            bench.run_job,
            files=bench.left_by,
        ),
        # One process writes the logs of answers and of verdicts, and asks a server.
        _stage("answers", "Answering", bench.answer_jobs, _basis_of_policies, bench.answer, parallel=False),
        _stage(
            "verdicts",
            "Judging",
            bench.verdict_jobs,
            _basis_of_verdicts,
            bench.judge,
            files=bench.left_by,
            parallel=False,
        ),
    ),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={
        "default": lambda folder: DialogueSettings(output_dir=folder),
        "fast": lambda folder: fast(DialogueSettings(output_dir=folder)),
    },
)
"""The declaration; `mallowspo experiment dialogue` runs it."""
