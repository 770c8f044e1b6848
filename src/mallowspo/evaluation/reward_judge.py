"""Judges that need no server: a reward model on this machine, or a Python function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mallowspo.errors import InputError
from mallowspo.evaluation.json_log import JsonLog
from mallowspo.evaluation.verdicts import (
    FIRST_WINS,
    AnswerPair,
    Judgement,
    Progress,
    Task,
    VerdictState,
    judgement_of,
    states_of,
    tasks_for,
)

__all__ = ["JudgeCallable", "judge_with_callable", "load_judge_callable"]


@dataclass(frozen=True)
class JudgeCallable:
    """A Python function that judges.

    Attributes:
        name: `module:function`.
        digest: Of its module's source, so that an edited judge is asked anew.
        function: (prompt, answer A, answer B) -> `A`, `B`, `tie`, or a preference for A in [0, 1].
    """

    name: str
    digest: str
    function: Callable[[str, str, str], str | float]


def load_judge_callable(name: str) -> JudgeCallable:
    """Find a Python judge.

    Args:
        name: `module:function`; the current folder is searched too.

    Returns:
        The judge.

    Raises:
        InputError: There is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"judge: the module {module_name!r} of {name!r} cannot be imported ({error})") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        there = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise InputError(
            f"judge: {module_name!r} has no function {function_name!r}; it has {', '.join(there) or 'none'}"
        )
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        source = ""
    return JudgeCallable(name, hashlib.sha256(source.encode()).hexdigest()[:16], function)


def judge_with_callable(
    pairs: Sequence[AnswerPair], judge: JudgeCallable, log_path: Path, *, progress: Progress | None = None
) -> Judgement:
    """Ask a Python function which answer is better, in both orders.

    Args:
        pairs: What to judge.
        judge: From `load_judge_callable`.
        log_path: The log of verdicts; what stands in it is not asked again.
        progress: Called with verdicts done, verdicts in all, and None.

    Returns:
        The verdicts.

    Raises:
        InputError: The function returns something else than it may.
    """
    by_pair = tasks_for(pairs, judge=judge.name, source=judge.digest)
    unique = {task.key: task for both in by_pair for task in both}
    with JsonLog(log_path) as log:
        states = states_of(log.records)
        waiting = [task for task in unique.values() if states.setdefault(task.key, VerdictState()).verdict is None]
        for number, task in enumerate(waiting):
            states[task.key].verdict = _call(judge, task)
            log.append(
                {
                    "key": task.key,
                    "prompt_index": task.prompt_index,
                    "order": task.order,
                    "verdict": states[task.key].verdict,
                    "judge": judge.name,
                }
            )
            if progress is not None:
                progress(len(unique) - len(waiting) + number + 1, len(unique), None)
        return judgement_of(by_pair, states, asked=len(waiting))


def _call(judge: JudgeCallable, task: Task) -> str | float:
    verdict = judge.function(task.pair.prompt, *task.pair.shown(task.order))
    if isinstance(verdict, str) and verdict in FIRST_WINS:
        return verdict
    try:
        if not isinstance(verdict, str) and 0.0 <= float(verdict) <= 1.0:
            return float(verdict)
    except (TypeError, ValueError):
        pass
    raise InputError(f"judge: {judge.name} returned {verdict!r}, expected 'A', 'B', 'tie' or a number in [0, 1]")
