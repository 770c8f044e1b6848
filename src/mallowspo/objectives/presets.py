"""The named objectives: points on the axes score x reference x weight x link.

`OBJECTIVES` is the one list of them; the trainer, the command line, the documentation and the tests read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import MappingProxyType

from mallowspo.errors import InputError, not_one_of

__all__ = ["FORMS", "LINKS", "OBJECTIVES", "Objective", "resolve_objective"]

LINKS = MappingProxyType({"sigmoid": True, "kendall": True, "squared": False, "hinge": True})
"""Links and whether a margin means something there. The squared link is a regression onto the gap 1/(2 beta):
that target is its margin, and a second one would only be another name for beta."""

# What an objective reads, and the axes that mean something there: a pair; or a list of K ranked responses, as all its
# pairs, or as successive choices under Plackett-Luce or the Mallows model.
_SCORE_AXES = frozenset({"length_normalized", "reference_weight"})
_PAIR_AXES = _SCORE_AXES | {"link", "margin", "label_smoothing", "kendall_smoothing"}
FORMS = MappingProxyType(
    {
        "pair": _PAIR_AXES | {"sft_weight"},
        "pairs": _PAIR_AXES,
        "plackett_luce": _SCORE_AXES,
        "choices": _SCORE_AXES | {"rank_temperature"},
    }
)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One point on the axes; immutable.

    Attributes:
        link: How the scaled gap becomes a loss: one of `LINKS`.
        length_normalized: Score a response by its mean token log-probability instead of the sum.
        reference_weight: alpha in [0, 1], how much of the reference's score the gap subtracts.
        margin: gamma >= 0 in the unit of the gap (nats; per token where length-normalised). The gap
            subtracts (1 - alpha) * gamma.
        label_smoothing: epsilon in [0, 0.5), the probability that a label is flipped.
        sft_weight: factor >= 0 on the chosen response's negative mean token log-probability, added to the loss.
        dispersion: Where the dispersion index comes from by default, `none` for a weight of 1.
        kendall_smoothing: half-width of the blend around a gap of 0 (Kendall link only).
        form: What it reads: one of `FORMS`; all but `pair` read ranked lists.
        rank_temperature: tau > 0 of the relaxed ranks, in the unit of beta times the score (`choices` only).
        paper: Where the objective was published.
        equation: Which equation or section of it.
        summary: One line for tables.
    """

    link: str = "sigmoid"
    length_normalized: bool = False
    reference_weight: float = 1.0
    margin: float = 0.0
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    dispersion: str = "none"
    kendall_smoothing: float = 0.5
    form: str = "pair"
    rank_temperature: float = 0.25
    paper: str = ""
    equation: str = ""
    summary: str = ""

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise not_one_of("link", self.link, LINKS)
        if self.form not in FORMS:
            raise not_one_of("form", self.form, FORMS)
        if not 0.0 < self.rank_temperature < float("inf"):
            raise InputError(f"rank_temperature: got {self.rank_temperature}, expected a finite number > 0")
        _check_range("reference_weight", self.reference_weight, 0.0, 1.0)
        _check_range("margin", self.margin, 0.0, float("inf"))
        _check_range("sft_weight", self.sft_weight, 0.0, float("inf"))
        _check_range("kendall_smoothing", self.kendall_smoothing, 0.0, float("inf"))
        if not 0.0 <= self.label_smoothing < 0.5:
            raise InputError(
                f"label_smoothing: got {self.label_smoothing}, expected a number in [0, 0.5): at one half "
                "the two labels are equally likely and nothing can be learnt"
            )
        if self.margin and not LINKS[self.link]:
            raise InputError(
                f"margin: the {self.link} link has no margin (its target 1/(2 beta) is one); set margin to 0 "
                f"or choose a link among {_names_with_margin()}"
            )
        if self.margin and self.reference_weight == 1.0:
            raise InputError(
                f"margin: got {self.margin} with reference_weight 1, where it has no effect, because the gap "
                "subtracts (1 - reference_weight) * margin; lower reference_weight or set margin to 0"
            )

    @property
    def accepts_margin(self) -> bool:
        """Whether a margin of each pair changes this objective's loss."""
        return LINKS[self.link] and self.reference_weight < 1.0 and not self.reads_lists

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads the reference's scores."""
        return self.reference_weight > 0.0

    @property
    def reads_lists(self) -> bool:
        """Whether one example is a ranked list instead of a pair."""
        return self.form != "pair"

    @property
    def needs_lengths(self) -> bool:
        """Whether the loss reads the responses' lengths in tokens."""
        return self.length_normalized or self.sft_weight > 0.0


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or value == float("inf"):
        raise InputError(f"{name}: got {value}, expected a finite number in [{low:g}, {high:g}]")


def _names_with_margin() -> str:
    return ", ".join(name for name, margin in LINKS.items() if margin)


_MALLOWS = "Chen et al., MallowsPO, ICLR 2025, arXiv 2405.14953"
_DPO = "Rafailov et al., Direct Preference Optimization, NeurIPS 2023, arXiv 2305.18290"
_IPO = "Azar et al., A General Theoretical Paradigm, AISTATS 2024, arXiv 2310.12036"
_SIMPO = "Meng et al., SimPO, NeurIPS 2024, arXiv 2405.14734"
_HINGE = "Zhao et al., SLiC-HF, 2023, arXiv 2305.10425"
_FLIGNER = "Fligner and Verducci, Distance Based Ranking Models, JRSS B 1986"
_TULU = "Lambert et al., Tulu 3, 2024, arXiv 2411.15124"
_RAINBOW = "Zhao et al., RainbowPO, ICLR 2025, arXiv 2410.04203"

OBJECTIVES = MappingProxyType(
    {
        "mallows_theta": Objective(
            dispersion="entropy",
            paper=_MALLOWS,
            equation="MallowsPO-θ (Spearman's rho)",
            summary="DPO whose gap is multiplied by a dispersion weight per prompt",
        ),
        "mallows_phi": Objective(
            link="kendall",
            dispersion="entropy",
            paper=_MALLOWS,
            equation="MallowsPO-φ (Kendall's tau)",
            summary="the Mallows model's own pairwise probability as the link",
        ),
        "mallows_ipo": Objective(
            link="squared",
            length_normalized=True,
            dispersion="entropy",
            paper=_MALLOWS,
            equation="generalised ΨPO, squared",
            summary="IPO with the dispersion weight on the gap",
        ),
        "mallows_simpo": Objective(
            length_normalized=True,
            reference_weight=0.0,
            margin=0.5,
            dispersion="entropy",
            paper=_MALLOWS,
            equation="plug-in for SimPO",
            summary="SimPO with the dispersion weight on the gap",
        ),
        "mallows_norm": Objective(
            length_normalized=True,
            dispersion="entropy",
            paper=_RAINBOW,
            equation="length normalisation and the weight, reference kept whole",
            summary="dpo_norm with the dispersion weight on the gap",
        ),
        "rainbow": Objective(
            length_normalized=True,
            reference_weight=0.25,
            margin=0.1,
            dispersion="entropy",
            paper=_RAINBOW,
            equation="RainbowPO",
            summary="length-normalised, reference mixed in, margin, dispersion weight",
        ),
        "dpo": Objective(paper=_DPO, equation="Eq. 7", summary="TRL's loss_type sigmoid"),
        "dpo_norm": Objective(
            length_normalized=True,
            paper=_TULU,
            equation="section 5, length-normalised DPO",
            summary="TRL's loss_type sigmoid_norm: DPO on mean log-probabilities",
        ),
        "ipo": Objective(
            link="squared",
            length_normalized=True,
            paper=_IPO,
            equation="Eq. 17",
            summary="TRL's loss_type ipo (mean over tokens; length_normalized: false gives the paper's sum)",
        ),
        "simpo": Objective(
            length_normalized=True,
            reference_weight=0.0,
            margin=0.5,
            paper=_SIMPO,
            equation="Eq. 6",
            summary="no reference, mean log-probability, margin (in units of the gap: SimPO's gamma/beta)",
        ),
        "hinge": Objective(
            link="hinge", paper=_HINGE, equation="rank calibration loss", summary="TRL's loss_type hinge"
        ),
        "plackett_luce": Objective(
            form="plackett_luce",
            paper=_DPO,
            equation="appendix A.3",
            summary="DPO for ranked lists: successive choices, each a softmax of the implicit rewards",
        ),
        "mallows_list_theta": Objective(
            form="pairs",
            dispersion="entropy",
            paper=_MALLOWS,
            equation="MallowsPO-θ on all pairs of a list",
            summary="MallowsPO-θ summed over all pairs of a ranked list, one weight a list",
        ),
        "mallows_list_phi": Objective(
            form="choices",
            dispersion="entropy",
            paper=_FLIGNER,
            equation="repeated selection under Kendall's tau",
            summary="the Mallows model's own likelihood of a ranked list, ranks relaxed in the implicit rewards",
        ),
    }
)
"""Every named objective: a point on the axes."""

_AXES = tuple(
    field.name
    for field in fields(Objective)
    if field.name not in {"paper", "equation", "summary", "dispersion", "form"}
)


def resolve_objective(objective: str | Objective = "mallows_theta", **axes: object) -> Objective:
    """Take a preset and put other values on some of its axes.

    Args:
        objective: A name in `OBJECTIVES`, or an `Objective`.
        **axes: Values by axis name; None leaves the preset's value.

    Returns:
        The resulting point on the axes.

    Raises:
        InputError: An unknown preset or axis, a value outside its range, or an option that would change nothing.

    Example:
        >>> resolve_objective("dpo", label_smoothing=0.1).label_smoothing
        0.1
    """
    if isinstance(objective, str):
        if objective not in OBJECTIVES:
            raise not_one_of("objective", objective, OBJECTIVES)
        objective = OBJECTIVES[objective]
    unknown = sorted(set(axes) - set(_AXES))
    if unknown:
        raise not_one_of("axis of the objective", unknown[0], _AXES)
    given = {name: value for name, value in axes.items() if value is not None}
    for name in sorted(given.keys() - FORMS[objective.form]):
        raise InputError(
            f"{name}: this objective has no such axis (it has {', '.join(sorted(FORMS[objective.form]))})"
        )
    values = {field.name: getattr(objective, field.name) for field in fields(Objective)} | given
    if "kendall_smoothing" in given and values["link"] != "kendall":
        raise InputError(
            f"kendall_smoothing: the {values['link']} link has no blend to smooth; leave it out, or set link to "
            "kendall"
        )
    if "margin" not in given:
        # A preset's margin does not outlive the axes that gave it a meaning.
        if not LINKS.get(str(values["link"]), True) or values["reference_weight"] == 1.0:
            values["margin"] = 0.0
    return Objective(**values)
