"""Whether a model has a row for every id that its tokenizer writes; ids beyond the embedding end in an IndexError."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from mallowspo.data.records import TOKEN_COLUMNS
from mallowspo.errors import InputError
from mallowspo.loading import saved_config

__all__ = ["embedding_rows", "padding_id", "refuse_unknown_ids", "resize_advice"]


def embedding_rows(model: Any, *, revision: str | None = None, trust_remote_code: bool = False) -> int | None:
    """Rows of a model's input embedding; of a name the configuration alone is read. None where they are unknown."""
    if not isinstance(model, str):
        embedding = model.get_input_embeddings()
        # Sharded engines leave an empty weight behind, but the layer still knows its size.
        size = getattr(embedding, "num_embeddings", None)
        return None if size is None else int(size)
    config = saved_config(model, revision=revision, trust_remote_code=trust_remote_code)
    if config is None:
        return None
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def padding_id(tokenizer: Any, size: int | None) -> int:
    """An id to fill up batches with that the model can read; what is padding is told by the masks, not by the id."""
    candidates = [tokenizer.pad_token_id, tokenizer.eos_token_id, 0]
    return next(int(i) for i in candidates if i is not None and (size is None or i < size))


def resize_advice(tokenizer: Any, size: int) -> str:
    """What is wrong between a tokenizer and a model, and what to do."""
    return (
        f"the tokenizer has {len(tokenizer):,} ids, the model's embedding {size:,} rows: call "
        "model.resize_token_embeddings(len(tokenizer)) and save the model, or take the model's own tokenizer"
    )


def refuse_unknown_ids(dataset: Any, tokenizer: Any, size: int | None, name: str) -> None:
    """Refuse token ids that an embedding of `size` rows (None: unknown) has no row for, by the first row with one."""
    if size is None or len(tokenizer) <= size or len(dataset) == 0:
        return
    columns = [column for column in TOKEN_COLUMNS if column in dataset.column_names]
    for start, table in enumerate(dataset.select_columns(columns).with_format("arrow").iter(1000)):
        if not any((pc.max(pc.list_flatten(table[column])).as_py() or 0) >= size for column in columns):
            continue
        for place, row in enumerate(table.to_pylist()):
            bad = [token for column in columns for token in row[column] if token >= size]
            if bad:
                number = 1000 * start + place
                if "row_index" in dataset.column_names:
                    number = dataset[number]["row_index"]
                token = tokenizer.convert_ids_to_tokens(bad[0])
                raise InputError(
                    f"{name}, row {number + 1:,}: {token!r} is id {bad[0]:,}, which the model does not have; "
                    f"{resize_advice(tokenizer, size)}"
                )
