"""`MallowsPOConfig`: TRL's `DPOConfig` with the objective's axes and the dispersion index."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import torch
import transformers
from accelerate.utils import is_peft_model
from transformers.training_args import ParallelMode
from trl import DPOConfig

from mallowspo.data.annotations import LOSS_COLUMNS
from mallowspo.data.limits import Limits
from mallowspo.data.problems import INVALID_ROWS
from mallowspo.dispersion import ESTIMATORS
from mallowspo.dispersion.maps import DEFAULT_SPREAD, MAPS
from mallowspo.dispersion.settings import PER, check_index_options, given_alternatives, given_shrink
from mallowspo.errors import InputError, not_one_of
from mallowspo.loading import refuse_other_kind, saved_config
from mallowspo.objectives import LINKS, OBJECTIVES, Objective, resolve_objective
from mallowspo.redaction import without_secrets
from mallowspo.scoring.model_checks import base_model
from mallowspo.training.option_values import check_optimizer, check_values
from mallowspo.training.removed_options import knows_removed_options
from mallowspo.training.row_order import DISPERSION_ORDERS, check_filter

__all__ = [
    "REFUSED_OPTIONS",
    "MallowsPOConfig",
    "checked_settings",
    "refuse_other_collator",
    "refuse_unfit_models",
]

_INDEX_OPTIONS = ("estimator", "map", "alternatives", "spread")

# Options of ours whose value is one of a few words.
_CHOICES: Mapping[str, Collection[str]] = {
    "objective": OBJECTIVES,
    "link": LINKS,
    "dispersion": ("entropy", "votes", "rankings", "column", "none"),
    "dispersion_estimator": ESTIMATORS,
    "dispersion_map": MAPS,
    "dispersion_per": PER,
    "dispersion_order": DISPERSION_ORDERS,
    "invalid_rows": INVALID_ROWS,
}

# TRL's losses that are one of our objectives: the preset whose numbers they are, and the axes beside it.
_OBJECTIVE_OF_LOSS_TYPE: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("dpo", {}),
    "ipo": ("ipo", {}),
    "hinge": ("hinge", {}),
    "sigmoid_norm": ("dpo", {"length_normalized": True}),
}

REFUSED_OPTIONS: Mapping[str, tuple[Any, str]] = {
    "ld_alpha": (None, "use length_normalized: true against length bias"),
    "f_divergence_type": ("reverse_kl", "our objectives are built on the reverse KL"),
    "f_alpha_divergence_coef": (0.5, "our objectives are built on the reverse KL"),
    "use_weighting": (False, "give the weights in a column and set dispersion: column"),
    "discopop_tau": (0.05, "DiscoPOP is not one of our objectives"),
    "padding_free": (False, "it has no effect in TRL's DPO trainer either"),
}
"""TRL's options that steer losses outside our axes: the value that leaves them off, and what to do instead."""

_HUGE_BETA = 100.0  # published runs take 0.01 to 10; at 100 a gap of a tenth of a nat saturates the loss


def _with_help(cls: type[MallowsPOConfig]) -> type[MallowsPOConfig]:
    """Give each of our options its help on the command line: what the class' docstring says of it, and its choices."""
    words = dict(re.findall(r"^ {8}(\w+): (.+)$", cls.__doc__ or "", re.MULTILINE))
    for item in fields(cls):
        if item.name in cls.__annotations__:
            text = words.get(item.name, "")
            if item.name in _CHOICES:
                text += f" One of: {', '.join(_CHOICES[item.name])}."
            item.metadata = MappingProxyType({"help": text})
    return cls


@_with_help
@dataclass
class MallowsPOConfig(DPOConfig):
    """Configuration of `MallowsPOTrainer`: all of `trl.DPOConfig`, and the fields below.

    A field left at None takes the value of the preset that `objective` names. Contradictions raise `InputError` here,
    before a model or a row of data is touched.

    Attributes:
        objective: Objective preset, a name in `mallowspo.objectives.OBJECTIVES`.
        link: Axis: how the gap becomes a loss.
        length_normalized: Axis: mean instead of summed log-probability of a response.
        reference_weight: Axis: alpha in [0, 1], the share of the reference's score in the gap.
        margin: Axis: gamma >= 0, in the unit of the gap (before beta and the weight).
        label_smoothing: Axis: probability in [0, 0.5) that a label is flipped.
        sft_weight: Axis: factor of the negative mean log-probability of the batch's chosen tokens; TRL's `sft` loss.
        dispersion: Where the dispersion index comes from.
        dispersion_estimator: Index read off the reference model, with `dispersion: entropy`.
        dispersion_map: How that index becomes a weight.
        dispersion_alternatives: With `dispersion_map: mallows`: among how many answers people choose, or `auto`.
        dispersion_spread: With `dispersion_map: quantile`: -log phi of the most contested and the most agreed prompt.
        dispersion_shrink: How far the index is believed: `none` (as it is), `votes` (fitted), or the factor s >= 0.
        dispersion_votes: File of people's votes on some of the prompts, for `dispersion_shrink: votes` and `isotonic`.
        dispersion_power: Tempered weight: w to this power in [0, 1], 0 for equal weights, before scale and clip.
        dispersion_scale: phi*: `auto` for a mean training weight of 1, or a number > 0.
        dispersion_per: One index per `prompt` (mean over its pairs) or per `pair`.
        dispersion_clip: Lowest and highest weight.
        dispersion_filter: Quantiles of the dispersion to train on; 0 is the most agreed prompt, 1 the most contested.
        dispersion_order: Rows as the sampler draws them (`none`), or the most agreed or most contested prompts first.
        kendall_smoothing: Half-width of the blend around a gap of 0 in the Kendall link; 0 is the exact function.
        rank_temperature: With `mallows_list_phi`: tau > 0 of the relaxed ranks, in the unit of the implicit reward.
        reference_store: A folder written by `mallowspo reference`.
        share_prompts: One copy of the prompt for all of its responses; None: where the model and the run support it.
        displacement_alarm: Nats per token that chosen responses may lose on the reference until a warning; inf: never.
        max_line_mb: MiB that a line, or a row of a CSV file, may have before it is taken for a mistake.
        max_nesting: Levels of lists and objects in a value of the data.
        max_columns: Different columns that all rows together may have.
        stream_window: Rows of a streamed training set that are read at once; the first so many fit phi*.
        invalid_rows: What to do with rows that cannot be trained on: stop (`error`), or count, name and `drop` them.
        allow_other_data: Resume a checkpoint on other training rows, tokens of them or order than it was trained on.

    Example:
        >>> config = MallowsPOConfig("out", objective="mallows_simpo", margin=0.3, use_cpu=True, bf16=False)
        >>> config.resolved_objective.margin, config.resolved_dispersion
        (0.3, 'entropy')
    """

    # Read off loss_weights: TRL's factor of the whole loss. Not an option, so not a field.
    loss_scale = 1.0

    objective: str = "mallows_theta"
    link: str | None = None
    length_normalized: bool | None = None
    reference_weight: float | None = None
    margin: float | None = None
    sft_weight: float | None = None
    dispersion: str | None = None
    dispersion_estimator: str = "mean_entropy"
    dispersion_map: str = "neglog"
    dispersion_alternatives: str | None = None
    dispersion_spread: list[float] = field(default_factory=lambda: list(DEFAULT_SPREAD))
    dispersion_shrink: str = "none"
    dispersion_votes: str | None = None
    dispersion_power: float = 1.0
    dispersion_scale: str = "auto"
    dispersion_per: str = "prompt"
    dispersion_clip: list[float] = field(default_factory=lambda: [0.0, 10.0])
    dispersion_filter: list[float] = field(default_factory=lambda: [0.0, 1.0])
    dispersion_order: str = "none"
    kendall_smoothing: float | None = None
    rank_temperature: float | None = None
    reference_store: str | None = None
    share_prompts: bool | None = None
    displacement_alarm: float = 0.01
    stream_window: int = 1_000
    invalid_rows: str = "error"
    allow_other_data: bool = False
    max_line_mb: int = 64
    max_nesting: int = 64
    max_columns: int = 1_000

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, as into every checkpoint's `training_args.bin`: all but keys and tokens."""
        state = without_secrets(self.__dict__)
        return state | {name: None for name in ("hub_token", "push_to_hub_token") if state.get(name)}

    def to_dict(self) -> dict[str, Any]:
        """What trackers and records are handed: all but keys and tokens, also those inside `model_init_kwargs`."""
        return without_secrets(super().to_dict())

    def __deepcopy__(self, memo: dict[int, Any]) -> MallowsPOConfig:
        """A copy within this process keeps them."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return new

    def __post_init__(self) -> None:
        """Check our options against each other, then let TRL and transformers check theirs."""
        check_values(self)
        Limits.of(self)
        for name in ("objective", "link", "dispersion", "dispersion_order", "invalid_rows"):
            given = getattr(self, name)
            if given is not None and given not in _CHOICES[name]:
                raise not_one_of(name, given, _CHOICES[name])
        self._read_losses()
        if self.label_smoothing_factor:
            raise InputError(
                f"label_smoothing_factor: got {self.label_smoothing_factor}, which is for losses over tokens; the "
                "probability that a preference is flipped is label_smoothing"
            )
        if self.beta <= 0:
            raise InputError(f"beta: got {self.beta}, expected a finite number > 0")
        objective = self.resolved_objective
        alarm = self.displacement_alarm
        if not objective.needs_reference and alarm != MallowsPOConfig.displacement_alarm:
            raise InputError(
                f"displacement_alarm: got {alarm:g}, but objective {self.objective!r} has no reference to hold the "
                "chosen responses against; leave it out"
            )
        self._check_dispersion(objective)
        if self.train_sampling_strategy == "group_by_length":
            raise InputError(
                "train_sampling_strategy: got 'group_by_length', which needs rows with input_ids, and rows of "
                "preferences have none (TRL stops at the first step); use random or sequential"
            )
        if objective.reads_lists:
            self._check_lists()
        if self.sync_ref_model and (self.reads_entropy or not objective.needs_reference):
            raise InputError(
                "sync_ref_model: the dispersion index is fitted once on the reference, and an objective without a "
                "reference has none to move; set sync_ref_model: false, or objective: dpo with dispersion: none"
            )
        if self.sync_ref_model and self.precompute_ref_log_probs:
            raise InputError(
                "sync_ref_model: precompute_ref_log_probs keeps the scores of a reference that stays as it is; leave "
                "one of the two out"
            )
        if self.reference_store is not None:
            self._check_store()
        # The index needs the reference's entropies on every training row before the first step, and the same pass
        # gives the log-probabilities. An objective without a reference needs no second model in memory either.
        if self.reads_entropy or not objective.needs_reference or self.reference_store is not None:
            self.precompute_ref_log_probs = True
        if self.bf16 is None and not self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            # TRL's default would stop here for want of a GPU, or round on a CPU, which gains nothing by it.
            self.bf16 = False
        super().__post_init__()
        check_optimizer(self)

    @property
    def resolved_objective(self) -> Objective:
        """The preset with this configuration's values on its axes."""
        return resolve_objective(
            self.objective,
            link=self.link,
            length_normalized=self.length_normalized,
            reference_weight=self.reference_weight,
            margin=self.margin,
            label_smoothing=self.label_smoothing or None,
            sft_weight=self.sft_weight,
            kendall_smoothing=self.kendall_smoothing,
            rank_temperature=self.rank_temperature,
        )

    @property
    def resolved_dispersion(self) -> str:
        """Where the index comes from: the option, or the preset's value."""
        return self.dispersion or self.resolved_objective.dispersion

    @property
    def reads_entropy(self) -> bool:
        """Whether the reference's entropies are needed."""
        return self.resolved_dispersion == "entropy"

    @property
    def reads_reference(self) -> bool:
        """Whether anything of the reference is needed: its log-probabilities or its entropies."""
        return self.resolved_objective.needs_reference or self.reads_entropy

    @property
    def resolved_clip(self) -> tuple[float, float]:
        """Lowest and highest weight."""
        low, high = self.dispersion_clip
        return float(low), float(high)

    @property
    def resolved_spread(self) -> tuple[float, float]:
        """-log phi of the most contested and of the most agreed prompt, for the map `quantile`."""
        low, high = self.dispersion_spread
        return float(low), float(high)

    @property
    def resolved_alternatives(self) -> int | str | None:
        """Among how many answers people choose, as a number, `auto`, or None."""
        return given_alternatives(self.dispersion_alternatives, "dispersion_alternatives")

    @property
    def resolved_shrink(self) -> float | str | None:
        """How far the index is believed: None (as it is), `votes`, or the factor."""
        return given_shrink(self.dispersion_shrink)

    @property
    def resolved_scale(self) -> float | str:
        """phi* as a number, or `auto`."""
        return "auto" if self.dispersion_scale == "auto" else float(self.dispersion_scale)

    def _check_dispersion(self, objective: Objective) -> None:
        source = self.resolved_dispersion
        if objective.link == "kendall" and source == "none":
            raise InputError(
                "dispersion: got 'none' with the Kendall link, which is a function of the dispersion; choose "
                "dispersion among entropy, votes, rankings, column, or link: sigmoid"
            )
        check_index_options(
            estimator=self.dispersion_estimator,
            map=self.dispersion_map,
            scale=self.dispersion_scale,
            clip=self.dispersion_clip,
            per=self.dispersion_per,
            alternatives=self.dispersion_alternatives,
            power=self.dispersion_power,
            shrink=self.dispersion_shrink,
            spread=self.dispersion_spread,
        )
        check_filter(self.dispersion_filter)
        if self.dispersion_order != "none":
            self._keep_order()
        reads_votes = self.dispersion_shrink == "votes" or (self.reads_entropy and self.dispersion_map == "isotonic")
        if reads_votes != (self.dispersion_votes is not None):
            raise InputError(
                "dispersion_votes: "
                + ("it is missing; give the file of votes" if reads_votes else "nothing reads it; leave it out")
                + ", or change dispersion_shrink (votes reads it) or dispersion_map (isotonic reads it)"
            )
        unread = {
            "none": ("scale", "clip", "per", "shrink", "votes", "power", *_INDEX_OPTIONS, "filter", "order"),
            "entropy": (),
        }
        defaults = {item.name: item for item in fields(MallowsPOConfig)}
        for suffix in unread.get(source, _INDEX_OPTIONS):
            item = defaults[f"dispersion_{suffix}"]
            default = item.default_factory() if callable(item.default_factory) else item.default
            given = getattr(self, item.name)
            if given != default:
                raise InputError(
                    f"{item.name}: got {given!r} with dispersion {source!r}, where it has no effect; leave it out, "
                    "or choose another dispersion"
                )

    def _read_losses(self) -> None:
        """Read `loss_type` and `loss_weights` as TRL does, into the objective, its SFT term and `loss_scale`."""
        for name, (off, advice) in REFUSED_OPTIONS.items():
            if getattr(self, name) != off:
                raise InputError(f"{name}: got {getattr(self, name)!r}, which no objective here reads; {advice}")
        types = [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)
        weights = [1.0] * len(types) if self.loss_weights is None else list(self.loss_weights)
        if len(weights) != len(types):
            raise InputError(f"loss_weights: got {weights} for loss_type {types}, expected one number for each loss")
        if not all(0 < weight < float("inf") for weight in weights):
            raise InputError(f"loss_weights: got {weights}, expected finite numbers > 0")
        others = [name for name in types if name != "sft"]
        if len(others) != 1 or len(types) > 2 or others[0] not in _OBJECTIVE_OF_LOSS_TYPE:
            raise InputError(
                f"loss_type: got {types}, expected one of {', '.join(_OBJECTIVE_OF_LOSS_TYPE)}, alone or with sft. "
                f"Other losses are objectives here (objective: one of {', '.join(OBJECTIVES)}); train with "
                "trl.DPOTrainer for those that are none"
            )
        by_type = dict(zip(types, weights, strict=True))
        self.loss_scale = float(by_type[others[0]])
        if "sft" in by_type:
            factor = float(by_type["sft"]) / self.loss_scale
            if self.sft_weight not in (None, factor):  # a configuration that is built again has read it once
                raise InputError(
                    f"sft_weight: got {self.sft_weight}, where loss_type {types} with loss_weights {weights} says "
                    f"{factor:g}; leave one of the two out"
                )
            self.sft_weight = factor
        self._read_loss_type(others[0])

    def _read_loss_type(self, name: str) -> None:
        """A loss of TRL names the objective where none is named; it must not contradict one that is."""
        if name == "sigmoid":
            return  # TRL's default, so nobody may have asked for it
        preset, axes = _OBJECTIVE_OF_LOSS_TYPE[name]
        theirs = resolve_objective(preset, **axes)
        unnamed = self.objective == MallowsPOConfig.objective and all(
            getattr(self, axis) is None for axis in ("link", "reference_weight", "margin")
        )
        if unnamed or self.objective == preset:
            self.objective = preset
            for axis, value in axes.items():
                if getattr(self, axis) is None:
                    setattr(self, axis, value)
        ours = self.resolved_objective
        if any(getattr(ours, axis) != getattr(theirs, axis) for axis in ("link", "length_normalized")):
            written = ", ".join([f"objective: {preset}", *(f"{axis}: {value}" for axis, value in axes.items())])
            raise InputError(
                f"loss_type: got {name!r}, which is {written.lower()} here, but objective {self.objective!r} with its "
                "axes is another loss; leave one of the two out"
            )

    @property
    def remarks(self) -> list[str]:
        """What is allowed and yet deserves a line in the log, since it is seldom meant."""
        lines = []
        if self.learning_rate == 0:
            lines.append("learning_rate is 0: no weight will change")
        if self.num_train_epochs == 0 and self.max_steps <= 0:
            lines.append("num_train_epochs is 0 and max_steps is not set: nothing will be trained")
        if self.beta > _HUGE_BETA:
            lines.append(
                f"beta is {self.beta:g}: differences of a hundredth of a nat saturate the loss, and most pairs will "
                "train nothing; usual values are 0.01 to 10"
            )
        if self.label_smoothing:
            lines.append(
                f"label_smoothing {self.label_smoothing:g} is the probability that a label is flipped, for every "
                "objective here; TRL's loss_type sigmoid ignores that option"
            )
        types = [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)
        if types != ["sigmoid"]:
            weights = "" if self.loss_weights is None else f" with loss_weights {self.loss_weights}"
            lines.append(
                f"loss_type {types}{weights} is read as objective {self.objective}"
                + (", length_normalized" if self.length_normalized else "")
                + (f", sft_weight {self.sft_weight:g}" if self.sft_weight else "")
                + (f", all times {self.loss_scale:g}" if self.loss_scale != 1 else "")
            )
        return lines

    def _check_lists(self) -> None:
        """What lists that are read whole cannot have."""
        if self.resolved_objective.form == "plackett_luce" and self.resolved_dispersion != "none":
            raise InputError(
                f"dispersion: got {self.dispersion!r}, but objective {self.objective!r} knows no dispersion; leave it "
                "out, or take mallows_list_theta or mallows_list_phi"
            )
        if self.dispersion_per == "pair":
            raise InputError(
                f"dispersion_per: got 'pair', but objective {self.objective!r} reads ranked lists, each with one "
                "weight; set dispersion_per: prompt"
            )
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise InputError(
                f"train_sampling_strategy: got {self.train_sampling_strategy!r}, which does not know ranked lists "
                f"(objective {self.objective!r}); use random or sequential"
            )

    def _keep_order(self) -> None:
        """The rows are sorted once; the sampler must then take them as they stand."""
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise InputError(
                f"dispersion_order: got {self.dispersion_order!r} with train_sampling_strategy "
                f"{self.train_sampling_strategy!r}, which sorts the rows anew; leave one of the two out"
            )
        self.train_sampling_strategy = "sequential"

    def _check_store(self) -> None:
        if not self.reads_reference:
            raise InputError(
                f"reference_store: objective {self.objective!r} with dispersion {self.resolved_dispersion!r} reads "
                "nothing of a reference; leave it out"
            )
        if self.sync_ref_model:
            raise InputError(
                "reference_store: its scores belong to a reference that stays as it is, and sync_ref_model moves the "
                "reference; leave one of the two out"
            )


# The generated __init__ is known only after the class is complete.
MallowsPOConfig.__init__ = knows_removed_options(MallowsPOConfig.__init__)  # type: ignore[method-assign]


def checked_settings(
    args: Any, model: Any, ref_model: Any, train_dataset: Any, peft_config: Any = None
) -> MallowsPOConfig:
    """The trainer's configuration, checked against what else the trainer was given."""
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        args = MallowsPOConfig(f"{name.rstrip('/').split('/')[-1]}-MallowsPO")
    if not isinstance(args, MallowsPOConfig):
        raise InputError(
            f"args: got {type(args).__name__}, expected MallowsPOConfig, which takes the same fields; "
            "MallowsPOConfig(objective='dpo', ...) trains plain DPO"
        )
    if train_dataset is None:
        raise InputError("train_dataset: it is missing; give a datasets.Dataset of preference rows")
    if ref_model is not None and not args.reads_reference:
        raise InputError(f"ref_model: objective {args.objective!r} without an index reads none; leave it out")
    adapted = peft_config is not None or (not isinstance(model, str) and is_peft_model(model))
    if args.sync_ref_model and adapted:
        raise InputError(
            "sync_ref_model: with an adapter (use_peft, peft_config) no separate reference is kept that could be "
            "moved; leave it out, or train without an adapter"
        )
    if args.activation_offloading and args.device.type == "cpu":
        raise InputError("activation_offloading: it moves activations from an accelerator to the CPU; leave it out")
    _refuse_other_engines(args, model)
    xla = isinstance(args.fsdp_config, dict) and args.fsdp_config.get("xla")
    if args.fsdp and not xla and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise InputError(
            "fsdp: it shards the model over several processes, and this is one; start it with --num_processes (or "
            "accelerate launch), or leave it out"
        )
    return args


def refuse_unfit_models(model: Any, ref_model: Any, args: Any, revision: str | None, option: str = "model") -> None:
    """Refuse, before its weights are read, a model that is no causal one or cannot do what is asked of it."""
    kind: Any
    if isinstance(model, str):
        config = saved_config(model, revision=revision, trust_remote_code=args.trust_remote_code)
        if config is not None and not config.architectures:
            raise InputError(
                f"{option}: the configuration of {model} names no class under architectures; add the one that the "
                "weights were saved from, such as LlamaForCausalLM"
            )
        kind = None if config is None else getattr(transformers, config.architectures[0], None)  # as in TRL
    else:
        config, kind = model.config, type(base_model(model))
    if config is not None:
        refuse_other_kind(option, config, kind)
    if ref_model is not None:
        refuse_other_kind("ref_model", ref_model.config, type(base_model(ref_model)))
    if args.gradient_checkpointing and not getattr(kind, "supports_gradient_checkpointing", True):
        raise InputError(
            f"gradient_checkpointing: {kind.__name__} does not support it; set gradient_checkpointing: false"
        )


def _refuse_other_engines(args: MallowsPOConfig, model: Any) -> None:
    """Refuse what spreads a model or a row over processes in a way that the scores do not know."""
    instead = "shard the model with FSDP2 (--accelerate_config fsdp2) or DeepSpeed ZeRO-3 (--accelerate_config zero3)"
    given: dict[str, Any] = getattr(args, "fsdp_plugin_args", None) or {}
    launched = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    version = given.get("fsdp_version") if given else int(os.environ.get("FSDP_VERSION", "1")) if launched else 2
    if version == 1:
        raise InputError(
            "fsdp: version 1 keeps no weight as a tensor of its own, so that the reference has no name, and it is "
            "leaving transformers; set fsdp_version: 2 (--accelerate_config fsdp2, or version: 2 in fsdp_config)"
        )
    for name in ("cp_size", "sp_size"):
        size = getattr(args.parallelism_config, name, None) or os.environ.get(f"PARALLELISM_CONFIG_{name.upper()}")
        if int(size or 1) > 1:
            raise InputError(
                f"parallelism_config: {name} {size} cuts a row over several processes, and a response is scored as a "
                f"whole; leave it out, and {instead}"
            )
    init: Any = args.model_init_kwargs or {}
    loading = init.get("distributed_config") if isinstance(model, str) else None
    loading = loading or getattr(getattr(model, "config", None), "distributed_config", None) or {}
    sizes = loading if isinstance(loading, dict) else vars(loading)
    if max(int(sizes.get(name) or 1) for name in ("fsdp_size", "dp_replicate_size", "pp_size")) > 1:
        raise InputError(
            f"model_init_kwargs: distributed_config shards the model while it is loaded, and TRL's trainer cannot "
            f"name a reference that is sharded so; leave it out, and {instead}"
        )


def refuse_other_collator(collator: Any, args: MallowsPOConfig, train_dataset: Any) -> None:
    """Refuse, before anything is loaded, TRL's own collator where a run reads columns that it drops."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    if type(collator) is not DataCollatorForPreference:
        return
    lost = "dispersion_raw" if args.resolved_dispersion != "none" else None
    given = getattr(train_dataset, "column_names", None) or ()
    if args.resolved_objective.reads_lists:
        lost = "list"
    lost = next((name for name in LOSS_COLUMNS if name in given), lost)
    if lost is not None:
        raise InputError(
            f"data_collator: TRL's DataCollatorForPreference hands on no column {lost!r}, which objective "
            f"{args.objective!r} reads; leave data_collator out, or take mallowspo.data.PreferenceCollator, which has "
            "the same arguments"
        )
