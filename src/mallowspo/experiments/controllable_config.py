"""What the controllable-generation study runs: its design, its methods and its list of jobs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mallowspo.errors import InputError, not_one_of

__all__ = [
    "BASELINE",
    "METHODS",
    "PREFERENCES",
    "VADER",
    "ControllableConfig",
    "ControllableDesign",
    "Job",
    "fast_config",
]

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "dpo": {"objective": "dpo"},
        "ipo": {"objective": "ipo"},
        "mallows_theta": {"objective": "mallows_theta", "dispersion": "entropy"},
        "mallows_phi": {"objective": "mallows_phi", "dispersion": "entropy"},
    }
)
"""What each method of the study sets in `MallowsPOConfig`; everything else but β is the same for all."""

BASELINE = "dpo"
VADER = "vader"
PREFERENCES = ("sign", "bradley_terry")
DTYPES = ("float32", "bfloat16", "auto")


@dataclass(frozen=True, kw_only=True)
class ControllableDesign:
    """Everything but seeds, β and learning rates that determines the numbers of the study.

    Attributes:
        model_name_or_path: The policy's start and its reference, a causal language model: a folder or a hub name.
        dataset_name: Where the prompts come from: a text file (`.txt`: one text a line), or whatever
            `mallowspo.data.load_preferences` reads.
        dataset_split: The split of a data set.
        text_column: The column that holds the texts.
        opening: A regular expression; only texts that begin with it are used. Empty for all.
        reward_model: `vader`, or a sequence classifier: a folder or a hub name.
        reward_label: The classifier's label whose probability is the reward; None finds the one called positive.
        min_prompt_tokens: Shortest prompt.
        prompt_tokens: Longest prompt: the first whole words of a text that fit.
        response_tokens: Tokens after which a response is cut.
        train_prompts: Prompts that pairs are made for; None for all that are left by `eval_prompts`.
        eval_prompts: Held-out prompts.
        samples_per_prompt: Responses drawn per training prompt; all of their pairs are compared.
        eval_samples: Responses drawn per held-out prompt.
        preferences: `sign`: the higher reward is chosen; `bradley_terry`: with probability σ(scale × difference).
        preference_scale: That scale; what a difference of 1 in reward is worth in logits.
        epochs: Passes over the pairs.
        batch_size: Pairs in a step.
        generation_batch_size: Responses drawn or scored at a time; changes no result but by rounding.
        optimum_samples: Responses of the reference per held-out prompt, from which the best possible is estimated.
        prompt_seed: Which texts are held out, and their order.
        dtype: Of the weights.
        bf16: Train under bfloat16 autocast, as transformers' option of that name.
        use_cpu: Leave an accelerator alone.
        trust_remote_code: Run code that comes with a model.
    """

    model_name_or_path: str
    dataset_name: str
    dataset_split: str = "train"
    text_column: str = "text"
    opening: str = ""
    reward_model: str = VADER
    reward_label: str | None = None
    min_prompt_tokens: int = 4
    prompt_tokens: int = 16
    response_tokens: int = 32
    train_prompts: int | None = None
    eval_prompts: int = 64
    samples_per_prompt: int = 3
    eval_samples: int = 4
    preferences: str = "sign"
    preference_scale: float = 4.0
    epochs: int = 1
    batch_size: int = 8
    generation_batch_size: int = 256
    optimum_samples: int = 128
    prompt_seed: int = 0
    dtype: str = "float32"
    bf16: bool = False
    use_cpu: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: got {value}, expected at least {least}")
        if self.min_prompt_tokens > self.prompt_tokens:
            raise InputError(
                f"min_prompt_tokens: got {self.min_prompt_tokens}, expected at most prompt_tokens, "
                f"{self.prompt_tokens}"
            )
        for name, allowed in (("preferences", PREFERENCES), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise not_one_of(name, getattr(self, name), allowed)
        if not 0 < self.preference_scale < math.inf:
            raise InputError(f"preference_scale: got {self.preference_scale}, expected a finite number > 0")
        if self.reward_model == VADER and self.reward_label is not None:
            raise InputError(
                f"reward_label: got {self.reward_label!r}, but VADER's reward is its compound score; leave it out, or "
                "name a classifier as reward_model"
            )
        try:
            re.compile(self.opening)
        except re.error as error:
            raise InputError(f"opening: {self.opening!r} is not a regular expression ({error})") from error


_AT_LEAST = {
    "min_prompt_tokens": 1,
    "response_tokens": 1,
    "train_prompts": 2,
    "eval_prompts": 2,
    "samples_per_prompt": 2,
    "eval_samples": 1,
    "epochs": 1,
    "batch_size": 1,
    "generation_batch_size": 1,
    "optimum_samples": 2,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run: which method, how strong, on which pairs."""

    seed: int
    method: str
    beta: float
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class ControllableConfig:
    """The study's settings.

    Attributes:
        design: Models, data and sizes.
        output_dir: Folder for everything that is written.
        seeds: One set of pairs, one order of training and one set of evaluation draws each, shared by all methods.
        betas: Values of β of DPO, MallowsPO-θ and MallowsPO-φ.
        ipo_betas: Those of IPO, whose β is another quantity (τ of its paper, per token).
        learning_rates: Peak learning rates. Where there are several, one is chosen on DPO alone, with pairs and draws
            of `pilot_seed`, which no comparison uses.
        pilot_seed: See there.
        workers: Processes that train side by side; 0 trains in the calling process. It changes no result.
    """

    design: ControllableDesign
    output_dir: str = "output/controllable"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    betas: tuple[float, ...] = (0.02, 0.07, 0.2, 0.6, 2.0, 8.0)
    ipo_betas: tuple[float, ...] = (0.1, 0.5, 1.5, 4.0, 10.0, 30.0)
    learning_rates: tuple[float, ...] = (1e-4,)
    pilot_seed: int = 1000
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("seeds", "betas", "ipo_betas", "learning_rates"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name}: got {values}, expected at least one value and none twice")
        for name in ("betas", "ipo_betas", "learning_rates"):
            if not all(0 < value < math.inf for value in getattr(self, name)):
                raise InputError(f"{name}: got {getattr(self, name)}, expected finite numbers > 0")
        for name in ("betas", "ipo_betas"):
            if len(getattr(self, name)) < 2:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least two: a frontier is a line")
        if any(seed < 0 for seed in (*self.seeds, self.pilot_seed)):
            raise InputError(f"seeds: got {self.seeds} and pilot_seed {self.pilot_seed}, expected numbers >= 0")
        if self.pilot_seed in self.seeds:
            raise InputError(f"pilot_seed: got {self.pilot_seed}, which is one of the seeds; choose another")
        if self.workers < 0:
            raise InputError(f"workers: got {self.workers}, expected 0 or more")

    def betas_of(self, method: str) -> tuple[float, ...]:
        """The values of β of a method."""
        return self.ipo_betas if method == "ipo" else self.betas

    @property
    def pilot_jobs(self) -> list[Job]:
        """The runs that choose the learning rate; none where there is nothing to choose."""
        if len(self.learning_rates) == 1:
            return []
        return [
            Job(seed=self.pilot_seed, method=BASELINE, beta=beta, learning_rate=rate)
            for rate in self.learning_rates
            for beta in self.betas
        ]

    def jobs(self, learning_rate: float) -> list[Job]:
        """Every run of the comparison; those of one seed stand together, since they share its pairs."""
        return [
            Job(seed=seed, method=method, beta=beta, learning_rate=learning_rate)
            for seed in self.seeds
            for method in METHODS
            for beta in self.betas_of(method)
        ]


def fast_config(config: ControllableConfig, *, betas: Sequence[float] = (0.1, 1.0)) -> ControllableConfig:
    """Cut a study down to a run of seconds that shows every part and resolves nothing.

    Args:
        config: The study.
        betas: The values of β that are left.

    Returns:
        One seed, two values of β, two learning rates for the pilot, a few prompts, brief responses.

    Example:
        >>> config = ControllableConfig(design=ControllableDesign(model_name_or_path="m", dataset_name="texts.txt"))
        >>> len(fast_config(config).jobs(1e-4)), len(fast_config(config).pilot_jobs)
        (8, 4)
    """
    design = replace(
        config.design,
        response_tokens=min(12, config.design.response_tokens),
        train_prompts=12,
        eval_prompts=8,
        samples_per_prompt=2,
        eval_samples=2,
        optimum_samples=8,
        epochs=1,
        batch_size=4,
    )
    rate = config.learning_rates[0]
    return replace(
        config,
        design=design,
        seeds=config.seeds[:1],
        betas=tuple(betas),
        ipo_betas=tuple(betas),
        learning_rates=(rate, 3 * rate),
    )
