"""What a run needs of each device, from the model's configuration alone: no weight is loaded.

The model is built on torch's meta device, where tensors have shapes and no content, and one packed row runs through it
forwards and backwards while a ledger counts what is held at once. What weights, gradients and optimiser take, and how
engines shard them, is arithmetic. `docs/plan.md` writes both out.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import AttentionInterface

from mallowspo.compat import head_tile
from mallowspo.errors import InputError, reason_of
from mallowspo.scoring.model_checks import base_model
from mallowspo.scoring.packed_attention import attend_groups, packed_support
from mallowspo.scoring.packed_layout import PromptGroup
from mallowspo.scoring.response_head import logits_at_once
from mallowspo.training.scoring_path import row_budget

__all__ = [
    "ENGINES",
    "OPTIMISERS",
    "Lengths",
    "Memory",
    "Precision",
    "Row",
    "Sizes",
    "build",
    "half",
    "plan_memory",
    "plan_row",
]

ENGINES = ("ddp", "fsdp2", "zero2", "zero3")
"""The engines that are planned for, as the table has them."""

OPTIMISERS = {
    "adamw": 2, "adam": 2, "nadam": 2, "lion": 1, "rmsprop": 1, "adagrad": 1, "sgd": 0, "adafactor": 0,
}  # fmt: skip
"""Numbers that an optimiser keeps of each trained weight, by a part of its name."""

_ATTENTION = "mallowspo_plan"
_ZERO_BUCKET = 500_000_000  # numbers in DeepSpeed's bucket of gradients, and ...
_ZERO_LIVE = 1_000_000_000  # ... weights that ZeRO-3 leaves gathered at once: its defaults
_GROUPS = 8  # that a planned row is cut into at most
_BESIDE_A_TILE = 7.25  # tiles of float32 that TRL's head holds beside its own without its kernel, measured
_GATHERED_LAYERS = 2  # of FSDP2: the one that is computed and the one that is fetched


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of the data."""

    prompt: int
    response: int

    @property
    def pair(self) -> int:
        """Tokens of a prompt and both responses to it."""
        return self.prompt + 2 * self.response


@dataclass(frozen=True)
class Precision:
    """How a run keeps and multiplies numbers."""

    weights: torch.dtype  # as the model is loaded
    products: torch.dtype  # another one: autocast
    base_bits: int | None = None  # of a quantised base: 8 or 4
    nested: bool = False  # its scales are quantised too


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model, and its layers."""

    total: int
    trained: int
    frozen_linear: int  # in the linear layers that a quantised base keeps in few bits
    largest_linear: int
    layer: int  # in the largest layer
    root: int  # outside the layers: embeddings, the last norm, the head
    matrices: int  # in the layers' matrices, without an adapter's
    head: int  # in the head's matrix
    layers: int
    width: int  # of a token's queries in one layer

    @classmethod
    def of(cls, model: Any) -> Sizes:
        """Count a model's."""
        plain = base_model(model)
        names = set(getattr(plain, "_no_split_modules", None) or ())
        layers = [module for module in plain.modules() if type(module).__name__ in names]
        added = {
            id(value) for name, value in model.named_parameters() if ".lora_" in name or "modules_to_save" in name
        }
        head = plain.get_output_embeddings().weight
        linear = [
            module.weight.numel()
            for module in plain.modules()
            if isinstance(module, torch.nn.Linear) and module.weight is not head and id(module.weight) not in added
        ]
        config = plain.config.get_text_config(decoder=True)
        heads = getattr(config, "num_attention_heads", 1)  # a model without attention has none
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        parameters = list(model.parameters())
        in_layers = [sum(value.numel() for value in layer.parameters()) for layer in layers]
        return cls(
            total=sum(value.numel() for value in parameters),
            trained=sum(value.numel() for value in parameters if value.requires_grad),
            frozen_linear=sum(linear),
            largest_linear=max(linear, default=0),
            layer=max(in_layers, default=0),
            root=sum(value.numel() for value in parameters) - sum(in_layers),
            matrices=sum(
                value.numel()
                for layer in layers
                for value in layer.parameters()
                if value.dim() > 1 and id(value) not in added
            ),
            head=head.numel(),
            layers=len(layers),
            width=heads * size,
        )

    def operations(
        self, lengths: Lengths, *, frozen: bool, checkpointing: bool, reference_passes: float, shared: bool
    ) -> float:
        """Floating-point operations of a pair: the policy's step, and as many passes of the reference."""
        prompt, response, prompts = lengths.prompt, lengths.response, 1 if shared else 2
        seen = prompts * prompt**2 / 2 + 2 * (prompt * response + response**2 / 2)
        tokens = prompts * prompt + 2 * response
        body = 2 * self.matrices * tokens + 4 * self.layers * self.width * seen
        head = 2 * self.head * 2 * response
        # Backwards, a product for the input, and one for the weight where it is trained.
        backward = 1 if frozen else 2
        policy = body * (1 + backward + checkpointing) + head * (1 + backward)
        return policy + reference_passes * (body + head)


@dataclass(frozen=True)
class Row:
    """A packed row on one device, and what its pass holds at the peak beside weights, gradients and optimiser."""

    path: str  # `packed`, `dense_mask` or `padded`
    reason: str
    pairs: int
    tokens: int
    activations: float  # bytes, without the head's
    head: float  # bytes
    peak: Callable[[int], float]  # bytes of both for so many pairs

    def longest(self, free: float) -> int:
        """Tokens of the longest row of whole pairs whose pass holds at most so many bytes."""
        return _largest(self.peak, self.pairs, free) * self.tokens // self.pairs


def _largest(peak: Callable[[int], float], start: int, free: float) -> int:
    """The largest number of pairs whose peak is at most `free`, to one in a hundred, and never more.

    One straight line does not give it: with few pairs the peak lies where a row has no part in it, as at the gradient
    of a large embedding. It is bracketed by doubling, then a line between the ends is tried, and the middle.
    """

    def held(count: int) -> float:
        try:
            return peak(count)
        except InputError:  # tensors too large to have a size
            if count <= start:
                raise
            return math.inf

    low, high = (start, 2 * start) if held(start) <= free else (0, start)
    while held(high) <= free:
        low, high = high, 2 * high
    by_line = True
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        if by_line and low > 0 and held(high) < math.inf:
            middle = low + int((free - held(low)) / (held(high) - held(low)) * (high - low))
        by_line = not by_line
        for tried in (middle, middle + max(1, middle // 100), middle - max(1, middle // 100)):
            if low < tried < high:
                low, high = (tried, high) if held(tried) <= free else (low, tried)
    return low


@dataclass(frozen=True)
class Memory:
    """Bytes of one device at the peak of a step, by part."""

    weights: float
    reference: float
    gradients: float
    optimiser: float
    engine: float  # gathered layers and buckets
    activations: float
    head: float

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(getattr(self, item.name) for item in fields(self))


class _Ledger(TorchDispatchMode):
    """Counts the bytes of what is made in it and still held."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._bytes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._enter(tensor.untyped_storage())
        return found

    def _enter(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._bytes:
            self._bytes[key] = storage.nbytes()
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self.held -= self._bytes.pop(key)


# What torch.autocast computes in the lower precision, of the products that a decoder has.
_PRODUCTS = frozenset({
    functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm, Tensor.bmm, torch.addmm,
    torch.baddbmm, Tensor.baddbmm, torch.einsum, torch.conv1d, functional.scaled_dot_product_attention,
})  # fmt: skip


class _Products(TorchFunctionMode):
    """Casts what goes into a product, as autocast does, which torch has not for the meta device."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self._dtype = None if precision.weights == precision.products else precision.products
        self._trained: dict[int, Tensor] | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._dtype is not None and function in _PRODUCTS:
            args, kwargs = tree_map(self._cast, (args, kwargs))
        elif function is torch._grouped_mm:  # a mixture's, which autocast leaves as it is
            followed: Any = _GroupedProduct.apply
            return followed(*args)
        return function(*args, **kwargs)

    def begin(self) -> None:
        """A forward pass begins: it casts each trained weight once."""
        self._trained = {}

    def end(self) -> None:
        """It is over: what is computed again casts for itself."""
        self._trained = None

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == self._dtype:
            return value
        if self._trained is None or not (value.is_leaf and value.requires_grad):
            return value.to(self._dtype)
        return self._trained.setdefault(id(value), value.to(self._dtype))


class _GroupedProduct(torch.autograd.Function):
    """What the products of a mixture's experts keep; torch follows them on the meta device in bfloat16 alone."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(value, weight)
        return value.new_empty((len(value), weight.shape[2]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors)


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output, and a number for each query of each head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, dtype: torch.dtype, **kwargs: Any
) -> Any:
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attend: Any = _FusedAttention.apply
    if "prompt_groups" in kwargs:
        return attend_groups(query, key, value, kwargs["prompt_groups"], attend, kwargs["plan_merged"]), None
    return attend(query, key, value).transpose(1, 2).contiguous(), None


class _Head(torch.autograd.Function):
    """What a head keeps and passes through."""

    # `ours` is `response_head` on a processor, `kernel` TRL's on a card, and `whole` TRL's on a processor, where it
    # takes every position.
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, dtype: torch.dtype, head: str) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.dtype, ctx.head, ctx.kept = dtype, head, ()
        n, vocabulary = len(hidden), len(weight)
        if head == "ours":
            step, keep = logits_at_once(n, vocabulary, weight_grad=weight.requires_grad)
            room = hidden.new_empty((min(n, step), vocabulary), dtype=torch.float32)
            pull = hidden.new_empty(hidden.shape, dtype=torch.float32)
            wide = weight.to(dtype).to(torch.float32)
            ctx.kept = (pull, room) if keep else (pull,)
            del wide
        else:
            hidden.new_empty(_tile_bytes(n, vocabulary, dtype, head), dtype=torch.uint8)
        return hidden.new_empty(n, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        n, vocabulary = len(hidden), len(weight)
        room: Any = None
        if ctx.head != "ours":
            room = hidden.new_empty(_tile_bytes(n, vocabulary, ctx.dtype, ctx.head), dtype=torch.uint8)
            pull = hidden.new_empty(hidden.shape, dtype=torch.float32)
        else:
            step, keep = logits_at_once(n, vocabulary, weight_grad=weight.requires_grad)
            pull = ctx.kept[0]
            room = None if keep else hidden.new_empty((min(n, step), vocabulary), dtype=torch.float32)
        found = torch.empty_like(hidden) if ctx.head == "ours" else pull.to(hidden.dtype)
        gradient = None
        if weight.requires_grad:
            gradient = weight.new_empty(weight.shape, dtype=torch.float32).to(weight.dtype)
        del room
        ctx.kept = ()
        return found, gradient, None, None


def _tile_bytes(n: int, vocabulary: int, dtype: torch.dtype, head: str) -> int:
    """Bytes of the logits that TRL's head holds at once: a whole tile, however few words there are."""
    tokens, width = head_tile()
    tile = dtype.itemsize * min(n, tokens) * width
    if head == "kernel":
        return tile
    return tile + int(_BESIDE_A_TILE * torch.float32.itemsize * min(n, tokens) * min(vocabulary, width))


def _head_bytes(n: int, hidden: int, vocabulary: int, dtype: torch.dtype, head: str, *, trained: bool) -> float:
    """Bytes of the head's own buffers; the gradient of its weight is among the gradients."""
    wide = torch.float32.itemsize
    if head != "ours":
        return _tile_bytes(n, vocabulary, dtype, head) + wide * n * hidden
    step, _ = logits_at_once(n, vocabulary, weight_grad=trained)
    return wide * (min(n, step) * vocabulary + n * hidden)


def build(
    config: Any,
    precision: Precision,
    *,
    attention: str | None = None,
    adapter: Any = None,
    option: str = "model_shape",
) -> Any:
    """The model on the meta device, in PEFT's wrapper where an adapter's configuration is given.

    `option` is what the user gave the model by.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):  # without a name: sdpa, or eager where the model has no sdpa
            model = AutoModelForCausalLM.from_config(
                config, dtype=precision.weights, attn_implementation="eager" if attention == "eager" else None
            )
    except (
        ValueError, KeyError, TypeError, AttributeError, RuntimeError, ZeroDivisionError, ImportError, AssertionError,
    ) as error:  # fmt: skip
        raise InputError(f"{option}: no model can be made of it ({reason_of(error)})") from error
    if adapter is not None:
        from peft import get_peft_model

        try:
            with torch.device("meta"):
                model = get_peft_model(model, adapter)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"lora_target_modules: {reason_of(error)}") from error
    return model.train()


def plan_row(
    model: Any,
    precision: Precision,
    lengths: Lengths,
    *,
    batch: int,
    on_cpu: bool,
    checkpointing: bool,
    live_reference: bool,
    option: str = "model_shape",
) -> Row:
    """Send a row of pairs through a model on the meta device.

    Args:
        model: What `build` gave.
        precision: Of the run.
        lengths: Of the data.
        batch: Pairs of a device's batch.
        on_cpu: It trains on a processor.
        checkpointing: Each layer is computed again in the backward pass.
        live_reference: The reference is scored at each step.
        option: What the user gave the model by.

    Returns:
        The row that is cut from such a batch.
    """
    support = packed_support(model)
    plain = base_model(model)
    if plain.config._attn_implementation != "eager":
        AttentionInterface.register(_ATTENTION, _attention)  # for its name; each pass registers its own precision
        plain.set_attn_implementation(_ATTENTION)
    kind = "kernel" if not on_cpu else "whole" if support.path == "padded" else "ours"
    budget = row_budget(plain.config, support.path, on_cpu=on_cpu)
    pairs = batch if budget is None else min(batch, max(1, budget // lengths.pair))
    if checkpointing:
        name = "activation_checkpointing_enable"  # its name since transformers 5.23
        try:
            getattr(plain, name, plain.gradient_checkpointing_enable)(
                {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _Products(precision))}
            )
        except ValueError as error:
            raise InputError(f"gradient_checkpointing: {reason_of(error)}; give false") from error
        if hasattr(plain, "enable_input_require_grads"):
            plain.enable_input_require_grads()
    weight = plain.get_output_embeddings().weight

    @cache
    def peak(count: int) -> float:
        try:
            return _peak(model, plain, precision, lengths, count, path=support.path, head=kind, live=live_reference)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise InputError(
                f"{option}: a row of {plain.config.model_type} cannot be followed without its weights "
                f"({reason_of(error)}); plan with the shape of a plain decoder of the same size"
            ) from error

    hidden = plain.config.get_text_config(decoder=True).hidden_size
    head = _head_bytes(
        _head_tokens(lengths, pairs, kind), hidden, len(weight), precision.products, kind,
        trained=weight.requires_grad,
    )  # fmt: skip
    tokens = pairs * (lengths.pair if support.path != "padded" else 2 * (lengths.prompt + lengths.response))
    return Row(support.path, support.reason, pairs, tokens, max(0.0, peak(pairs) - head), head, peak)


def _peak(
    model: Any, plain: Any, precision: Precision, lengths: Lengths, pairs: int, *, path: str, head: str, live: bool
) -> float:
    """Most bytes that a pass holds beside the weights and gradients that are there before it."""
    for value in model.parameters():
        value.grad = torch.empty_like(value) if value.requires_grad else None
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    weight = plain.get_output_embeddings().weight
    prompt, response = lengths.prompt, lengths.response
    shape = (1, pairs * (prompt + 2 * (response - 1)))
    if path == "padded":
        shape = (2 * pairs, prompt + response)
    scored = torch.empty(_head_tokens(lengths, pairs, head), dtype=torch.long, device="meta")
    ids = torch.empty(shape, dtype=torch.long, device="meta")
    if path == "padded" and plain.config._attn_implementation != _ATTENTION:
        mask = torch.empty(shape, dtype=torch.long, device="meta")  # a model that has an attention of its own
    else:
        mask = torch.empty((1, 1, *((shape[1],) * 2 if path == "dense_mask" else (1, 1))), device="meta")
    kinds = set(getattr(plain.config, "layer_types", None) or ())
    masks: Any = dict.fromkeys(kinds, mask) if path == "dense_mask" and len(kinds) > 1 else mask
    AttentionInterface.register(_ATTENTION, partial(_attention, dtype=precision.products))
    inputs = {"input_ids": ids, "position_ids": ids, "use_cache": False}
    inputs["attention_mask"] = masks
    if path == "packed":
        inputs |= {"prompt_groups": _groups(lengths, pairs), "plan_merged": pairs / min(pairs, _GROUPS)}
    products = _Products(precision)
    ledger = _Ledger([*model.parameters(), *model.buffers(), *gradients, scored, ids, mask])

    def forward() -> Tensor:
        products.begin()
        hidden = plain.base_model(**inputs).last_hidden_state
        function: Any = _Head
        score: Tensor = function.apply(hidden.flatten(0, 1)[scored], weight, precision.products, head)
        products.end()
        return score

    with ledger, products:
        score = forward()
        if live:
            with torch.no_grad():
                forward()
        score.sum().backward()
    return float(ledger.peak)


def _head_tokens(lengths: Lengths, pairs: int, head: str) -> int:
    """Tokens that a head is asked for."""
    return 2 * pairs * (lengths.response + (lengths.prompt if head == "whole" else 0))


def _groups(lengths: Lengths, pairs: int) -> tuple[PromptGroup, ...]:
    """Where prompts and responses lie in a row; a response's last token is no input.

    A fused kernel holds so much for each token, whatever the group is: of many pairs several pass as one of their
    tokens together, so that a long row takes no longer to follow than a short one.
    """
    count = min(pairs, _GROUPS)
    groups, start = [], 0
    for index in range(count):
        size = pairs * (index + 1) // count - pairs * index // count
        prompt, response = size * lengths.prompt, size * (lengths.response - 1)
        first, second = start + prompt, start + prompt + response
        groups.append(PromptGroup((start, first), ((first, second), (second, second + response))))
        start = second + response
    return tuple(groups)


def plan_memory(
    engine: str, gpus: int, sizes: Sizes, precision: Precision, row: Row, *, state: float, reference: bool
) -> Memory:
    """What one device holds at the peak of a step.

    Args:
        engine: One of `ENGINES`.
        gpus: Devices that share the model.
        sizes: Of the model.
        precision: Of the run.
        row: The row that passes, in the engine's precision.
        state: Bytes that the optimiser keeps of each trained weight.
        reference: A separate reference model stays in memory.

    Returns:
        Bytes by part.
    """
    zero = engine.startswith("zero")
    share = {"ddp": 1, "fsdp2": gpus, "zero2": 1, "zero3": gpus}[engine]
    # DeepSpeed keeps all weights in half precision, and of those it trains a float32 copy with the optimiser's state.
    size = 2 if zero and precision.products.itemsize == 2 else precision.weights.itemsize
    weights = _weight_bytes(sizes, precision, size)
    trained, split = sizes.trained, 1 if engine == "ddp" else gpus
    master = 4 if zero and size == 2 else 0
    matrix = precision.products.itemsize * sizes.largest_linear if precision.base_bits is not None else 0
    extra: float
    if gpus == 1:
        extra = 0
    elif engine == "ddp":
        extra = trained * size  # the buckets in which gradients travel
    elif engine == "fsdp2":
        gathered = sizes.root + _GATHERED_LAYERS * sizes.layer
        part = trained / sizes.total
        extra = precision.products.itemsize * gathered * (_bits_share(sizes, precision) + part)
    else:
        extra = size * min(trained, _ZERO_BUCKET)
        if engine == "zero3":
            extra += size * min(sizes.total, _ZERO_LIVE) * _bits_share(sizes, precision)
    return Memory(
        weights=weights / share,
        reference=sizes.total * size / share if reference else 0,
        gradients=trained * size / split,
        optimiser=trained * (state + master) / split,
        engine=extra + matrix,  # of a quantised base one matrix at a time is made full
        activations=row.activations,
        head=row.head,
    )


def _weight_bytes(sizes: Sizes, precision: Precision, size: int) -> float:
    if precision.base_bits is None:
        return size * sizes.total
    # In blocks of 64 with a float32 scale each; nested, a scale takes a byte, in blocks of 256 with one of their own.
    scale = 0.0
    if precision.base_bits == 4:
        scale = (1 + 4 / 256) / 64 if precision.nested else 4 / 64
    return sizes.frozen_linear * (precision.base_bits / 8 + scale) + (sizes.total - sizes.frozen_linear) * size


def _bits_share(sizes: Sizes, precision: Precision) -> float:
    """What is gathered of a layer, against all of it in the products' precision."""
    if precision.base_bits is None:
        return 1.0
    return _weight_bytes(sizes, precision, precision.products.itemsize) / (sizes.total * precision.products.itemsize)


def half(precision: Precision) -> Precision:
    """The precision under an engine that keeps every weight in the type of the products."""
    return replace(precision, weights=precision.products)
