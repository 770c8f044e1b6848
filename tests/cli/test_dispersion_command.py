"""`mallowspo dispersion` from end to end: files in, table, summary and report out; one message for each mistake."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cli.commands import call, refused, save_tiny
from mallowspo.dispersion import entropy_index, raw_from_phi, votes_index
from tiny import tiny_tokenizer

PROMPTS = ["The quick fox", "Once upon a time", "Question: what?", "Human: hello", "good bad", "one two three"]


def run(*arguments):
    return call(*arguments)[0]


def rows():
    found = []
    for number, prompt in enumerate(PROMPTS):
        for pair in range(2):
            found.append(
                {
                    "prompt": prompt,
                    "chosen": " jumps over the dog" + " and waits" * number,
                    "rejected": f" cooks rice {'twice ' * pair}then",
                    "votes": [5 - number % 3, number % 3, pair],
                    "score_chosen": 2.0 + number,
                    "score_rejected": 1.0,
                }
            )
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, its data and its store."""
    folder = tmp_path_factory.mktemp("dispersion")
    save_tiny(folder / "model")
    data = folder / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows()))
    store = folder / "store"
    options = ("--model_name_or_path", folder / "model", "--dataset_name", data, "--output_dir", store)
    assert run("reference", *options, "--use_cpu", "--shard_rows", 5) == 0
    return SimpleNamespace(data=data, store=store, vocab_size=len(tiny_tokenizer()))


def test_reference_with_votes_side_by_side(made, tmp_path):
    out = tmp_path / "out"
    options = ("--reference", made.store, "--dataset_name", made.data, "--votes", made.data, "--output_dir", out)
    code, said, _ = call("dispersion", *options)
    assert code == 0 and "reference" in said and "rank correlation" in said and "report.html" in said
    table = pq.read_table(out / "dispersion.parquet").to_pydict()
    assert table["row_index"] == list(range(12)) and table["chosen"] == [row["chosen"] for row in rows()]
    stored = [pq.read_table(path) for path in sorted(made.store.glob("*.parquet"))]
    entropy = np.concatenate([part["entropy_sum"].to_numpy() for part in stored]).reshape(-1, 2)
    length = np.concatenate([part["length"].to_numpy() for part in stored]).reshape(-1, 2)
    names = [row["prompt"] for row in rows()]
    index = entropy_index(entropy, length, vocab_size=made.vocab_size, prompt_ids=names)
    assert table["index"] == pytest.approx(index)
    raw = raw_from_phi(table["dispersion"])
    assert raw / raw.mean() == pytest.approx(-np.log(index) / -np.log(index).mean())
    summary = json.loads((out / "summary.json").read_text())
    side = summary["side_by_side"][0]
    assert side["prompts"] == 6 and side["diverging"] == 4 and side["judged"] == 6
    followed = {item["with"]: item["count"] for item in summary["reference"]["correlations"]}
    assert followed["reward margin in the data"] == 6
    page = (out / "report.html").read_text()
    assert "The quick fox" in page and "The people&#39;s votes" in page and "Content-Security-Policy" in page


@pytest.mark.parametrize(
    "options",
    [
        ("--dispersion_estimator", "divergent_token", "--dispersion_map", "quantile", "--spread", 0.1, 1.5),
        ("--dispersion_estimator", "first_token", "--dispersion_map", "mallows", "--alternatives", 1000),
        ("--dispersion_estimator", "answer_entropy", "--dispersion_map", "quantile", "--dispersion_per", "pair"),
        ("--dispersion_estimator", "reference_margin", "--dispersion_clip", 0.5, 1.5, "--dispersion_scale", 0.5),
    ],
)
def test_every_index_and_map_reads_the_same_store(made, tmp_path, options):
    assert run("dispersion", "--reference", made.store, "--output_dir", tmp_path, *options) == 0
    facts = json.loads((tmp_path / "summary.json").read_text())["reference"]
    assert facts["estimator"] == options[1] and facts["rows"] == 12
    assert "--dispersion_estimator" in (tmp_path / "report.html").read_text()


def test_the_weight_is_tempered_and_shrunken_by_a_number(made, tmp_path):
    given = ("--dispersion_shrink", 3, "--dispersion_power", 0.5, "--dispersion_per", "pair")
    assert run("dispersion", "--reference", made.store, "--output_dir", tmp_path, *given) == 0
    table = pq.read_table(tmp_path / "dispersion.parquet").to_pydict()
    raw = -np.log(np.array(table["index"]))
    spread = np.sqrt(np.maximum(0, 1 + 3 * (raw / raw.mean() - 1)))
    assert table["dispersion_weight"] == pytest.approx(spread / spread.mean())
    page = (tmp_path / "report.html").read_text()
    assert "--dispersion_shrink 3 --dispersion_power 0.5" in page and "What the weights are worth" in page


def test_votes_fit_the_shrink_factor_and_say_what_the_weights_are_worth(made, tmp_path):
    votes = tmp_path / "votes.jsonl"
    lines = [row | {"chosen": f" a{i}", "rejected": f" b{i}", "votes": [5 - n % 3, n % 3]}
             for n, row in enumerate(rows()[:6]) for i in range(5)]  # fmt: skip
    votes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ("--votes", votes, "--dispersion_shrink", "votes", "--dispersion_estimator", "divergent_token")
    given += ("--dispersion_map", "mallows", "--alternatives", "auto")
    code, printed, *_ = call("dispersion", "--reference", made.store, "--output_dir", tmp_path / "out", *given)
    facts = json.loads((tmp_path / "out/summary.json").read_text())["reference"]
    people = facts["worth"]["people"]
    assert facts["calibration"]["shrink"] == people["shrink"]["mean"] and people["pairs"] == 30
    assert people["gain"]["low"] <= people["gain"]["mean"] <= people["gain"]["high"]
    assert [row["alternatives"] for row in facts["map"]["other_alternatives"]][1] == facts["map"]["alternatives"]
    assert code == 0 and "worth: " in printed
    page = (tmp_path / "out/report.html").read_text()
    assert "--dispersion_shrink votes --dispersion_votes" in page and "auto" in page


def test_the_table_trains(made, tmp_path):
    """`dispersion: column` on the table gives the weights that the table shows."""
    from mallowspo.data import load_preferences, validate_rows
    from mallowspo.training import MallowsPOConfig
    from mallowspo.training.row_weights import calibrate_rows, raw_from_columns

    assert run("dispersion", "--reference", made.store, "--dataset_name", made.data, "--output_dir", tmp_path) == 0
    loaded = load_preferences(tmp_path / "dispersion.parquet").dataset
    config = MallowsPOConfig(str(tmp_path), dispersion="column", use_cpu=True, bf16=False)
    checked = validate_rows(loaded, columns=("dispersion",)).dataset
    raw = raw_from_columns(checked, config, name="train")
    weight = calibrate_rows(raw, config, weights_given=False).weight(raw)
    assert weight == pytest.approx(np.array(loaded["dispersion_weight"]))


def test_votes_alone(made, tmp_path):
    assert run("dispersion", "--votes", made.data, "--output_dir", tmp_path) == 0
    table = pq.read_table(tmp_path / "dispersion.parquet").to_pydict()
    assert table["dispersion"] == pytest.approx(votes_index([row["votes"] for row in rows()]).phi_n)


@pytest.mark.parametrize(("dissent", "said"), [((1, 1, 1, 1), True), ((0, 1, 4, 9), False)])
def test_the_page_says_where_peoples_weights_hardly_differ(tmp_path, dissent, said):
    votes = [{"prompt": f"Q {n}?", "chosen": " a", "rejected": " b", "votes": [9, n]} for n in dissent]
    for number, row in enumerate(votes):
        row["prompt"] = f"Q {number}?"
    (tmp_path / "votes.jsonl").write_text("\n".join(map(json.dumps, votes)))
    assert run("dispersion", "--votes", tmp_path / "votes.jsonl", "--output_dir", tmp_path / "out") == 0
    page = (tmp_path / "out/report.html").read_text()
    assert ("The weights from votes hardly differ" in page) is said
    assert "dispersion_map" not in page.split("hardly differ")[-1][:400]  # a map is for a model's index


def test_rows_with_an_object_without_keys_are_written_at_the_end(made, tmp_path):
    from datasets import Dataset

    meta = {"source": {}}
    Dataset.from_list([row | {"meta": meta} for row in rows()[:4]]).save_to_disk(tmp_path / "data")
    given = ("--dataset_name", tmp_path / "data", "--output_dir")
    export = ("--use_cpu", "--export_trl", tmp_path / "trl.parquet")
    model = ("--model_name_or_path", made.data.parent / "model")
    assert run("reference", *model, *given, tmp_path / "store", *export) == 0
    assert run("dispersion", "--reference", tmp_path / "store", *given, tmp_path / "out") == 0
    for path in (tmp_path / "trl.parquet", tmp_path / "out/dispersion.parquet"):
        assert [json.loads(text) for text in pq.read_table(path)["meta"].to_pylist()] == [meta] * 4, path


def test_rankings_with_a_truth(tmp_path):
    for name, lines in (("sight", "1,2,3\n2,1,3\n1,3,2\n3,2,1"), ("hand", "1,2,3\n1,2,3\n2,1,3\n1,2,3")):
        (tmp_path / f"{name}.csv").write_text(f"a,b,c\n{lines}\n")
    (tmp_path / "truth.csv").write_text("a,b,c\n1,2,3\n")
    files = [word for name in ("sight", "hand") for word in ("--rankings", tmp_path / f"{name}.csv")]
    out = tmp_path / "out"
    given = ("--truth", tmp_path / "truth.csv", "--fit_draws", 9, "--output_dir", out)
    code, said, _ = call("dispersion", *files, *given)
    assert code == 0 and "hand: phi" in said
    detail = json.loads((out / "summary.json").read_text())["rankings"]["detail"]
    assert [item["prompt"] for item in detail] == ["sight", "hand"]
    assert detail[1]["kendall"]["phi"] < detail[0]["kendall"]["phi"]
    assert [item["truth"]["center_distance"] for item in detail] == [0, 0] and detail[0]["fit_p"] >= 0.1


@pytest.mark.shared
def test_wmt_votes_and_rankings(shared, tmp_path):
    path = shared / "data/votes/wmt23_sxs_mqm_ende.jsonl.gz"
    assert run("dispersion", "--votes", path, "--rankings", path, "--output_dir", tmp_path) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["votes"]["prompts"] == summary["rankings"]["prompts"] == 104


def test_mistakes_give_one_message(made, tmp_path):
    out = ("--output_dir", tmp_path / "out")
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    (tmp_path / "negative.jsonl").write_text('{"votes": [3, -1]}')
    (tmp_path / "other.jsonl").write_text(json.dumps(rows()[0] | {"prompt": "Else"}))
    for arguments, match in (
        ((), "nothing to read"),
        (("--votes", tmp_path / "none.jsonl"), "there is no file"),
        (("--votes", made.data, "--votes_column", "ballots"), "no column 'ballots'"),
        (("--votes", tmp_path / "negative.jsonl"), "row 1: votes must be"),
        (("--rankings", tmp_path / "one.csv"), "at least 2"),
        (("--reference", tmp_path), "reference: "),
        (("--reference", tmp_path / "none"), "reference: there is no folder"),
        (("--reference", made.store, "--dispersion_map", "log"), "dispersion_map"),
        (("--reference", made.store, "--dispersion_map", "isotonic"), "--votes or --rankings"),
        (("--reference", made.store, "--dataset_name", tmp_path / "other.jsonl"), "has no row 2"),
        (("--votes", made.data, "--truth", made.data), "only rankings"),
        (("--votes", made.data, "--dataset_name", made.data), "add --reference"),
        (("--votes", made.data, "--level", "2"), "level: got 2.0"),
    ):
        assert match in refused("dispersion", *arguments, *out), arguments
        assert not (tmp_path / "out/summary.json").exists()
    assert "is a file" in refused("dispersion", "--votes", made.data, "--output_dir", made.data)


def test_words_are_not_joined_to_the_wrong_pair_of_a_ranked_list(made, tmp_path):
    """Of three pairs the first is alike once it is cut, so the store has the second and the third."""
    ranked = {"prompt": "One", "responses": [" two three four", " two three five", " else"], "ranks": [1, 2, 3]}
    data, store, out = tmp_path / "ranked.jsonl", tmp_path / "store", tmp_path / "out"
    data.write_text(json.dumps(ranked))
    options = ("--model_name_or_path", made.store.parent / "model", "--dataset_name", data, "--output_dir", store)
    assert run("reference", *options, "--use_cpu", "--invalid_rows", "drop", "--max_length", 6) == 0
    assert pq.read_table(store / "shard-00000.parquet")["row_index"].to_pylist() == [0] * 4
    assert "row 1 of" in refused("dispersion", "--reference", store, "--dataset_name", data, "--output_dir", out)


def test_a_number_of_the_users_own_does_not_join_words_to_other_rows(made, tmp_path):
    """A store made in Python from rows that have numbers of their own, in another order, and one prompt."""
    from datasets import Dataset

    from mallowspo.data import tokenize_pairs, validate_rows
    from mallowspo.scoring import StoreSettings, write_store
    from scoring.stores import TinyReference

    pairs = [{"prompt": "One", "chosen": f" two {word}", "rejected": " three"} for word in "abc"]
    numbered = Dataset.from_list([pair | {"row_index": 2 - place} for place, pair in enumerate(pairs)])
    rows, reference = tokenize_pairs(validate_rows(numbered).dataset, tiny_tokenizer(), max_length=64), TinyReference()
    key = reference.key(rows.dataset)
    write_store(tmp_path / "s", rows.dataset, key=key, score=reference.score, settings=StoreSettings(), made_with={})
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    options = ("--reference", tmp_path / "s", "--dataset_name", tmp_path / "p.jsonl", "--output_dir", tmp_path / "out")
    assert "is not the one" in refused("dispersion", *options)


def test_a_damaged_store_is_named(made, tmp_path):
    import shutil

    store = tmp_path / "store"
    shutil.copytree(made.store, store)
    shard = sorted(store.glob("*.parquet"))[1]
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    said = refused("dispersion", "--reference", store, "--output_dir", tmp_path / "out")
    assert shard.name in said and "checksum" in said


def test_the_pages_example_runs():
    page = Path(__file__).resolve().parent.parent.parent / "docs/dispersion.md"
    found = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(found[1], page.name, "exec"), {})
