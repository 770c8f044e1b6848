"""The study of the indexes against people: its scores against plain logits, its figures on people made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from forks import run_script
from mallowspo.compat import add_score_head
from mallowspo.dispersion import ESTIMATORS
from mallowspo.dispersion.votes_file import VoteRows
from mallowspo.errors import InputError
from mallowspo.experiments.estimator import CONTROLS, EstimatorConfig, run_estimator_study
from mallowspo.experiments.estimator_scores import score_pairs
from tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent


def entropies(model, prompt, response):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).numpy(), float(log_p[range(len(response)), response].sum())


def test_scores_are_those_of_plain_logits():
    tokenizer = tiny_tokenizer()
    plain, scored = (tiny_llama(vocab_size=len(tokenizer)) for _ in range(2))
    add_score_head(scored)
    prompts = ["The quick brown fox jumps over the dog", "Once upon a time"]
    responses = [(" good bad", " good maybe yes"), (" one", " one"), (" no", " yes no maybe one two three")]
    rows = VoteRows(np.ones((3, 3)), ["a", "a", "b"], np.arange(3), [prompts[0]] * 2 + prompts[1:], responses, "")
    found = score_pairs(
        scored, tokenizer, rows, max_prompt_tokens=6, max_length=12, batch_size=2, progress=lambda *_: None, stage=""
    )

    def ids(text, room):
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id][:room]

    for row, (prompt, pair) in enumerate(zip(rows.prompts, responses, strict=True)):
        before = [tokenizer.bos_token_id, *tokenizer(prompt + "\n", add_special_tokens=False)["input_ids"][-5:]]
        read = [ids(text, 12 - len(before)) for text in pair]
        sums = [entropies(plain, before, response) for response in read]
        assert found.statistics.entropy_sum_nk[row] == pytest.approx([e.sum() for e, _ in sums], rel=1e-5)
        assert found.statistics.logp_nk[row] == pytest.approx([logp for _, logp in sums], rel=1e-5)
        assert found.statistics.first_entropy_nk[row] == pytest.approx([e[0] for e, _ in sums], rel=1e-5)
        differs = [i for i, (a, b) in enumerate(zip(*read, strict=False)) if a != b]
        if differs:
            expected = [e[differs[0]] for e, _ in sums]
            assert found.statistics.divergent_entropy_nk[row] == pytest.approx(expected, rel=1e-5)
        else:
            assert np.isnan(found.statistics.divergent_entropy_nk[row]).all()
    assert (found.responses, found.prompts, found.cut_prompts) == (5, 2, 2) and found.cut_responses >= 1


def test_the_study_asks_every_index_and_control(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = "good bad yes no maybe one two three four five".split()
    # People contradict each other on long answers: the control `length` must find exactly that.
    rows = [
        {
            "prompt": f"Question {i // 2}",
            "chosen": " " + " ".join(words[: i + 1]),
            "rejected": " " + words[-1] * (i + 1),
            "votes": [2, 1] if i >= 5 else [3, 0],
        }
        for i in range(10)
    ]
    (tmp_path / "v.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = EstimatorConfig(
        model=str(tmp_path / "model"), data={"toy": str(tmp_path / "v.jsonl")}, output_dir=str(tmp_path / "out"),
        resamples=50,
    )  # fmt: skip
    results = run_estimator_study(config)["data"]["toy"]
    assert set(results["indexes"]) == {*ESTIMATORS, *CONTROLS}
    assert results["indexes"]["length"]["auroc"]["value"] == 1.0
    assert results["indexes"]["length"]["pairs"]["value"] == pytest.approx(0.87, abs=0.01)  # ties of φ cost the rest
    assert (results["contradicted"], results["unanimous"], results["prompts"]) == (5, 5, 5)
    stored = json.loads((tmp_path / "out/results.json").read_text())["data"]["toy"]
    assert stored["indexes"]["length"]["auroc"] == results["indexes"]["length"]["auroc"]
    assert (tmp_path / "out/toy.png").stat().st_size > 10_000
    (tmp_path / "w.jsonl").write_text(json.dumps({"votes": [1, 2]}))
    with pytest.raises(InputError, match="without words"):
        run_estimator_study(EstimatorConfig(model="", data={"w": str(tmp_path / "w.jsonl")}, output_dir=str(tmp_path)))
    with pytest.raises(InputError, match="at least one file"):
        run_estimator_study(EstimatorConfig(model="", data={}, output_dir=str(tmp_path)))


def test_the_page_shows_the_committed_results(tmp_path):
    done = run_script(ROOT / "docs/runs/estimator_study.py", "--check", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr
