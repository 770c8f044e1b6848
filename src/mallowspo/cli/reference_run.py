"""One pass of a reference model over a data set, into a store."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mallowspo.cli.preflight import check_attention, check_mixed_precision
from mallowspo.cli.signals import is_first_process
from mallowspo.errors import InputError, not_one_of
from mallowspo.loading import check_saved_model
from mallowspo.outputs import writable_file, writable_folder
from mallowspo.progress import Progress, progress_bar, silent

if TYPE_CHECKING:
    import datasets

    from mallowspo.scoring import ReferenceStore, WriteResult

__all__ = [
    "DTYPES",
    "MIXED_PRECISION",
    "ReferenceOptions",
    "export_for_trl",
    "make_store",
    "relaunch",
]

DTYPES = ("float32", "bfloat16", "float16", "auto")
MIXED_PRECISION = ("auto", "no", "bf16", "fp16")
# Versions that the manifest names.
_VERSIONS = ("python", "mallowspo", "torch", "transformers", "trl")
_EXPORTS = (".parquet", ".jsonl")


@dataclass(frozen=True)
class ReferenceOptions:
    """What to score, with what, and where to; the fields are the command's options.

    Attributes:
        model_name_or_path: The reference model.
        dataset_name: The preference data.
        output_dir: The store.
        dataset_train_split: The split that is scored.
        dataset_config: Configuration of a hub data set.
        max_length: Tokens kept of prompt and response together; None for all.
        truncation_mode: `keep_start` or `keep_end`.
        invalid_rows: `error` or `drop`.
        dataset_num_proc: Processes to tokenise with.
        batch_size: Rows a batch; None for the store's, or 8.
        shard_rows: Rows a shard; None for the store's, or 1,024.
        per_token: Keep every token's entropy.
        dtype: Of the weights.
        mixed_precision: As accelerate names it; `auto` is what `mallowspo train` does by default on this device.
        attn_implementation: Such as `sdpa`; None for transformers' choice.
        adapter: A PEFT adapter that is part of the reference.
        model_revision: Branch, tag or commit on the hub.
        trust_remote_code: Run code that comes with the model.
        use_cpu: Leave an accelerator alone.
        export_trl: Where to write the data with TRL's columns.
    """

    model_name_or_path: str
    dataset_name: str
    output_dir: Path
    dataset_train_split: str = "train"
    dataset_config: str | None = None
    max_length: int | None = 1024
    truncation_mode: str = "keep_start"
    invalid_rows: str = "error"
    dataset_num_proc: int | None = None
    batch_size: int | None = None
    shard_rows: int | None = None
    per_token: bool | None = None
    dtype: str = "float32"
    mixed_precision: str = "auto"
    attn_implementation: str | None = None
    adapter: str | None = None
    model_revision: str | None = None
    trust_remote_code: bool = False
    use_cpu: bool = False
    export_trl: Path | None = None

    def check(self) -> None:
        """Raise `InputError` for what can be seen to be wrong before anything is read."""
        for name, allowed in (("dtype", DTYPES), ("mixed_precision", MIXED_PRECISION)):
            if getattr(self, name) not in allowed:
                raise not_one_of(name, getattr(self, name), allowed)
        _check_folder("model_name_or_path", self.model_name_or_path, "config.json")
        if self.adapter is not None:
            _check_folder("adapter", self.adapter, "adapter_config.json")
        check_attention(self.attn_implementation, use_cpu=self.use_cpu)
        check_mixed_precision(self.mixed_precision, use_cpu=self.use_cpu)
        if self.export_trl is not None and self.export_trl.suffix not in _EXPORTS:
            raise InputError(
                f"export_trl: got {self.export_trl}, expected a name that ends in {' or '.join(_EXPORTS)}"
            )
        if is_first_process():
            writable_folder(self.output_dir, "output_dir")
            if self.export_trl is not None:
                writable_file(self.export_trl, "export_trl")


def _check_folder(option: str, name: str, needed: str) -> None:
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise InputError(f"{option}: there is no folder {name}")
        return
    if not (path / needed).is_file():
        is_adapter = (path / "adapter_config.json").is_file()
        advice = "; it is an adapter: give its base model here and the folder as adapter" if is_adapter else ""
        raise InputError(f"{option}: {name} has no {needed}{advice}")


def relaunch(num_processes: int, arguments: list[str]) -> int:
    """Run the command again in several processes, under accelerate.

    Args:
        num_processes: How many, on this machine.
        arguments: The command line after `reference`, without `--num_processes`.

    Returns:
        The exit code.
    """
    from mallowspo.cli.launching import SEVERAL_ON_THIS_MACHINE, launched

    options = ["--num_processes", str(num_processes), "--num_machines", "1", *SEVERAL_ON_THIS_MACHINE]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return launched([*options, "--module", "mallowspo.cli.main", "reference", *arguments])


def make_store(options: ReferenceOptions) -> WriteResult:
    """Write, resume, mend or lengthen a store, and say how far it is; see `_make_store`."""
    if not is_first_process():
        return _make_store(options, silent)
    with progress_bar("mallowspo reference") as progress:
        return _make_store(options, progress)


def _make_store(options: ReferenceOptions, progress: Progress) -> WriteResult:
    """Write, resume, mend or lengthen a store; every process of a launch calls this.

    Args:
        options: What to score.
        progress: Called as shards are done.

    Returns:
        What was done.

    Raises:
        InputError: Options, data or a store that cannot be used; before the model is loaded where that shows by then.
    """
    from mallowspo.cli.reference_model import loaded_scorer, start_processes
    from mallowspo.data.vocabulary import embedding_rows, refuse_unknown_ids
    from mallowspo.scoring import ReferenceKey, ReferenceStore, check_store, rows_key, settle_settings, write_store

    started = time.monotonic()
    options.check()
    accelerator = start_processes(options)
    revision, trust = options.model_revision, options.trust_remote_code
    check_saved_model("model_name_or_path", options.model_name_or_path, revision=revision, trust_remote_code=trust)
    tokenizer = _tokenizer(options)
    rows = _rows(options, tokenizer)
    size = embedding_rows(options.model_name_or_path, revision=revision, trust_remote_code=trust)
    refuse_unknown_ids(rows, tokenizer, size, str(options.dataset_name))
    known = _known_fields(options, tokenizer)
    check_store(options.output_dir, ReferenceKey(**known))
    settings = settle_settings(
        options.output_dir,
        batch_size=options.batch_size,
        shard_rows=options.shard_rows,
        per_token=options.per_token,
    )
    with loaded_scorer(options, accelerator, tokenizer, settings) as scorer:
        key = ReferenceKey(**(known | scorer.fields | rows_key(rows)))
        bar = _Bar(scorer.processes.world, progress if scorer.processes.is_first else silent)
        result = write_store(
            options.output_dir,
            rows,
            key=key,
            score=scorer.score,
            settings=settings,
            made_with=_made_with(options, scorer.device_name),
            processes=scorer.processes,
            on_plan=bar.begin,
            on_shard=bar.advance if scorer.processes.is_first else None,
        )
        bar.close()
        if scorer.processes.is_first:
            store = ReferenceStore.open(options.output_dir)
            _summarise(store, result, time.monotonic() - started)
            if options.export_trl is not None:
                export_for_trl(rows, store, options.export_trl)
                sys.stderr.write(f"Data with TRL's columns written to {options.export_trl}\n")
        scorer.processes.wait()
    return result


def export_for_trl(rows: datasets.Dataset, store: ReferenceStore, path: Path) -> None:
    """Write the data with the columns that plain TRL reads: `ref_chosen_logps` and `ref_rejected_logps`.

    Args:
        rows: The tokenised rows that the store was made from.
        store: Their scores.
        path: Ends in `.parquet` or `.jsonl`.
    """
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
    from mallowspo.data import load_preferences, tokenize_pairs, validate_rows

    loaded = load_preferences(
        options.dataset_name,
        split=options.dataset_train_split,
        name=options.dataset_config,
        invalid_rows=options.invalid_rows,
    )
    validated = validate_rows(
        # The reference reads no column of people: a row that training would keep must be in the store.
        loaded.dataset,
        invalid_rows=options.invalid_rows,
        columns=(),
        source=str(options.dataset_name),
    )
    tokenized = tokenize_pairs(
        validated.dataset,
        tokenizer,
        max_length=options.max_length,
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
    return tokenized.dataset


def _known_fields(options: ReferenceOptions, tokenizer: Any) -> dict[str, Any]:
    """Fields of the key that need no model."""
    from mallowspo.scoring import tokenizer_fields

    known = {
        "max_length": options.max_length or "unlimited",
        "truncation_mode": options.truncation_mode,
        **tokenizer_fields(tokenizer),
    }
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
