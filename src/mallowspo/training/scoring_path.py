"""How a run scores its responses: in packed rows that share prompts, or in padded rows; and a batch in pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from mallowspo.errors import InputError
from mallowspo.scoring import PackedSupport, Processes, ResponseScores, add_packed_head, score_packed, score_padded
from mallowspo.scoring.model_checks import adapter_configs, require_plain_head
from mallowspo.scoring.packed_attention import packed_support, plain_attention
from mallowspo.scoring.packed_layout import split_by_tokens
from mallowspo.scoring.self_check import check_scores

__all__ = ["ScoredPairs", "ScoringPath", "choose_scoring_path", "largest_first", "row_budget", "tried", "whole_model"]

# Tokens in one packed row, so in one forward and backward pass: a row's fixed cost wants many, memory wants few. An
# accelerator wants rows long; a mask of the whole row grows with its square.
_ROW_TOKENS = {"accelerator": 8192, "dense_mask": 1024}
_CPU_ROW_TOKENS = (512, 1536)  # between these; beyond, a longer row was measured to save nothing
_CPU_ROW_BYTES = 480 * 2**20  # what a row's backward pass may keep

_WHOLE_MODELS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_SHARDED_MODELS = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def whole_model(accelerator: Any, model: Any, *, tensor_parallel: bool) -> bool:
    """Whether every process has all of the model and may call it on its own, which no sharding engine allows."""
    engine = accelerator.distributed_type in _WHOLE_MODELS
    # transformers itself shards a model that is loaded with a `distributed_config`.
    own = getattr(accelerator.unwrap_model(model), "is_distributed_loading_by_transformers", False)
    return engine and not tensor_parallel and not own


def _cpu_row_tokens(config: Any) -> int:
    """As many tokens as may be kept on a processor: of each, a layer keeps 25 hidden and 8 MLP vectors (measured)."""
    hidden = getattr(config, "hidden_size", 1024)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    kept = 4 * getattr(config, "num_hidden_layers", 12) * (25 * hidden + 8 * inner)
    low, high = _CPU_ROW_TOKENS
    return min(high, max(low, _CPU_ROW_BYTES // kept))


@dataclass(frozen=True)
class ScoringPath:
    """The path of a run."""

    path: str  # `packed`, `dense_mask` or `padded`
    reason: str
    row_tokens: int | None = None  # most of a row, unless one prompt with its responses is longer; None: whole batches
    # Where a forward pass is one of all processes: the largest of the numbers that they bring.
    agree: Callable[[int], int] | None = None

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt is computed once for its responses."""
        return self.path != "padded"

    def pieces(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Cut a batch of pairs so that each piece is one row."""
        return [dict(batch)] if self.row_tokens is None else split_by_tokens(batch, self.row_tokens)

    def spare(self, pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Pieces to compute for nothing, so that every process makes as many passes: the first, which is at hand."""
        if self.row_tokens is None or self.agree is None:
            return []
        return pieces[:1] * (self.agree(len(pieces)) - len(pieces))

    def score(self, model: Any, batch: Mapping[str, Any], *, router_logits: bool = False, **options: Any) -> Any:
        """Score one piece; `options` are those that `score_packed` and `score_padded` share."""
        if self.shares_prompts:
            return score_packed(model, batch, **options)
        return score_padded(model, batch, router_logits=router_logits, **options)

    def score_all(self, model: Any, batch: Mapping[str, Any], **options: Any) -> ResponseScores:
        """Score a batch piece by piece; without gradient, as the graphs of all pieces would be kept."""
        pieces = self.pieces(batch)
        with torch.no_grad():
            for piece in self.spare(pieces):
                self.score(model, piece, **options)
            return joined([self.score(model, piece, **options) for piece in pieces])


@dataclass(frozen=True)
class ScoredPairs:
    """One piece of a batch after its loss; `B` pairs."""

    policy: ResponseScores
    reference_bk: Tensor | None  # log-probabilities, shape (B, 2), nats
    weight_b: Tensor | None  # of the dispersion
    loss_b: Tensor  # nats

    @classmethod
    def join(cls, parts: list[ScoredPairs]) -> ScoredPairs:
        """The pieces of a batch as one, without gradient, for the metrics."""
        references = [part.reference_bk for part in parts if part.reference_bk is not None]
        weights = [part.weight_b for part in parts if part.weight_b is not None]
        return cls(
            joined([part.policy for part in parts]),
            torch.cat(references) if references else None,
            torch.cat(weights) if weights else None,
            torch.cat([part.loss_b.detach() for part in parts]),
        )


def largest_first(pieces: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The pieces of a step in the order to compute them, each with its place in the batch."""
    # The largest comes while there are no gradients yet, and what it leaves free has room for all that follow: with
    # sizes that vary, an eighth less memory on a processor (measured).
    if len(pieces) < 2:
        return list(enumerate(pieces))
    tokens = [
        piece["attention_mask"][: len(piece["attention_mask"]) // 2].sum()
        + piece["completion_mask"][len(piece["completion_mask"]) // 2 :].sum()
        for piece in pieces
    ]
    sizes = torch.stack(tokens).tolist()
    return sorted(enumerate(pieces), key=lambda item: -sizes[item[0]])


def joined(parts: list[ResponseScores]) -> ResponseScores:
    """Put the scores of a batch's pieces together again."""
    if len(parts) == 1:
        return parts[0]
    values: dict[str, Any] = {}
    for item in fields(ResponseScores):
        tensors = [getattr(part, item.name) for part in parts]
        values[item.name] = None if tensors[0] is None else torch.cat([tensor.detach() for tensor in tensors])
    return ResponseScores(**values)


def choose_scoring_path(
    args: Any, accelerator: Any, policy: Any, reference: Any, *, tensor_parallel: bool, balance_loss: bool
) -> ScoringPath:
    """Decide how a run scores responses, and prepare its policy and its separate reference, if any, for it."""
    # `balance_loss`: that of a mixture of experts is trained too.
    models = [accelerator.unwrap_model(model) for model in (policy, reference) if model is not None]
    for model in models:
        require_plain_head(model)
    device = accelerator.device.type
    if device in ("cpu", "mps") and plain_attention(models[0].config) == "flex_attention":
        # In padded rows too: the first step would fail.
        raise InputError(
            f"attn_implementation: flex_attention has no backward pass on a {device}; leave it out, or set it to sdpa"
        )
    whole = whole_model(accelerator, policy, tensor_parallel=tensor_parallel)
    engine = accelerator.distributed_type
    refusal = _refusal(args, models[0], engine, tensor_parallel=tensor_parallel, balance_loss=balance_loss)
    supports = [PackedSupport("padded", refusal)] if refusal else [packed_support(model) for model in models]
    padded = next((support for support in supports if support.path == "padded"), None)
    if padded is None:
        supports = [add_packed_head(model) for model in models]
    if padded is not None:
        path = ScoringPath("padded", _granted(args, padded.reason))
    else:
        name, reason = supports[0].path, supports[0].reason
        tokens = row_budget(models[0].config, name, on_cpu=device == "cpu")
        path = ScoringPath(name, reason, tokens, None if whole else partial(_largest, accelerator))
    if whole:
        for model in models:
            path = tried(path, args, accelerator, model, balance_loss=balance_loss and model is models[0])
    return path


def row_budget(config: Any, path: str, *, on_cpu: bool) -> int | None:
    """Tokens of a row at most, unless one prompt with its responses is longer; None where a batch is not cut."""
    if path == "padded":
        return None
    if path not in _ROW_TOKENS and on_cpu:
        return _cpu_row_tokens(config)
    return _ROW_TOKENS.get(path, _ROW_TOKENS["accelerator"])


def tried(path: ScoringPath, args: Any, accelerator: Any, model: Any, *, balance_loss: bool = False) -> ScoringPath:
    """Hold the scores of a model, in its engine's wrapper, against its own logits: its path, or padded rows."""
    processes = Processes.of_accelerate(accelerator)
    plain = accelerator.unwrap_model(model)
    device = accelerator.device if model is not plain else next(plain.parameters()).device
    mixed = str(accelerator.mixed_precision)
    with accelerator.autocast():
        found = check_scores(
            plain,
            device,
            packed=path.shares_prompts,
            mixed_precision=mixed,
            wrapped=model,
            router_logits=balance_loss,
        )
    complaint = processes.share(found)
    return path if complaint is None else ScoringPath("padded", _granted(args, complaint))


def _granted(args: Any, reason: str) -> str:
    """The reason for padded rows, unless shared prompts were asked for."""
    if args.share_prompts:
        raise InputError(
            f"share_prompts: this run cannot share prompts: {reason}. Leave share_prompts out, and prompts "
            "are shared where they can be, or set it to false"
        )
    return reason


def _largest(accelerator: Any, count: int) -> int:
    """The largest of the counts of all processes."""
    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def _refusal(args: Any, policy: Any, engine: Any, *, tensor_parallel: bool, balance_loss: bool) -> str | None:
    """What of the run, and not of the model, stands against packed rows."""
    noise = None if args.disable_dropout is False else _dropout_left(policy)
    checks = (
        (args.share_prompts is False, "share_prompts: false"),
        (
            args.neftune_noise_alpha is not None,
            "neftune_noise_alpha scales its noise by the length of a row, and a packed row is longer",
        ),
        (args.use_liger_kernel, "use_liger_kernel has not been verified with packed rows"),
        (noise is not None, f"{noise} stays on in training, and responses would share the noise on their prompt"),
        (
            engine not in (*_WHOLE_MODELS, *_SHARDED_MODELS),
            f"the engine {engine.value} has not been verified with packed rows",
        ),
        (tensor_parallel, "tensor parallelism has not been verified with packed rows"),
        (balance_loss, "the balance loss of a mixture of experts counts every token of every row"),
        (not args.disable_dropout, "with dropout, responses would share the noise on their prompt"),
        (args.torch_compile, "torch_compile would compile every batch anew"),
        # These optimizers step inside the backward pass, so a batch must have only one.
        ("lomo" in str(args.optim), f"optimizer {args.optim} allows one backward pass a batch"),
    )
    return next((reason for refused, reason in checks if refused), None)


def _dropout_left(model: Any) -> str | None:
    """The name of a dropout that `disable_dropout` does not reach, since it is a number and not a module."""
    for config in adapter_configs(model).values():
        for name, value in config.to_dict().items():
            # TRL switches off the modules of lora_dropout; other adapters drop by hand.
            if "dropout" in name and name != "lora_dropout" and isinstance(value, int | float) and value > 0:
                return f"{name} {value:g} of the adapter"
    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float) and value > 0 and not isinstance(module, torch.nn.Dropout):
                return f"{name} {value:g} of {type(module).__name__}"
    return None
