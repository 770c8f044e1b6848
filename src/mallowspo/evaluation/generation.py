"""Answers to the prompts: from a model on this machine, an endpoint, a file, or a column of the data.

Answers that are generated go into a log as they come, each under a digest of the prompt, the model and the settings;
a run that was cut off, or that is repeated, takes from there what it finds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.data.vocabulary import embedding_rows, resize_advice
from mallowspo.errors import InputError, listed
from mallowspo.evaluation.endpoint import Endpoint, EndpointUnavailable, RequestRefused
from mallowspo.evaluation.json_log import JsonLog, key_of
from mallowspo.evaluation.local_model import (
    Sampling,
    context_length,
    end_token_ids,
    load_causal_model,
    load_tokenizer,
    model_stamp,
    prompt_ids,
    prompt_uniforms,
    sample_batch,
    uses_chat,
)
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.evaluation.server_reply import whole_text
from mallowspo.files import parse_json

__all__ = [
    "Answers",
    "LocalModel",
    "alpaca_outputs",
    "answers_from_file",
    "generate_at_endpoint",
    "generate_locally",
]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answers:
    """One answer per prompt."""

    texts: tuple[str, ...]
    tokens: tuple[int | None, ...]  # None where not known
    finished: tuple[bool | None, ...]  # by itself, and not cut; None where not known
    generated: int = 0  # by this run
    chat: bool | None = None  # whether prompts were sent as conversations; None where not known
    # Place → what the server said, of prompts that it will not answer; their text is empty.
    refused: Mapping[int, str] = field(default_factory=dict)

    def take(self, places: Sequence[int]) -> Answers:
        """The answers at some places, in that order."""
        return replace(
            self,
            texts=tuple(self.texts[n] for n in places),
            tokens=tuple(self.tokens[n] for n in places),
            finished=tuple(self.finished[n] for n in places),
            refused={},
        )


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine and how it is run."""

    name_or_path: str
    # The option that named it is part of the seed, so that two models answer the same prompt independently.
    option: str = "model"
    dtype: str = "auto"
    prompt_format: str = "auto"  # `auto`, `chat` or `text`
    batch_size: int = 8  # prompts at a time; changes no answer but for rounding
    use_cpu: bool = False
    trust_remote_code: bool = False

    def load_tokenizer(self) -> Any:
        """Its tokenizer."""
        return load_tokenizer(self.name_or_path, option=self.option, trust_remote_code=self.trust_remote_code)

    def load(self) -> Any:
        """The model itself."""
        return load_causal_model(
            self.name_or_path,
            option=self.option,
            dtype=self.dtype,
            use_cpu=self.use_cpu,
            trust_remote_code=self.trust_remote_code,
        )


def _record(prompt: EvaluationPrompt, key: str, source: str, **answer: Any) -> dict[str, Any]:
    return {"key": key, "prompt_index": prompt.index, "prompt": prompt.text, "source": source, **answer}


def _check_records(log: JsonLog) -> None:
    """Raise `InputError` where a line of a log of answers holds none."""
    for number, record in enumerate(log.records, start=1):
        tokens = record.get("tokens")
        fine = isinstance(record.get("key"), str) and (
            isinstance(record.get("refused"), str)
            or (isinstance(record.get("answer"), str) and record.get("finished") in (None, True, False))
        )
        if not fine or not (tokens is None or (isinstance(tokens, int) and tokens >= 0)):
            raise InputError(
                f"{log.path}: line {number} is no answer: it needs texts as key and answer, and a number of tokens; "
                "take the line out, or give another output_dir"
            )


def _gather(
    keys: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    generated: int,
    chat: bool,
    refused: Mapping[int, str] | None = None,
) -> Answers:
    by_key: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if "answer" in record:
            by_key.setdefault(record["key"], record)  # the first one stands
    refused = refused or {}
    nothing: Mapping[str, Any] = {"answer": ""}
    found = [nothing if n in refused else by_key[key] for n, key in enumerate(keys)]
    return Answers(
        refused=refused,
        texts=tuple(record["answer"] for record in found),
        tokens=tuple(record.get("tokens") for record in found),
        finished=tuple(record.get("finished") for record in found),
        generated=generated,
        chat=chat,
    )


def generate_locally(
    prompts: Sequence[EvaluationPrompt],
    local: LocalModel,
    sampling: Sampling,
    log_path: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Answers:
    """Let a model on this machine answer; the model is loaded only if an answer is missing."""
    tokenizer = local.load_tokenizer()
    ids = [prompt_ids(prompt, tokenizer, local.prompt_format) for prompt in prompts]
    _check_lengths(ids, local, sampling)
    stamp = model_stamp(local.name_or_path)
    settings = [sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.top_k, seed, local.dtype]
    names = [f"{local.option}\x00{prompt.text}\x00{prompt.repeat}" for prompt in prompts]
    keys = [key_of(name=name, ids=row, model=stamp, settings=settings) for name, row in zip(names, ids, strict=True)]
    with JsonLog(log_path) as log:
        _check_records(log)
        there = {record["key"] for record in log.records if "answer" in record}
        # Neighbours in a batch need little padding, and memory is at its worst at once.
        waiting = sorted((n for n, key in enumerate(keys) if key not in there), key=lambda n: -len(ids[n]))
        done = len(prompts) - len(waiting)
        if progress is not None:
            progress(done, len(prompts))
        model = local.load() if waiting else None
        _refuse_unknown_ids(local, model, tokenizer, [ids[n] for n in waiting])
        ends = end_token_ids(model, tokenizer) if waiting else ()
        for start in range(0, len(waiting), local.batch_size):
            batch = waiting[start : start + local.batch_size]
            uniform = np.stack([prompt_uniforms(seed, names[n], sampling.max_new_tokens) for n in batch])
            responses = sample_batch(model, [ids[n] for n in batch], uniform, sampling, end_ids=ends)
            log.append(
                *(
                    _record(
                        prompts[n],
                        keys[n],
                        local.name_or_path,
                        answer=tokenizer.decode(response, skip_special_tokens=True).strip(),
                        tokens=len(response),
                        finished=response[-1] in ends,
                    )
                    for n, response in zip(batch, responses, strict=True)
                )
            )
            if progress is not None:
                progress(done + start + len(batch), len(prompts))
        has_template = getattr(tokenizer, "chat_template", None) is not None
        chat = uses_chat(prompts[0], local.prompt_format, has_template=has_template)
        return _gather(keys, log.records, len(waiting), chat)


def _check_lengths(ids: Sequence[Sequence[int]], local: LocalModel, sampling: Sampling) -> None:
    from transformers import AutoConfig

    empty = [n for n, row in enumerate(ids) if not row]
    if empty:
        raise InputError(f"prompts: row {empty[0]} has no tokens for {local.name_or_path}")
    try:
        config = AutoConfig.from_pretrained(local.name_or_path, trust_remote_code=local.trust_remote_code)
    except (OSError, ValueError):
        return  # an adapter has no configuration of its own
    room = context_length(config)
    longest = max(range(len(ids)), key=lambda n: len(ids[n]))
    if room is not None and len(ids[longest]) + sampling.max_new_tokens > room:
        raise InputError(
            f"{local.option}: row {longest} of the prompts has {len(ids[longest])} tokens, which with "
            f"{sampling.max_new_tokens} new ones do not fit into the {room} positions of {local.name_or_path}; "
            "lower max_new_tokens, or take the row out"
        )


def generate_at_endpoint(
    prompts: Sequence[EvaluationPrompt],
    endpoint: Endpoint,
    sampling: Sampling,
    log_path: Path,
    *,
    seed: int = 0,
    prompt_format: str = "auto",
    parameters: Mapping[str, Any] | None = None,
    skip_refused: bool = False,
    progress: Progress | None = None,
) -> Answers:
    """Let a model behind an OpenAI-compatible endpoint answer.

    `parameters` are fields of the request to add or replace, None takes a field out; `skip_refused` goes on without
    the answers that the server refuses to give, and the log and `Answers.refused` say which.
    """
    chat = uses_chat(prompts[0], prompt_format, has_template=True)
    names = [f"{endpoint.option}\x00{prompt.text}\x00{prompt.repeat}" for prompt in prompts]
    requests = [_request(name, sampling, seed, parameters or {}) for name in names]
    keys = [
        key_of(name=name, prompt=prompt.conversation(), model=str(endpoint.address), request=request, chat=chat)
        for name, prompt, request in zip(names, prompts, requests, strict=True)
    ]
    with JsonLog(log_path) as log:
        _check_records(log)
        there = {record["key"] for record in log.records if "answer" in record}
        waiting = [n for n, key in enumerate(keys) if key not in there]
        done = itertools.count(len(prompts) - len(waiting) + 1)
        refused: dict[int, str] = {}

        def answer(n: int) -> bool:
            prompt = prompts[n]
            try:
                if chat:
                    reply = endpoint.chat(prompt.conversation(), requests[n])
                else:
                    reply = endpoint.complete(prompt.text, requests[n])
            except RequestRefused as error:
                refused[n] = str(error)
                log.append(_record(prompt, keys[n], str(endpoint.address), refused=str(error)))
                return False
            except EndpointUnavailable as error:
                raise EndpointUnavailable(f"{error}; it was asked about row {prompt.index}") from error
            finished = {"stop": True, "length": False}.get(reply.finish_reason)
            fields = {"answer": reply.text.strip(), "tokens": reply.completion_tokens, "finished": finished}
            log.append(_record(prompt, keys[n], str(endpoint.address), **fields))
            if progress is not None:
                progress(next(done), len(prompts))
            return True

        if progress is not None:
            progress(len(prompts) - len(waiting), len(prompts))
        try:
            endpoint.work_through(waiting, answer, probe=len(waiting) == len(prompts))
        except RequestRefused as error:
            last = max(refused)
            raise InputError(
                f"{endpoint.option}: {error}; the last, row {prompts[last].index}: {refused[last]}; check "
                "generation_parameters, max_new_tokens and the prompts"
            ) from error
        except EndpointUnavailable as error:
            saved = len(set(keys) & {record["key"] for record in log.records if "answer" in record})
            raise InputError(
                f"{endpoint.option}: {error}. {saved} of {len(prompts)} answers are saved in {log_path}; once the "
                "server answers, the same command asks for the rest"
            ) from error
        if refused and not skip_refused:
            first = min(refused)
            rows = ", ".join(str(prompts[n].index) for n in sorted(refused)[:10]) + (
                ", …" if len(refused) > 10 else ""
            )
            raise InputError(
                f"{endpoint.option}: the server refuses {len(refused)} of {len(prompts)} prompts, and would again: "
                f"row {rows}; it said of row {prompts[first].index}: {refused[first]}. The other answers are saved in "
                f"{log_path}; give --skip_refused to compare without these prompts (the report counts them), or take "
                "the rows out"
            )
        return _gather(keys, log.records, len(waiting) - len(refused), chat, refused)


def _request(name: str, sampling: Sampling, seed: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    request |= {"top_p": sampling.top_p} if sampling.top_p < 1.0 else {}
    request |= {"top_k": sampling.top_k} if sampling.top_k else {}
    request["seed"] = int(prompt_uniforms(seed, name, 1)[0] * 2**31)
    return {field: value for field, value in (request | dict(parameters)).items() if value is not None}


def answers_from_file(path: Path, prompts: Sequence[EvaluationPrompt], *, option: str) -> Answers:
    """Take answers from a file in AlpacaEval's format; equal prompts take equal instructions in order."""
    try:
        content = path.read_text(encoding="utf-8-sig")
        lines = path.suffix == ".jsonl"
        documents = [line for line in content.split("\n") if line.strip()] if lines else [content]
        parsed = [parse_json(document, halves=True) for document in documents]
        rows = parsed if lines else parsed[0]
    except (OSError, ValueError) as error:
        raise InputError(f"{option}: {path} cannot be read ({error})") from error
    if not isinstance(rows, list):
        raise InputError(f"{option}: {path} needs a list of objects with 'instruction' and 'output'")
    by_prompt: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        for name in ("instruction", "output"):
            value = row.get(name) if isinstance(row, dict) else None
            if not isinstance(value, str):
                raise InputError(
                    f"{option}: {path}, row {number} has {str(value)[:60]!r} as {name!r}; every row needs texts "
                    "as 'instruction' and 'output'"
                )
        by_prompt.setdefault(whole_text(row["instruction"]), []).append(whole_text(row["output"]))
    models = dict.fromkeys(str(row["generator"]) for row in rows if row.get("generator") is not None)
    if len(models) > 1:
        raise InputError(f"{option}: {path} holds the answers of several models ({listed(models)}); give those of one")
    missing = [p.index for p in prompts if len(by_prompt.get(p.text, [])) <= p.repeat]
    if missing:
        raise InputError(
            f"{option}: {path} has no answer to {len(missing)} of {len(prompts)} prompts; the first: row {missing[0]}"
        )
    return known_answers([by_prompt[prompt.text][prompt.repeat] for prompt in prompts])


def alpaca_outputs(
    prompts: Sequence[EvaluationPrompt], answers: Sequence[str], generator: str
) -> list[dict[str, str]]:
    """The rows of AlpacaEval's `model_outputs.json`; `generator` names the model in a leaderboard."""
    return [
        {"instruction": prompt.text, "output": answer, "generator": generator}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def known_answers(texts: Sequence[str]) -> Answers:
    """Answers that are there already, of which only the text is known."""
    return Answers(tuple(texts), (None,) * len(texts), (None,) * len(texts))


def _refuse_unknown_ids(local: Any, model: Any, tokenizer: Any, ids: list[list[int]]) -> None:
    """Refuse prompts with tokens that the model has no row for, instead of an IndexError in the middle."""
    size = embedding_rows(model) if ids else None
    bad = next((token for row in ids for token in row if size is not None and token >= size), None)
    if bad is not None and size is not None:
        raise InputError(
            f"{local.option}: a prompt has {tokenizer.convert_ids_to_tokens(bad)!r}, id {bad:,}; "
            f"{resize_advice(tokenizer, size)}"
        )
