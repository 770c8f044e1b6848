"""From records in every accepted layout to validated, tokenised pairs.

A data set travels one way: `load_preferences` reads it, `validate_rows` checks it and brings it into one layout,
`tokenize_pairs` gives TRL's token ids, `PreferenceCollator` stacks them into a batch.
"""

from __future__ import annotations

from mallowspo.data.annotations import OPTIONAL_COLUMNS
from mallowspo.data.collation import EXTRA_COLUMNS, PreferenceCollator
from mallowspo.data.fingerprint import rows_fingerprint
from mallowspo.data.problems import RowProblem
from mallowspo.data.records import PreferenceRow, TokenizedRow, row_from_columns
from mallowspo.data.sources import LoadedData, load_preferences
from mallowspo.data.tokenization import TokenizedPairs, tokenize_pairs
from mallowspo.data.validation import ValidatedData, require_dataset, validate_rows

__all__ = [
    "EXTRA_COLUMNS",
    "OPTIONAL_COLUMNS",
    "LoadedData",
    "PreferenceCollator",
    "PreferenceRow",
    "RowProblem",
    "TokenizedPairs",
    "TokenizedRow",
    "ValidatedData",
    "load_preferences",
    "require_dataset",
    "row_from_columns",
    "rows_fingerprint",
    "tokenize_pairs",
    "validate_rows",
]
