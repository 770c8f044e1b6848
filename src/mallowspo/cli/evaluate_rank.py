"""`mallowspo evaluate --rank`: let a judge rank several answers to each prompt, as lists to train and weigh with."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mallowspo.cli.evaluate import EvaluateOptions, source_of
from mallowspo.cli.evaluate_run import (
    Progress,
    answers_of,
    check_reachable,
    endpoint_of,
    judge_before,
    judge_identity,
    judges_warning,
    opened_judge,
    read_prompts,
)
from mallowspo.data.blank import is_blank
from mallowspo.errors import InputError
from mallowspo.files import write_json, write_lines
from mallowspo.redaction import without_secrets
from mallowspo.versions import library_versions

if TYPE_CHECKING:
    from mallowspo.evaluation.endpoint import Endpoint
    from mallowspo.evaluation.judge import Judge
    from mallowspo.evaluation.prompts import EvaluationPrompt, PromptSet
    from mallowspo.evaluation.ranking import RankedLists

__all__ = ["run_ranking"]


def run_ranking(options: EvaluateOptions, progress: Progress) -> dict[str, Any]:
    """Get the answers, rank them, and write `lists.jsonl` and `results.json`."""
    from mallowspo.evaluation.judge import EndpointJudge
    from mallowspo.evaluation.ranking import comparisons, rank_answers

    started = time.perf_counter()
    options.check()
    before = judge_before(options.output_dir)
    prompts = read_prompts(options)
    endpoints: dict[str, Endpoint] = {}
    judge = opened_judge(options)
    if isinstance(judge, EndpointJudge):
        endpoints["judge"] = judge.endpoint
    if source_of(options.model, "model").kind == "endpoint":
        endpoints["model"] = endpoint_of(options.model, options, "model")
    check_reachable(endpoints, options.output_dir)
    try:
        answers, uneven = _answers(options, prompts, endpoints.get("model"), progress)
        kept = [n for n, texts in enumerate(answers) if len(texts) > 1]
        left_out = [prompts.prompts[n].index for n, texts in enumerate(answers) if len(texts) < 2]
        if not kept:
            raise InputError("rank: no prompt has two different answers that say something; raise rank or temperature")
        asked = [prompts.prompts[n] for n in kept]
        lists = [answers[n] for n in kept]
        order, votes = "all" if judge.kind == "reward" else options.rank_order, options.votes_of(judge.kind)
        ranked = rank_answers(
            judge,
            asked,
            lists,
            options.output_dir,
            order=order,
            votes=votes,
            seed=options.seed,
            progress=functools.partial(progress, "Ranking"),
        )
    finally:
        for endpoint in endpoints.values():
            endpoint.close()
    facts = _judge_facts(options, judge, ranked)
    name = judge_identity(facts)
    _write_lists(options, name, asked, lists, ranked)
    results = {
        "format": 1,
        "lists": len(kept),
        "left_out": left_out,
        **uneven,
        "answers": sum(map(len, lists)),
        "votes": votes,
        "order": order,
        "comparisons": ranked.comparisons,
        "comparisons_at_most": votes * sum(comparisons(len(texts), order) for texts in lists),
        "ties": ranked.ties,
        "same_pairs": _agreement(ranked.rankings),
        "judge": facts,
        "mixed_judges": judges_warning(name, before, ranked.answered_by),
        "settings": without_secrets({name: value for name, value in asdict(options).items() if name != "output_dir"}),
        "versions": library_versions(),
        "seconds": time.perf_counter() - started,
    }
    write_json(options.output_dir / "results.json", results)
    return results


def _answers(
    options: EvaluateOptions, prompts: PromptSet, endpoint: Endpoint | None, progress: Progress
) -> tuple[list[list[str]], dict[str, Any]]:
    """The answers to each prompt that say something, each text once; and where a column has not --rank of them."""
    source = source_of(options.model, "model")
    if source.kind == "column":
        from mallowspo.evaluation.prompts import answer_text, texts_of

        found = []
        for prompt, value in zip(prompts.prompts, prompts.column(source.name, "model"), strict=True):
            if not isinstance(value, list) or not value or isinstance(value[0], dict):
                raise InputError(
                    f"model: row {prompt.index} of the column {source.name!r} holds no list of answers, such as the "
                    "column `responses` of ranked lists"
                )
            where = f"model: the column {source.name!r}, list {prompt.index + 1}, answer"
            texts = texts_of(value, answer_text, where, [prompt] * len(value))
            found.append(list(dict.fromkeys(text for text in texts if not is_blank(text))))
        beyond = [len(texts) - options.rank for texts in found if len(texts) > options.rank]
        longer = {"lists": len(beyond), "answers": sum(beyond)} if beyond else None
        shorter = sum(1 < len(texts) < options.rank for texts in found)
        return [texts[: options.rank] for texts in found], {"longer": longer, "shorter": shorter}
    asked = [
        replace(prompt, repeat=prompt.repeat * options.rank + copy)
        for prompt in prompts.prompts
        for copy in range(options.rank)
    ]
    drawn = answers_of("model", options, asked, source, endpoint, progress)
    drawn_texts: list[list[str]] = [[] for _ in prompts.prompts]
    for place, text in enumerate(drawn.texts):
        if place not in drawn.refused and not is_blank(text) and text not in drawn_texts[place // options.rank]:
            drawn_texts[place // options.rank].append(text)
    return drawn_texts, {"longer": None, "shorter": sum(1 < len(texts) < options.rank for texts in drawn_texts)}


def _write_lists(
    options: EvaluateOptions,
    judge: str,
    asked: Sequence[EvaluationPrompt],
    lists: Sequence[Sequence[str]],
    ranked: RankedLists,
) -> None:
    """Write rows that `train` and `dispersion --rankings` read; a conversation's answers are messages too."""
    from mallowspo.dispersion.rankings_file import JUDGE_COLUMN
    from mallowspo.evaluation.ranking import consensus

    rows = []
    for prompt, texts, rankings in zip(asked, lists, ranked.rankings, strict=True):
        chat = prompt.messages is not None
        row: dict[str, Any] = {
            "prompt": list(prompt.messages) if prompt.messages is not None else prompt.text,
            "responses": [[{"role": "assistant", "content": text}] if chat else text for text in texts],
            "ranks": consensus(rankings),
            JUDGE_COLUMN: judge,
        }
        if len(rankings) > 1:
            row["rankings"] = rankings
        rows.append(row)
    write_lines(options.output_dir / "lists.jsonl", rows)


def _agreement(rankings: list[list[list[int]]]) -> float | None:
    """Share of pairs of answers that two votes on a list put in the same order; None with one vote."""
    same = total = 0
    for votes in rankings:
        for i, one in enumerate(votes):
            for other in votes[:i]:
                for a in range(len(one)):
                    for b in range(a):
                        same += (one[a] < one[b]) == (other[a] < other[b])
                        total += 1
    return same / total if total else None


def _judge_facts(options: EvaluateOptions, judge: Judge, ranked: RankedLists) -> dict[str, Any]:
    usage = None if ranked.usage is None else asdict(ranked.usage)
    told = {"undecided": ranked.undecided, "refused": ranked.refused, "asked_now": ranked.asked, "usage": usage}
    return {"name": options.judge, "kind": judge.kind, **judge.facts, **told}
