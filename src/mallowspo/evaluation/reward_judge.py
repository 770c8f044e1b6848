"""Judges that need no server: a reward model on this machine, or a Python function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mallowspo.errors import InputError
from mallowspo.evaluation.json_log import JsonLog, key_of
from mallowspo.evaluation.local_model import (
    context_length,
    inference_device,
    load_tokenizer,
    model_stamp,
    render_chat,
)
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
from mallowspo.loading import check_saved_model, loading

if TYPE_CHECKING:
    from mallowspo.evaluation.prompts import EvaluationPrompt

__all__ = [
    "JudgeCallable",
    "RewardModel",
    "check_reward_model",
    "judge_with_callable",
    "judge_with_reward_model",
    "load_classifier",
    "load_judge_callable",
]


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
    except Exception as error:  # the user's module may raise anything
        raise InputError(
            f"judge: the module {module_name!r} of {name!r} cannot be imported ({type(error).__name__}: {error})"
        ) from error
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
        states = states_of(log.records, str(log_path))
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
    try:
        verdict = judge.function(task.pair.prompt, *task.pair.shown(task.order))
    except Exception as error:  # the user's function may raise anything
        raise InputError(
            f"judge: {judge.name} failed on row {task.prompt_index} ({type(error).__name__}: {error})"
        ) from error
    if isinstance(verdict, str) and verdict in FIRST_WINS:
        return verdict
    try:
        if not isinstance(verdict, str) and 0.0 <= float(verdict) <= 1.0:
            return float(verdict)
    except (TypeError, ValueError):
        pass
    raise InputError(f"judge: {judge.name} returned {verdict!r}, expected 'A', 'B', 'tie' or a number in [0, 1]")


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier with one output, and how it is run.

    Attributes:
        name_or_path: A folder or a hub name.
        dtype: Of the weights.
        batch_size: Answers at a time.
        use_cpu: Leave an accelerator alone.
        trust_remote_code: Run code that comes with the model.
    """

    name_or_path: str
    dtype: str = "auto"
    batch_size: int = 8
    use_cpu: bool = False
    trust_remote_code: bool = False


def judge_with_reward_model(
    prompts: Sequence[EvaluationPrompt],
    pairs: Sequence[AnswerPair],
    reward: RewardModel,
    log_path: Path,
    *,
    progress: Progress | None = None,
) -> Judgement:
    """Let a reward model score every answer alone; the higher reward wins, equal rewards are a tie.

    Args:
        prompts: What was asked; rendered by the model's chat template where it has one, else put before the answer.
        pairs: The answers, one pair per prompt.
        reward: The model.
        log_path: The log of rewards (JSON lines); what stands in it is not computed again.
        progress: Called with rewards done, rewards in all, and None.

    Returns:
        The verdicts; the mean rewards are among the details.

    Raises:
        InputError: The model cannot be loaded, has more than one output, or an answer does not fit into it.
    """
    tokenizer = load_tokenizer(reward.name_or_path, option="judge", trust_remote_code=reward.trust_remote_code)
    ids = [
        [_reward_ids(tokenizer, prompt, text) for text in (pair.answer, pair.baseline)]
        for prompt, pair in zip(prompts, pairs, strict=True)
    ]
    stamp = model_stamp(reward.name_or_path)
    keys = [[key_of(ids=row, model=stamp, dtype=reward.dtype) for row in both] for both in ids]
    rows = {key: row for both in zip(keys, ids, strict=True) for key, row in zip(*both, strict=True)}
    with JsonLog(log_path) as log:
        rewards = {
            str(record.get("key")): _reward_of(record, f"{log_path}: line {number}")
            for number, record in enumerate(log.records, start=1)
        }
        waiting = sorted((key for key in rows if key not in rewards), key=lambda key: len(rows[key]))
        _score(rows, waiting, reward, log, rewards, progress)
    table = np.asarray([[rewards[key] for key in both] for both in keys])
    preference = 0.5 + 0.5 * np.sign(table[:, 0] - table[:, 1])
    return Judgement(
        model_first_n=preference,
        model_second_n=preference,
        both_orders=False,
        identical=sum(pair.answer == pair.baseline for pair in pairs),
        asked=len(waiting),
        details={"mean_reward_model": float(table[:, 0].mean()), "mean_reward_baseline": float(table[:, 1].mean())},
    )


def _reward_of(record: Mapping[str, Any], where: str) -> float:
    reward = record.get("reward")
    if not isinstance(reward, int | float) or isinstance(reward, bool) or not math.isfinite(reward):
        raise InputError(
            f"{where} has the reward {reward!r}, expected a finite number; take the line out, or give "
            "another output_dir"
        )
    return float(reward)


def _reward_ids(tokenizer: Any, prompt: EvaluationPrompt, answer: str) -> list[int]:
    if getattr(tokenizer, "chat_template", None) is None:
        if prompt.messages is not None:
            raise InputError(
                f"judge: prompt {prompt.index} is a conversation, and the reward model has no chat template"
            )
        return list(tokenizer(prompt.text + answer)["input_ids"])
    messages = [*prompt.conversation(), {"role": "assistant", "content": answer}]
    text = render_chat(tokenizer, messages, f"judge: the answer to row {prompt.index}")
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _score(
    rows: Mapping[str, list[int]],
    waiting: Sequence[str],
    reward: RewardModel,
    log: JsonLog,
    rewards: dict[str, float],
    progress: Progress | None,
) -> None:
    """Compute the rewards that are missing, into the log and into `rewards`."""
    if not waiting:
        return
    import torch

    model = _load_reward_model(reward)
    room = context_length(model.config)
    longest = len(rows[waiting[-1]])
    if room is not None and longest > room:
        raise InputError(f"judge: an answer with its prompt has {longest} tokens, {reward.name_or_path} takes {room}")
    for batch in _equal_lengths(waiting, rows, reward.batch_size if model.config.pad_token_id is not None else 1):
        # Without padding: a classifier finds the last token by the padding token's value, which may be a real one.
        ids = torch.tensor([rows[key] for key in batch], device=model.device)
        with torch.no_grad():
            values = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0].float().tolist()
        if not all(map(math.isfinite, values)):
            raise InputError(
                f"judge: {reward.name_or_path} gives a reward that is not a finite number; try dtype float32"
            )
        log.append(*({"key": key, "reward": value} for key, value in zip(batch, values, strict=True)))
        rewards.update(zip(batch, values, strict=True))
        if progress is not None:
            progress(sum(key in rewards for key in rows), len(rows), None)


def _equal_lengths(keys: Sequence[str], rows: Mapping[str, list[int]], size: int) -> Iterator[list[str]]:
    for _, group in itertools.groupby(keys, key=lambda key: len(rows[key])):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def check_reward_model(reward: RewardModel) -> None:
    """Raise `InputError` where a model's configuration shows that it is no reward model; no weights are read."""
    config = check_saved_model("judge", reward.name_or_path, trust_remote_code=reward.trust_remote_code)
    if config is None:
        return
    kinds = list(config.architectures or [])
    if kinds and all(kind.endswith("ForCausalLM") for kind in kinds):
        raise InputError(
            f"judge: {reward.name_or_path} is a language model ({kinds[0]}) without an output for rewards; it "
            "would be drawn at random; expected a model that was trained to give rewards"
        )
    _check_outputs(config, reward.name_or_path)


def _check_outputs(config: Any, name: str) -> None:
    if config.num_labels != 1:
        raise InputError(f"judge: {name} has {config.num_labels} outputs, expected a reward model with one")


def _load_reward_model(reward: RewardModel) -> Any:
    model = load_classifier(
        reward.name_or_path, option="judge", dtype=reward.dtype, trust_remote_code=reward.trust_remote_code
    )
    _check_outputs(model.config, reward.name_or_path)
    return model.to(inference_device(reward.use_cpu)).eval()


def load_classifier(name: str, *, option: str, dtype: str = "auto", trust_remote_code: bool = False) -> Any:
    """Load a sequence classifier whose every weight was saved.

    Args:
        name: A folder or a hub name.
        option: The option that named it, for messages.
        dtype: Of the weights.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The model, on the CPU.

    Raises:
        InputError: It cannot be loaded, or its output would be drawn at random.
    """
    from transformers import AutoModelForSequenceClassification

    with loading(option, name):
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    model, info = loaded
    if info["missing_keys"]:
        raise InputError(
            f"{option}: {name} has no weights for {', '.join(sorted(info['missing_keys'])[:3])}, which would be drawn "
            "at random; expected a model that was trained to give rewards"
        )
    return model
