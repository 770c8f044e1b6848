"""The figures of the bandit study, drawn from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mallowspo.evaluation.exact import optimal_frontier
from mallowspo.experiments.bandit_config import METHODS, TRAINED
from mallowspo.experiments.bandit_population import Population
from mallowspo.experiments.bandit_verdicts import design_of
from mallowspo.reports.curves import Curve, FrontierCurve, LineCurve
from mallowspo.reports.figures import (
    METHOD_STYLES,
    FigurePaths,
    MethodStyle,
    frontier_figure,
    line_figure,
    save_figure,
)
from mallowspo.stats.intervals import Interval

__all__ = [
    "STYLES",
    "draw_figures",
    "frontier_jobs",
    "kind_name",
    "population_name",
    "trajectory_jobs",
]

Job = dict[str, Any]

STYLES: Mapping[str, MethodStyle] = MappingProxyType(
    {
        "mallows_theta_true": replace(METHOD_STYLES["mallows_theta_true"], label="MallowsPO-θ, true φ"),
        "mallows_theta_pairs": replace(METHOD_STYLES["mallows_theta"], label="MallowsPO-θ, φ from pairs"),
        "mallows_theta_votes": replace(METHOD_STYLES["mallows_theta"], label="MallowsPO-θ, φ from votes"),
        "mallows_phi_true": replace(METHOD_STYLES["mallows_phi_true"], label="MallowsPO-φ, true φ"),
        "mallows_phi_pairs": replace(METHOD_STYLES["mallows_phi"], label="MallowsPO-φ, φ from pairs"),
        "mallows_phi_votes": replace(METHOD_STYLES["mallows_phi"], label="MallowsPO-φ, φ from votes"),
    }
)


def population_name(phis: Sequence[float]) -> str:
    """How a reader calls a population.

    Example:
        >>> population_name([0.3]), population_name([0.1, 0.5, 0.9])
        ('One state, φ = 0.3', '3 states, φ from 0.1 to 0.9')
    """
    if len(phis) == 1:
        return f"One state, φ = {phis[0]:g}"
    return f"{len(phis)} states, φ from {min(phis):g} to {max(phis):g}"


def frontier_jobs(results: dict[str, Any]) -> list[Job]:
    """The jobs whose frontiers are drawn: many states, with the fewest and the most pairs."""
    return [job for job in results["exact"] if "line" in job["methods"]["dpo"]]


def trajectory_jobs(results: dict[str, Any]) -> list[Job]:
    """The jobs whose steps are drawn: many states, fewest pairs; every learning rate and choice of coordinates."""
    return [job for job in results["training"] if "entropy_by_step" in job["methods"]["dpo"]]


def draw_figures(folder: Path, results: dict[str, Any]) -> dict[str, FigurePaths]:
    """Draw and save every figure.

    Args:
        folder: Where to save.
        results: The findings, as read from `results.json`.

    Returns:
        Name -> paths: `collapse_<population>` and `frontier_<pairs>` at the exact minimiser, `steps_<i>` in training
        on many states.
    """
    figures = {}
    populations = list(dict.fromkeys(tuple(job["phis"]) for job in results["exact"]))
    for phis in populations:
        name = f"collapse_{phis[0]:g}" if len(phis) == 1 else "collapse_many"
        figures[name] = _collapse(results, phis)
    for job in frontier_jobs(results):
        figures[f"frontier_{job['pairs']}"] = _frontier(results, job)
    for number, job in enumerate(trajectory_jobs(results)):
        figures[f"steps_{number}"] = _trajectory(results, job)
    return {name: save_figure(figure, folder, name.replace(".", "")) for name, figure in figures.items()}


def kind_name(rate: float, shared: bool) -> str:
    """How a reader calls a way of training."""
    return f"{'shared' if shared else 'separate'} parameters, learning rate {rate:g}"


def _drawn(names: Sequence[str]) -> list[str]:
    """Without φ from votes, whose lines lie near the others'."""
    return [name for name in names if METHODS[name].index != "votes"]


def _log_steps(figure: Any, ticks: Sequence[float]) -> Any:
    axes = figure.axes[0]
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    return figure


def _collapse(results: dict[str, Any], phis: tuple[float, ...]) -> Any:
    jobs = [job for job in results["exact"] if tuple(job["phis"]) == phis]
    pairs = [job["pairs"] for job in jobs]
    curves = {
        name: LineCurve(pairs, Interval.stack([job["methods"][name]["matched"]["entropy_lost"] for job in jobs]))
        for name in _drawn(list(METHODS))
    }
    figure = line_figure(
        curves,
        x_label="Pairs of each state",
        y_label="Entropy below own optimum (nats)",
        title=f"{population_name(phis)}: exact minimiser",
        zero_line=True,
        styles=STYLES,
    )
    return _log_steps(figure, pairs)


def _frontier(results: dict[str, Any], job: Job) -> Any:
    curves = {}
    for name in _drawn(list(METHODS)):
        line = job["methods"][name]["line"]
        curves[name] = FrontierCurve(x=Interval.stack(line["kl"]), y=Interval.stack(line["agreement"]))
    population = Population(np.asarray(job["phis"]), results["config"]["design"]["arms"])
    uniform = np.full(population.value_pk.shape, -np.log(population.arms))
    best = optimal_frontier(uniform, population.preference_pkk, np.geomspace(1e-3, 1e2, 200))
    return frontier_figure(
        curves,
        optimum=Curve(best.kl, best.agreement),
        title=f"{population_name(job['phis'])}: exact minimiser, {job['pairs']:,} pairs of each",
        x_label="KL from the uniform reference (nats, mean over states)",
        styles=STYLES,
    )


def _trajectory(results: dict[str, Any], job: Job) -> Any:
    steps = design_of(results).steps
    curves = {name: LineCurve(steps, Interval.stack(job["methods"][name]["entropy_by_step"])) for name in TRAINED}
    figure = line_figure(
        curves,
        x_label="Optimiser steps",
        y_label="Entropy of the policy (nats)",
        title=f"{job['pairs']:,} pairs of each state, {kind_name(job['learning_rate'], job['shared'])}",
        styles=STYLES,
    )
    return _log_steps(figure, [step for step in steps if step.bit_count() == 1])
