"""The axes refuse what means nothing, and every preset is a whole entry."""

import pytest

from mallowspo.errors import InputError
from mallowspo.objectives import LINKS, OBJECTIVES, Objective, resolve_objective


def test_names_are_those_that_people_build_on():
    assert list(OBJECTIVES) == [
        "mallows_theta", "mallows_phi", "mallows_ipo", "mallows_simpo", "mallows_norm", "rainbow", "dpo", "dpo_norm",
        "ipo", "simpo", "hinge", "plackett_luce", "mallows_list_theta", "mallows_list_phi",
    ]  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_preset_says_where_it_comes_from(name):
    preset = OBJECTIVES[name]
    assert preset.paper and preset.equation and preset.summary
    assert (preset.dispersion != "none") == (name.startswith("mallows") or name == "rainbow")


def test_an_axis_overrides_the_preset_and_the_rest_stays():
    changed = resolve_objective("simpo", margin=0.2)
    assert changed.margin == 0.2 and changed.length_normalized and changed.reference_weight == 0.0


def test_a_presets_margin_goes_with_the_axis_that_gave_it_a_meaning():
    assert resolve_objective("simpo", reference_weight=1.0).margin == 0.0
    assert resolve_objective("simpo", link="squared").margin == 0.0


@pytest.mark.parametrize(
    ("objective", "axes", "said"),
    [
        ("dop", {}, "objective: got 'dop', expected one of 'mallows_theta'"),
        ("dpo", {"link": "probit"}, "link: got 'probit', expected one of 'sigmoid', 'kendall'"),
        ("dpo", {"margin": 0.5}, "with reference_weight 1, where it has no effect"),
        ("simpo", {"link": "squared", "margin": 0.5}, "the squared link has no margin"),
        ("dpo", {"kendall_smoothing": 0.1}, "the sigmoid link has no blend"),
        ("mallows_phi", {"kendall_smoothing": -0.1}, "kendall_smoothing: got -0.1"),
        ("dpo", {"label_smoothing": 0.5}, r"label_smoothing: got 0.5, expected a number in \[0, 0.5\)"),
        ("dpo", {"reference_weight": 1.5}, "reference_weight: got 1.5"),
        ("dpo", {"sft_weight": float("nan")}, "sft_weight: got nan"),
        ("dpo", {"rank_temperature": 0.5}, "rank_temperature"),
        ("plackett_luce", {"link": "hinge"}, "link"),
        ("plackett_luce", {"label_smoothing": 0.1}, "label_smoothing"),
        ("mallows_list_phi", {"margin": 0.1}, "margin"),
        ("mallows_list_phi", {"rank_temperature": 0.0}, "rank_temperature"),
        ("mallows_list_theta", {"sft_weight": 1.0}, "sft_weight"),
        ("mallows_list_theta", {"rank_temperature": 0.5}, "rank_temperature"),
        ("dpo", {"gamma": 1.0}, "axis of the objective: got 'gamma'"),
    ],
)
def test_what_would_change_nothing_or_is_unknown_is_refused(objective, axes, said):
    with pytest.raises(InputError, match=said):
        resolve_objective(objective, **axes)


def test_an_objective_cannot_be_changed():
    with pytest.raises(AttributeError):
        OBJECTIVES["dpo"].link = "hinge"


def test_links_know_their_margins():
    for link, has_margin in LINKS.items():
        objective = Objective(link=link, reference_weight=0.0)
        assert objective.accepts_margin is has_margin
