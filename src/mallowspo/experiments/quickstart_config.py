"""What the quick start runs: its settings, its methods and its list of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError
from mallowspo.world.reference import ReferenceTraining

__all__ = ["METHODS", "METHOD_OPTIONS", "Job", "QuickstartConfig", "fast_config"]

METHOD_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"objective": "dpo"},
    "ipo": {"objective": "ipo"},
    "mallows_theta": {"objective": "mallows_theta", "dispersion": "entropy"},
    "mallows_phi": {"objective": "mallows_phi", "dispersion": "entropy"},
    "mallows_theta_true": {"objective": "mallows_theta", "dispersion": "column"},
    "mallows_phi_true": {"objective": "mallows_phi", "dispersion": "column"},
}
"""What each method sets in `MallowsPOConfig`; everything else is the same for all."""

METHODS = ("dpo", "mallows_theta", "mallows_phi", "mallows_theta_true")
"""The methods of the quick start; the study `world` runs them all."""


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """The quick start's settings.

    Learning rates, epochs and the range of β were fixed on plain DPO alone: the lower rate keeps DPO on the
    rising part of its frontier, the higher one takes it to its peak and past it. Nothing was chosen by how MallowsPO
    did.

    Attributes:
        output_dir: Folder for everything that is written.
        world_seed: Seed of the world, of its corpus and of the reference.
        train_prompts: Training prompts.
        heldout_prompts: Held-out prompts, a multiple of 6.
        answers_per_prompt: People who answer each training prompt in the corpus.
        pairs_per_prompt: Preference pairs of each training prompt, each judged by one person.
        reference: Size and schedule of the reference.
        seeds: One set of pairs and one order of training each, the same for all methods.
        betas: Values of β.
        learning_rates: Peak learning rates of the preference training.
        epochs: Passes over the pairs.
        batch_size: Pairs in a step.
        workers: Processes that train side by side; 0 trains in the calling process. It changes no result.
    """

    output_dir: str = "quickstart"
    world_seed: int = 0
    train_prompts: int = 456
    heldout_prompts: int = 120
    answers_per_prompt: int = 200
    pairs_per_prompt: int = 2
    reference: ReferenceTraining = field(default_factory=ReferenceTraining)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    betas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    learning_rates: tuple[float, ...] = (2e-4, 4e-4)
    epochs: int = 2
    batch_size: int = 32
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("seeds", "betas", "learning_rates"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name}: got {values}, expected at least one value and none twice")
        for name in ("betas", "learning_rates"):
            if not all(0 < value < float("inf") for value in getattr(self, name)):
                raise InputError(f"{name}: got {getattr(self, name)}, expected finite numbers > 0")
        for name in ("epochs", "batch_size", "pairs_per_prompt", "answers_per_prompt"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.workers < 0:
            raise InputError(f"workers: got {self.workers}, expected 0 or more")

    @property
    def reference_dir(self) -> Path:
        """Where the reference model is saved, as a Hugging Face checkpoint."""
        return Path(self.output_dir) / "reference"

    @property
    def jobs(self) -> list[Job]:
        """Every training run of the study."""
        return [
            Job(seed=seed, method=method, beta=beta, learning_rate=rate)
            for seed in self.seeds
            for rate in self.learning_rates
            for method in METHODS
            for beta in self.betas
        ]

    @property
    def shown_beta(self) -> float:
        """The β of the examples: the middle one."""
        return sorted(self.betas)[(len(self.betas) - 1) // 2]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run: which method, how strong, on which pairs."""

    seed: int
    method: str
    beta: float
    learning_rate: float


def fast_config(output_dir: str) -> QuickstartConfig:
    """Settings that run every part of the study within seconds, for a first look or a test; they resolve nothing.

    Args:
        output_dir: Folder for everything that is written.

    Returns:
        The settings: one seed, two values of β, a quarter of the prompts, a briefly trained reference.

    Example:
        >>> len(fast_config("out").jobs)
        8
    """
    return QuickstartConfig(
        output_dir=output_dir,
        train_prompts=120,
        heldout_prompts=30,
        reference=ReferenceTraining(steps=60),
        seeds=(0,),
        betas=(0.5, 2.0),
        learning_rates=(4e-4,),
        epochs=1,
        workers=0,
    )
