"""The dispersion of each training row as columns of its dataset, from whichever source the configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mallowspo.data.annotations import read_votes
from mallowspo.dispersion import (
    ESTIMATORS,
    Calibration,
    IndexMap,
    ReferenceStatistics,
    calibrate,
    fit_map,
    mean_by_prompt,
    prompt_index,
    rankings_index,
    raw_from_phi,
    votes_index,
)
from mallowspo.dispersion.analysis import PromptOpinion, shrink_by_people, worth
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.shrinkage import ShrinkFit
from mallowspo.dispersion.votes_analysis import opinion_of_votes
from mallowspo.dispersion.votes_file import load_votes
from mallowspo.errors import InputError, told_as
from mallowspo.training.config import MallowsPOConfig

__all__ = [
    "RAW_COLUMN",
    "RawWeights",
    "batch_weights",
    "calibrate_rows",
    "columns_read",
    "fitted_shrink",
    "loss_weight_scale",
    "lost_column",
    "people_said",
    "raw_from_columns",
    "raw_from_reference",
    "unread_columns",
]

# Column of the raw weight, before phi* and the clip: those belong to the calibration, which a resumed run restores.
RAW_COLUMN = "dispersion_raw"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RawWeights:
    """What a reference pass says of the rows of a split."""

    index_n: Floats
    raw_n: Floats
    index_map: IndexMap  # as it was fitted on the training rows

    def calibrated(
        self,
        args: MallowsPOConfig,
        prompt_ids: Sequence[str],
        people: PromptOpinion | None,
        examples: NDArray[np.intp],
    ) -> Calibration:
        """The calibration that these rows, the training rows, give; `examples` are the places of one row of each."""
        return calibrate_rows(
            self.raw_n[examples],
            args,
            weights_given=False,
            fit=fitted_shrink(self.raw_n, prompt_ids, args, people, examples),
            floored=self.index_map.raw(self.index_n[examples])[1],
            index_map=self.index_map.to_dict(),
        )


def people_said(args: MallowsPOConfig) -> PromptOpinion | None:
    """What the file of votes says, where the configuration names one."""
    if args.dispersion_votes is None:
        return None
    try:
        return opinion_of_votes(load_votes(args.dispersion_votes), settings=DispersionSettings())
    except InputError as error:
        raise InputError(f"dispersion_votes: {str(error).removeprefix('dataset: ')}") from error


def fitted_shrink(
    raw_n: Floats,
    prompt_ids: Sequence[str],
    args: MallowsPOConfig,
    people: PromptOpinion | None,
    examples: NDArray[np.intp],
    *,
    mean: float | None = None,
) -> ShrinkFit | None:
    """What people's votes on some of the prompts say of the raw weights, where `dispersion_shrink` asks for it."""
    if args.resolved_shrink != "votes":
        return None
    assert people is not None
    with told_as({"votes": "dispersion_votes"}):
        return shrink_by_people(raw_n[examples], [prompt_ids[place] for place in examples], people, mean=mean)


def raw_from_reference(
    statistics: ReferenceStatistics,
    prompt_ids: Sequence[str],
    args: MallowsPOConfig,
    *,
    calibration: Calibration | None = None,
    people: PromptOpinion | None = None,
    examples: NDArray[np.intp],
) -> RawWeights:
    """Index and raw weights of a split; the map of the training rows' calibration, where there is one, serves it.

    A map is fitted on `examples`, the places of one row of each, so that a long list counts once.
    """
    index_n = ESTIMATORS[args.dispersion_estimator](statistics)
    if args.dispersion_per == "prompt":
        index_n = prompt_index(args.dispersion_estimator, index_n, prompt_ids)
    if calibration is not None and calibration.index_map is not None:
        fitted = IndexMap.from_dict(calibration.index_map)
    else:
        fitted = fit_map(
            args.dispersion_map,
            index_n[examples],
            estimator=args.dispersion_estimator,
            vocab_size=statistics.vocab_size,
            alternatives=args.resolved_alternatives,
            spread=args.resolved_spread,
            **({} if people is None else people.by_row([prompt_ids[place] for place in examples])),
        )
    return RawWeights(index_n, fitted.raw(index_n)[0], fitted)


def raw_from_columns(dataset: Any, args: MallowsPOConfig, *, name: str) -> Floats:
    """Raw weights, shape (N,), from columns that the user gave: votes, rankings, phi or the weight itself."""
    source, columns = args.resolved_dispersion, set(dataset.column_names)
    if source == "column":
        given = sorted({"weight", "dispersion"} & columns)
        if len(given) != 1:
            raise InputError(
                f"dispersion: column needs either a column 'dispersion' (phi in (0, 1]) or a column 'weight' "
                f"(w >= 0) in the {name} data, not both; found {given or 'neither'}"
            )
        values = np.asarray(dataset[given[0]], np.float64)
        raw_n = raw_from_phi(values) if given[0] == "dispersion" else values
        if args.dispersion_per == "prompt":
            mean_n = mean_by_prompt(raw_n, dataset["prompt_id"])
            if not np.allclose(mean_n, raw_n, rtol=1e-9, atol=1e-12):
                row = int(np.argmax(np.abs(mean_n - raw_n)))
                raise InputError(
                    f"dispersion_per: prompt, but rows of one prompt carry different values in {given[0]!r} (row "
                    f"{dataset['row_index'][row] + 1:,} of the {name} data); set dispersion_per: pair"
                )
        return raw_n
    if source not in columns:
        raise InputError(f"dispersion: {source} needs a column {source!r} in the {name} data; found {sorted(columns)}")
    if source == "votes":
        phi_n = votes_index([read_votes(votes) for votes in dataset["votes"]]).phi_n
    else:  # shared ranks are orders not given, as `mallowspo dispersion` reads them
        phi_n = rankings_index(dataset["rankings"], ties="unordered").phi_n
    raw_n = raw_from_phi(phi_n)
    return mean_by_prompt(raw_n, dataset["prompt_id"]) if args.dispersion_per == "prompt" else raw_n


def calibrate_rows(
    raw_n: Floats,
    args: MallowsPOConfig,
    *,
    weights_given: bool,
    fit: ShrinkFit | None = None,
    floored: int = 0,
    index_map: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit phi* on the training rows as the configuration says; weights that were given `auto` leaves as they are.

    With a shrink factor or a power they are no longer what was given: their mean is made 1 then.
    """
    scale = args.resolved_scale
    given = args.resolved_shrink
    shrink = fit.shrink.mean if fit is not None else given if isinstance(given, float) else None
    as_given = weights_given and shrink is None and args.dispersion_power == 1
    entropy = args.reads_entropy
    calibration = calibrate(
        raw_n,
        source=args.resolved_dispersion,
        scale=1.0 if as_given and scale == "auto" else scale,
        shrink=shrink,
        power=args.dispersion_power,
        clip=args.resolved_clip,
        per=args.dispersion_per,
        estimator=args.dispersion_estimator if entropy else None,
        map=args.dispersion_map if entropy else None,
        index_map=index_map,
        floored=floored,
    )
    return replace(calibration, worth=worth(calibration.weight(raw_n), raw_n, fit))


def loss_weight_scale(dataset: Any, examples: NDArray[np.intp]) -> float:
    """What makes the mean of the column `loss_weight` 1 over the training examples; 1 where there is none."""
    if "loss_weight" not in (getattr(dataset, "column_names", None) or ()):
        return 1.0
    mean = float(np.asarray(dataset["loss_weight"][:], np.float64)[examples].mean())
    if mean <= 0:
        raise InputError("column 'loss_weight' in the train data: all values are 0, so nothing would be learnt")
    return 1.0 / mean


def batch_weights(calibration: Calibration, inputs: Any, like: Tensor) -> Tensor:
    """Dispersion weights of a batch, without gradient."""
    raw_b = inputs.get(RAW_COLUMN)
    if raw_b is None:
        raise lost_column(RAW_COLUMN)
    return cast(Tensor, calibration.weight(raw_b.to(like)).detach())


def lost_column(name: str) -> InputError:
    """The error for a column that a user's own collator has not passed on."""
    return InputError(
        f"the batch has no column {name!r}: a custom data_collator must pass our columns on; build it on "
        "mallowspo.data.collation.PreferenceCollator"
    )


_READ = {"column": ("weight", "dispersion"), "votes": ("votes",), "rankings": ("rankings",)}


def columns_read(args: MallowsPOConfig) -> tuple[str, ...]:
    """Columns about people's agreement that this configuration reads."""
    return _READ.get(args.resolved_dispersion, ())


def unread_columns(dataset: Any, args: MallowsPOConfig) -> list[str]:
    """Columns about people's agreement that are there and that this configuration does not read."""
    every = {name for names in _READ.values() for name in names}
    return sorted((every - set(columns_read(args))) & set(dataset.column_names or ()))
