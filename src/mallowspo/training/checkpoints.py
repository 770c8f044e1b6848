"""Checkpoints that are whole or not there.

A checkpoint is written beside its final name, gets a list of its files with their sizes and digests, and is then
renamed: a kill or a full disk inside a save leaves a folder that nobody takes for a checkpoint. The list also
tells later what is missing or was damaged. Checkpoints without one (TRL's, or an older version's) are looked through
as far as their formats allow.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError
from mallowspo.files import parse_json, staging_folder, to_the_end, write_json
from mallowspo.loading import broken
from mallowspo.locks import folder_lock
from mallowspo.training.state_file import read_state

__all__ = [
    "FILE_LIST",
    "chosen_checkpoint",
    "clear_leftovers",
    "enter_run",
    "faults",
    "move_in",
    "newest_whole",
    "publish",
    "remove_surplus",
    "run_folder",
    "seal",
]

FILE_LIST = "mallowspo-files.json"
"""What a checkpoint holds: size and XXH3 digest by file."""

# The name of the run that a folder belongs to now.
_RUN = "_run"
_BLOCK = 1 << 24
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# A model card may be edited by its owner; nothing reads it on resume.
_FREE = ("README.md",)


def _digest(path: Path) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(folder: Path) -> None:
    """List the files of a folder with their sizes and digests, and bring all of it to the disk."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILE_LIST):
        _sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "xxh3_128": _digest(path)}
    write_json(folder / FILE_LIST, {"format": 1, "files": files})
    _sync(folder / FILE_LIST)
    _sync(folder)


def publish(staging: Path, final: Path) -> None:
    """Give a sealed folder its name; one that has the name already is replaced."""
    old = final.with_name(f"_{final.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    staging.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def move_in(staging: Path, folder: Path) -> None:
    """Move the files of a finished folder into one that stays, each whole, and the weights last."""
    # Weights of an earlier save in another form (more shards, or none) go, since a loader might take them.
    names = sorted((p.name for p in staging.iterdir()), key=lambda name: (_is_weights(name), name))
    stale = [p for p in folder.iterdir() if _is_weights(p.name) and p.name not in names]

    def move() -> None:
        for name in names:
            if not (staging / name).exists():
                continue
            if (staging / name).is_dir():
                shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(staging / name, folder / name)
        if any(map(_is_weights, names)):
            for path in stale:
                path.unlink(missing_ok=True)

    to_the_end(move)  # half of it would be shards of two models
    _sync(folder)


def _is_weights(name: str) -> bool:
    return name.startswith(("model", "pytorch_model", "adapter_model")) and name.endswith(
        (".safetensors", ".bin", ".index.json")
    )


@contextmanager
def run_folder(output_dir: Path) -> Iterator[None]:
    """Hold the only right to write to a run's folder; what a cut-off save leaves in it goes, before and after."""
    with folder_lock(output_dir, "a training run"):
        try:
            clear_leftovers(output_dir)
            yield
        finally:
            to_the_end(lambda: clear_leftovers(output_dir))


def clear_leftovers(output_dir: Path) -> None:
    """Remove what killed saves left; only for whoever holds the folder's lock."""
    # A checkpoint that was being replaced gets its name back where the new one did not come to have it.
    for path in output_dir.glob("_checkpoint-*.replaced"):
        final = path.with_name(path.name.removeprefix("_").removesuffix(".replaced"))
        if final.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(final)
    for path in output_dir.glob("_*.saving"):
        shutil.rmtree(path, ignore_errors=True)


def faults(folder: Path) -> list[str]:
    """What keeps a checkpoint from being resumed, a sentence a file; empty where it is whole."""
    found = list(_missing(folder))
    listed = _read_list(folder)
    if isinstance(listed, str):
        return [*found, listed]
    if listed is None:
        return [*found, *(f"{p.name}: {why}" for p in sorted(folder.iterdir()) if p.is_file() if (why := broken(p)))]
    for name, entry in listed.items():
        path = folder / name
        if name in _FREE:
            continue
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            found.append(f"{name} has {path.stat().st_size:,} bytes and was written with {entry['bytes']:,}")
        elif _digest(path) != entry["xxh3_128"]:
            found.append(f"{name} is damaged: its content is not what was written")
    return list(dict.fromkeys(found))


def _read_list(folder: Path) -> dict[str, dict[str, Any]] | str | None:
    """The list of files; None where there is none, a sentence where it cannot be read."""
    try:
        files = parse_json((folder / FILE_LIST).read_bytes())["files"]
        if not all(isinstance(e["bytes"], int) and isinstance(e["xxh3_128"], str) for e in files.values()):
            raise ValueError("an entry has no size or no digest")
        return dict(files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{FILE_LIST} is damaged ({error})"


def _missing(folder: Path) -> Iterator[str]:
    """Files without which a resumed run is another run."""
    names = {path.name for path in folder.iterdir()}
    state = folder / "trainer_state.json"
    if state.name not in names:
        yield "trainer_state.json is missing"
    if any(name.startswith("global_step") for name in names):
        return  # DeepSpeed keeps weights, optimiser and schedule in a folder of its own, and checks it itself
    sharded = [name for name in names if name.startswith("pytorch_model_fsdp")]
    adapters = [p for p in folder.iterdir() if (p / "adapter_config.json").is_file()]
    if not (names & {*_WEIGHTS, *_INDEXES} or sharded or adapters):
        yield "the weights are missing (no model.safetensors, adapter_model.safetensors or another form of them)"
    if not any(name.startswith("optimizer") for name in names):
        yield "optimizer.pt is missing, so the optimiser would begin anew (was it saved with save_only_model?)"
    if "scheduler.pt" not in names:
        yield "scheduler.pt is missing, so the learning rate would begin anew"
    if not any(name.startswith("rng_state") for name in names):
        yield "rng_state.pth is missing, so the rows would be drawn in another order"
    for index in _INDEXES:
        try:
            told = parse_json((folder / index).read_bytes())["weight_map"].values() if index in names else ()
            shards = {str(shard) for shard in told}
        except (ValueError, KeyError, TypeError, AttributeError):
            yield f"{index} is damaged"
            continue
        yield from (f"{shard} is missing" for shard in sorted(shards - names))


def enter_run(output_dir: Path, resumed: Path | None) -> tuple[str | None, list[str]]:
    """Note to which run a folder belongs from now on: `true` goes on from the checkpoints of that one alone."""
    # A run that begins anew, or from a checkpoint that has later ones, is another one than that which wrote them.
    run = None if resumed is None else _run_of(resumed)
    others = [
        path
        for path in _by_step(output_dir)
        if resumed is None or (_run_of(path) == run and _step(path) > _step(resumed))
    ]
    if resumed is None or others:
        run = secrets.token_hex(8)
    if run is None:
        (output_dir / _RUN).unlink(missing_ok=True)
    else:
        begun = None if resumed is None or resumed.parent.resolve() != output_dir.resolve() else resumed.name
        write_json(output_dir / _RUN, {"run": run, "from": begun})
    return run, [path.name for path in others]


def remove_surplus(output_dir: Path, run: str | None, *, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints of a run, but for the best and the last one."""
    # transformers counts those of all runs, and removes the newer run's where it cannot order them by their times.
    if not limit or limit < 0:
        return
    ours = [path for path in _by_step(output_dir) if _run_of(path) == run]
    surplus = [path for path in ours[:-1] if path.name != best]
    for path in surplus[: len(ours) - max(limit, len(ours) - len(surplus))]:
        going = staging_folder(path)  # half of a checkpoint must not bear its name
        path.rename(going)
        shutil.rmtree(going, ignore_errors=True)


def _step(path: Path) -> int:
    """The step in a checkpoint's name, -1 where it has another one."""
    step = path.name.removeprefix("checkpoint-")
    return int(step) if step.isdecimal() else -1


def _by_step(output_dir: Path) -> list[Path]:
    found = [p for p in output_dir.glob("checkpoint-*") if p.is_dir() and _step(p) >= 0] if output_dir.is_dir() else []
    return sorted(found, key=_step)


def _run_of(checkpoint: Path) -> str | None:
    try:
        state = read_state(checkpoint)
    except InputError:
        return None
    return None if state is None else state.run


def _last_run(output_dir: Path) -> tuple[str | None, str | None]:
    """What `enter_run` noted: the last run of a folder, and the checkpoint of another one that it went on from."""
    note = output_dir / _RUN
    if not note.exists():
        return None, None
    try:
        values = parse_json(note.read_bytes())
        return str(values["run"]), values["from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{note}: cannot be read ({error}); delete it, and the newest checkpoint of any run is taken"
        ) from error


def newest_whole(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a folder's last run that can be resumed, and a line for each newer one that cannot."""
    run, begun = _last_run(output_dir)
    skipped: list[str] = []
    for path in reversed(_by_step(output_dir)):
        its = _run_of(path)
        ours = run in (None, its) or path.name == begun
        wrong = faults(path) if ours or its is None else []
        if not (ours or wrong):
            wrong = [f"it is not of the last run in this folder (resume_from_checkpoint: {path} goes on from it)"]
        if not wrong:
            return path, skipped
        skipped.append(f"{path.name} is passed over: {'; '.join(wrong)}")
    return None, skipped


def chosen_checkpoint(given: str | bool | None, output_dir: Path) -> tuple[Path | None, list[str]]:
    """What `resume_from_checkpoint` asks for: a folder, or true for `newest_whole`; None, or a false word for none."""
    if given is None or str(given).lower() in ("false", "none", ""):
        return None, []
    if str(given).lower() == "true":
        path, skipped = newest_whole(output_dir)
        if path is None:
            why = f": {'. '.join(skipped)}" if skipped else ""
            raise InputError(
                f"resume_from_checkpoint: there is no {'whole ' if skipped else ''}checkpoint in {output_dir}{why}; "
                "begin anew without resume_from_checkpoint"
            )
        return path, skipped
    path = Path(str(given))
    if not path.is_dir():
        raise InputError(f"resume_from_checkpoint: {given} is not a checkpoint (there is no such folder)")
    wrong = faults(path)
    if wrong:
        other = newest_whole(path.parent)[0]
        way_out = f"resume from {other}" if other is not None else "begin anew without resume_from_checkpoint"
        raise InputError(
            f"resume_from_checkpoint: {given} is not a whole checkpoint: {'; '.join(wrong)}. Restore it, or {way_out}"
        )
    return path, []
