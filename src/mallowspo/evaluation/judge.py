"""Who prefers one answer to another: a model behind an address, a reward model, or a Python function.

`open_judge` makes a judge of a name. It is asked about any pairs of answers to any prompts in one call. A verdict is
known by a digest of all that it depends on: the prompt, both answers, their order, the judge with its parameters, and
the template's version. The log of verdicts is therefore also the memory: what stands in it is not asked again, by this
run or the next.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import itertools
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import (
    Endpoint,
    EndpointAddress,
    EndpointUnavailable,
    RequestLimits,
    RequestRefused,
    api_key_from,
)
from mallowspo.evaluation.json_log import JsonLog, key_of
from mallowspo.evaluation.judge_prompt import (
    DEFAULT_TEMPLATE,
    REMINDER,
    UNDECIDED,
    JudgeTemplate,
    parse_verdict,
    read_template,
    without_thinking,
)
from mallowspo.evaluation.local_model import (
    check_model_folder,
    context_length,
    inference_device,
    load_classifier,
    load_tokenizer,
    model_stamp,
    render_chat,
)
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.loading import check_saved_model

__all__ = [
    "DEFAULT_PARAMETERS",
    "AnswerPair",
    "CallableJudge",
    "EndpointJudge",
    "Judge",
    "Judgement",
    "Prices",
    "RewardJudge",
    "Usage",
    "check_verdict",
    "judge_kind",
    "open_judge",
    "reward_ids",
]

Floats = NDArray[np.float64]

DEFAULT_PARAMETERS: Mapping[str, Any] = MappingProxyType({"temperature": 0, "max_tokens": 1024})
"""What a language model that judges is asked with, unless told otherwise."""
REFUSED = "refused"
# Preference for the answer shown first.
FIRST_WINS = {"A": 1.0, "B": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class AnswerPair:
    """What is judged: two answers to a prompt, here called the model's and the baseline's."""

    prompt: EvaluationPrompt
    answer: str
    baseline: str
    vote: int = 0  # another number asks a judge again about the same pair

    @classmethod
    def of_text(cls, prompt: str, answer: str, baseline: str, row: int | None = None) -> AnswerPair:
        """A pair of which the prompt is plain text, from so many rows into the data."""
        return cls(EvaluationPrompt(row or 0, prompt), answer, baseline)


@dataclass(frozen=True)
class Prices:
    """What a judge's tokens cost, in the user's currency per million tokens."""

    prompt: float
    completion: float

    @classmethod
    def parse(cls, text: str) -> Prices:
        """Read `IN,OUT`, such as `2.5,10`."""
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        if len(values) != 2 or not all(0 <= value < float("inf") for value in values):
            raise InputError(f"judge_prices: got {text!r}, expected IN,OUT per million tokens, such as 2.5,10")
        return cls(*values)


@dataclass(frozen=True)
class Usage:
    """What the verdicts in a log took, over all runs that wrote to it; tokens as the server counted."""

    replies: int  # undecided ones included
    prompt_tokens: int
    completion_tokens: int
    without_count: int  # replies for which the server gave no count
    cost: float | None  # in the currency of the prices; None where none were given


Progress = Callable[[int, int, Usage | None], None]


@dataclass(frozen=True)
class Judgement:
    """The verdicts on N pairs: preferences for the model in [0, 1], ½ for a tie, each of shape (N,)."""

    model_first_n: Floats  # when its answer stood first
    model_second_n: Floats
    both_orders: bool = True  # False for a reward model, which scores an answer alone
    identical: int = 0  # pairs with the same text twice, ties without being asked about
    undecided: int = 0  # verdicts (of 2N) that stayed so after all attempts, counted as ties
    refused: int = 0  # verdicts that the server refused to give, such as for a prompt too long, counted as ties
    asked: int = 0  # by this run; the rest was in the log
    usage: Usage | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    missing_n: NDArray[np.bool_] | None = None  # (2, N): no verdict, in either order; None where each has one
    replies: Sequence[tuple[str, str]] = ()  # what the judge wrote of each pair, in either order
    # Model that a server says it was → verdicts; of two and more, no one judge gave them.
    answered_by: Mapping[str, int] = field(default_factory=dict)
    others: Sequence[str] = ()  # further judges whose verdicts lie in the log; none of them counts here


class Judge(ABC):
    """What every judge is asked by."""

    kind: ClassVar[str]
    doing: ClassVar[str] = "Judging"

    @property
    def facts(self) -> dict[str, Any]:
        """What the results tell of the judge beside its name."""
        return {}

    @property
    def stamp(self) -> str:
        """What tells one state of the judge from another under the same name; empty where nothing does."""
        return ""

    @abstractmethod
    def judge(self, pairs: Sequence[AnswerPair], folder: Path, progress: Progress | None = None) -> Judgement:
        """Give a verdict on every pair; what the log in the folder holds is not paid for again."""

    def close(self) -> None:  # noqa: B027 - most judges hold nothing
        """Give connections back."""


def judge_kind(judge: str) -> str:
    """Tell what kind of judge a name means: `endpoint`, `reward` or `callable`."""
    if judge.startswith(("http://", "https://")):
        EndpointAddress.parse(judge, "judge")
        return EndpointJudge.kind
    if judge.startswith("reward:"):
        check_model_folder(judge.removeprefix("reward:"), "judge")
        return RewardJudge.kind
    module, colon, function = judge.partition(":")
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return CallableJudge.kind
    raise InputError(
        f"judge: got {judge!r}, expected an address such as http://localhost:8000/v1#model-name, "
        "reward:MODEL for a reward model, or module:function for a Python function"
    )


def open_judge(
    name: str,
    *,
    template: Path | None = None,
    parameters: Mapping[str, Any] = DEFAULT_PARAMETERS,
    attempts: int = 3,
    prices: str | None = None,
    limits: RequestLimits | None = None,
    api_key_env: str | None = None,
    dtype: str = "auto",
    batch_size: int = 8,
    use_cpu: bool = False,
    trust_remote_code: bool = False,
) -> Judge:
    """From a judge's name to the judge; the first half of the settings is for an address, the second for a model."""
    kind = judge_kind(name)
    if kind == CallableJudge.kind:
        return CallableJudge.load(name)
    if kind == RewardJudge.kind:
        reward = RewardJudge(name.removeprefix("reward:"), dtype, batch_size, use_cpu, trust_remote_code)
        reward.check()
        return reward
    question = read_template(template) if template is not None else DEFAULT_TEMPLATE
    cost = Prices.parse(prices) if prices is not None else None
    key = api_key_from(api_key_env, "judge_api_key_env")
    endpoint = Endpoint(EndpointAddress.parse(name, "judge"), limits or RequestLimits(), api_key=key, option="judge")
    return EndpointJudge(endpoint, question, parameters, attempts, cost)


# --------------------------------------------------------------------------------------------------------------------
# Verdicts on pairs, each in both orders


@dataclass
class Verdict:
    """One verdict to be had, and what is known of it; equal questions share it."""

    key: str
    first: str
    second: str
    prompt: EvaluationPrompt
    order: str
    said: str | float | None = None  # `A`, `B`, `tie` or a preference for A
    undecided: int = 0  # replies so far that could not be read
    last_reply: str = ""
    answered_by: str = ""  # the model that gave the verdict, where a server says it
    refused: bool = False  # in this run

    def take(self, record: Mapping[str, Any]) -> None:
        """Learn from a line of the log; of two verdicts the first stands."""
        if self.said is not None or record["verdict"] == REFUSED:
            return
        self.last_reply = str(record.get("reply", ""))
        if record["verdict"] == UNDECIDED:
            self.undecided += 1
        else:
            self.said = record["verdict"]
            self.answered_by = str(record.get("answered_by") or "")

    @property
    def first_wins(self) -> float | None:
        """Preference for the answer shown first; None where there is no verdict."""
        return FIRST_WINS[self.said] if isinstance(self.said, str) else self.said


def check_verdict(record: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` where a line of a log holds no verdict, or one out of range."""
    verdict = record.get("verdict")
    fine = (
        verdict in (*FIRST_WINS, UNDECIDED, REFUSED)
        if isinstance(verdict, str)
        else isinstance(verdict, int | float) and not isinstance(verdict, bool) and 0 <= verdict <= 1
    )
    if not fine or not isinstance(record.get("key"), str):
        raise InputError(
            f"{where} has the key {record.get('key')!r} and the verdict {verdict!r}, expected a key and one of "
            f"{', '.join((*FIRST_WINS, UNDECIDED, REFUSED))} or a preference in [0, 1]; take the line out, or give "
            "another output_dir"
        )
    for name in ("prompt_tokens", "completion_tokens"):
        count = record.get(name)
        if count is not None and (not isinstance(count, int) or count < 0):
            raise InputError(f"{where} has {count!r} as {name}, expected a number of tokens; take the line out")


class _Tally:
    """Counts verdicts and tokens while threads bring them in."""

    def __init__(self, total: int, prices: Prices | None, progress: Progress | None, *, counts_tokens: bool) -> None:
        self._total, self._prices, self._progress = total, prices, progress
        self._counts_tokens = counts_tokens
        self._lock = threading.Lock()
        self.done = self._replies = self._prompt = self._completion = self._without = 0

    def add_reply(self, record: Mapping[str, Any]) -> None:
        """Count the tokens of one line of the log."""
        if record["verdict"] == REFUSED:
            return
        with self._lock:
            self._replies += 1
            self._prompt += record.get("prompt_tokens") or 0
            self._completion += record.get("completion_tokens") or 0
            self._without += record.get("prompt_tokens") is None

    def add_done(self) -> None:
        """Count a verdict that needs no more work."""
        with self._lock:
            self.done += 1
            done = self.done
        self.show(done)

    def show(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._total, self.usage())

    def usage(self) -> Usage | None:
        if not self._counts_tokens:
            return None
        with self._lock:
            cost = None
            if self._prices is not None:
                cost = (self._prompt * self._prices.prompt + self._completion * self._prices.completion) / 1e6
            return Usage(self._replies, self._prompt, self._completion, self._without, cost)


class _PairwiseJudge(Judge):
    """The loop: each pair in both orders, every reply kept, no verdict asked for twice."""

    counts_tokens: ClassVar[bool] = False
    attempts: int  # replies that are asked for while a verdict cannot be read
    prices: Prices | None

    @cached_property
    def _refused(self) -> set[str]:
        """Keys of what the server refused to judge; the next run asks again, since that costs nothing."""
        return set()

    @abstractmethod
    def _depends_on(self) -> dict[str, Any]:
        """What a verdict depends on beside the pair and the order."""

    @abstractmethod
    def _reply(self, verdict: Verdict) -> dict[str, Any]:
        """Ask once: the `verdict`, and what else the log shall tell."""

    def _work(self, waiting: Sequence[Verdict], ask: Callable[[Verdict], bool], *, probe: bool) -> None:
        """Ask for all that waits."""
        for verdict in waiting:
            ask(verdict)

    def judge(self, pairs: Sequence[AnswerPair], folder: Path, progress: Progress | None = None) -> Judgement:
        """Ask for the verdicts that the log lacks."""
        return self.judge_into(pairs, folder / "verdicts.jsonl", progress)

    def judge_into(self, pairs: Sequence[AnswerPair], path: Path, progress: Progress | None = None) -> Judgement:
        """The same with a log of another name."""
        by_pair, verdicts = self._wanted(pairs)
        tally = _Tally(len(verdicts), self.prices, progress, counts_tokens=self.counts_tokens)
        ours, others = _judge_of(self._depends_on()), dict[str, None]()
        with JsonLog(path) as log:
            for number, record in enumerate(log.records, start=1):
                check_verdict(record, f"{log.path}: line {number}")
                if record["key"] in verdicts:
                    verdicts[record["key"]].take(record)
                    tally.add_reply(record)
                elif (other := _judge_of(record)) != ours:
                    others[other] = None
            waiting = [verdict for verdict in verdicts.values() if self._open(verdict)]
            tally.done = len(verdicts) - len(waiting)
            if self.counts_tokens:
                tally.show(tally.done)  # what was paid before this run

            def ask(verdict: Verdict) -> bool:
                known = {"key": verdict.key, "prompt_index": verdict.prompt.index, "order": verdict.order}
                while self._open(verdict):
                    record = known | self._reply(verdict)
                    log.append(record)  # before anything else happens
                    tally.add_reply(record)
                    verdict.take(record)
                    verdict.refused = record["verdict"] == REFUSED
                if verdict.refused:
                    self._refused.add(verdict.key)
                tally.add_done()
                return not verdict.refused

            try:
                self._work(waiting, ask, probe=len(waiting) == len(verdicts))
            except RequestRefused as error:
                raise InputError(
                    f"judge: {error}; the last: {log.records[-1]['reply']}; check judge_parameters and the prompts"
                ) from error
            except EndpointUnavailable as error:
                saved = sum(verdict.said is not None for verdict in verdicts.values())
                raise InputError(
                    f"judge: {error}. {saved} of {len(verdicts)} verdicts are saved in {log.path}; once the judge "
                    "answers, the same command asks for the rest"
                ) from error
        return _gathered(by_pair, asked=len(waiting), usage=tally.usage(), others=list(others))

    def _open(self, verdict: Verdict) -> bool:
        """Whether there is more to ask."""
        return verdict.said is None and not verdict.refused and verdict.undecided < self.attempts

    def _wanted(self, pairs: Sequence[AnswerPair]) -> tuple[list[list[Verdict]], dict[str, Verdict]]:
        """For each pair the verdicts in both orders, none for equal answers, which are a tie; and all by their key."""
        verdicts: dict[str, Verdict] = {}
        depends_on = self._depends_on()
        by_pair: list[list[Verdict]] = []
        for pair in pairs:
            both = []
            shown = (("model_first", pair.answer, pair.baseline), ("baseline_first", pair.baseline, pair.answer))
            for order, first, second in shown if pair.answer != pair.baseline else ():
                again = {"vote": pair.vote} if pair.vote else {}
                key = key_of(prompt=pair.prompt.text, first=first, second=second, **again, **depends_on)
                verdict = verdicts.setdefault(key, Verdict(key, first, second, pair.prompt, order))
                verdict.refused = key in self._refused
                verdict.prompt, verdict.order = pair.prompt, order  # of equal questions the last one names them
                both.append(verdict)
            by_pair.append(both)
        return by_pair, verdicts


def _judge_of(facts: Mapping[str, Any]) -> str:
    """The judge's name, with the version of its question or of its source where the log tells it."""
    versions = [f", {name} {facts[name]}" for name in ("template", "source") if facts.get(name)]
    return f"{facts.get('judge', 'a judge without a name')}{''.join(versions)}"


def _gathered(by_pair: Sequence[Sequence[Verdict]], **known: Any) -> Judgement:
    """The verdicts of all pairs; what has none is a tie there, and counted."""
    preferences = np.full((2, len(by_pair)), 0.5)
    missing = np.zeros((2, len(by_pair)), np.bool_)
    undecided = refused = 0
    answered_by: dict[str, int] = {}
    for index, both in enumerate(by_pair):
        for row, verdict in enumerate(both):
            if (first_wins := verdict.first_wins) is None:
                missing[row, index] = True
                refused += verdict.refused
                undecided += not verdict.refused
            else:
                preferences[row, index] = first_wins if row == 0 else 1.0 - first_wins
                if verdict.answered_by:
                    answered_by[verdict.answered_by] = answered_by.get(verdict.answered_by, 0) + 1
    identical = sum(not both for both in by_pair)
    return Judgement(
        model_first_n=preferences[0],
        model_second_n=preferences[1],
        identical=identical,
        undecided=undecided,
        refused=refused,
        missing_n=missing,
        replies=[(both[0].last_reply, both[1].last_reply) if both else ("", "") for both in by_pair],
        answered_by=answered_by,
        **known,
    )


@dataclass(frozen=True)
class EndpointJudge(_PairwiseJudge):
    """A language model behind an address."""

    endpoint: Endpoint
    template: JudgeTemplate
    parameters: Mapping[str, Any]  # further fields of each request
    attempts: int
    prices: Prices | None

    kind: ClassVar[str] = "endpoint"
    counts_tokens: ClassVar[bool] = True

    @property
    def facts(self) -> dict[str, Any]:
        """The question, with what is sent and paid beside it."""
        prices = None if self.prices is None else asdict(self.prices)
        return {"template": self.template.version, "parameters": dict(self.parameters), "prices": prices}

    def close(self) -> None:
        """Give the connections back."""
        self.endpoint.close()

    def _depends_on(self) -> dict[str, Any]:
        judge = str(self.endpoint.address)
        return {"judge": judge, "template": self.template.version, "parameters": dict(self.parameters)}

    def _work(self, waiting: Sequence[Verdict], ask: Callable[[Verdict], bool], *, probe: bool) -> None:
        self.endpoint.work_through(waiting, ask, probe=probe)

    def _reply(self, verdict: Verdict) -> dict[str, Any]:
        question = self.template.fill(verdict.prompt.text, verdict.first, verdict.second)
        messages = [{"role": "user", "content": question}]
        last = without_thinking(verdict.last_reply).strip()
        if verdict.undecided and last:
            messages += [{"role": "assistant", "content": last}, {"role": "user", "content": REMINDER}]
        elif verdict.undecided:  # servers refuse an empty turn
            messages = [{"role": "user", "content": f"{question}\n\n{REMINDER}"}]
        known = {"judge": str(self.endpoint.address), "template": self.template.version}
        try:
            reply = self.endpoint.chat(messages, dict(self.parameters))
        except RequestRefused as error:
            return known | {"verdict": REFUSED, "reply": str(error)}
        except EndpointUnavailable as error:
            raise EndpointUnavailable(f"{error}; it was asked about row {verdict.prompt.index}") from error
        return known | {
            "verdict": parse_verdict(reply.text),
            "reply": reply.text,
            "answered_by": reply.model,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "requests": reply.attempts,
        }


@dataclass(frozen=True)
class CallableJudge(_PairwiseJudge):
    """A Python function: (prompt, answer A, answer B) → `A`, `B`, `tie`, or a preference for A in [0, 1]."""

    name: str  # `module:function`
    digest: str  # of its module's source, so that an edited judge is asked anew
    function: Callable[[str, str, str], str | float]
    attempts: int = 1
    prices: Prices | None = None

    kind: ClassVar[str] = "callable"

    @classmethod
    def load(cls, name: str) -> CallableJudge:
        """Find the function; the current folder is searched too."""
        module_name, _, function_name = name.partition(":")
        if "" not in sys.path and "." not in sys.path:
            sys.path.insert(0, "")
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # the user's module may raise anything, and may call sys.exit
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
        return cls(name, hashlib.sha256(source.encode()).hexdigest()[:16], function)

    @property
    def facts(self) -> dict[str, Any]:
        """Which version of the function it was."""
        return {"source": self.digest}

    @property
    def stamp(self) -> str:
        """Of the module's source."""
        return self.digest

    def _depends_on(self) -> dict[str, Any]:
        return {"judge": self.name, "source": self.digest}

    def _reply(self, verdict: Verdict) -> dict[str, Any]:
        try:
            said = self.function(verdict.prompt.text, verdict.first, verdict.second)
        except (Exception, SystemExit) as error:  # the user's function may raise anything, and may call sys.exit
            raise InputError(
                f"judge: {self.name} failed on row {verdict.prompt.index} ({type(error).__name__}: {error})"
            ) from error
        try:
            fine = said in FIRST_WINS if isinstance(said, str) else 0.0 <= float(said) <= 1.0
        except (TypeError, ValueError):
            fine = False
        if not fine:
            raise InputError(f"judge: {self.name} returned {said!r}, expected 'A', 'B', 'tie' or a number in [0, 1]")
        return {
            "verdict": said if isinstance(said, str) else float(said),
            "judge": self.name,
            "source": self.digest,
        }


# --------------------------------------------------------------------------------------------------------------------
# Rewards of single answers


@dataclass(frozen=True)
class RewardJudge(Judge):
    """A sequence classifier with one output that scores every answer alone: the higher reward wins."""

    name_or_path: str
    dtype: str = "auto"
    batch_size: int = 8  # answers at a time
    use_cpu: bool = False
    trust_remote_code: bool = False

    kind: ClassVar[str] = "reward"
    doing: ClassVar[str] = "Scoring"

    def check(self) -> None:
        """Raise `InputError` where the configuration shows that it is no reward model; no weights are read."""
        config = check_saved_model("judge", self.name_or_path, trust_remote_code=self.trust_remote_code, causal=False)
        if config is None:
            return
        kinds = list(config.architectures or [])
        if kinds and all(kind.endswith("ForCausalLM") for kind in kinds):
            raise InputError(
                f"judge: {self.name_or_path} is a language model ({kinds[0]}) without an output for rewards; it "
                "would be drawn at random; expected a model that was trained to give rewards"
            )
        self._check_outputs(config)

    @property
    def stamp(self) -> str:
        """Of the model's files."""
        return model_stamp(self.name_or_path)

    def judge(self, pairs: Sequence[AnswerPair], folder: Path, progress: Progress | None = None) -> Judgement:
        """Score every answer that the log of rewards lacks; equal rewards are a tie."""
        tokenizer = load_tokenizer(self.name_or_path, option="judge", trust_remote_code=self.trust_remote_code)
        ids = [[reward_ids(tokenizer, pair.prompt, text) for text in (pair.answer, pair.baseline)] for pair in pairs]
        stamp = self.stamp
        keys = [[key_of(ids=row, model=stamp, dtype=self.dtype) for row in both] for both in ids]
        rows = {key: row for both in zip(keys, ids, strict=True) for key, row in zip(*both, strict=True)}
        with JsonLog(folder / "rewards.jsonl") as log:
            rewards = {
                str(record.get("key")): _reward_of(record, f"{log.path}: line {number}")
                for number, record in enumerate(log.records, start=1)
            }
            waiting = sorted((key for key in rows if key not in rewards), key=lambda key: len(rows[key]))
            for scored in self._score(rows, waiting):
                log.append(*({"key": key, "reward": value} for key, value in scored.items()))
                rewards |= scored
                if progress is not None:
                    progress(sum(key in rewards for key in rows), len(rows), None)
        table = np.asarray([[rewards[key] for key in both] for both in keys])
        model, baseline = table.T
        preference = 0.5 + 0.5 * np.sign(model - baseline)
        return Judgement(
            model_first_n=preference,
            model_second_n=preference,
            both_orders=False,
            identical=sum(pair.answer == pair.baseline for pair in pairs),
            asked=len(waiting),
            details={
                "mean_reward_model": float(table[:, 0].mean()),
                "mean_reward_baseline": float(table[:, 1].mean()),
            },
        )

    def _score(self, rows: Mapping[str, list[int]], waiting: Sequence[str]) -> Iterator[dict[str, float]]:
        """The rewards that are missing, batch by batch; the model is loaded only if there are any."""
        if not waiting:
            return
        import torch

        model = self._load()
        room, longest = context_length(model.config), len(rows[waiting[-1]])
        if room is not None and longest > room:
            raise InputError(
                f"judge: an answer with its prompt has {longest} tokens, {self.name_or_path} takes {room}"
            )
        size = self.batch_size if model.config.pad_token_id is not None else 1
        # Without padding: a classifier finds the last token by the padding token's value, which may be a real one.
        for _, group in itertools.groupby(waiting, key=lambda key: len(rows[key])):
            equally_long = list(group)
            for start in range(0, len(equally_long), size):
                batch = equally_long[start : start + size]
                ids = torch.tensor([rows[key] for key in batch], device=model.device)
                with torch.no_grad():
                    values = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0].float().tolist()
                if not all(map(math.isfinite, values)):
                    raise InputError(
                        f"judge: {self.name_or_path} gives a reward that is not a finite number; try dtype float32"
                    )
                yield dict(zip(batch, values, strict=True))

    def _load(self) -> Any:
        model = load_classifier(
            self.name_or_path, option="judge", dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )
        self._check_outputs(model.config)
        return model.to(inference_device(self.use_cpu)).eval()

    def _check_outputs(self, config: Any) -> None:
        if config.num_labels != 1:
            raise InputError(
                f"judge: {self.name_or_path} has {config.num_labels} outputs, expected a reward model with one"
            )


def _reward_of(record: Mapping[str, Any], where: str) -> float:
    reward = record.get("reward")
    if not isinstance(reward, int | float) or isinstance(reward, bool) or not math.isfinite(reward):
        raise InputError(
            f"{where} has the reward {reward!r}, expected a finite number; take the line out, or give "
            "another output_dir"
        )
    return float(reward)


def reward_ids(tokenizer: Any, prompt: EvaluationPrompt, answer: str) -> list[int]:
    """The tokens of an answer as a reward model reads it: in its chat template, where it has one."""
    if getattr(tokenizer, "chat_template", None) is None:
        if prompt.messages is not None:
            raise InputError(
                f"judge: the prompt of row {prompt.index} is a conversation, and the reward model has no chat template"
            )
        return list(tokenizer(prompt.text + answer)["input_ids"])
    messages = [*prompt.conversation(), {"role": "assistant", "content": answer}]
    text = render_chat(tokenizer, messages, f"judge: the answer to row {prompt.index}")
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
