"""`judge_with_endpoint`: a language model as the judge in one call, for scripts; `judge.py` holds the judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mallowspo.evaluation.endpoint import Endpoint
from mallowspo.evaluation.judge import DEFAULT_PARAMETERS, AnswerPair, EndpointJudge, Judgement, Prices, Progress
from mallowspo.evaluation.judge_prompt import DEFAULT_TEMPLATE, JudgeTemplate

__all__ = ["judge_with_endpoint"]


def judge_with_endpoint(
    pairs: Sequence[AnswerPair],
    endpoint: Endpoint,
    log_path: Path,
    *,
    template: JudgeTemplate = DEFAULT_TEMPLATE,
    parameters: Mapping[str, Any] | None = None,
    attempts: int = 3,
    prices: Prices | None = None,
    progress: Progress | None = None,
) -> Judgement:
    """Ask a language model which answer is better, in both orders.

    Args:
        pairs: What to judge.
        endpoint: The judge.
        log_path: The log of verdicts (JSON lines); what stands in it is not asked again.
        template: The question.
        parameters: Further fields of each request; None for temperature 0 and 1,024 tokens.
        attempts: Replies that are asked for while a verdict cannot be read.
        prices: For the cost.
        progress: Called with verdicts done, verdicts in all, and the usage so far.

    Returns:
        The verdicts. What stays undecided or refused is counted as a tie and reported.

    Raises:
        InputError: The endpoint gives no usable reply, or refuses the key, the model or every request; the message
            says how much is saved.
    """
    settings = DEFAULT_PARAMETERS if parameters is None else parameters
    return EndpointJudge(endpoint, template, settings, attempts, prices).judge_into(pairs, log_path, progress)
