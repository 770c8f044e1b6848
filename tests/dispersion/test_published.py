"""Reading published forms of votes: small files of ours in each shape, with votes counted by hand."""

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from mallowspo.data import load_preferences, validate_rows
from mallowspo.data.records import prompt_id_of_text
from mallowspo.dispersion import votes_index
from mallowspo.dispersion.diagnostics import vote_disagreement
from mallowspo.dispersion.judged_rows import preference_rows
from mallowspo.dispersion.rankings_file import load_rankings
from mallowspo.dispersion.votes_file import load_votes
from mallowspo.errors import InputError

NAN = float("nan")
SHAPES = Path(__file__).parent / "shapes"
SHAPE_NAMES = sorted(path.stem for path in SHAPES.glob("*.jsonl"))
PAIR = {"prompt": "The sky is", "chosen": " blue", "rejected": " green"}


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def written(folder, given):
    """A file of rows, or of text, whose ending tells its form."""
    if isinstance(given, str):
        path = folder / ("v.json" if given.startswith("[") else "v.csv")
        path.write_text(given)
        return path
    return lines(folder / "v.jsonl", given)


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("name", "votes"),
    [
        ("multipref", [[2, 1, 1], [0, 4, 0], [0, 0, 0]]),
        ("helpsteer3", [[2, 1, 0], [0, 2, 1]]),
        # All that people said, not the three that agree best; -100 is no vote.
        ("helpsteer2_preference", [[2, 1, 0]]),
        # Ratings 4 3 4 against 1 3 4; then 0 3 against 4 3 2, whose six comparisons (1, 4 and 1 alike) are 2 votes.
        ("helpsteer2_disagreements", [[1, 0, 2], [1 / 3, 4 / 3, 1 / 3]]),
        (
            "collective_alignment",
            # Pairs AB AC AD BC BD CD of B>A=C=D, B>C>D>A and C>B>D=A; then of A>B>C>D twice and A=B.
            [
                *([0, 3, 0], [0, 2, 1], [0, 1, 2], [2, 1, 0], [3, 0, 0], [2, 0, 1]),
                *([2, 0, 1], [2, 0, 0], [2, 0, 0], [2, 0, 0], [2, 0, 0], [2, 0, 0]),
            ],
        ),
        (
            "ultrafeedback",
            # Scores 9 9 3.5 1; then 8 2 3.25 and a response without a score, which stays out.
            [
                *([0, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]),
                *([1, 0, 0], [1, 0, 0], [0, 1, 0]),
            ],
        ),
        ("ultrafeedback_binarized", [[1, 0, 0], [0, 0, 1]]),
        # The second voter saw the two answers in the other order.
        ("one_row_a_vote", [[2, 1, 1], [0, 1, 0]]),
    ],
)
def test_votes_of_each_shape_are_those_counted_by_hand(name, votes):
    found = load_votes(SHAPES / f"{name}.jsonl")
    np.testing.assert_allclose(found.votes, votes, rtol=1e-12)


VOTE = {"prompt": "p", "first": "a", "second": "b"}
RATED = {"prompt": "p", "completion_a": "a", "completion_b": "b"}
TWO = {"source": "q", "outputs": {"A": "a", "B": "b"}, "penalty": {"A": {"r": 0}, "B": {"r": 1}}}
THREE = {"source": "x", "outputs": {"s1": "a cat", "s2": "a dog", "s3": "a bird"}}
ANY_NAME = [{"overall_pref": "A-is-better", "annotator": rater} for rater in (["x"], ["x"], {"y": 1})]


COUNTED = {
    "mappings": (
        [{"id": 1, "votes": {"chosen": 2, "rejected": 0, "tie": 1}}, {"id": 2, "votes": None}],
        [[2, 0, 1], [0, 0, 0]],
    ),
    "a table": (
        "prompt,votes_chosen,votes_rejected,votes_tie\na,3,1,\nb,,,\na,2,2,1\n",
        [[3, 1, 0], [0, 0, 0], [2, 2, 1]],
    ),
    "scores beside lists of responses": (
        [{"instruction": "p", "responses": ["a", "b", "c"], "ratings": [4, 4, 1.5]}],
        [[0, 0, 1], [1, 0, 0], [1, 0, 0]],
    ),
    # r1 alone saw s1 and s2, r2 s1 and s3, r3 s2 and s3.
    "raters who do not overlap": (
        [{**THREE, "penalty": {"s1": {"r1": 0.0, "r2": 1}, "s2": {"r1": 2.0, "r3": 0}, "s3": {"r2": 0, "r3": 5}}}],
        [[1, 0, 0], [0, 1, 0], [1, 0, 0]],
    ),
    "a score that is missing": (
        [{**THREE, "penalty": {"s1": {"r1": 0, "r2": 3}, "s2": {"r1": 1, "r2": 2}, "s3": {"r1": NAN, "r2": 2}}}],
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    ),
    "a row without outputs": ([TWO, {"source": "p", "outputs": {}, "penalty": {}}], [[1, 0, 0]]),
    "one rater, two votes": (
        [
            *({**VOTE, "rater": "u1", "vote": vote} for vote in ("first", "second")),
            {**VOTE, "rater": "u2", "vote": "first"},
        ],
        [[1.5, 0.5, 0]],
    ),
    "one rater, another pair each time": (
        [
            {"prompt": "p", "responses": ["x", "y", "z"], "rater": rater, "ranking": order}
            for rater, order in [("u1", "A>B"), ("u1", "C>B"), ("u1", "A>C"), ("u1", "C>A"), ("u2", "A>C=B")]
        ],
        [[2, 0, 0], [1.5, 0.5, 0], [0, 1, 1]],
    ),
    "Prolific's names of raters": (
        "PROLIFIC_PID,prompt,first,second,vote\nu1,p,a,b,1\nu1,p,a,b,1\nu1,p,a,b,2\nu1,p,a,b,2\nu2,p,b,a,2\n",
        [[1.5, 0.5, 0]],
    ),
    "raters without a name": ([{**VOTE, "rater": "", "vote": vote} for vote in (1, 1, 2)], [[2, 1, 0]]),
    "raters of any name": ([{**RATED, "annotations": json.dumps(ANY_NAME)}], [[2, 0, 0]]),
    "a count weighs": (
        "prompt,first,second,vote,count\np,a,b,1,3\np,a,b,2,2\np,b,a,1,1\np,a,b,0,4\np,a,b,,9\n",
        [[3, 3, 4]],
    ),
    "a count of nobody": ("first,second,vote,count\na,b,1,0\na,b,2,3\nc,d,1,0\n", [[0, 3, 0], [0, 0, 0]]),
}


@pytest.mark.parametrize("case", COUNTED)
def test_votes_are_those_counted_by_hand(tmp_path, case):
    given, votes = COUNTED[case]
    assert load_votes(written(tmp_path, given)).votes.tolist() == votes


def test_two_voters_differ_as_often_as_every_two_people_do(tmp_path, rng):
    """Each vote of each person against each vote of everybody else; who voted n times on a pair has n votes of 1/n."""
    rows, wanted = [], []
    for pair in range(30):
        people = [rng.choice(["1", "2", "0"], size=rng.integers(1, 5), p=[0.5, 0.35, 0.15]) for _ in range(5)]
        differ = of = 0.0
        for mine, theirs in permutations(people, 2):
            for one, other in product(mine, theirs):
                if "0" not in (one, other):
                    of += 1 / len(mine) / len(theirs)
                    differ += (one != other) / len(mine) / len(theirs)
        enough = sum(np.mean(votes != "0") for votes in people) >= 2
        wanted.append(differ / of if enough else np.nan)
        rows += [{**VOTE, "prompt": f"p{pair}", "rater": str(r), "vote": v} for r, vs in enumerate(people) for v in vs]
    found = load_votes(written(tmp_path, rows))
    np.testing.assert_allclose(vote_disagreement(found.votes, found.own)[0], wanted)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([{**PAIR, "votes": [3, -1]}], "row 1: votes must be .* found \\[3, -1\\]"),
        ([{**PAIR, "votes": "many"}], "row 1: votes must be"),
        ([{**PAIR, "chosen": " green", "votes": [1, 2]}], "identical"),
        ([{"prompt": "p", "votes": None}], "none of the 1 rows has a vote"),
        ([PAIR], "no votes in the columns prompt, chosen, rejected"),
        ([{"annotator1": 3, "annotator2": 1}], "row 1: the verdicts are \\[3, 1\\]"),
        ([{"source": "s", "outputs": {"A": "x"}, "penalty": {"A": {"r": 1}}}], "at least two different outputs"),
        ([{"outputs": {"A": "x", "B": "y"}, "penalty": {"A": {"r": 1}, "B": None}}], "nobody judged two of its"),
        ([{"outputs": "a", "penalty": "b"}], "system -> rater -> score"),
        ([{**TWO, "penalty": {"A": {"r": "low"}, "B": {"r": "high"}}}], "expected a number"),
        ([{**TWO, "penalty": {"A": [1], "B": [2]}}], "rater -> score"),
        ([{"response1": "a", "response2": "b", "individual_preference": [{"score": 7}]}], "-3"),
        ([{**RATED, "normal": [{"overall_pref": "C-is-better"}]}], "C-is-better"),
        ([{**VOTE, "vote": 1}, {**VOTE, "second": "c", "vote": 0}], "tell a tie"),
        ([{**VOTE, "vote": int(i < 250)} for i in range(300)], "tell a tie"),
        ([{**VOTE, "vote": "best"}], "'best'"),
        ([{"prompt": "p", "response": "a", "helpfulness": [1]}], "same prompt"),
    ],
)
def test_values_that_are_no_votes_are_refused(tmp_path, given, match):
    with pytest.raises(InputError, match=match):
        load_votes(written(tmp_path, given))


def test_numbers_are_told_by_all_votes_in_whatever_order(tmp_path):
    rows = [{**VOTE, "prompt": f"p{i}", "vote": i // 150} for i in range(450)]
    assert load_votes(written(tmp_path, rows)).votes.sum(axis=0).tolist() == [150, 150, 150]


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv"])
@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_a_shape_is_known_in_every_format_order_and_company(name, ending, tmp_path):
    import pandas

    expected = load_votes(SHAPES / f"{name}.jsonl")
    rows = [json.loads(line) for line in (SHAPES / f"{name}.jsonl").read_text().splitlines()]
    more = {"tags": ["a"], "meta": {"k": 1}, "safe": True, "tokens": 17, "license": None, "conversation": user("Hi")}
    ids = {"prompt_id": "uuid", "comparison_id": "key", "evaluator": "annotator_id"}
    variants = [
        [dict(reversed(row.items())) for row in rows],
        [{**more, **row, "note": "x"} for row in rows],
        [{ids.get(key, key): value for key, value in row.items()} | {"my_id": n} for n, row in enumerate(rows)],
    ]
    for number, variant in enumerate(variants):
        path = tmp_path / f"{number}.{ending}"
        frame = pandas.DataFrame(variant)
        if ending == "jsonl":
            lines(path, variant)
        elif ending == "json":
            path.write_text(json.dumps(variant))
        elif ending == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False)  # pandas writes lists and objects as Python does
        if (name, ending) == ("ultrafeedback_binarized", "csv"):
            # Pairs that are preference data as they stand hold no conversations in CSV, here and in training.
            with pytest.raises(InputError, match="messages_as_text"):
                load_votes(path)
            continue
        found = load_votes(path)
        assert found.votes.tolist() == expected.votes.tolist()
        assert found.prompt_ids == expected.prompt_ids and found.responses == expected.responses
        assert found.form == expected.form


@pytest.mark.parametrize("prompt", ['{"id": 1, "messages": "none"}', '{"messages": [1]}', '[{"role":', '{"messages"'])
def test_words_that_only_look_like_a_conversation_stay_text(tmp_path, prompt):
    found = load_votes(lines(tmp_path / "v.jsonl", [{"prompt": prompt, "first": "a", "second": "b", "vote": 1}]))
    assert found.prompts == [prompt]


def test_strengths_count_one_vote_each_and_phi_is_that_of_the_shares():
    # 2 votes to 1 with half a vote added to each side: phi = 1.5 / 2.5.
    assert votes_index(load_votes(SHAPES / "helpsteer3.jsonl").votes).phi_n[0] == pytest.approx(1.5 / 2.5)


def test_rankings_of_the_same_answers():
    found = load_rankings(SHAPES / "collective_alignment.jsonl")
    assert found.ranks[0].tolist() == [[2, 1, 2, 2], [4, 1, 2, 3], [3, 2, 1, 3]]
    assert found.ranks[1].tolist() == [[1, 2, 3, 4], [1, 2, 3, 4]]  # who ordered only two of four is no whole ranking
    assert found.items[0][1] == "assistant: No." and found.prompt_ids[0] == prompt_id_of_text(user("Should I lie?"))


def test_orders_in_a_list_or_one_a_row_are_the_same(tmp_path):
    row = {"prompt": "p", "responses": ["x", "y", "z"]}
    joined = lines(tmp_path / "a.jsonl", [{**row, "rankings": ["A>B>C", "C>A=B"]}])
    apart = lines(tmp_path / "b.jsonl", [{**row, "ranking": "A>B>C"}, {**row, "ranking": "C>A=B"}])
    for path in (joined, apart):
        assert load_votes(path).votes.tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 0]]
        assert load_rankings(path).ranks[0].tolist() == [[1, 2, 3], [2, 2, 1]]
    with pytest.raises(InputError, match="A>E"):
        load_votes(lines(tmp_path / "c.jsonl", [{**row, "rankings": ["A>E"]}]))


def test_one_judge_is_no_ranking_by_people():
    with pytest.raises(InputError, match="--votes"):
        load_rankings(SHAPES / "ultrafeedback.jsonl")
    assert "one judge" in load_votes(SHAPES / "ultrafeedback.jsonl").notes[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "multipref",
            [
                {
                    "prompt": user("Name a fruit."),
                    "chosen": assistant("An apple."),
                    "rejected": assistant("A stone."),
                    "votes": [2, 1, 1],
                },
                {
                    "prompt": user("Say hello."),
                    "chosen": assistant("Hello!"),
                    "rejected": assistant("No."),
                    "votes": [4, 0, 0],
                },
            ],
        ),
        (
            "ultrafeedback",
            [
                {
                    "prompt": user("Name a planet."),
                    "responses": [assistant(text) for text in ("Mars.", "Venus.", "The sun.", "Cheese.")],
                    "ranks": [1, 1, 3, 4],
                },
                {
                    "prompt": user("Name a star."),
                    "responses": [assistant(text) for text in ("Vega.", "Mars.", "I do not know.")],
                    "ranks": [1, 3, 2],
                },
            ],
        ),
        (
            "one_row_a_vote",
            [
                {"prompt": "Tea or coffee?", "chosen": "Tea.", "rejected": "Coffee.", "votes": [2, 1, 1]},
                {"prompt": "Bus or train?", "chosen": "Train.", "rejected": "Bus.", "votes": [1, 0, 0]},
            ],
        ),
    ],
)
def test_preference_data_put_the_majority_first(name, expected):
    assert list(preference_rows(load_votes(SHAPES / f"{name}.jsonl").judged)) == expected


@pytest.mark.parametrize("name", ["multipref", "helpsteer3", "helpsteer2_disagreements", "collective_alignment"])
def test_preference_data_made_of_votes_are_read_back_with_their_votes_and_names(name, tmp_path):
    votes = load_votes(SHAPES / f"{name}.jsonl")
    path = lines(tmp_path / "pairs.jsonl", preference_rows(votes.judged))
    pairs = validate_rows(load_preferences(path).dataset, columns=("votes",)).dataset
    decided = np.flatnonzero(votes.votes[:, 0] != votes.votes[:, 1])
    again = load_votes(path)
    np.testing.assert_allclose(again.votes, [[max(a, b), min(a, b), tie] for a, b, tie in votes.votes[decided]])
    assert again.prompt_ids == [votes.prompt_ids[row] for row in decided] and len(pairs) == len(decided)


def test_rows_without_a_vote_are_counted_and_named(tmp_path):
    good = {"source": "x", "outputs": {"s1": "a", "s2": "b"}, "penalty": {"s1": {"r1": 0}, "s2": {"r1": 1}}}
    apart = {**good, "penalty": {"s1": {"r1": 0}, "s2": {"r2": 1}}}
    alike = {**good, "outputs": {"s1": "a", "s2": "a"}}
    rows = load_votes(lines(tmp_path / "w.jsonl", [good, apart, apart, alike]))
    assert rows.votes.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert [note[:12] for note in rows.notes] == ["1 row (4) wi", "2 rows (2, 3"]
    with pytest.raises(InputError, match="no row has a vote"):
        load_votes(lines(tmp_path / "w.jsonl", [apart, alike]))


@pytest.mark.parametrize(
    "written", [r'[{"role": "user", "content": "\ud83d"}]', r"[{'role': 'user', 'content': '\ud83d'}]"]
)
def test_half_a_character_that_a_cell_spells_stays_as_it_is_spelt(tmp_path, written):
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps({"prompt": written, "response1": "a", "response2": "b", "vote": 1}))
    assert load_votes(path).prompts == [written]


def test_rows_that_mean_nothing_can_be_dropped_and_are_named(tmp_path):
    row = {"prompt": "p", "first": "a", "second": "b"}
    path = lines(tmp_path / "v.jsonl", [{**row, "vote": "first"}, {**row, "vote": "best"}])
    with pytest.raises(InputError, match="invalid_rows"):
        load_votes(path)
    rows = load_votes(path, invalid_rows="drop")
    assert rows.votes.tolist() == [[1, 0, 0]] and rows.notes[0].startswith("1 row (2)")


# ---- what names a row


def test_a_number_of_the_users_own_that_repeats_is_not_a_rows_identity(tmp_path):
    from datasets import Dataset

    rows = [{**PAIR, "chosen": f" {word}", "votes": [n, 1], "row_index": 7} for n, word in enumerate("abc", 2)]
    Dataset.from_list(rows).to_parquet(tmp_path / "v.parquet")
    found = load_votes(tmp_path / "v.parquet")
    assert found.votes.tolist() == [[2, 1, 0], [3, 1, 0], [4, 1, 0]]
    assert [pair[0] for pair in found.responses] == [" a", " b", " c"] and found.row_index.tolist() == [0, 1, 2]
    bare = [{"votes": [n, 1], "row_index": 7} for n in (2, 3)]
    Dataset.from_list(bare).to_parquet(tmp_path / "b.parquet")
    assert len(set(load_votes(tmp_path / "b.parquet").prompt_ids)) == 2


def test_numbers_of_our_own_export_are_kept(tmp_path):
    from datasets import Dataset

    rows = [{**PAIR, "prompt": f"{n}+0=", "votes": [n, 1], "row_index": n} for n in (5, 2)]
    Dataset.from_list(rows).to_parquet(tmp_path / "v.parquet")
    found = load_votes(tmp_path / "v.parquet")
    assert found.row_index.tolist() == [0, 1] and found.votes[:, 0].tolist() == [5, 2]
    assert found.prompt_ids == [prompt_id_of_text("5+0="), prompt_id_of_text("2+0=")]


def test_an_answer_that_reads_as_a_list_stays_text(tmp_path):
    rows = load_votes(lines(tmp_path / "v.jsonl", [{"first": "[1, 2]", "second": '{"a": 1}', "vote": "second"}]))
    assert rows.responses == [("[1, 2]", '{"a": 1}')] and rows.votes.tolist() == [[0, 1, 0]]


# ---- other names


def test_columns_under_other_names(tmp_path):
    rows = [{"q": "p", "good": "a", "bad": "b", "up": 3, "down": 1, "votes_chosen": 9}]
    path = lines(tmp_path / "v.jsonl", rows)
    names = "prompt=q, chosen=good, rejected=bad, votes_chosen=up, votes_rejected=down"
    found = load_votes(path, columns=names)
    assert found.votes.tolist() == [[3, 1, 0]] and found.responses == [("a", "b")]
    assert found.prompt_ids == [prompt_id_of_text("p")]
    rankings = lines(tmp_path / "r.jsonl", [{"q": "p", "orders": [[1, 2], [2, 1]]}])
    assert load_rankings(rankings, columns="prompt=q,rankings=orders").prompts == ["p"]


@pytest.mark.parametrize("columns", ["prompt", "prompt=none", "colour=q", "prompt=q,first=q", "prompt=q,prompt=good"])
def test_columns_that_are_not_there_are_refused(tmp_path, columns):
    with pytest.raises(InputError, match=r"^columns: "):
        load_votes(lines(tmp_path / "v.jsonl", [{"q": "p", "good": "a", "votes": [1, 2]}]), columns=columns)


# ---- the command


def test_the_command_writes_data_that_can_be_trained_on_and_says_what_was_left_out(tmp_path):
    from mallowspo.cli.dispersion import DispersionOptions
    from mallowspo.cli.dispersion_run import run_dispersion
    from mallowspo.dispersion.settings import DispersionSettings

    out = tmp_path / "pairs.jsonl"
    request = DispersionOptions(
        output_dir=tmp_path / "out", votes=str(SHAPES / "multipref.jsonl"), write_preferences=out
    )
    summary = run_dispersion(request, DispersionSettings(resamples=100))
    assert summary["votes"]["preferences"]["rows"] == 2 and "(3)" in summary["votes"]["notes"][0]
    assert "To know of these votes" in (tmp_path / "out/report.html").read_text()
    assert [row["votes"] for row in map(json.loads, out.read_text().splitlines())] == [[2, 1, 1], [4, 0, 0]]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rankings": ("r.jsonl",), "write_preferences": Path("p.jsonl")}, "^write_preferences"),
        ({"votes": "v.jsonl", "write_preferences": Path("p.csv")}, "^write_preferences"),
        ({"reference": Path("store"), "columns": "prompt=q"}, "^columns"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, options, match):
    from mallowspo.cli.dispersion import DispersionOptions

    with pytest.raises(InputError, match=match):
        DispersionOptions(output_dir=tmp_path, **options).check()


def test_counted_votes_are_no_words_to_write(tmp_path):
    from mallowspo.cli.dispersion import DispersionOptions
    from mallowspo.cli.dispersion_run import run_dispersion
    from mallowspo.dispersion.settings import DispersionSettings

    path = lines(tmp_path / "v.jsonl", [{**PAIR, "votes": [2, 1]}])
    request = DispersionOptions(
        output_dir=tmp_path / "out", votes=str(path), write_preferences=tmp_path / "pairs.jsonl"
    )
    with pytest.raises(InputError, match="write_preferences"):
        run_dispersion(request, DispersionSettings(resamples=100))
    assert not (tmp_path / "pairs.jsonl").exists()


def test_text_that_is_no_utf_8_is_missing(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ends, text = pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"\xc3\x28ok")
    broken = pa.StringArray.from_buffers(2, ends, text)
    pq.write_table(pa.table({"prompt": broken, "votes": pa.array([[1, 2], [2, 1]])}), tmp_path / "v.parquet")
    assert load_preferences(tmp_path / "v.parquet").dataset["prompt"][:] == [None, "ok"]
