"""`make realrun` on a tiny random model and dialogues of its own: the whole chain, going on, and what it refuses."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mallowspo.cli.exits import exit_code_of
from mallowspo.stats.verdicts import AGAINST_BASELINE
from tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes/smollm2"))

import judge  # noqa: E402
import prepare  # noqa: E402
import realrun  # noqa: E402

SIZES = ["--train_pairs", "8", "--heldout_pairs", "8", "--prompts", "3", "--max_new_tokens", "4"]


def dialogue(question, answer):
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def write_hh(folder):
    """As HH is published: two whole dialogues a row; some have several turns, which are left out."""
    folder.mkdir(parents=True)
    for name, first in (("train", 0), ("test", 100)):
        rows = [
            {side: dialogue(f"Where is number {i}?", f"{side} {i}") for side in ("chosen", "rejected")}
            for i in range(first, first + 20)
        ]
        rows.append({side: dialogue("Hi.", "Yes?") + dialogue("No.", side) for side in ("chosen", "rejected")})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def write_model(folder, *, chat=True):
    tokenizer = tiny_tokenizer(chat=chat)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A whole run: its arguments, its folder and its results."""
    folder = tmp_path_factory.mktemp("realrun")
    hh = write_hh(folder / "hh/helpful-base").parent
    model = write_model(folder / "model")
    arguments = ["--data", str(hh), "--model", str(model), "--output_dir", str(folder / "out"), *SIZES]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert realrun.main(arguments) == 0
    return arguments, folder / "out", json.loads((folder / "out/results.json").read_text(encoding="utf-8"))


def test_every_command_leaves_its_page_and_the_page_says_what_was_found(ran):
    _, out, results = ran
    assert [*results["steps"]] == ["model", *realrun.COMMANDS]
    for command in realrun.COMMANDS.values():
        assert all((out / name).exists() for name in command.leaves)
    assert results["rows"]["single_turn"] == [20, 20]
    assert {row["verdict"] for row in results["verdicts"].values()} <= {*AGAINST_BASELINE}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(AGAINST_BASELINE[row["verdict"]] in page for row in results["verdicts"].values())
    trained, heldout = (
        {row["prompt"][0]["content"] for row in realrun._lines(out / name)}
        for name in ("pairs.jsonl", "heldout.jsonl")
    )
    assert len(trained) == len(heldout) == 8 and not trained & heldout


def test_reward_accuracy_is_that_of_the_log_probabilities_of_the_saved_adapter(ran):
    """Against transformers and peft: the adapter loaded anew, the responses scored one by one."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments, out, results = ran
    model_folder = arguments[3]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), str(out / "dpo")).eval()

    def logp(row, side):
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
        start, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole))
        with torch.no_grad():
            log_probs = policy(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        return float(log_probs.gather(-1, torch.tensor(ids[1:])[:, None])[len(start) - 1 :].sum())

    right = []
    for row in realrun._lines(out / "heldout.jsonl"):
        now = logp(row, "chosen") - logp(row, "rejected")
        with policy.disable_adapter():
            right.append(now > logp(row, "chosen") - logp(row, "rejected"))
    assert results["verdicts"]["accuracy dpo"]["value"]["mean"] == pytest.approx(np.mean(right))


def test_what_is_finished_is_not_run_again_and_what_is_missing_is(ran, tmp_path, monkeypatch):
    arguments, out, results = ran
    monkeypatch.chdir(ROOT)
    again, lines = tmp_path / "out", []
    shutil.copytree(out, again)
    # The commands of a run name its folder, so that a copy's results are those of the copy.
    monkeypatch.setattr(realrun, "_command", lambda words: lines.append(words[0]) or 0)
    arguments = [str(again) if text == str(out) else text for text in arguments]
    realrun.main(arguments)
    assert lines == []
    found = json.loads((again / "results.json").read_text(encoding="utf-8"))
    assert found["verdicts"] == results["verdicts"] and found["steps"] == results["steps"]
    (again / "evaluate/dpo/report.html").unlink()
    realrun.main(arguments)
    assert lines == ["evaluate"]


@pytest.mark.parametrize(
    ("option", "given"),
    [("data", "missing"), ("data", "empty"), ("model", "missing"), ("model", "plain"), ("train_pairs", "2")],
)
def test_what_cannot_be_used_is_refused_before_any_work(option, given, tmp_path, capsys, monkeypatch):
    hh, out = write_hh(tmp_path / "hh"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    if given == "plain":
        write_model(tmp_path / "plain", chat=False)
    value = given if option == "train_pairs" else str(tmp_path / given)
    options = {"data": str(hh), "output_dir": str(out), option: value}
    monkeypatch.setattr(realrun, "run_study", lambda *_: pytest.fail("work was begun"))
    arguments = [part for name, one in options.items() for part in (f"--{name}", one)]
    assert exit_code_of(lambda: realrun.main(arguments)) == 2
    assert f"mallowspo: {option}: " in capsys.readouterr().err and not out.exists()


def test_without_a_network_nothing_is_left_and_the_way_out_is_named(tmp_path):
    """pip, told to use no index, fails as it does without a network."""
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/smollm2/prepare.py", tmp_path / "model"],
        capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2 and "MODEL=folder" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists() and not [*tmp_path.glob("_model*")]


def test_a_model_that_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(prepare, "_download", lambda beside: pytest.fail("downloaded"))
    prepare.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_judge_prefers_the_answer_that_shares_more_words(tmp_path, monkeypatch):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "Boil it, then rest."}) + "\n")
    monkeypatch.setenv(judge.PROMPTS, str(tmp_path / "p.jsonl"))
    assert judge.shared_words("q", "boil it", "leave it") == 1.0
    assert judge.shared_words("q", "leave it", "boil it") == 0.0
    assert judge.shared_words("q", "it", "then") == 0.5
