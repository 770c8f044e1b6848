"""What the runs of the controllable-generation study depend on: models, data and sizes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mallowspo.errors import InputError, not_one_of

__all__ = ["CONTROLLABLE_METHODS", "PREFERENCES", "VADER", "ControllableDesign"]

CONTROLLABLE_METHODS = ("dpo", "ipo", "mallows_theta", "mallows_phi")
VADER = "vader"
PREFERENCES = ("sign", "bradley_terry")
DTYPES = ("float32", "bfloat16", "auto")


@dataclass(frozen=True, kw_only=True)
class ControllableDesign:
    """Everything but seeds, β and learning rates that determines the numbers of the study."""

    model_name_or_path: str  # the policy's start and its reference, a causal language model: a folder or a hub name
    # Where the prompts come from: a text file (`.txt`: one text a line), or whatever
    # `mallowspo.data.load_preferences` reads
    dataset_name: str
    dataset_split: str = "train"  # the split of a data set
    text_column: str = "text"  # the column that holds the texts
    opening: str = ""  # a regular expression; only texts that begin with it are used. Empty for all
    reward_model: str = VADER  # `vader`, or a sequence classifier: a folder or a hub name
    # The classifier's label whose probability is the reward; None finds the one called positive
    reward_label: str | None = None
    min_prompt_tokens: int = 4
    prompt_tokens: int = 16  # longest prompt: the first whole words of a text that fit
    response_tokens: int = 32  # tokens after which a response is cut
    train_prompts: int | None = None  # prompts that pairs are made for; None for all that are left by `eval_prompts`
    eval_prompts: int = 64
    samples_per_prompt: int = 3  # responses drawn per training prompt; all of their pairs are compared
    eval_samples: int = 4  # responses drawn per held-out prompt
    # `sign`: the higher reward is chosen; `bradley_terry`: with probability σ(scale × difference)
    preferences: str = "sign"
    preference_scale: float = 4.0  # that scale; what a difference of 1 in reward is worth in logits
    epochs: int = 1  # passes over the pairs
    batch_size: int = 8  # pairs in a step
    generation_batch_size: int = 256  # responses drawn or scored at a time; changes no result but by rounding
    # Responses of the reference per held-out prompt, from which the best possible is estimated
    optimum_samples: int = 128
    prompt_seed: int = 0  # which texts are held out, and their order
    dtype: str = "float32"  # of the weights
    bf16: bool = False  # train under bfloat16 autocast, as transformers' option of that name
    use_cpu: bool = False  # leave an accelerator alone
    trust_remote_code: bool = False  # run code that comes with a model

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
