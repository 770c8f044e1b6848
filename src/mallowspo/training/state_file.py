"""What a checkpoint holds beside the model: `mallowspo.json`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from mallowspo.dispersion import Calibration
from mallowspo.errors import InputError
from mallowspo.files import parse_json, plain, write_json
from mallowspo.objectives import Objective

__all__ = [
    "OPTION_EFFECTS",
    "STATE_FILE",
    "TrainingState",
    "changed_settings",
    "read_state",
    "refuse_other_run",
    "resumed_calibration",
    "run_settings",
    "write_state",
]

STATE_FILE = "mallowspo.json"

OPTION_EFFECTS: Mapping[str, tuple[str, ...]] = {
    # Other tokens are trained on, of the same rows: refused like other rows.
    "rows": ("max_length", "truncation_mode"),
    # Another loss: refused like another objective.
    "loss": tuple(
        "loss_weights router_aux_loss_coef sync_ref_model ref_model_mixup_alpha ref_model_sync_steps".split()
    ),
    # The optimizer's state is of another form: refused.
    "form": ("optim", "optim_args", "optim_target_modules"),
    # The rows are drawn in another order: refused inside an epoch, of which some would come twice and some not at all.
    "order": ("train_sampling_strategy", "seed", "data_seed"),
    # Other steps, and so other places in the epoch at the same step: taken and named.
    "pace": tuple(
        "per_device_train_batch_size gradient_accumulation_steps dataloader_drop_last ignore_data_skip "
        "auto_find_batch_size accelerator_config num_processes".split()
    ),
    # The steps from here on are others: taken and named.
    "step": tuple(
        "max_steps num_train_epochs lr_scheduler_type lr_scheduler_kwargs warmup_steps max_grad_norm "
        "neftune_noise_alpha disable_dropout bf16 fp16 tf32 dtype".split()
    ),
    # The optimizer's state holds them, and transformers loads it over what the options say: named and not taken.
    "kept": ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    # Compared by what comes of them: the objective, beta, the calibration, the rows and the reference's weights.
    "elsewhere": tuple(
        "beta objective link length_normalized reference_weight margin label_smoothing sft_weight kendall_smoothing "
        "rank_temperature loss_type dispersion dispersion_estimator dispersion_map dispersion_alternatives "
        "dispersion_spread dispersion_shrink dispersion_votes dispersion_power dispersion_scale dispersion_per "
        "dispersion_clip dispersion_filter dispersion_order invalid_rows stream_window reference_store "
        "model_init_kwargs".split()
    ),
}
"""What another value of an option does to a run that goes on; options that are not here do nothing to it."""

_EFFECT = {name: effect for effect, names in OPTION_EFFECTS.items() for name in names}
_SAME_STATE = {"adamw_torch", "adamw_torch_fused"}
_BEGIN = "or begin anew without resume_from_checkpoint"


@dataclass(frozen=True)
class TrainingState:
    """Our part of a checkpoint."""

    objective: Objective
    beta: float
    calibration: Calibration | None
    num_tokens: int  # seen in training
    rows: Mapping[str, Any] | None = None  # number and fingerprint of the training rows, in their order
    reference: str | None = None  # digest of its weights, or of those of an adapter's base; None: not known
    settings: Mapping[str, Any] = field(default_factory=dict)  # other options that decide what the run comes to
    run: str | None = None  # names the run that the checkpoint belongs to, through all its resumptions


def run_settings(args: Any, dtype: str) -> dict[str, Any]:
    """Every option that decides what a run comes to and that nothing else in the state tells, as JSON holds it."""
    given = {
        "dtype": dtype,
        "num_processes": args.world_size,
        "loss_weights": args.loss_scale,  # a weight of the term sft is in the objective
    }
    values = {name: given.get(name, getattr(args, name, None)) for name in _EFFECT if _EFFECT[name] != "elsewhere"}
    return cast(dict[str, Any], plain({name: _as_data(value) for name, value in values.items()}))


def _as_data(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else getattr(value, "value", value)


def _changed(saved: TrainingState, now: TrainingState) -> Iterator[tuple[str, Any, Any]]:
    """Options that differ; what an older version did not keep is not known to."""
    for name, before in saved.settings.items():
        after = now.settings.get(name, before)
        if before != after:
            yield name, before, after


def changed_settings(saved: TrainingState, now: TrainingState) -> list[str]:
    """Say which options are others than in the checkpoint, with both values, and what comes of it."""
    lines = []
    for name, before, after in _changed(saved, now):
        effect = _EFFECT.get(name)
        line = f"{name} was {before} and is {after} now"
        if effect == "kept":
            line = f"{name} was {before} and stays so, as a part of the optimizer's state: {after} is not taken"
        elif effect == "pace":
            line += "; the place in the epoch is counted in steps, so that rows of it may come twice or not at all"
        lines.append(line)
    return lines


def write_state(folder: Path, state: TrainingState) -> None:
    """Write `mallowspo.json` into a checkpoint's folder, whole or not at all."""
    write_json(
        folder / STATE_FILE,
        {
            "format": 1,
            "objective": asdict(state.objective),
            "beta": state.beta,
            "calibration": None if state.calibration is None else state.calibration.to_dict(),
            "num_tokens": state.num_tokens,
            "rows": state.rows,
            "reference": state.reference,
            "settings": state.settings,
            "run": state.run,
        },
    )


def read_state(folder: Path) -> TrainingState | None:
    """Read what `write_state` wrote."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        calibration = values["calibration"]
        return TrainingState(
            Objective(**values["objective"]),
            float(values["beta"]),
            None if calibration is None else Calibration.from_dict(calibration),
            int(values["num_tokens"]),
            # Versions before 0.2 did not keep these.
            rows=None if values.get("rows") is None else dict(values["rows"]),
            reference=values.get("reference"),
            settings=dict(values.get("settings") or {}),
            run=values.get("run"),
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete the checkpoint, or restore the file") from error


def _differs(name: str, folder: Path, before: Any, after: Any) -> InputError:
    return InputError(
        f"{name}: {folder} was trained with {before} and this run has {after}; resume with the same, {_BEGIN}"
    )


def refuse_other_run(
    saved: TrainingState, now: TrainingState, folder: Path, *, allow_other_data: bool, in_epoch: bool
) -> None:
    """Refuse to go on from a checkpoint with something else than it was trained with."""
    # `allow_other_data` accepts other rows and another order of them; `in_epoch`: it was written inside an epoch.
    if saved.beta != now.beta:
        raise _differs("beta", folder, saved.beta, now.beta)
    for axis, before in asdict(saved.objective).items():
        after = getattr(now.objective, axis)
        if before != after:
            raise _differs(f"objective ({axis})", folder, repr(before), repr(after))
    for name, before, after in _changed(saved, now):
        effect = _EFFECT.get(name)
        if effect == "loss" or (effect == "form" and not (name == "optim" and {before, after} <= _SAME_STATE)):
            raise _differs(name, folder, before, after)
    if saved.rows and now.rows and saved.rows != now.rows and not allow_other_data:
        before, after = saved.rows.get("count"), now.rows["count"]
        differ = f"{before:,} training rows" if before != after else f"other training rows (also {before:,})"
        raise InputError(
            f"dataset_name: {folder} was trained on {differ} and this run has {after:,}; resume with the same data "
            f"and the same options for it, {_BEGIN}; to go on with other rows all the same, set allow_other_data"
        )
    for name, before, after in _changed(saved, now):
        effect = _EFFECT.get(name)
        if not allow_other_data and (effect == "rows" or (effect == "order" and in_epoch)):
            why = "other tokens of each row" if effect == "rows" else "another order, some rows twice and some never"
            raise InputError(
                f"{name}: {folder} was trained with {before} and this run has {after}, which would go on with {why}; "
                f"resume with the same, {_BEGIN}; to go on all the same, set allow_other_data"
            )
    if saved.reference and now.reference and saved.reference != now.reference:
        raise InputError(
            f"model_name_or_path: the model that {folder} began from (its reference, or its adapter's base) had other "
            f"weights than this run's; resume with the same, {_BEGIN}"
        )


def resumed_calibration(saved: Calibration | None, fresh: Calibration | None, folder: Path) -> Calibration | None:
    """The calibration that a resumed run goes on with: that of its checkpoint, to whose weights its scale belongs."""
    name = "resume_from_checkpoint"
    if (saved is None) != (fresh is None):
        had, has = ("none", "one") if saved is None else ("one", "none")
        raise _differs(name, folder, f"{had} of a dispersion index", has)
    if saved is None or fresh is None:
        return None
    parts = ["source", "estimator", "map", "per", "clip", "shrink", "power", "automatic"]
    for part in parts if fresh.automatic else [*parts, "scale"]:
        before, now = getattr(saved, part), getattr(fresh, part)
        # A factor that votes fitted may differ in its last digits on another machine.
        if before != now and not (part == "shrink" and before and now and math.isclose(before, now, rel_tol=1e-6)):
            raise _differs(name, folder, f"dispersion {part} {before!r}", repr(now))
    for part in ("alternatives", "spread"):
        before, now = ((c.index_map or {}).get(part) for c in (saved, fresh))
        if before is not None and now is not None and before != now:
            raise _differs(name, folder, f"dispersion_{part} {before}", now)
    return saved
