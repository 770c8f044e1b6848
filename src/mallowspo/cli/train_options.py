"""The options of `mallowspo train`: TRL's parser, with our reader of YAML, our messages and our help."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any

from transformers import TrainingArguments
from trl import DatasetMixtureConfig, DPOConfig, ModelConfig, ScriptArguments, TrlParser, get_peft_config
from trl.scripts.utils import DatasetConfig

from mallowspo.cli.options import Page, did_you_mean, truth_of
from mallowspo.cli.yaml_file import plain, read_yaml, text_of
from mallowspo.errors import InputError
from mallowspo.training import MallowsPOConfig
from mallowspo.training.option_values import KIND_WORDS, kind_words, kinds_of
from mallowspo.training.removed_options import REMOVED_OPTIONS

__all__ = ["TrainParser", "adapter_config", "launcher_options", "option_of", "refuse_unknown"]

_GROUPS: Any = (ScriptArguments, MallowsPOConfig, ModelConfig, DatasetMixtureConfig)
_ABOUT = (
    "Train on preference data. The options are those of `trl dpo` and ours; a YAML file holds the same names, and the "
    "command line goes before it. Options of `accelerate launch` (--num_processes, --accelerate_config, "
    "--mixed_precision, ...) start the run under it."
)


class TrainParser(Page, TrlParser):
    """TRL's parser over TRL's argument groups, with our configuration in place of `DPOConfig`."""

    def __init__(self) -> None:
        super().__init__(_GROUPS, prog="mallowspo train")

    @property
    def names(self) -> set[str]:
        """Every option, without dashes."""
        return {action.dest for action in self._actions} - {"help"}

    def set_defaults_from_file(self, path: str) -> list[str]:
        """Take a YAML file's values as defaults, and set its `env`; gives what is left for the launcher."""
        return self.set_defaults_from(read_yaml(path), path)

    def set_defaults_from(self, values: dict[str, Any], path: str) -> list[str]:
        """The same with what a file holds; `path` is for messages."""
        variables = values.pop("env", {})
        if not isinstance(variables, dict):
            raise InputError(f"config: {path}: env: got {variables!r}, expected a mapping of variable to value")
        os.environ.update({name: text_of(value) for name, value in variables.items()})
        hints = {name: hint for group in _GROUPS for name, hint in typing.get_type_hints(group).items()}
        actions = {action.dest: action for action in self._actions}
        for name, value in values.items():
            if name in hints and name in actions:
                values[name] = _fitting(value, hints[name], actions[name], f"config: {path}: {name}")
        if "datasets" in values:
            values["datasets"] = _mixture(values["datasets"], actions["datasets"], f"config: {path}: datasets")
        left = self.set_defaults_with_config(**plain(values))
        return [part for name in left[::2] for part in _for_the_launcher(name, values[name.removeprefix("--")])]

    def format_help(self) -> str:
        """Our options first, then TRL's, then those of transformers, each with its choices and default."""
        own = {item.name for item in fields(MallowsPOConfig)}
        preference = {item.name for item in fields(DPOConfig)}
        general = {item.name for item in fields(TrainingArguments)}
        ours = own - preference
        groups = (
            ("Options of mallowspo", ours | {"beta", "label_smoothing"}, True),
            ("Data (TRL)", {item.name for item in (*fields(ScriptArguments), *fields(DatasetMixtureConfig))}, False),
            ("Model (TRL)", {item.name for item in fields(ModelConfig)}, False),
            ("Preference training (TRL)", (own & preference) - general, False),
            ("Training (transformers)", own & general, False),
        )
        shown = {"help"}
        listed: dict[str, list[tuple[Any, bool]]] = {title: [] for title, *_ in groups}
        for title, names, whole in groups:
            for action in self._actions:
                if action.dest in names - shown:  # an option and its negation are one
                    shown.add(action.dest)
                    listed[title].append((action, whole))
        return self.page("[--config FILE.yaml] [--option value ...]", _ABOUT, "Options in a file.", listed)


def launcher_options() -> set[str]:
    """Every option of `accelerate launch`, and TRL's name for a configuration of it, without dashes."""
    from accelerate.commands.launch import launch_command_parser

    from mallowspo.compat import option_names

    # The module is started by ours; its arguments are no options of the user's.
    return {name.lstrip("-").replace("-", "_") for name in option_names(launch_command_parser())} | {
        "accelerate_config"
    }


def _for_the_launcher(name: str, value: Any) -> list[str]:
    """What a file gives to an option that is not ours, as on the launcher's command line, where truth is a flag."""
    if not isinstance(value, bool) or name.removeprefix("--") not in launcher_options():
        return [name, text_of(value)]
    if not value and name in ("--mixed_precision", "--dynamo_backend"):
        return [name, "no"]
    return [name] if value else []


def refuse_unknown(
    names: TrainParser,
    from_yaml: Sequence[str],
    from_line: Sequence[str],
    path: str | None,
    command: str = "mallowspo train",
    also: Iterable[str] = (),
) -> None:
    """Refuse what is an option neither here nor of the launcher, among what the parser left of file and line.

    `also` are further options that a misspelt one may stand for.
    """
    if from_line and not from_line[0].startswith("-"):
        hint = "; did you mean --config before it?" if from_line[0].endswith((".yaml", ".yml")) else ""
        raise InputError(f"{from_line[0]}: it belongs to no option{hint}")
    launcher = launcher_options()
    known = names.names | launcher | set(also)
    for arguments, where in ((from_yaml, f"config: {path}: "), (from_line, "")):
        for argument in arguments:
            name = argument.partition("=")[0]
            if not argument.startswith("--") or name[2:].replace("-", "_") in launcher:
                continue
            shown = name.removeprefix("--") if where else name
            bare = name.lstrip("-").replace("-", "_")
            hint = f"; {REMOVED_OPTIONS[bare]}" if bare in REMOVED_OPTIONS else did_you_mean(shown, known)
            raise InputError(
                f"{where}{shown}: neither an option of `{command}` nor of `accelerate launch`{hint}; see `{command} "
                "--help`"
            )


def adapter_config(model_args: Any) -> Any:
    """PEFT's configuration of the adapter that is asked for; None without one."""
    # TRL makes a pattern for whole names of a single module, which fits no module inside a layer.
    modules = model_args.lora_target_modules
    if isinstance(modules, str) and modules.isidentifier():
        model_args.lora_target_modules = [modules]
    return get_peft_config(model_args)


def option_of(error: Exception, names: set[str]) -> str:
    """The first option that a library's message speaks of; PEFT writes the names without lora_ and with spaces."""
    found = {
        name: re.search(rf"\b(lora_)?{name.removeprefix('lora_').replace('_', '[ _]')}\b", str(error), re.IGNORECASE)
        for name in names
        if "_" in name
    }
    return min(((match.start(), name) for name, match in found.items() if match), default=(0, "arguments"))[1]


def _fitting(value: Any, hint: Any, action: Any, where: str) -> Any:
    """A value of YAML as the option takes it.

    YAML reads `no` as false and 0.5 as a number, also where text is wanted; the text that was written is meant then.
    """
    kinds = kinds_of(hint)
    if value is None or not kinds or any(_is_a(value, kind) for kind in kinds):
        return value
    items = value if isinstance(value, list) else [value]
    if list[str] in kinds and all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in items):
        return [text_of(one) for one in items]  # as on the command line: one word is a list of one
    texts = str in kinds
    if isinstance(value, bool) and texts:
        choices = _choices(kinds, action)
        word = next((word for word in (("no", "off") if not value else ("yes", "on")) if word in choices), None)
        if word is not None:
            return word
        if action.dest == "resume_from_checkpoint":
            return str(value).lower()
    elif isinstance(value, int | float) and texts:
        return text_of(value)
    expected = " or ".join(dict.fromkeys(kind_words(kind) for kind in kinds))
    quotes = "; YAML reads yes, no, on and off as truth values: put text in quotes" if isinstance(value, bool) else ""
    raise InputError(f"{where}: got {value!r}, expected {expected}{quotes}")


def _mixture(given: Any, action: Any, where: str) -> list[dict[str, Any]]:
    """The data sets of a mixture, each a mapping of what TRL's `DatasetConfig` takes."""
    hints = typing.get_type_hints(DatasetConfig)
    if given is None or not all(isinstance(entry, dict) and "path" in entry for entry in given):
        raise InputError(
            f"{where}: got {given!r}, expected a list of mappings with a path, such as - {{path: json, data_files: "
            "pairs.jsonl}"
        )
    for name in sorted({str(name) for entry in given for name in entry} - hints.keys()):
        raise InputError(f"{where}: {name}: expected one of {', '.join(hints)}{did_you_mean(name, hints)}")
    return [
        {name: _fitting(value, hints[name], action, f"{where}: {name}") for name, value in entry.items()}
        for entry in given
    ]


def _is_a(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is list:
        inner = typing.get_args(kind)[0]
        return isinstance(value, list) and all(_is_a(item, inner) for item in value)
    if kind is bool:
        return truth_of(value) is not None
    if isinstance(value, bool):
        return False
    if kind in (int, float):
        try:
            return isinstance(value, kind | int) if not isinstance(value, str) else kind(value) is not None
        except ValueError:
            return False
    if kind is dict and isinstance(value, str):
        return value.startswith("{")
    if not isinstance(kind, type) or kind not in KIND_WORDS:
        # An enum is written as text; for a configuration object of another kind there is no way to write one.
        return isinstance(value, str if isinstance(kind, type) and issubclass(kind, Enum) else dict)
    return isinstance(value, kind)


def _choices(kinds: Iterable[Any], action: Any) -> set[str]:
    members = {str(item.value) for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for item in kind}
    return members | {str(choice) for choice in action.choices or ()}
