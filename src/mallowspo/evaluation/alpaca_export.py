"""Answers in the format that AlpacaEval reads and publishes."""

from __future__ import annotations

from collections.abc import Sequence

from mallowspo.evaluation.prompts import EvaluationPrompt

__all__ = ["alpaca_outputs"]


def alpaca_outputs(
    prompts: Sequence[EvaluationPrompt], answers: Sequence[str], generator: str
) -> list[dict[str, str]]:
    """Put prompts and answers into the rows of a `model_outputs.json`.

    Args:
        prompts: What was asked.
        answers: One per prompt.
        generator: The name under which the model shall stand in a leaderboard.

    Returns:
        Objects with `instruction`, `output` and `generator`.

    Example:
        >>> alpaca_outputs([EvaluationPrompt(0, "Hi")], ["Hello."], "mine")
        [{'instruction': 'Hi', 'output': 'Hello.', 'generator': 'mine'}]
    """
    return [
        {"instruction": prompt.text, "output": answer, "generator": generator}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
