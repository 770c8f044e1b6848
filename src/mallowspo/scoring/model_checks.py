"""What a model must be for its scores to be what they seem: a plain head, no adapter's folder, a row for every id."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.nn.functional import linear

from mallowspo.errors import InputError
from mallowspo.loading import adapter_base

__all__ = [
    "adapter_configs",
    "base_model",
    "refuse_adapter_folder",
    "refuse_own_logits",
    "require_plain_head",
    "unwrapped_adapters",
]


def base_model(model: Any) -> Any:
    """The transformers model, without PEFT's wrapper where there is one."""
    return model.get_base_model() if is_peft_model(model) else model


def adapter_configs(model: Any) -> dict[str, Any]:
    """Configurations of a model's adapters by name, whether PEFT wraps the model or transformers holds them."""
    return dict(getattr(model, "peft_config", None) or {})


def unwrapped_adapters(model: Any) -> bool:
    """Whether transformers itself holds adapters, by `add_adapter`, `load_adapter` or an adapter's own folder."""
    return bool(adapter_configs(model)) and not is_peft_model(model)


def refuse_adapter_folder(name: Any, option: str, advice: str) -> None:
    """Refuse an adapter's folder, given as `option`, where a whole model is wanted; anything but a folder passes."""
    folder = Path(name) if isinstance(name, str) else None
    if folder is None or not (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
        return
    base = adapter_base(folder)
    raise InputError(f"{option}: {name} is not a whole model, it is an adapter of the base model {base}; {advice}")


def require_plain_head(model: Any) -> None:
    """Refuse a model whose output head is more than its weight: scores are products with `lm_head.weight`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"model: {type(model).__name__} has no output head; a causal language model is wanted")
    if isinstance(head, BaseTunerLayer) or not _gives_its_weight(head):
        if type(head) is torch.nn.Linear:
            refuse_own_logits(model, "a call of the head gives other logits than its weight and bias")
        raise InputError(
            f"{_head_name(model)}: {type(head).__module__.split('.')[0]}'s {type(head).__name__} is on the "
            "output head (lm_head), and log-probabilities are computed from the head's weight, so what it adds would "
            "be ignored. Take 'lm_head' out of target_modules (modules_to_save: [lm_head] trains the head whole), or "
            "merge a trained adapter into its model with merge_and_unload and save that"
        )


def refuse_own_logits(model: Any, found: str) -> NoReturn:
    """Refuse a model that does more for its logits than multiply with the head's weight."""
    raise InputError(
        f"{_head_name(model)}: {found}, so something else takes part in the logits of "
        f"{type(base_model(model)).__name__}: a hook on the output head (lm_head) or on the model, or a forward of "
        "its own. It would be ignored, since log-probabilities are computed from the head's weight. Take it off, or "
        "fold it into the weight"
    )


def _head_name(model: Any) -> str:
    """The last part of the output head's name in the model."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "lm_head").rsplit(".", 1)[-1]


@torch.no_grad()
def _gives_its_weight(head: Any) -> bool:
    """Whether a call of the head is the product with its weight, tried on two vectors."""
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or not hasattr(head, "bias"):
        return False
    if not torch.is_floating_point(weight) or weight.is_meta or weight.dim() != 2 or hasattr(weight, "full_tensor"):
        return True  # quantised or sharded: other paths look after those
    hidden = torch.linspace(-1, 1, 2 * weight.size(1), device=weight.device).view(2, -1).to(weight.dtype)
    expected, found = linear(hidden, weight, bias), head(hidden)
    return bool(torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-2 * float(expected.abs().max())))
