"""A causal language model on this machine: loading it, rendering prompts for it, sampling from it.

Sampling draws one uniform number per prompt and step from a generator of the prompt's own, and picks the token at
that place of the distribution function. What a prompt gets therefore depends neither on its batch nor on the device's
random state; what remains is the rounding of the logits themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mallowspo.errors import InputError, not_one_of
from mallowspo.loading import loading, refuse_random_weights

if TYPE_CHECKING:
    from mallowspo.evaluation.prompts import EvaluationPrompt

__all__ = [
    "PROMPT_FORMATS",
    "Sampling",
    "check_model_folder",
    "context_length",
    "end_token_ids",
    "load_causal_model",
    "load_classifier",
    "load_tokenizer",
    "model_stamp",
    "prompt_ids",
    "prompt_uniforms",
    "render_chat",
    "sample_batch",
    "up_to_end",
    "without_own_settings",
]

PROMPT_FORMATS = ("auto", "chat", "text")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int = 256  # tokens after which an answer is cut, at least 1
    temperature: float = 0.7  # 0 takes the most likely token
    top_p: float = 1.0  # keep the smallest set of tokens with this probability, in (0, 1]
    top_k: int = 0  # keep this many tokens; 0 keeps all

    def __post_init__(self) -> None:
        allowed = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0.0 <= self.temperature < float("inf"), "0 or above"),
            "top_p": (0.0 < self.top_p <= 1.0, "a share in (0, 1]"),
            "top_k": (self.top_k >= 0, "0 for all, or a number of tokens"),
        }
        for name, (fine, expected) in allowed.items():
            if not fine:
                raise InputError(f"{name}: got {getattr(self, name)}, expected {expected}")


def model_stamp(name_or_path: str) -> str:
    """Tell one state of a model from another without reading its weights.

    A digest of a folder's files' names, sizes and times, or a hub name with the commit that is in the cache: a model
    that was trained further under the same path gets another stamp.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        from transformers import AutoConfig

        try:
            commit = getattr(AutoConfig.from_pretrained(name_or_path, trust_remote_code=False), "_commit_hash", None)
        except (OSError, ValueError):
            commit = None
        return f"{name_or_path}@{commit or 'unknown'}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt") and path.is_file():
            state = path.stat()
            digest.update(f"{path.name}:{state.st_size}:{state.st_mtime_ns};".encode())
    return digest.hexdigest()[:32]


def check_model_folder(name: str, option: str) -> None:
    """Raise `InputError` where a name looks like a folder on this machine and no saved model is there."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / needed).is_file() for needed in ("config.json", "adapter_config.json")):
            raise InputError(f"{option}: {name} has no config.json; it is not a saved model")
    elif path.exists():
        raise InputError(
            f"{option}: {name} is a file; expected a folder, a hub name, an address or a .json of answers"
        )
    elif path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{option}: there is no folder {name}")


def load_tokenizer(name_or_path: str, *, option: str, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer."""
    from transformers import AutoTokenizer

    with loading(option, name_or_path):
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)


def load_causal_model(
    name_or_path: str, *, option: str, dtype: str = "auto", use_cpu: bool = False, trust_remote_code: bool = False
) -> Any:
    """Load a causal language model, or an adapter together with its base model, for inference."""
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise not_one_of("dtype", dtype, DTYPES)
    with loading(option, name_or_path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    model, info = loaded
    refuse_random_weights(option, name_or_path, info)
    return model.to(inference_device(use_cpu)).eval()


def load_classifier(name: str, *, option: str, dtype: str = "auto", trust_remote_code: bool = False) -> Any:
    """Load a sequence classifier whose every weight was saved, on the CPU."""
    from transformers import AutoModelForSequenceClassification

    with loading(option, name):
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    model, info = loaded
    refuse_random_weights(option, name, info)
    return model


def inference_device(use_cpu: bool) -> torch.device:
    """The accelerator where there is one and it is wanted, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if use_cpu or accelerator is None else accelerator


def uses_chat(prompt: EvaluationPrompt, prompt_format: str, *, has_template: bool) -> bool:
    """Whether a prompt is sent as a conversation; `auto` does so wherever the model has a chat template."""
    if prompt_format not in PROMPT_FORMATS:
        raise not_one_of("prompt_format", prompt_format, PROMPT_FORMATS)
    return prompt_format == "chat" or (prompt_format == "auto" and (has_template or prompt.messages is not None))


def prompt_ids(prompt: EvaluationPrompt, tokenizer: Any, prompt_format: str = "auto") -> list[int]:
    """Tokenise a prompt, ready for its answer; `auto` is `chat` wherever the tokenizer has a template."""
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if not uses_chat(prompt, prompt_format, has_template=has_template):
        if prompt.messages is not None:
            raise InputError(f"prompt_format: got 'text', but the prompt of row {prompt.index} is a conversation")
        return list(tokenizer(prompt.text)["input_ids"])
    if not has_template:
        raise InputError(
            f"prompt_format: the prompt of row {prompt.index} needs a chat template, and the tokenizer has none; "
            "use text prompts with prompt_format text, or give the tokenizer a template"
        )
    text = render_chat(tokenizer, prompt.conversation(), f"prompts: row {prompt.index}", add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_chat(tokenizer: Any, messages: list[dict[str, str]], where: str, **settings: Any) -> str:
    """Render a conversation by the tokenizer's template; `InputError` with the place where the template refuses it."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **settings))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where} is refused by the chat template of {tokenizer.name_or_path} ({error})") from error


def end_token_ids(model: Any, tokenizer: Any = None) -> tuple[int, ...]:
    """The tokens that end an answer: those of the generation config and of the tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(ids))


def context_length(model_config: Any) -> int | None:
    """Positions that a model has; None where it has no fixed number."""
    return getattr(model_config.get_text_config(), "max_position_embeddings", None)


def prompt_uniforms(seed: int, name: str, count: int) -> NDArray[np.float64]:
    """The uniform numbers that decide the answer of that name; a longer draw begins with the shorter one."""
    digest = hashlib.sha256(f"{seed}\x00{name}".encode("utf-8", "replace")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big"))).random(count)


class _PickAtUniform:
    """A logits processor that leaves one token: the one at which the distribution function passes a given number."""

    def __init__(self, uniform_bt: torch.Tensor, prompt_length: int) -> None:
        self._uniform_bt = uniform_bt
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores_bv: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self._prompt_length
        # Float32 sums over a large vocabulary would leave rare tokens out; MPS has nothing wider.
        wide = torch.float32 if scores_bv.device.type == "mps" else torch.float64
        mass_bv = scores_bv.to(wide).softmax(-1).cumsum(-1)
        place_b1 = self._uniform_bt[:, step : step + 1].to(wide) * mass_bv[:, -1:]
        token_b1 = torch.searchsorted(mass_bv, place_b1, right=True).clamp(max=mass_bv.shape[1] - 1)
        return torch.full_like(scores_bv, -torch.inf).scatter(1, token_b1, 0.0)


def _processors(sampling: Sampling, uniform_bt: NDArray[np.float64], prompt_length: int, device: Any) -> Any:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return LogitsProcessorList()
    wide = torch.float32 if device.type == "mps" else torch.float64
    steps: list[Any] = [TemperatureLogitsWarper(float(sampling.temperature))]
    steps += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    steps += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1.0 else []
    steps.append(_PickAtUniform(torch.as_tensor(uniform_bt, dtype=wide, device=device), prompt_length))
    return LogitsProcessorList(steps)


@contextmanager
def without_own_settings(model: Any, config: Any) -> Iterator[None]:
    """Keep `generate` from filling in what the model's own generation config asks for, such as a penalty."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def sample_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniform_bt: NDArray[np.float64],
    sampling: Sampling,
    *,
    end_ids: Sequence[int],
) -> list[list[int]]:
    """Token ids of B answers, the ending token included where one came; `uniform_bt` is of `prompt_uniforms`."""
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    # The mask hides the padding, so any token will do.
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,  # the processors pick the token
        eos_token_id=list(end_ids) or None,
        pad_token_id=0,
    )
    processors = _processors(sampling, uniform_bt, width, model.device)
    with torch.no_grad(), without_own_settings(model, config):
        whole = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors
        )
    return [up_to_end(row, end_ids) for row in whole[:, width:].tolist()]


def up_to_end(row: list[int], end_ids: Sequence[int]) -> list[int]:
    """An answer's tokens up to the first that ends it."""
    for place, token in enumerate(row):
        if token in end_ids:
            return row[: place + 1]
    return row
