"""The reference's scores of a split: from the store that the user named, from the cache, or from a pass now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model, tqdm
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mallowspo.compat import add_score_head
from mallowspo.data.collation import PreferenceCollator
from mallowspo.data.records import LIST_COLUMN, RANKS_COLUMN, TOKEN_COLUMNS
from mallowspo.data.rendering import Truncation
from mallowspo.errors import InputError
from mallowspo.progress import current_lines
from mallowspo.scoring import (
    Processes,
    ReferenceKey,
    ReferenceScores,
    ReferenceStore,
    StoreSettings,
    model_fields,
    rows_key,
    score_padded,
    tokenizer_fields,
    write_store,
)
from mallowspo.scoring.reference_cache import cache_folder
from mallowspo.scoring.reference_scores import longest_first, score_batches
from mallowspo.scoring.self_check import sum_tolerance
from mallowspo.scoring.store_format import MANIFEST
from mallowspo.training.config import MallowsPOConfig
from mallowspo.training.scoring_path import ScoringPath
from mallowspo.training.streaming import StorePlaces
from mallowspo.versions import library_versions

__all__ = ["ReferenceSource", "data_fields", "live_tolerance", "refuse_other_store", "score_columns"]

logger = get_logger(__name__)

VERIFIED_ROWS = 8
"""Rows of a store that are scored again before the first step."""

_SIDES = ("chosen", "rejected")
# What a dataset keeps of each response, by the name of its columns: `ref_chosen_logps`, `ref_rejected_logps`, ...
_KINDS = {
    "logps": "logp_nk",
    "entropy": "entropy_sum_nk",
    "length": "length_nk",
    "first_entropy": "first_entropy_nk",
    "divergent_entropy": "divergent_entropy_nk",
}
_POSITION = "__position__"
_MARK = "_mallowspo_score_head"


def score_columns(scores: ReferenceScores) -> dict[str, NDArray[np.float64]]:
    """The scores of pairs as columns of their dataset, float64, shape (N,); nats, and tokens for a length."""
    return {
        f"ref_{side}_{kind}": getattr(scores, field)[:, k].astype(np.float64)
        for kind, field in _KINDS.items()
        for k, side in enumerate(_SIDES)
    }


def refuse_other_store(dataset: Any, tokenizer: Any, args: Any) -> None:
    """Refuse a store that was made from other tokens, tokenizer or truncation, before a model is loaded."""
    if args.reference_store is None:
        return
    store = _open(args.reference_store)
    key = ReferenceKey(**data_fields(dataset, tokenizer, args))
    _refuse(store, key, dataset, args)


@dataclass(frozen=True, kw_only=True)
class ReferenceSource:
    """Where a run's reference scores come from: the store that is named, the cache, or a pass now."""

    args: MallowsPOConfig
    accelerator: Any
    policy: Any
    ref_model: Any  # a separate reference; None where the policy is its own
    tokenizer: Any
    collator: Any
    scoring: ScoringPath
    live: Callable[[], AbstractContextManager[Any]]  # the model that plays the reference, for the time of a block

    def scores(self, dataset: Any, name: str, key: ReferenceKey, batch_size: int) -> tuple[ReferenceScores, str]:
        """The reference's scores of a split, and in words where they are from."""
        # The training split must be in `reference_store` where one is named. Other splits are taken from it if they
        # are in it. Everything else comes from the cache, or from a pass over the split (`batch_size` pairs a batch on
        # each process) whose result is then cached. What comes from disk is compared with a live pass over 8 random
        # rows.
        processes = Processes.of_accelerate(self.accelerator)
        found = processes.share(self._lookup(dataset, name, key) if processes.is_first else None)
        if isinstance(found, InputError):
            raise found
        if found is not None:
            folder, scores, named = found
            complaint = self._compare_live(dataset, scores, key, batch_size)
            if complaint is None:
                logger.info(f"{name}: reference scores reused from {folder}, key {key.digest[:12]}")
                return scores, f"reused from {folder}, key {key.digest[:12]}"
            if named:
                raise _other_scores(folder, complaint)
            logger.warning(f"{name}: the cached reference scores in {folder} are not used: {complaint}")
        scores = self._pass(dataset, name, batch_size)
        if processes.is_first and found is None:
            self._save(dataset, name, key, scores, batch_size)
        processes.wait()
        return scores, "a pass of the reference before training"

    def streamed_scores(self, first: Any, key: ReferenceKey, batch_size: int) -> tuple[StorePlaces, str]:
        """The store that a training set is read against as it comes, of which `first` is a part."""
        assert self.args.reference_store is not None  # `refuse_streamed` has seen to it
        store = _open(self.args.reference_store)
        _refuse(store, key, first, self.args)
        places_of = StorePlaces(store.read(), Truncation(self.args.max_length, self.args.truncation_mode))
        scores = places_of.stored.scores.take(places_of(first[:]))
        complaint = self._compare_live(first, scores, key, batch_size)
        if complaint is not None:
            raise _other_scores(store.folder, complaint)
        return places_of, f"read from {store.folder}, key {key.digest[:12]}, row by row"

    def key(self, dataset: Any) -> ReferenceKey:
        """The key of this run's reference; every process asks for it, as an engine may have spread the weights."""
        processes = Processes.of_accelerate(self.accelerator)
        own = self.ref_model is None
        model = self.accelerator.unwrap_model(self.policy if own else self.ref_model)
        adapter: Any = None
        if is_peft_model(model):
            # The policy's reference is its frozen copy of a pretrained adapter, or the bare model, as in `live`. A
            # separate reference is scored with the adapters that are in force in it.
            adapter = ("ref" if "ref" in model.peft_config else None) if own else model.active_adapters
        fields = model_fields(model, adapter=adapter, processes=processes)
        fields["mixed_precision"] = str(self.accelerator.mixed_precision)
        return ReferenceKey(**(fields | data_fields(dataset, self.tokenizer, self.args)))

    def _lookup(self, dataset: Any, name: str, key: ReferenceKey) -> Any:
        """In the first process: folder, scores and whether the folder was named; None, or what is wrong with it."""
        named = self.args.reference_store
        if named is not None:
            try:
                store = _open(named)
                differences = {difference.field for difference in store.manifest.key.differences(key)}
                if name == "train" or not differences:
                    _refuse(store, key, dataset, self.args)
                    return str(store.folder), store.read().scores, True
                logger.info(f"{name}: not in {named}, whose {', '.join(sorted(differences))} differ")
            except InputError as error:
                prefixed = str(error).startswith("reference_store")
                return error if prefixed else InputError(f"reference_store: {error}")
        folder = self._cache_of(key)
        if folder is None or not (folder / MANIFEST).is_file():
            return None
        try:
            store = ReferenceStore.open(folder)
            return None if store.manifest.key != key else (str(folder), store.read().scores, False)
        except InputError as error:
            logger.warning(f"{name}: the cached reference scores are not used: {error}")
            return None

    def _cache_of(self, key: ReferenceKey) -> Path | None:
        """The cache's folder for a key; None where caching is off or the key is not all that counts."""
        root = cache_folder()
        whole = key.weights is not None and type(self.collator) is PreferenceCollator
        return root / key.digest if root is not None and whole else None

    def _prepare(self) -> None:
        """Give a separate reference model the head that computes entropies; TRL's own patch of it does not."""
        if self.ref_model is not None:
            model = self.accelerator.unwrap_model(self.ref_model)
            if not getattr(model, _MARK, False):
                add_score_head(model)
                setattr(model, _MARK, True)

    def _pass(self, dataset: Any, name: str, batch_size: int) -> ReferenceScores:
        """Score every pair of a split with the reference, all processes together."""
        self._prepare()
        lists = dataset[LIST_COLUMN] if LIST_COLUMN in dataset.column_names else None
        order_n = longest_first(*(dataset[column] for column in TOKEN_COLUMNS), lists=lists)
        loader = self.accelerator.prepare(
            DataLoader(
                dataset.select(order_n),
                batch_size=batch_size,
                collate_fn=self.collator,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
                shuffle=False,
            )
        )

        def forward(batch: Any) -> Any:
            with self.live() as model:
                return self.scoring.score_all(model, batch, per_token=True)

        batches = _shown(loader, f"Reference scores of {name}", hide=bool(self.args.disable_tqdm))
        return score_batches(batches, order_n, forward=forward, gather=self.accelerator.gather_for_metrics)

    def _compare_live(self, dataset: Any, scores: ReferenceScores, key: ReferenceKey, batch_size: int) -> str | None:
        """Score some rows now and say what differs; in every process, since a sharded model answers only to all."""
        self._prepare()
        complaint = None
        draw = np.random.default_rng(self.args.seed)
        places = np.sort(draw.choice(len(dataset), size=min(VERIFIED_ROWS, len(dataset)), replace=False))
        for start in range(0, len(places), batch_size):
            some = places[start : start + batch_size]
            batch = self.collator(list(dataset.select(some)))
            device = self.accelerator.device
            batch = {k: v.to(device) for k, v in batch.items() if isinstance(v, torch.Tensor)}
            with self.live() as model:
                live = score_padded(model, batch)
            assert live.entropy_sum_bk is not None
            allowed = live_tolerance(key, live.length_bk.cpu().numpy())
            found = {"logps": live.logp_bk, "entropy": live.entropy_sum_bk, "length": live.length_bk}
            for kind, values in found.items():
                stored = getattr(scores, _KINDS[kind])[some]
                wrong = ~(np.abs(stored - values.cpu().double().numpy()) <= allowed)
                if wrong.any() and complaint is None:
                    row, side = np.argwhere(wrong)[0]
                    complaint = (
                        f"{kind} of row {dataset['row_index'][int(some[row])] + 1:,} ({_SIDES[side]}) is "
                        f"{stored[row, side]:.6g} in it and {values[row, side].item():.6g} live"
                    )
        # One answer for all: at the edge of the tolerance, two processes might differ.
        return None if (shared := Processes.of_accelerate(self.accelerator).share(complaint)) is None else str(shared)

    def _save(self, dataset: Any, name: str, key: ReferenceKey, scores: ReferenceScores, batch_size: int) -> None:
        """Keep the scores of a pass under their key; a run does not fail because they cannot be kept."""
        folder = self._cache_of(key)
        if folder is None:
            return
        try:
            write_store(
                folder,
                dataset.add_column(_POSITION, np.arange(len(dataset))),
                key=key,
                score=lambda rows: scores.take(np.asarray(rows[_POSITION][:])),
                settings=StoreSettings(batch_size=batch_size),
                made_with={
                    "model": str(getattr(self.policy.config, "_name_or_path", "")),
                    "split": name,
                    **({"objective": self.args.objective} if RANKS_COLUMN in dataset.column_names else {}),
                    **library_versions(),
                },
            )
            logger.info(f"{name}: reference scores kept in {folder}")
        except InputError as error:
            logger.info(f"{name}: reference scores are not cached: {error}")


def live_tolerance(key: ReferenceKey, lengths: Any) -> NDArray[np.float64]:
    """How far a stored sum may be from a live one, nats, for responses of these lengths in the key's precision."""
    return sum_tolerance(f"{key.dtype} {key.mixed_precision}", lengths)


def _open(folder: str) -> ReferenceStore:
    try:
        return ReferenceStore.open(folder)
    except InputError as error:
        raise InputError(f"reference_store: {error}") from error


def _other_scores(folder: Any, complaint: str) -> InputError:
    return InputError(
        f"reference_store: {folder} does not say what the reference says: {complaint}. Write the store again on this "
        "machine, with these versions"
    )


def data_fields(dataset: Any, tokenizer: Any, args: Any) -> dict[str, Any]:
    """Fields of the key that need no model; those of the rows where they are all there."""
    return {
        "max_length": args.max_length or "unlimited",
        "truncation_mode": args.truncation_mode,
        **tokenizer_fields(tokenizer),
        **(rows_key(dataset) if isinstance(dataset, Dataset) else {}),
    }


def _refuse(store: ReferenceStore, key: ReferenceKey, dataset: Any, args: Any) -> None:
    differences = store.manifest.key.differences(key)
    if not differences:
        return
    advice = "Change this run's options, or write a store for it with `mallowspo reference`"
    if {difference.field for difference in differences} == {"row_count"} and len(dataset) > store.manifest.rows:
        first = dataset.select(range(store.manifest.rows))
        if rows_key(first)["rows"] == store.manifest.key.rows:
            advice = (
                "The store has the first of them: run `mallowspo reference` again with this data and the same "
                "output_dir, and it computes the new rows only"
            )
    whole = args.resolved_objective.reads_lists and RANKS_COLUMN in (dataset.column_names or ())
    if whole != ("objective" in store.manifest.made_with):
        objective = f"with --objective {args.objective}" if whole else "without --objective"
        advice = f"One of the two holds whole ranked lists: write a store with `mallowspo reference` {objective}"
    found = "; ".join(map(str, differences))
    raise InputError(f"reference_store: {store.folder} was not made for this run: {found}. {advice}")


def _shown(loader: Any, stage: str, *, hide: bool) -> Iterator[Any]:
    """The batches, with a bar, or with the lines of a command where one shows some."""
    lines = current_lines()
    hide = hide or bool(os.environ.get("TQDM_DISABLE", "")) or lines is not None
    for done, batch in enumerate(tqdm(iterable=loader, desc=stage, disable=hide)):
        if lines is not None:
            lines.show(stage, done, len(loader))
        yield batch
    if lines is not None:
        lines.show(stage, len(loader), len(loader), "batches")
