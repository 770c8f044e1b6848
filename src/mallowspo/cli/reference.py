"""`mallowspo reference`: score a data set with the reference model once, for every training run that follows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mallowspo.cli.options import FileLimits, arguments_of, did_you_mean, option, read_config, truth_of
from mallowspo.cli.signals import is_first_process
from mallowspo.errors import InputError, not_one_of
from mallowspo.loading import local_folder
from mallowspo.outputs import writable_file, writable_folder

__all__ = ["ReferenceOptions", "reference"]

# Fields of a training recipe under another name here.
_FROM_RECIPE = {"reference_store": "output_dir", "precompute_ref_batch_size": "batch_size"}
_DTYPES = ("float32", "bfloat16", "float16", "auto")
_MIXED_PRECISION = ("auto", "no", "bf16", "fp16")
_EXPORTS = (".parquet", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(FileLimits):
    """Score preference data with the reference model: log-probabilities and entropies, resumable, checked, reusable.

    What is interrupted goes on where it stopped when the same command runs again; rows that were appended to the data
    are the only ones that are computed then. With --config a recipe of `mallowspo train` will do: what only training
    reads is passed over, its output_dir too, and its reference_store is the output_dir.
    """

    # None only with --ls, --verify and --rm.
    output_dir: Path = option("The store; a folder of its own.", None, group="What is scored")
    model_name_or_path: str = option("The reference model.", None)
    dataset_name: str = option("A .jsonl, .json, .csv or .parquet file, a folder, or a hub name.", None)
    dataset_config: str | None = option("Configuration of a hub data set.", None)
    dataset_train_split: str = option("The split that is scored.", "train")
    objective: str | None = option(
        "What will be trained on it. One that reads ranked lists needs a store of whole lists.",
        None,
        shown="one of pairs",
    )
    max_length: int = option("Tokens kept of prompt and response together; 0 keeps all.", 1024, null=0)
    truncation_mode: str = option("keep_start or keep_end.", "keep_start")
    invalid_rows: str = option("error, or drop: rows that cannot be used.", "error")

    model_revision: str | None = option("Branch, tag or commit on the hub.", None, group="The model")
    adapter: str | None = option("A PEFT adapter that is part of the reference.", None)
    dtype: str = option(f"Of the weights: {', '.join(_DTYPES[:-1])} or auto.", "float32")
    mixed_precision: str = option("no, bf16 or fp16; auto is bf16 on an accelerator and no on a CPU.", "auto")
    attn_implementation: str | None = option("Such as sdpa or eager.", None)
    trust_remote_code: bool = option("Run code that comes with the model.", False)

    use_cpu: bool = option("Leave an accelerator alone.", False, group="How it is run")
    num_processes: int = option("Processes, one for each accelerator.", 1, low=1)
    dataset_num_proc: int | None = option("Processes to tokenise with.", None)
    batch_size: int | None = option("Rows a batch; a store keeps its own.", None, shown="8")
    shard_rows: int | None = option("Rows a shard, which is what an interruption can lose.", None, shown="1024")

    per_token: bool | None = option("Keep the entropy of every token.", None, group="What is written")
    export_trl: Path | None = option(
        "Also write the data with TRL's ref_chosen_logps and ref_rejected_logps columns.", None
    )

    ls: bool = option("List the stores below output_dir, or in the cache.", False, group="Stores that are there")
    verify: bool = option("Compare every shard with its checksum; exit code 1 if any differs.", False)
    rm: bool = option("Remove a store; needs --yes.", False)
    yes: bool = option("Remove without asking.", False)

    @property
    def reads_lists(self) -> bool:
        """Whether the rows are whole ranked lists, as an objective for lists reads them."""
        from mallowspo.objectives import resolve_objective

        return self.objective is not None and resolve_objective(self.objective).reads_lists

    @classmethod
    def from_file(cls, given: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Take a file of options of this command, or a recipe of `mallowspo train`, which has others beside them."""
        own = {item.name for item in fields(cls)}
        if given.get("mixed_precision") is False:  # YAML's reading of no
            given = {**given, "mixed_precision": "no"}
        others = set(given) - own
        if not others:
            return read_config(cls, given, path)
        from mallowspo.cli.train_options import TrainParser, launcher_options

        known = TrainParser().names | launcher_options() | {"env"}
        for name in given:
            if name not in own | known:
                near = did_you_mean(name, own | known)
                raise InputError(
                    f"config: {path}: {name}: an option neither of this command nor of `mallowspo train`{near}"
                )
        for name in ("load_in_4bit", "load_in_8bit"):
            if truth_of(given.get(name)):
                raise InputError(
                    f"config: {path}: {name}: a store holds the scores of whole weights, and this recipe trains "
                    "against quantised ones; train without reference_store"
                )
        recipe = {name: value for name, value in given.items() if value is not None or name == "max_length"}
        taken = {name: value for name, value in recipe.items() if name in own - {"output_dir"}}
        taken |= {name: recipe[theirs] for theirs, name in _FROM_RECIPE.items() if theirs in recipe}
        # What training makes of the two: fp16 false alone leaves bfloat16 to the device.
        half = {name: truth_of(recipe[name]) for name in ("bf16", "fp16") if name in recipe}
        for name, value in half.items():
            if value is None:
                raise InputError(f"config: {path}: {name}: got {recipe[name]!r}, expected true or false")
        chosen = next((name for name, value in half.items() if value), "no" if "bf16" in half else None)
        if chosen is not None:
            taken.setdefault("mixed_precision", chosen)
        return read_config(cls, taken, path)

    def check(self) -> None:
        """Raise `InputError` for what can be seen to be wrong before anything is read."""
        from mallowspo.cli.preflight import check_attention, check_mixed_precision
        from mallowspo.data.sources import keep_source

        for name in ("model_name_or_path", "dataset_name"):
            if not getattr(self, name):
                raise InputError(f"{name}: it is missing; see `mallowspo reference --help`")
        if self.reads_lists and self.export_trl is not None:
            raise InputError(
                f"export_trl: got {self.export_trl}, but objective {self.objective!r} reads ranked lists, and TRL "
                "does not; leave one of the two out"
            )
        if self.max_length < 0:
            raise InputError(f"max_length: got {self.max_length}, expected a number of tokens, or 0 for all")
        for name, allowed in (("dtype", _DTYPES), ("mixed_precision", _MIXED_PRECISION)):
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
                keep_source(self.export_trl, "export_trl", self.dataset_name, self.dataset_train_split)


def _check_folder(option: str, name: str, needed: str) -> None:
    path = local_folder(option, name)
    if path is not None and not (path / needed).is_file():
        is_adapter = (path / "adapter_config.json").is_file()
        advice = "; it is an adapter: give its base model here and the folder as adapter" if is_adapter else ""
        raise InputError(f"{option}: {name} has no {needed}{advice}")


def reference(options: ReferenceOptions) -> int:
    """Make a store, or list, verify or remove what is there."""
    if sum((options.ls, options.verify, options.rm)) > 1:
        raise InputError("--ls, --verify, --rm: give one of them")
    if options.ls:
        return _list(options.output_dir)
    if options.output_dir is None:
        raise InputError("output_dir: it is missing; give the folder of the store")
    if options.verify:
        return _verify(options.output_dir)
    if options.rm:
        return _remove(options.output_dir, options.yes)
    if options.num_processes > 1 and "LOCAL_RANK" not in os.environ:
        options.check()
        return _relaunch(options)
    from mallowspo.cli.reference_run import make_store
    from mallowspo.data.limits import Limits

    try:
        with Limits.of(options).in_force():
            make_store(options)
    except InputError:
        if is_first_process():
            raise
        return 2  # the first process says the same
    return 0


def _relaunch(options: ReferenceOptions) -> int:
    """Run the command again in several processes, under accelerate."""
    from mallowspo.cli.launching import SEVERAL_ON_THIS_MACHINE, launched

    launch = ["--num_processes", str(options.num_processes), "--num_machines", "1", *SEVERAL_ON_THIS_MACHINE]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--module", "mallowspo.cli.main", "reference"]
    return launched([*launch, *arguments_of(replace(options, num_processes=1))])


def _list(root: Path | None) -> int:
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
    return 0


def _verify(folder: Path) -> int:
    from mallowspo.scoring import ReferenceStore

    store = ReferenceStore.open(folder)
    damaged = store.damaged()
    for text in damaged:
        sys.stdout.write(f"{text}\n")
    whole = len(store.manifest.shards) - len(damaged)
    sys.stdout.write(
        f"{folder}: {whole} of {len(store.manifest.shards)} shards are whole, key {store.manifest.key.digest}\n"
    )
    return int(bool(damaged))


def _remove(folder: Path, yes: bool) -> int:
    from mallowspo.scoring import remove_store

    if not yes:
        raise InputError(f"--rm: this removes the store {folder}; say so with --yes")
    freed = remove_store(folder)
    sys.stdout.write(f"removed {folder} ({freed / 2**20:,.1f} MiB)\n")
    return 0
