"""The catalogue: everything that the linter can find, how bad it is, why it matters and what to do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "KIND_BY_NAME", "Kind"]


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    name: str
    severity: str
    why: str
    todo: str
    error_above: float | None = None
    drop: bool = False

    def severity_at(self, share: float) -> str:
        """Give the severity where this share of the rows, in [0, 1], is concerned."""
        if self.error_above is not None and share > self.error_above:
            return "error"
        return self.severity


# A few rows among many do no harm where TRL has a way of going on; more of them say that the template is at fault.
_ONE_PERCENT = 0.01

KINDS: tuple[Kind, ...] = (
    # Rows that cannot be read.
    Kind("unparsable", "error", "The line holds no row, so a loader stops or skips it.", "Mend or remove the line."),
    Kind(
        "malformed_row",
        "error",
        "The row is no preference in any accepted layout.",
        "Give prompt, chosen and rejected as text or as messages, or responses with ranks.",
    ),
    Kind(
        "mixed_layout",
        "error",
        "TRL decides by the first row whether all rows are chat, so the others lose or gain an EOS token.",
        "Bring all rows into one layout: text, or lists of messages.",
    ),
    Kind(
        "unpaired_surrogate",
        "error",
        "Half of a surrogate pair is no character, and a tokenizer fails on it.",
        "Mend the text where it was cut or decoded.",
    ),
    # Pairs that carry no preference.
    Kind("empty_prompt", "error", "Nothing is asked, so nothing can be preferred.", "Remove the row."),
    Kind(
        "empty_response",
        "error",
        "A response is missing or blank; TRL trains on it without a word.",
        "Remove the row, or fetch the response again.",
    ),
    Kind(
        "identical_pair",
        "error",
        "Chosen and rejected are the same, so the gradient is zero and the accuracy is noise.",
        "Remove the row.",
    ),
    Kind(
        "near_identical_pair",
        "warning",
        "Chosen and rejected differ in a few characters, so the label rests on next to nothing.",
        "Read the examples; remove such rows unless the difference is the point.",
        drop=True,
    ),
    Kind(
        "both_orders",
        "warning",
        "The same two responses are preferred one way in one row and the other way in another; they cancel out.",
        "If several people answered, give one row with a votes column; otherwise remove both.",
        drop=True,
    ),
    Kind(
        "duplicate_row",
        "warning",
        "The same prompt and pair stand there again with the same label, and count twice.",
        "Keep one; if several people answered, give one row with a votes column.",
        drop=True,
    ),
    Kind(
        "duplicate_prompt",
        "info",
        "The prompt stood in an earlier row with another pair; a random split would put it on both sides.",
        "Split by prompt, not by row.",
    ),
    Kind(
        "prompt_in_eval",
        "error",
        "The prompt is in the evaluation data too, so the evaluation rewards memory.",
        "Remove it from one of the two.",
    ),
    Kind(
        "eval_in_other_layout",
        "warning",
        "The evaluation data are text and the data messages, or the other way round, so the two are not one task.",
        "Bring both into one layout: text, or lists of messages.",
    ),
    # Tokens.
    Kind(
        "unknown_token_id",
        "error",
        "A token's id lies beyond the model's embedding, so the first step on this row fails.",
        "Call model.resize_token_embeddings(len(tokenizer)) and save the model, or take the model's own tokenizer.",
    ),
    Kind(
        "bos_doubled",
        "error",
        "A begin-of-sequence token stands inside the text or twice at its start; the model never saw that.",
        "Take the BOS out of the text, or out of the chat template.",
    ),
    Kind(
        "bos_missing",
        "warning",
        "The tokenizer begins every text with a BOS token, the chat template does not.",
        "Add {{ bos_token }} to the head of the chat template, unless the model was trained without it.",
    ),
    Kind(
        "eos_missing",
        "warning",
        "The response does not end in an end token, so the model does not learn to stop.",
        "Close the assistant turn with the EOS or end-of-turn token in the chat template.",
        error_above=_ONE_PERCENT,
    ),
    Kind(
        "eos_doubled",
        "warning",
        "The response ends in the same end token twice.",
        "Take the end token out of the text; the template or TRL adds it.",
        error_above=_ONE_PERCENT,
    ),
    Kind(
        "eos_inside",
        "warning",
        "An end token stands inside the response; generation would have stopped there.",
        "Take it out, or cut the response there.",
        error_above=_ONE_PERCENT,
    ),
    Kind(
        "eos_in_prompt",
        "warning",
        "An end token is typed inside the prompt, so the model reads on behind the end of a text.",
        "Take it out of the text, or break it up with a space.",
    ),
    Kind(
        "special_token_in_message",
        "warning",
        "A message holds the text of a special token, which becomes that token and may open a turn of its own.",
        "Take it out of the message, or break it up with a space.",
    ),
    Kind(
        "boundary_merge",
        "warning",
        "The last tokens of the prompt merge with the response, so the model is trained on a context that it never "
        "sees at inference.",
        "End the prompt on a token boundary: move a trailing space or line break to the responses.",
        error_above=_ONE_PERCENT,
    ),
    Kind(
        "template_prefix_mismatch",
        "warning",
        "The chat template renders the prompt alone otherwise than the prompt with its answer, so training and "
        "inference differ.",
        "Use a template whose generation prompt is a prefix of the answered conversation.",
        error_above=_ONE_PERCENT,
    ),
    Kind(
        "refused_by_template",
        "error",
        "The chat template raises an error on these messages.",
        "Bring the roles into the order that the template expects.",
    ),
    Kind(
        "bad_tools",
        "error",
        "What the row gives to the chat template beside its messages cannot be read.",
        "Give tools as a list of functions, chat_template_kwargs as a mapping, or either as JSON text.",
    ),
    Kind(
        "prompt_too_long",
        "error",
        "The prompt alone fills max_length; TRL drops the row without a word.",
        "Raise max_length, or remove the row.",
    ),
    Kind(
        "truncated_chosen",
        "warning",
        "The chosen response is cut to max_length and loses its end.",
        "Raise max_length, or remove long rows.",
    ),
    Kind(
        "truncated_rejected",
        "warning",
        "The rejected response is cut to max_length and loses its end.",
        "Raise max_length, or remove long rows.",
    ),
    Kind(
        "truncated_one_side",
        "warning",
        "Only one of the two is cut, so the cut itself tells them apart.",
        "Raise max_length, or remove long rows.",
    ),
    Kind(
        "longer_than_model",
        "warning",
        "More tokens are kept than the tokenizer says the model can hold; positions beyond are untrained.",
        "Lower max_length to the model's context.",
    ),
    Kind(
        "empty_as_tokens",
        "error",
        "Nothing of a response is left once it is tokens, beside its end.",
        "Remove the row, or raise max_length.",
    ),
    Kind(
        "identical_as_tokens",
        "error",
        "Chosen and rejected are the same tokens, as they stand or once cut to max_length.",
        "Remove the row, or raise max_length.",
    ),
    # Labels.
    Kind(
        "bad_votes", "error", "The votes are not counts >= 0.", "Give [chosen, rejected] or [chosen, rejected, ties]."
    ),
    Kind("bad_rankings", "error", "A ranking is no permutation.", "Give each of 1..K once in every ranking."),
    Kind("bad_weight", "error", "The weight is no number >= 0.", "Mend the column."),
    Kind("bad_margin", "error", "The margin is no finite number >= 0.", "Mend the column."),
    Kind("bad_dispersion", "error", "The dispersion is no number in (0, 1].", "Mend the column."),
    Kind(
        "votes_against_label",
        "warning",
        "More people voted for the rejected response than for the chosen one.",
        "Swap the two, or check in which order the votes are counted.",
    ),
    Kind(
        "length_bias",
        "warning",
        "Length alone predicts the label, so a model learns to write longer (or shorter) answers.",
        "Compare length-controlled win rates, or use a length-normalised objective.",
    ),
    # Text.
    Kind(
        "replacement_character",
        "warning",
        "U+FFFD stands where a character was lost in decoding.",
        "Decode the source again with its own encoding.",
        drop=True,
    ),
    Kind(
        "mojibake",
        "warning",
        "UTF-8 was read as Latin-1 or Windows-1252, and the model would learn to write it so.",
        "Decode the source again as UTF-8.",
        drop=True,
    ),
    Kind(
        "mixed_script_word",
        "warning",
        "Letters of another script stand inside a Latin word: wrong decoding, or a look-alike.",
        "Decode the source again with its own encoding, or replace the letters.",
    ),
    Kind(
        "private_use_character",
        "warning",
        "A character without a meaning of its own: often a bullet or arrow of a symbol font.",
        "Replace it by the character that was meant.",
    ),
    Kind(
        "control_character",
        "warning",
        "The text holds control characters, which people neither see nor type.",
        "Remove them.",
        drop=True,
    ),
    Kind(
        "html_entity",
        "info",
        "The text holds HTML entities, which may be left over from a web page.",
        "Unescape them unless the text is about HTML.",
    ),
    Kind(
        "turn_in_response",
        "warning",
        "The response goes on into another turn, or begins with a speaker's name, by the marks that the prompt uses.",
        "Cut the response before the mark, or take the name out.",
    ),
    Kind(
        "odd_script",
        "info",
        "The responses are mostly in another script than at least nine in ten rows.",
        "Read the examples: another language is fine where it is meant.",
    ),
)

KIND_BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
