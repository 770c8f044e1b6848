"""Every private name of TRL that this project uses, in one place.

`tests/test_compat.py` fails when one of them moves or changes its meaning. TRL is imported here at once, so the rest
of the package imports this module only where it is about to use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import is_peft_model
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import is_triton_available
from trl import DPOTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.models import prepare_deepspeed
from trl.trainer.utils import add_fused_lm_head, global_then_local_main_first, maybe_gather_lm_head_ctx, use_adapter

from mallowspo.errors import InputError
from mallowspo.files import passing_folder, staging_folder

__all__ = [
    "REFERENCE_OUTPUTS",
    "TRLPreferenceTrainer",
    "accelerate_launch_arguments",
    "add_score_head",
    "gathered_parameters",
    "head_tile",
    "main_process_first",
    "saved_tensors_are_looked_after",
    "triton_response_head",
]

# What the reference pass needs of the head: the log-probability for the loss, the entropy for the dispersion index.
REFERENCE_OUTPUTS = ("log_probs", "entropy")

_VOCABULARY_TILE = 32768  # as TRL calls its kernel


def main_process_first() -> Any:
    """Give a context in which the main process goes first, so that the others find its cache."""
    return global_then_local_main_first()


def add_score_head(model: Any, outputs: tuple[str, ...] = REFERENCE_OUTPUTS) -> None:
    """Give a causal language model TRL's fused head: per-token values instead of logits."""
    add_fused_lm_head(model, outputs=outputs)


def gathered_parameters(*parameters: Any) -> Any:
    """Bring parameters that DeepSpeed ZeRO-3 has sharded together, for the time of a block; else do nothing."""
    return maybe_gather_lm_head_ctx(*parameters)


def saved_tensors_are_looked_after() -> bool:
    """Whether hooks for what the backward pass needs are on, as within `torch.utils.checkpoint`."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def head_tile() -> tuple[int, int]:
    """Tokens and words of the logits that TRL's fused head holds at once."""
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE

    return TOKEN_CHUNK_SIZE, _VOCABULARY_TILE


def triton_response_head(
    hidden_nh: Any, weight_vh: Any, bias_v: Any, target_n: Any, *, scale: float, softcap: float | None
) -> tuple[Any, Any, Any, Any] | None:
    """TRL's fused head for CUDA, on hidden states that are already gathered."""
    if not is_triton_available():
        return None
    outputs = ("entropy", "mean_logits", "is_top1")
    log_prob, entropy, _, mean_logit, top1 = ChunkedLogProbFunction.apply(
        hidden_nh, weight_vh, bias_v, target_n, 1.0, _VOCABULARY_TILE, softcap, scale, outputs
    )
    return log_prob, entropy.detach(), mean_logit, top1


class TRLPreferenceTrainer(DPOTrainer):
    """`DPOTrainer` with its private hooks given public names, for `MallowsPOTrainer` to override."""

    # Nothing else in the project overrides or reads a private name of TRL's trainer.

    _staging_root: str | None = None
    _loaded_from = ""

    def tokenize_dataset(self, dataset: Any, tokenizer: Any, name: str) -> Any:
        """Turn a dataset that a user gave into tokenised rows; called for every split."""
        return super()._prepare_dataset(dataset, tokenizer, cast(Any, self.args), name)

    def add_reference_columns(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Run the reference over a tokenised split; called where `precompute_ref_log_probs` is on."""
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def extra_columns(self) -> tuple[str, ...]:
        """Dataset columns, beside TRL's own, that reach the collator."""
        return ()

    def examples(self, rows: Any) -> Any:
        """What the data loader of a split draws from."""
        return rows

    def train_sampler(self) -> Any:
        """The order of the training rows; None leaves it to transformers."""
        return None

    def record_metrics(self, mode: str, values: dict[str, float]) -> None:
        """Put finished metrics where TRL's `log` picks them up; `mode` is `train` or `eval`."""
        for name, value in values.items():
            self._metrics[mode][name] = [value]

    def publish_checkpoint(self, staging: Path, final: Path) -> None:
        """Give a checkpoint that is written in full its name; called by the processes that save."""
        staging.rename(final)

    def remove_surplus(self, run_dir: Path) -> None:
        """Remove the checkpoints that `save_total_limit` does not keep; called by the processes that save."""

    def load_weights(self, checkpoint: Path) -> None:
        """Put a checkpoint's weights, or its adapter's, into the model."""
        self._load_from_checkpoint(str(checkpoint))

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The model that plays the reference, without gradient and in the run's precision, for the time of a block."""
        # A separate reference model where there is one; else the policy: with its adapter switched off (or swapped for
        # the frozen copy that TRL makes of a pretrained adapter), or as it is before training.
        policy: Any = self.model
        model: Any = self.ref_model
        adapter: Any = nullcontext()
        if model is None:
            model = policy
            if is_peft_model(policy):
                unwrapped = self.accelerator.unwrap_model(policy)
                adapter = use_adapter(unwrapped, adapter_name="ref" if "ref" in unwrapped.peft_config else None)
            if self.is_deepspeed_enabled and self.deepspeed is None:
                # As in TRL's own precompute: one inference engine, kept for every split until training has its own.
                if self._precompute_engine is None:
                    self._precompute_engine = prepare_deepspeed(policy, self.accelerator)
                model = self._precompute_engine
            elif self.is_fsdp_enabled and not isinstance(policy, FSDPModule):
                # FSDP leaves it on the CPU until training begins, and a batch is on the device.
                if next(policy.parameters()).device != self.accelerator.device:
                    policy.to(self.accelerator.device)
        training = model.training
        # Dropout in the reference makes every number of the store a draw of its own. Nor does a model in evaluation
        # mode compute its layers again; TRL switches that off and on, and each time leaves a hook on the embeddings.
        model.eval()
        try:
            with (
                torch.no_grad(),
                # Packed rows go past the autocast that accelerate wraps around a prepared model's forward.
                self.accelerator.autocast(),
                adapter,
            ):
                yield model
        finally:
            model.train(training)

    @property
    def in_checkpoint(self) -> bool:
        """Whether a checkpoint is being written, whose folder has not its name yet."""
        return self._staging_root is not None

    @property
    def mode(self) -> str:
        """`train` or `eval`, as TRL tells them apart when it logs."""
        return "train" if cast(Any, self.model).training else "eval"

    @property
    def total_train_tokens(self) -> int:
        """Tokens seen in training so far, prompts and both responses, over all processes."""
        return int(self._total_train_tokens)

    @total_train_tokens.setter
    def total_train_tokens(self, value: int) -> None:
        self._total_train_tokens = value

    @property
    def tensor_parallel_size(self) -> int:
        """How many ranks are given the same batch."""
        return int(self._tp_size)

    def create_accelerator_and_postprocess(self) -> None:
        """Keep FSDP2 from rounding what a model returns: log-probabilities, sums of which are compared."""
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        policy = getattr(plugin, "mixed_precision_policy", None)
        if plugin is not None and isinstance(policy, MixedPrecisionPolicy):
            plugin.mixed_precision_policy = replace(policy, output_dtype=None)

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging_root or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Let transformers write a checkpoint into a hidden folder beside, and name it when it is whole."""
        run_dir = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        root, pushes = staging_folder(run_dir / name), self.args.push_to_hub
        staging, final = root / name, run_dir / name
        self._staging_root, self.args.push_to_hub = str(root), False
        try:
            # A process that fails must not take files from under the one that lists and names them.
            with passing_folder(root, ours=self.args.should_save):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    if self.state.best_model_checkpoint == str(staging):
                        self.state.best_model_checkpoint = str(final)
                        self.state.save_to_json(str(staging / TRAINER_STATE_NAME))
                    self.publish_checkpoint(staging, final)
                self.accelerator.wait_for_everyone()
                if staging.is_dir() and self.args.local_process_index == 0:
                    staging.rename(final)  # a node with a disk of its own, where only random states are written
                    root.rmdir()
        finally:
            self._staging_root, self.args.push_to_hub = None, pushes
        if self.state.best_model_checkpoint == str(staging):
            self.state.best_model_checkpoint = str(final)
        if pushes:
            self._push_from_checkpoint(str(final))
        if self.args.should_save:
            self.remove_surplus(run_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._loaded_from = resume_from_checkpoint
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            if "size mismatch" in str(error):
                raise self._other_model() from error
            raise

    def _load_best_model(self) -> None:
        self._loaded_from = str(self.state.best_model_checkpoint)
        super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Load again through transformers' own names where the plain ones left weights out."""
        # On disk, experts of a mixture are apart and some heads have another name; the trainer reads the live names
        # alone, warns, and would go on with those weights as they were before training.
        model: Any = self.accelerator.unwrap_model(cast(Any, self.model))
        left_out = set(load_result.missing_keys) - set(getattr(model, "all_tied_weights_keys", None) or ())
        if not left_out or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._issue_warnings_after_load(load_result)
            return
        loaded, found = type(model).from_pretrained(self._loaded_from, dtype=model.dtype, output_loading_info=True)
        if found["missing_keys"] or found.get("mismatched_keys"):
            raise self._other_model()
        model.load_state_dict(loaded.state_dict())

    def _other_model(self) -> InputError:
        return InputError(
            f"model_name_or_path: {self._loaded_from} holds the weights of another model than this run's; resume with "
            "the model that the run began from, or begin anew without resume_from_checkpoint"
        )

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return self.tokenize_dataset(dataset, processing_class, dataset_name)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return self.add_reference_columns(dataset, name, batch_size)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.train_sampler() or super()._get_train_sampler(train_dataset)

    def _get_dataloader(self, dataset: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        return super()._get_dataloader(self.examples(dataset), description, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            own: Any = [*(self._signature_columns or ()), *self.extra_columns()]
            self._signature_columns = own


def accelerate_launch_arguments(arguments: list[str]) -> list[str]:
    """Turn TRL's `--accelerate_config NAME` into `accelerate launch --config_file PATH`."""
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    name = "--accelerate_config"  # TRL looks for it apart from its value
    apart = [part.split("=", 1) if part.startswith(f"{name}=") else [part] for part in arguments]
    return resolve_accelerate_config_argument([one for parts in apart for one in parts])


def option_names(parser: Any) -> set[str]:
    """Every option of an `argparse` parser; accelerate hides most of its own from its help."""
    return {option for action in parser._actions for option in action.option_strings}
