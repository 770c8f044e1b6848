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
    people_only: bool = option("Hold the model against people, and leave out the other three parts.", False)
    instruction: tuple[str, ...] = option(
        "With --people_only: NAME=TEXT before each prompt of these votes, such as a task that the file does not "
        "state; may be repeated.",
        (),
    )
    sampled_prompts: int = option(
        "With --people_only: prompts of each file that the model answers 16 times, for indexes of sampled answers.",
        0,
        low=0,
    )
    trust_remote_code: bool = option("Run code that comes with the model.", False)


def estimator(options: EstimatorOptions) -> None:
    """Run the study."""
    from mallowspo.studies.estimator.study import ESTIMATOR

    if options.people_only:
        _people(options)
        return
    for name in ("instruction", "sampled_prompts"):
        if getattr(options, name):
            raise InputError(f"{name}: it is for --people_only; add that, or leave it out")
    given: dict[str, Any] = {
        "workers": options.workers,
        "trust_remote_code": options.trust_remote_code,
        "model": options.model_name_or_path,
        "data": _named("votes", options.votes, "FILE, as in PandaLM=pandalm.json"),
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


def _people(options: EstimatorOptions) -> None:
    """Run the part on people alone; an option of the other parts says nothing to it."""
    from mallowspo.studies.estimator.people import PEOPLE, PeopleSettings

    for name in ("seeds", "conditions", "downstream", "fast"):
        if getattr(options, name) != getattr(EstimatorOptions, name):
            raise InputError(f"{name}: it says nothing to --people_only; leave out one of the two")
    if options.model_name_or_path is None or not options.votes:
        raise InputError("people_only: it needs --model_name_or_path and --votes NAME=FILE")
    settings = PeopleSettings(
        model=options.model_name_or_path,
        data=_named("votes", options.votes, "FILE, as in PandaLM=pandalm.json"),
        instructions=_named("instruction", options.instruction, "TEXT, as in WMT23='Translate into German: '"),
        sampled_prompts=options.sampled_prompts,
        output_dir=str(options.output_dir),
        trust_remote_code=options.trust_remote_code,
    )
    run_and_tell("experiment estimator", PEOPLE, settings)


def _named(option: str, texts: tuple[str, ...], wanted: str) -> dict[str, str]:
    """Read NAME=VALUE."""
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise InputError(f"{option}: got {text!r}, expected NAME={wanted}")
        found[name] = value
    return found
