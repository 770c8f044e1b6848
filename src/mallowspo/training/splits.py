"""One split on its way to the trainer: validated, tokenised, weighed by people's word where there is one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from accelerate.logging import get_logger
from numpy.typing import NDArray
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

from mallowspo.data.annotations import LOSS_COLUMNS
from mallowspo.data.collation import PreferenceCollator
from mallowspo.data.problems import RowProblem
from mallowspo.data.records import LIST_COLUMN, RANKS_COLUMN, TOKEN_COLUMNS
from mallowspo.data.tokenization import tokenize_pairs
from mallowspo.data.validation import require_dataset, validate_rows
from mallowspo.data.vocabulary import padding_id
from mallowspo.errors import InputError, reason_of
from mallowspo.training.config import MallowsPOConfig
from mallowspo.training.lists import ordered_rows, refuse_prepared_lists, refuse_tied_lists
from mallowspo.training.row_weights import columns_read, raw_from_columns, unread_columns

__all__ = [
    "PreparedSplit",
    "is_prepared",
    "pair_collator",
    "prepare_split",
    "preparing_tokenizer",
    "tell",
    "warn_of_other_layout",
]

logger = get_logger(__name__)


@dataclass(frozen=True)
class PreparedSplit:
    """A split that is ready to train on, and what became of its rows."""

    dataset: Any  # tokenised
    raw_n: NDArray[np.float64] | None  # raw weights from people, shape (N,); None: the reference gives them
    weights_given: bool  # as weights, not as an index: `auto` leaves them as they are
    rows_read: int  # before validation
    problems: tuple[RowProblem, ...]  # rows left out
    truncated: dict[str, int]  # responses cut at `max_length`, by side
    unread: tuple[str, ...]  # columns about people's agreement that the configuration does not read

    @property
    def known(self) -> Any:
        """The rows that are known before training: all of them."""
        return self.dataset

    @property
    def dropped(self) -> dict[str, int]:
        """Rows left out, counted by reason."""
        return dict(sorted(Counter(problem.kind for problem in self.problems).items()))

    def dropped_rows(self, kind: str) -> list[int]:
        """Rows left out for one reason, counted from 1 as an editor counts lines."""
        return [problem.row_index + 1 for problem in self.problems if problem.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `run.json`; of each reason the first thousand rows are named."""
        return {
            "rows_read": self.rows_read,
            "rows_used": len(self.known),
            "dropped": self.dropped,
            "dropped_rows": {kind: self.dropped_rows(kind)[:1000] for kind in self.dropped},
            "truncated": self.truncated,
            "unread_columns": list(self.unread),
        }


def preparing_tokenizer(model: Any, processing_class: Any, args: MallowsPOConfig) -> PreTrainedTokenizerBase:
    """The tokenizer with a pad token, before any weights are loaded; loaded where `processing_class` is None."""
    if processing_class is None:
        name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
        revision = dict(args.model_init_kwargs or {}).get("revision") if isinstance(model, str) else None  # type: ignore[arg-type]
        try:
            processing_class = AutoProcessor.from_pretrained(
                name, revision=revision, trust_remote_code=args.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"model: no tokenizer could be loaded from {name!r} ({_why_none(name, revision, args, error)}); give "
                "the path of a saved model, a hub name that is reachable, or a processing_class"
            ) from error
    if not isinstance(processing_class, PreTrainedTokenizerBase):
        raise InputError(
            f"processing_class: got {type(processing_class).__name__}, expected a tokenizer; images are not supported"
        )
    pad_token = getattr(args, "pad_token", None)
    if pad_token is not None:
        # As TRL with its own collator: the token must be there, since a new one would have no row in the model.
        if pad_token not in processing_class.get_vocab():
            raise InputError(f"pad_token: got {pad_token!r}, which the tokenizer does not have; name a token of its")
        processing_class.pad_token = pad_token
    if processing_class.pad_token is None:
        if processing_class.eos_token is None:
            raise InputError("tokenizer: it has neither a pad nor an EOS token; set tokenizer.eos_token")
        processing_class.pad_token = processing_class.eos_token
    return processing_class


def is_prepared(dataset: Any) -> bool:
    """Say whether a data set went through `prepare_split`; ids that it came with do not make it so."""
    return {LIST_COLUMN, *TOKEN_COLUMNS} <= set(dataset.column_names or ())


def warn_of_other_layout(train: Any, other: Any, name: str) -> None:
    """Say in the log where one split is text and the other messages: its losses are of another task."""
    if not len(train) or not len(other) or not {"prompt"} <= set(train.column_names) & set(other.column_names):
        return
    kinds = ["text" if isinstance(rows[0]["prompt"], str) else "lists of messages" for rows in (train, other)]
    if kinds[0] != kinds[1]:
        logger.warning(f"the {name} data are {kinds[1]}, the training data {kinds[0]}: bring both into one layout")


def _why_none(name: str, revision: Any, args: Any, error: Exception) -> str:
    """The reason that transformers' tokenizers give; its processors pass over it and say only that there is none."""
    try:
        AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=args.trust_remote_code)
    except Exception as own:
        return reason_of(own)
    return reason_of(error)


def pair_collator(tokenizer: Any, args: MallowsPOConfig, *vocabularies: int | None) -> PreferenceCollator:
    """The collator of a run, from its options; `vocabularies` are the numbers of ids that its models can read."""
    known = [size for size in vocabularies if size is not None]
    return PreferenceCollator(
        pad_token_id=padding_id(tokenizer, min(known, default=None)),
        max_length=args.max_length,
        truncation_mode=args.truncation_mode,
        pad_to_multiple_of=cast(int | None, args.pad_to_multiple_of),
    )


def prepare_split(dataset: Any, tokenizer: Any, args: MallowsPOConfig, name: str) -> PreparedSplit:
    """Validate, tokenise and weigh one split; `name` is for messages and progress bars."""
    dataset = require_dataset(dataset, f"{name} data")
    rows_read, objective = len(dataset), args.resolved_objective
    if objective.reads_lists:
        refuse_prepared_lists(dataset, f"{name} data")
    reads = columns_read(args)
    # A column that this run does not read must neither stop it nor cost it a row.
    validated = validate_rows(
        dataset,
        invalid_rows=args.invalid_rows,
        columns=(*reads, *LOSS_COLUMNS),
        source=f"{name} data",
        lists=args.resolved_objective.reads_lists,
    )
    if "margin" in dataset.column_names:
        _check_margin(args, name)
    tokenized = tokenize_pairs(
        validated.dataset,
        tokenizer,
        max_length=args.max_length,
        invalid_rows=args.invalid_rows,
        num_proc=args.dataset_num_proc,
        truncation_mode=args.truncation_mode,
        dataset_name=name,
    )
    if objective.reads_lists:
        refuse_prepared_lists(tokenized.dataset, f"{name} data")
        if objective.form != "pairs":
            refuse_tied_lists(tokenized.dataset, f"{name} data")
    elif RANKS_COLUMN in tokenized.dataset.column_names:
        raise InputError(
            f"{name} data: these rows were prepared for an objective that reads ranked lists; give the lists "
            "themselves (prompt, responses, ranks)"
        )
    rows = ordered_rows(tokenized.dataset)
    if len(rows) == 0:
        raise InputError(f"{name} data: no list has two responses in an order left")
    by_row = args.resolved_dispersion in ("votes", "rankings", "column")
    split = PreparedSplit(
        dataset=rows,
        raw_n=raw_from_columns(rows, args, name=name) if by_row else None,
        weights_given=args.resolved_dispersion == "column" and "weight" in rows.column_names,
        rows_read=rows_read,
        problems=(*validated.problems, *tokenized.problems),
        truncated={"chosen": tokenized.truncated_chosen, "rejected": tokenized.truncated_rejected},
        unread=tuple(unread_columns(dataset, args)),
    )
    return split


def _check_margin(args: MallowsPOConfig, name: str) -> None:
    objective = args.resolved_objective
    if not objective.accepts_margin:
        raise InputError(
            f"column 'margin' in the {name} data: objective {args.objective!r} has no margin (link {objective.link}, "
            f"reference_weight {objective.reference_weight:g}; the gap subtracts (1 - reference_weight) * margin). "
            "Rename or remove the column, or choose an objective with a margin such as mallows_simpo or rainbow"
        )
    if args.margin is not None:
        raise InputError(
            f"margin: got {args.margin}, and a column 'margin' in the {name} data; leave one of the two out"
        )


def tell(split: PreparedSplit, args: MallowsPOConfig, name: str) -> None:
    """Name in the log what is left out and what is not read."""
    for kind, count in split.dropped.items():
        rows = ", ".join(f"{row:,}" for row in split.dropped_rows(kind)[:5]) + (", …" if count > 5 else "")
        logger.warning(f"{name} data: {count:,} of {split.rows_read:,} rows left out, {kind}: row {rows}")
    if split.unread:
        logger.warning(
            f"{name} data: dispersion is {args.resolved_dispersion!r}, so these columns are not read: "
            f"{list(split.unread)}"
        )
