"""Answers that depend on the prompt and the seed, and on nothing else."""

import json

import numpy as np
import pytest
import torch
from judge_server import JudgeServer

from mallowspo.data.records import prompt_id_of_text
from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import Endpoint, EndpointAddress, RequestLimits
from mallowspo.evaluation.generation import LocalModel, answers_from_file, generate_at_endpoint, generate_locally
from mallowspo.evaluation.local_model import Sampling, prompt_ids, prompt_uniforms, sample_batch
from mallowspo.evaluation.prompts import EvaluationPrompt, load_prompts, read_dispersion
from tiny import tiny_llama, tiny_tokenizer

TEXTS = ["The quick brown fox", "Once upon a time there was a", "good bad", "Question: what is the best way to cook?"]
PROMPTS = [EvaluationPrompt(i, text) for i, text in enumerate(TEXTS)] + [EvaluationPrompt(4, TEXTS[0], repeat=1)]
SAMPLING = Sampling(max_new_tokens=12, temperature=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    model = tiny_llama(vocab_size=len(tokenizer))
    # What a model's own configuration asks for must not come in unasked.
    model.generation_config.repetition_penalty = 5.0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def generate(folder, path, prompts=PROMPTS, **options):
    seed = options.pop("seed", 0)
    return generate_locally(prompts, LocalModel(folder, use_cpu=True, **options), SAMPLING, path, seed=seed)


def test_batches_order_and_interruptions_change_nothing(folder, tmp_path):
    whole = generate(folder, tmp_path / "a.jsonl", batch_size=5)
    assert whole.generated == 5
    single = generate(folder, tmp_path / "b.jsonl", batch_size=1)
    assert single.texts == whole.texts and single.tokens == whole.tokens and single.finished == whole.finished
    backwards = generate(folder, tmp_path / "c.jsonl", prompts=PROMPTS[::-1], batch_size=2)
    assert backwards.texts == whole.texts[::-1]
    # Cut the log in the middle of its third line, as a kill would.
    lines = (tmp_path / "b.jsonl").read_bytes().split(b"\n")
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(lines[:2]) + b"\n" + lines[2][:20])
    again = generate(folder, tmp_path / "b.jsonl")
    assert again.generated == 3 and again.texts == whole.texts


def test_ids_that_the_model_has_no_row_for_are_refused(folder, tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="model: .*'<tool>'.*resize_token_embeddings"):
        generate(str(tmp_path / "model"), tmp_path / "a.jsonl", prompts=[EvaluationPrompt(0, "use <tool> now")])


def test_what_decides_an_answer_decides_it(folder, tmp_path):
    log = tmp_path / "a.jsonl"
    first = generate(folder, log)
    assert first.texts[0] != first.texts[4]  # the same prompt twice is asked twice
    assert generate(folder, log).generated == 0
    assert generate(folder, log, seed=1).texts != first.texts
    assert generate(folder, log, option="baseline").texts != first.texts
    greedy = generate_locally(PROMPTS, LocalModel(folder, use_cpu=True), Sampling(12, temperature=0.0), log)
    assert greedy.generated == 5 and greedy.texts[0] == greedy.texts[4]


def test_a_model_that_was_trained_on_answers_anew(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    generate(str(copy), tmp_path / "a.jsonl")
    tiny_llama(vocab_size=len(tiny_tokenizer()), seed=5).save_pretrained(copy)
    assert generate(str(copy), tmp_path / "a.jsonl").generated == 5


def test_tokens_come_with_the_probabilities_of_the_model():
    model = tiny_llama(vocab_size=6, eos_token_id=5)
    with torch.no_grad():
        p = model(input_ids=torch.tensor([[1, 3]])).logits[0, -1].double().softmax(-1).numpy()
    n = 4000
    uniform = np.random.default_rng(0).random((n, 1))
    drawn = sample_batch(model, [[1, 3]] * n, uniform, Sampling(1, temperature=1.0), end_ids=[5])
    counts = np.bincount([row[0] for row in drawn], minlength=6)
    assert np.sum((counts - n * p) ** 2 / (n * p)) < 20.5  # χ² with 5 degrees of freedom, 99.9%
    # Temperature, top-k and top-p, against their definitions at u → 1: the last token that is kept.
    at_end = np.array([[1 - 1e-12]])
    for sampling, kept in (
        (Sampling(1, temperature=1.0, top_k=2), np.sort(np.argsort(p)[-2:])),
        (Sampling(1, temperature=1.0, top_p=float(np.sort(p)[-1] - 1e-6)), np.argsort(p)[-1:]),
    ):
        assert sample_batch(model, [[1, 3]], at_end, sampling, end_ids=[5]) == [[kept[-1]]]


def test_greedy_answers_are_those_of_transformers(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [[1, 40, 50, 60], [1, 70]]
    found = sample_batch(model, ids, np.zeros((2, 8)), Sampling(8, temperature=0.0), end_ids=[2])
    for row, prompt in zip(found, ids, strict=True):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=8, repetition_penalty=1.0, do_sample=False)
        assert row == out[0, len(prompt) :].tolist()
    assert model.generation_config.repetition_penalty == 5.0  # put back


def test_a_number_of_a_longer_draw_is_that_of_the_shorter():
    assert (prompt_uniforms(3, "x", 4) == prompt_uniforms(3, "x", 9)[:4]).all()
    assert (prompt_uniforms(3, "x", 4) != prompt_uniforms(4, "x", 4)).all()


def test_chat_templates():
    plain, chat = tiny_tokenizer(), tiny_tokenizer(chat=True)
    text = EvaluationPrompt(0, "hello")
    talk = EvaluationPrompt(1, "hello", ({"role": "user", "content": "hello"},))
    rendered = chat("<|user|>hello</s><|assistant|>", add_special_tokens=False)["input_ids"]
    assert prompt_ids(talk, chat) == prompt_ids(text, chat) == prompt_ids(text, chat, "chat") == rendered
    assert prompt_ids(text, plain) == prompt_ids(text, chat, "text") == plain("hello")["input_ids"]
    with pytest.raises(InputError, match="needs a chat template"):
        prompt_ids(talk, plain)
    with pytest.raises(InputError, match="is a conversation"):
        prompt_ids(talk, chat, "text")
    with pytest.raises(InputError, match="expected one of 'auto'"):
        prompt_ids(text, plain, "alpaca")


def test_a_prompt_that_does_not_fit_is_named_before_the_model_is_loaded(folder, tmp_path):
    prompts = [*PROMPTS, EvaluationPrompt(5, "word " * 600)]
    with pytest.raises(InputError, match=r"row 5 .* do not fit into the 512 positions"):
        generate(folder, tmp_path / "a.jsonl", prompts=prompts)


def test_an_endpoint_answers_once_per_prompt_and_resumes(tmp_path):
    fail = {"on": True}

    def faults(question, n):
        return "500" if fail["on"] and question == TEXTS[3] else None

    log = tmp_path / "a.jsonl"
    with JudgeServer(faults) as server:
        limits = RequestLimits(max_retries=1, first_wait=0.01, concurrency=1)
        endpoint = Endpoint(EndpointAddress(server.url, "m"), limits, option="model")
        with pytest.raises(InputError, match=r"model: http.* 3 of 5 answers are saved"):
            generate_at_endpoint(PROMPTS, endpoint, SAMPLING, log)
        fail["on"] = False
        found = generate_at_endpoint(PROMPTS, endpoint, SAMPLING, log)
        assert found.texts == tuple(f"echo {prompt.text}" for prompt in PROMPTS) and found.generated == 2
        assert found.tokens == (7,) * 5 and found.finished == (True,) * 5
        request = server.requests[0]
        assert request["temperature"] == 1.0 and request["max_tokens"] == 12 and "top_p" not in request
        assert request["messages"] == [{"role": "user", "content": TEXTS[0]}]
        assert len({request["seed"] for request in server.requests}) == 5
        as_text = generate_at_endpoint(
            PROMPTS[:1], endpoint, SAMPLING, log, prompt_format="text", parameters={"seed": None, "stop": ["\n"]}
        )
        assert as_text.generated == 1 and server.requests[-1]["prompt"] == TEXTS[0]
        assert "seed" not in server.requests[-1] and server.requests[-1]["stop"] == ["\n"]


def test_answers_from_a_file(tmp_path):
    rows = [{"instruction": p.text, "output": f"answer {i}", "generator": "g"} for i, p in enumerate(PROMPTS)][::-1]
    (tmp_path / "o.json").write_text(json.dumps(rows))
    # With a byte-order mark, as Windows writes it.
    (tmp_path / "o.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    expected = ("answer 4", "answer 1", "answer 2", "answer 3", "answer 0")  # equal prompts in the order of the file
    for name in ("o.json", "o.jsonl"):
        assert answers_from_file(tmp_path / name, PROMPTS, option="baseline").texts == expected
    (tmp_path / "o.json").write_text(json.dumps(rows[:3]))
    with pytest.raises(InputError, match="no answer to 2 of 5 prompts; the first: row 1"):
        answers_from_file(tmp_path / "o.json", PROMPTS, option="baseline")
    (tmp_path / "o.json").write_text(json.dumps([row | {"generator": name} for row in rows for name in ("a", "b")]))
    with pytest.raises(InputError, match="baseline: .*a, b"):
        answers_from_file(tmp_path / "o.json", PROMPTS, option="baseline")
    (tmp_path / "o.json").write_text('[{"instruction": "x"}]')
    with pytest.raises(InputError, match="'instruction' and 'output'"):
        answers_from_file(tmp_path / "o.json", PROMPTS, option="baseline")


def test_prompts_and_what_belongs_to_them(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "p.jsonl"
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "So"},
    ]
    path.write_text("\n".join(json.dumps({"prompt": p, "h": i}) for i, p in enumerate([talk, talk, talk])))
    found = load_prompts(str(path))
    assert found.prompts[0].text == "User: Hi\n\nAssistant: Yes?\n\nUser: So"
    assert [p.repeat for p in found.prompts] == [0, 1, 2] and found.prompts[0].conversation() == talk
    assert found.numbers("h", "dispersion_column").tolist() == [0, 1, 2]
    assert len(load_prompts(str(path), limit=2).prompts) == 2
    pq.write_table(pa.table({"prompt": ["b", "a"], "index": [2.0, 1.0]}), tmp_path / "d.parquet")
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}')
    assert read_dispersion(tmp_path / "d.parquet", load_prompts(str(path)), column="index").tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match="no column 'phi'; it has prompt, index"):
        read_dispersion(tmp_path / "d.parquet", load_prompts(str(path)), column="phi")
    ids = [prompt_id_of_text(text) for text in "bab"]
    pq.write_table(pa.table({"prompt_id": ids, "dispersion": [0.2, 0.5, 0.4]}), tmp_path / "e.parquet")
    assert read_dispersion(tmp_path / "e.parquet", load_prompts(str(path))) == pytest.approx([0.5, 0.3])
    path.write_text('{"prompt": "a"}\n{"prompt": "c"}')
    with pytest.raises(InputError, match="no row for 1 of the prompts; the first: row 1"):
        read_dispersion(tmp_path / "d.parquet", load_prompts(str(path)), column="index")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"instruction": "a"}', "--prompt_column instruction"),
        ('{"prompt": ""}', "row 0"),
        ('{"prompt": [{"role": "user"}]}', "row 0"),
        ('{"prompt": [{"role": "user", "content": "  "}]}', "row 0"),
        ('{"prompt": 5}', "row 0"),
    ],
)
def test_what_is_no_prompt_is_refused(tmp_path, rows, said):
    (tmp_path / "p.jsonl").write_text(rows)
    with pytest.raises(InputError, match=said):
        load_prompts(str(tmp_path / "p.jsonl"))


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)
