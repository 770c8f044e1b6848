"""Objectives that read ranked lists whole, through data, reference, packed rows, loss and metrics."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from pairs import build, history, lora, trained
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mallowspo.cli.main import main
from mallowspo.data import validate_rows
from mallowspo.data.records import LIST_COLUMN
from mallowspo.dispersion import fit_map
from mallowspo.errors import InputError
from mallowspo.objectives import OBJECTIVES, listwise_loss
from mallowspo.scoring.packed_layout import pack
from mallowspo.training.lists import ListRows, ndcg
from tiny import tiny_tokenizer

LISTS = [name for name, objective in OBJECTIVES.items() if objective.reads_lists]
SAY = ["rinse it first", "maybe one or two", "seven", "I do not know", "use a brush and take your time", "no"]
RANKS = [[1, 2, 3, 4], [2, 1, 1], [1, 2], [3, 1, 2, 2, 4], [1, 2, 2, 2], [2, 2, 1], [1, 1, 2, 3], [4, 3, 2, 1]]


def ranked(count=8):
    """Lists of two to five responses, with ties in the middle, at the top and at the end."""
    rows = []
    for i in range(count):
        ranks = RANKS[i % len(RANKS)]
        responses = [f" {SAY[(i + 2 * j) % 6]} {SAY[(j + i // 2) % 6]}" for j in range(len(ranks))]
        rows.append(
            {"prompt": f"Question {i}: how do I {SAY[i % 6]}? Answer:", "responses": responses, "ranks": ranks}
        )
    return Dataset.from_list(rows)


def single_logps(model, row):
    """log pi of each response of a row, one forward pass each, straight from the model."""
    tokenizer = tiny_tokenizer()
    found = []
    for response in row["responses"]:
        prompt = tokenizer(row["prompt"]).input_ids
        whole = [*tokenizer(row["prompt"] + response).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        found.append(sum(logp[i - 1, whole[i]].item() for i in range(len(prompt), len(whole))))
    return found


def by_hand(run, reference, rows, objective, beta):
    """The losses of the lists by the public function, from log-probabilities of single responses."""
    losses = []
    for row in rows:
        weight = None
        if run.calibration is not None:
            place = run.train_dataset["prompt"][:].index(row["prompt"])
            weight = torch.tensor(run.calibration.weight([run.train_dataset["dispersion_raw"][place]]))
        logps = [torch.tensor([single_logps(m, row)], dtype=torch.float64) for m in (run.model, reference)]
        ranks = torch.tensor([row["ranks"]])
        losses.append(listwise_loss(*logps, ranks, objective=objective, beta=beta, weight=weight).item())
    return losses


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("objective", LISTS)
def test_the_loss_of_a_run_is_that_of_single_responses(random_setting, tmp_path, objective, packed):
    rows = ranked()
    changes = {"objective": objective, "beta": 0.5, "share_prompts": packed, "per_device_eval_batch_size": 3}
    run = trained(random_setting, tmp_path, rows, eval_dataset=rows, max_steps=2, learning_rate=5e-3, **changes)
    reference = type(run.model).from_pretrained(random_setting.path)
    expected = by_hand(run, reference, rows, objective, 0.5)
    assert run.evaluate()["eval_loss"] == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize(("whole", "pairwise"), [("plackett_luce", "dpo"), ("mallows_list_theta", "mallows_theta")])
def test_pairs_are_lists_of_two(random_setting, tmp_path, whole, pairwise):
    runs = [
        trained(random_setting, tmp_path, objective=objective, max_steps=3, precompute_ref_log_probs=True)
        for objective in (whole, pairwise)
    ]
    for name in ("loss", "grad_norm", "rewards/accuracies", "rewards/margins", "logps/chosen"):
        assert history(runs[0], name) == pytest.approx(history(runs[1], name), rel=1e-6)


def test_the_mean_weight_is_1_over_the_lists(random_setting, tmp_path):
    run = build(random_setting, tmp_path, ranked(), objective="mallows_list_theta", max_steps=1)
    examples = run.examples(run.train_dataset)
    raw = [examples[number]["list"][0]["dispersion_raw"] for number in range(len(examples))]
    assert run.calibration.weight(raw).mean() == pytest.approx(1.0) and run.calibration.rows == 8


def test_the_index_of_a_list_is_that_of_all_its_pairs(random_setting, tmp_path):
    """Every response of a list counts the same, so that its weight is the one that its pairs would get."""
    rows = ranked()
    found = []
    for objective in ("mallows_list_theta", "mallows_theta"):
        run = build(random_setting, tmp_path, rows, objective=objective, max_steps=1)
        found.append(dict(zip(run.train_dataset["prompt"], run.train_dataset["dispersion_index"], strict=True)))
    for row in rows:
        if len(set(row["ranks"])) == len(row["ranks"]):  # pairs of ties are no pairs, and leave responses out
            assert found[0][row["prompt"]] == pytest.approx(found[1][row["prompt"]], rel=1e-6)


@pytest.mark.parametrize("objective", LISTS)
def test_a_batch_is_what_it_is_cut_into(random_setting, tmp_path, objective, monkeypatch):
    """Accumulated, in pieces of few tokens, and padded: the same loss and gradient."""
    rows, changes = ranked(), {"objective": objective, "max_steps": 2}
    whole = trained(random_setting, tmp_path, rows, per_device_train_batch_size=4, **changes)
    half = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    others = [
        trained(random_setting, tmp_path, rows, **half, **changes),
        trained(random_setting, tmp_path, rows, per_device_train_batch_size=4, share_prompts=False, **changes),
    ]
    monkeypatch.setattr("mallowspo.training.scoring_path._cpu_row_tokens", lambda config: 60)
    pieces = trained(random_setting, tmp_path, rows, per_device_train_batch_size=4, **changes)
    batch = pieces.data_collator([pieces.examples(pieces.train_dataset)[i] for i in range(4)])
    cut = pieces.scoring.pieces(batch)
    assert len(cut) > 1 and sum(len(piece["list_b"].unique()) for piece in cut) == 4
    for other in (*others, pieces):
        for name in ("loss", "grad_norm", "rewards/accuracies", "rewards/ndcg"):
            assert history(other, name) == pytest.approx(history(whole, name), rel=1e-4, abs=1e-7)


def test_a_list_is_one_prompt_and_each_response_once(random_setting, tmp_path):
    run = build(random_setting, tmp_path, ranked(), objective="plackett_luce", max_steps=1)
    examples = run.examples(run.train_dataset)
    assert len(examples) == 8 and isinstance(examples, ListRows)
    for number, row in enumerate(ranked()):
        packed = pack(run.data_collator([examples[number]]))
        assert [len(group.responses) for group in packed.groups] == [len(row["responses"])]
    assert len(run.get_train_dataloader()) == 2  # eight lists in batches of four


def test_metrics_of_lists_by_hand():
    ranks = torch.tensor([[1, 2, 3], [1, 2, 2]])
    mask = torch.ones(2, 3, dtype=torch.bool)
    scores = torch.tensor([[0.1, 0.9, -1.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    found = ndcg(scores[:, :, None] - scores[:, None, :], ranks, mask)
    # Gains 2, 1, 0 in the order 1, 0, 2: (1 + 2/log2(3)) / (2 + 1/log2(3)); the second is in its own order.
    assert found.tolist() == pytest.approx([(1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3)), 1.0])
    tied = ndcg(torch.zeros(1, 3, 3), ranks[:1], mask[:1])
    assert tied.item() == pytest.approx((2 + 1) * (1 + 1 / np.log2(3) + 0.5) / 3 / (2 + 1 / np.log2(3)))


def test_before_training_every_pair_of_a_list_is_a_tie(random_setting, tmp_path):
    run = trained(random_setting, tmp_path, ranked(), objective="plackett_luce", max_steps=1)
    assert history(run, "rewards/accuracies") == [0.5]
    assert history(run, "rewards/margins") == pytest.approx([0.0], abs=1e-6)


def test_a_resumed_run_of_lists_ends_as_an_uninterrupted_one(random_setting, tmp_path):
    changes = {"objective": "mallows_list_phi", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    changes["lr_scheduler_type"] = "constant"
    whole = trained(random_setting, tmp_path / "whole", ranked(), **changes)
    trained(random_setting, tmp_path / "cut", ranked(), **(changes | {"max_steps": 2}))
    resumed = build(random_setting, tmp_path / "cut", ranked(), **changes)
    resumed.train(resume_from_checkpoint=True)
    left, right = (dict(run.model.named_parameters()) for run in (whole, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)
    other = ranked().map(lambda row: {"ranks": row["ranks"][::-1]})
    later = build(random_setting, tmp_path / "cut", other, **(changes | {"max_steps": 6}))
    with pytest.raises(InputError, match="other training rows"):
        later.train(resume_from_checkpoint=True)


def test_a_loss_weight_and_a_beta_are_the_lists_own(random_setting, tmp_path):
    rows = ranked().add_column("loss_weight", [1.0, 0.0] * 4).add_column("beta", [0.2] * 8)
    changes = {"objective": "plackett_luce", "per_device_eval_batch_size": 3, "max_steps": 2, "learning_rate": 5e-3}
    run = trained(random_setting, tmp_path, rows, eval_dataset=rows, **changes)
    reference = type(run.model).from_pretrained(random_setting.path)
    expected = np.array(by_hand(run, reference, rows, "plackett_luce", 0.2))
    assert run.evaluate()["eval_loss"] == pytest.approx(np.mean(expected * ([2.0, 0.0] * 4)), rel=1e-4)


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("dispersion_per", {"dispersion_per": "pair"}),
        ("train_sampling_strategy", {"train_sampling_strategy": "batch_rebalance"}),
        ("rank_temperature", {"rank_temperature": 0.5}),
        ("sft_weight", {"sft_weight": 0.5}),
        ("data_collator", {"data_collator": DataCollatorForPreference(pad_token_id=0)}),
    ],
    ids=str,
)
def test_what_lists_cannot_have_is_refused_by_name(random_setting, tmp_path, named, changes):
    with pytest.raises(InputError, match=named):
        build(random_setting, tmp_path, ranked(), objective="mallows_list_theta", **changes)


@pytest.mark.parametrize("changes", [{"dispersion": "entropy"}, {"dispersion_power": 0.5}], ids=str)
def test_plackett_luce_refuses_options_of_the_dispersion(random_setting, tmp_path, changes):
    with pytest.raises(InputError, match="^dispersion"):
        build(random_setting, tmp_path, ranked(), objective="plackett_luce", **changes)


@pytest.mark.shared
def test_real_lists_of_ten_systems_train(shared, tmp_path):
    """WMT23: translations of a segment by up to ten systems, ranked by their mean place among three raters."""
    from mallowspo.dispersion.rankings_file import load_rankings

    read = load_rankings(shared / "data/votes/wmt23_sxs_mqm_ende.jsonl.gz")
    short = [n for n, items in enumerate(read.items) if max(map(len, (read.prompts[n], *items))) < 200][:6]
    rows = [
        {
            "prompt": f"{read.prompts[n]}\n",
            "responses": read.items[n],
            "scores": (-read.ranks[n].mean(axis=0)).round(6).tolist(),
        }
        for n in short
    ]
    assert max(len(row["responses"]) for row in rows) >= 8
    setting = SimpleNamespace(path=str(shared / "models/stories-260k"), rows=None)
    for objective in LISTS:
        run = build(setting, tmp_path, Dataset.from_list(rows), objective=objective, max_steps=1, max_length=None)
        run.train()
        entry = next(entry for entry in run.state.log_history if "loss" in entry)
        assert np.isfinite(entry["loss"]) and 0 <= entry["rewards/ndcg"] <= 1
        assert len(run.examples(run.train_dataset)) == 6


def test_rank_temperature_changes_the_result(random_setting, tmp_path):
    changes = {"objective": "mallows_list_phi", "max_steps": 2}
    runs = [trained(random_setting, tmp_path, ranked(), rank_temperature=t, **changes) for t in (0.1, 0.25, 1.0)]
    assert len({history(run, "grad_norm")[1] for run in runs}) == 3


# What reviews found.


def test_rows_that_were_prepared_before_stay_the_lists_that_they_are(random_setting, tmp_path):
    first = build(random_setting, tmp_path, ranked(), objective="plackett_luce", max_steps=1)
    again = build(
        random_setting, tmp_path, ranked(), eval_dataset=first.train_dataset, objective="plackett_luce", max_steps=1
    )
    fresh = build(random_setting, tmp_path, ranked(), eval_dataset=ranked(), objective="plackett_luce", max_steps=1)
    assert again.evaluate()["eval_loss"] == pytest.approx(fresh.evaluate()["eval_loss"], rel=1e-6)
    with pytest.raises(InputError, match="prepared"):
        build(random_setting, tmp_path, first.train_dataset, objective="dpo")
    with pytest.raises(InputError, match="prepared"):
        build(random_setting, tmp_path, validate_rows(ranked()).dataset, objective="plackett_luce")


@pytest.mark.parametrize("responses", [["rinse it first", "7", "8"], ["rinse it first", "7", "8 no", "9 rice"]])
def test_all_responses_of_a_list_are_scored_over_the_same_tokens_of_the_prompt(random_setting, tmp_path, responses):
    """The prompt ends in a space, which merges with some of the responses and not with others."""
    row = {"prompt": "how do I cook rice ", "responses": responses, "ranks": list(range(1, len(responses) + 1))}
    run = build(random_setting, tmp_path, Dataset.from_list([row, *ranked(2)]), objective="plackett_luce", max_steps=1)
    rows = [r for r in run.train_dataset if r["prompt"] == row["prompt"]]
    assert len({tuple(r["prompt_ids"]) for r in rows}) == 1
    said = {}
    for r in rows:
        for place, ids in zip(r["list_places"], (r["chosen_ids"], r["rejected_ids"]), strict=True):
            assert said.setdefault(place, ids) == ids
    assert len(pack(run.data_collator([run.examples(run.train_dataset)[0]])).groups[0].responses) == len(responses)


def test_a_filter_counts_lists_and_not_their_rows(random_setting, tmp_path):
    lists = [
        {
            "prompt": f"Q {i}? ",
            "responses": [f" {SAY[j % 6]} {j}" for j in range(k)],
            "ranks": list(range(1, k + 1)),
            "weight": 10.0 - i,
        }
        for i, k in enumerate([9, 9, 9, 9, 2, 2, 2, 2])
    ]
    for order in (lists, [row | {"weight": 3.0 + i} for i, row in enumerate(lists)]):
        run = build(
            random_setting, tmp_path, Dataset.from_list(order), objective="mallows_list_theta", dispersion="column",
            dispersion_filter=[0.0, 0.5], max_steps=1,
        )  # fmt: skip
        assert len(run.examples(run.train_dataset)) == 4


def test_the_limit_of_tied_responses_is_that_of_a_list_and_told_before_training(random_setting, tmp_path):
    def row(name, ranks):
        return {"prompt": f"{name}? ", "responses": [f" {SAY[j % 6]} {j}" for j in range(len(ranks))], "ranks": ranks}

    mixed = Dataset.from_list([row("long", list(range(1, 14))), row("tied", [1, 1, 2])])
    changes = {"objective": "plackett_luce", "learning_rate": 0.0}
    losses = [
        history(
            trained(random_setting, tmp_path, mixed, max_steps=steps, per_device_train_batch_size=size, **changes),
            "loss",
        )
        for steps, size in ((1, 2), (2, 1))
    ]
    losses = [np.mean(one) for one in losses]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    tied = Dataset.from_list([row("fine", [1, 2]), row("long", [1, 1, *range(2, 13)])])
    with pytest.raises(InputError, match="row 2"):
        build(random_setting, tmp_path, tied, objective="plackett_luce")
    build(random_setting, tmp_path, tied, objective="mallows_list_theta", max_steps=1)


def test_prediction_gives_the_loss_and_metrics_of_logits_are_refused(random_setting, tmp_path):
    changes = {"objective": "plackett_luce", "precompute_ref_log_probs": True, "peft_config": lora()}
    run = trained(random_setting, tmp_path, ranked(), max_steps=1, **changes)
    found = run.predict(ranked(5))
    assert found.predictions is None and np.isfinite(found.metrics["test_loss"])
    with pytest.raises(InputError, match="compute_metrics"):
        build(random_setting, tmp_path, ranked(), objective="plackett_luce", compute_metrics=lambda out: {})


def command(*given):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in given])
    assert ended.value.code == 0


def stored_lists(setting, tmp_path, rows, *more):
    """A store of the rows, written by the command, and the rows' file."""
    rows.to_json(tmp_path / "lists.jsonl")
    given = [
        "--model_name_or_path", setting.path, "--dataset_name", str(tmp_path / "lists.jsonl"), "--use_cpu",
        "--output_dir", str(tmp_path / "store"), "--max_length", "256", *more,
    ]  # fmt: skip
    command("reference", *given)
    return tmp_path / "store"


def test_a_run_on_lists_from_a_store_is_a_run_without(random_setting, tmp_path):
    rows = ranked()
    store = stored_lists(random_setting, tmp_path, rows, "--objective", "mallows_list_phi")
    # The objective only says that lists are kept whole: any that reads them takes the store.
    for objective in ("mallows_list_theta", "mallows_list_phi"):
        runs = [
            trained(random_setting, tmp_path, rows, objective=objective, max_steps=3, **more)
            for more in ({"reference_store": str(store)}, {"precompute_ref_log_probs": True})
        ]
        assert "reused from" in runs[0].reference_sources["train"]
        assert history(runs[0], "loss") == pytest.approx(history(runs[1], "loss"), rel=1e-5)
    with pytest.raises(InputError, match="reference_store.* without --objective"):
        build(random_setting, tmp_path, rows, objective="mallows_theta", reference_store=str(store))


def test_a_store_of_pairs_is_refused_for_lists_and_one_of_lists_has_an_index(random_setting, tmp_path):
    pairs, whole = tmp_path / "pairs", tmp_path / "whole"
    for folder in (pairs, whole):
        folder.mkdir()
    store = stored_lists(random_setting, pairs, ranked())
    with pytest.raises(InputError, match="reference_store.* --objective plackett_luce"):
        build(random_setting, tmp_path, ranked(), objective="plackett_luce", reference_store=str(store))
    store = stored_lists(random_setting, whole, ranked(), "--objective", "plackett_luce")
    given = ("--reference", store, "--dataset_name", whole / "lists.jsonl", "--output_dir", whole / "index")
    command("dispersion", *given)
    table = pq.read_table(whole / "index" / "dispersion.parquet").to_pydict()
    rows = validate_rows(ranked(), lists=True).dataset
    assert [table[name] for name in ("chosen", "rejected")] == [rows[name][:] for name in ("chosen", "rejected")]


def test_a_map_is_fitted_on_lists_whatever_their_length(random_setting, tmp_path):
    run = build(random_setting, tmp_path, ranked(), objective="mallows_list_theta", dispersion_map="quantile")
    first = run.train_dataset.to_pandas().groupby(LIST_COLUMN, sort=False).first()
    # The quantile map gives N examples the N quantiles of its law, each once.
    again = fit_map("quantile", first["dispersion_index"].to_numpy())
    np.testing.assert_allclose(first["dispersion_raw"], again.raw(first["dispersion_index"])[0])
