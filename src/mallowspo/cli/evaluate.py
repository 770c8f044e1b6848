"""`mallowspo evaluate`: which of two models answers better, by how much, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mallowspo.evaluation.judge import Usage

__all__ = ["evaluate"]

_SOURCE = "a folder or hub name, an address http://host:port/v1#name, a .json of answers, or column:NAME"


def _option(name: str, text: str, **settings: Any) -> Any:
    return typer.Option(f"--{name}", help=text, **settings)


_Model = Annotated[str, _option("model", f"Whose answers are judged: {_SOURCE}.")]
_Baseline = Annotated[str, _option("baseline", "Against whose: as --model.")]
_Prompts = Annotated[str, _option("prompts", "A .jsonl, .json, .csv or .parquet file, a folder, or a hub name.")]
_Judge = Annotated[
    str,
    _option("judge", "An address http://host:port/v1#name, reward:MODEL, or module:function of Python."),
]
_OutputDir = Annotated[Path, _option("output_dir", "Where everything goes; the same folder goes on.")]
_PromptColumn = Annotated[str, _option("prompt_column", "The column with a text or a conversation.")]
_Split = Annotated[str, _option("split", "The split of the prompts.")]
_MaxPrompts = Annotated[int | None, _option("max_prompts", "Take only the first so many.")]
_PromptFormat = Annotated[
    str,
    _option("prompt_format", "chat, text, or auto: chat wherever the model has a chat template."),
]
_MaxNewTokens = Annotated[int, _option("max_new_tokens", "Tokens after which an answer is cut.")]
_Temperature = Annotated[float, _option("temperature", "Of the answers; 0 takes the most likely token.")]
_TopP = Annotated[float, _option("top_p", "Smallest set of tokens with this probability.")]
_TopK = Annotated[int, _option("top_k", "Most likely tokens kept; 0 keeps all.")]
_BatchSize = Annotated[int, _option("batch_size", "Prompts at a time on this machine.")]
_Seed = Annotated[int, _option("seed", "Of the answers and the bootstrap.")]
_Dtype = Annotated[str, _option("dtype", "Of local weights: auto, float32, bfloat16 or float16.")]
_UseCpu = Annotated[bool, _option("use_cpu", "Leave an accelerator alone.")]
_TrustRemoteCode = Annotated[bool, _option("trust_remote_code", "Run code that comes with a model.")]
_GenerationParameters = Annotated[
    str | None,
    _option("generation_parameters", "JSON added to requests for answers, such as '{\"seed\": null}'."),
]
_SkipRefused = Annotated[
    bool,
    _option("skip_refused", "Leave out prompts that a server will not answer, such as for a content filter."),
]
_ApiKeyEnv = Annotated[
    str | None,
    _option("api_key_env", "Environment variable with the key for --model and --baseline; none is sent without."),
]
_JudgeTemplate = Annotated[
    Path | None,
    _option("judge_template", "Your own question, with {prompt}, {answer_a} and {answer_b}."),
]
_JudgeParameters = Annotated[
    str | None,
    _option("judge_parameters", 'JSON over {"temperature": 0, "max_tokens": 1024}; null takes a field out.'),
]
_JudgeAttempts = Annotated[int, _option("judge_attempts", "Replies asked for while none can be read.")]
_JudgePrices = Annotated[
    str | None,
    _option("judge_prices", "IN,OUT: price per million tokens, for the cost."),
]
_JudgeApiKeyEnv = Annotated[
    str | None,
    _option("judge_api_key_env", "Environment variable with the judge's key; none is sent without."),
]
_Concurrency = Annotated[int, _option("concurrency", "Requests under way at a time.")]
_RequestsPerMinute = Annotated[
    float | None,
    _option("requests_per_minute", "Requests that may start in a minute, retries included."),
]
_Timeout = Annotated[float, _option("timeout", "Seconds until a request is given up.")]
_MaxRetries = Annotated[int, _option("max_retries", "Attempts after the first, with growing waits.")]
_Dispersion = Annotated[
    Path | None,
    _option("dispersion", "dispersion.parquet, to split the win rate by terciles."),
]
_DispersionColumn = Annotated[
    str | None,
    _option("dispersion_column", "Its column [dispersion]; without --dispersion, a column of the prompts."),
]
_AlpacaTables = Annotated[
    Path | None,
    _option("alpaca_tables", "For AlpacaEval's 805 prompts: folder with what its length control needs."),
]
_Resamples = Annotated[int, _option("resamples", "Of the bootstrap.")]
_KlSamples = Annotated[
    int,
    _option("kl_samples", "Responses per prompt for the KL of --model from --baseline; 0 for none."),
]


def evaluate(
    context: typer.Context,
    *,
    model: _Model,
    baseline: _Baseline,
    prompts: _Prompts,
    judge: _Judge,
    output_dir: _OutputDir,
    prompt_column: _PromptColumn = "prompt",
    split: _Split = "train",
    max_prompts: _MaxPrompts = None,
    prompt_format: _PromptFormat = "auto",
    max_new_tokens: _MaxNewTokens = 256,
    temperature: _Temperature = 0.7,
    top_p: _TopP = 1.0,
    top_k: _TopK = 0,
    batch_size: _BatchSize = 8,
    seed: _Seed = 0,
    dtype: _Dtype = "auto",
    use_cpu: _UseCpu = False,
    trust_remote_code: _TrustRemoteCode = False,
    generation_parameters: _GenerationParameters = None,
    skip_refused: _SkipRefused = False,
    api_key_env: _ApiKeyEnv = None,
    judge_template: _JudgeTemplate = None,
    judge_parameters: _JudgeParameters = None,
    judge_attempts: _JudgeAttempts = 3,
    judge_prices: _JudgePrices = None,
    judge_api_key_env: _JudgeApiKeyEnv = None,
    concurrency: _Concurrency = 8,
    requests_per_minute: _RequestsPerMinute = None,
    timeout: _Timeout = 120.0,
    max_retries: _MaxRetries = 6,
    dispersion: _Dispersion = None,
    dispersion_column: _DispersionColumn = None,
    alpaca_tables: _AlpacaTables = None,
    resamples: _Resamples = 2000,
    kl_samples: _KlSamples = 0,
) -> None:
    """Generate with two models, judge every pair in both orders, and report win rates with their errors.

    What was generated and judged is kept in OUTPUT_DIR; the same command goes on where an interrupted one stopped.
    """
    from rich.console import Console

    from mallowspo.cli.evaluate_options import EvaluateOptions
    from mallowspo.cli.evaluate_run import run_evaluation

    options = EvaluateOptions(**context.params)
    with _Bars() as bars:
        results = run_evaluation(options, bars.show)
    console = Console()
    for line in _lines(results):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    end = f"Open {output_dir}/report.html in a browser; the numbers are in {output_dir}/results.json."
    console.print(end, markup=False, highlight=False, soft_wrap=True)


class _Bars:
    """One progress bar a stage, the judge's with tokens and cost; lines where nobody watches a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from mallowspo.progress import ProgressLines, on_a_terminal

        self._lines = None if on_a_terminal() else ProgressLines("mallowspo evaluate")
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[usage]}"),
            console=Console(stderr=True),
        )
        self._stages: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        (self._lines or self._progress).__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        (self._lines or self._progress).__exit__(*ended)

    def show(self, stage: str, done: int, total: int, usage: Usage | None) -> None:
        """Show how far a stage has come."""
        text = ""
        if usage is not None:
            text = f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"
            text += "" if usage.cost is None else f", cost {usage.cost:.2f}"
        if self._lines is not None:
            self._lines.show(stage, done, total, text)
            return
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, usage="")
        self._progress.update(self._stages[stage], completed=done, total=total, usage=text)


def _lines(results: dict[str, Any]) -> list[str]:
    """What the terminal says at the end."""
    rate = results["win_rate"]
    lines = [results["no_result"]] if results["no_result"] else []
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
    judge, usage = results["judge"], results["judge"]["usage"]
    if usage is not None:
        cost = "" if usage["cost"] is None else f", cost {usage['cost']:.4f}"
        lines.append(
            f"judge: {usage['replies']} replies, {usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens"
            f"{cost}; {judge['undecided']} verdicts undecided, {judge['refused']} refused (counted as ties)"
        )
    kl = results["kl"]
    if kl is not None:
        lines.append(
            f"KL {kl['kl']:.3f} nats a response (s.e. {kl['kl_standard_error']:.3f}), {kl['kl_per_token']:.4f} a token"
        )
    return lines
