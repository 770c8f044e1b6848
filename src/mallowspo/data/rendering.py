"""A pair as a tokenizer sees it: the texts that it is given, the ids of these, and where a response begins.

The rules are TRL's: the prompt is tokenised alone and with each response (and an EOS token behind it, where the row is
text), and the response begins where the two part. The linter and the training go through this one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mallowspo.data.problems import RowError
from mallowspo.errors import InputError
from mallowspo.files import parse_json

__all__ = [
    "CONTEXT_COLUMNS",
    "common_length",
    "encoded",
    "refuse_empty_tokenizer",
    "rendered",
    "template_options",
]

CONTEXT_COLUMNS = ("tools", "chat_template_kwargs")
"""What a chat template reads beside the messages."""


def template_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a row says to its chat template beside the messages."""
    tools, options = (_from_json(name, values.get(name)) for name in CONTEXT_COLUMNS)
    if tools is not None and not isinstance(tools, list | tuple):
        raise RowError("bad_tools", f"tools must be a list of functions, found {type(tools).__name__}")
    if options is not None and not isinstance(options, Mapping):
        raise RowError(
            "bad_tools", f"chat_template_kwargs must be a mapping of option to value, found {type(options).__name__}"
        )
    return {"tools": tools, **(options or {})}


def _from_json(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return parse_json(value)
    except ValueError as error:
        raise RowError("bad_tools", f"{name} is text, but not JSON: {value[:60]!r}") from error


def rendered(tokenizer: Any, prompt: Any, responses: Sequence[Any], values: Mapping[str, Any]) -> list[str]:
    """Give the prompt alone and the prompt with each response, as texts for the tokenizer."""
    if isinstance(prompt, str):
        eos = tokenizer.eos_token
        made = [prompt, *(prompt + (text if text.endswith(eos) else text + eos) for text in responses)]
    else:
        options = template_options(values)
        try:
            made = [tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **options)]
            made += [tokenizer.apply_chat_template(prompt + r, tokenize=False, **options) for r in responses]
        except Exception as error:  # a chat template may raise anything; its author decides
            why = " ".join((str(error) or type(error).__name__).split())[:200]
            raise RowError("refused_by_template", f"the chat template refuses the messages: {why}") from error
    try:
        "".join(made).encode()  # tools and names of messages reach the template unchecked
    except UnicodeEncodeError as error:
        raise RowError("unpaired_surrogate", "half of a surrogate pair, in what the chat template makes") from error
    return made


def encoded(tokenizer: Any, texts: list[str], *, chat: bool) -> list[list[int]]:
    """Give the token ids of texts from `rendered`; those of messages get no further special tokens."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(
        texts, add_special_tokens=not chat, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )["input_ids"]
    return ids


def common_length(prompt: list[int], full: list[int]) -> int:
    """Count the tokens that the prompt alone and the prompt with a response begin with alike."""
    if full[: len(prompt)] == prompt:
        return len(prompt)
    for i, (left, right) in enumerate(zip(prompt, full, strict=False)):
        if left != right:
            return i
    return min(len(prompt), len(full))


def refuse_empty_tokenizer(tokenizer: Any) -> None:
    """Raise `InputError` where a tokenizer makes nothing of a text: it was loaded from a folder that holds none."""
    if not tokenizer("The sky is blue.", add_special_tokens=False)["input_ids"]:
        raise InputError(
            f"tokenizer: it makes no tokens of a text, for it has a vocabulary of {len(tokenizer):,}; does "
            f"{tokenizer.name_or_path or 'its folder'} hold the files of a tokenizer? Save it there with "
            "tokenizer.save_pretrained"
        )
