"""What the dialogue study runs: its settings and its methods."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from mallowspo.errors import InputError, not_one_of
from mallowspo.studies.policies import Grid, Job, check_at_least, check_distinct, check_grid, check_positive

__all__ = ["HELDOUT_JUDGE", "METHODS", "REFERENCE", "DialogueSettings", "DialogueSetup", "fast"]

METHODS = ("dpo", "mallows_theta", "mallows_phi")
FURTHER_METHODS = ("mallows_theta_50",)
"""Those that are trained where they are asked for."""

PROMPT_FORMATS = ("text", "chat")

HELDOUT_JUDGE = "heldout"
"""The judge that needs nothing from outside: a reward model trained on the part of the data that no policy saw."""

REFERENCE = Job(seed=-1, method="reference", beta=0.0, learning_rate=0.0)
"""The job that trains nothing and measures the reference itself."""

_SHARED = "../shared"


@dataclass(frozen=True, kw_only=True)
class DialogueSetup:
    """What every policy depends on; a change of it runs every one anew."""

    model_name_or_path: str = f"{_SHARED}/models/stories-260k"  # the base model, which the SFT step starts from
    train_data: str = f"{_SHARED}/data/hh/helpful_train.jsonl.gz"  # `prompt`, `chosen`, `rejected`, or HH's two texts
    train_split: str = "train"
    test_data: str = f"{_SHARED}/data/hh/helpful_test.jsonl.gz"  # in distribution
    test_split: str = "train"
    ood_data: str = f"{_SHARED}/data/hh/harmless_train.jsonl.gz"  # the same form, other people's wishes
    ood_split: str = "train"
    votes_data: str = f"{_SHARED}/data/votes/pandalm.json"  # votes on two answers to an instruction; empty for none
    single_turn: bool = False  # keep only dialogues with one human turn
    prompt_format: str = "text"  # as HH writes it; `chat`: its turns as the model's chat template renders them
    max_length: int = 256  # tokens of prompt and response; only rows that fit whole are used, in training and in tests
    data_seed: int = 0  # of the split into parts, of SFT and judge, and of what is sampled for evaluation
    test_pairs: int = 160  # rows of each test set at most
    sft_steps: int = 50  # of the SFT on chosen responses; 0 takes the base model as it is
    sft_learning_rate: float = 1e-3
    train_pairs: int = 160  # pairs that each seed draws from the policies' part
    epochs: int = 1  # passes over them
    batch_size: int = 16  # pairs in a step
    learning_rate: float = 1e-4  # peak learning rate of the preference training
    kl_prompts: int = 48  # prompts for the KL by sampling, one response each
    max_new_tokens: int = 64  # tokens after which a sampled answer is cut
    sampled_at_a_time: int = 48  # answers in a batch of sampling; it changes no answer but for rounding
    use_cpu: bool = False  # leave an accelerator alone
    trust_remote_code: bool = False  # run code that comes with a model

    def __post_init__(self) -> None:
        check_at_least(self, test_pairs=1, train_pairs=1, epochs=1, batch_size=1, kl_prompts=1, max_new_tokens=1)
        check_at_least(self, sampled_at_a_time=1)
        check_positive(self, "sft_learning_rate", "learning_rate")
        if self.sft_steps < 0:
            raise InputError(f"sft_steps: got {self.sft_steps}, expected 0 for none, or a number of steps")
        if self.prompt_format not in PROMPT_FORMATS:
            raise not_one_of("prompt_format", self.prompt_format, PROMPT_FORMATS)
        if self.max_length < 3:
            raise InputError(f"max_length: got {self.max_length}, expected room for a prompt, a response and its end")


@dataclass(frozen=True, kw_only=True)
class DialogueSettings:
    """The study's settings."""

    output_dir: str = "output/dialogue"  # reference, judge and policies lie in it
    setup: DialogueSetup = field(default_factory=DialogueSetup)  # what every policy depends on
    methods: tuple[str, ...] = METHODS  # of these and `FURTHER_METHODS`; DPO among them
    betas: tuple[float, ...] = (0.1, 0.5)  # values of β. With two or more, methods are also compared at equal KL
    seeds: tuple[int, ...] = (0, 1, 2)  # each draws its own pairs and order, the same for all methods
    judge: str = HELDOUT_JUDGE  # or `http://host:port/v1#model`, `reward:MODEL`, `module:function`
    judge_base: str = ""  # model that the held-out judge starts from; empty for the base model
    judge_steps: int = 40  # optimiser steps of the held-out judge
    judge_learning_rate: float = 1e-3
    judge_api_key_env: str | None = None  # environment variable with the key for a judge behind an address
    judged_prompts: int = 48  # prompts of the in-distribution test set whose answers are judged
    judged_beta: float | None = None  # the β whose policies are judged, one of `betas`; None for the first
    temperatures: tuple[float, ...] = (0.25, 0.7, 1.0)  # of the answers
    workers: int = 0  # processes that train side by side; 0 trains in the calling process. It changes no result

    def __post_init__(self) -> None:
        check_grid(self, (*METHODS, *FURTHER_METHODS))
        check_distinct(self, "temperatures")
        if not all(0 <= value < float("inf") for value in self.temperatures):
            raise InputError(f"temperatures: got {self.temperatures}, expected numbers of 0 or above")
        if self.judged_beta is not None and self.judged_beta not in self.betas:
            raise InputError(f"judged_beta: got {self.judged_beta:g}, expected one of the betas {self.betas}")
        self._check_judge()

    def _check_judge(self) -> None:
        """An option of the held-out judge says nothing to another one, and the other way round."""
        check_at_least(self, judged_prompts=1, judge_steps=1)
        check_positive(self, "judge_learning_rate")
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
    def grid(self) -> Grid:
        """Every setting that a method is trained at."""
        rate = self.setup.learning_rate
        return Grid(seeds=self.seeds, methods=self.methods, betas=self.betas, learning_rate=rate)

    @property
    def jobs(self) -> list[Job]:
        """The reference first, then every training run."""
        return [REFERENCE, *self.grid.jobs]


def fast(settings: DialogueSettings) -> DialogueSettings:
    """The same data, model and judge in sizes that run every part within seconds; it resolves nothing."""
    setup = replace(
        settings.setup, max_length=min(settings.setup.max_length, 192), test_pairs=24, sft_steps=4, train_pairs=16,
        batch_size=8, kl_prompts=4, max_new_tokens=8,
    )  # fmt: skip
    judge_steps = 4 if settings.judge == HELDOUT_JUDGE else settings.judge_steps
    return replace(
        settings, setup=setup, seeds=(settings.seeds[0],), betas=(0.1, 0.5), judged_beta=None, judged_prompts=6,
        temperatures=(0.7, 1.0), judge_steps=judge_steps,
    )  # fmt: skip
