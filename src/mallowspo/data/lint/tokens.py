"""What a row becomes as tokens, by TRL's rules: begin, boundary, end and length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mallowspo.data.blank import content_text
from mallowspo.data.lint.findings import Ledger, clip, visible
from mallowspo.data.lint.rows import LintRow
from mallowspo.data.problems import RowError
from mallowspo.data.records import common_length
from mallowspo.data.rendering import RowTokens, Truncation, refuse_tokenizer, serves, tokenised
from mallowspo.data.vocabulary import resize_advice

__all__ = ["TokenChecks", "end_token_ids"]

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


def _layout(row: LintRow) -> dict[str, bool]:
    return {"chat": row.record.is_conversational, "options": bool(row.values.get("chat_template_kwargs"))}


class TokenChecks:
    """Tokenise rows and flag what is wrong with them as tokens."""

    def __init__(
        self,
        tokenizer: Any,
        truncation: Truncation,
        end_ids: frozenset[int] | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._truncation = truncation
        self._vocabulary = vocabulary  # rows of the model's embedding; None where there is no model
        self._ends = end_token_ids(tokenizer) if end_ids is None else end_ids
        self._bos = tokenizer.bos_token_id
        # GPT-2's family closes texts with the very token that it would open them with.
        self._bos_is_end = self._bos in self._ends
        self._adds_bos = self._bos is not None and tokenizer("a")["input_ids"][:1] == [self._bos]
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
        refuse_tokenizer(self._tokenizer, **_layout(row), source="the data")

    def tokenise(self, rows: Sequence[LintRow], ledger: Ledger) -> list[tuple[LintRow, RowTokens]]:
        """Tokenise a chunk of rows; those that the chat template refuses are flagged and left out."""
        # The first row could be served, so one that cannot is flagged for its other layout.
        rows = [row for row in rows if serves(self._tokenizer, **_layout(row))]
        texts = [(row.record.prompt, row.record.responses, row.values) for row in rows]
        found = []
        for row, tokens in zip(rows, tokenised(self._tokenizer, texts), strict=True):
            if isinstance(tokens, RowError):
                ledger.flag(row.position, tokens.kind, clip(tokens.detail, 160))
            else:
                found.append((row, tokens))
        return found

    def check(self, row: LintRow, tokens: RowTokens, ledger: Ledger) -> None:
        """Flag one row."""
        self._known(row, tokens, ledger)
        self._typed(row, ledger)
        self._begin(row, tokens, ledger)
        self._boundary(row, tokens, ledger)
        for i in range(len(tokens.full)):
            self._end(row, tokens, i, ledger)
        self._lengths(row, tokens, ledger)

    def _known(self, row: LintRow, tokens: RowTokens, ledger: Ledger) -> None:
        size = self._vocabulary
        if size is None:
            return
        bad = next((i for ids in tokens.full for i in ids if i >= size), None)
        if bad is not None:
            shows = f"{self._pieces([bad])} is id {bad:,}; {resize_advice(self._tokenizer, size)}"
            ledger.flag(row.position, "unknown_token_id", shows)

    # Special tokens that somebody typed.

    def _typed(self, row: LintRow, ledger: Ledger) -> None:
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

    def _begin(self, row: LintRow, tokens: RowTokens, ledger: Ledger) -> None:
        if self._bos is None:
            return
        for ids in tokens.full:
            at = self._stray_bos(ids)
            if at is not None:
                ledger.flag(row.position, "bos_doubled", f"token {at + 1}: {self._around(ids, at)}")
            if self._adds_bos and ids[:1] != [self._bos]:
                shown = ids[:_AROUND]
                ledger.flag(row.position, "bos_missing", lambda: f"begins with {self._pieces(shown)}")  # noqa: B023

    def _stray_bos(self, ids: list[int]) -> int | None:
        """Find a BOS that neither opens the sequence nor a turn after the end of another."""
        if self._bos_is_end:
            return 1 if ids[:2] == [self._bos, self._bos] else None
        if ids.count(self._bos) <= 1 and ids[:1] == [self._bos]:
            return None
        for at in range(1, len(ids)):
            if ids[at] != self._bos:
                continue
            # ChatML breaks the line between turns, and SmolLM2's BOS is the mark that opens one.
            stop = self._without_blank(ids, at)
            if not stop or ids[stop - 1] not in self._ends:
                return at
        return None

    # Boundary.

    def _boundary(self, row: LintRow, tokens: RowTokens, ledger: Ledger) -> None:
        lost = tokens.prompt[tokens.cut :]
        if not lost:
            return
        kind = "template_prefix_mismatch" if row.record.is_conversational else "boundary_merge"
        span = clip(self._tokenizer.decode(lost), 60)
        ledger.flag(row.position, kind, lambda: self._diverging(tokens), span=span)

    def _diverging(self, tokens: RowTokens) -> str:
        """Show the pieces on both sides of the place where prompt and full sequence part."""
        around = slice(max(tokens.cut - 3, 0), tokens.cut + 3)
        joined = next(ids for ids in tokens.full if common_length(tokens.prompt, ids) == tokens.cut)
        alone, full = (self._pieces(ids[around]) for ids in (tokens.prompt, joined))
        return f"prompt alone … {alone} | with the response … {full}"

    # End.

    def _end(self, row: LintRow, tokens: RowTokens, i: int, ledger: Ledger) -> None:
        ids, position = tokens.response(i), row.position

        def tail() -> str:
            return f"{row.names[i]} ends with {self._pieces(ids[-_AROUND:])}"

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
        many_turns = row.record.is_conversational and len(row.record.responses[i]) > 1
        if not many_turns and not self._ends.isdisjoint(ids[:stop]):
            at = next(at for at in range(stop) if ids[at] in self._ends)
            ledger.flag(position, "eos_inside", f"token {at + 1} of {row.names[i]}: {self._around(ids, at)}")

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

    def _lengths(self, row: LintRow, tokens: RowTokens, ledger: Ledger) -> None:
        position, limit = row.position, self._truncation.max_length
        lengths = [len(ids) for ids in tokens.full]
        longest = max(lengths)
        if limit is not None and self._truncation.keeps_start and tokens.cut >= limit:
            shows = f"the prompt has {tokens.cut:,} tokens, max_length is {limit:,}"
            ledger.flag(position, "prompt_too_long", shows)
            return
        kept = longest if limit is None else min(longest, limit)
        if self._context is not None and kept > self._context:
            shows = f"{kept:,} tokens are kept, the model holds {self._context:,}"
            ledger.flag(position, "longer_than_model", shows)
        for better, worse in row.pairs:
            if self._truncation.kept(tokens.full[better]) == self._truncation.kept(tokens.full[worse]):
                cut = limit is not None and longest > limit
                shows = f"the same {limit:,} tokens are kept of both" if cut else "both give the same tokens"
                ledger.flag(position, "identical_as_tokens", shows)
        if limit is None or longest <= limit:
            return
        for better, worse in row.pairs:
            sides = (("truncated_chosen", better), ("truncated_rejected", worse))
            long = [(kind, i) for kind, i in sides if lengths[i] > limit]
            for kind, i in long:
                shows = f"{lengths[i]:,} tokens, {lengths[i] - limit:,} are lost ({tokens.cut:,} are the prompt's)"
                ledger.flag(position, kind, shows)
            if len(long) == 1:
                shows = f"chosen {lengths[better]:,}, rejected {lengths[worse]:,} tokens"
                ledger.flag(position, "truncated_one_side", shows)

    # Excerpts.

    def _pieces(self, ids: Sequence[int]) -> str:
        return " ".join(visible(str(piece)) for piece in self._tokenizer.convert_ids_to_tokens(list(ids)))

    def _around(self, ids: list[int], at: int) -> str:
        return "… " + self._pieces(ids[max(at - 3, 0) : at + 4]) + " …"
