"""One run of the study `world`: the quick start's run in a world of the seed's own, measured on one split more."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mallowspo.experiments.quickstart_config import Job
from mallowspo.experiments.quickstart_runs import Bench, Split, make_reference, open_bench, open_split, run_job
from mallowspo.experiments.world_study_config import WorldSetup
from mallowspo.files import parse_json, plain, write_json
from mallowspo.progress import Progress, silent
from mallowspo.stats.bootstrap import spearman
from mallowspo.world.language import WorldPrompt, build_world

__all__ = ["WorldBench", "open_world", "prepare_world", "run_world_job", "selection_prompts"]


@dataclass(frozen=True)
class WorldBench:
    """What all runs of one seed share.

    Attributes:
        bench: The world, its reference and its held-out prompts.
        selection: The prompts on which settings are chosen.
    """

    bench: Bench
    selection: Split


def selection_prompts(setup: WorldSetup, seed: int) -> tuple[WorldPrompt, ...]:
    """The prompts of a world on which settings are chosen: neither trained on nor held out.

    Args:
        setup: What all runs share.
        seed: Of the world.

    Returns:
        The prompts.

    Raises:
        InputError: The language has not as many prompts as the three splits need.

    Example:
        >>> len(selection_prompts(WorldSetup(), 1))
        60
    """
    # A world's training prompts are the first ones of a random order, so that a larger world holds them all.
    sizes = {"heldout_prompts": setup.heldout_prompts}
    larger = build_world(seed, train_prompts=setup.train_prompts + setup.selection_prompts, **sizes)
    trained = {prompt.text for prompt in build_world(seed, train_prompts=setup.train_prompts, **sizes).train}
    return tuple(prompt for prompt in larger.train if prompt.text not in trained)


def prepare_world(setup: WorldSetup, seed: int, report: Progress = silent) -> None:
    """Train the reference of a seed, unless it lies there, made from the same settings.

    Args:
        setup: What all runs share.
        seed: Of the world.
        report: Called as the work goes on.
    """
    config = setup.of_seed(seed)
    facts = plain(asdict(replace(config, output_dir="")))
    record = Path(config.output_dir) / "reference.json"
    if record.is_file() and parse_json(record.read_text(encoding="utf-8")) == facts:
        return
    # The record is written last: a reference without it is one whose writing was cut short.
    record.unlink(missing_ok=True)
    shutil.rmtree(config.reference_dir, ignore_errors=True)
    make_reference(config, report)
    write_json(record, facts)


def open_world(setup: WorldSetup, seed: int) -> WorldBench:
    """Build what the runs of a seed share from its saved reference.

    Args:
        setup: What all runs share.
        seed: Of the world.

    Returns:
        The bench and the selection prompts.
    """
    bench = open_bench(setup.of_seed(seed))
    return WorldBench(bench, open_split(bench.reference, bench.tokenizer, selection_prompts(setup, seed)))


_OPEN: dict[tuple[WorldSetup, int], WorldBench] = {}  # of this process: the world it works in


def run_world_job(setup: WorldSetup, job: Job) -> dict[str, Any]:
    """Train one policy in the world of its seed and measure it on both splits.

    Args:
        setup: What all runs share.
        job: The run.

    Returns:
        As `mallowspo.experiments.quickstart_runs.run_job`, with `cpu_seconds`, and of the index only its rank
        correlation with the truth and the quantiles of the weights.
    """
    started = time.process_time()
    fresh = (setup, job.seed) not in _OPEN
    if fresh:
        _OPEN.clear()  # jobs come world by world
        _OPEN[setup, job.seed] = open_world(setup, job.seed)
    world = _OPEN[setup, job.seed]
    result = run_job(world.bench, job, selection=world.selection)
    if fresh:
        # A trainer collects garbage when it ends; what stays from one run to the next need not be searched each time.
        gc.collect()
        gc.freeze()
    del result["probability_pk"]
    index = result.pop("index", None)
    if index is not None:
        truth_p = [prompt.neg_log_phi for prompt in world.bench.world.train]
        result["index"] = {
            "rank_correlation": spearman(index["neg_log_phi_p"], truth_p),
            "weight_quantiles": index["weight_quantiles"],
        }
    return result | {"cpu_seconds": time.process_time() - started}
