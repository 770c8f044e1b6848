"""`mallowspo plan`: what a run will need, from its YAML and the model's configuration alone."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mallowspo.cli.options import did_you_mean, option, read_config, read_known, show_help, take_config
from mallowspo.cli.preflight import check_attention_name, need_one_precision
from mallowspo.cli.train_options import TrainParser, adapter_config, option_of, refuse_unknown
from mallowspo.cli.yaml_file import read_yaml
from mallowspo.errors import InputError, reason_of
from mallowspo.files import parse_json
from mallowspo.loading import refuse_other_kind

__all__ = ["PlanOptions", "plan_command", "plan_of"]

GB = 1e9
_PARTS = {
    "weights": "weights",
    "reference": "reference model",
    "gradients": "gradients",
    "optimiser": "optimiser state",
    "engine": "engine's buffers",
    "activations": "activations of a row",
    "head": "head (logits)",
}
_TITLES = {"ddp": "DDP", "fsdp2": "FSDP2", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Tell what a training run will need: memory by part, the longest row, hours and cost. Loads no weights.

    The options of `mallowspo train` are taken too, on the command line and in the file: a recipe is planned as it is.
    Exit code 1 where the run fits under no engine.
    """

    gpus: int | None = option(
        "Devices that train together.", None, group="The machine", low=1, shown="the launcher's num_processes, or 1"
    )
    memory: float = option("GB of each; a GB is 10^9 bytes.", 80.0)
    reserve: float = option("Share of it left to the driver, the communication and the allocator's gaps.", 0.1)
    teraflops: float = option("10^12 products and sums a second of one at best; an H100 SXM in bfloat16.", 989.0)
    utilisation: float = option("Share of that which training reaches.", 0.3)
    price: float = option("Of one for an hour, in dollars.", 3.0)
    model_shape: str | None = option(
        "In place of the model's own: a config.json, or its numbers as JSON.",
        None,
        group="The model and the data",
        as_json=True,
    )
    prompt_tokens: int = option("Of a prompt, on average.", 256, low=1)
    response_tokens: int = option("Of a response, on average.", 256, low=2)
    rows: int = option("Pairs of the training data.", 60_000, low=1)
    json: bool = option("Print JSON instead of the table.", False, group="What is printed")


def plan_command(arguments: Sequence[str]) -> int:
    """Run `mallowspo plan`; gives its exit code."""
    options, found = plan_of(arguments)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        _print(options, found)
    return int(not any(engine["fits"] for engine in found["engines"].values()))


def plan_of(arguments: Sequence[str]) -> tuple[PlanOptions, dict[str, Any]]:
    """Read a command line and plan the run: its options, and what was found as plain values."""
    show_help(PlanOptions, arguments, "mallowspo plan")
    path, rest = take_config(arguments)
    values = {} if path is None else read_yaml(path)
    own = {item.name for item in fields(PlanOptions)}
    given = read_config(PlanOptions, {name: value for name, value in values.items() if name in own}, str(path))
    options, rest = read_known(PlanOptions, rest, "mallowspo plan", given)
    for name in ("memory", "teraflops", "utilisation", "price"):
        value = getattr(options, name)
        if not (math.isfinite(value) and (value > 0 or (name == "price" and value == 0))):
            raise InputError(f"{name}: got {value}, expected a finite number {'>= 0' if name == 'price' else '> 0'}")
    for name, high in (("reserve", math.nextafter(1, 0)), ("utilisation", 1.0)):
        if not 0 <= getattr(options, name) <= high:
            raise InputError(f"{name}: got {getattr(options, name)}, expected a share from 0 to 1")
    parser = TrainParser()
    for_train = {name: value for name, value in values.items() if name not in own}
    from_yaml = [] if path is None else parser.set_defaults_from(for_train, path)
    namespace, from_line = parser.parse_known_args(rest)
    refuse_unknown(parser, from_yaml, from_line, path, command="mallowspo plan", also=own)
    known, facts = _launch([*from_yaml, *from_line])
    if options.gpus is not None and known.num_processes not in (None, options.gpus):
        raise InputError(
            f"gpus: got {options.gpus}, and num_processes {known.num_processes}; a run has one process for each "
            "device: give one of them"
        )
    in_file = facts.get("num_processes", 1)
    if not isinstance(in_file, int) or in_file < 1:
        raise InputError(f"accelerate_config: num_processes: got {in_file!r}, expected a whole number >= 1")
    options = replace(options, gpus=options.gpus or known.num_processes or in_file)
    return options, _plan(options, namespace, _engine(facts, namespace))


def _launch(arguments: Sequence[str]) -> tuple[Any, Mapping[str, Any]]:
    """What the launcher is told: its options, and its file."""
    from mallowspo.cli.launching import read_launch
    from mallowspo.compat import accelerate_launch_arguments

    try:
        known = read_launch([*accelerate_launch_arguments(list(arguments)), "--module", "x"])
    except ValueError as error:
        raise InputError(str(error)) from error
    return known, {} if known.config_file is None else read_yaml(known.config_file, "accelerate_config")


def _engine(facts: Mapping[str, Any], namespace: Any) -> str | None:
    """The engine that the run is launched under, as far as its options say; None where they do not."""
    if namespace.deepspeed is not None or facts.get("distributed_type") == "DEEPSPEED":
        stage = (facts.get("deepspeed_config") or {}).get("zero_stage")
        return f"zero{stage}" if stage in (2, 3) else None
    if facts.get("distributed_type") == "FSDP":
        return "fsdp2" if (facts.get("fsdp_config") or {}).get("fsdp_version") == 2 else None
    return "ddp" if facts.get("distributed_type") in ("MULTI_GPU", "NO") else None


def _plan(options: PlanOptions, namespace: Any, engine: str | None) -> dict[str, Any]:
    import torch
    from trl import ModelConfig

    from mallowspo.training import MallowsPOConfig
    from mallowspo.training.option_values import check_numbers
    from mallowspo.training.plan import ENGINES, Lengths, Precision, Sizes, build, half, plan_memory, plan_row
    from mallowspo.training.streaming import refuse_streamed

    gpus = options.gpus or 1
    check_attention_name(namespace.attn_implementation)
    need_one_precision(namespace)
    settings, model_args = _settings(namespace, MallowsPOConfig), _made(ModelConfig, _grouped(namespace, ModelConfig))
    check_numbers(model_args)
    if namespace.dataset_streaming or namespace.streaming:
        refuse_streamed(settings)
    if namespace.max_steps <= 0 and namespace.num_train_epochs == 0:
        raise InputError("num_train_epochs: got 0, and a run without steps needs no plan; give more, or max_steps")
    source = "model_name_or_path" if options.model_shape is None else "model_shape"
    config = _model_config(options, namespace)
    refuse_other_kind(source, config)
    for name in ("num_hidden_layers", "vocab_size"):
        count = getattr(config.get_text_config(decoder=True), name, 1)
        if count < 1:
            raise InputError(f"{source}: got {name} {count}, expected at least 1")
    text = config.get_text_config(decoder=True)
    heads, shared = (getattr(text, f"num_{name}_heads", None) for name in ("attention", "key_value"))
    if isinstance(heads, int) and isinstance(shared, int) and (shared < 1 or heads % shared):
        raise InputError(f"{source}: got {heads} attention heads for {shared} of keys and values, expected a multiple")
    peft = adapter_config(model_args)
    on_cpu = bool(namespace.use_cpu)
    mixed = bool(namespace.bf16 if namespace.bf16 is not None else not namespace.fp16 and not on_cpu)
    products = torch.bfloat16 if mixed else torch.float16 if namespace.fp16 else torch.float32
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(namespace.dtype), torch.float32)
    if namespace.dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.float32
    bits = 4 if namespace.load_in_4bit else 8 if namespace.load_in_8bit else None
    if bits is not None and peft is None:
        raise InputError(f"load_in_{bits}bit: a quantised model is trained with an adapter; add use_peft: true")
    if bits is not None:
        dtype = products
    if products == torch.float32 and dtype != torch.float32:
        products = dtype
    precision = Precision(dtype, products, bits, bool(namespace.use_bnb_nested_quant))
    state = _state_bytes(str(getattr(namespace.optim, "value", namespace.optim)))
    lengths = Lengths(options.prompt_tokens, options.response_tokens)
    if settings.max_length is not None and lengths.prompt + lengths.response > settings.max_length:
        raise InputError(
            f"max_length: it is {settings.max_length:,}, and prompt_tokens {lengths.prompt:,} with response_tokens "
            f"{lengths.response:,} are more; give the lengths after truncation"
        )
    live = settings.reads_reference and not settings.precompute_ref_log_probs
    engines: dict[str, Any] = {}
    rows: dict[Any, Any] = {}
    for name in ENGINES if gpus > 1 and not on_cpu else ("ddp",):
        kind = precision if name == "ddp" else half(precision)
        if kind not in rows:
            model = build(config, kind, attention=namespace.attn_implementation, adapter=peft, option=source)
            if bits is not None and peft is not None:  # as TRL
                for value in model.parameters():
                    value.data = value.data.to(torch.bfloat16) if value.requires_grad else value.data
            rows[kind] = (
                Sizes.of(model),
                plan_row(
                    model,
                    kind,
                    lengths,
                    batch=namespace.per_device_train_batch_size,
                    on_cpu=on_cpu,
                    checkpointing=bool(settings.gradient_checkpointing),
                    live_reference=live,
                    option=source,
                ),
            )
        sizes, row = rows[kind]
        memory = plan_memory(name, gpus, sizes, precision, row, state=state, reference=live and peft is None)
        room = options.memory * GB * (1 - options.reserve)
        beside = memory.total - memory.activations - memory.head
        engines[name] = {
            "parts_gb": {part: value / GB for part, value in asdict(memory).items()},
            "total_gb": memory.total / GB,
            "fits": memory.total <= room,
            "longest_row_tokens": row.longest(room - beside),
        }
    pairs_a_step = gpus * namespace.per_device_train_batch_size * namespace.gradient_accumulation_steps
    a_pair = row.tokens / row.pairs
    steps = (
        namespace.max_steps
        if namespace.max_steps > 0
        else math.ceil(math.ceil(options.rows / pairs_a_step) * namespace.num_train_epochs)
    )
    passes = 0.0
    if settings.reads_reference and settings.reference_store is None:
        passes = 1.0 if live else options.rows / (steps * pairs_a_step)
    a_pair_operations = sizes.operations(
        lengths,
        frozen=peft is not None,
        checkpointing=bool(settings.gradient_checkpointing),
        reference_passes=passes,
        shared=row.path != "padded",
    )
    operations = a_pair_operations * steps * pairs_a_step
    seconds = operations / (gpus * options.teraflops * 1e12 * options.utilisation)
    return {
        "model": {"parameters": sizes.total, "trained": sizes.trained},
        "engine": engine,
        "engines": engines,
        "row": {"path": row.path, "reason": row.reason, "tokens": row.tokens, "pairs": row.pairs},
        "pairs_a_step": pairs_a_step,
        "tokens_a_step": round(pairs_a_step * a_pair),
        "steps": steps,
        "operations": operations,
        "hours": seconds / 3600,
        "device_hours": gpus * seconds / 3600,
        "cost": gpus * seconds / 3600 * options.price,
        "options": asdict(options),
    }


def _grouped(namespace: Any, kind: type) -> dict[str, Any]:
    """The values of one of the parser's groups."""
    return {item.name: getattr(namespace, item.name) for item in fields(kind) if item.init}


def _settings(namespace: Any, kind: type) -> Any:
    """The run's configuration, checked as `train` checks it, but for what only the machine that trains can have."""
    elsewhere = {
        "output_dir": "plan", "use_cpu": True, "bf16": False, "fp16": False, "tf32": None, "fsdp": None,
        "fsdp_config": None, "deepspeed": None, "report_to": "none", "torch_compile": False, "push_to_hub": False,
        "optim": "adamw_torch", "optim_args": None, "activation_offloading": False, "use_liger_kernel": False,
    }  # fmt: skip
    given = _grouped(namespace, kind)
    return _made(kind, given | {name: value for name, value in elsewhere.items() if name in given})


def _made(kind: type, given: Mapping[str, Any]) -> Any:
    """One of the parser's groups; what its library refuses names the option."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of options; `train` tells them
            return kind(**given)
    except InputError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"{option_of(error, TrainParser().names)}: {error}") from error


def _model_config(options: PlanOptions, namespace: Any) -> Any:
    from transformers import AutoConfig

    given, name = options.model_shape, namespace.model_name_or_path
    if given is None:
        if not name:
            raise InputError("model_name_or_path: it is missing; give a saved model, a hub name, or model_shape")
        try:
            return AutoConfig.from_pretrained(
                name, revision=namespace.model_revision, trust_remote_code=namespace.trust_remote_code
            )
        except Exception as error:  # a configuration's own code may raise anything
            raise InputError(
                f"model_name_or_path: no configuration of {name} is to be had here ({reason_of(error)}); give "
                "model_shape, a config.json or its numbers"
            ) from error
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8-sig")
        values = parse_json(text)
    except (OSError, ValueError) as error:
        raise InputError(f"model_shape: {given!r} cannot be read ({reason_of(error)})") from error
    if not isinstance(values, dict):
        raise InputError(f"model_shape: got {given!r}, expected a JSON object such as config.json holds")
    kind = values.pop("model_type", "llama")
    try:
        config = AutoConfig.for_model(kind, **values)
        usual = AutoConfig.for_model(kind)
    except Exception as error:  # as above
        raise InputError(f"model_shape: no configuration can be made of it ({reason_of(error)})") from error
    names = {*usual.to_dict(), *usual.attribute_map}
    unknown = sorted(set(values) - names)
    if unknown and text is given:  # a file of a model holds more than its numbers
        raise InputError(f"model_shape: {kind} has no {unknown[0]!r}{did_you_mean(unknown[0], names)}")
    return config


def _state_bytes(optim: str) -> float:
    """Bytes that an optimiser keeps of each trained weight."""
    from mallowspo.training.plan import OPTIMISERS

    kept = [count for name, count in OPTIMISERS.items() if name in optim.split("_")]
    if not kept:
        raise InputError(f"optim: the state of {optim!r} is not known; plan with one of {', '.join(OPTIMISERS)}")
    return kept[0] * (1 if "8bit" in optim else 4)


def _print(options: PlanOptions, found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    many = len(found["engines"]) > 1
    table = Table("GB of one device", title_justify="left")
    for name in found["engines"]:
        chosen = "*" if many and name == found["engine"] else ""
        table.add_column((_TITLES[name] if many else "one device") + chosen, justify="right")
    columns = list(found["engines"].values())
    for part, words in _PARTS.items():
        values = [column["parts_gb"][part] for column in columns]
        if any(values):
            table.add_row(words, *(f"{value:,.2f}" for value in values))
    table.add_section()
    table.add_row("all", *(f"{column['total_gb']:,.2f}" for column in columns))
    room = options.memory * (1 - options.reserve)
    table.add_row(f"fits {room:,.1f} GB", *("yes" if column["fits"] else "no" for column in columns))
    table.add_row("longest row, tokens", *(f"{column['longest_row_tokens']:,}" for column in columns))
    model, row = found["model"], found["row"]
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{model['parameters'] / GB:,.2f} billion parameters, {model['trained'] / GB:,.3f} trained; {options.gpus} "
        f"device(s) of {options.memory:g} GB, of which {options.reserve:.0%} is left free",
        markup=False,
    )
    console.print(
        f"a row of {row['tokens']:,} tokens, {row['pairs']} pair(s) ({row['path']}: {row['reason']})", markup=False
    )
    console.print(table)
    console.print(
        f"{found['pairs_a_step']:,} pairs and {found['tokens_a_step']:,} tokens a step, {found['steps']:,} steps\n"
        f"{found['hours']:,.2f} hours, {found['device_hours']:,.1f} device-hours, {found['cost']:,.0f} dollars at "
        f"{options.price:g} an hour ({options.teraflops:g} TFLOP/s at {options.utilisation:.0%})",
        markup=False,
    )
