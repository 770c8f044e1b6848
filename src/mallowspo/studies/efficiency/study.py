"""The study `efficiency`: how many of DPO's pairs is a weighted pair worth, where prompts share their parameters?

A pair is the difference of two responses' features; all prompts share the direction that is their centre, and differ
in how much people agree. DPO and MallowsPO-θ learn that direction from the same judged pairs; what separates their
curves of error against pairs, read sideways, is held against G (`mallowspo.dispersion.effective_pairs`).

Suffixes: n pairs, f features, r repetitions, z numbers of pairs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import gamma, norm

from mallowspo.dispersion import effective_pairs, fit_shrink
from mallowspo.dispersion.calibration import calibrate, raw_from_phi
from mallowspo.errors import InputError
from mallowspo.stats.bootstrap import bootstrap
from mallowspo.studies.bandit.minimiser import gap_derivatives
from mallowspo.studies.efficiency.page import figures, page
from mallowspo.studies.policies import BASELINE, check_at_least, check_positive, grouped, mean_of
from mallowspo.studies.study import Done, Results, Stage, Study

__all__ = ["EFFICIENCY", "INDEXES", "EfficiencyJob", "EfficiencySettings", "EfficiencySetup", "fit", "worth_of"]

Floats = NDArray[np.float64]


INDEXES: Mapping[str, str] = MappingProxyType(
    {"true": "neg_log_phi_n", "estimated": "estimate_n", "shrunken": "estimate_n", "noise": "noise_n"}
)
"""The indices of MallowsPO-θ: name → what of `_People` it reads.

Each has the spread of the true λ; `shrunken` is then drawn together by the factor that votes on some prompts support.
"""


@dataclass(frozen=True, kw_only=True)
class EfficiencySetup:
    """What all repetitions share."""

    features: int = 20
    pairs: tuple[int, ...] = (250, 500, 1000, 2000, 4000, 8000, 16000)  # the fewer are the first of the more
    correlation: float = 0.6  # of the estimated index with the true λ, between normal scores
    voted_prompts: int = 300  # further prompts with votes, from which the shrink factor is fitted
    votes: int = 5  # on one pair of each
    first_seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, features=2, voted_prompts=20, votes=2, first_seed=0)
        if len(self.pairs) < 2 or list(self.pairs) != sorted(set(self.pairs)) or self.pairs[0] < 5 * self.features:
            raise InputError(
                f"pairs: got {self.pairs}, expected two or more in rising order, the least at least 5 times the "
                f"features, {5 * self.features}"
            )
        check_positive(self, "correlation", below=1.0)


@dataclass(frozen=True, kw_only=True)
class EfficiencySettings:
    """The settings of the study."""

    output_dir: str = "output/efficiency"  # folder for everything that is written
    workers: int = 0  # processes side by side; 0 works in the calling one. It changes no result
    setup: EfficiencySetup = field(default_factory=EfficiencySetup)
    variations: tuple[float, ...] = (0.5, 1.0)  # c of the true λ: standard deviation over mean
    logits: tuple[float, ...] = (0.5, 1.5, 3.0)  # standard deviation of 2λ × gap at the mean λ: small to large gaps
    repetitions: int = 40  # data sets of each combination

    def __post_init__(self) -> None:
        check_positive(self, "variations", "logits")
        check_at_least(self, repetitions=3)

    @property
    def jobs(self) -> list[EfficiencyJob]:
        """Some repetitions of one combination each."""
        return [
            EfficiencyJob(
                variation=variation, logit=logit, first=first, repetitions=min(_AT_ONCE, self.repetitions - first)
            )
            for first in range(0, self.repetitions, _AT_ONCE)
            for variation, logit in itertools.product(self.variations, self.logits)
        ]


_AT_ONCE = 20


@dataclass(frozen=True, kw_only=True)
class EfficiencyJob:
    """Some repetitions of one combination."""

    variation: float
    logit: float
    first: int
    repetitions: int


@dataclass(frozen=True, eq=False)
class _People:
    """Pairs of prompts that share the direction of the first feature."""

    feature_nf: Floats  # difference of the two responses' features
    neg_log_phi_n: Floats  # the prompt's true λ, mean 1 over prompts
    estimate_n: Floats  # the estimated index
    noise_n: Floats  # an index that knows nothing
    probability_n: Floats  # that a person prefers the first response

    @classmethod
    def draw(cls, setup: EfficiencySetup, job: EfficiencyJob, count: int, rng: np.random.Generator) -> _People:
        feature = rng.normal(size=(count, setup.features))
        truth, other, noise = rng.normal(size=(3, count))
        estimate = setup.correlation * truth + math.sqrt(1 - setup.correlation**2) * other
        shape = 1 / job.variation**2
        true, estimated, nothing = (
            gamma.ppf(norm.cdf(score), shape, scale=1 / shape) for score in (truth, estimate, noise)
        )
        return cls(feature, true, estimated, nothing, expit(job.logit * true * feature[:, 0]))


def fit(objective: str, difference_nf: Floats, weight_n: Floats, start_f: Floats | None = None) -> Floats:
    """The parameters at the minimum of the library's mean loss; `difference` is chosen minus rejected."""
    parameters = np.zeros(difference_nf.shape[1]) if start_f is None else start_f
    value, slope, bend = gap_derivatives(objective, difference_nf @ parameters, weight_n)
    for _ in range(100):
        gradient = slope @ difference_nf / len(slope)
        if np.abs(gradient).max() < 1e-8:
            return parameters
        hessian = difference_nf.T @ (bend[:, None] * difference_nf) / len(slope)
        step = np.linalg.solve(hessian, gradient)
        # Far from the minimum a whole step may lead further away; a loss of the same size is one up to rounding.
        before = value.mean() + 1e-14
        while True:
            trial = parameters - step
            value, slope, bend = gap_derivatives(objective, difference_nf @ trial, weight_n)
            if value.mean() <= before:
                break
            step = step / 2
        parameters = trial
    raise RuntimeError(f"{objective}: no minimum in 100 steps of Newton's method, slope {np.abs(gradient).max():.1e}")


def _wrong(parameters: Floats) -> float:
    """Share of new pairs that the parameters put in the wrong order: the angle to the truth over π."""
    return float(np.arccos(np.clip(parameters[0] / np.linalg.norm(parameters), -1, 1)) / np.pi)


def run_job(setup: EfficiencySetup, job: EfficiencyJob) -> Results:
    """Errors of every method at every number of pairs, and what G says of its weights."""
    started = time.process_time()
    found: dict[str, list[Any]] = {BASELINE: [], **{name: [] for name in INDEXES}}
    facts: dict[str, list[float]] = {"shrink": [], "right_shrink": [], **{f"g_{name}": [] for name in INDEXES}}
    for repetition in range(job.first, job.first + job.repetitions):
        rng = np.random.default_rng([setup.first_seed + repetition, 11])
        people = _People.draw(setup, job, setup.pairs[-1], rng)
        sign_n = np.where(rng.random(setup.pairs[-1]) < people.probability_n, 1.0, -1.0)
        difference_nf = sign_n[:, None] * people.feature_nf
        voted = _People.draw(setup, job, setup.voted_prompts, rng)
        first_votes = rng.binomial(setup.votes, voted.probability_n)
        fitted = fit_shrink(
            raw_from_phi(np.exp(-voted.estimate_n)), first_votes, setup.votes - first_votes,
            mean=2 * float(people.estimate_n.mean()),
        )  # fmt: skip
        facts["shrink"].append(fitted.shrink.mean)
        # The slope of the true λ on the estimate, both of mean 1.
        slope = np.cov(people.estimate_n, people.neg_log_phi_n)[0, 1] / people.estimate_n.var()
        facts["right_shrink"].append(float(slope))
        found[BASELINE].append(_errors(setup, "dpo", difference_nf, None, None))
        for name, read in INDEXES.items():
            raw = raw_from_phi(np.exp(-getattr(people, read)))
            shrink = fitted.shrink.mean if name == "shrunken" else None
            found[name].append(_errors(setup, "mallows_theta", difference_nf, raw, shrink))
            weight = calibrate(raw, source="column", shrink=shrink).weight(raw)
            facts[f"g_{name}"].append(effective_pairs(weight, people.neg_log_phi_n))
    return {
        "errors": {name: [[float(f"{value:.6g}") for value in row] for row in rows] for name, rows in found.items()},
        "facts": {name: [float(f"{value:.6g}") for value in values] for name, values in facts.items()},
        "processor_seconds": time.process_time() - started,
    }


def _errors(
    setup: EfficiencySetup, objective: str, difference_nf: Floats, raw_n: Floats | None, shrink: float | None
) -> list[float]:
    """The error after each number of pairs; weights are calibrated on the pairs that are there."""
    errors, found = [], None
    for count in setup.pairs:
        weight = np.ones(count)
        if raw_n is not None:
            weight = calibrate(raw_n[:count], source="column", shrink=shrink).weight(raw_n[:count])
        found = fit(objective, difference_nf[:count], weight, found)
        errors.append(_wrong(found))
    return errors


def worth_of(pairs: tuple[int, ...], mine_z: Floats, base_z: Floats) -> Floats:
    """How many pairs the baseline needs for the same error, over those that were used; NaN beyond its curve."""
    # Straight lines in log error over log pairs; a curve of means falls everywhere.
    log_pairs, log_base = np.log(pairs), np.log(base_z)
    needed = np.interp(np.log(mine_z), log_base[::-1], log_pairs[::-1], left=np.nan, right=np.nan)
    return np.asarray(np.exp(needed - log_pairs))


def _summarise(settings: EfficiencySettings, done: Done) -> Results:
    """Curves, and the horizontal distance of each from DPO's, with intervals over repetitions."""
    fits = grouped(zip(settings.jobs, done["fits"], strict=True), lambda fit: (fit[0].variation, fit[0].logit))
    rows = [
        _combination(settings.setup, variation, logit, [found for _, found in here])
        for (variation, logit), here in fits.items()
    ]
    return {"combinations": rows, "cpu_seconds": sum(found["processor_seconds"] for found in done["fits"])}


def _combination(setup: EfficiencySetup, variation: float, logit: float, blocks: list[Results]) -> Results:
    error_rz = {name: np.concatenate([block["errors"][name] for block in blocks]) for name in (BASELINE, *INDEXES)}
    facts = {name: np.concatenate([block["facts"][name] for block in blocks]) for name in blocks[0]["facts"]}
    methods: dict[str, Any] = {}
    for name, mine_rz in error_rz.items():
        methods[name] = {"error": [mean_of(column) for column in mine_rz.T]}
        if name != BASELINE:
            methods[name] |= _distance(setup.pairs, mine_rz, error_rz[BASELINE])
            methods[name]["predicted"] = mean_of(facts[f"g_{name}"])
    found = {name: mean_of(facts[name]) for name in ("shrink", "right_shrink")}
    return {"variation": variation, "logit": logit, "methods": methods, **found}


def _distance(pairs: tuple[int, ...], mine_rz: Floats, base_rz: Floats) -> Results:
    """The horizontal distance at each number of pairs, and over all at which the curves can be compared."""

    def worth(rows: NDArray[np.intp]) -> Floats:
        return worth_of(pairs, mine_rz[rows].mean(axis=0), base_rz[rows].mean(axis=0))

    within = np.isfinite(worth(np.arange(len(mine_rz))))

    def overall(rows: NDArray[np.intp]) -> float:
        log_worth = np.log(worth(rows)[within])  # the same numbers of pairs in every resample
        return float(np.exp(np.nanmean(log_worth))) if np.isfinite(log_worth).any() else float("nan")

    def interval(statistic: Callable[[NDArray[np.intp]], float]) -> Results:
        return asdict(bootstrap(statistic, range(len(mine_rz)), rng=np.random.default_rng(1)))

    at = [interval(lambda rows, place=place: float(worth(rows)[place])) for place in range(len(pairs))]  # type: ignore[misc]
    return {"worth": at, "overall": interval(overall)}


EFFICIENCY: Study[EfficiencySettings] = Study(
    name="efficiency",
    version=1,
    stages=(
        Stage(
            "fits",
            "Fitting",
            jobs=lambda settings, done: settings.jobs,
            setup=lambda settings, done: settings.setup,
            work=run_job,
        ),
    ),
    summarise=_summarise,
    figures=figures,
    page=page,
    presets={
        "default": lambda folder: EfficiencySettings(output_dir=folder),
        # Every part within seconds; it resolves nothing.
        "fast": lambda folder: EfficiencySettings(
            output_dir=folder,
            setup=EfficiencySetup(features=5, pairs=(100, 400, 1600), voted_prompts=100),
            variations=(1.0,),
            repetitions=6,
        ),
    },
    imports=("mallowspo.objectives",),
)
"""The declaration; `mallowspo experiment efficiency` runs it."""
