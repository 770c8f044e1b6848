"""One comparison: answers, verdicts, win rates, and what is written about them."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallowspo.cli.evaluate import EvaluateOptions, Source, source_of
from mallowspo.data.blank import is_blank
from mallowspo.errors import InputError, told_as
from mallowspo.files import parse_json, write_json
from mallowspo.redaction import without_secrets
from mallowspo.versions import library_versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mallowspo.evaluation.endpoint import Endpoint
    from mallowspo.evaluation.generation import Answers
    from mallowspo.evaluation.judge import AnswerPair, Judge, Judgement, Usage
    from mallowspo.evaluation.length_control import GamedBaseline
    from mallowspo.evaluation.prompts import EvaluationPrompt, PromptSet

__all__ = [
    "answers_of",
    "check_reachable",
    "endpoint_of",
    "judge_before",
    "judge_identity",
    "judges_warning",
    "opened_judge",
    "read_prompts",
    "run_evaluation",
]

# What is under way, steps done, steps in all, and the judge's usage so far where there is one.
Progress = Callable[[str, int, int, "Usage | None"], None]

SIDES = ("model", "baseline")


@dataclass(frozen=True)
class _Inputs:
    """All that the options name, read before any model is loaded."""

    prompts: PromptSet
    dispersion: NDArray[np.float64] | None
    difficulty: NDArray[np.float64] | None
    gamed: GamedBaseline | None
    sources: dict[str, Source]
    known: dict[str, Answers]
    endpoints: dict[str, Endpoint]
    judge: Judge


def run_evaluation(options: EvaluateOptions, progress: Progress) -> dict[str, Any]:
    """Compare two models and write everything about it."""
    started = time.perf_counter()
    options.check()
    inputs = _read_inputs(options)
    before = judge_before(options.output_dir)
    try:
        answers = {
            side: inputs.known[side]
            if side in inputs.known
            else answers_of(
                side, options, inputs.prompts.prompts, inputs.sources[side], inputs.endpoints.get(side), progress
            )
            for side in SIDES
        }
        inputs, answers, left_out = _without_refused(inputs, answers)
        pairs = _pairs(inputs.prompts, answers)
        asking = functools.partial(progress, inputs.judge.doing)
        judgement = inputs.judge.judge(pairs, options.output_dir, asking)
    finally:
        for endpoint in inputs.endpoints.values():
            endpoint.close()
    kl = _kl(options, inputs.prompts, progress) if options.kl_samples else None
    results = _results(options, inputs, answers, judgement)
    results["prompts"]["left_out"] = left_out
    results["mixed_judges"] = judges_warning(judge_identity(results["judge"]), before, judgement.answered_by)
    results |= {"kl": kl, "seconds": time.perf_counter() - started}
    _write(options, inputs.prompts, answers, pairs, judgement, results)
    return results


def judge_identity(judge: Mapping[str, Any]) -> str:
    """The judge in one line: what its verdicts depend on beside the pairs."""
    parts = [str(judge["name"])]
    parts += [f"{name} {judge[name]}" for name in ("template", "source") if judge.get(name)]
    if judge.get("parameters") is not None:
        parts.append(f"parameters {json.dumps(judge['parameters'], sort_keys=True)}")
    return ", ".join(parts)


def judge_before(folder: Path) -> str | None:
    """The judge of the results that stand in a folder already; None where there are none."""
    try:
        judge = parse_json((folder / "results.json").read_text(encoding="utf-8"))["judge"]
        return judge_identity(judge) if isinstance(judge, dict) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def judges_warning(judge: str, before: str | None, answered_by: Mapping[str, int]) -> str | None:
    """Say that more than one judge is at work here; None where one is."""
    from mallowspo.dispersion.judged_rows import MIXED_JUDGES, mixed_judges

    told = mixed_judges([f"{name} ({count} verdicts)" for name, count in answered_by.items()])
    texts = [] if told is None else [f"behind this address several models answered: {told}"]
    if before not in (None, judge):
        texts.append(
            f"the results that stood in this folder came from another judge ({before}), these from {judge}; "
            f"{MIXED_JUDGES}"
        )
    return "; ".join(texts) or None


def _read_inputs(options: EvaluateOptions) -> _Inputs:
    from mallowspo.evaluation.judge import EndpointJudge
    from mallowspo.evaluation.length_control import match_alpaca_rows, read_alpaca_tables
    from mallowspo.evaluation.prompts import read_dispersion

    sources = {side: source_of(getattr(options, side), side) for side in SIDES}
    prompts = read_prompts(options)
    dispersion = None
    if options.dispersion is not None:
        column = options.dispersion_column or "dispersion"
        dispersion = read_dispersion(options.dispersion, prompts, column=column)
    elif options.dispersion_column is not None:
        dispersion = prompts.numbers(options.dispersion_column, "dispersion_column")
    if dispersion is not None and len(dispersion) < 3:
        raise InputError(f"dispersion: terciles need at least 3 prompts, got {len(dispersion)}")
    known = {
        side: _known(source, prompts, side) for side, source in sources.items() if source.kind in ("file", "column")
    }
    difficulty, gamed = None, None
    if options.alpaca_tables is not None:
        difficulty, gamed = read_alpaca_tables(options.alpaca_tables)
        if "baseline" not in known:
            raise InputError(
                "alpaca_tables: they belong to the published answers of AlpacaEval's baseline; give these as the "
                "baseline, in a .json or a column"
            )
        difficulty = match_alpaca_rows(
            gamed.baseline_lengths_n,
            difficulty,
            [len(text) for text in known["baseline"].texts],
            f"alpaca_tables {options.alpaca_tables}",
        )
    if options.kl_samples:
        _check_same_tokens(options)
    endpoints: dict[str, Endpoint] = {}
    judge = opened_judge(options)
    if isinstance(judge, EndpointJudge):
        endpoints["judge"] = judge.endpoint
    for side, source in sources.items():
        if source.kind == "endpoint":
            endpoints[side] = endpoint_of(source.name, options, side)
    check_reachable(endpoints, options.output_dir)
    return _Inputs(prompts, dispersion, difficulty, gamed, sources, known, endpoints, judge)


def read_prompts(options: EvaluateOptions) -> PromptSet:
    """The prompts that the options name."""
    from mallowspo.evaluation.prompts import load_prompts

    with told_as({"dataset": "prompts"}):
        return load_prompts(
            options.prompts, column=options.prompt_column, split=options.split, limit=options.max_prompts
        )


def _known(source: Source, prompts: PromptSet, side: str) -> Answers:
    from mallowspo.evaluation.generation import answers_from_file, known_answers
    from mallowspo.evaluation.prompts import answer_text, texts_of

    if source.kind == "file":
        return answers_from_file(Path(source.name), prompts.prompts, option=side)
    values = prompts.column(source.name, side)
    where = f"{side}: the column {source.name!r} of {prompts.source}"
    return known_answers(texts_of(values, answer_text, where, prompts.prompts))


def _check_same_tokens(options: EvaluateOptions) -> None:
    from mallowspo.evaluation.local_model import load_tokenizer

    vocabularies = [
        load_tokenizer(getattr(options, side), option=side, trust_remote_code=options.trust_remote_code).get_vocab()
        for side in SIDES
    ]
    if vocabularies[0] != vocabularies[1]:
        raise InputError("kl_samples: the tokenizers differ; KL is defined between models over the same tokens only")


def endpoint_of(address: str, options: EvaluateOptions, option: str) -> Endpoint:
    """What answers at an address."""
    from mallowspo.evaluation.endpoint import Endpoint, EndpointAddress, api_key_from

    key = api_key_from(options.api_key_env, "api_key_env")
    return Endpoint(EndpointAddress.parse(address, option), options.limits(), api_key=key, option=option)


def check_reachable(endpoints: dict[str, Endpoint], folder: Path) -> None:
    """Find out that nobody is there before hours of generating, not after."""
    from mallowspo.evaluation.endpoint import EndpointUnavailable, RequestRefused

    for option, endpoint in endpoints.items():
        try:
            endpoint.check()
        except (EndpointUnavailable, RequestRefused) as error:
            saved = [f"{path.name} ({_lines(path)} lines)" for path in sorted(folder.glob("*.jsonl"))]
            kept = f"saved in {folder} so far: {', '.join(saved)}" if saved else "nothing was generated yet"
            raise InputError(f"{option}: {error}; {kept}") from error


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def opened_judge(options: EvaluateOptions) -> Judge:
    """The judge that the options name."""
    from mallowspo.evaluation.judge import DEFAULT_PARAMETERS, open_judge

    return open_judge(
        options.judge,
        template=options.judge_template,
        parameters=options.merged("judge_parameters", dict(DEFAULT_PARAMETERS) | options.judge_defaults()),
        attempts=options.judge_attempts,
        prices=options.judge_prices,
        limits=options.limits(),
        api_key_env=options.judge_api_key_env,
        dtype=options.dtype,
        batch_size=options.batch_size,
        use_cpu=options.use_cpu,
        trust_remote_code=options.trust_remote_code,
    )


def answers_of(
    side: str,
    options: EvaluateOptions,
    prompts: Sequence[EvaluationPrompt],
    source: Source,
    endpoint: Endpoint | None,
    progress: Progress,
) -> Answers:
    """Let a model answer, on this machine or behind its address; what stands in its log is not asked again."""
    from mallowspo.evaluation.generation import LocalModel, generate_at_endpoint, generate_locally

    sampling = options.sampling()
    log = options.output_dir / f"generations.{side}.jsonl"

    def report(done: int, total: int) -> None:
        progress(f"Generating ({side})", done, total, None)

    if endpoint is not None:
        return generate_at_endpoint(
            prompts,
            endpoint,
            sampling,
            log,
            seed=options.seed,
            prompt_format=options.prompt_format,
            parameters=options.json_object("generation_parameters"),
            skip_refused=options.skip_refused,
            progress=report,
        )
    local = LocalModel(
        source.name,
        option=side,
        dtype=options.dtype,
        prompt_format=options.prompt_format,
        batch_size=options.batch_size,
        use_cpu=options.use_cpu,
        trust_remote_code=options.trust_remote_code,
    )
    return generate_locally(prompts, local, sampling, log, seed=options.seed, progress=report)


def _without_refused(
    inputs: _Inputs, answers: dict[str, Answers]
) -> tuple[_Inputs, dict[str, Answers], list[dict[str, Any]]]:
    """Leave out the prompts that a server will not answer; the results name them."""
    refused = {n: side for side in SIDES for n in answers[side].refused}
    if not refused:
        return inputs, answers, []
    prompts = inputs.prompts
    kept = [n for n in range(len(prompts.prompts)) if n not in refused]
    if len(kept) < (3 if inputs.dispersion is not None else 1):
        raise InputError(f"prompts: the servers refuse {len(refused)} of {len(prompts.prompts)}; too few are left")
    left_out = [
        {"row": prompts.prompts[n].index, "side": side, "said": answers[side].refused[n]}
        for n, side in sorted(refused.items())
    ]
    chosen = replace(prompts, prompts=tuple(prompts.prompts[n] for n in kept), rows=prompts.rows.select(kept))
    inputs = replace(
        inputs,
        prompts=chosen,
        dispersion=None if inputs.dispersion is None else inputs.dispersion[kept],
        difficulty=None if inputs.difficulty is None else inputs.difficulty[kept],
    )
    return inputs, {side: answers[side].take(kept) for side in SIDES}, left_out


def _texts(prompts: PromptSet, name: str, *, unique: bool = False) -> list[str] | None:
    """A column of the prompts that holds a text in every row; None where there is none such."""
    if name not in prompts.rows.column_names:
        return None
    values = prompts.column(name, name)
    usable = all(isinstance(value, str) and value for value in values)
    return values if usable and not (unique and len(set(values)) < len(values)) else None


def _pairs(prompts: PromptSet, answers: dict[str, Answers]) -> list[AnswerPair]:
    from mallowspo.evaluation.judge import AnswerPair

    rows = zip(prompts.prompts, answers["model"].texts, answers["baseline"].texts, strict=True)
    return [AnswerPair(prompt, answer, baseline) for prompt, answer, baseline in rows]


def _kl(options: EvaluateOptions, prompts: PromptSet, progress: Progress) -> dict[str, Any]:
    from mallowspo.evaluation.divergence import sequence_kl
    from mallowspo.evaluation.local_model import end_token_ids, load_causal_model, load_tokenizer, prompt_ids

    loading: dict[str, Any] = {"use_cpu": options.use_cpu, "trust_remote_code": options.trust_remote_code}
    policy, reference = (
        load_causal_model(getattr(options, side), option=side, dtype=options.dtype, **loading) for side in SIDES
    )
    tokenizer = load_tokenizer(options.model, option="model", trust_remote_code=options.trust_remote_code)
    found = sequence_kl(
        policy,
        reference,
        [prompt_ids(prompt, tokenizer, options.prompt_format) for prompt in prompts.prompts],
        samples=options.kl_samples,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        batch_size=options.batch_size,
        end_ids=end_token_ids(policy, tokenizer),
        progress=lambda done, total: progress("Measuring KL", done, total, None),
    )
    return asdict(found)


def _side(source: Source, answers: Answers) -> dict[str, Any]:
    """What is known of one model's answers; lengths in characters, as AlpacaEval counts."""
    tokens = [count for count in answers.tokens if count is not None]
    ended = [done for done in answers.finished if done is not None]
    return {
        "kind": source.kind,
        "name": source.name,
        "mean_characters": sum(map(len, answers.texts)) / len(answers.texts),
        "mean_tokens": sum(tokens) / len(tokens) if tokens else None,
        "cut": 1 - sum(ended) / len(ended) if ended else None,
        "empty": sum(is_blank(text) for text in answers.texts),
        "generated_now": answers.generated,
        "prompt_format": None if answers.chat is None else "chat" if answers.chat else "text",
    }


def _results(
    options: EvaluateOptions, inputs: _Inputs, answers: dict[str, Answers], judgement: Judgement
) -> dict[str, Any]:
    from mallowspo.evaluation.length_control import length_controlled_win_rate
    from mallowspo.evaluation.style_control import style_controlled_win_rate
    from mallowspo.evaluation.win_rates import both_orders, check_orders, no_result, win_rate, win_rate_by_tercile

    first, second = judgement.model_first_n, judgement.model_second_n
    preference = both_orders(first, second) if judgement.both_orders else first
    lengths = {side: [len(text) for text in answers[side].texts] for side in SIDES}
    bootstrap = {"resamples": options.resamples, "seed": options.seed}
    control = style = terciles = None
    if len(preference) > 1:
        texts = {side: answers[side].texts for side in SIDES}
        style = style_controlled_win_rate(preference, texts["model"], texts["baseline"], seed=options.seed)
        control = length_controlled_win_rate(
            preference,
            lengths["model"],
            lengths["baseline"],
            difficulty_n=inputs.difficulty,
            gamed=inputs.gamed,
            seed=options.seed,
        )
    if inputs.dispersion is not None:
        terciles = [asdict(group) for group in win_rate_by_tercile(preference, inputs.dispersion, **bootstrap)]
    orders = check_orders(first, second) if judgement.both_orders else None
    return {
        "format": 1,
        "no_result": None
        if orders is None
        else no_result(orders, len(preference), judgement.undecided + judgement.refused),
        "model": _side(inputs.sources["model"], answers["model"]),
        "baseline": _side(inputs.sources["baseline"], answers["baseline"]),
        "prompts": {"source": options.prompts, "count": len(preference)},
        "win_rate": asdict(win_rate(preference, **bootstrap)),
        "length_controlled": None if control is None else asdict(control),
        "style_controlled": None if style is None else asdict(style),
        "terciles": terciles,
        "terciles_by": None if terciles is None else options.dispersion_column or "dispersion",
        "orders": None if orders is None else asdict(orders),
        "judge": {"name": options.judge, "kind": inputs.judge.kind}
        | inputs.judge.facts
        | {
            "identical": judgement.identical,
            "undecided": judgement.undecided,
            "refused": judgement.refused,
            "asked_now": judgement.asked,
            "usage": None if judgement.usage is None else asdict(judgement.usage),
            "answered_by": dict(judgement.answered_by),
            "others_in_log": list(judgement.others),
            **judgement.details,
        },
        "requests_now": {
            option: {"requests": endpoint.requests, "failed": dict(endpoint.failures)}
            for option, endpoint in inputs.endpoints.items()
        },
        "preferences": preference.tolist(),
        "settings": without_secrets({name: value for name, value in asdict(options).items() if name != "output_dir"}),
        "versions": library_versions(),
    }


def _write(
    options: EvaluateOptions,
    prompts: PromptSet,
    answers: dict[str, Answers],
    pairs: list[AnswerPair],
    judgement: Judgement,
    results: dict[str, Any],
) -> None:
    from mallowspo.cli.evaluate_report import write_evaluation_report
    from mallowspo.evaluation.exports import Comparison, export_comparison
    from mallowspo.evaluation.generation import alpaca_outputs

    folder = options.output_dir
    comparison = Comparison(
        pairs,
        judgement,
        model=results["model"]["name"],
        baseline=results["baseline"]["name"],
        judge=options.judge,
        uids=_texts(prompts, "uid", unique=True),
        categories=_texts(prompts, "category"),
    )
    export_comparison(comparison, options.export, folder / "export")
    for side in SIDES:
        name = results[side]["name"]
        write_json(folder / f"{side}_outputs.json", alpaca_outputs(prompts.prompts, answers[side].texts, name))
    write_json(folder / "results.json", results)
    write_evaluation_report(folder, results, pairs)
