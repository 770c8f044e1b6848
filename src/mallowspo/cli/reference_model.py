"""The reference model of `mallowspo reference`: loaded as `mallowspo train` would, on the device that is there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mallowspo.loading import loading

if TYPE_CHECKING:
    from collections.abc import Iterator

    import datasets

__all__ = ["ReferenceScorer", "loaded_scorer", "start_processes"]


@dataclass(frozen=True)
class ReferenceScorer:
    """A loaded reference and what it needs to score rows.

    Attributes:
        model: The model, with TRL's head, in eval mode.
        fields: Its part of the key.
        processes: Who scores.
        device_name: For the manifest.
        accelerator: Where it runs.
        collate: From rows to a batch.
        settings: Of the store.
    """

    model: Any
    fields: dict[str, Any]
    processes: Any
    device_name: str
    accelerator: Any
    collate: Any
    settings: Any

    def score(self, rows: datasets.Dataset) -> Any:
        """Scores of some rows, in batches that depend on nothing else."""
        from mallowspo.scoring import score_rows

        return score_rows(
            rows,
            forward=self._forward,
            collate=self.collate,
            batch_size=self.settings.batch_size,
            per_token=self.settings.per_token,
        )

    def _forward(self, batch: Any) -> Any:
        import torch

        from mallowspo.scoring import score_padded

        batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
        with torch.no_grad(), self.accelerator.autocast():
            return score_padded(self.model, batch, per_token=True)


def start_processes(options: Any) -> Any:
    """Join the processes of a launch, before any other library takes this one for being alone.

    Args:
        options: `ReferenceOptions`.

    Returns:
        An `accelerate.Accelerator`.
    """
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
def loaded_scorer(options: Any, accelerator: Any, tokenizer: Any, settings: Any) -> Iterator[ReferenceScorer]:
    """Load the model in every process.

    Args:
        options: `ReferenceOptions`.
        accelerator: Of `start_processes`.
        tokenizer: Whose pad token fills up batches.
        settings: Batch size, and whether every token's entropy is kept.

    Yields:
        What scores rows.

    Raises:
        InputError: The model or its adapter cannot be loaded.
    """
    import torch

    from mallowspo.data import PreferenceCollator
    from mallowspo.data.vocabulary import embedding_rows, padding_id
    from mallowspo.scoring import Processes, model_fields
    from mallowspo.scoring.model_checks import base_model
    from mallowspo.scoring.self_check import check_scores

    on_cpu = accelerator.device.type == "cpu"
    processes = Processes.of_accelerate(accelerator)
    model = _model(options, accelerator.device)
    mixed = str(accelerator.mixed_precision)
    with accelerator.autocast():
        check_scores(model, accelerator.device, packed=False, mixed_precision=mixed)
    fields = model_fields(
        model, adapter=None if options.adapter is None else "default", weights=processes.is_first
    ) | {"mixed_precision": mixed}
    threads = torch.get_num_threads()
    try:
        if on_cpu:
            # The last bits of a matrix product depend on the number of threads; with one, any number of processes
            # gives the same store. More cores are used by more processes.
            torch.set_num_threads(1)
        yield ReferenceScorer(
            model=model,
            fields=processes.share(fields),
            processes=processes,
            device_name=_device_name(accelerator.device),
            accelerator=accelerator,
            collate=PreferenceCollator(
                pad_token_id=padding_id(tokenizer, embedding_rows(base_model(model))),
                max_length=options.max_length,
                truncation_mode=options.truncation_mode,
            ),
            settings=settings,
        )
    finally:
        torch.set_num_threads(threads)
        if processes.world > 1:
            accelerator.end_training()


def _model(options: Any, device: Any) -> Any:
    """Load the reference as `mallowspo train` would, with the head that gives entropies."""
    from transformers import AutoModelForCausalLM

    from mallowspo.compat import add_score_head
    from mallowspo.scoring.model_checks import refuse_adapter_folder, require_plain_head

    refuse_adapter_folder(
        options.model_name_or_path, "model_name_or_path", "name that model here, and the adapter's folder as --adapter"
    )
    with loading("model_name_or_path", options.model_name_or_path):
        model = AutoModelForCausalLM.from_pretrained(
            options.model_name_or_path,
            revision=options.model_revision or "main",
            dtype=options.dtype,
            attn_implementation=options.attn_implementation,
            trust_remote_code=options.trust_remote_code,
        )
    add_score_head(model)
    if options.adapter is not None:
        from peft import PeftModel

        with loading("adapter", options.adapter):
            model = PeftModel.from_pretrained(model, options.adapter)  # type: ignore[assignment]
    require_plain_head(model)
    return model.to(device).eval()


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
