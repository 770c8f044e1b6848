"""What a checkpoint holds beside the model: `mallowspo.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mallowspo.dispersion import Calibration
from mallowspo.errors import InputError
from mallowspo.files import parse_json, plain, write_json
from mallowspo.objectives import Objective

__all__ = [
    "STATE_FILE",
    "TrainingState",
    "changed_settings",
    "read_state",
    "refuse_other_run",
    "resumed_calibration",
    "step_settings",
    "write_state",
]

STATE_FILE = "mallowspo.json"

# Options under which a resumed run goes on, but not to where the first one would have come.
_STEP_OPTIONS = (
    "max_steps",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "max_grad_norm",
    "seed",
    "data_seed",
)
# The optimizer's state holds these, and transformers loads it over what the options say.
_OPTIMIZER_OPTIONS = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
_SAME_STATE = {"adamw_torch", "adamw_torch_fused"}


@dataclass(frozen=True)
class TrainingState:
    """Our part of a checkpoint.

    Attributes:
        objective: The point on the axes.
        beta: Strength of the pull towards the reference.
        calibration: How an index becomes a weight; None without an index.
        num_tokens: Tokens seen in training.
        rows: Number and fingerprint of the training rows, in their order.
        reference: Digest of the reference's weights; None where it is not known.
        settings: Other options that decide what a step does, by name.
        run: Names the run that the checkpoint belongs to, through all its resumptions.
    """

    objective: Objective
    beta: float
    calibration: Calibration | None
    num_tokens: int
    rows: Mapping[str, Any] | None = None
    reference: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None


def step_settings(args: Any) -> dict[str, Any]:
    """What decides a step, of a training configuration: by option, as JSON holds it."""
    values = {name: getattr(args, name) for name in _STEP_OPTIONS + _OPTIMIZER_OPTIONS}
    return plain({name: getattr(value, "value", value) for name, value in values.items()}) | {
        "num_processes": args.world_size
    }


def changed_settings(saved: TrainingState, now: TrainingState) -> list[str]:
    """Say which options are others than in the checkpoint, with both values, and which of them do nothing.

    Args:
        saved: From the checkpoint.
        now: Of this run.

    Returns:
        A line for each option.
    """
    return [
        f"{name} was {before} and stays so, as a part of the optimizer's state: {after} is not taken"
        if name in _OPTIMIZER_OPTIONS
        else f"{name} was {before} and is {after} now"
        for name, before in saved.settings.items()
        if (after := now.settings.get(name, before)) != before
    ]


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
    """Read what `write_state` wrote.

    Args:
        folder: A checkpoint.

    Returns:
        The state, or None where the folder has none.

    Raises:
        InputError: A file that cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_state(folder, TrainingState(Objective(), 0.1, None, 7))
        >>> read_state(folder).num_tokens
        7
    """
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


def refuse_other_run(saved: TrainingState, now: TrainingState, folder: Path, *, allow_other_data: bool) -> None:
    """Refuse to go on from a checkpoint with something else than it was trained with.

    Args:
        saved: From the checkpoint.
        now: Of this run.
        folder: The checkpoint, for messages.
        allow_other_data: Accept other training rows.

    Raises:
        InputError: The objective, beta, the optimizer, the training rows or the reference differ; the message names
            the field.
    """
    begin = "or begin anew without resume_from_checkpoint"

    def refuse(name: str, before: Any, after: Any) -> InputError:
        return InputError(
            f"{name}: {folder} was trained with {before} and this run has {after}; resume with the same, {begin}"
        )

    if saved.beta != now.beta:
        raise refuse("beta", saved.beta, now.beta)
    for axis, before in asdict(saved.objective).items():
        after = getattr(now.objective, axis)
        if before != after:
            raise refuse(f"objective ({axis})", repr(before), repr(after))
    before, after = (state.settings.get("optim") for state in (saved, now))
    if before != after and None not in (before, after) and not {before, after} <= _SAME_STATE:
        raise refuse("optim", before, after)
    if saved.rows and now.rows and saved.rows != now.rows and not allow_other_data:
        before, after = saved.rows.get("count"), now.rows["count"]
        differ = f"{before:,} training rows" if before != after else f"other training rows (also {before:,})"
        raise InputError(
            f"dataset_name: {folder} was trained on {differ} and this run has {after:,}; resume with the same data "
            f"and the same options for it, {begin}; to go on with other rows all the same, set allow_other_data"
        )
    if saved.reference and now.reference and saved.reference != now.reference:
        raise InputError(
            f"model_name_or_path: the reference of {folder} had other weights than that of this run; resume with the "
            f"model that the run began from, {begin}"
        )


def resumed_calibration(saved: Calibration | None, fresh: Calibration | None, folder: Path) -> Calibration | None:
    """The calibration that a resumed run goes on with: that of its checkpoint.

    Args:
        saved: From the checkpoint.
        fresh: From this run's options and data.
        folder: The checkpoint, for messages.

    Returns:
        `saved`, whose scale belongs to the weights that the checkpoint was trained with.

    Raises:
        InputError: This run asks for another index or another treatment of it.
    """
    if (saved is None) != (fresh is None):
        had, has = ("none", "one") if saved is None else ("one", "none")
        raise InputError(
            f"resume_from_checkpoint: {folder} was trained with {had} of a dispersion index and this run has {has}; "
            "resume with the same dispersion, or begin anew"
        )
    if saved is None or fresh is None:
        return None
    names = ["source", "estimator", "map", "per", "clip", "automatic"] + ([] if fresh.automatic else ["scale"])
    for name in names:
        before, now = getattr(saved, name), getattr(fresh, name)
        if before != now:
            raise InputError(
                f"resume_from_checkpoint: {folder} was trained with dispersion {name} {before!r} and this run has "
                f"{now!r}; resume with the same, or begin anew"
            )
    for name in ("alternatives", "spread"):
        before, now = ((c.index_map or {}).get(name) for c in (saved, fresh))
        if before is not None and now is not None and before != now:
            raise InputError(
                f"resume_from_checkpoint: {folder} was trained with dispersion_{name} {before} and this run has "
                f"{now}; resume with the same, or begin anew"
            )
    return saved
