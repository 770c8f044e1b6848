"""A pair as a tokenizer sees it: the texts that it is given, the ids of these, and where a response begins.

The rules are TRL's: the prompt is tokenised alone and with each response (and an EOS token behind it, where the row is
text), and the response begins where the two part. The linter and the training go through this one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mallowspo.data.problems import RowError
from mallowspo.data.records import common_length
from mallowspo.errors import InputError, not_one_of
from mallowspo.files import parse_json

__all__ = ["CONTEXT_COLUMNS", "RowTokens", "Truncation", "refuse_tokenizer", "serves", "tokenised"]

CONTEXT_COLUMNS = ("tools", "chat_template_kwargs")
"""What a chat template reads beside the messages."""

_TRUNCATION = ("keep_start", "keep_end")


@dataclass(frozen=True)
class RowTokens:
    """Token ids of one row of K responses."""

    prompt: list[int]  # the prompt alone
    full: list[list[int]]  # the prompt with each response
    cut: int  # where the responses begin: so many tokens have all of these in common

    def response(self, i: int) -> list[int]:
        """The ids of one response, as TRL cuts them."""
        return self.full[i][self.cut :]


@dataclass(frozen=True)
class Truncation:
    """What the collator keeps of a prompt and a response together."""

    max_length: int | None  # tokens; None for all
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in _TRUNCATION:
            raise not_one_of("truncation_mode", self.mode, _TRUNCATION)
        if self.max_length is not None and self.max_length < 2:
            raise InputError(
                f"max_length: got {self.max_length}, expected at least 2 (a token of prompt, one of response)"
            )

    @property
    def keeps_start(self) -> bool:
        """Whether a long sequence loses its end, and not its beginning."""
        return self.mode == "keep_start"

    def kept(self, ids: list[int]) -> list[int]:
        """Give what is kept of a sequence."""
        if self.max_length is None:
            return ids
        return ids[: self.max_length] if self.keeps_start else ids[-self.max_length :]


def tokenised(
    tokenizer: Any, rows: Iterable[tuple[Any, Sequence[Any], Mapping[str, Any]]]
) -> list[RowTokens | RowError]:
    """Tokenise rows of (prompt, responses, all columns), many in one call; a row may be refused by the template."""
    texts: dict[bool, list[str]] = {False: [], True: []}
    plan: list[RowError | tuple[bool, int, int]] = []
    for prompt, responses, values in rows:
        chat = not isinstance(prompt, str)
        try:
            made = _rendered(tokenizer, prompt, responses, values)
        except RowError as error:
            plan.append(error)
            continue
        plan.append((chat, len(texts[chat]), len(made)))
        texts[chat] += made
    # The texts of messages hold their special tokens already.
    quiet = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    ids: dict[bool, list[list[int]]] = {}
    for chat, some in texts.items():
        if some:
            ids[chat] = tokenizer(some, add_special_tokens=not chat, **quiet)["input_ids"]
    found: list[RowTokens | RowError] = []
    for entry in plan:
        if isinstance(entry, RowError):
            found.append(entry)
            continue
        chat, start, count = entry
        prompt_ids, *full = ids[chat][start : start + count]
        found.append(RowTokens(prompt_ids, full, min(common_length(prompt_ids, one) for one in full)))
    return found


def _rendered(tokenizer: Any, prompt: Any, responses: Sequence[Any], values: Mapping[str, Any]) -> list[str]:
    """Give the prompt alone and the prompt with each response, as texts for the tokenizer."""
    if isinstance(prompt, str):
        eos = tokenizer.eos_token
        made = [prompt, *(prompt + (text if text.endswith(eos) else text + eos) for text in responses)]
    else:
        options = _template_options(values)
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


def _template_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a row says to its chat template beside the messages, as keyword arguments."""
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


def serves(tokenizer: Any, *, chat: bool, options: bool) -> bool:
    """Say whether a tokenizer can take rows: text needs an EOS token, messages a template or options with one."""
    return (tokenizer.chat_template is not None or options) if chat else tokenizer.eos_token is not None


def refuse_tokenizer(tokenizer: Any, *, chat: bool, options: bool, source: str) -> None:
    """Raise `InputError` where a tokenizer makes nothing of a text, or cannot take the rows of a source."""
    if not tokenizer("The sky is blue.", add_special_tokens=False)["input_ids"]:
        raise InputError(
            f"tokenizer: it makes no tokens of a text, for it has a vocabulary of {len(tokenizer):,}; does "
            f"{tokenizer.name_or_path or 'its folder'} hold the files of a tokenizer? Save it there with "
            "tokenizer.save_pretrained"
        )
    if serves(tokenizer, chat=chat, options=options):
        return
    if not chat:
        raise InputError(
            f"tokenizer: it has no EOS token, so no response of {source} could be seen to end; set tokenizer.eos_token"
        )
    raise InputError(
        f"tokenizer: it has no chat template, but the prompts of {source} are lists of messages; take the "
        "tokenizer of a chat model, set tokenizer.chat_template, or give prompt, chosen and rejected as text"
    )
