"""What the dialogue study runs: its settings, its methods and its list of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError, not_one_of

__all__ = ["HELDOUT_JUDGE", "METHODS", "DialogueConfig", "DialogueJob", "DialogueSetup", "fast_config"]

METHODS: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"objective": "dpo"},
    "mallows_theta": {"objective": "mallows_theta", "dispersion": "entropy"},
    "mallows_phi": {"objective": "mallows_phi", "dispersion": "entropy"},
}
"""What each method sets in `MallowsPOConfig`; everything else is the same for all. DPO is the baseline."""

HELDOUT_JUDGE = "heldout"
"""The judge that needs nothing from outside: a reward model trained on the part of the data that no policy saw."""

_SHARED = "../shared"


@dataclass(frozen=True, kw_only=True)
class DialogueSetup:
    """What every job depends on; a change of it runs every job anew.

    Attributes:
        output_dir: Folder for everything that is written.
        model_name_or_path: The base model, which the SFT step starts from.
        train_data: Dialogues with a preference: `prompt`, `chosen`, `rejected` as raw text, or HH's two whole texts.
        train_split: Its split.
        test_data: In distribution.
        test_split: Its split.
        ood_data: Out of distribution: the same form, other people's wishes.
        ood_split: Its split.
        votes_data: Out of distribution: several people's votes on two answers to an instruction; empty for none.
        single_turn: Keep only dialogues with one human turn.
        max_length: Tokens of prompt and response; only rows that fit whole are used, in training and in tests.
        data_seed: Of the split into parts, of SFT and judge, and of what is sampled for evaluation.
        test_pairs: Rows of each test set at most.
        sft_steps: Optimiser steps of the SFT of the base model on chosen responses; 0 takes the base model as it is.
        sft_learning_rate: Of these.
        train_pairs: Pairs that each seed draws from the policies' part.
        epochs: Passes over them.
        batch_size: Pairs in a step.
        learning_rate: Peak learning rate of the preference training.
        kl_prompts: Prompts for the KL by sampling, one response each.
        max_new_tokens: Tokens after which a sampled answer is cut.
        sampled_at_a_time: Answers in a batch of sampling; it changes no answer but for rounding.
        use_cpu: Leave an accelerator alone.
        trust_remote_code: Run code that comes with a model.
    """

    output_dir: str = "output/dialogue"
    model_name_or_path: str = f"{_SHARED}/models/stories-260k"
    train_data: str = f"{_SHARED}/data/hh/helpful_train.jsonl.gz"
    train_split: str = "train"
    test_data: str = f"{_SHARED}/data/hh/helpful_test.jsonl.gz"
    test_split: str = "train"
    ood_data: str = f"{_SHARED}/data/hh/harmless_train.jsonl.gz"
    ood_split: str = "train"
    votes_data: str = f"{_SHARED}/data/votes/pandalm.json"
    single_turn: bool = False
    max_length: int = 256
    data_seed: int = 0
    test_pairs: int = 160
    sft_steps: int = 50
    sft_learning_rate: float = 1e-3
    train_pairs: int = 160
    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 1e-4
    kl_prompts: int = 48
    max_new_tokens: int = 64
    sampled_at_a_time: int = 48
    use_cpu: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in (
            "test_pairs",
            "train_pairs",
            "epochs",
            "batch_size",
            "kl_prompts",
            "max_new_tokens",
            "sampled_at_a_time",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 1")
        for name in ("sft_learning_rate", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name}: got {getattr(self, name)}, expected a finite number > 0")
        if self.sft_steps < 0:
            raise InputError(f"sft_steps: got {self.sft_steps}, expected 0 for none, or a number of steps")
        if self.max_length < 3:
            raise InputError(f"max_length: got {self.max_length}, expected room for a prompt, a response and its end")

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.output_dir)

    @property
    def reference_dir(self) -> Path:
        """Where the reference is saved, as a Hugging Face checkpoint."""
        return self.folder / "reference"

    @property
    def judge_dir(self) -> Path:
        """Where the held-out judge is saved, as a Hugging Face checkpoint."""
        return self.folder / "judge"


@dataclass(frozen=True, kw_only=True)
class DialogueJob:
    """One training run; `reference` trains nothing and scores the reference itself, with seed −1 and β 0."""

    seed: int
    method: str
    beta: float

    @property
    def name(self) -> str:
        """Its folder among the policies."""
        return f"{self.method}-beta{self.beta:g}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class DialogueConfig:
    """The study's settings.

    Attributes:
        setup: What every job depends on.
        methods: Of `METHODS`; DPO among them.
        betas: Values of β. With two or more, methods are also compared at equal KL.
        seeds: Each draws its own pairs from the policies' part, and its own order; the same for all methods.
        judge: `heldout`, an address `http://host:port/v1#model`, `reward:MODEL`, or `module:function`.
        judge_base: Model that the held-out judge starts from; empty for the base model.
        judge_steps: Optimiser steps of the held-out judge.
        judge_learning_rate: Of these.
        judge_api_key_env: Environment variable with the key for a judge behind an address.
        judged_prompts: Prompts of the in-distribution test set whose answers are judged.
        judged_beta: The β whose policies are judged, one of `betas`; None for the first.
        temperatures: Of the answers.
        workers: Processes that train side by side; 0 trains in the calling process. It changes no result.
    """

    setup: DialogueSetup = field(default_factory=DialogueSetup)
    methods: tuple[str, ...] = tuple(METHODS)
    betas: tuple[float, ...] = (0.1, 0.5)
    seeds: tuple[int, ...] = (0, 1, 2)
    judge: str = HELDOUT_JUDGE
    judge_base: str = ""
    judge_steps: int = 40
    judge_learning_rate: float = 1e-3
    judge_api_key_env: str | None = None
    judged_prompts: int = 48
    judged_beta: float | None = None
    temperatures: tuple[float, ...] = (0.25, 0.7, 1.0)
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("methods", "betas", "seeds", "temperatures"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name}: got {values}, expected at least one value and none twice")
        for method in self.methods:
            if method not in METHODS:
                raise not_one_of("methods", method, METHODS)
        if "dpo" not in self.methods:
            raise InputError(f"methods: got {self.methods}; 'dpo' must be among them, as all are compared with it")
        if not all(0 < beta < float("inf") for beta in self.betas):
            raise InputError(f"betas: got {self.betas}, expected finite numbers > 0")
        if not all(0 <= value < float("inf") for value in self.temperatures):
            raise InputError(f"temperatures: got {self.temperatures}, expected numbers of 0 or above")
        if self.judged_beta is not None and self.judged_beta not in self.betas:
            raise InputError(f"judged_beta: got {self.judged_beta:g}, expected one of the betas {self.betas}")
        self._check_judge()

    def _check_judge(self) -> None:
        """An option of the held-out judge says nothing to another one, and the other way round."""
        for name in ("judged_prompts", "judge_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not 0 < self.judge_learning_rate < float("inf"):
            raise InputError(f"judge_learning_rate: got {self.judge_learning_rate}, expected a finite number > 0")
        if self.workers < 0:
            raise InputError(f"workers: got {self.workers}, expected 0 or more")
        defaults = {item.name: item.default for item in fields(self)}
        for name in ("judge_base", "judge_steps", "judge_learning_rate"):
            if self.judge != HELDOUT_JUDGE and getattr(self, name) != defaults[name]:
                raise InputError(f"{name}: it is for the judge 'heldout', got the judge {self.judge!r}")
        if self.judge_api_key_env is not None and not self.judge.startswith(("http://", "https://")):
            raise InputError(f"judge_api_key_env: it is for a judge behind an address, got the judge {self.judge!r}")

    @property
    def shown_beta(self) -> float:
        """The β whose policies are judged."""
        return self.betas[0] if self.judged_beta is None else self.judged_beta

    @property
    def jobs(self) -> list[DialogueJob]:
        """The reference first, then every training run."""
        return [
            DialogueJob(seed=-1, method="reference", beta=0.0),
            *(
                DialogueJob(seed=seed, method=method, beta=beta)
                for beta in self.betas
                for seed in self.seeds
                for method in self.methods
            ),
        ]


def fast_config(config: DialogueConfig) -> DialogueConfig:
    """The same study with sizes that run every part within seconds, for a first look or a test; it resolves nothing.

    Args:
        config: Whose data, model, judge and folder to keep.

    Returns:
        The settings: one seed, two values of β, 16 pairs, a few steps.

    Example:
        >>> len(fast_config(DialogueConfig()).jobs)
        7
    """
    setup = replace(
        config.setup, max_length=min(config.setup.max_length, 192), test_pairs=24, sft_steps=4, train_pairs=16,
        batch_size=8, kl_prompts=4, max_new_tokens=8,
    )  # fmt: skip
    judge_steps = 4 if config.judge == HELDOUT_JUDGE else config.judge_steps
    return replace(
        config, setup=setup, seeds=(config.seeds[0],), betas=(0.1, 0.5), judged_beta=None, judged_prompts=6,
        temperatures=(0.7, 1.0), judge_steps=judge_steps,
    )  # fmt: skip
