"""`mallowspo evaluate`: which of two models answers better, by how much, and how sure that is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallowspo.cli.options import option
from mallowspo.errors import InputError, not_one_of
from mallowspo.files import parse_json
from mallowspo.outputs import writable_folder

if TYPE_CHECKING:
    from mallowspo.evaluation.endpoint import RequestLimits
    from mallowspo.evaluation.judge import Usage
    from mallowspo.evaluation.local_model import Sampling

__all__ = ["EvaluateOptions", "Source", "evaluate", "source_of"]

_SOURCE = "a folder or hub name, an address http://host:port/v1#name, a .json of answers, or column:NAME"


@dataclass(frozen=True)
class Source:
    """Where answers come from."""

    kind: str  # local, endpoint, file or column
    name: str  # a folder or hub name, an address, a path, or a column of the prompts' data


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Generate with two models, judge every pair in both orders, and report win rates with their errors.

    With --rank, let a judge rank several answers of one model to each prompt, and write them as lists to train on.

    What was generated and judged is kept in the folder output_dir; the same command goes on where an interrupted one
    stopped.
    """

    model: str = option(f"Whose answers are judged: {_SOURCE}.", group="What is compared")
    baseline: str | None = option("Against whose: as --model; required without --rank.", None)
    prompts: str = option("A .jsonl, .json, .csv or .parquet file, a folder, or a hub name.")
    judge: str = option("An address http://host:port/v1#name, reward:MODEL, or module:function of Python.")
    output_dir: Path = option("Where everything goes; the same folder goes on.")
    prompt_column: str = option("The column with a text or a conversation.", "prompt")
    split: str = option("The split of the prompts.", "train")
    max_prompts: int | None = option("Take only the first so many.", None)

    prompt_format: str = option(
        "chat, text, or auto: chat wherever the model has a chat template.", "auto", group="Generation"
    )
    max_new_tokens: int = option("Tokens after which an answer is cut.", 256)
    temperature: float = option("Of the answers; 0 takes the most likely token.", 0.7)
    top_p: float = option("Smallest set of tokens with this probability.", 1.0)
    top_k: int = option("Most likely tokens kept; 0 keeps all.", 0)
    batch_size: int = option("Prompts at a time on this machine.", 8)
    seed: int = option("Of the answers and the bootstrap.", 0, low=0)
    dtype: str = option("Of local weights: auto, float32, bfloat16 or float16.", "auto")
    use_cpu: bool = option("Leave an accelerator alone.", False)
    trust_remote_code: bool = option("Run code that comes with a model.", False)
    generation_parameters: str | None = option(
        "JSON added to requests for answers, such as '{\"seed\": null}'.", None, as_json=True
    )
    skip_refused: bool = option(
        "Leave out prompts that a server will not answer, such as for a content filter.", False
    )
    api_key_env: str | None = option(
        "Environment variable with the key for --model and --baseline; none is sent without.", None
    )

    judge_template: Path | None = option(
        "Your own question, with {prompt}, {answer_a} and {answer_b}.", None, group="The judge"
    )
    judge_parameters: str | None = option(
        'JSON over {"temperature": 0, "max_tokens": 1024}; null takes a field out.', None, as_json=True
    )
    judge_attempts: int = option("Replies asked for while none can be read.", 3)
    judge_prices: str | None = option("IN,OUT: price per million tokens, for the cost.", None, commas=True)
    judge_api_key_env: str | None = option("Environment variable with the judge's key; none is sent without.", None)

    rank: int = option(
        "Rank so many answers of --model (or of a column of lists) to each prompt; 0 compares two models.",
        0,
        group="Ranking",
    )
    rank_votes: int | None = option(
        "Rankings of each list, each asked for anew; 2 and more show how far the judge differs with itself.",
        None,
        shown="2, and 1 for a reward model",
    )
    rank_order: str = option("merge: K log K comparisons a ranking; all: every pair.", "merge")

    concurrency: int = option("Requests under way at a time.", 8, group="Requests to servers")
    requests_per_minute: float | None = option("Requests that may start in a minute, retries included.", None)
    timeout: float = option("Seconds until a request is given up.", 120.0)
    max_retries: int = option("Attempts after the first, with growing waits.", 6)

    dispersion: Path | None = option(
        "dispersion.parquet, to split the win rate by terciles.", None, group="The report"
    )
    dispersion_column: str | None = option(
        "Its column [dispersion]; without --dispersion, a column of the prompts.", None
    )
    alpaca_tables: Path | None = option(
        "For AlpacaEval's 805 prompts: folder with what its length control needs.", None
    )
    resamples: int = option("Of the bootstrap.", 2000)
    kl_samples: int = option("Responses per prompt for the KL of --model from --baseline; 0 for none.", 0)
    export: tuple[str, ...] = option(
        "Write answers and verdicts as alpaca_eval, arena_hard or judgearena too; may be given several times.", ()
    )

    def sampling(self) -> Sampling:
        """How answers are drawn."""
        from mallowspo.evaluation.local_model import Sampling

        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.top_k)

    def limits(self) -> RequestLimits:
        """How hard endpoints are pressed."""
        from mallowspo.evaluation.endpoint import RequestLimits

        return RequestLimits(
            concurrency=self.concurrency,
            requests_per_minute=self.requests_per_minute,
            timeout=self.timeout,
            max_retries=self.max_retries,
        )

    def check(self) -> None:
        """Raise `InputError` for what can be seen to be wrong before anything is read."""
        from mallowspo.evaluation.endpoint import check_no_secrets

        writable_folder(self.output_dir, "output_dir")
        for name in ("batch_size", "judge_attempts", "resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.kl_samples < 0:
            raise InputError(f"kl_samples: got {self.kl_samples}, expected 0 for none, or a number of responses")
        for name, allowed in (
            ("prompt_format", ("auto", "chat", "text")),
            ("dtype", ("auto", "float32", "bfloat16", "float16")),
        ):
            if getattr(self, name) not in allowed:
                raise not_one_of(name, getattr(self, name), allowed)
        self._check_export()
        self._check_rank()
        self._check_folder()
        sources = {
            name: source_of(getattr(self, name), name)
            for name in ("model", "baseline")
            if getattr(self, name) is not None
        }
        kinds = {source.kind for source in sources.values()}
        if self.kl_samples and kinds != {"local"}:
            raise InputError("kl_samples: KL needs both models on this machine; got an endpoint, a file or a column")
        self.sampling()
        self.limits()
        for name in ("generation_parameters", "judge_parameters"):
            given = self.json_object(name)
            check_no_secrets(given, name)
            ours = [field for field in ("model", "messages", "prompt") if field in given]
            if ours:
                raise InputError(f"{name}: {ours[0]!r} is set by the evaluation itself, take it out")
        from mallowspo.evaluation.judge import judge_kind

        self._check_unused(judge_kind(self.judge), kinds)
        self._check_models(sources)

    def _check_export(self) -> None:
        from mallowspo.evaluation.exports import EXPORTS

        for given in self.export:
            if given not in EXPORTS:
                raise not_one_of("export", given, EXPORTS)
        if len(set(self.export)) < len(self.export):
            raise InputError(f"export: got {', '.join(self.export)}; give each format once")
        if self.export and self.rank:
            raise InputError("export: it writes a comparison of two models; leave it out, or leave out rank")

    def _check_rank(self) -> None:
        """A comparison needs two models, a ranking one."""
        from mallowspo.data.sources import keep_source
        from mallowspo.evaluation.judge import judge_kind
        from mallowspo.evaluation.ranking import ORDERS

        if self.rank == 0:
            if self.baseline is None:
                raise InputError("baseline: missing; give it, or give rank to rank answers of one model")
            if self.rank_votes is not None or self.rank_order != "merge":
                name = "rank_votes" if self.rank_votes is not None else "rank_order"
                raise InputError(f"{name}: it belongs to rank; give rank too, or leave it out")
            return
        keep_source(self.output_dir / "lists.jsonl", "output_dir", self.prompts, self.split)
        if self.rank < 2:
            raise InputError(f"rank: got {self.rank}, expected 0, or 2 answers or more to a prompt")
        if self.rank_order not in ORDERS:
            raise not_one_of("rank_order", self.rank_order, ORDERS)
        if self.rank_votes is not None and self.rank_votes < 1:
            raise InputError(f"rank_votes: got {self.rank_votes}, expected at least 1")
        given = self.json_object("judge_parameters")
        if given.get("temperature") == 0 and self.votes_of(judge_kind(self.judge)) > 1:
            raise InputError(
                "judge_parameters: at temperature 0 the judge says the same in every vote; give more than 0, or "
                "rank_votes 1"
            )
        if self.rank_votes not in (None, 1) and judge_kind(self.judge) == "reward":
            raise InputError(
                "rank_votes: a reward model says the same every time; leave it out, or take another judge"
            )
        unread = ("baseline", "dispersion", "dispersion_column", "alpaca_tables")
        for name in (*unread, *(["kl_samples"] if self.kl_samples else [])):
            if getattr(self, name) is not None:
                raise InputError(f"{name}: a ranking does not read it; leave it out, or leave out rank")
        source = source_of(self.model, "model")
        if source.kind == "file":
            raise InputError("model: a ranking takes a model, an address, or column:NAME with lists of answers")
        if source.kind != "column" and self.temperature == 0:
            raise InputError("temperature: got 0, at which all answers to a prompt are the same; give more than 0")

    def _check_folder(self) -> None:
        """A folder holds a comparison or a ranking: the page of one must not stand beside the numbers of the other."""
        there = self.output_dir / "results.json"
        if not there.is_file():
            return
        try:
            holds = parse_json(there.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(holds, dict) and ("lists" in holds) != bool(self.rank):
            kind = "ranking" if "lists" in holds else "comparison"
            raise InputError(f"output_dir: {self.output_dir} holds a {kind}; give another folder")

    def votes_of(self, kind: str) -> int:
        """How often each list is ranked."""
        return self.rank_votes or (1 if kind == "reward" else 2)

    def judge_defaults(self) -> dict[str, Any]:
        """What the judge's requests hold beside the usual: asked again at temperature 0 it would say the same."""
        from mallowspo.evaluation.judge import judge_kind

        return {"temperature": 1} if self.rank and self.votes_of(judge_kind(self.judge)) > 1 else {}

    def _check_models(self, sources: dict[str, Source]) -> None:
        """The second model and the judge are loaded after the first has answered for hours."""
        from mallowspo.evaluation.judge import RewardJudge
        from mallowspo.loading import check_saved_model

        for side, source in sources.items():
            if source.kind == "local":
                check_saved_model(side, source.name, trust_remote_code=self.trust_remote_code)
        if self.judge.startswith("reward:"):
            name = self.judge.removeprefix("reward:")
            RewardJudge(name, trust_remote_code=self.trust_remote_code).check()

    def _check_unused(self, kind: str, sources: set[str]) -> None:
        """An option that could have no effect is a mistake, not a wish."""
        for name in ("judge_template", "judge_parameters", "judge_prices", "judge_api_key_env"):
            if getattr(self, name) is not None and kind != "endpoint":
                raise InputError(f"{name}: it is for a judge behind an address, got the judge {self.judge!r}")
        for name in ("generation_parameters", "api_key_env", "skip_refused"):
            if getattr(self, name) not in (None, False) and "endpoint" not in sources:
                raise InputError(f"{name}: it is for a model behind an address, and neither model nor baseline is one")

    def merged(self, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
        """Read an option that holds a JSON object, over defaults; null takes a field out."""
        given = _json_object(name, getattr(self, name))
        return {key: value for key, value in (defaults | given).items() if value is not None}

    def json_object(self, name: str) -> dict[str, Any]:
        """Read an option that holds a JSON object; empty where it was not given."""
        return _json_object(name, getattr(self, name))


def _json_object(name: str, text: str | None) -> dict[str, Any]:
    try:
        value = parse_json(text) if text is not None else {}
        json.dumps(value, allow_nan=False)  # NaN and Infinity, which Python reads, are no JSON to a server
    except ValueError as error:
        raise InputError(f"{name}: got {text!r}, which is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f'{name}: got {text!r}, expected a JSON object such as {{"temperature": 1}}')
    return value


def source_of(text: str, option: str) -> Source:
    """Tell where answers come from; a file, folder or address that the text names has been checked for being one."""
    from mallowspo.evaluation.endpoint import EndpointAddress
    from mallowspo.evaluation.local_model import check_model_folder

    if text.startswith(("http://", "https://")):
        EndpointAddress.parse(text, option)
        return Source("endpoint", text)
    if text.startswith("column:"):
        return Source("column", text.removeprefix("column:"))
    path = Path(text).expanduser()
    if path.suffix in (".json", ".jsonl"):
        if not path.is_file():
            raise InputError(f"{option}: there is no file {text}")
        return Source("file", str(path))
    check_model_folder(text, option)
    return Source("local", text)


def evaluate(options: EvaluateOptions) -> None:
    """Compare, write the results and the page, and print the win rates."""
    from rich.console import Console

    from mallowspo.cli.evaluate_rank import run_ranking
    from mallowspo.cli.evaluate_run import run_evaluation
    from mallowspo.progress import progress_bar

    with progress_bar("mallowspo evaluate") as progress:

        def show(stage: str, done: int, total: int, usage: Usage | None) -> None:
            note = "" if usage is None else f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"
            if usage is not None and usage.cost is not None:
                note += f", cost {usage.cost:.2f}"
            progress(stage, done, total, note)

        results = run_ranking(options, show) if options.rank else run_evaluation(options, show)
    console = Console()
    folder = options.output_dir
    end = f"Open {folder}/report.html in a browser; the numbers are in {folder}/results.json."
    for line in _ranking_lines(results, folder) if options.rank else (*_lines(results), end):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _ranking_lines(results: dict[str, Any], folder: Path) -> list[str]:
    """What the terminal says at the end of a ranking."""
    lines = [results["mixed_judges"]] if results["mixed_judges"] else []
    lines += [
        f"{results['lists']:,} lists of {results['answers']:,} answers, ranked {results['votes']} times each in "
        f"{results['comparisons']:,} comparisons ({results['ties']:,} ties, decided by lot)"
    ]
    if results["same_pairs"] is not None:
        lines.append(f"two votes agree on {100 * results['same_pairs']:.1f}% of the pairs of answers")
    if results["left_out"]:
        lines.append(f"left out: {len(results['left_out'])} prompts with fewer than two different answers")
    if longer := results["longer"]:
        lines.append(
            f"left out: {longer['answers']:,} answers of {longer['lists']:,} lists that hold more than --rank "
            f"{results['settings']['rank']}; the first of each list are ranked"
        )
    if shorter := results["shorter"]:
        lines.append(
            f"fewer than --rank {results['settings']['rank']}: {shorter:,} lists hold fewer different answers; all of "
            "them are ranked"
        )
    lines += _usage_lines(results["judge"])
    lines.append(f"Train: mallowspo train --dataset_name {folder}/lists.jsonl --objective mallows_list_theta ...")
    if results["votes"] > 1:
        lines.append(f"How far the judge differs with itself: mallowspo dispersion --rankings {folder}/lists.jsonl")
    return lines


def _usage_lines(judge: dict[str, Any]) -> list[str]:
    """What a judge behind an address was asked and paid; nothing for another one."""
    if (usage := judge["usage"]) is None:
        return []
    cost = "" if usage["cost"] is None else f", cost {usage['cost']:.4f}"
    return [
        f"judge: {usage['replies']} replies, {usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens"
        f"{cost}; {judge['undecided']} verdicts undecided, {judge['refused']} refused (counted as ties)"
    ]


def _lines(results: dict[str, Any]) -> list[str]:
    """What the terminal says at the end."""
    rate = results["win_rate"]
    lines = [text for text in (results["mixed_judges"], results["no_result"]) if text]
    found = f"win rate {rate['win_rate']:.1f}% [{rate['low']:.1f}, {rate['high']:.1f}]"
    lines.append(
        f"{found}, s.e. {rate['standard_error']:.2f}: "
        f"{rate['wins']} wins, {rate['ties']} ties, {rate['losses']} losses"
    )
    left_out = results["prompts"]["left_out"]
    if left_out:
        lines.append(f"left out: {len(left_out)} prompts that a server refuses to answer, rows in results.json")
    control = results["length_controlled"]
    if control is not None:
        lines.append(f"length-controlled {control['win_rate']:.1f}%, s.e. {control['standard_error']:.2f}")
        if control["note"]:
            lines.append(f"  {control['note']}")
    style = results["style_controlled"]
    if style is not None:
        rate = f"style-controlled {style['win_rate']:.1f}%, s.e. {style['standard_error']:.2f}"
        lines.append(f"{rate}; no headline either, the page says why")
    lines += _usage_lines(results["judge"])
    kl = results["kl"]
    if kl is not None:
        lines.append(
            f"KL {kl['kl']:.3f} nats a response (s.e. {kl['kl_standard_error']:.3f}), {kl['kl_per_token']:.4f} a token"
        )
    return lines
