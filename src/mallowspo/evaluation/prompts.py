"""The prompts of an evaluation, and what belongs to each: its dispersion, its difficulty, an answer in the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError, told_as

__all__ = ["EvaluationPrompt", "PromptSet", "answer_text", "as_text", "load_prompts", "read_dispersion", "texts_of"]


@dataclass(frozen=True)
class EvaluationPrompt:
    """One prompt."""

    index: int  # its place in the set, from 0
    text: str  # as a judge sees it
    messages: tuple[dict[str, str], ...] | None = None  # the conversation, where the data holds one
    repeat: int = 0  # how many equal prompts stand before it

    def conversation(self) -> list[dict[str, str]]:
        """The prompt as messages; a plain one is the user's turn."""
        return list(self.messages) if self.messages is not None else [{"role": "user", "content": self.text}]


@dataclass(frozen=True)
class PromptSet:
    """The prompts, and the rows of the data that they came from."""

    prompts: tuple[EvaluationPrompt, ...]  # in order
    rows: Any  # the rows, as `datasets` holds them; a column of it may hold answers, difficulties or dispersions
    source: str  # where they came from
    prompt_column: str = "prompt"  # the column of the rows that holds the prompt

    def column(self, name: str, option: str) -> list[Any]:
        """One value per prompt."""
        if name not in self.rows.column_names:
            raise InputError(f"{option}: {self.source} has no column {name!r}; it has {_columns(self.rows)}")
        return list(self.rows[name])

    def numbers(self, name: str, option: str) -> NDArray[np.float64]:
        """One finite number per prompt, shape (N,); otherwise as `column`."""
        what = f"{option}: the column {name!r} of {self.source}"
        return _finite(_numbers(self.column(name, option), what), what)


@contextmanager
def _read_as(option: str, source: object) -> Iterator[None]:
    """Let what is wrong with a file carry the name of the option that gave it."""
    try:
        with told_as({"dataset": option}):
            yield
    except InputError as error:
        if not str(error.args[0]).startswith(str(source)):
            raise
        raise InputError(f"{option}: {error.args[0]}") from error


def _columns(rows: Any) -> str:
    """The columns of the user's own: `row_index` is what reading adds."""
    return ", ".join(name for name in rows.column_names if name != "row_index")


def as_text(value: Any) -> str:
    """Show a text or a conversation as one text; of several turns with the roles before them."""
    if isinstance(value, str):
        return value
    if not _is_conversation(value):
        raise InputError(f"got {str(value)[:60]!r}, expected a text or a list of messages with role and content")
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in value)


def answer_text(value: Any, prompt: EvaluationPrompt) -> str:
    """Show an answer as one text: what the data repeats of the prompt is no part of it."""
    if isinstance(value, str) or not _is_conversation(value):
        return as_text(value)
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in value]
    asked = prompt.conversation()
    if turns[: len(asked)] == asked and len(turns) > len(asked):
        turns = turns[len(asked) :]
    if any(turn["role"] in ("user", "human", "system") for turn in turns):
        raise InputError(
            f"got a conversation with a turn of the {turns[0]['role']} that is not the prompt's, expected the answer"
        )
    return as_text(turns)


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, dict)
            and isinstance(turn.get("content"), str)
            and isinstance(turn.get("role"), str)
            and turn["role"]
            for turn in value
        )
    )


def load_prompts(source: str, *, column: str = "prompt", split: str = "train", limit: int | None = None) -> PromptSet:
    """Read the prompts of an evaluation."""
    from mallowspo.data.blank import is_blank
    from mallowspo.data.sources import load_preferences

    if limit is not None and limit < 1:
        raise InputError(f"max_prompts: got {limit}, expected at least 1")
    with _read_as("prompts", source):
        rows = load_preferences(source, split=split).dataset
    if column not in rows.column_names:
        other = next((name for name in ("prompt", "instruction", "question") if name in rows.column_names), None)
        advice = f"; give --prompt_column {other}" if other else ""
        raise InputError(f"prompt_column: {source} has no column {column!r}; it has {_columns(rows)}{advice}")
    rows = rows.select(range(min(limit, len(rows)))) if limit is not None else rows
    seen: dict[str, int] = {}
    prompts = []
    for index, value in enumerate(rows[column]):
        conversation = _is_conversation(value)
        said = [turn["content"] for turn in value] if conversation else [value] if isinstance(value, str) else []
        if all(map(is_blank, said)):
            raise InputError(
                f"prompt_column: row {index} of {source} holds {str(value)[:60]!r} as {column!r}, expected a text "
                "or a list of messages with role and content"
            )
        messages = tuple({"role": t["role"], "content": t["content"]} for t in value) if conversation else None
        text = as_text(value)
        prompts.append(EvaluationPrompt(index, text, messages or None, seen.get(text, 0)))
        seen[text] = seen.get(text, 0) + 1
    if not prompts:
        raise InputError(f"prompts: {source} holds no rows")
    return PromptSet(tuple(prompts), rows, source, column)


def read_dispersion(path: Path, prompts: PromptSet, *, column: str = "dispersion") -> NDArray[np.float64]:
    """Read a dispersion index, shape (N,), from a table beside the prompts, such as `mallowspo dispersion` writes.

    Joined by `prompt_id`, else by `prompt`, never by position. Several rows of one prompt are averaged.
    """
    from mallowspo.data.records import prompt_id_of_text
    from mallowspo.data.sources import load_preferences

    with _read_as("dispersion", path):
        table = load_preferences(path).dataset
    if column not in table.column_names:
        raise InputError(f"dispersion_column: {path} has no column {column!r}; it has {', '.join(table.column_names)}")
    what = f"dispersion: the column {column!r} of {path}"
    values = _numbers(table[column][:], what)
    if "prompt_id" in table.column_names:
        names = [prompt_id_of_text(value) for value in prompts.rows[prompts.prompt_column]]
        values = _joined(names, table["prompt_id"][:], values, path)
    elif "prompt" in table.column_names:
        texts = texts_of(table["prompt"][:], as_text, f"dispersion: 'prompt' of {path}")
        values = _joined([p.text for p in prompts.prompts], texts, values, path)
    else:
        raise InputError(
            f"dispersion: {path} has neither 'prompt_id' nor 'prompt' to join its rows to the prompts by, and their "
            "order is not believed; write the index into a column of the prompts and name it as dispersion_column"
        )
    return _finite(values, what)


def texts_of(values: Iterable[Any], read: Callable[..., str], where: str, *others: Iterable[Any]) -> list[str]:
    """Read a text from each value; an `InputError` of `read` gets the place and the row before it."""
    texts = []
    for row, arguments in enumerate(zip(values, *others, strict=True)):
        try:
            texts.append(read(*arguments))
        except InputError as error:
            raise InputError(f"{where}, row {row}: {error}") from error
    return texts


def _joined(
    wanted: Sequence[str], names: Iterable[Any], values: NDArray[np.float64], path: Path
) -> NDArray[np.float64]:
    by_name: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        by_name.setdefault(str(name), []).append(value)
    missing = [row for row, name in enumerate(wanted) if name not in by_name]
    if missing:
        raise InputError(
            f"dispersion: {path} has no row for {len(missing)} of the prompts; the first: row {missing[0]}"
        )
    return np.asarray([np.mean(by_name[name]) for name in wanted])


def _numbers(values: Sequence[Any], what: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} is not all numbers") from error


def _finite(values: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    if not np.all(np.isfinite(values)):
        raise InputError(
            f"{what} has a value that is not a finite number, in row {int(np.argmin(np.isfinite(values)))}"
        )
    return values
