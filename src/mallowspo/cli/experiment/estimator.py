"""`mallowspo experiment estimator`: which dispersion index survives, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mallowspo.cli.experiment.shared import StudyOptions, chosen_preset, preset_settings, read_names, run_and_tell
from mallowspo.cli.options import option
from mallowspo.errors import InputError

__all__ = ["EstimatorOptions", "estimator"]


@dataclass(frozen=True, kw_only=True)
class EstimatorOptions(StudyOptions):
    """Judge every dispersion index in a world of known truth, under conditions that mislead it.

    Four parts: the paper's check, ranks and spread under stress, what an index is worth in training, and people.
    """

    output_dir: Path = option(
        "Where everything goes; the same folder goes on where a run stopped.",
        Path("output/estimator"),
        group="The study",
    )
    seeds: int = option("Worlds drawn; more make the intervals narrower.", 8, low=1)
    conditions: str | None = option(
        "Conditions with commas between them, a+b for two at once.", None, shown="all", commas=True
    )
    downstream: str | None = option(
        "Conditions in which policies are trained; 'none' for none.", None, shown="two of them", commas=True
    )
    model_name_or_path: str | None = option(
        "A causal model whose indexes are compared with people; needs --votes.", None, group="A model and people"
    )
    votes: tuple[str, ...] = option("NAME=FILE of people's votes, for the model; may be repeated.", ())
    trust_remote_code: bool = option("Run code that comes with the model.", False)


def estimator(options: EstimatorOptions) -> None:
    """Run the study."""
    from mallowspo.studies.estimator.study import ESTIMATOR

    given: dict[str, Any] = {
        "workers": options.workers,
        "trust_remote_code": options.trust_remote_code,
        "model": options.model_name_or_path,
        "data": _files(options.votes),
    }
    if options.conditions is not None:
        given["conditions"] = _names(options.conditions)
    if options.downstream is not None:
        given["downstream_conditions"] = () if options.downstream == "none" else _names(options.downstream)
    if chosen_preset(options, ESTIMATOR.presets) != "fast":
        given["seeds"] = tuple(range(1, options.seeds + 1))
    start = preset_settings(options, ESTIMATOR)
    run_and_tell("experiment estimator", ESTIMATOR, replace(start, **given))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in read_names(text) if name)


def _files(votes: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=FILE."""
    found = {}
    for text in votes:
        name, sign, path = text.partition("=")
        if not sign or not name or not path:
            raise InputError(f"votes: got {text!r}, expected NAME=FILE, as in PandaLM=pandalm.json")
        found[name] = path
    return found
