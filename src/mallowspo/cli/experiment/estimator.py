"""`mallowspo experiment estimator`: which dispersion index survives, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mallowspo.cli.experiment.shared import run_and_tell

__all__ = ["estimator"]

_OutputDir = Annotated[
    Path, typer.Option("--output_dir", help="Where everything goes; the same folder goes on where a run stopped.")
]
_Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Worlds drawn; more make the intervals narrower.")]
_Conditions = Annotated[
    str | None,
    typer.Option("--conditions", help="Conditions with commas between them, a+b for two at once [default: all]."),
]
_Downstream = Annotated[
    str | None,
    typer.Option(
        "--downstream", help="Conditions in which policies are trained; 'none' for none [default: two of them]."
    ),
]
_Model = Annotated[
    str | None,
    typer.Option("--model_name_or_path", help="A causal model whose indexes are held against people; needs --votes."),
]
_Votes = Annotated[
    list[str] | None, typer.Option("--votes", help="NAME=FILE of people's votes, for the model; may be repeated.")
]
_Trust = Annotated[bool, typer.Option("--trust_remote_code", help="Run code that comes with the model.")]
_Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes side by side; 0: this one.")]
_Fast = Annotated[bool, typer.Option("--fast", help="A run of seconds that shows every part and resolves nothing.")]


def estimator(
    *,
    output_dir: _OutputDir = Path("output/estimator"),
    seeds: _Seeds = 8,
    conditions: _Conditions = None,
    downstream: _Downstream = None,
    model_name_or_path: _Model = None,
    votes: _Votes = None,
    trust_remote_code: _Trust = False,
    workers: _Workers = 0,
    fast: _Fast = False,
) -> None:
    """Judge every dispersion index in a world of known truth, under conditions that mislead it.

    Four parts: the paper's check, ranks and spread under stress, what an index is worth in training, and people.
    """
    from dataclasses import replace
    from typing import Any

    from mallowspo.studies.estimator.study import ESTIMATOR

    given: dict[str, Any] = {
        "workers": workers,
        "trust_remote_code": trust_remote_code,
        "model": model_name_or_path,
        "data": _files(votes or []),
    }
    if conditions is not None:
        given["conditions"] = _names(conditions)
    if downstream is not None:
        given["downstream_conditions"] = () if downstream == "none" else _names(downstream)
    if not fast:
        given["seeds"] = tuple(range(1, seeds + 1))
    start = ESTIMATOR.presets["fast" if fast else "default"](str(output_dir))
    run_and_tell("experiment estimator", ESTIMATOR, replace(start, **given))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _files(votes: list[str]) -> dict[str, str]:
    """Read NAME=FILE."""
    from mallowspo.errors import InputError

    found = {}
    for text in votes:
        name, sign, path = text.partition("=")
        if not sign or not name or not path:
            raise InputError(f"votes: got {text!r}, expected NAME=FILE, as in PandaLM=pandalm.json")
        found[name] = path
    return found
