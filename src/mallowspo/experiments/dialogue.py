"""The dialogue study: does the dispersion index help on real dialogues, in distribution and out of it?

A base model is fine-tuned on the chosen answers of a third of the data (SFT); from this reference DPO, MallowsPO-θ
and MallowsPO-φ are trained on another third, with equal budgets, over several β and seeds. Measured: reward accuracy
and margins, calibration by thirds of the dispersion, in and out of distribution, and win rates by a judge at several
temperatures.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mallowspo.experiments.dialogue_config import HELDOUT_JUDGE, METHODS, DialogueConfig, DialogueSetup, fast_config
from mallowspo.experiments.jobs import run_jobs
from mallowspo.experiments.study import open_folder, write_results
from mallowspo.loading import check_saved_model
from mallowspo.progress import Progress, silent

__all__ = ["METHODS", "DialogueConfig", "DialogueSetup", "fast_config", "run_dialogue_study"]


def run_dialogue_study(config: DialogueConfig | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the study and write `results.json`, figures and `report.html`; a run that was stopped goes on.

    The reference, the judge and the policies stay in the folder as Hugging Face checkpoints, finished jobs in
    `jobs.jsonl`, answers in `generations.jsonl`, verdicts in `rewards.jsonl` or `verdicts.jsonl`.

    With `workers` > 0, processes are started afresh: a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        config: The settings; the defaults where None.
        progress: Called as the work goes on; see `mallowspo.progress.progress_bar`.

    Returns:
        The findings, as in `results.json`; see `mallowspo.experiments.dialogue_summary.summarise`.

    Raises:
        InputError: The settings, the data, the model or the judge cannot be used.
    """
    config = config or DialogueConfig()
    report = progress or silent
    folder = open_folder(config.setup.output_dir)
    results = _run(config, report)
    stored = write_results(folder, results)
    write_report_of(folder, stored)
    report("Writing the report", 1, 1)
    return stored


def write_report_of(folder: Path, stored: dict[str, Any]) -> None:
    """Write figures and page from what `results.json` holds."""
    from mallowspo.experiments.dialogue_report import write_dialogue_report

    write_dialogue_report(folder, stored)


def _run(config: DialogueConfig, report: Progress) -> dict[str, Any]:
    from mallowspo.experiments.dialogue_judging import generate_answers, judge_everything, judged_prompts, open_judge
    from mallowspo.experiments.dialogue_models import make_judge, make_reference
    from mallowspo.experiments.dialogue_runs import Reference, open_bench, run_dialogue_job
    from mallowspo.experiments.dialogue_summary import summarise
    from mallowspo.studies.policies import one_thread, quiet_libraries

    setup = config.setup
    trust = setup.trust_remote_code
    check_saved_model("model_name_or_path", setup.model_name_or_path, trust_remote_code=trust)
    if config.judge != HELDOUT_JUDGE:
        open_judge(config)  # a name that means nothing is told now, not after hours
    elif config.judge_base:
        check_saved_model("judge_base", config.judge_base, trust_remote_code=trust)
    report("Reading the dialogues", 0, 1)
    bench = open_bench(setup)
    prompts = judged_prompts(config, bench)
    report("Reading the dialogues", 1, 1)
    with quiet_libraries(), one_thread():
        key = make_reference(setup, bench.data.sft, bench.tokenizer, lambda done, total: report("SFT", done, total))
        if config.judge == HELDOUT_JUDGE:
            make_judge(config, bench.data.judge, lambda done, total: report("Training the judge", done, total))
    runs = run_jobs(
        run_dialogue_job,
        Reference(setup, key),
        config.jobs,
        setup.folder / "jobs.jsonl",
        workers=config.workers,
        progress=report,
        stage="Training the policies",
    )
    with quiet_libraries(), one_thread():
        answers = generate_answers(config, bench, report)
        judged = judge_everything(config, bench, answers, report)
    findings = summarise(config, bench.data, runs, judged, len(prompts))
    seconds = {"jobs": sum(run["cpu_seconds"] for run in runs)}  # of all jobs, whichever run of the study did them
    examples = _examples(config, prompts, answers)
    return {"config": asdict(config), **findings, "examples": examples, "seconds": seconds}


def _examples(config: DialogueConfig, prompts: Any, answers: Any) -> list[dict[str, Any]]:
    """The first prompts with the first seed's answers, so that nobody has picked them."""
    temperature, seed = config.temperatures[0], config.seeds[0]
    return [
        {
            "prompt": prompt.text.strip(),
            "answers": {"reference": answers["reference", -1, temperature].texts[place]}
            | {method: answers[method, seed, temperature].texts[place] for method in config.methods},
        }
        for place, prompt in enumerate(prompts[:3])
    ]
