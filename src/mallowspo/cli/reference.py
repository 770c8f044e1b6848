"""`mallowspo reference`: score a data set with the reference model once, for every training run that follows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mallowspo.cli.yaml_file import read_yaml
from mallowspo.errors import InputError

__all__ = ["reference"]

# Fields of a training recipe under another name here.
_FROM_RECIPE = {"reference_store": "output_dir", "precompute_ref_batch_size": "batch_size"}


def _read_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Take the defaults of the other options from a recipe of `mallowspo train`."""
    if path is None:
        return None
    recipe = read_yaml(path)
    ours = {parameter.name for parameter in context.command.params} - {"config", "output_dir"}
    defaults = {name: value for name, value in recipe.items() if name in ours and value is not None}
    if recipe.get("max_length", 0) is None:
        defaults["max_length"] = 0
    for theirs, name in _FROM_RECIPE.items():
        if recipe.get(theirs) is not None:
            defaults[name] = recipe[theirs]
    if "mixed_precision" not in defaults and ("bf16" in recipe or "fp16" in recipe):
        half = "bf16" if recipe.get("bf16") else "fp16" if recipe.get("fp16") else "no"
        defaults["mixed_precision"] = half
    context.default_map = defaults
    return path


_OutputDir = Annotated[
    Path | None,
    typer.Option("--output_dir", help="The store; a folder of its own."),
]
_ModelNameOrPath = Annotated[
    str | None,
    typer.Option("--model_name_or_path", help="The reference model."),
]
_DatasetName = Annotated[
    str | None,
    typer.Option("--dataset_name", help="A .jsonl, .json, .csv or .parquet file, a folder, or a hub name."),
]
_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=_read_recipe,
        help="A recipe of `mallowspo train`, from which the other options are taken; what only training reads is "
        "passed over. Its reference_store is the output_dir.",
    ),
]
_DatasetTrainSplit = Annotated[
    str,
    typer.Option("--dataset_train_split", help="The split that is scored."),
]
_DatasetConfig = Annotated[
    str | None,
    typer.Option("--dataset_config", help="Configuration of a hub data set."),
]
_MaxLength = Annotated[
    int,
    typer.Option("--max_length", help="Tokens kept of prompt and response together; 0 keeps all."),
]
_TruncationMode = Annotated[
    str,
    typer.Option("--truncation_mode", help="keep_start or keep_end."),
]
_InvalidRows = Annotated[
    str,
    typer.Option("--invalid_rows", help="error, or drop: rows that cannot be used."),
]
_DatasetNumProc = Annotated[
    int | None,
    typer.Option("--dataset_num_proc", help="Processes to tokenise with."),
]
_BatchSize = Annotated[
    int | None,
    typer.Option("--batch_size", help="Rows a batch. [default: 8]"),
]
_ShardRows = Annotated[
    int | None,
    typer.Option("--shard_rows", help="Rows a shard, which is what an interruption can lose. [default: 1024]"),
]
_PerToken = Annotated[
    bool | None,
    typer.Option("--per_token", help="Keep the entropy of every token."),
]
_Dtype = Annotated[
    str,
    typer.Option("--dtype", help="Of the weights: float32, bfloat16, float16 or auto."),
]
_MixedPrecision = Annotated[
    str,
    typer.Option("--mixed_precision", help="no, bf16 or fp16; auto is bf16 on an accelerator and no on a CPU."),
]
_AttnImplementation = Annotated[
    str | None,
    typer.Option("--attn_implementation", help="Such as sdpa or eager."),
]
_Adapter = Annotated[
    str | None,
    typer.Option("--adapter", help="A PEFT adapter that is part of the reference."),
]
_ModelRevision = Annotated[
    str | None,
    typer.Option("--model_revision", help="Branch, tag or commit on the hub."),
]
_TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust_remote_code", help="Run code that comes with the model."),
]
_UseCpu = Annotated[
    bool,
    typer.Option("--use_cpu", help="Leave an accelerator alone."),
]
_NumProcesses = Annotated[
    int,
    typer.Option("--num_processes", min=1, help="Processes, one for each accelerator."),
]
_ExportTrl = Annotated[
    Path | None,
    typer.Option(
        "--export_trl", help="Also write the data with TRL's ref_chosen_logps and ref_rejected_logps columns."
    ),
]
_MaxLineMb = Annotated[int, typer.Option("--max_line_mb", help="MiB that a line, or a row of a CSV file, may have.")]
_MaxNesting = Annotated[int, typer.Option("--max_nesting", help="Levels of lists and objects in a value.")]
_MaxColumns = Annotated[int, typer.Option("--max_columns", help="Different columns of all rows together.")]
_ListStores = Annotated[
    bool,
    typer.Option("--ls", help="List the stores below output_dir, or in the cache."),
]
_Verify = Annotated[
    bool,
    typer.Option("--verify", help="Compare every shard with its checksum; exit code 1 if any differs."),
]
_Remove = Annotated[
    bool,
    typer.Option("--rm", help="Remove a store; needs --yes."),
]
_Yes = Annotated[
    bool,
    typer.Option("--yes", help="Remove without asking."),
]


def reference(
    context: typer.Context,
    *,
    output_dir: _OutputDir = None,
    model_name_or_path: _ModelNameOrPath = None,
    dataset_name: _DatasetName = None,
    config: _Config = None,
    dataset_train_split: _DatasetTrainSplit = "train",
    dataset_config: _DatasetConfig = None,
    max_length: _MaxLength = 1024,
    truncation_mode: _TruncationMode = "keep_start",
    invalid_rows: _InvalidRows = "error",
    dataset_num_proc: _DatasetNumProc = None,
    batch_size: _BatchSize = None,
    shard_rows: _ShardRows = None,
    per_token: _PerToken = None,
    dtype: _Dtype = "float32",
    mixed_precision: _MixedPrecision = "auto",
    attn_implementation: _AttnImplementation = None,
    adapter: _Adapter = None,
    model_revision: _ModelRevision = None,
    trust_remote_code: _TrustRemoteCode = False,
    use_cpu: _UseCpu = False,
    num_processes: _NumProcesses = 1,
    export_trl: _ExportTrl = None,
    max_line_mb: _MaxLineMb = 64,
    max_nesting: _MaxNesting = 64,
    max_columns: _MaxColumns = 1_000,
    list_stores: _ListStores = False,
    verify: _Verify = False,
    remove: _Remove = False,
    yes: _Yes = False,
) -> None:
    """Score preference data with the reference model: log-probabilities and entropies, resumable, checked, reusable.

    What is interrupted goes on where it stopped when the same command runs again; rows that were appended to the data
    are the only ones that are computed then.
    """
    if sum((list_stores, verify, remove)) > 1:
        raise InputError("--ls, --verify, --rm: give one of them")
    if list_stores:
        return _list(output_dir)
    if output_dir is None:
        raise InputError("output_dir: it is missing; give the folder of the store")
    if verify:
        return _verify(output_dir)
    if remove:
        return _remove(output_dir, yes)
    for name, value in (("model_name_or_path", model_name_or_path), ("dataset_name", dataset_name)):
        if not value:
            raise InputError(f"{name}: it is missing; see `mallowspo reference --help`")
    from mallowspo.cli.reference_run import ReferenceOptions, make_store, relaunch
    from mallowspo.cli.signals import is_first_process
    from mallowspo.data.limits import Limits

    if max_length < 0:
        raise InputError(f"max_length: got {max_length}, expected a number of tokens, or 0 for all")
    given = {name: context.params[name] for name in ReferenceOptions.__dataclass_fields__}
    options = ReferenceOptions(**(given | {"max_length": max_length or None}))
    options.check()
    if num_processes > 1 and "LOCAL_RANK" not in os.environ:
        raise typer.Exit(relaunch(num_processes, _command_line(context)))
    try:
        with Limits(max_line_mb, max_nesting, max_columns).in_force():
            make_store(options)
    except InputError:
        if is_first_process():
            raise
        raise typer.Exit(2) from None  # the first process says the same


def _command_line(context: typer.Context) -> list[str]:
    """This command's options again, for the processes that are launched."""
    arguments = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name in ("num_processes", "config") or value is None or value is False:
            continue
        option = parameter.opts[0]
        arguments += [option] if getattr(parameter, "is_flag", False) else [option, str(value)]
    return arguments


def _list(root: Path | None) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from mallowspo.scoring import find_stores
    from mallowspo.scoring.reference_cache import cache_folder
    from mallowspo.scoring.store_format import MANIFEST, read_manifest

    folder = root if root is not None else cache_folder()
    if folder is None:
        raise InputError("output_dir: it is missing, and the cache is switched off (MALLOWSPO_CACHE is empty)")
    if root is not None and not root.is_dir():
        raise InputError(f"output_dir: there is no folder {root}")
    found = find_stores(folder) if folder.is_dir() else []
    table = Table(Column("store", overflow="fold"), "rows", "tokens", "MiB", Column("model", overflow="fold"), "key")
    for path in found:
        row: list[Any] = [str(path)]
        try:
            manifest = read_manifest(path / MANIFEST)
        except InputError:
            table.add_row(*row, "damaged manifest")
            continue
        size = sum(file.stat().st_size for file in path.glob("shard-*.parquet")) / 2**20
        if manifest is None:
            table.add_row(*row, "unfinished", "", f"{size:,.1f}")
            continue
        model = manifest.made_with.get("model", "")
        table.add_row(
            *row, f"{manifest.rows:,}", f"{manifest.tokens:,}", f"{size:,.1f}", model, manifest.key.digest[:12]
        )
    # A script reads lines that are not broken at the width of a terminal which it does not have.
    console = Console(width=None if sys.stdout.isatty() else 400, soft_wrap=True)
    console.print(table if found else f"no reference stores in {folder}")


def _verify(folder: Path) -> None:
    from mallowspo.scoring import ReferenceStore

    store = ReferenceStore.open(folder)
    damaged = store.damaged()
    for text in damaged:
        sys.stdout.write(f"{text}\n")
    whole = len(store.manifest.shards) - len(damaged)
    sys.stdout.write(
        f"{folder}: {whole} of {len(store.manifest.shards)} shards are whole, key {store.manifest.key.digest}\n"
    )
    if damaged:
        raise typer.Exit(1)


def _remove(folder: Path, yes: bool) -> None:
    from mallowspo.scoring import remove_store

    if not yes:
        raise InputError(f"--rm: this removes the store {folder}; say so with --yes")
    freed = remove_store(folder)
    sys.stdout.write(f"removed {folder} ({freed / 2**20:,.1f} MiB)\n")
