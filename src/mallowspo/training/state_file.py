"""What a checkpoint holds beside the model: `mallowspo.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from mallowspo.dispersion import Calibration
from mallowspo.errors import InputError
from mallowspo.files import parse_json, write_json
from mallowspo.objectives import Objective

__all__ = ["STATE_FILE", "TrainingState", "read_state", "resumed_calibration", "write_state"]

STATE_FILE = "mallowspo.json"


@dataclass(frozen=True)
class TrainingState:
    """Our part of a checkpoint.

    Attributes:
        objective: The point on the axes.
        beta: Strength of the pull towards the reference.
        calibration: How an index becomes a weight; None without an index.
        num_tokens: Tokens seen in training.
    """

    objective: Objective
    beta: float
    calibration: Calibration | None
    num_tokens: int


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
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete the checkpoint, or restore the file") from error


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
