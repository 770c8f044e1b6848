"""What the controllable-generation study is given: its design, the prompts and the reward."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError, told_as
from mallowspo.evaluation.local_model import context_length, inference_device, load_classifier, load_tokenizer
from mallowspo.studies.policies import check_at_least, check_known, check_positive

__all__ = [
    "CONTROLLABLE_METHODS", "FURTHER_METHODS", "LEXICONS", "PREFERENCES", "ControllableDesign", "Reward",
    "StudyPrompts", "first_words", "load_reward", "read_prompts", "read_texts",
]  # fmt: skip

CONTROLLABLE_METHODS = ("dpo", "ipo", "mallows_theta", "mallows_phi")
FURTHER_METHODS = ("mallows_theta_50", "mallows_norm")
"""Those that are trained where they are asked for."""
PREFERENCES = ("sign", "bradley_terry")
DTYPES = ("float32", "bfloat16", "auto")


@dataclass(frozen=True, kw_only=True)
class ControllableDesign:
    """Everything but seeds, β and learning rates that determines the numbers of the study."""

    model_name_or_path: str  # the policy's start and its reference, a causal language model: a folder or a hub name
    dataset_name: str  # a text file (`.txt`: one text a line), or what `mallowspo.data.load_preferences` reads
    dataset_split: str = "train"  # the split of a data set
    text_column: str = "text"  # the column that holds the texts
    opening: str = ""  # a regular expression; only texts that begin with it are used. Empty for all
    reward_model: str = "vader"  # of `LEXICONS`, or a sequence classifier: a folder or a hub name
    reward_label: str | None = None  # whose probability is the reward; None finds the one called positive
    min_prompt_tokens: int = 4
    prompt_tokens: int = 16  # longest prompt: the first whole words of a text that fit
    response_tokens: int = 32  # tokens after which a response is cut
    train_prompts: int | None = None  # prompts that pairs are made for; None for all that are left by `eval_prompts`
    eval_prompts: int = 64
    samples_per_prompt: int = 3  # responses drawn per training prompt; all of their pairs are compared
    eval_samples: int = 4  # responses drawn per held-out prompt
    preferences: str = "sign"  # the higher reward is chosen; `bradley_terry`: with probability σ(scale × difference)
    preference_scale: float = 4.0  # that scale; what a difference of 1 in reward is worth in logits
    epochs: int = 1  # passes over the pairs
    batch_size: int = 8  # pairs in a step
    generation_batch_size: int = 256  # responses drawn or scored at a time; changes no result but by rounding
    optimum_samples: int = 128  # responses per held-out prompt, from which the best possible is estimated
    prompt_seed: int = 0  # which texts are held out, and their order
    dtype: str = "float32"  # of the weights
    bf16: bool = False  # train under bfloat16 autocast, as transformers' option of that name
    use_cpu: bool = False  # leave an accelerator alone
    trust_remote_code: bool = False  # run code that comes with a model

    def __post_init__(self) -> None:
        check_at_least(self, min_prompt_tokens=1, response_tokens=1, train_prompts=2, eval_prompts=2)
        check_at_least(self, samples_per_prompt=2, eval_samples=1, epochs=1, batch_size=1)
        check_at_least(self, generation_batch_size=1, optimum_samples=2)
        if self.min_prompt_tokens > self.prompt_tokens:
            raise InputError(
                f"min_prompt_tokens: got {self.min_prompt_tokens}, expected at most prompt_tokens, "
                f"{self.prompt_tokens}"
            )
        check_known(self, "preferences", PREFERENCES)
        check_known(self, "dtype", DTYPES)
        check_positive(self, "preference_scale")
        if self.reward_model in LEXICONS and self.reward_label is not None:
            raise InputError(
                f"reward_label: got {self.reward_label!r}, but {self.reward_model} is a lexicon without labels; leave "
                "it out, or name a classifier as reward_model"
            )
        try:
            re.compile(self.opening)
        except re.error as error:
            raise InputError(f"opening: {self.opening!r} is not a regular expression ({error})") from error


@dataclass(frozen=True)
class StudyPrompts:
    """Token ids of the prompts, all of them different."""

    train: tuple[tuple[int, ...], ...]  # prompts that pairs are made for
    heldout: tuple[tuple[int, ...], ...]  # prompts that policies are measured on


def read_texts(design: ControllableDesign) -> list[str]:
    """Read the texts whose first words become prompts."""
    source = design.dataset_name
    texts = _lines(Path(source)) if source.endswith(".txt") else _column(design)
    kept = [text for text in (str(text).strip() for text in texts) if text and re.match(design.opening, text)]
    if not kept:
        said = f" that begins with {design.opening!r}; check --opening" if design.opening else ""
        raise InputError(f"dataset_name: {source} has no text{said}")
    return kept


def _lines(path: Path) -> list[str]:
    try:
        return path.expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"dataset_name: {path} cannot be read ({error.strerror}); name a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"dataset_name: {path} is not text in UTF-8 ({error.reason})") from error


def _column(design: ControllableDesign) -> Iterable[str]:
    from mallowspo.data.sources import load_preferences

    with told_as({"dataset": "dataset_name", "split": "dataset_split"}):
        rows = load_preferences(design.dataset_name, split=design.dataset_split).dataset
    if design.text_column not in rows.column_names:
        raise InputError(
            f"text_column: {design.dataset_name} has no column {design.text_column!r}; it has "
            f"{', '.join(rows.column_names)}"
        )
    texts: Iterable[str] = rows[design.text_column]
    return texts


def first_words(text: str, tokenizer: Any, longest: int) -> list[int]:
    """Cut a text after the last whole word that fits."""
    words = text.split(" ", longest + 1)
    cuts = [" ".join(words[:count]) for count in range(1, min(len(words), longest + 1))]
    if not cuts:
        return []
    fitting = [ids for ids in tokenizer(cuts)["input_ids"] if len(ids) <= longest]
    return list(fitting[-1]) if fitting else []


def _prompts(texts: Iterable[str], tokenizer: Any, design: ControllableDesign) -> Iterator[tuple[int, ...]]:
    seen: set[tuple[int, ...]] = set()
    for text in texts:
        ids = tuple(first_words(text, tokenizer, design.prompt_tokens))
        if len(ids) >= design.min_prompt_tokens and ids not in seen:
            seen.add(ids)
            yield ids


def read_prompts(design: ControllableDesign, tokenizer: Any) -> StudyPrompts:
    """Make the prompts of a study."""
    texts = read_texts(design)
    order = np.random.default_rng(design.prompt_seed).permutation(len(texts))
    wanted = None if design.train_prompts is None else design.eval_prompts + design.train_prompts
    found = list(itertools.islice(_prompts((texts[i] for i in order), tokenizer, design), wanted))
    if len(found) < (wanted or design.eval_prompts + 2):
        raise InputError(
            f"dataset_name: the {len(texts):,} texts of {design.dataset_name} give {len(found):,} different prompts "
            f"of {design.min_prompt_tokens} to {design.prompt_tokens} tokens, and the study needs "
            f"{wanted or design.eval_prompts + 2:,}; lower eval_prompts or train_prompts, or give more texts"
        )
    return StudyPrompts(train=tuple(found[design.eval_prompts :]), heldout=tuple(found[: design.eval_prompts]))


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reward:
    """A scorer of texts that the policy never sees."""

    name: str  # what a reader calls it
    score: Callable[[Sequence[str]], Floats]  # texts -> one number each, shape (N,)


def load_reward(design: ControllableDesign) -> Reward:
    """Load the reward that a design names."""
    if design.reward_model not in LEXICONS:
        return _classifier_reward(design)
    name, package, scorer = LEXICONS[design.reward_model]
    try:
        score_one = scorer()
    except ImportError as error:
        raise InputError(
            f"reward_model: {design.reward_model!r} needs the package {package}, which is not installed; run "
            f"`pip install 'mallowspo[experiments]'` or `pip install {package}`, or name a classifier"
        ) from error
    return Reward(name, lambda texts: np.asarray([score_one(text) for text in texts], dtype=np.float64))


def _vader() -> Callable[[str], float]:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])


def _afinn() -> Callable[[str], float]:
    from afinn import Afinn

    lexicon = Afinn()
    return lambda text: float(lexicon.score(text)) / max(1, len(text.split()))


LEXICONS: Mapping[str, tuple[str, str, Callable[[], Callable[[str], float]]]] = {
    # In [−1, 1]: valences of a text's words, with rules for negation and emphasis.
    "vader": ("VADER's compound score", "vaderSentiment", _vader),
    # Nielsen, ESWC 2011 workshops: integer valences from −5 to 5, without rules; a sum would grow with the length.
    "afinn": ("AFINN's valence a word", "afinn", _afinn),
}
"""Lexicons of sentiment: what a reader calls the reward, the package, and its scorer of one text."""


def _classifier_reward(design: ControllableDesign) -> Reward:
    """Probability of one label of a sequence classifier; a model with one output gives that output itself."""
    import torch

    name = design.reward_model
    tokenizer = load_tokenizer(name, option="reward_model", trust_remote_code=design.trust_remote_code)
    model = load_classifier(name, option="reward_model", trust_remote_code=design.trust_remote_code)
    model = model.to(inference_device(design.use_cpu)).eval()
    label = _label_index(model.config, design)
    # RoBERTa counts two positions that it cannot use, and a tokenizer without a limit says 1e30.
    limits = [value for value in (context_length(model.config), tokenizer.model_max_length) if value and value < 1e9]
    room = min(limits, default=None)

    def score(texts: Sequence[str]) -> Floats:
        rows = tokenizer(list(texts), truncation=room is not None, max_length=room)["input_ids"]
        values = np.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        # Equal lengths together and no padding: some classifiers look for the last token by the padding token's value.
        for _, group in itertools.groupby(order, key=lambda index: len(rows[index])):
            members = list(group)
            for start in range(0, len(members), design.generation_batch_size):
                some = members[start : start + design.generation_batch_size]
                ids = torch.tensor([rows[index] for index in some], device=model.device)
                with torch.no_grad():
                    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
                chosen = logits[:, 0] if label is None else logits.softmax(-1)[:, label]
                values[some] = chosen.cpu().numpy()
        return values

    said = "score" if label is None else f"probability of {model.config.id2label[label]!r}"
    return Reward(f"{said} by {name}", score)


def _label_index(config: Any, design: ControllableDesign) -> int | None:
    """The output that is the reward; None for a model with a single one."""
    labels = {int(index): str(text) for index, text in config.id2label.items()}
    if config.num_labels == 1:
        if design.reward_label is not None:
            raise InputError(
                f"reward_label: got {design.reward_label!r}, but {design.reward_model} has a single output; leave it "
                "out"
            )
        return None
    wanted = (design.reward_label or "positive").lower()
    for index, text in labels.items():
        if text.lower() == wanted:
            return index
    given = f"got {design.reward_label!r}" if design.reward_label else "none was given"
    raise InputError(
        f"reward_label: {given}, and {design.reward_model} has the labels {', '.join(map(repr, labels.values()))}; "
        "name one of them"
    )
