"""A model and a batch in; log-probability, entropy sum and length per response out. The reference store on disk."""

from mallowspo.scoring.packed import add_packed_head, score_packed
from mallowspo.scoring.packed_attention import PackedSupport
from mallowspo.scoring.padded import ResponseScores, score_padded
from mallowspo.scoring.processes import Processes
from mallowspo.scoring.reference_key import ReferenceKey, model_fields, tokenizer_fields, vocabulary_size
from mallowspo.scoring.reference_scores import ReferenceScores, landmark_entropies, score_rows
from mallowspo.scoring.store_format import StoreSettings
from mallowspo.scoring.store_reader import ReferenceStore, StoredRows, find_stores, remove_store
from mallowspo.scoring.store_writer import WriteResult, check_store, rows_key, settle_settings, write_store

__all__ = [
    "PackedSupport",
    "Processes",
    "ReferenceKey",
    "ReferenceScores",
    "ReferenceStore",
    "ResponseScores",
    "StoreSettings",
    "StoredRows",
    "WriteResult",
    "add_packed_head",
    "check_store",
    "find_stores",
    "landmark_entropies",
    "model_fields",
    "remove_store",
    "rows_key",
    "score_packed",
    "score_padded",
    "score_rows",
    "settle_settings",
    "tokenizer_fields",
    "vocabulary_size",
    "write_store",
]
