"""What a reference score depends on: the key of a reference store.

Two runs with equal keys get equal scores, up to the last bits that batch size and hardware decide. Whatever does not
change a score (learning rate, seed, paths, dates) is not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from mallowspo.files import parse_json
from mallowspo.scoring.model_checks import adapter_configs, base_model, unwrapped_adapters
from mallowspo.scoring.processes import Processes
from mallowspo.scoring.sharded import is_spread, whole

__all__ = [
    "STORE_FORMAT",
    "Difference",
    "ReferenceKey",
    "adapter_digest",
    "config_digest",
    "model_fields",
    "tokenizer_fields",
    "vocabulary_size",
    "weights_digest",
]

STORE_FORMAT = 1
"""Raised whenever the same key would give other numbers or another layout of the files."""

NO_ADAPTER = "none"
_ALONE = Processes()

# Fields of a model's configuration that leave its scores alone, or that have a field of their own in the key.
_CONFIG_WITHOUT_EFFECT = frozenset(
    """
    _name_or_path architectures attn_implementation auto_map bos_token_id chunk_size_feed_forward
    decoder_start_token_id dtype eos_token_id id2label is_decoder label2id output_attentions output_hidden_states
    output_router_logits pad_token_id problem_type return_dict router_aux_loss_coef sep_token_id tokenizer_class
    torch_dtype transformers_version use_cache
    """.split()
)


@dataclass(frozen=True)
class Difference:
    """A field in which two keys differ: its value in the store and in this run."""

    field: str
    stored: Any
    given: Any

    def __str__(self) -> str:
        return f"{self.field} is {_short(self.stored)} in the store and {_short(self.given)} here"


@dataclass(frozen=True)
class ReferenceKey:
    """All that reference scores depend on. None stands for a value that is not known (yet) and is not compared.

    Attributes:
        format: `STORE_FORMAT`.
        dtype: Of the model's weights, such as `float32`.
        mixed_precision: `no`, `bf16` or `fp16`, as accelerate names it.
        attn_implementation: Such as `sdpa` or `eager`.
        vocab_size: Last axis of the logits, padding rows included.
        config: Digest of the model's configuration.
        adapter: Digest of the adapter that is part of the reference, or `none`.
        weights: Digest of the weights without adapters.
        tokenizer: Digest of the tokenizer.
        chat_template: Digest of the chat template, or `none`.
        max_length: Tokens kept of prompt and response together; `unlimited` for all.
        truncation_mode: `keep_start` or `keep_end`.
        row_count: Rows.
        rows: Digest of the rows' tokens, in order.

    Example:
        >>> key = ReferenceKey(dtype="float32", max_length=512)
        >>> [str(found) for found in key.differences(ReferenceKey(dtype="float32", max_length=1024))]
        ['max_length is 512 in the store and 1,024 here']
    """

    format: int = STORE_FORMAT
    dtype: str | None = None
    mixed_precision: str | None = None
    attn_implementation: str | None = None
    vocab_size: int | None = None
    config: str | None = None
    adapter: str | None = None
    weights: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    max_length: int | str | None = None
    truncation_mode: str | None = None
    row_count: int | None = None
    rows: str | None = None

    @property
    def digest(self) -> str:
        """The address: SHA-256 over all fields, 64 hexadecimal digits."""
        return _digest_of_json(asdict(self))

    @property
    def without_rows(self) -> ReferenceKey:
        """The same reference, whatever it is asked about; rows can be appended to a store as long as this is equal."""
        return replace(self, row_count=None, rows=None)

    def differences(self, other: ReferenceKey) -> list[Difference]:
        """Fields in which `other`, this run's key, differs from this one, the store's."""
        found = [
            Difference(item.name, mine, theirs)
            for item in fields(self)
            for mine, theirs in [(getattr(self, item.name), getattr(other, item.name))]
            if mine is not None and theirs is not None and mine != theirs
        ]
        names = {difference.field for difference in found}
        # Weights in another type have other bytes, and another number of rows is another list of rows.
        implied = {"weights"} if "dtype" in names else set()
        implied |= {"rows"} if "row_count" in names else set()
        return [difference for difference in found if difference.field not in implied]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReferenceKey:
        """Read what `dataclasses.asdict` gave; raises `TypeError` for unknown fields."""
        return cls(**values)


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _digest_of_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    # A damaged file, or a configuration, may hold half of a surrogate pair.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def vocabulary_size(model: Any) -> int:
    """Last axis of a model's logits, padding rows included; it normalises entropies.

    Args:
        model: A causal language model, wrapped or not.

    Returns:
        |V|.
    """
    head = model.get_output_embeddings()
    # Sharded engines leave an empty weight behind, but the layer still knows its size.
    return int(getattr(head, "out_features", 0) or head.weight.shape[0])


def model_fields(
    model: Any, *, adapter: str | Sequence[str] | None = None, processes: Processes = _ALONE
) -> dict[str, Any]:
    """The part of the key that a loaded model gives.

    Args:
        model: A causal language model, with or without PEFT's wrapper, without the wrapper of a distributed engine;
            the engine may have spread its weights.
        adapter: Name of the adapter that is switched on in the reference, or several; None for the bare model.
        processes: All that hold this model and call this together; the first one reads the weights.

    Returns:
        Values by field of `ReferenceKey`, the same in every process.
    """
    from mallowspo.scoring.packed_attention import plain_attention

    base = base_model(model)
    if unwrapped_adapters(model):
        # Held by transformers: in force whenever the model is called, so their tensors are among its weights.
        found = _digest_of_json([sorted(_plain_config(config).items()) for config in adapter_configs(model).values()])
    else:
        names = [adapter] if isinstance(adapter, str) else list(adapter or ())
        digests = [adapter_digest(model, name) for name in names]
        found = NO_ADAPTER if not digests else digests[0] if len(digests) == 1 else _digest_of_json(digests)
    return {
        "dtype": _dtypes(_own_tensors(model)),
        "attn_implementation": plain_attention(base.config),
        "vocab_size": vocabulary_size(base),
        "config": config_digest(base.config),
        "adapter": found,
        "weights": weights_digest(model, processes),
    }


def tokenizer_fields(tokenizer: Any) -> dict[str, Any]:
    """The part of the key that a tokenizer gives.

    Args:
        tokenizer: A Hugging Face tokenizer. Its padding does not count: what is padding is told by position.

    Returns:
        `tokenizer` and `chat_template`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation are left in the file by whoever called the tokenizer last.
        content = {k: v for k, v in parse_json(backend.to_str()).items() if k not in ("padding", "truncation")}
    else:
        content = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
    template = tokenizer.chat_template
    return {
        "tokenizer": _digest_of_json([content, special]),
        "chat_template": "none" if template is None else _digest_of_json(template),
    }


def config_digest(config: Any) -> str:
    """Digest of a model's configuration without what cannot change a score (names, versions, caches, token ids)."""
    return _digest_of_json(_with_effect(config.to_dict()))


def _with_effect(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _with_effect(v) for k, v in value.items() if str(k) not in _CONFIG_WITHOUT_EFFECT}
    return [_with_effect(item) for item in value] if isinstance(value, list | tuple) else value


def weights_digest(model: Any, processes: Processes = _ALONE) -> str | None:
    """Digest of all weights and buffers without adapters, the same in all `processes`; None for weights on `meta`.

    Weights that are spread over processes are gathered one by one: the digest is that of the whole model.
    """
    tensors = dict(_own_tensors(model))
    names = sorted(tensors)
    digests: list[str] = []
    if any(map(is_spread, tensors.values())):
        for name in names:
            with whole(tensors[name]) as value:
                digests += [_tensor_digest(value)] if processes.is_first else []
    elif processes.is_first and not any(value.is_meta for value in tensors.values()):
        # SHA-256 releases the interpreter lock, so tensors are read side by side.
        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(lambda name: _tensor_digest(tensors[name]), names))
    found = _digest_of_json(list(zip(names, digests, strict=True))) if digests else None
    return None if (shared := processes.share(found)) is None else str(shared)


def adapter_digest(model: Any, name: str) -> str:
    """Digest of one adapter: its weights, as float32, and its configuration."""
    from peft import get_peft_model_state_dict

    own = {key: value for key, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    state = get_peft_model_state_dict(model, state_dict=own, adapter_name=name, save_embedding_layers=False)
    weights = []
    for key in sorted(state):
        with whole(state[key]) as value:
            weights.append((key, _tensor_digest(value.detach().float())))
    return _digest_of_json([weights, _plain_config(model.peft_config[name])])


def _plain_config(config: Any) -> dict[str, Any]:
    ignored = ("base_model_name_or_path", "inference_mode", "revision", "task_type", "auto_mapping", "peft_version")
    values = {k: v for k, v in config.to_dict().items() if k not in ignored}
    return {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}


def _own_tensors(model: Any) -> Iterable[tuple[str, torch.Tensor]]:
    """The model's tensors under the names that they have without PEFT's wrapper."""
    adapters = set() if unwrapped_adapters(model) else set(adapter_configs(model))
    for name, value in base_model(model).state_dict(keep_vars=True).items():
        parts = [part for part in name.split(".") if part not in ("base_layer", "original_module", "_orig_mod")]
        if isinstance(value, torch.Tensor) and not adapters & set(parts):
            yield ".".join(parts), value


def _dtypes(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    return "+".join(sorted({str(value.dtype).removeprefix("torch.") for _, value in tensors}))


def _tensor_digest(value: torch.Tensor) -> str:
    flat = value.detach().cpu().contiguous().reshape(-1)
    described = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
    if flat.numel():
        described.update(flat.view(torch.uint8).numpy().data)
    return described.hexdigest()
