"""What a row becomes as tokens, by TRL's rules: begin, boundary, end and length.

TRL tokenises the prompt alone and the prompt with each response (and its EOS, where the row is text), and lets the
response begin where the two diverge. The same is done here, for many rows in one call of the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mallowspo.data.blank import content_text
from mallowspo.data.lint.ledger import Ledger, clip, visible
from mallowspo.data.lint.rows import LintRow
from mallowspo.data.problems import RowError
from mallowspo.data.rendering import common_length, encoded, refuse_empty_tokenizer, rendered
from mallowspo.data.vocabulary import resize_advice
from mallowspo.errors import InputError, not_one_of

__all__ = ["TokenChecks", "TokenisedRow", "end_token_ids"]

# Tokens that close a turn in the chat formats that are about.
_TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>", "<|call|>",
    "<|endoftext|>", "<|end_of_text|>", "<|eot|>", "<|END_OF_TURN_TOKEN|>", "<|end_of_role|>", "<|user_end|>",
)  # fmt: skip
_AROUND = 6
# How a turn opens behind the end of another, in text that was rendered before: `USER:`, `[INST]`, `### Human`.
_TURN_OPENS = re.compile(r"\s*(?:\[INST\]|###|<|[A-Z][A-Za-z ]{0,15}:)")


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    found = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, found)) or r"(?!)")


def _text_around(text: str, match: re.Match[str]) -> str:
    start = max(match.start() - 20, 0)
    return ("…" if start else "") + clip(text[start : match.end() + 20], 80)


def end_token_ids(tokenizer: Any, model_name_or_path: str | None = None) -> frozenset[int]:
    """Gather the tokens at which generation stops."""
    added = tokenizer.get_added_vocab()
    found = {added[token] for token in _TURN_ENDS if token in added}
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    if model_name_or_path is not None:
        from transformers import GenerationConfig

        try:
            eos = GenerationConfig.from_pretrained(model_name_or_path).eos_token_id
        except (OSError, ValueError):
            eos = None  # a folder with a tokenizer alone has none
        found |= set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    return frozenset(found)


@dataclass(frozen=True)
class TokenisedRow:
    """Token ids of one row."""

    row: LintRow
    prompt_ids: list[int]
    full_ids: tuple[list[int], ...]
    cut: int

    def response_ids(self, i: int) -> list[int]:
        """The ids of one response, as TRL cuts them."""
        return self.full_ids[i][self.cut :]


class TokenChecks:
    """Tokenise rows and flag what is wrong with them as tokens."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int | None,
        truncation_mode: str,
        end_ids: frozenset[int] | None = None,
        vocabulary: int | None = None,
    ) -> None:
        if truncation_mode not in ("keep_start", "keep_end"):
            raise not_one_of("truncation_mode", truncation_mode, ("keep_start", "keep_end"))
        if max_length is not None and max_length < 2:
            raise InputError(f"max_length: got {max_length}, expected at least 2 (a token of prompt, one of response)")
        refuse_empty_tokenizer(tokenizer)
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._max_length = max_length
        self._keep_start = truncation_mode == "keep_start"
        self._ends = end_token_ids(tokenizer) if end_ids is None else end_ids
        self._bos = tokenizer.bos_token_id
        # GPT-2's family closes texts with the very token that it would open them with.
        self._bos_is_end = self._bos in self._ends
        self._adds_bos = self._bos is not None and encoded(tokenizer, ["a"], chat=False)[0][:1] == [self._bos]
        longest = getattr(tokenizer, "model_max_length", None)
        # transformers writes 10^30 where it does not know.
        self._context = longest if longest is not None and longest < 10**9 else None
        self._blank: dict[int, bool] = {}
        # GPT-2's family opens texts with the token that ends them; chat templates write special tokens, people do not.
        ends = [str(token) for token in tokenizer.convert_ids_to_tokens(sorted(self._ends))]
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        self._end_text = _any_of(ends)
        self._special_text = _any_of(special - {*ends, tokenizer.bos_token})

    def require_for(self, row: LintRow) -> None:
        """Raise `InputError` where the tokenizer cannot serve rows of this layout at all."""
        if self._can_serve(row):
            return
        if row.record.is_conversational:
            raise InputError(
                "tokenizer: it has no chat template, but the rows are lists of messages; take the tokenizer of a "
                "chat model, or give the rows as text"
            )
        raise InputError("tokenizer: it has no EOS token, so no response could be seen to end")

    def _can_serve(self, row: LintRow) -> bool:
        if row.record.is_conversational:
            return self._tokenizer.chat_template is not None or bool(row.values.get("chat_template_kwargs"))
        return self._tokenizer.eos_token is not None

    def tokenise(self, rows: Sequence[LintRow], ledger: Ledger) -> list[TokenisedRow]:
        """Tokenise a chunk of rows; those that the chat template refuses are flagged and left out."""
        texts: dict[bool, list[str]] = {False: [], True: []}
        plan: list[tuple[LintRow, bool, int]] = []
        for row in rows:
            if not self._can_serve(row):
                continue  # the first row could be served, so this one is flagged for its other layout
            chat = row.record.is_conversational
            try:
                made = rendered(self._tokenizer, row.record.prompt, row.record.responses, row.values)
            except RowError as error:
                ledger.flag(row.position, error.kind, clip(error.detail, 160))
                continue
            plan.append((row, chat, len(texts[chat])))
            texts[chat] += made
        ids = {chat: encoded(self._tokenizer, some, chat=chat) for chat, some in texts.items()}
        found = []
        for row, chat, start in plan:
            prompt, *full = ids[chat][start : start + 1 + len(row.responses)]
            cut = min(common_length(prompt, one) for one in full)
            found.append(TokenisedRow(row, prompt, tuple(full), cut))
        return found

    def check(self, tokens: TokenisedRow, ledger: Ledger) -> None:
        """Flag one row."""
        self._known(tokens, ledger)
        self._typed(tokens, ledger)
        self._begin(tokens, ledger)
        self._boundary(tokens, ledger)
        for i in range(len(tokens.full_ids)):
            self._end(tokens, i, ledger)
        self._lengths(tokens, ledger)

    def _known(self, tokens: TokenisedRow, ledger: Ledger) -> None:
        size = self._vocabulary
        if size is None:
            return
        bad = next((i for ids in tokens.full_ids for i in ids if i >= size), None)
        if bad is not None:
            shows = f"{self._pieces([bad])} is id {bad:,}; {resize_advice(self._tokenizer, size)}"
            ledger.flag(tokens.row.position, "unknown_token_id", shows)

    # Special tokens that somebody typed.

    def _typed(self, tokens: TokenisedRow, ledger: Ledger) -> None:
        row = tokens.row
        if not row.record.is_conversational:
            found = self._inside_prompt(row.prompt)
            if found is not None:
                ledger.flag(row.position, "eos_in_prompt", lambda: _text_around(row.prompt, found))
            return
        parts: list[tuple[str, Any]] = [("prompt", row.record.prompt)]
        parts += zip(row.names, row.record.responses, strict=True)
        for name, messages in parts:
            for text in map(content_text, messages):
                end = self._end_text.search(text)
                # Behind the last word it is one end too many, which `eos_doubled` says.
                if end is not None and (name == "prompt" or text[end.end() :].strip()):
                    kind = "eos_in_prompt" if name == "prompt" else "eos_inside"
                    shown = f"{name}: {_text_around(text, end)}"
                    ledger.flag(row.position, kind, shown)
                other = self._special_text.search(text)
                if other is not None:
                    shown = f"{name}: {_text_around(text, other)}"
                    ledger.flag(row.position, "special_token_in_message", shown)

    def _inside_prompt(self, text: str) -> re.Match[str] | None:
        """Find an end token that closes no turn: text that was rendered before has one behind every turn."""
        for match in self._end_text.finditer(text):
            rest = text[match.end() : match.end() + 40]
            before = text[: match.start()]
            if (
                before.strip()
                and rest.strip()
                and not _TURN_OPENS.match(rest)
                and not self._special_text.match(rest.lstrip())
            ):
                return match
        return None

    # Begin.

    def _begin(self, tokens: TokenisedRow, ledger: Ledger) -> None:
        if self._bos is None:
            return
        position = tokens.row.position
        for ids in tokens.full_ids:
            at = self._stray_bos(ids)
            if at is not None:
                ledger.flag(position, "bos_doubled", f"token {at + 1}: {self._around(ids, at)}")
            if self._adds_bos and ids[:1] != [self._bos]:
                ledger.flag(position, "bos_missing", lambda: f"begins with {self._pieces(ids[:_AROUND])}")  # noqa: B023

    def _stray_bos(self, ids: list[int]) -> int | None:
        """Find a BOS that neither opens the sequence nor a turn after the end of another."""
        if self._bos_is_end:
            return 1 if ids[:2] == [self._bos, self._bos] else None
        if ids.count(self._bos) <= 1 and ids[:1] == [self._bos]:
            return None
        for at in range(1, len(ids)):
            if ids[at] == self._bos and ids[at - 1] not in self._ends:
                return at
        return None

    # Boundary.

    def _boundary(self, tokens: TokenisedRow, ledger: Ledger) -> None:
        lost = tokens.prompt_ids[tokens.cut :]
        if not lost:
            return
        kind = "template_prefix_mismatch" if tokens.row.record.is_conversational else "boundary_merge"
        span = clip(self._tokenizer.decode(lost), 60)
        ledger.flag(tokens.row.position, kind, lambda: self._diverging(tokens), span=span)

    def _diverging(self, tokens: TokenisedRow) -> str:
        """Show the pieces on both sides of the place where prompt and full sequence part."""
        start, prompt = max(tokens.cut - 3, 0), tokens.prompt_ids
        joined = next(ids for ids in tokens.full_ids if common_length(prompt, ids) == tokens.cut)
        alone, full = (self._pieces(ids[start : tokens.cut + 3]) for ids in (prompt, joined))
        return f"prompt alone … {alone} | with the response … {full}"

    # End.

    def _end(self, tokens: TokenisedRow, i: int, ledger: Ledger) -> None:
        ids = tokens.response_ids(i)
        position, record = tokens.row.position, tokens.row.record

        def tail() -> str:
            return f"{tokens.row.names[i]} ends with {self._pieces(ids[-_AROUND:])}"

        stop = self._without_blank(ids, len(ids))
        if not stop or ids[stop - 1] not in self._ends:
            ledger.flag(position, "eos_missing", tail)
        while stop and ids[stop - 1] in self._ends:
            before = self._without_blank(ids, stop - 1)
            # Some templates close the turn and then the text, with two different tokens.
            if before and ids[before - 1] == ids[stop - 1]:
                ledger.flag(position, "eos_doubled", tail)
            stop = before
        if stop == 0:
            ledger.flag(position, "empty_as_tokens", tail)
        many_turns = record.is_conversational and len(record.responses[i]) > 1
        if not many_turns and not self._ends.isdisjoint(ids[:stop]):
            at = next(at for at in range(stop) if ids[at] in self._ends)
            ledger.flag(position, "eos_inside", f"token {at + 1} of {tokens.row.names[i]}: {self._around(ids, at)}")

    def _without_blank(self, ids: list[int], stop: int) -> int:
        """Step back over white space: templates put a line break after the end of a turn."""
        while stop and self._is_blank(ids[stop - 1]):
            stop -= 1
        return stop

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = token not in self._ends and not self._tokenizer.decode([token]).strip()
        return self._blank[token]

    # Length.

    def _lengths(self, tokens: TokenisedRow, ledger: Ledger) -> None:
        position, limit = tokens.row.position, self._max_length
        longest = max(len(ids) for ids in tokens.full_ids)
        if limit is not None and self._keep_start and tokens.cut >= limit:
            shows = f"the prompt has {tokens.cut:,} tokens, max_length is {limit:,}"
            ledger.flag(position, "prompt_too_long", shows)
            return
        kept = longest if limit is None else min(longest, limit)
        if self._context is not None and kept > self._context:
            shows = f"{kept:,} tokens are kept, the model holds {self._context:,}"
            ledger.flag(position, "longer_than_model", shows)
        for better, worse in tokens.row.pairs:
            if self._kept(tokens.full_ids[better]) == self._kept(tokens.full_ids[worse]):
                cut = limit is not None and longest > limit
                shows = f"the same {limit:,} tokens are kept of both" if cut else "both give the same tokens"
                ledger.flag(position, "identical_as_tokens", shows)
        if limit is not None and longest > limit:
            self._truncation(tokens, limit, ledger)

    def _kept(self, ids: list[int]) -> list[int]:
        if self._max_length is None or len(ids) <= self._max_length:
            return ids
        return ids[: self._max_length] if self._keep_start else ids[-self._max_length :]

    def _truncation(self, tokens: TokenisedRow, limit: int, ledger: Ledger) -> None:
        position = tokens.row.position
        lengths = [len(ids) for ids in tokens.full_ids]
        for better, worse in tokens.row.pairs:
            sides = (("truncated_chosen", better), ("truncated_rejected", worse))
            cut = [(kind, i) for kind, i in sides if lengths[i] > limit]
            for kind, i in cut:
                shows = f"{lengths[i]:,} tokens, {lengths[i] - limit:,} are lost ({tokens.cut:,} are the prompt's)"
                ledger.flag(position, kind, shows)
            if len(cut) == 1:
                shows = f"chosen {lengths[better]:,}, rejected {lengths[worse]:,} tokens"
                ledger.flag(position, "truncated_one_side", shows)

    # Excerpts.

    def _pieces(self, ids: Sequence[int]) -> str:
        return " ".join(visible(str(piece)) for piece in self._tokenizer.convert_ids_to_tokens(list(ids)))

    def _around(self, ids: list[int], at: int) -> str:
        return "… " + self._pieces(ids[max(at - 3, 0) : at + 4]) + " …"
