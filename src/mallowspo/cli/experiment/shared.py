"""What the commands of all studies do alike: read lists, run a study, say where its page lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mallowspo.cli.options import did_you_mean, option
from mallowspo.errors import InputError, not_one_of

__all__ = [
    "FAST", "OUTPUT_DIR", "StudyOptions", "chosen_preset", "preset_settings", "read_names", "read_numbers",
    "run_and_tell",
]  # fmt: skip

OUTPUT_DIR = "Where everything goes; the same folder goes on."
FAST = "A run of seconds that shows every part and resolves nothing."


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of every study."""

    workers: int = option(
        "Processes that work side by side; 0: this one. Changes no result.", 0, low=0, group="How it is run"
    )
    preset: str | None = option("Settings under a name: default, fast.", None, shown="default")
    fast: bool = option(f"The preset fast. {FAST}", False)


def chosen_preset(options: StudyOptions, known: Iterable[str]) -> str:
    """The name of the preset that the options choose; raises `InputError` where the study has none of that name."""
    name = options.preset if options.preset is not None else "fast" if options.fast else "default"
    if options.fast and name != "fast":
        raise InputError(f"preset: got {name!r} beside --fast, which is the preset 'fast'; give one of the two")
    known = list(known)
    if name not in known:
        raise InputError(f"{not_one_of('preset', name, known)}{did_you_mean(name, known)}")
    return name


def preset_settings(options: StudyOptions, study: Any) -> Any:
    """The study's settings under the preset that the options choose, for their folder."""
    return study.presets[chosen_preset(options, study.presets)](str(options.output_dir))  # type: ignore[attr-defined]


def read_numbers(name: str, text: str) -> tuple[float, ...]:
    """Read numbers with commas between them; raises `InputError` that names the option."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name}: got {text!r}, expected numbers with commas between them, as in 0.5,1,2") from error


def read_names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(part.strip() for part in text.split(","))


def run_and_tell(
    command: str, study: Any, settings: Any, found: Callable[[Any], Sequence[str]] = lambda results: ()
) -> None:
    """Run a study under a progress bar, say what it found, line by line, and what to open."""
    from rich.console import Console

    from mallowspo.progress import progress_bar
    from mallowspo.studies.study import run_study

    with progress_bar(f"mallowspo {command}") as progress:
        results = run_study(study, settings, progress=progress)
    for line in found(results):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    folder = settings.output_dir
    end = f"Open {folder}/report.html in a browser; the numbers are in {folder}/results.json."
    Console().print(end, markup=False, highlight=False, soft_wrap=True)
