"""Which columns of a table of rankings are items: by their names, and by what makes rankings of the rows."""

import numpy as np
import pytest

from mallowspo.dispersion import rankings_index
from mallowspo.dispersion.ranking_columns import names_things
from mallowspo.dispersion.rankings_file import load_rankings, load_truth

FRUIT = ["apple", "pear", "plum", "kiwi"]


def table(path, columns):
    rows = zip(*columns.values(), strict=True)
    path.write_text(
        "\n".join([",".join(columns), *(",".join("" if v is None else str(v) for v in row) for row in rows)])
    )
    return path


def ranked(rng, names, people=30):
    """Columns of random rankings, one list an item."""
    return dict(zip(names, np.array([rng.permutation(len(names)) + 1 for _ in range(people)]).T.tolist(), strict=True))


@pytest.mark.parametrize(
    "name",
    # Numbers of people, of rows and of sittings, as survey tools and spreadsheets name them.
    "voterid userid participantId participantID ResponseId workerid WorkerId annotatorid caseid case_id caseID pid "
    "respondent.id ID Id uuid HITId AssignmentId PROLIFIC_PID Nr Nr. no No number nummer num # № n° seq idx index "
    "rownum row_number rowNum serial rater_number user_no case_no lineno respnum subj subject_nr ballot hit batch "
    "session session_id wave gender age_group agegroup_id AgeGroup rater_name userName started_at StartTime "
    "timestamp key".split()
    + ["Participant Id", "Response ID", "Age Group", "Unnamed: 0", "row no"],
)
def test_a_number_that_names_somebody_is_no_item(tmp_path, rng, name):
    items = ranked(rng, FRUIT)
    plain = load_rankings(table(tmp_path / "plain.csv", items))
    found = load_rankings(table(tmp_path / "r.csv", {name: [i % 4 + 1 for i in range(30)]} | items))
    assert names_things(name) and found.items == [FRUIT]
    assert rankings_index(found.ranks).phi_n[0] == rankings_index(plain.ranks).phi_n[0]
    said = [note for note in found.notes if "apple, pear, plum, kiwi" in note]
    assert len(said) == 1 and name in said[0].split("kiwi")[1]


@pytest.mark.parametrize(
    "name",
    "Madrid grid liquid hybrid David COVID Sigrid kid casino piano nonumber volcano Group-A group_b Batch1 "
    "wave2 prompt_1 Rater_A user-interface keyboard update runtime 时间 Идея".split()
    + ["No. 5", "Group A", "Wave 2", "Prime time", "Item 1", "1", "not sure"],
)
def test_an_item_may_end_in_such_letters(tmp_path, rng, name):
    assert not names_things(name)
    items = ranked(rng, [*FRUIT, name])
    assert load_rankings(table(tmp_path / "r.csv", items)).items == [[*FRUIT, name]]


@pytest.mark.parametrize("names", [["yes", "no", "maybe"], ["fig", "date", "apple"], ["time", "date", "place", "age"]])
@pytest.mark.parametrize("beside", [{}, {"voterid": list(range(1, 31))}])
def test_an_item_with_the_name_of_a_number_is_known_by_its_ranks(tmp_path, rng, names, beside):
    path = table(tmp_path / "r.csv", beside | ranked(rng, names))
    assert load_rankings(path).items == [names]


def test_so_is_one_with_shared_ranks(tmp_path):
    # Without "no" the second row would be 3 1, of two items.
    path = table(tmp_path / "r.csv", {"rater": [7, 8, 9], "yes": [1, 3, 1], "no": [2, 2, 2], "maybe": [3, 1, 2]})
    assert load_rankings(path).ranks[0].tolist() == [[1, 2, 3], [3, 2, 1], [1, 2, 2]]


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize(
    "numbers",
    [
        [i % 4 + 1 for i in range(30)],
        [i % 5 + 1 for i in range(30)],
        list(range(1, 31)),
        [20 + i for i in range(30)],
        [1] * 30,
        [0, 1] * 15,
        [0.25] * 30,
        [-3, 7] * 15,
    ],
    ids=str,
)
def test_a_column_without_which_every_row_is_a_ranking_is_no_item(tmp_path, rng, numbers, place):
    columns = list(ranked(rng, FRUIT).items())
    columns.insert(place, ("score", numbers))
    found = load_rankings(table(tmp_path / "r.csv", dict(columns)))
    assert found.items == [FRUIT] and "score" in found.notes[0]
    # Two at the edge, and one beside a top 2.
    more = [
        ("points", [i % 3 for i in range(30)]),
        *(pair for pair in columns if pair[0] != "score"),
        ("score", numbers),
    ]
    assert load_rankings(table(tmp_path / "m.csv", dict(more))).items == [FRUIT]
    if min(numbers) < 1 or min(numbers) > 4:
        top = [(name, [v if v in (1, 2) and name != "score" else None for v in said]) for name, said in columns]
        top = [(name, numbers if name == "score" else said) for name, said in top]
        assert load_rankings(table(tmp_path / "t.csv", dict(top))).items == [FRUIT]


def test_items_stay_items_where_ranks_leave_a_doubt(tmp_path, rng):
    whole = ranked(rng, FRUIT)
    for name, last in {
        "always_last": [5] * 30,
        "last_or_shared": [5] * 20 + [4] * 10,
        "never_ranked": [None] * 30,
        "seldom_ranked": [None] * 29 + [5],
    }.items():
        assert load_rankings(table(tmp_path / "r.csv", whole | {name: last})).items == [[*FRUIT, name]]
    # Two people who leave some order open.
    shared = {"a": [1, 1], "b": [2, 2], "c": [3, 3], "d": [3, 2]}
    assert load_rankings(table(tmp_path / "s.csv", shared)).items == [list("abcd")]
    # Everybody shares a rank, each another one.
    rows = [[1, 1, 2, 3], [1, 2, 2, 3], [1, 2, 3, 3], [2, 1, 1, 3], [3, 1, 2, 1], [2, 2, 1, 3]]
    assert load_rankings(table(tmp_path / "e.csv", dict(zip("abcd", zip(*rows, strict=True), strict=True)))).items == [
        list("abcd")
    ]


def test_a_true_ranking_has_the_same_items(tmp_path):
    path = table(tmp_path / "t.csv", {"id": [3], "fig": [2], "date": [1], "plum": [3]})
    assert load_truth(path, items=3).tolist() == [2, 1, 3]
