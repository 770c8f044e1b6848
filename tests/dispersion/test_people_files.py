"""Reading votes and rankings: the general forms by hand, the public data by what is known of them."""

import datetime
import itertools
import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from mallowspo.data import validate_rows
from mallowspo.data.records import prompt_id_of_text
from mallowspo.dispersion import rankings_index, votes_index
from mallowspo.dispersion.rankings_file import load_rankings, load_truth
from mallowspo.dispersion.votes_file import load_votes
from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel, kendall_tau


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


PAIR = {"prompt": "The sky is", "chosen": " blue", "rejected": " green"}


def test_votes_of_preference_rows(tmp_path):
    path = lines(
        tmp_path / "v.jsonl",
        [
            {**PAIR, "votes": [3, 1]},
            {**PAIR, "chosen": " red", "votes": None},
            {**PAIR, "prompt": "Grass is", "votes": [2, 1, 4]},
        ],
    )
    rows = load_votes(path)
    assert rows.votes.tolist() == [[3, 1, 0], [0, 0, 0], [2, 1, 4]]
    assert rows.prompt_ids == [prompt_id_of_text("The sky is")] * 2 + [prompt_id_of_text("Grass is")]
    assert rows.responses[1] == (" red", " green") and rows.row_index.tolist() == [0, 1, 2]
    assert votes_index(rows.votes).voted_n.tolist() == [True, False, True]


def test_votes_of_annotators_and_of_scores(tmp_path):
    pandalm = {"instruction": "Do", "input": "it", "response1": "a", "response2": "b"}
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{**pandalm, "annotator1": 1, "annotator2": 2, "annotator3": 0}]))
    rows = load_votes(path)
    assert rows.votes.tolist() == [[1, 1, 1]] and rows.prompts == ["Do\n\nit"] and rows.responses == [("a", "b")]
    penalty = {"A": {"r1": 0.0, "r2": 5.0}, "B": {"r1": 1.0, "r2": 5.0}, "C": {"r1": 0.0, "r2": 5.0}}
    outputs = {"A": "eins", "B": "zwei", "C": "eins"}  # C says what A says: no pair
    rows = load_votes(lines(tmp_path / "w.jsonl", [{"source": "one", "outputs": outputs, "penalty": penalty}]))
    assert rows.votes.tolist() == [[1, 0, 1]] and rows.responses == [("eins", "zwei")]


def test_a_missing_file_and_a_missing_column(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        load_votes(tmp_path / "none.jsonl")
    path = lines(tmp_path / "v.jsonl", [{**PAIR, "votes": [1, 2]}])
    with pytest.raises(InputError, match="no column 'ballots'"):
        load_votes(path, column="ballots")
    with pytest.raises(InputError, match="no column 'order'"):
        load_rankings(path, column="order")


def test_rankings_as_lists_and_as_a_table(tmp_path):
    rows = [
        {"prompt": "p", "responses": ["x", "y", "z"], "rankings": [[1, 2, 3], [2, 1, 3]]},
        {"prompt": "q", "responses": ["x", "y", "z"], "rankings": [[1, 1, 3], [3, 1, 2], [1, 2, 3]]},
    ]
    found = load_rankings(lines(tmp_path / "r.jsonl", rows))
    assert [len(ranks) for ranks in found.ranks] == [2, 3] and found.tied
    assert found.items[0] == ["x", "y", "z"] and found.prompt_ids[1] == prompt_id_of_text("q")
    table = tmp_path / "r.csv"
    table.write_text("rater,prompt,x,y\nann,p,1,2\nbob,q,2,1\ncid,p,2,1\ndan,q,2,1\n")
    found = load_rankings(table)
    assert found.prompts == ["p", "q"] and found.ranks[1].tolist() == [[2, 1], [2, 1]] and not found.tied


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("a,b\n1,2\n", "has 1 ranking; people can only differ"),
        ("prompt,a,b\np,1,2\np,2,1\nq,1,2\n", "prompt 2 has 1 ranking"),
        ("a,b,c,d\n1,2,not shown,not shown\nnot shown,not shown,1,2\n", "no two items that two people ranked"),
        ("prompt,a,b,c\np,1,2,3\np,2,1,3\nq,1,2,not shown\nq,not shown,1,2\n", "prompt 2 has no two items"),
        ("a,b\n1,2\n2,4\n", "ranking 2 is \\[2, 4\\], expected ranks from 1"),
        ("a,b\n1,2\n2,\n", "blank for what was not ranked"),
        ("a,b\nbest,worst\nworst,best\n", "the column 'a' holds words"),
        ("a\n1\n1\n", "1 columns of ranks"),
        ("prompt,a,b\np,1,2\np,2,1\n,1,2\n,2,1\n", "row 3 has nothing in 'prompt'"),
        ([{"prompt": text, "a": 1, "b": 2} for text in ("p", "p", None, None)], "row 3 has nothing"),
        ("a,b,c\n1,2,n/k\n1,2,3\n", "'c'"),  # ranks and words: no column to pass over
        ([{"a": 1, "b": 10**400}, {"a": 2, "b": 1}], "column 'b'"),
        ([[1, 2, 3], [1, 2]], "different items \\(2 and 3 ranks\\)"),
        ([], "expected a list of rankings"),
        (None, "expected a list of rankings"),
        ("oops", "no list of rankings"),
        ([[1], [1]], "expected at least 2"),
        *(
            ([[1, 2, 3], ranking], "'not shown'")
            for ranking in (["not shown"] * 3, ["not shown", None, None], ["not shown", 2, 3], [1, 2, "unseen"])
        ),
        ([[1, 2, 3], [True, 2, 3]], "'not shown'"),
        # As text, so that the digits reach the reader.
        *(
            (json.dumps(rankings), "row 1")
            for rankings in ([[1, 10**400], [1, 2]], [[[1], [2]], [[2], [1]]], ["12", "21"], [[[1, 2]]])
        ),
    ],
)
def test_what_is_no_rankings_is_refused(tmp_path, given, match):
    path = tmp_path / "r.csv"
    if isinstance(given, str) and "\n" in given:
        path.write_text(given)
    else:
        table = isinstance(given, list) and given and isinstance(given[0], dict)
        path = lines(tmp_path / "r.jsonl", given if table else [{"prompt": "p", "rankings": given}])
    with pytest.raises(InputError, match=match):
        load_rankings(path)


def test_counted_ballots_are_those_written_out(tmp_path):
    counted, written = tmp_path / "c.csv", tmp_path / "w.csv"
    counted.write_text("ID,Voter_Id,x,y,z,count\n7,1,1,2,3,30\n8,2,2,1,3,12\n9,3,1,3,2,5\n")
    written.write_text("x,y,z\n" + "1,2,3\n" * 30 + "2,1,3\n" * 12 + "1,3,2\n" * 5)
    one, other = load_rankings(counted), load_rankings(written)
    assert one.items == [["x", "y", "z"]]
    a = rankings_index(one.ranks, ties=one.ties, counts=one.counts)
    b = rankings_index(other.ranks, ties=other.ties)
    for name in ("phi_n", "phi_low_n", "phi_high_n", "mean_distance_n", "rankings_n"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("top", [1, 2, 3])
def test_a_top_k_gives_the_dispersion_of_the_whole_rankings(tmp_path, top, rng):
    ranks = MallowsModel([1, 2, 3, 4, 5], 0.3).sample(3000, rng)
    text = "\n".join(",".join(str(r) if r <= top else "" for r in row) for row in ranks)
    (tmp_path / "t.csv").write_text("a,b,c,d,e\n" + text + "\n")
    found = load_rankings(tmp_path / "t.csv")
    assert any("top k" in note for note in found.notes)
    assert rankings_index(found.ranks, ties=found.ties).phi_n[0] == pytest.approx(0.3, abs=0.03)


def parquet(path, columns):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def fitted_by_enumeration(people, center):
    """The phi that maximises the likelihood of orders among the shown, each summed over all full rankings."""
    n = len(center)
    every = np.array(list(itertools.permutations(range(1, n + 1))))
    agrees = [np.all([every[:, a] < every[:, b] for a, b in pairs], axis=0) for pairs in people]

    def cost(phi):
        chance = np.exp(MallowsModel(center, phi).log_prob(every))
        return -sum(np.log(chance[keeps].sum()) for keeps in agrees)

    return minimize_scalar(cost, bounds=(1e-6, 1), method="bounded", options={"xatol": 1e-10}).x


@pytest.mark.parametrize("form", ["table", "lists", "parquet"])
def test_an_item_that_was_not_shown_says_nothing(tmp_path, form):
    # Four items a b c d. A blank lies below all that the person ranked, and "not shown" is in no order.
    given = [
        [1, 2, "not shown", 3],
        [2, 1, 3, 4],
        ["Not shown", 1, 2, None],
        [1, None, "not shown", None],
        ["not shown", "not shown", 1, 2],
        [1, "not shown", "not shown", "not shown"],
    ]
    said = [
        [(0, 1), (1, 3)],
        [(1, 0), (0, 2), (2, 3)],
        [(1, 2), (2, 3)],
        [(0, 1), (0, 3)],
        [(2, 3)],
        [],
    ]
    if form == "lists":
        path = lines(tmp_path / "r.jsonl", [{"prompt": "p", "rankings": given}])
    elif form == "table":
        path = tmp_path / "r.csv"
        cells = [",".join("" if value is None else str(value) for value in row) for row in given]
        path.write_text("a,b,c,d\n" + "\n".join(cells) + "\n")
    else:
        columns = {name: [None if row[i] is None else str(row[i]) for row in given] for i, name in enumerate("abcd")}
        path = parquet(tmp_path / "r.parquet", columns)
    found = load_rankings(path)
    assert np.isnan(found.ranks[0]).tolist() == [["not shown" == str(v).lower() for v in row] for row in given]
    assert sum("not shown" in note for note in found.notes) == 2
    index = rankings_index(found.ranks, ties=found.ties)
    assert index.likelihoods == ("gaps",)
    expected = fitted_by_enumeration(said, index.centers[0])
    assert index.phi_n[0] == pytest.approx(expected, abs=1e-5) and 0.05 < expected < 0.95


def test_people_who_saw_three_of_five_items_have_the_dispersion_of_all(tmp_path, rng):
    full = MallowsModel([1, 2, 3, 4, 5], 0.4).sample(1500, rng)
    text = []
    for row in full:
        shown = rng.choice(5, 3, replace=False)
        place = {int(item): rank for rank, item in enumerate(shown[np.argsort(row[shown])], 1)}
        text.append(",".join(str(place.get(item, "not shown")) for item in range(5)))
    (tmp_path / "r.csv").write_text("a,b,c,d,e\n" + "\n".join(text))
    found = load_rankings(tmp_path / "r.csv")
    index = rankings_index(found.ranks, ties=found.ties)
    assert index.phi_n[0] == pytest.approx(0.4, abs=0.04) and index.centers[0].tolist() == [1, 2, 3, 4, 5]
    assert index.phi_low_n[0] < 0.4 < index.phi_high_n[0]


@pytest.mark.parametrize(
    "other",
    [
        [{"x": 1}, {"x": 2}],
        [["x"], []],
        [True, False],
        [datetime.date(2026, 1, 1)] * 2,
        [datetime.datetime(2026, 1, 1)] * 2,
        [datetime.timedelta(1)] * 2,
        [b"x", b"y"],
        ["DE", "FR"],
    ],
)
def test_a_column_that_holds_no_ranks_cannot_stop_a_table(tmp_path, other):
    path = parquet(tmp_path / "r.parquet", {"more": other, "x": [1, 2], "y": [2, 1]})
    found = load_rankings(path)
    assert found.items == [["x", "y"]] and found.ranks[0].tolist() == [[1, 2], [2, 1]]
    assert any("more" in note for note in found.notes)
    # Alone beside one column of ranks it is what is wrong with the file; and it names prompts as well as text does.
    with pytest.raises(InputError, match="'more'"):
        load_rankings(parquet(tmp_path / "s.parquet", {"more": other, "x": [1, 2]}))
    listed = {"prompt": other, "responses": other, "row_index": other, "rankings": [[[1, 2], [2, 1]]] * 2}
    assert len(load_rankings(parquet(tmp_path / "t.parquet", listed)).ranks) == 2
    with pytest.raises(InputError, match="r.parquet: row 1"):
        load_rankings(parquet(tmp_path / "r.parquet", {"rankings": other}))


@pytest.mark.parametrize(
    "value", [{"x": 1}, ["a"], True, datetime.date(2026, 1, 1), datetime.timedelta(1), b"x"], ids=repr
)
def test_votes_beside_and_made_of_other_types(tmp_path, value):
    vote = {"first": ["a"] * 2, "second": ["b"] * 2, "vote": ["first", "second"]}
    counted = {"votes": [[2, 1]], "prompt": ["p"], "chosen": ["a"], "rejected": ["b"]}
    path = tmp_path / "v.parquet"
    assert load_votes(parquet(path, {**counted, "more": [value]})).votes.tolist() == [[2, 1, 0]]
    # A rater may be named by anything: one person who voted twice has one vote.
    assert load_votes(parquet(path, {**vote, "rater": [value] * 2})).votes.tolist() == [[0.5, 0.5, 0]]
    scores = {"score_chosen": [value], "score_rejected": [value]}
    for columns in (
        {**counted, "votes": [value]},
        {"votes_chosen": [value], "votes_rejected": [1]},
        {**vote, "vote": [value] * 2},
        {**vote, "count": [value] * 2},
        {"chosen": ["a"], "rejected": ["b"], "prompt": ["p"], **scores},
    ):
        with pytest.raises(InputError, match="vote"):
            load_votes(parquet(path, columns))


def test_a_header_that_is_itself_a_ranking_is_pointed_out(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("2,1,3\n1,2,3\n1,3,2\n")
    assert any("2,1,3" in note for note in load_rankings(path).notes)
    path.write_text("2,1,4\n1,2,3\n1,3,2\n")
    assert not any("itself a ranking" in note for note in load_rankings(path).notes)


def test_files_whose_shared_ranks_mean_different_things_are_not_joined(tmp_path):
    from mallowspo.cli.dispersion import DispersionOptions
    from mallowspo.cli.dispersion_run import run_dispersion
    from mallowspo.dispersion.settings import DispersionSettings

    scores = lines(
        tmp_path / "s.jsonl", [{"prompt": "p", "responses": ["x", "y", "z"], "rankings": ["A=B>C", "A>B>C"]}]
    )
    whole, top = tmp_path / "w.csv", tmp_path / "t.csv"
    whole.write_text("a,b,c\n1,2,3\n2,1,3\n")
    top.write_text("a,b,c\n1,,\n2,1,3\n")
    settings = DispersionSettings(resamples=100, fit_draws=0)

    def run(*files):
        request = DispersionOptions(output_dir=tmp_path / "out", rankings=tuple(map(str, files)))
        return run_dispersion(request, settings)["rankings"]

    assert run(scores, whole)["ties"] == "half a discordance each"
    assert run(whole, top)["ties"].startswith("an order not given")
    with pytest.raises(InputError, match="^rankings: "):
        run(scores, top)


def test_an_item_that_nobody_saw_does_not_stop_the_report(tmp_path):
    from mallowspo.cli.dispersion import DispersionOptions
    from mallowspo.cli.dispersion_run import run_dispersion
    from mallowspo.dispersion.settings import DispersionSettings

    rows = ["prompt,a,b,c", "p,1,2,not shown", "p,2,1,not shown", "p,1,2,not shown"]
    rows += [f"{prompt},{ranks}" for prompt in "qrs" for ranks in ("1,2,3", "not shown,1,2", "1,,not shown")]
    (tmp_path / "r.csv").write_text("\n".join(rows))
    request = DispersionOptions(output_dir=tmp_path / "out", rankings=(str(tmp_path / "r.csv"),))
    summary = run_dispersion(request, DispersionSettings(resamples=100))
    assert any("not shown" in note for note in summary["rankings"]["notes"])
    assert "shown to nobody" in (tmp_path / "out/report.html").read_text()


def test_prompts_without_text_are_named_by_their_place(tmp_path):
    rankings = [[[1, 2], [2, 1]], [[1, 2], [1, 2]]]
    for columns in ({"row_index": [7, 7]}, {"prompt": ["", ""]}, {"prompt": [None, ""]}):
        found = load_rankings(parquet(tmp_path / "r.parquet", {"rankings": rankings} | columns))
        assert found.prompt_ids == ["0", "1"] and found.prompts == ["row 1", "row 2"]


def test_truth_must_rank_the_same_items(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n2,1,3\n")
    assert load_truth(tmp_path / "t.csv", items=3).tolist() == [2, 1, 3]
    with pytest.raises(InputError, match="one ranking of the same 4 items"):
        load_truth(tmp_path / "t.csv", items=4)


@pytest.mark.shared
def test_potatoes_by_hand_are_less_dispersed_and_nearer_to_the_truth(shared):
    folder = shared / "data/rankings"
    truth = load_truth(folder / "potato_true_ranking.csv", items=20)
    sight, hand = (load_rankings(folder / f"potato_{name}.csv") for name in ("visual", "weighing"))
    # The distances that the data's own page gives.
    assert kendall_tau(np.int64(sight.ranks[0]), truth).mean() == pytest.approx(15.3, abs=0.05)
    assert kendall_tau(np.int64(hand.ranks[0]), truth).mean() == pytest.approx(10.5, abs=0.05)
    index = rankings_index([sight.ranks[0], hand.ranks[0]])
    assert index.phi_high_n[1] < index.phi_n[0] and index.phi_low_n[0] > index.phi_n[1]
    # The crowd beats its members.
    by_sight, by_hand = (int(kendall_tau(center, truth)) for center in index.centers)
    assert by_hand < by_sight < 15.3 and by_hand < 10.5


@pytest.mark.shared
def test_public_votes_are_read_whole(shared):
    pandalm = load_votes(shared / "data/votes/pandalm.json")
    assert pandalm.votes.shape == (999, 3) and (pandalm.votes.sum(axis=1) == 3).all()
    assert len(set(pandalm.prompt_ids)) == 170
    # Counted with a text tool in the file: verdicts of 1, of 2 and of 0.
    raw = (shared / "data/votes/pandalm.json").read_text()
    assert pandalm.votes.sum(axis=0).tolist() == [
        sum(raw.count(f'"annotator{k}": {verdict}') for k in (1, 2, 3)) for verdict in (1, 2, 0)
    ]
    wmt = load_votes(shared / "data/votes/wmt23_sxs_mqm_ende.jsonl.gz")
    assert (wmt.votes.sum(axis=1) == 3).all() and len(set(wmt.prompt_ids)) == 104
    assert all(first != second for first, second in wmt.responses)
    rankings = load_rankings(shared / "data/votes/wmt23_sxs_mqm_ende.jsonl.gz")
    assert len(rankings.ranks) == 104 and rankings.tied and {len(ranks) for ranks in rankings.ranks} == {3}
    # Two readings of one file: a rater's ranks and the votes on the first two outputs of the first segment.
    first = rankings.ranks[0][:, :2]
    votes = [(first[:, 0] < first[:, 1]).sum(), (first[:, 0] > first[:, 1]).sum(), (first[:, 0] == first[:, 1]).sum()]
    assert wmt.votes[0].tolist() == votes


def test_names_of_prompts_are_those_of_the_training_pipeline(tmp_path):
    from datasets import Dataset

    chat = [{"role": "user", "content": "Hi"}]
    rows = {"prompt": [chat], "chosen": [[{"role": "assistant", "content": "Hello"}]]}
    rows |= {"rejected": [[{"role": "assistant", "content": "Go"}]], "votes": [[3, 1]]}
    dataset = Dataset.from_dict(rows)
    dataset.to_parquet(tmp_path / "v.parquet")
    pairs = validate_rows(dataset, columns=()).dataset
    found = load_votes(tmp_path / "v.parquet")
    assert found.prompt_ids == [prompt_id_of_text(pairs[0]["prompt"])]
    assert found.prompts == ["user: Hi"] and found.responses == [("assistant: Hello", "assistant: Go")]
    listed = [{"prompt": chat, "rankings": [[1, 2], [2, 1]]}]
    table = [{"prompt": chat, "a": 1, "b": 2}, {"prompt": chat, "a": 2, "b": 1}]
    for rankings in (listed, table):
        ranked = load_rankings(lines(tmp_path / "r.jsonl", rankings))
        assert ranked.prompt_ids == found.prompt_ids and ranked.prompts == found.prompts
