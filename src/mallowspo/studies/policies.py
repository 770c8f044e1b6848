"""Policies that the studies train: the one table of methods, the grid of settings, and a quiet training run.

Every method of a study sees the same pairs in the same order under one seed; only the objective differs.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from mallowspo.errors import InputError, not_one_of
from mallowspo.reports.figure_style import METHOD_STYLES
from mallowspo.stats.frontiers import SeedFrontier, equal_kl_differences
from mallowspo.stats.intervals import mean_interval, mean_of_known
from mallowspo.stats.verdicts import verdict

__all__ = [
    "BASELINE",
    "METHODS",
    "Grid",
    "Job",
    "Method",
    "Place",
    "Run",
    "check_grid",
    "compare_at_equal_kl",
    "final_loss",
    "frontiers",
    "label",
    "one_thread",
    "quiet_libraries",
    "select_runs",
    "train_policy",
    "value_at",
    "weight_quantiles",
]

BASELINE = "dpo"
Run = Mapping[str, Any]
Place = tuple[str, int | None]
"""Where a run has a quantity: its name, and the place in it where it is a list."""


@dataclass(frozen=True)
class Method:
    """An objective and where its index comes from."""

    objective: str  # a name in `mallowspo.objectives.OBJECTIVES`
    # Empty for a method without an index; `entropy`: the trainer reads it off the reference; anything else: the
    # study gives it, as a column of its rows
    index: str = ""
    label_smoothing: float = 0.0  # share of the labels that the objective takes for flipped

    @property
    def options(self) -> dict[str, Any]:
        """What the method sets in `MallowsPOConfig`; everything else is the same for all."""
        given: dict[str, Any] = {"objective": self.objective}
        if self.index:
            given["dispersion"] = "entropy" if self.index == "entropy" else "column"
        if self.label_smoothing:
            given["label_smoothing"] = self.label_smoothing
        return given


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "dpo": Method("dpo"),
        "cdpo": Method("dpo", label_smoothing=0.1),
        "ipo": Method("ipo"),
        "mallows_theta": Method("mallows_theta", "entropy"),
        "mallows_phi": Method("mallows_phi", "entropy"),
        "mallows_theta_true": Method("mallows_theta", "true"),
        "mallows_phi_true": Method("mallows_phi", "true"),
        "mallows_theta_pairs": Method("mallows_theta", "pairs"),
        "mallows_phi_pairs": Method("mallows_phi", "pairs"),
        "mallows_theta_votes": Method("mallows_theta", "votes"),
        "mallows_phi_votes": Method("mallows_phi", "votes"),
        "theta_mean_entropy": Method("mallows_theta", "mean_entropy"),
        "theta_panel": Method("mallows_theta", "panel"),
        "theta_true": Method("mallows_theta", "true"),
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
    learning_rates: tuple[float, ...]

    @property
    def jobs(self) -> list[Job]:
        """Every run, seed by seed."""
        return [
            Job(seed=seed, method=method, beta=beta, learning_rate=rate)
            for seed in self.seeds
            for rate in self.learning_rates
            for method in self.methods
            for beta in self.betas
        ]


def check_grid(settings: Any, methods: Sequence[str], *, names: Sequence[str] = ("seeds", "betas")) -> None:
    """Refuse settings that no comparison can be made of."""
    for name in settings.methods:
        if name not in methods:
            raise not_one_of("methods", name, methods)
    if BASELINE not in settings.methods or len(settings.methods) < 2:
        raise InputError(
            f"methods: got {', '.join(settings.methods) or 'none'}; every method is compared with {BASELINE}, so give "
            f"{BASELINE} and at least one other"
        )
    if len(set(settings.methods)) != len(settings.methods):
        raise InputError(f"methods: got {', '.join(settings.methods)}, expected none twice")
    for name in names:
        values = getattr(settings, name)
        if not values or len(set(values)) != len(values):
            raise InputError(f"{name}: got {values}, expected at least one value and none twice")
        if name != "seeds" and not all(0 < value < float("inf") for value in values):
            raise InputError(f"{name}: got {values}, expected finite numbers > 0")


def select_runs(runs: Sequence[Run], **wanted: object) -> list[Run]:
    """The runs whose fields have these values, in their order."""
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def value_at(run: Run, place: Place) -> float:
    """A quantity of a run."""
    name, at = place
    return float(run[name] if at is None else run[name][at])


def frontiers(
    grid: Grid, runs: Sequence[Run], method: str, place: Place, *, rates: Sequence[float] = (), chosen_by: str
) -> list[list[SeedFrontier]]:
    """A method's lines of a quantity against KL: for each seed one line per learning rate."""
    per_seed = []
    for seed in grid.seeds:
        lines = []
        for rate in rates or grid.learning_rates:
            here = select_runs(runs, seed=seed, method=method, learning_rate=rate)
            lines.append(
                SeedFrontier(
                    kl_b=[run["kl"] for run in here],
                    agreement_b=[run[chosen_by] for run in here],
                    value_b=[value_at(run, place) for run in here],
                )
            )
        per_seed.append(lines)
    return per_seed


def compare_at_equal_kl(
    grid: Grid, runs: Sequence[Run], quantities: Mapping[str, tuple[Place, str]], *, chosen_by: str
) -> list[dict[str, Any]]:
    """Each method against the baseline at equal KL: at the better learning rate, and at each learning rate alone."""
    scopes: list[tuple[float | None, tuple[float, ...]]] = [(None, grid.learning_rates)]
    if len(grid.learning_rates) > 1:
        scopes += [(rate, (rate,)) for rate in grid.learning_rates]
    rows = []
    for scope, rates in scopes:
        for method in grid.methods:
            if method == BASELINE:
                continue
            for quantity, (place, more_is) in quantities.items():
                mine, base = (
                    frontiers(grid, runs, name, place, rates=rates, chosen_by=chosen_by) for name in (method, BASELINE)
                )
                found = equal_kl_differences(mine, base)
                difference = mean_interval(found.difference_s)
                rows.append(
                    {
                        "method": method,
                        "baseline": BASELINE,
                        "learning_rate": scope,
                        "quantity": quantity,
                        "difference": asdict(difference),
                        "per_seed": found.difference_s,
                        "kl_low": mean_of_known(found.low_s),
                        "kl_high": mean_of_known(found.high_s),
                        "verdict": verdict(difference, more_is=more_is),
                    }
                )
    return rows


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the progress bars and notices of training inside the block: the study shows one bar."""
    import logging as python_logging

    import datasets
    from transformers.utils import logging

    datasets_bars, bars = datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    ours = python_logging.getLogger("mallowspo")
    level = ours.level
    ours.setLevel(python_logging.ERROR)  # what a run tells its user, a study that trains hundreds has settled
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # The libraries warn of each other's names that are to change; nobody who runs the study can mend that.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        ours.setLevel(level)
        if bars:
            logging.enable_progress_bar()
        if not datasets_bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch at one thread: a tiny model gains nothing from two, and sums come out the same on every machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_QUIET: dict[str, Any] = {
    # The reference is frozen: scoring it once gives the same loss as scoring it at every step, for every method.
    "precompute_ref_log_probs": True,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "displacement_alarm": float("inf"),  # every policy is measured; a warning a run would drown the progress bar
    "report_to": "none",
    "disable_tqdm": True,
}


def train_policy(
    reference: Any, rows: Any, tokenizer: Any, job: Job, folder: str, *, fresh: bool = False, **options: Any
) -> Any:
    """Train one policy from the reference, without a line of logs."""
    from transformers import PrinterCallback

    from mallowspo.training import MallowsPOConfig, MallowsPOTrainer

    args = MallowsPOConfig(
        output_dir=folder,
        beta=job.beta,
        learning_rate=job.learning_rate,
        seed=job.seed,
        **METHODS[job.method].options,
        **{**_QUIET, **options},
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
    return np.quantile(trainer.calibration.scale * raw_n, [0.05, 0.5, 0.95])
