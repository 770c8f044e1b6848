"""Policies that the studies train: the one table of methods, the grid of settings, a quiet training run, comparisons.

Every method of a study sees the same pairs in the same order under one seed; only the objective differs.
"""

from __future__ import annotations

import contextlib
import copy
import logging as python_logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from mallowspo.errors import InputError, not_one_of
from mallowspo.reports.figure_style import METHOD_STYLES
from mallowspo.stats.frontiers import SeedFrontier, equal_kl_differences
from mallowspo.stats.intervals import mean_interval, mean_of_known
from mallowspo.stats.verdicts import verdict

__all__ = [
    "BASELINE", "METHODS", "THIRDS", "Grid", "Job", "Method", "Run", "check_at_least", "check_distinct", "check_grid",
    "check_known", "check_positive", "compare_at_equal_kl", "equal_kl", "final_loss", "frontiers", "grouped", "label",
    "mean_of", "means_over_seeds", "only", "padded", "pair_rows", "quietly", "select_runs", "train_policy", "value",
    "weight_quantiles",
]  # fmt: skip

BASELINE = "dpo"
THIRDS = ("agreed", "middle", "contested")  # of prompts or states, by how much people agree
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """An objective and where its index comes from."""

    objective: str  # a name in `mallowspo.objectives.OBJECTIVES`
    # Empty for a method without an index; `entropy`: the trainer reads it off the reference; anything else: the study
    # gives it, as a column of its rows.
    index: str = ""
    label_smoothing: float = 0.0  # share of the labels that the objective takes for flipped
    settings: Mapping[str, Any] = field(default_factory=dict)  # further options of `MallowsPOConfig`, by name

    @property
    def options(self) -> dict[str, Any]:
        """What the method sets in `MallowsPOConfig`; everything else is the same for all."""
        given: dict[str, Any] = {"objective": self.objective}
        if self.index:
            given["dispersion"] = "entropy" if self.index == "entropy" else "column"
        if self.label_smoothing:
            given["label_smoothing"] = self.label_smoothing
        return given | dict(self.settings)


# The best index of one pass (docs/experiments/estimator.md), with the map that restores its spread.
_DIVERGENT = {
    "dispersion_estimator": "divergent_token",
    "dispersion_map": "mallows",
    "dispersion_alternatives": "auto",
}
_BY_VOTES = {"dispersion_shrink": "votes"}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "dpo": Method("dpo"),
        "cdpo": Method("dpo", label_smoothing=0.1),
        "ipo": Method("ipo"),
        "mallows_theta": Method("mallows_theta", "entropy"),
        "mallows_theta_50": Method("mallows_theta", "entropy", settings={"dispersion_power": 0.5}),
        "mallows_phi": Method("mallows_phi", "entropy"),
        "mallows_norm": Method("mallows_norm", "entropy"),
        "mallows_theta_true": Method("mallows_theta", "true"),
        "mallows_phi_true": Method("mallows_phi", "true"),
        "mallows_theta_pairs": Method("mallows_theta", "pairs"),
        "mallows_phi_pairs": Method("mallows_phi", "pairs"),
        "mallows_theta_votes": Method("mallows_theta", "votes"),
        "mallows_phi_votes": Method("mallows_phi", "votes"),
        "mallows_theta_pairs_50": Method("mallows_theta", "pairs", settings={"dispersion_power": 0.5}),
        "theta_mean_entropy": Method("mallows_theta", "mean_entropy"),
        "theta_panel": Method("mallows_theta", "panel"),
        "theta_true": Method("mallows_theta", "true"),
        "ipo_sum": Method("ipo", settings={"length_normalized": False}),
        **{
            f"theta_true_{percent}": Method("mallows_theta", "true", settings={"dispersion_power": percent / 100})
            for percent in (25, 50, 75)
        },
        "theta_best": Method("mallows_theta", "entropy", settings=_DIVERGENT),
        **{
            f"theta_best_{percent}": Method(
                "mallows_theta", "entropy", settings=_DIVERGENT | {"dispersion_power": percent / 100}
            )
            for percent in (25, 50, 75)
        },
        "theta_one_pass_panel": Method("mallows_theta", "entropy", settings={"dispersion_estimator": "panel"}),
        "theta_released_shrunk": Method("mallows_theta", "entropy", settings=_BY_VOTES),
        "theta_best_shrunk": Method("mallows_theta", "entropy", settings=_DIVERGENT | _BY_VOTES),
    }
)
"""Every method of every study; a study names those that it compares."""


def label(method: str) -> str:
    """What a reader calls a method."""
    return METHOD_STYLES[method].label


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run: which method, how strong, on which pairs."""

    seed: int
    method: str
    beta: float
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The settings that every method is trained at, once for each seed."""

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    betas: tuple[float, ...]
    learning_rate: float

    @property
    def jobs(self) -> list[Job]:
        """Every run, seed by seed."""
        return [
            Job(seed=seed, method=method, beta=beta, learning_rate=self.learning_rate)
            for seed in self.seeds
            for method in self.methods
            for beta in self.betas
        ]


def check_distinct(settings: Any, *names: str) -> None:
    """Refuse a field without a value or with one that stands twice."""
    for name in names:
        values = getattr(settings, name)
        if not values or len(set(values)) != len(values):
            raise InputError(f"{name}: got {values}, expected at least one value and none twice")


def check_known(settings: Any, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among the known ones; of several also none at all, and one twice."""
    given = getattr(settings, name)
    if not isinstance(given, str):
        check_distinct(settings, name)
    for value in [given] if isinstance(given, str) else given:
        if value not in known:
            raise not_one_of(name, value, known)


def check_at_least(settings: Any, **least: float) -> None:
    """Refuse a field below the least value that it can have; None is none."""
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise InputError(f"{name}: got {value}, expected at least {low}")


def check_positive(settings: Any, *names: str, below: float = float("inf")) -> None:
    """Refuse a number that is not above 0 and below the bound; of several also none at all, and one twice."""
    for name in names:
        given = getattr(settings, name)
        if not isinstance(given, int | float):
            check_distinct(settings, name)
        if not all(0 < value < below for value in np.ravel(given)):
            expected = f"above 0 and below {below:.4g}" if np.isfinite(below) else "finite and > 0"
            raise InputError(f"{name}: got {given}, expected what is {expected}")


def only(setup: Any, *names: str) -> Any:
    """A setup with these fields as they are and all others at their defaults.

    Finished work is found again by its setup, in which a field that the work does not read must not matter.
    """
    return replace(type(setup)(), **{name: getattr(setup, name) for name in names})


def check_grid(settings: Any, methods: Sequence[str], *numbers: str) -> None:
    """Refuse methods that the study lacks or has no baseline for, seeds, betas and further `numbers`, all > 0."""
    check_known(settings, "methods", methods)
    if BASELINE not in settings.methods or len(settings.methods) < 2:
        raise InputError(
            f"methods: got {', '.join(settings.methods)}; every method is compared with {BASELINE}, so give "
            f"{BASELINE} and at least one other"
        )
    check_distinct(settings, "seeds")
    check_positive(settings, "betas", *numbers)


def grouped(rows: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """The rows by what a key says of them, in their order."""
    found: dict[Any, list[Any]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def select_runs(runs: Iterable[Run], **wanted: object) -> list[Run]:
    """The runs whose fields have these values, in their order."""
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def value(row: Any, path: str) -> Any:
    """What stands at a path such as `accuracy.all.rows` or `by_tercile.2`; None where the row has no such place."""
    for name in path.split("."):
        if row is None:
            return None
        row = row.get(name) if isinstance(row, Mapping) else row[int(name)]
    return row


def mean_of(values: Any) -> Any:
    """Mean with its interval as `results.json` holds it; of lists one for each of their places."""
    if len(values) and isinstance(values[0], list):
        return [mean_of(column) for column in zip(*values, strict=True)]
    return asdict(mean_interval(values))


def means_over_seeds(runs: Sequence[Run], keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Means with their intervals, one row a setting in the order of the runs; of a list one for each of its places."""
    rows = []
    for place, here in grouped(runs, lambda run: tuple(run[key] for key in keys)).items():
        row: dict[str, Any] = dict(zip(keys, place, strict=True)) | {"seeds": len(here)}
        rows.append(row | {name: mean_of([run[name] for run in here]) for name in names})
    return rows


def frontiers(grid: Grid, runs: Sequence[Run], method: str, path: str) -> list[SeedFrontier]:
    """A method's line of a quantity against KL for each seed."""
    lines = []
    for seed in grid.seeds:
        here = select_runs(runs, seed=seed, method=method)
        lines.append(SeedFrontier([run["kl"] for run in here], [value(run, path) for run in here]))
    return lines


def equal_kl(
    mine: Sequence[SeedFrontier],
    base: Sequence[SeedFrontier],
    more_is: str = "better",
    *,
    middle: Callable[[Any], float] = mean_of_known,
) -> dict[str, Any]:
    """Two methods at equal KL, seed by seed: difference with interval, per seed, middle ends of the KL, verdict."""
    found = equal_kl_differences(mine, base)
    difference = mean_interval(found.difference_s)
    return {
        "difference": asdict(difference),
        "per_seed": found.difference_s,
        "kl_low": middle(found.low_s),
        "kl_high": middle(found.high_s),
        "verdict": verdict(difference, more_is=more_is),
    }


def compare_at_equal_kl(
    grid: Grid, runs: Sequence[Run], quantities: Mapping[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    """Each method against the baseline; `learning_rate` is None, since there is one for all.

    `quantities`: name → where a run has it, and what more of it is (`better`, `worse`, `more`).
    """
    rows = []
    for method in grid.methods:
        for quantity, (path, more_is) in quantities.items() if method != BASELINE else ():
            mine, base = (frontiers(grid, runs, name, path) for name in (method, BASELINE))
            row = {"method": method, "baseline": BASELINE, "learning_rate": None, "quantity": quantity}
            rows.append(row | equal_kl(mine, base, more_is))
    return rows


@contextlib.contextmanager
def quietly(*, one_thread: bool = True) -> Iterator[None]:
    """Silence bars and notices of training inside the block: the study shows one bar. Hold torch at one thread.

    A tiny model gains nothing from two threads, and sums come out the same on every machine.
    """
    import datasets
    import torch
    from transformers.utils import logging

    ours = python_logging.getLogger("mallowspo")
    with contextlib.ExitStack() as after, warnings.catch_warnings():
        after.callback(ours.setLevel, ours.level)
        after.callback(logging.set_verbosity, logging.get_verbosity())
        if logging.is_progress_bar_enabled():
            after.callback(logging.enable_progress_bar)
        if not datasets.are_progress_bars_disabled():
            after.callback(datasets.enable_progress_bars)
        if one_thread:
            after.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        ours.setLevel(python_logging.ERROR)  # what a run tells its user, a study that trains hundreds has settled
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        datasets.disable_progress_bars()
        # The libraries warn of each other's names that are to change; nobody who runs the study can mend that.
        warnings.simplefilter("ignore", FutureWarning)
        yield


def pair_rows(
    prompts: Iterable[Sequence[int]], chosen: Iterable[Sequence[int]], rejected: Iterable[Sequence[int]],
    phi: Iterable[float] | None = None, prompt_ids: Iterable[str] | None = None,
) -> Any:  # fmt: skip
    """Tokenised pairs as the trainer reads them; `phi` is the index of methods whose study gives it.

    `prompt_ids` are names of the prompts under which people's votes on them lie in a file.
    """
    from datasets import Dataset

    columns: dict[str, Any] = {
        name: [list(ids) for ids in rows]
        for name, rows in (("prompt_ids", prompts), ("chosen_ids", chosen), ("rejected_ids", rejected))
    }
    if phi is not None:
        columns["dispersion"] = [float(value) for value in phi]
    if prompt_ids is not None:
        columns["prompt_id"] = list(prompt_ids)
    return Dataset.from_dict(columns)


def padded(rows: Sequence[Sequence[int]], device: Any = None, pad_id: int = 0) -> tuple[Any, Any]:
    """Rows as ids and mask, padded on the right: what stands after a token cannot change it."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def train_policy(
    reference: Any, rows: Any, tokenizer: Any, job: Job, folder: str, *, epochs: int, batch_size: int,
    fresh: bool = False, **options: Any,
) -> Any:  # fmt: skip
    """Train one policy from a copy of the reference, without a line of logs; the trainer, its model in eval mode.

    With `fresh` nobody else needs `reference`: it is trained itself, which spares the memory of a copy. `options` of
    `MallowsPOConfig` are those that the study sets for all methods.
    """
    from transformers import PrinterCallback

    from mallowspo.training import MallowsPOConfig, MallowsPOTrainer

    quiet: dict[str, Any] = {
        # The reference is frozen: scoring it once gives the same loss as scoring it at every step, for every method.
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": 4 * batch_size,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "displacement_alarm": float("inf"),  # every policy is measured; a warning a run would drown the progress bar
        "report_to": "none",
        "disable_tqdm": True,
    }
    args = MallowsPOConfig(
        output_dir=folder,
        beta=job.beta,
        learning_rate=job.learning_rate,
        seed=job.seed,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        **METHODS[job.method].options,
        **{**quiet, **options},
    )
    policy = reference if fresh else copy.deepcopy(reference)
    trainer = MallowsPOTrainer(model=policy, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    policy.eval()
    return trainer


def final_loss(trainer: Any) -> float:
    """Mean loss over a run, nats; NaN before it has trained."""
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    return float(losses[-1]) if losses else float("nan")


def weight_quantiles(trainer: Any) -> Any:
    """5%, 50% and 95% of the weights that a run trained with; None where it had none."""
    if trainer.calibration is None:
        return None
    raw_n = np.asarray(trainer.train_dataset["dispersion_raw"], dtype=np.float64)
    return np.quantile(trainer.calibration.weight(raw_n), [0.05, 0.5, 0.95])
