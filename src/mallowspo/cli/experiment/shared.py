"""What the commands of all studies do alike: read lists of numbers, run a study, say where its page lies."""

from __future__ import annotations

from typing import Any

__all__ = ["read_numbers", "run_and_tell"]


def read_numbers(option: str, text: str) -> tuple[float, ...]:
    """Read numbers with commas between them; raises `InputError` that names the option."""
    from mallowspo.errors import InputError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{option}: got {text!r}, expected numbers with commas between them, as in 0.5,1,2"
        ) from error


def run_and_tell(command: str, study: Any, settings: Any) -> None:
    """Run a study under a progress bar and say what to open."""
    from rich.console import Console

    from mallowspo.progress import progress_bar
    from mallowspo.studies.study import run_study

    with progress_bar(f"mallowspo {command}") as progress:
        run_study(study, settings, progress=progress)
    folder = settings.output_dir
    end = f"Open {folder}/report.html in a browser; the numbers are in {folder}/results.json."
    Console().print(end, markup=False, highlight=False, soft_wrap=True)
