"""Controllable generation: how much reward does each method buy for how much KL?

The paper's sentiment study at any size. A language model continues the first words of texts; an external reward reads
what it wrote; pairs of its own responses, compared by that reward, train DPO, IPO, MallowsPO-θ and MallowsPO-φ at
several strengths; reward and KL of every policy are measured on the same sampled responses to held-out prompts.
`results.json` holds all numbers, `report.html` explains them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mallowspo.experiments.controllable_config import ControllableConfig, ControllableDesign, fast_config
from mallowspo.experiments.jobs import run_jobs
from mallowspo.experiments.study import open_folder, write_results
from mallowspo.files import write_text
from mallowspo.progress import Progress, silent

__all__ = ["ControllableConfig", "ControllableDesign", "fast_config", "run_controllable_study"]


@dataclass(frozen=True)
class ReferenceJob:
    """Measure the reference itself, with the draws of a seed."""

    seed: int


@dataclass(frozen=True)
class OptimumJob:
    """Estimate the best possible trade-off."""

    samples: int


def _reference_job(inputs: Any, job: ReferenceJob) -> dict[str, Any]:
    from mallowspo.experiments.controllable_runs import bench_of, measure, quiet_libraries, threads_for

    bench = bench_of(inputs)
    with quiet_libraries(), threads_for(bench.reference):
        return measure(bench, bench.reference, job.seed)


def _optimum_job(inputs: Any, job: OptimumJob) -> dict[str, Any]:
    from mallowspo.experiments.controllable_optimum import tilted_reference
    from mallowspo.experiments.controllable_pairs import draw_responses, text_of
    from mallowspo.experiments.controllable_runs import bench_of, quiet_libraries, threads_for

    bench = bench_of(inputs)
    prompts = bench.prompts.heldout
    with quiet_libraries(), threads_for(bench.reference):
        drawn = draw_responses(
            bench.reference,
            prompts,
            samples=job.samples,
            design=bench.design,
            end_ids=bench.end_ids,
            seed=bench.design.prompt_seed,
            purpose="optimum",
        )
    keys = sorted(drawn)
    texts = [text_of(bench.tokenizer, [*prompts[p], *drawn[p, s]]) for p, s in keys]
    found = tilted_reference(bench.reward.score(texts).reshape(len(prompts), job.samples))
    return {"kl": found.kl.tolist(), "reward": found.reward.tolist(), "samples": job.samples}


def run_controllable_study(config: ControllableConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the study and write `results.json`, figures, `report.html` and one seed's pairs.

    Finished runs are kept in `jobs.jsonl` of the folder: a study that was stopped goes on where it was. With
    `workers` > 0, processes are started afresh: a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        config: The settings.
        progress: Called as the work goes on; see `mallowspo.progress.progress_bar`.

    Returns:
        The findings, as in `results.json`; see `mallowspo.experiments.controllable_summary.summarise`.

    Raises:
        InputError: The settings, a model, the data or the reward cannot be used.
    """
    from mallowspo.experiments.controllable_report import write_controllable_report
    from mallowspo.experiments.controllable_runs import Inputs, bench_of, reference_cache, run_job, stamp_of
    from mallowspo.experiments.controllable_summary import choose_rate, summarise

    report = progress or silent
    folder = open_folder(config.output_dir)
    report("Loading the models", 0, 1)
    inputs = Inputs(config.design, stamp_of(config.design))
    bench = bench_of(inputs)
    report("Loading the models", 1, 1)
    log = folder / "jobs.jsonl"
    common: dict[str, Any] = {"workers": config.workers, "progress": report}
    with reference_cache(folder / "cache"):
        pilot = run_jobs(run_job, inputs, config.pilot_jobs, log, stage="Choosing the learning rate", **common)
        choice = choose_rate(config.learning_rates, pilot)
        jobs = config.jobs(choice["chosen"])
        runs = run_jobs(run_job, inputs, jobs, log, stage="Training the policies", **common)
    stage = "Measuring the reference"
    references = run_jobs(_reference_job, inputs, [ReferenceJob(s) for s in config.seeds], log, stage=stage, **common)
    optimum_jobs = [OptimumJob(config.design.optimum_samples)]
    [optimum] = run_jobs(_optimum_job, inputs, optimum_jobs, log, stage="Estimating the optimum", progress=report)
    results = {
        "config": asdict(config),
        "facts": _facts(bench, config.seeds[0]),
        "learning_rate": choice,
        **summarise(config, runs, references),
        "optimum": optimum,
        "examples": _examples(bench, config, runs, references),
        "runs": [{key: value for key, value in run.items() if key != "example"} for run in runs],
    }
    _write_pairs(bench, config.seeds[0], folder)
    stored = write_results(folder, results)
    write_controllable_report(folder, stored)
    report("Writing the report", 1, 1)
    return stored


def _facts(bench: Any, seed: int) -> dict[str, Any]:
    """What the report says of model, prompts and the first seed's pairs."""
    pairs = bench.pairs_of(seed)
    gaps = [pair.chosen_reward - pair.rejected_reward for pair in pairs.pairs]
    return {
        "parameters": int(bench.reference.num_parameters()),
        "device": bench.reference.device.type,
        "reward": bench.reward.name,
        "train_prompts": len(bench.prompts.train),
        "heldout_prompts": len(bench.prompts.heldout),
        "pairs": len(pairs.pairs),
        "compared": pairs.compared,
        "equal": pairs.equal,
        "against_reward": sum(gap < 0 for gap in gaps) / len(gaps),
        "mean_gap": sum(map(abs, gaps)) / len(gaps),
        "reward_mean": float(pairs.reward_pk.mean()),
        "reward_deviation": float(pairs.reward_pk.std()),
    }


def _examples(bench: Any, config: ControllableConfig, runs: Any, references: Any) -> dict[str, Any]:
    """The first held-out prompt and the first response to it by every method, at its smallest and its middle β."""
    from mallowspo.experiments.controllable_pairs import text_of

    seed = config.seeds[0]
    answers: list[Mapping[str, Any]] = [{"method": "reference", "beta": None, "text": references[0]["example"]}]
    for run in runs:
        betas = sorted(config.betas_of(run["method"]))
        if run["seed"] == seed and run["beta"] in (betas[0], betas[len(betas) // 2]):
            shown = {"method": run["method"], "beta": run["beta"], "kl": run["kl"], "text": run["example"]}
            answers.append(shown)
    return {"prompt": text_of(bench.tokenizer, bench.prompts.heldout[0]), "answers": answers}


def _write_pairs(bench: Any, seed: int, folder: Any) -> None:
    """Write a seed's pairs as text, the layout that `mallowspo train` and `trl dpo` read."""
    from mallowspo.experiments.controllable_pairs import text_of

    lines = []
    for pair in bench.pairs_of(seed).pairs:
        prompt = bench.prompts.train[pair.prompt]
        start = text_of(bench.tokenizer, prompt)
        # Decoded together with the prompt: a response alone may lose the blank before its first word.
        sides = {
            side: text_of(bench.tokenizer, [*prompt, *ids])[len(start) :]
            for side, ids in (("chosen", pair.chosen), ("rejected", pair.rejected))
        }
        rewards = {"chosen_reward": pair.chosen_reward, "rejected_reward": pair.rejected_reward}
        lines.append(json.dumps({"prompt": start, **sides, **rewards}, ensure_ascii=False))
    write_text(folder / "preferences.jsonl", "\n".join(lines) + "\n")
