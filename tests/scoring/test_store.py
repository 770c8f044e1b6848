"""The reference store: resumable to the byte, checked, lengthened, locked."""

import json
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
from stores import TinyReference, token_rows

from forks import in_child
from mallowspo.errors import InputError
from mallowspo.locks import folder_lock
from mallowspo.scoring import (
    Processes,
    ReferenceStore,
    StoreSettings,
    check_store,
    find_stores,
    remove_store,
    settle_settings,
    write_store,
)

SETTINGS = StoreSettings(batch_size=4, shard_rows=8)


@pytest.fixture
def reference():
    return TinyReference()


@pytest.fixture(scope="module")
def rows():
    return token_rows(60)


def write(folder, reference, rows, settings=SETTINGS, **keywords):
    return write_store(
        folder, rows, key=reference.key(rows), score=reference.score, settings=settings,
        made_with={"model": "tiny"}, **keywords,
    )  # fmt: skip


def contents(folder):
    """Every file that a reader sees."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


def flip_a_bit(path, byte=200):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


def test_what_is_read_is_what_was_scored(reference, rows, tmp_path):
    result = write(tmp_path / "r", reference, rows)
    assert (result.computed, result.reused, result.damaged) == (8, 0, ())
    stored = ReferenceStore.open(tmp_path / "r").read()
    # Shards are scored apart, so whole batches of the same rows differ from them in the last bits only.
    straight = reference.score(rows)
    np.testing.assert_allclose(stored.scores.logp_nk, straight.logp_nk, rtol=1e-5)
    np.testing.assert_allclose(stored.scores.divergent_entropy_nk, straight.divergent_entropy_nk, rtol=1e-4)
    np.testing.assert_array_equal(stored.scores.length_nk, straight.length_nk)
    assert stored.row_index.tolist() == rows["row_index"][:] and stored.prompt_ids == rows["prompt_id"][:]
    assert stored.vocab_size == 400 and stored.scores.token_entropies is None
    first = reference.score(rows.select(range(8)))
    np.testing.assert_array_equal(stored.scores.logp_nk[:8], first.logp_nk)


def test_entropies_per_token_on_request(reference, rows, tmp_path):
    some = rows.select(range(10))
    settings = StoreSettings(batch_size=4, shard_rows=8, per_token=True)
    write_store(
        tmp_path / "r", some, key=reference.key(some), settings=settings,
        score=lambda part: reference.score(part, per_token=True),
    )  # fmt: skip
    stored = ReferenceStore.open(tmp_path / "r").read(token_entropies=True)
    for i, row in enumerate(stored.scores.token_entropies):
        for k, tokens in enumerate(row):
            assert tokens.sum() == pytest.approx(stored.scores.entropy_sum_nk[i, k], rel=1e-5)
            assert tokens[0] == pytest.approx(stored.scores.first_entropy_nk[i, k], rel=1e-6)
    write(tmp_path / "without", reference, some)
    with pytest.raises(InputError, match="made without --per_token"):
        ReferenceStore.open(tmp_path / "without").read(token_entropies=True)


def test_killed_many_times_it_ends_with_the_same_bytes(reference, rows, tmp_path):
    """Kills with signal 9 at random moments; each go resumes what the last one left."""
    started = time.monotonic()
    write(tmp_path / "whole", reference, rows)
    whole_run = time.monotonic() - started
    draw, kills, goes = random.Random(7), 0, 0
    for attempt in range(6):
        folder = tmp_path / f"killed{attempt}"
        while not (folder / "manifest.json").exists():
            child = in_child(lambda folder=folder: write(folder, reference, rows))
            # Longer and longer: on a machine that has become busy a shard may take what a whole run took before.
            time.sleep(draw.uniform(0, whole_run * (1 + goes / 50)))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            goes += 1
            kills += os.WIFSIGNALED(status)
            assert goes < 400
        result = write(folder, reference, rows)  # the last kill may have come before the progress was cleared
        assert result.computed == 0
        assert contents(folder) == contents(tmp_path / "whole")
    assert kills >= 8


def test_a_killed_append_leaves_the_old_store_whole(reference, rows, tmp_path):
    write(tmp_path / "r", reference, rows.select(range(20)))
    before = ReferenceStore.open(tmp_path / "r").read()

    def slowly(part):
        time.sleep(0.05)
        return reference.score(part)

    child = in_child(
        lambda: write_store(tmp_path / "r", rows, key=reference.key(rows), score=slowly, settings=SETTINGS)
    )
    while not list((tmp_path / "r" / ".progress").glob("shard-*.json")):
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    store = ReferenceStore.open(tmp_path / "r")
    assert store.manifest.rows == 20 and not store.damaged()
    np.testing.assert_array_equal(store.read().scores.logp_nk, before.scores.logp_nk)
    assert write(tmp_path / "r", reference, rows).manifest.rows == 60


def test_appending_computes_the_new_rows_only(reference, rows, tmp_path):
    write(tmp_path / "r", reference, rows.select(range(20)))
    before = contents(tmp_path / "r")
    reference.rows_scored = 0
    result = write(tmp_path / "r", reference, rows)
    assert reference.rows_scored == 40 and (result.computed, result.reused) == (5, 3)
    after = contents(tmp_path / "r")
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    assert ReferenceStore.open(tmp_path / "r").read().row_index.tolist() == rows["row_index"][:]


def test_a_second_run_computes_nothing(reference, rows, tmp_path):
    write(tmp_path / "r", reference, rows)
    before, reference.rows_scored = contents(tmp_path / "r"), 0
    assert write(tmp_path / "r", reference, rows).computed == 0
    assert reference.rows_scored == 0 and contents(tmp_path / "r") == before


@pytest.mark.parametrize("damage", ["bit", "truncated", "missing"])
def test_a_damaged_shard_is_named_and_alone_computed_again(reference, rows, tmp_path, damage):
    write(tmp_path / "r", reference, rows)
    before = contents(tmp_path / "r")
    shard = tmp_path / "r" / "shard-00002.parquet"
    if damage == "bit":
        flip_a_bit(shard)
    elif damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        shard.unlink()
    store = ReferenceStore.open(tmp_path / "r")
    assert [text.split(":")[0] for text in store.damaged()] == ["shard-00002.parquet"]
    with pytest.raises(InputError, match=r"shard-00002\.parquet: .*computes these shards again"):
        store.read()
    reference.rows_scored = 0
    result = write(tmp_path / "r", reference, rows)
    assert result.damaged == ("shard-00002.parquet",) and reference.rows_scored == 8
    assert contents(tmp_path / "r") == before


@pytest.mark.parametrize(
    "file", ["../shard-00000.parquet", "/elsewhere/shard-0.parquet", "a/shard-0.parquet", "secret", 3]
)
def test_a_manifest_whose_shards_leave_its_folder_is_refused(reference, rows, tmp_path, file):
    write(tmp_path / "r", reference, rows)
    (tmp_path / "shard-00000.parquet").write_bytes((tmp_path / "r" / "shard-00000.parquet").read_bytes())
    path = tmp_path / "r" / "manifest.json"
    values = json.loads(path.read_text())
    values["shards"][0]["file"] = file
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="manifest.json.*of this folder"):
        ReferenceStore.open(tmp_path / "r")


@pytest.mark.parametrize("where", range(0, 2000, 97))
def test_every_flipped_bit_is_seen(reference, rows, tmp_path, where):
    write(tmp_path / "r", reference, rows.select(range(8)))
    shard = tmp_path / "r" / "shard-00000.parquet"
    flip_a_bit(shard, where % shard.stat().st_size)
    assert len(ReferenceStore.open(tmp_path / "r").damaged()) == 1


def test_a_damaged_manifest_is_named(reference, rows, tmp_path):
    write(tmp_path / "r", reference, rows)
    manifest = tmp_path / "r" / "manifest.json"
    text = manifest.read_text()
    for broken in (text[:50], text.replace('"max_length": 64', '"max_length": 65'), "[]", text.replace("shards", "s")):
        manifest.write_text(broken)
        with pytest.raises(InputError, match=r"manifest\.json: the file is damaged"):
            ReferenceStore.open(tmp_path / "r")
    manifest.write_text(text.replace('"dtype": "', '"dtype": "\\ud83d', 1))
    with pytest.raises(InputError, match=r"manifest\.json: the file is damaged"):
        ReferenceStore.open(tmp_path / "r")
    manifest.write_text(text.replace('"format": 1', '"format": 9', 1))
    with pytest.raises(InputError, match="written in format 9, this version reads 1"):
        ReferenceStore.open(tmp_path / "r")
    whole = {"format": 1, "reference": 0, "settings": {}, "made_with": {}, "shards": []}
    for odd in ("words", ["a"], 7, None):  # where a mapping belongs
        manifest.write_text(json.dumps(whole | {"reference": odd}))
        with pytest.raises(InputError, match=r"manifest\.json: the file is damaged"):
            ReferenceStore.open(tmp_path / "r")


@pytest.mark.parametrize("change", ["empty", "rows", "column", "type"])
def test_a_shard_of_another_writer_is_refused(reference, rows, tmp_path, change):
    """Its checksum is that of the manifest, its content is not scores."""
    import pyarrow.parquet as pq

    from mallowspo.scoring.store_format import file_checksum

    write(tmp_path / "r", reference, rows)
    shard, manifest = tmp_path / "r" / "shard-00000.parquet", tmp_path / "r" / "manifest.json"
    table = pq.read_table(shard)
    other = {
        "rows": table.slice(1),
        "column": table.drop_columns("logp"),
        "type": table.set_column(4, "logp", table["prompt_id"]),
    }
    if change == "empty":
        shard.write_bytes(b"")
    else:
        pq.write_table(other[change], shard)
    values = json.loads(manifest.read_text())
    values["shards"][0]["sha256"] = file_checksum(shard)
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputError, match="another program"):
        ReferenceStore.open(tmp_path / "r").read()


def test_a_store_of_another_reference_is_refused_with_the_field_named(reference, rows, tmp_path):
    write(tmp_path / "r", reference, rows)
    before = contents(tmp_path / "r")
    with pytest.raises(InputError, match=r"another reference: max_length is 64 in the store and 32 here"):
        write_store(tmp_path / "r", rows, key=reference.key(rows, max_length=32), score=reference.score)
    with pytest.raises(InputError, match="tokenizer is "):  # known before any model is loaded
        check_store(tmp_path / "r", type(reference.key(rows))(tokenizer="f" * 64))
    changed = rows.to_list()
    changed[17]["chosen_ids"][0] += 1
    other = type(rows).from_list(changed)
    with pytest.raises(InputError, match="the tokens of rows 17 to 24 differ"):
        write(tmp_path / "r", reference, other)
    with pytest.raises(InputError, match="holds the scores of 60 rows, and the data has 59"):
        write(tmp_path / "r", reference, rows.select(range(59)))
    assert contents(tmp_path / "r") == before


def test_other_files_are_not_written_among(reference, rows, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds other files \(thesis\.tex\)"):
        write(tmp_path, reference, rows)
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "thesis.tex", reference, rows)


def test_settings_of_a_store_that_was_begun_stay(reference, rows, tmp_path):
    def settled(**given):
        return settle_settings(tmp_path / "r", **({"batch_size": None, "shard_rows": None, "per_token": None} | given))

    assert settled(batch_size=3) == StoreSettings(batch_size=3)
    write(tmp_path / "r", reference, rows)
    assert settled() == SETTINGS == settled(batch_size=4)
    with pytest.raises(InputError, match="batch_size: got 8, but the store .* was begun with 4"):
        settled(batch_size=8)
    with pytest.raises(InputError, match="shard_rows: got 0, expected at least 1"):
        settled(shard_rows=0)


def test_two_writers_one_is_refused_and_named(reference, rows, tmp_path):
    child = in_child(lambda: _hold(tmp_path / "r"))
    while not (tmp_path / "r" / "held").exists():
        time.sleep(0.005)
    with pytest.raises(InputError, match=f"process {child} on .* is writing a store"):
        write(tmp_path / "r", reference, rows)
    with pytest.raises(InputError, match="is writing|holds no reference store"):
        remove_store(tmp_path / "r")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (tmp_path / "r" / "held").unlink()
    assert write(tmp_path / "r", reference, rows).computed == 8  # a lock dies with its process


def _hold(folder):
    with folder_lock(folder, "a store", keep_file=True):
        (folder / "held").touch()
        time.sleep(60)


def test_full_disk_leaves_what_was_finished(reference, rows, tmp_path):
    """A limit on the size of files stands for the disk: the write fails in the middle of a shard."""
    write(tmp_path / "whole", reference, rows)
    largest = max(p.stat().st_size for p in (tmp_path / "whole").glob("*.parquet"))
    seen = tmp_path / "message"

    def run():
        done = []

        def score(part):
            if len(done) == 3:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))
            done.append(len(part))
            return reference.score(part)

        try:
            write_store(tmp_path / "r", rows, key=reference.key(rows), score=score, settings=SETTINGS,
                        made_with={"model": "tiny"})  # fmt: skip
        except InputError as error:
            seen.write_text(str(error))

    os.waitpid(in_child(run), 0)
    assert all(
        part in seen.read_text() for part in ("cannot be written", "File too large", "run the same command again")
    )
    assert not [p.name for p in (tmp_path / "r").glob(".shard*")]
    reference.rows_scored = 0
    # The third shard is written while the fourth is scored: the disk may be full for it, too.
    reused = write(tmp_path / "r", reference, rows).reused
    assert reused in (2, 3) and reference.rows_scored == 60 - 8 * reused
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_a_half_written_store_is_no_store(reference, rows, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        ReferenceStore.open(tmp_path / "r")
    (tmp_path / "r").mkdir()
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        ReferenceStore.open(tmp_path / "r")

    def fails(part):
        if part["row_index"][0] > 40:
            raise RuntimeError("out of memory")
        return reference.score(part)

    with pytest.raises(RuntimeError, match="out of memory"):
        write_store(tmp_path / "r", rows, key=reference.key(rows), score=fails, settings=SETTINGS)
    with pytest.raises(InputError, match="was not finished"):
        ReferenceStore.open(tmp_path / "r")
    assert find_stores(tmp_path) == [tmp_path / "r"]
    # Nothing says yet in how large shards it must go on: the two that are there do.
    assert settle_settings(tmp_path / "r", batch_size=None, shard_rows=None, per_token=None) == SETTINGS


def test_list_and_remove(reference, rows, tmp_path):
    write(tmp_path / "a", reference, rows)
    write(tmp_path / "b" / "c", reference, rows.select(range(9)))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.json").write_text("{}")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    assert find_stores(tmp_path) == [tmp_path / "a", tmp_path / "b" / "c"]
    assert remove_store(tmp_path / "b" / "c") > 0 and not (tmp_path / "b" / "c").exists()
    remove_store(tmp_path / "a")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="holds no reference store"):
        remove_store(tmp_path / "d" / "x")


def test_manifest_says_what_it_is_made_of(reference, rows, tmp_path):
    write(tmp_path / "r", reference, rows)
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["key"] == reference.key(rows).digest and manifest["rows"] == 60
    assert manifest["tokens"] == sum(len(r) for side in ("chosen_ids", "rejected_ids") for r in rows[side])
    assert manifest["made_with"] == {"model": "tiny"} and len(manifest["shards"]) == 8


def test_processes_of_one():
    assert Processes().is_first and Processes(1, 2).is_first is False
