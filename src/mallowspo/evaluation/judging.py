"""A language model as the judge: each pair in both orders, every reply kept, no verdict asked for twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import (
    Endpoint,
    EndpointUnavailable,
    RequestRefused,
    ask_until_answered,
    work_through,
)
from mallowspo.evaluation.json_log import JsonLog
from mallowspo.evaluation.judge_prompt import (
    DEFAULT_TEMPLATE,
    REMINDER,
    UNDECIDED,
    JudgeTemplate,
    parse_verdict,
    without_thinking,
)
from mallowspo.evaluation.verdicts import (
    REFUSED,
    AnswerPair,
    Judgement,
    Prices,
    Progress,
    Tally,
    Task,
    VerdictState,
    judgement_of,
    states_of,
    tasks_for,
)

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
    settings = {"temperature": 0, "max_tokens": 1024} if parameters is None else dict(parameters)
    settings = {"temperature": 0, "max_tokens": 1024} if parameters is None else dict(parameters)
    by_pair = tasks_for(pairs, judge=str(endpoint.address), template=template.version, parameters=settings)
    unique = {task.key: task for both in by_pair for task in both}
    tally = Tally(len(unique), prices, progress)
    with JsonLog(log_path) as log:
        states = states_of(log.records, str(log_path))
        for record in log.records:
            if record.get("key") in unique:
                tally.add_reply(record)
        asker = _Asker(endpoint, log, tally, template, settings, attempts)
        waiting = [task for task in unique.values() if asker.open(states.setdefault(task.key, VerdictState()))]
        tally.add_done(len(unique) - len(waiting))
        answered = len(waiting) < len(unique)

        def ask(task: Task) -> bool:
            asker.ask(task, states[task.key])
            return not states[task.key].refused

        try:
            done = 0 if answered else ask_until_answered(waiting, ask)
            work_through(waiting[done:], ask, endpoint)
        except RequestRefused as error:
            raise InputError(
                f"judge: {error}; the last: {log.records[-1]['reply']}; check judge_parameters and the prompts"
            ) from error
        except EndpointUnavailable as error:
            saved = sum(states[key].verdict is not None for key in unique)
            raise InputError(
                f"judge: {error}. {saved} of {len(unique)} verdicts are saved in {log_path}; once the judge answers, "
                "the same command asks for the rest"
            ) from error
        return judgement_of(by_pair, states, asked=len(waiting), usage=tally.usage())


@dataclass(frozen=True)
class _Asker:
    """Asks for one verdict at a time; threads share it."""

    endpoint: Endpoint
    log: JsonLog
    tally: Tally
    template: JudgeTemplate
    settings: dict[str, Any]
    attempts: int

    def open(self, state: VerdictState) -> bool:
        """Whether there is more to ask."""
        return state.verdict is None and not state.refused and state.undecided < self.attempts

    def ask(self, task: Task, state: VerdictState) -> None:
        """Ask until the verdict can be read; every reply goes into the log before anything else happens."""
        question = {"role": "user", "content": self.template.fill(task.pair.prompt, *task.pair.shown(task.order))}
        while self.open(state):
            messages = [question]
            last = without_thinking(state.last_reply).strip()
            if state.undecided and last:
                messages += [{"role": "assistant", "content": last}, {"role": "user", "content": REMINDER}]
            elif state.undecided:  # servers refuse an empty turn
                messages = [{"role": "user", "content": f"{question['content']}\n\n{REMINDER}"}]
            record = self._record(task, messages)
            self.log.append(record)
            self.tally.add_reply(record)
            state.refused = record["verdict"] == REFUSED
            if record["verdict"] == UNDECIDED:
                state.undecided += 1
                state.last_reply = record["reply"]
            elif not state.refused:
                state.verdict = record["verdict"]
        self.tally.add_done()

    def _record(self, task: Task, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Send one request and make its line for the log."""
        record: dict[str, Any] = {
            "key": task.key,
            "prompt_index": task.prompt_index,
            "order": task.order,
            "judge": str(self.endpoint.address),
            "template": self.template.version,
        }
        try:
            reply = self.endpoint.chat(messages, self.settings)
        except RequestRefused as error:
            return record | {"verdict": REFUSED, "reply": str(error)}
        except EndpointUnavailable as error:
            raise EndpointUnavailable(f"{error}; it was asked about row {task.prompt_index}") from error
        return record | {
            "verdict": parse_verdict(reply.text),
            "reply": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "requests": reply.attempts,
        }
