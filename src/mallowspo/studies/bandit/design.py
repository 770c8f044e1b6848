"""What determines the numbers of the bandit study: its design, its methods and its jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from mallowspo.errors import InputError
from mallowspo.studies import policies
from mallowspo.studies.policies import Method

__all__ = ["ESTIMATES", "METHODS", "TRAINED", "BanditDesign", "ExactJob", "TrainingJob"]


ESTIMATES = ("pairs", "votes")
"""How φ is estimated: from the training pairs themselves, or from votes on one more pair of each state."""

STUDIED = (
    "dpo", "ipo", "mallows_theta_true", "mallows_theta_pairs", "mallows_theta_votes", "mallows_phi_true",
    "mallows_phi_pairs", "mallows_phi_votes",
)  # fmt: skip
METHODS: Mapping[str, Method] = MappingProxyType({name: policies.METHODS[name] for name in STUDIED})

# What is trained step by step: votes cost as much as the others and tell the same story at the exact minimiser.
TRAINED = tuple(name for name, method in METHODS.items() if method.index != "votes")


@dataclass(frozen=True, kw_only=True)
class BanditDesign:
    """Everything that determines the numbers of the study."""

    # Learning rates, batch size and steps were fixed on plain DPO with many states alone: at the lower rate its KL
    # still rises at the last step, at the higher one it has nearly settled by then.
    arms: int = 5  # of every state, 3 to 6
    single_phis: tuple[float, ...] = (0.3, 0.5, 0.8)  # dispersions of the studies with one state, each its own study
    # Dispersions of the states of the study with many states
    many_phis: tuple[float, ...] = (0.1, 0.2, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9)
    seeds: int = 200  # data sets at the exact minimiser
    training_seeds: int = 120  # data sets that are trained on step by step
    first_seed: int = 0  # the first seed; the others follow it
    pairs: tuple[int, ...] = (16, 64, 256, 1024)  # pairs of each state, at the exact minimiser
    training_pairs: tuple[int, ...] = (16, 1024)  # pairs of each state in the training runs
    votes: int = 10  # voters on the one additional pair of each state from which `votes` estimates φ
    betas: tuple[float, ...] = (0.5, 1.0, 2.0)  # values of β that are reported at the exact minimiser
    # Matched scales: the KL (nats, mean over states) of a method's own optimum on infinitely many pairs, for which
    # its β is set
    strengths: tuple[float, ...] = (0.1, 0.3, 0.8)
    learning_rates: tuple[float, ...] = (0.02, 0.2)  # Adam's learning rates, for single logits in nats
    training_single_phis: tuple[float, ...] = (0.3, 0.8)  # which of `single_phis` are trained on step by step
    batch_size: int = 16  # pairs in a step
    # Steps at which a run is measured; the last is its end
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

    def __post_init__(self) -> None:
        if not 3 <= self.arms <= 6:
            raise InputError(f"arms: got {self.arms}, expected 3 to 6; φ is estimated over all rankings of the arms")
        for name in ("single_phis", "many_phis", "training_single_phis"):
            _check_each(name, getattr(self, name), 0.0, 1.0, "numbers in (0, 1)")
        if len(self.many_phis) < 3:
            raise InputError(f"many_phis: got {self.many_phis}, expected at least 3, which are reported by thirds")
        for name in ("betas", "learning_rates"):
            _check_each(name, getattr(self, name), 0.0, math.inf, "finite numbers > 0")
        most = math.log(self.arms)
        _check_each("strengths", self.strengths, 0.0, most, f"nats in (0, log arms) = (0, {most:.3f})")
        for name in ("pairs", "training_pairs", "steps"):
            _check_each(name, getattr(self, name), 0, math.inf, "whole numbers >= 1, in rising order")
            if list(getattr(self, name)) != sorted(getattr(self, name)):
                raise InputError(f"{name}: got {getattr(self, name)}, expected them in rising order")
        for name, least in (("seeds", 2), ("training_seeds", 2), ("votes", 1), ("batch_size", 1), ("first_seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least {least}")
        if set(self.training_single_phis) - set(self.single_phis):
            raise InputError(
                f"training_single_phis: got {self.training_single_phis}, expected some of single_phis, "
                f"{self.single_phis}"
            )

    def only(self, *names: str) -> BanditDesign:
        """A design with these fields as they are here and all others at their defaults."""
        return replace(BanditDesign(), **{name: getattr(self, name) for name in names})

    @property
    def studies(self) -> tuple[tuple[float, ...], ...]:
        """The populations: one state each, then the many."""
        return (*((phi,) for phi in self.single_phis), self.many_phis)

    @property
    def exact_jobs(self) -> list[ExactJob]:
        """One job for each population and number of pairs."""
        return [ExactJob(phis=phis, pairs=pairs) for phis in self.studies for pairs in self.pairs]

    @property
    def training_jobs(self) -> list[TrainingJob]:
        """One job for each population, number of pairs, learning rate and choice of coordinates."""
        kinds: list[tuple[tuple[float, ...], bool]] = [((phi,), False) for phi in self.training_single_phis]
        kinds += [(self.many_phis, True), (self.many_phis, False)]
        return [
            TrainingJob(phis=phis, pairs=pairs, learning_rate=rate, shared=shared)
            for phis, shared in kinds
            for rate in self.learning_rates
            for pairs in self.training_pairs
        ]

    @property
    def shown_strength(self) -> float:
        """The matched scale of the figures and sentences: the middle one."""
        return sorted(self.strengths)[(len(self.strengths) - 1) // 2]

    @property
    def shown_steps(self) -> tuple[int, int]:
        """The steps of the tables: an early one, and the end."""
        early = [step for step in self.steps if step**2 <= 2 * self.steps[-1]]
        return (early or self.steps)[-1], self.steps[-1]


@dataclass(frozen=True, kw_only=True)
class ExactJob:
    """All methods at the exact minimiser, on all seeds of one population and number of pairs."""

    phis: tuple[float, ...]
    pairs: int


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All methods after so many steps, on all seeds; `shared` mixes all states into every parameter."""

    phis: tuple[float, ...]
    pairs: int
    learning_rate: float
    shared: bool


def _check_each(name: str, values: tuple[float, ...], low: float, high: float, expected: str) -> None:
    """Refuse an empty tuple, a repeated value, or one outside the open interval."""
    if not values or len(set(values)) != len(values) or not all(low < value < high for value in values):
        raise InputError(f"{name}: got {values}, expected {expected}, at least one and none twice")
