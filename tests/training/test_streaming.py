"""A streamed training set: the numbers of the same rows in memory, or a refusal that names the option."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from pairs import options, small_pairs
from training_stores import store_of

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.data.sources import load_preferences
from mallowspo.errors import InputError

ROWS = small_pairs(24)
WITH_PHI = ROWS.add_column("dispersion", np.random.default_rng(0).uniform(0.1, 0.9, 24).round(3))


def run(setting, tmp_path, rows, *, steps=3, **changes):
    """Train in the order in which the rows come; losses, calibration and weights."""
    args = {
        "max_steps": steps, "per_device_train_batch_size": 4, "train_sampling_strategy": "sequential",
        "dispersion_per": "pair", **changes,
    }  # fmt: skip
    if args.get("objective") == "dpo":
        del args["dispersion_per"]
    trainer = MallowsPOTrainer(setting.path, args=MallowsPOConfig(**options(tmp_path, **args)), train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, trainer.calibration, trainer.model.state_dict()


@pytest.fixture(scope="module")
def stored(tmp_path_factory, random_setting):
    folder = tmp_path_factory.mktemp("streams") / "r"
    store_of(folder, random_setting.path, ROWS)
    return str(folder)


@pytest.mark.parametrize("way", ["column", "scale", "weights", "store", "live"])
def test_a_stream_trains_as_its_rows_in_memory(way, random_setting, tmp_path, stored):
    rows, options = WITH_PHI, {"dispersion": "column"}
    if way == "scale":  # windows of 5 rows, of which none is the whole set
        options |= {"dispersion_scale": 1.3, "stream_window": 5}
    elif way == "weights":
        rows = WITH_PHI.rename_column("dispersion", "weight").add_column("loss_weight", [1.0] * 24)
        options |= {"stream_window": 7}
    elif way == "store":
        rows, options = ROWS, {"reference_store": stored, "max_length": 256, "stream_window": 5}
    elif way == "live":
        rows, options = ROWS, {"objective": "dpo", "stream_window": 5}
    whole = run(random_setting, tmp_path, rows, **{k: v for k, v in options.items() if k != "stream_window"})
    streamed = run(random_setting, tmp_path, rows.to_iterable_dataset(num_shards=2), **options)
    assert streamed[0] == whole[0]
    if way in ("column", "store"):  # where the first window, or the store, holds all rows
        assert streamed[1] == whole[1]
    for name, value in whole[2].items():
        assert torch.equal(value, streamed[2][name]), name


def test_the_first_window_calibrates_and_rows_that_cannot_be_used_are_left_out(random_setting, tmp_path):
    """phi* of 10 rows is that of a run on these 10 alone; a window of bad rows gives none."""
    bad = [{"prompt": "a", "chosen": " b", "rejected": " b", "dispersion": 0.5}] * 5
    rows = Dataset.from_list([*WITH_PHI.select(range(10)), *bad, *WITH_PHI.select(range(10, 24))])
    options = {"dispersion": "column", "invalid_rows": "drop"}
    first = run(random_setting, tmp_path, WITH_PHI.select(range(10)), steps=1, **options)[1]
    stream = rows.to_iterable_dataset()
    streamed = run(random_setting, tmp_path, stream, steps=6, stream_window=5, **options)[1]
    ten = run(random_setting, tmp_path, stream, steps=6, stream_window=10, **options)
    assert ten[1].scale == first.scale and streamed.scale != first.scale
    whole = run(random_setting, tmp_path, rows, steps=6, dispersion_scale=first.scale, **options)
    assert ten[0] == whole[0]
    with pytest.raises(InputError, match="rows? 11") as error:
        run(random_setting, tmp_path, stream, steps=6, stream_window=5, dispersion="column")
    assert "identical" in str(error.value)


def test_rows_left_out_are_named_once_however_often_they_come(random_setting, tmp_path, caplog):
    same = {"prompt": "a", "chosen": " b", "rejected": " b"}
    rows = [*ROWS.select(range(4)), same, *ROWS.select(range(5)), *[same] * 5, *ROWS.select(range(3))]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    changes = {"objective": "dpo", "invalid_rows": "drop", "stream_window": 5}
    run(random_setting, tmp_path, stream, steps=9, **changes)  # three epochs of 12 rows
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.rpartition(" ")[2] for line in said if "left out" in line] == ["5"]
    assert sum("none of the 5 rows" in line and "11" in line for line in said) == 1


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({}, "dispersion"),
        ({"objective": "dpo", "max_steps": -1}, "max_steps"),
        ({"objective": "dpo", "precompute_ref_log_probs": True}, "precompute_ref_log_probs"),
        ({"objective": "mallows_list_theta", "dispersion": "votes"}, "objective"),
        ({"dispersion": "votes"}, "dispersion_per"),
        ({"dispersion": "column", "dispersion_filter": [0.1, 0.9]}, "dispersion_filter"),
        ({"dispersion": "column", "dispersion_order": "agreed_first"}, "dispersion_order"),
        ({"dispersion": "column", "dispersion_shrink": "votes", "dispersion_votes": "v.csv"}, "dispersion_shrink"),
    ],
)
def test_what_needs_all_rows_is_refused_by_name(changes, option, tmp_path):
    args = MallowsPOConfig(**options(tmp_path, max_steps=2) | changes)
    with pytest.raises(InputError, match=f"^{option}: "):
        MallowsPOTrainer("there is no such model", args=args, train_dataset=ROWS.to_iterable_dataset())


def test_a_window_without_a_stream_is_refused(tmp_path):
    args = MallowsPOConfig(**options(tmp_path, objective="dpo", stream_window=5))
    with pytest.raises(InputError, match="^stream_window: "):
        MallowsPOTrainer("there is no such model", args=args, train_dataset=ROWS)


def test_rows_that_are_not_the_stores_are_refused(random_setting, tmp_path, stored):
    options = {"reference_store": stored, "max_length": 256}
    other = ROWS.select([1, 0, *range(2, 24)]).to_iterable_dataset()
    with pytest.raises(InputError, match="^reference_store: row 1 "):
        run(random_setting, tmp_path, other, **options)
    with pytest.raises(InputError, match="^reference_store: .*max_length"):
        run(random_setting, tmp_path, ROWS.to_iterable_dataset(), reference_store=stored, max_length=64)


def test_a_column_that_begins_later_is_refused_where_it_counts_and_passed_over_where_not(random_setting, tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[3]["prompt"] = ""  # a window that loses a row, so that its columns are shorter than they came
    rows[9]["note"], rows[2]["mixed"], rows[3]["mixed"] = "seen late", 1, "one"
    changes = {"objective": "dpo", "stream_window": 4, "invalid_rows": "drop"}
    stream = IterableDataset.from_generator(lambda: iter(rows))
    assert len(run(random_setting, tmp_path, stream, steps=4, **changes)[0]) == 4
    rows[9]["loss_weight"] = 2.0
    stream = IterableDataset.from_generator(lambda: iter(rows))
    with pytest.raises(InputError, match="^column 'loss_weight': rows 9 to 12"):
        run(random_setting, tmp_path / "late", stream, **changes)


def test_image_text_pairs_are_refused_in_one_sentence(random_setting, tmp_path):
    rows = IterableDataset.from_generator(lambda: iter([{**ROWS[0], "image": "a.png"}]))
    with pytest.raises(InputError, match="^train data: the column 'image'") as error:
        run(random_setting, tmp_path, rows, objective="dpo")
    assert "\n" not in str(error.value)


def test_a_file_is_streamed_row_by_row(tmp_path):
    """A bad line far behind stops the reading there, or is left out; before it nothing was read of it."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{\n" + json.dumps(ROWS[3]) + "\n")
    stream = load_preferences(path, streaming=True).dataset
    assert isinstance(stream, IterableDataset) and list(stream.take(2)) == [
        {**ROWS[i], "row_index": i} for i in range(2)
    ]
    with pytest.raises(InputError, match="row 25"):
        list(stream)
    left = list(load_preferences(path, streaming=True, invalid_rows="drop").dataset)
    assert len(left) == 25 and left[-1] == {**ROWS[3], "row_index": 25}


def test_a_stopped_run_goes_on_behind_the_rows_that_it_has_seen(random_setting, tmp_path):
    changes = {"dispersion": "column", "stream_window": 5, "dispersion_per": "pair", "max_steps": 4,
               "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}  # fmt: skip
    stream, ended = WITH_PHI.to_iterable_dataset(), []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        args = MallowsPOConfig(**options(tmp_path, **changes))
        trainer = MallowsPOTrainer(random_setting.path, args=args, train_dataset=stream)
        trainer.train(resume_from_checkpoint=resume)
        ended.append(trainer.model.state_dict())
    assert trainer.state.global_step == 4
    for name, value in ended[0].items():
        assert torch.equal(value, ended[1][name]), name
