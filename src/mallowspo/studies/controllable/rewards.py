"""Rewards of the controllable-generation study: VADER's lexicon, or a classifier that the user names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.local_model import context_length, inference_device, load_classifier, load_tokenizer
from mallowspo.studies.controllable.design import VADER, ControllableDesign

__all__ = ["Reward", "load_reward", "vader_reward"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reward:
    """A scorer of texts that the policy never sees.

    Attributes:
        name: What a reader calls it.
        score: Texts -> one number each, shape (N,).
    """

    name: str
    score: Callable[[Sequence[str]], Floats]


def load_reward(design: ControllableDesign) -> Reward:
    """Load the reward that a design names.

    Args:
        design: Names it.

    Returns:
        The reward.

    Raises:
        InputError: A package is missing, or the classifier cannot be used.
    """
    return vader_reward() if design.reward_model == VADER else _classifier_reward(design)


def vader_reward() -> Reward:
    """VADER's compound score in [−1, 1]: valences of a text's words, with rules for negation and emphasis.

    The lexicon and the rules come with the package; nothing is fetched.

    Returns:
        The reward.

    Raises:
        InputError: The package is not installed.

    Source: Hutto & Gilbert, "VADER", ICWSM 2014.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise InputError(
            "reward_model: 'vader' needs the package vaderSentiment, which is not installed; run "
            "`pip install 'mallowspo[experiments]'` or `pip install vaderSentiment`, or name a classifier"
        ) from error
    analyzer = SentimentIntensityAnalyzer()

    def score(texts: Sequence[str]) -> Floats:
        return np.asarray([analyzer.polarity_scores(text)["compound"] for text in texts], dtype=np.float64)

    return Reward("VADER's compound score", score)


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
