"""Answers of every policy at several temperatures, judged against the reference's and against DPO's.

All pairs of a study go to the judge in one call: a judge that is a model is loaded once, and an address is asked for
each pair once, however often the study is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.generation import Answers, LocalModel, generate_locally
from mallowspo.evaluation.local_model import Sampling
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.evaluation.verdicts import AnswerPair, Judgement
from mallowspo.evaluation.win_rates import both_orders
from mallowspo.experiments.dialogue_config import HELDOUT_JUDGE, DialogueConfig
from mallowspo.experiments.dialogue_data import PairSet
from mallowspo.experiments.dialogue_runs import Bench, policy_dir, prompts_that_fit
from mallowspo.progress import Progress

__all__ = ["Comparison", "JudgedAnswers", "generate_answers", "judge_everything"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline at one temperature.

    Attributes:
        method: Whose answers are judged.
        baseline: `reference` or `dpo`.
        temperature: Of both answers.
        preference_sp: Preference for the method's answer under each seed on each prompt, shape (S, P), in [0, 1].
        length_sp: Characters of the method's answers, shape (S, P).
        baseline_length_sp: Of the baseline's.
    """

    method: str
    baseline: str
    temperature: float
    preference_sp: Floats
    length_sp: Floats
    baseline_length_sp: Floats


@dataclass(frozen=True)
class JudgedAnswers:
    """What the judge said.

    Attributes:
        comparisons: All of them.
        human_n: The judge's preference for the response that people chose, on human pairs, shape (N,).
        human: These pairs.
        judgement: Counts and usage.
    """

    comparisons: tuple[Comparison, ...]
    human_n: Floats
    human: PairSet
    judgement: Judgement


Key = tuple[str, int, float]  # method, seed, temperature; the reference has seed -1


def generate_answers(config: DialogueConfig, bench: Bench, progress: Progress) -> dict[Key, Answers]:
    """Let the reference and every judged policy answer.

    Args:
        config: Prompts, temperatures, and which β is judged.
        bench: The data.
        progress: Called as answers come.

    Returns:
        Method, seed, temperature -> answers, in the order of `prompts_that_fit`.

    Raises:
        InputError: A policy is not where its job left it.
    """
    setup, prompts = config.setup, judged_prompts(config, bench)
    jobs = [job for job in config.jobs if job.method == "reference" or job.beta == config.shown_beta]
    found: dict[Key, Answers] = {}
    total = len(jobs) * len(config.temperatures)
    for job in jobs:
        folder = policy_dir(setup, job)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"output_dir: {folder} is missing, although {setup.folder / 'jobs.jsonl'} says that it was trained; "
                "take that file away too, or give another output_dir"
            )
        # The option is part of each answer's seed: two models answer independently.
        local = LocalModel(
            str(folder), option=job.name, dtype="float32", prompt_format="text", batch_size=setup.sampled_at_a_time,
            use_cpu=setup.use_cpu, trust_remote_code=setup.trust_remote_code,
        )  # fmt: skip
        for temperature in config.temperatures:
            progress("Answering", len(found), total)
            found[job.method, job.seed, temperature] = generate_locally(
                prompts,
                local,
                Sampling(setup.max_new_tokens, temperature),
                setup.folder / "generations.jsonl",
                seed=setup.data_seed,
            )
    progress("Answering", total, total)
    return found


def judged_prompts(config: DialogueConfig, bench: Bench) -> list[EvaluationPrompt]:
    """The prompts whose answers are judged."""
    prompts = prompts_that_fit(bench, config.judged_prompts)
    if not prompts:
        setup = config.setup
        raise InputError(
            f"max_new_tokens: got {setup.max_new_tokens}; no prompt of {setup.test_data} leaves room for so many in "
            f"max_length {setup.max_length}"
        )
    return [EvaluationPrompt(index, text) for index, (text, _) in enumerate(prompts)]


def judge_everything(
    config: DialogueConfig, bench: Bench, answers: dict[Key, Answers], progress: Progress
) -> JudgedAnswers:
    """Have all comparisons judged, and the human pairs of the in-distribution test set, by one judge in one call.

    Args:
        config: Methods, seeds, temperatures, and the judge.
        bench: The data.
        answers: Of `generate_answers`.
        progress: Called as verdicts come.

    Returns:
        Preferences per comparison.
    """
    prompts, human = judged_prompts(config, bench), bench.data.tests[0]
    sides = [
        (method, baseline, temperature)
        for baseline in ("reference", "dpo")
        for method in config.methods
        if method != baseline
        for temperature in config.temperatures
    ]
    texts: list[str] = []
    pairs: list[AnswerPair] = []
    lengths: list[tuple[int, int]] = []
    for method, baseline, temperature in sides:
        for seed in config.seeds:
            mine = answers[method, seed, temperature].texts
            theirs = answers[baseline, -1 if baseline == "reference" else seed, temperature].texts
            for prompt, answer, other in zip(prompts, mine, theirs, strict=True):
                texts.append(prompt.text)
                pairs.append(AnswerPair(prompt.text, answer, other))
                lengths.append((len(answer), len(other)))
    for row in human.rows:
        texts.append(row["prompt"])
        pairs.append(AnswerPair(row["prompt"], row["chosen"].strip(), row["rejected"].strip()))
    judgement = open_judge(config)(
        [EvaluationPrompt(index, text) for index, text in enumerate(texts)],
        pairs,
        lambda done, total: progress("Judging", done, total),
    )
    first, second = judgement.model_first_n, judgement.model_second_n
    preference = both_orders(first, second) if judgement.both_orders else first
    shape = (len(sides), len(config.seeds), len(prompts))
    judged = len(lengths)
    preference_csp = preference[:judged].reshape(shape)
    length_csp2 = np.asarray(lengths, dtype=np.float64).reshape(*shape, 2)
    comparisons = tuple(
        Comparison(*side, preference_csp[c], length_csp2[c, ..., 0], length_csp2[c, ..., 1])
        for c, side in enumerate(sides)
    )
    return JudgedAnswers(comparisons, preference[judged:], human, judgement)


Judge = Callable[[Sequence[EvaluationPrompt], list[AnswerPair], Callable[[int, int], None]], Judgement]


def open_judge(config: DialogueConfig) -> Judge:
    """Make the judge that the settings name.

    Args:
        config: `judge` and what belongs to it.

    Returns:
        From prompts and pairs to verdicts; what its log in the study's folder holds is not asked again.

    Raises:
        InputError: It is none of the forms, or cannot be opened.
    """
    from mallowspo.evaluation.judges import judge_kind
    from mallowspo.evaluation.reward_judge import (
        RewardModel,
        check_reward_model,
        judge_with_callable,
        judge_with_reward_model,
        load_judge_callable,
    )

    folder, name = config.setup.folder, config.judge
    if name == HELDOUT_JUDGE:
        name = f"reward:{config.setup.judge_dir}"
    kind = judge_kind(name)
    if kind == "endpoint":
        return _endpoint_judge(config, folder)
    if kind == "reward":
        reward = RewardModel(
            name.removeprefix("reward:"),
            use_cpu=config.setup.use_cpu,
            trust_remote_code=config.setup.trust_remote_code,
        )
        check_reward_model(reward)

        def by_reward(prompts: Any, pairs: Any, report: Any) -> Judgement:
            return judge_with_reward_model(
                prompts, pairs, reward, folder / "rewards.jsonl", progress=lambda done, total, _: report(done, total)
            )

        return by_reward
    function = load_judge_callable(name)

    def by_function(prompts: Any, pairs: Any, report: Any) -> Judgement:
        return judge_with_callable(
            pairs, function, folder / "verdicts.jsonl", progress=lambda done, total, _: report(done, total)
        )

    return by_function


def _endpoint_judge(config: DialogueConfig, folder: Path) -> Judge:
    from mallowspo.evaluation.endpoint import Endpoint, EndpointAddress, RequestLimits, api_key_from
    from mallowspo.evaluation.judging import judge_with_endpoint

    key = api_key_from(config.judge_api_key_env, "judge_api_key_env")
    endpoint = Endpoint(EndpointAddress.parse(config.judge, "judge"), RequestLimits(), api_key=key, option="judge")

    def by_endpoint(prompts: Any, pairs: Any, report: Any) -> Judgement:
        try:
            return judge_with_endpoint(
                pairs, endpoint, folder / "verdicts.jsonl", progress=lambda done, total, _: report(done, total)
            )
        finally:
            endpoint.close()

    return by_endpoint
