"""One pass of a reference model over a data set, into a store."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mallowspo.cli.options import read_pairs
from mallowspo.cli.reference import ReferenceOptions
from mallowspo.cli.signals import is_first_process
from mallowspo.loading import check_saved_model, loading, refuse_random_weights
from mallowspo.progress import Progress, progress_bar, silent

if TYPE_CHECKING:
    import datasets

    from mallowspo.scoring import ReferenceStore, WriteResult

__all__ = ["make_store"]

# Versions that the manifest names.
_VERSIONS = ("python", "mallowspo", "torch", "transformers", "trl")


def make_store(options: ReferenceOptions) -> WriteResult:
    """Write, resume, mend or lengthen a store, and say how far it is."""
    if not is_first_process():
        return _make_store(options, silent)
    with progress_bar("mallowspo reference") as progress:
        return _make_store(options, progress)


def _make_store(options: ReferenceOptions, progress: Progress) -> WriteResult:
    """Every process of a launch calls this; what cannot be used is refused before the model is loaded where it can."""
    from mallowspo.data import PreferenceCollator
    from mallowspo.data.vocabulary import embedding_rows, padding_id, refuse_unknown_ids
    from mallowspo.scoring import (
        Processes,
        ReferenceKey,
        ReferenceStore,
        check_store,
        model_fields,
        rows_key,
        score_rows,
        settle_settings,
        write_store,
    )
    from mallowspo.scoring.model_checks import base_model
    from mallowspo.scoring.self_check import check_scores

    started = time.monotonic()
    options.check()
    accelerator = _start_processes(options)
    revision, trust = options.model_revision, options.trust_remote_code
    check_saved_model("model_name_or_path", options.model_name_or_path, revision=revision, trust_remote_code=trust)
    tokenizer = _tokenizer(options)
    rows = _rows(options, tokenizer)
    size = embedding_rows(options.model_name_or_path, revision=revision, trust_remote_code=trust)
    refuse_unknown_ids(rows, tokenizer, size, options.dataset_name)
    known = _known_fields(options, tokenizer)
    check_store(options.output_dir, ReferenceKey(**known))
    settings = settle_settings(
        options.output_dir,
        batch_size=options.batch_size,
        shard_rows=options.shard_rows,
        per_token=options.per_token,
    )
    processes = Processes.of_accelerate(accelerator)
    model = _model(options, accelerator.device)
    mixed = str(accelerator.mixed_precision)
    with accelerator.autocast():
        check_scores(model, accelerator.device, packed=False, mixed_precision=mixed)
    adapter = None if options.adapter is None else "default"
    known |= model_fields(model, adapter=adapter, processes=processes)
    collate = PreferenceCollator(
        pad_token_id=padding_id(tokenizer, embedding_rows(base_model(model))),
        max_length=options.max_length or None,
        truncation_mode=options.truncation_mode,
    )

    def score(part: datasets.Dataset) -> Any:
        """Scores of some rows, in batches that depend on nothing else."""
        return score_rows(
            part,
            forward=lambda batch: _forward(model, accelerator, batch),
            collate=collate,
            batch_size=settings.batch_size,
            per_token=settings.per_token,
        )

    with _the_same_in_any_number(processes, accelerator):
        bar = _Bar(processes.world, progress if processes.is_first else silent)
        result = write_store(
            options.output_dir,
            rows,
            key=ReferenceKey(**(known | {"mixed_precision": mixed} | rows_key(rows))),
            score=score,
            settings=settings,
            made_with=_made_with(options, _device_name(accelerator.device)),
            processes=processes,
            on_plan=bar.begin,
            on_shard=bar.advance if processes.is_first else None,
        )
        bar.close()
        if processes.is_first:
            store = ReferenceStore.open(options.output_dir)
            _summarise(store, result, time.monotonic() - started)
            if options.export_trl is not None:
                _export_for_trl(rows, store, options.export_trl)
                sys.stderr.write(f"Data with TRL's columns written to {options.export_trl}\n")
        processes.wait()
    return result


def _start_processes(options: ReferenceOptions) -> Any:
    """Join the processes of a launch, before any other library takes this one for being alone."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    on_cpu = options.use_cpu or not torch.accelerator.is_available()
    mixed = options.mixed_precision if options.mixed_precision != "auto" else ("no" if on_cpu else "bf16")
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed,
        # A process that has finished its shards waits for the slowest one, which may take hours.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
    )


@contextmanager
def _the_same_in_any_number(processes: Any, accelerator: Any) -> Iterator[None]:
    """Let any number of processes on a CPU give the same store, and end their group."""
    import torch

    threads = torch.get_num_threads()
    try:
        if accelerator.device.type == "cpu":
            # The last bits of a matrix product depend on the number of threads. More cores are used by more processes.
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
        if processes.world > 1:
            accelerator.end_training()


def _forward(model: Any, accelerator: Any, batch: Any) -> Any:
    import torch

    from mallowspo.scoring import score_padded

    batch = {name: value.to(accelerator.device) for name, value in batch.items()}
    with torch.no_grad(), accelerator.autocast():
        return score_padded(model, batch, per_token=True)


def _model(options: ReferenceOptions, device: Any) -> Any:
    """Load the reference as `mallowspo train` would, with the head that gives entropies."""
    from transformers import AutoModelForCausalLM

    from mallowspo.compat import add_score_head
    from mallowspo.scoring.model_checks import refuse_adapter_folder, require_plain_head

    refuse_adapter_folder(
        options.model_name_or_path, "model_name_or_path", "name that model here, and the adapter's folder as --adapter"
    )
    with loading("model_name_or_path", options.model_name_or_path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            options.model_name_or_path,
            revision=options.model_revision or "main",
            dtype=options.dtype,
            attn_implementation=options.attn_implementation,
            trust_remote_code=options.trust_remote_code,
            output_loading_info=True,
        )
    model, info = loaded
    refuse_random_weights("model_name_or_path", options.model_name_or_path, info)
    add_score_head(model)
    if options.adapter is not None:
        from peft import PeftModel

        with loading("adapter", options.adapter):
            model = PeftModel.from_pretrained(model, options.adapter)
    require_plain_head(model)
    return model.to(device).eval()


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def _export_for_trl(rows: datasets.Dataset, store: ReferenceStore, path: Path) -> None:
    """Write the data with the columns that plain TRL reads: `ref_chosen_logps` and `ref_rejected_logps`."""
    import pyarrow.parquet as pq

    from mallowspo.data.records import LIST_COLUMN, TOKEN_COLUMNS
    from mallowspo.data.tables import parquet_table
    from mallowspo.files import atomic_path

    # TRL makes the ids anew from the text; ids without a text beside them are all there is.
    if {"prompt", "chosen", "rejected"} <= set(rows.column_names):
        rows = rows.remove_columns([n for n in (*TOKEN_COLUMNS, LIST_COLUMN, "row_index") if n in rows.column_names])
    scores = store.read().scores
    for side, name in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
        rows = rows.add_column(name, scores.logp_nk[:, side].copy())
    with atomic_path(path) as beside:
        if path.suffix == ".parquet":
            pq.write_table(parquet_table(rows.with_format("arrow")[:]), str(beside))
        else:
            rows.to_json(str(beside))


def _tokenizer(options: ReferenceOptions) -> Any:
    from mallowspo.training.splits import preparing_tokenizer

    init = {} if options.model_revision is None else {"revision": options.model_revision}
    args: Any = SimpleNamespace(model_init_kwargs=init, trust_remote_code=options.trust_remote_code)
    return preparing_tokenizer(options.model_name_or_path, None, args)


def _rows(options: ReferenceOptions, tokenizer: Any) -> datasets.Dataset:
    """The rows that `mallowspo train` would train on, in its order."""
    from mallowspo.data import tokenize_pairs
    from mallowspo.training.lists import ordered_rows

    loaded, validated = read_pairs(options, lists=options.reads_lists)
    tokenized = tokenize_pairs(
        validated.dataset,
        tokenizer,
        max_length=options.max_length or None,
        invalid_rows=options.invalid_rows,
        num_proc=options.dataset_num_proc,
        truncation_mode=options.truncation_mode,
        dataset_name=options.dataset_train_split,
    )
    dropped = [*loaded.dropped, *validated.problems, *tokenized.problems]
    for problem in dropped[:10]:
        sys.stderr.write(f"left out: row {problem.row_index + 1:,}: {problem.detail}\n")
    if len(dropped) > 10:
        sys.stderr.write(f"left out: {len(dropped) - 10:,} more rows\n")
    return ordered_rows(tokenized.dataset)


def _known_fields(options: ReferenceOptions, tokenizer: Any) -> dict[str, Any]:
    """Fields of the key that need no model."""
    from mallowspo.training.reference import data_fields

    known = data_fields(None, tokenizer, options)
    if options.dtype != "auto":
        known["dtype"] = options.dtype
    return known


def _made_with(options: ReferenceOptions, device_name: str) -> dict[str, str]:
    """For the manifest: enough to make the store again."""
    from mallowspo.versions import library_versions

    named = {
        "model": options.model_name_or_path,
        "revision": options.model_revision,
        "adapter": options.adapter,
        "dataset": options.dataset_name,
        "split": options.dataset_train_split,
        "objective": options.objective if options.reads_lists else None,
        "device": device_name,
    }
    versions = {name: value for name, value in library_versions().items() if name in _VERSIONS}
    return {name: str(value) for name, value in named.items() if value is not None} | versions


class _Bar:
    """Progress over rows, shown by the first process for all."""

    def __init__(self, world: int, progress: Progress) -> None:
        self._world, self._progress = world, progress
        self._done = self._missing = 0

    def begin(self, missing: int, present: int, damaged: tuple[str, ...]) -> None:
        for name in damaged:
            sys.stderr.write(f"{name}: its checksum is wrong; its rows are computed again\n")
        if present and missing:
            sys.stderr.write(f"{present:,} rows are there, {missing:,} are to be computed\n")
        self._missing = missing
        self._show(0)

    def advance(self, rows: int) -> None:
        self._show(min(self._done + rows * self._world, self._missing))

    def close(self) -> None:
        self._show(self._missing)

    def _show(self, done: int) -> None:
        self._done = done
        if self._missing:
            self._progress("Reference scores", done, self._missing)


def _summarise(store: ReferenceStore, result: WriteResult, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    manifest = store.manifest
    size = sum((store.folder / shard.file).stat().st_size for shard in manifest.shards)
    # A path that is cut at the width of the terminal could not be copied.
    columns = (Column(), Column(overflow="fold"))
    table = Table(*columns, show_header=False, title=f"Reference store {store.folder}", title_justify="left")
    table.add_row("rows", f"{manifest.rows:,} (2 responses each)")
    table.add_row("response tokens", f"{manifest.tokens:,}")
    table.add_row("shards", f"{result.computed:,} computed, {result.reused:,} reused; {size / 2**20:,.1f} MiB")
    table.add_row("seconds", f"{seconds:,.1f}")
    table.add_row("key", f"{manifest.key.digest[:16]}… (manifest.json has the rest)")
    table.add_row("use it with", f"mallowspo train --reference_store {store.folder} ...")
    Console(stderr=True, soft_wrap=True).print(table)
