"""The dialogues of the study: read, kept where they fit whole, and split so that no judge saw what a policy saw."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data.sources import load_preferences
from mallowspo.data.tokenization import tokenize_pairs
from mallowspo.data.validation import validate_rows
from mallowspo.dispersion.votes_file import load_votes
from mallowspo.errors import InputError, told_as
from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.local_model import load_tokenizer
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.studies.dialogue.design import DialogueSetup
from mallowspo.studies.policies import only, quietly

__all__ = [
    "PARTS", "REPLY", "TURN", "DialogueData", "PairSet", "as_messages", "as_prompt", "first_turn", "pair_of",
    "prompts_that_fit", "read_dialogues", "read_parts", "split_text", "study_tokenizer",
]  # fmt: skip

TURN = "\n\nHuman:"
REPLY = "\n\nAssistant:"


@dataclass(frozen=True)
class PairSet:
    """Pairs that fit whole, as tokens and as text."""

    name: str  # `sft`, `policy`, `judge`, `test`, `ood` or `votes`
    source: str  # where they came from
    # `datasets.Dataset` with `prompt_ids`, `chosen_ids`, `rejected_ids`, `prompt_id`, `row_index`, and the texts
    # `prompt`, `chosen`, `rejected`
    rows: Any
    groups: tuple[str, ...]  # what tells dialogues apart: rows of one dialogue share their first human turn
    account: dict[str, int]  # what became of the rows that were read: reason -> rows
    unanimous_n: NDArray[np.bool_] | None = None  # with votes: whether all said the same

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)

    def take(self, name: str, places: NDArray[np.int64], account: dict[str, int]) -> PairSet:
        """Some of the rows, under another name."""
        groups = tuple(self.groups[place] for place in places)
        unanimous_n = None if self.unanimous_n is None else self.unanimous_n[places]
        return PairSet(name, self.source, self.rows.select(places), groups, account, unanimous_n)

    @property
    def key(self) -> str:
        """A digest of the rows, for telling whether what was made from them still holds."""
        return key_of(prompts=self.rows["prompt_ids"][:], chosen=self.rows["chosen_ids"][:],
                      rejected=self.rows["rejected_ids"][:])  # fmt: skip


@dataclass(frozen=True)
class DialogueData:
    """All the data of the study."""

    # Whose chosen responses the reference is trained on. Pairs of which it had learnt one side already would teach
    # the policies that alone: their gradient falls on the other side
    sft: PairSet
    policy: PairSet  # whose pairs the policies are trained on
    judge: PairSet  # what only the held-out judge sees. No dialogue is in two of these
    tests: tuple[PairSet, ...]  # in distribution first


def first_turn(prompt: str) -> str:
    """What a dialogue begins with: the text before the first reply."""
    return prompt.split(REPLY, 1)[0].strip()


def as_messages(prompt: str) -> list[dict[str, str]]:
    r"""Read a dialogue of HH, up to its last reply, as chat messages; `InputError` where it has no such turns.

    Example:
        >>> as_messages("\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Bye.\n\nAssistant:")[1:]
        [{'role': 'assistant', 'content': 'Yes?'}, {'role': 'user', 'content': 'Bye.'}]
    """
    before, *turns = re.split(f"({TURN}|{REPLY})", prompt)
    if before.strip() or not turns or turns[-2:-1] != [REPLY] or turns[-1].strip():
        raise InputError(
            f"prompt_format: 'chat' reads turns marked {TURN.strip()!r} and {REPLY.strip()!r}, found {prompt[:80]!r}; "
            "take text"
        )
    roles = {TURN: "user", REPLY: "assistant"}
    found = zip(turns[:-2:2], turns[1:-2:2], strict=True)
    return [{"role": roles[mark], "content": text.strip()} for mark, text in found]


def as_prompt(setup: DialogueSetup, at: int, text: str) -> EvaluationPrompt:
    """A prompt as answers are written to it, and as judges see it."""
    return EvaluationPrompt(at, text, tuple(as_messages(text)) if setup.prompt_format == "chat" else None)


def split_text(text: str) -> tuple[str, str]:
    """Split a whole dialogue of HH into what was there before the last reply, and that reply."""
    before, mark, reply = text.rpartition(REPLY)
    return (before + mark, reply) if mark else ("", text)


def study_tokenizer(setup: DialogueSetup) -> Any:
    """The base model's tokenizer, with a padding token where it has none."""
    tokenizer = load_tokenizer(
        setup.model_name_or_path, option="model_name_or_path", trust_remote_code=setup.trust_remote_code
    )
    if setup.prompt_format == "chat" and not tokenizer.chat_template:
        raise InputError(f"prompt_format: got 'chat', but {setup.model_name_or_path} has no chat template; take text")
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


PARTS = (
    "model_name_or_path", "trust_remote_code", "train_data", "train_split", "single_turn", "prompt_format",
    "max_length", "data_seed",
)  # fmt: skip
"""The fields of a setup that the split into parts depends on."""


def read_parts(setup: DialogueSetup) -> tuple[PairSet, PairSet, PairSet]:
    """What SFT, policies and judge see; read once in a process."""
    return _read_parts(only(setup, *PARTS))


@functools.lru_cache(maxsize=1)
def _read_parts(setup: DialogueSetup) -> tuple[PairSet, PairSet, PairSet]:
    with quietly(one_thread=False):
        return _parts(_preferences(setup, "train", study_tokenizer(setup)), setup.data_seed)


@functools.lru_cache(maxsize=1)
def read_dialogues(setup: DialogueSetup) -> DialogueData:
    """All the data, read once in a process; `InputError` where a source cannot be used, or too few rows fit."""
    sft, policy, judge = read_parts(setup)
    if len(policy) < setup.train_pairs:
        raise InputError(
            f"train_pairs: got {setup.train_pairs}, but the policies' part of {setup.train_data} has {len(policy)} "
            f"rows that fit whole into max_length {setup.max_length}; lower train_pairs or raise max_length"
        )
    with quietly(one_thread=False):
        tokenizer = study_tokenizer(setup)
        tests = [_preferences(setup, "test", tokenizer), _preferences(setup, "ood", tokenizer)]
        if setup.votes_data:
            tests.append(_votes(setup, tokenizer))
        return DialogueData(sft, policy, judge, tuple(_sample(test, setup) for test in tests))


def prompts_that_fit(setup: DialogueSetup, count: int) -> list[tuple[str, list[int]]]:
    """The first prompts of the first test set that leave room for an answer, one of each dialogue: texts, ids."""
    test, room = read_dialogues(setup).tests[0], setup.max_length - setup.max_new_tokens
    found: dict[str, tuple[str, list[int]]] = {}
    for group, row in zip(test.groups, test.rows, strict=True):
        if len(row["prompt_ids"]) <= room:
            found.setdefault(group, (row["prompt"], row["prompt_ids"]))
    if not found:
        raise InputError(
            f"max_new_tokens: got {setup.max_new_tokens}; no prompt of {setup.test_data} leaves room for so many in "
            f"max_length {setup.max_length}"
        )
    return list(found.values())[:count]


def _preferences(setup: DialogueSetup, name: str, tokenizer: Any) -> PairSet:
    source, split = getattr(setup, f"{name}_data"), getattr(setup, f"{name}_split")
    with told_as({"dataset": f"{name}_data", "split": f"{name}_split"}):
        loaded = load_preferences(source, split=split, invalid_rows="drop")
    rows, read = loaded.dataset, len(loaded.dataset) + len(loaded.dropped)
    if "prompt" not in rows.column_names and {"chosen", "rejected"} <= set(rows.column_names):
        rows = _with_prompts(rows, source)
    return _pair_set(rows, name, str(source), setup, tokenizer, read=read)


def pair_of(row: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Prompt, chosen and rejected of two whole dialogues; None where they differ before the last reply."""
    (prompt, chosen), (other, rejected) = split_text(row["chosen"]), split_text(row["rejected"])
    return (prompt, chosen, rejected) if prompt and prompt == other else None


def _with_prompts(rows: Any, source: str) -> Any:
    """HH as it is published has two whole dialogues a row: the prompt is all before the last reply."""
    if not isinstance(rows[0]["chosen"], str):
        raise InputError(f"{source}: the dialogue study reads raw text, found chat messages; render them first")
    columns: dict[str, list[str]] = {"prompt": [], "chosen": [], "rejected": []}
    for row in rows:
        if pair := pair_of(row):
            for column, value in zip(columns, pair, strict=True):
                columns[column].append(value)
    if not columns["prompt"]:
        raise InputError(f"{source}: no row has two dialogues that differ in their last reply alone")
    return _dataset(columns)


def _dataset(columns: dict[str, list[Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def _votes(setup: DialogueSetup, tokenizer: Any) -> PairSet:
    """Pairs on which more people voted for one answer than for the other, put into the form of a dialogue."""
    with told_as({"dataset": "votes_data"}):
        votes = load_votes(setup.votes_data)
    first, second, tie = votes.votes.T
    places = np.flatnonzero((first != second) & np.asarray([all(pair) for pair in votes.responses]))
    if len(places) == 0:
        raise InputError(f"votes_data: {setup.votes_data} has no pair of answers with a majority for one of them")
    rows: dict[str, list[Any]] = {"prompt": [], "chosen": [], "rejected": [], "unanimous": []}
    for place in places:
        best = int(second[place] > first[place])
        rows["prompt"].append(f"{TURN} {votes.prompts[place]}{REPLY}")
        rows["chosen"].append(f" {votes.responses[place][best]}")
        rows["rejected"].append(f" {votes.responses[place][1 - best]}")
        rows["unanimous"].append(bool(min(first[place], second[place]) == 0 and tie[place] == 0))
    return _pair_set(_dataset(rows), "votes", setup.votes_data, setup, tokenizer, read=len(votes.votes))


def _pair_set(rows: Any, name: str, source: str, setup: DialogueSetup, tokenizer: Any, *, read: int) -> PairSet:
    """Keep the rows that fit whole, and count the others."""
    account = {"read": read, "no majority or two prompts": read - len(rows)}
    pairs = validate_rows(rows, invalid_rows="drop", columns=(), source=source)
    if not isinstance(pairs.dataset[0]["prompt"], str):
        raise InputError(f"{source}: the dialogue study reads raw text, found chat messages; render them first")
    dataset = pairs.dataset
    if setup.single_turn:
        single = [i for i, prompt in enumerate(dataset["prompt"]) if prompt.count(TURN) == 1]
        account["several turns"] = len(dataset) - len(single)
        if not single:
            raise InputError(f"single_turn: no row of {source} has one human turn, marked {TURN.strip()!r}")
        dataset = dataset.select(single)
    texts = {column: dataset[column][:] for column in ("prompt", "chosen", "rejected")}
    dataset = dataset.add_column("place", np.arange(len(dataset)))
    unanimous = dataset["unanimous"][:] if "unanimous" in dataset.column_names else None
    if setup.prompt_format == "chat":
        dataset = dataset.map(_as_chat, load_from_cache_file=False, keep_in_memory=True)
    tokens = tokenize_pairs(dataset, tokenizer, max_length=None, invalid_rows="drop", dataset_name=name)
    kept = tokens.dataset
    length_n2 = np.asarray(
        [[len(row["prompt_ids"]) + len(row[side]) for side in ("chosen_ids", "rejected_ids")] for row in kept]
    )
    whole = np.flatnonzero((length_n2 <= setup.max_length).all(axis=1))
    account |= Counter(problem.kind.replace("_", " ") for problem in (*pairs.problems, *tokens.problems))
    account["longer than max_length"] = len(kept) - len(whole)
    account["fit whole"] = len(whole)
    if len(whole) < 2:
        raise InputError(f"{source}: {len(whole)} rows fit whole into max_length {setup.max_length}; raise it")
    kept = kept.select(whole)
    places = kept["place"][:]
    kept = kept.remove_columns("place")
    for column, values in texts.items():
        if column in kept.column_names:
            kept = kept.remove_columns(column)
        kept = kept.add_column(column, [values[place] for place in places])
    return PairSet(
        name,
        source,
        kept,
        tuple(first_turn(texts["prompt"][place]) for place in places),
        {reason: count for reason, count in account.items() if count or reason in ("read", "fit whole")},
        None if unanimous is None else np.asarray([unanimous[place] for place in places]),
    )


def _as_chat(row: dict[str, Any]) -> dict[str, Any]:
    replies = {side: [{"role": "assistant", "content": row[side].strip()}] for side in ("chosen", "rejected")}
    return {"prompt": as_messages(row["prompt"]), **replies}


def _parts(train: PairSet, seed: int) -> tuple[PairSet, PairSet, PairSet]:
    """Three parts, split by dialogue, not by row: rows of one dialogue repeat its turns."""
    dialogues = sorted(set(train.groups))
    order = np.random.default_rng([seed, 1]).permutation(len(dialogues))
    part_of = {dialogues[place]: part for part, some in enumerate(np.array_split(order, 3)) for place in some}
    part_n = np.asarray([part_of[group] for group in train.groups])
    if len(dialogues) < 3:
        raise InputError(
            f"train_data: {train.source} holds {len(dialogues)} dialogues; SFT, policies and judge need one each"
        )
    sft, policy, judge = (
        train.take(name, np.flatnonzero(part_n == part), train.account)
        for part, name in enumerate(("sft", "policy", "judge"))
    )
    return sft, policy, judge


def _sample(test: PairSet, setup: DialogueSetup) -> PairSet:
    order = np.random.default_rng([setup.data_seed, 2]).permutation(len(test))[: setup.test_pairs]
    return test.take(test.name, np.sort(order), test.account)
