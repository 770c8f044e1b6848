"""Whether the adapters of a checkpoint are those of the run that goes on from it.

PEFT loads an adapter's weights by their names alone: onto other modules, another scale or another kind of adapter it
loads some or none of them, mostly without a word, and the optimizer's state then belongs to other weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError
from mallowspo.files import parse_json, plain

__all__ = ["refuse_other_adapters"]

_FILE = "adapter_config.json"
_MODELS = ("model*.safetensors", "pytorch_model*.bin")
# Where an adapter came from and what it is used for; none of it reaches the policy that is trained.
_NO_POLICY = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "tokenizer_name_or_path",
}
# TRL's frozen copy of a pretrained adapter, which it makes where it can.
_COPY = "ref"


def refuse_other_adapters(folder: Path, configs: Mapping[str, Any], *, loaded: bool, held: bool = False) -> None:
    """Refuse to go on from a checkpoint with other adapters than it was trained with.

    Args:
        folder: The checkpoint.
        configs: PEFT's configurations of this run's adapters, by name; none for full fine-tuning.
        loaded: They are on their model, so that PEFT has filled in what was left to it; else that is not compared.
        held: transformers itself holds them, without PEFT's model around it.

    Raises:
        InputError: An adapter is missing, surplus, of another kind or differs in a field, which is named.
    """
    saved = _saved_adapters(folder)
    again = "or begin anew without resume_from_checkpoint"
    if saved and not configs:
        kinds = ", ".join(sorted({str(values.get("peft_type")) for values in saved.values()}))
        raise InputError(
            f"peft_config (use_peft): {folder} holds an adapter ({kinds}) and this run trains the whole model; resume "
            f"with the same adapter, {again}"
        )
    if configs and not saved:
        if any(next(folder.glob(pattern), None) for pattern in _MODELS):
            raise InputError(
                f"peft_config (use_peft): {folder} holds a whole model and this run trains an adapter; resume without "
                f"it, {again}"
            )
        return  # an engine's own form, which says nothing of adapters
    if saved and held:
        raise InputError(
            f"model: {folder} holds an adapter, and transformers cannot load one into a model that holds it without "
            "PEFT's wrapper. Give the model without it and the adapter as peft_config; begin anew without "
            "resume_from_checkpoint"
        )
    names = set(saved) ^ set(configs)
    if names - ({_COPY} if _COPY in configs else set()):
        before, after = (", ".join(sorted(group)) for group in (saved, configs))
        raise InputError(
            f"peft_config: {folder} holds the adapters {before} and this run has {after}; resume with them, {again}"
        )
    for name in set(saved) & set(configs):
        for option, before, after in _differences(saved[name], configs[name], loaded=loaded):
            raise InputError(
                f"peft_config ({option}): {folder} was trained with {before} and this run has {after}; resume with "
                f"the same, {again}"
            )


def _saved_adapters(folder: Path) -> dict[str, dict[str, Any]]:
    """Configurations of a checkpoint's adapters: PEFT writes `default` to the top and others to folders."""
    found = {}
    for path in [folder / _FILE, *sorted(folder.glob(f"*/{_FILE}"))]:
        if path.is_file():
            try:
                found["default" if path.parent == folder else path.parent.name] = dict(parse_json(path.read_bytes()))
            except (OSError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path}: cannot be read ({error}); delete the checkpoint, or restore the file"
                ) from error
    return found


def _differences(saved: dict[str, Any], config: Any, *, loaded: bool) -> list[tuple[str, str, str]]:
    """Fields of one adapter that differ, the kind first: name, value in the checkpoint, value in this run."""
    found = []
    now = config.to_dict()
    # A field that came with a later version of PEFT had its default before.
    for name in sorted(now.keys() - _NO_POLICY, key=lambda name: (name != "peft_type", name)):
        if not loaded and now[name] in (None, "all-linear"):
            continue
        before, after = _comparable(saved.get(name, _default(config, name))), _comparable(now[name])
        if before != after:
            found.append((name, *(repr(value) for value in (before, after))))
    return found


def _default(config: Any, name: str) -> Any:
    item = next((one for one in fields(config) if one.name == name), None)
    if item is None:
        return None
    if item.default_factory is not MISSING:
        return item.default_factory()
    return None if item.default is MISSING else item.default


def _comparable(value: Any) -> Any:
    """A value as PEFT's JSON holds it; names of modules in one order, since PEFT keeps them as a set."""
    value = plain(sorted(value, key=str) if isinstance(value, set) else getattr(value, "value", value))
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value
