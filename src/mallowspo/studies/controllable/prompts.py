"""The prompts of the controllable-generation study: the first words of texts, some of them held out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.errors import InputError, told_as
from mallowspo.studies.controllable.design import ControllableDesign

__all__ = ["StudyPrompts", "first_words", "read_prompts", "read_texts"]


@dataclass(frozen=True)
class StudyPrompts:
    """Token ids of the prompts, all of them different.

    Attributes:
        train: Prompts that pairs are made for.
        heldout: Prompts that policies are measured on.
        available: How many the texts gave in all.
    """

    train: tuple[tuple[int, ...], ...]
    heldout: tuple[tuple[int, ...], ...]
    available: int


def read_texts(design: ControllableDesign) -> list[str]:
    """Read the texts whose first words become prompts.

    Args:
        design: Names the data, its split and its column, and what a text must begin with.

    Returns:
        The texts that begin as asked, in the order of the data.

    Raises:
        InputError: The data cannot be read, lacks the column, or has no such text.
    """
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
    """Cut a text after the last whole word that fits.

    Args:
        text: The text; words are what blanks separate.
        tokenizer: Of the policy.
        longest: Tokens at most.

    Returns:
        Token ids as the tokenizer gives them for the cut text; empty where not even one word fits, or where nothing
        of the text would be left to continue.
    """
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
    """Make the prompts of a study.

    Args:
        design: The data and the numbers of prompts.
        tokenizer: Of the policy.

    Returns:
        The prompts. Their order, and with it which are held out, depends on `prompt_seed` alone.

    Raises:
        InputError: The texts give fewer prompts than asked for.
    """
    texts = read_texts(design)
    order = np.random.default_rng(design.prompt_seed).permutation(len(texts))
    wanted = None if design.train_prompts is None else design.eval_prompts + design.train_prompts
    found: list[tuple[int, ...]] = []
    for ids in _prompts((texts[i] for i in order), tokenizer, design):
        found.append(ids)
        if len(found) == wanted:
            break
    if len(found) < (wanted or design.eval_prompts + 2):
        raise InputError(
            f"dataset_name: the {len(texts):,} texts of {design.dataset_name} give {len(found):,} different prompts "
            f"of {design.min_prompt_tokens} to {design.prompt_tokens} tokens, and the study needs "
            f"{wanted or design.eval_prompts + 2:,}; lower eval_prompts or train_prompts, or give more texts"
        )
    return StudyPrompts(
        train=tuple(found[design.eval_prompts :]), heldout=tuple(found[: design.eval_prompts]), available=len(found)
    )
