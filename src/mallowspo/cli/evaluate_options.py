"""The options of `mallowspo evaluate`, read and checked before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallowspo.errors import InputError, not_one_of
from mallowspo.files import parse_json
from mallowspo.outputs import writable_folder

if TYPE_CHECKING:
    from mallowspo.evaluation.endpoint import RequestLimits
    from mallowspo.evaluation.local_model import Sampling

__all__ = ["EvaluateOptions", "Source", "source_of"]


@dataclass(frozen=True)
class Source:
    """Where answers come from.

    Attributes:
        kind: `local`, `endpoint`, `file` or `column`.
        name: A folder or hub name, an address, a path, or a column of the prompts' data.
    """

    kind: str
    name: str


@dataclass(frozen=True)
class EvaluateOptions:
    """What to compare, on what, and who judges; the fields are the command's options, described by its help."""

    model: str
    baseline: str
    prompts: str
    judge: str
    output_dir: Path
    prompt_column: str = "prompt"
    split: str = "train"
    max_prompts: int | None = None
    prompt_format: str = "auto"
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    batch_size: int = 8
    seed: int = 0
    dtype: str = "auto"
    use_cpu: bool = False
    trust_remote_code: bool = False
    generation_parameters: str | None = None
    skip_refused: bool = False
    api_key_env: str | None = None
    judge_template: Path | None = None
    judge_parameters: str | None = None
    judge_attempts: int = 3
    judge_prices: str | None = None
    judge_api_key_env: str | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout: float = 120.0
    max_retries: int = 6
    dispersion: Path | None = None
    dispersion_column: str | None = None
    alpaca_tables: Path | None = None
    resamples: int = 2000
    kl_samples: int = 0

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
        sources = {name: source_of(getattr(self, name), name) for name in ("model", "baseline")}
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

    def _check_models(self, sources: dict[str, Source]) -> None:
        """The second model and the judge are loaded after the first has answered for hours."""
        from mallowspo.evaluation.judge import RewardJudge
        from mallowspo.loading import check_saved_model

        for option, source in sources.items():
            if source.kind == "local":
                check_saved_model(option, source.name, trust_remote_code=self.trust_remote_code)
        if self.judge.startswith("reward:"):
            name = self.judge.removeprefix("reward:")
            RewardJudge(name, trust_remote_code=self.trust_remote_code).check()

    def _check_unused(self, kind: str, sources: set[str]) -> None:
        """An option that could have no effect is a mistake, not a wish."""
        for name in ("judge_template", "judge_parameters", "judge_prices", "judge_api_key_env"):
            if getattr(self, name) is not None and kind != "endpoint":
                raise InputError(f"{name}: it is for a judge behind an address, got the judge {self.judge!r}")
        for name in ("generation_parameters", "api_key_env"):
            if getattr(self, name) is not None and "endpoint" not in sources:
                raise InputError(f"{name}: it is for a model behind an address, and neither model nor baseline is one")
        if self.skip_refused and "endpoint" not in sources:
            raise InputError(
                "skip_refused: it is for a model behind an address, and neither model nor baseline is one"
            )

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
    """Tell where answers come from.

    Args:
        text: As the user wrote it.
        option: `model` or `baseline`, for messages.

    Returns:
        The source; a file, folder or address that it names has been checked for being one.

    Raises:
        InputError: It names nothing that is there.
    """
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
