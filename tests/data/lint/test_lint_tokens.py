"""Tokens: the ids are TRL's, and no template in use raises a false alarm."""

import json

import pytest
from data_rows import as_chat, clean_rows, pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallowspo.data.lint.findings import Ledger
from mallowspo.data.lint.rows import read_row
from mallowspo.data.lint.tokens import TokenChecks, end_token_ids
from mallowspo.data.readers import SourceRow
from mallowspo.data.rendering import Truncation
from mallowspo.data.sources import load_preferences
from mallowspo.data.tokenization import tokenize_pairs
from mallowspo.data.validation import validate_rows
from tiny import CHAT_TEMPLATE, tiny_tokenizer
from trl_tokens import TOKENS, trl_tokens

BOS = "{{ bos_token }}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
THINKING = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>five six{% endif %}"
)


def chat_tokenizer(template, *special):
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def tokenised(rows, tokenizer, max_length=None):
    ledger = Ledger()
    checks = TokenChecks(tokenizer, Truncation(max_length, "keep_start"))
    read = [read_row(SourceRow(i, row), ledger) for i, row in enumerate(rows)]
    return [
        {"prompt_ids": t.full[0][: t.cut], "chosen_ids": t.response(0), "rejected_ids": t.response(1)}
        for _, t in checks.tokenise(read, ledger)
    ]


words = st.text(alphabet="ab Hx.\n é</s>", min_size=1, max_size=12).filter(lambda text: text.strip())


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words, words, words).filter(lambda t: t[1] != t[2]), min_size=1, max_size=8))
def test_text_tokens_are_those_of_trl(tokenizer, texts):
    rows = [pair(*text) for text in texts]
    assert tokenised(rows, tokenizer) == trl_tokens(rows, tokenizer)


@pytest.mark.parametrize("template", [BOS + CHAT_TEMPLATE, CHATML, LLAMA_2, PHI_3, THINKING])
def test_chat_tokens_are_those_of_trl(template):
    tokenizer = chat_tokenizer(template)
    rows = as_chat(clean_rows(6))
    assert tokenised(rows, tokenizer) == trl_tokens(rows, tokenizer)


def test_tools_and_template_options_reach_the_template_as_in_trl():
    tokenizer = chat_tokenizer("{{ bos_token }}{{ tools }}{{ style }}" + CHAT_TEMPLATE)
    rows = [
        row | {"tools": '[{"name": "f"}]', "chat_template_kwargs": {"style": "x"}} for row in as_chat(clean_rows(3))
    ]
    assert tokenised(rows, tokenizer) == trl_tokens(rows, tokenizer)


@pytest.mark.parametrize(
    ("template", "special"),
    [
        (BOS + CHAT_TEMPLATE, ()),
        (BOS + CHATML, ("<|im_start|>", "<|im_end|>")),  # a line break after the turn
        (LLAMA_2, ()),  # a BOS per turn
        (PHI_3, ("<|end|>",)),  # two ends
    ],
    ids=["eos", "chatml", "llama 2", "phi 3"],
)
def test_sound_templates_raise_no_alarm(linted, template, special):
    rows = as_chat(clean_rows())
    for row in rows:
        first = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"}]
        row["prompt"] = first + row["prompt"]
    assert linted(rows, with_tokenizer=chat_tokenizer(template, *special)).counts() == {}


def test_a_bos_that_opens_every_turn_raises_no_alarm(linted):
    """As SmolLM2 has it: ChatML, whose `<|im_start|>` is the BOS and `<|im_end|>` the EOS."""
    tokenizer = chat_tokenizer(CHATML, "<|im_start|>", "<|im_end|>")
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<|im_end|>"
    tokenizer.backend_tokenizer.post_processor = None
    rows = as_chat(clean_rows(200))
    for row in rows:
        row["prompt"] = [{"role": "system", "content": "Be kind."}, *row["prompt"]]
    assert linted(rows, with_tokenizer=tokenizer).counts() == {}
    rows[4]["rejected"][0]["content"] = "one <|im_start|> two"
    assert linted(rows, with_tokenizer=tokenizer).counts()["bos_doubled"] == 1


def test_gpt2_style_tokens_raise_no_alarm(linted):
    """BOS and EOS are one token there, and the tokenizer adds none by itself."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "</s>"
    tokenizer.backend_tokenizer.post_processor = None
    assert linted(clean_rows(), with_tokenizer=tokenizer).counts() == {}


def test_template_without_bos_and_end(linted):
    template = CHAT_TEMPLATE.replace("</s>", "")
    report = linted(as_chat(clean_rows()), with_tokenizer=chat_tokenizer(template))
    found = {finding.kind: (finding.count, finding.severity) for finding in report.findings}
    assert found == {"eos_missing": (40, "error"), "bos_missing": (40, "warning")}


def test_end_and_begin_written_into_chat_messages(linted):
    rows = as_chat(clean_rows(200))
    rows[3]["chosen"][0]["content"] += "</s>"
    rows[4]["rejected"][0]["content"] = "<s>" + rows[4]["rejected"][0]["content"]
    rows[5]["rejected"][0]["content"] = "one</s> two"
    found = linted(rows, with_tokenizer=chat_tokenizer(BOS + CHAT_TEMPLATE))
    assert found.counts() == {"bos_doubled": 1, "eos_doubled": 1, "eos_inside": 1}
    severities = {finding.kind: finding.severity for finding in found.findings}
    # One row in 200 is below the one in a hundred from which it is an error.
    assert severities == {"bos_doubled": "error", "eos_doubled": "warning", "eos_inside": "warning"}


def test_generation_prompt_that_is_no_prefix(linted):
    report = linted(as_chat(clean_rows()), with_tokenizer=chat_tokenizer(THINKING))
    (finding,) = report.findings
    assert (finding.kind, finding.count, finding.severity) == ("template_prefix_mismatch", 40, "error")
    assert sum(count for _, count in finding.top) == 40
    assert "prompt alone" in finding.examples[0].shows


def test_half_a_character_outside_the_text(linted):
    tokenizer = chat_tokenizer(BOS + "{{ tools }}" + CHAT_TEMPLATE.replace("</s>", "{{ message['name'] }}</s>"))
    rows = as_chat(clean_rows())
    rows[7]["prompt"][0]["name"] = "\ud83d"
    found = linted(rows, with_tokenizer=tokenizer, eval_rows=rows[7:8]).counts()
    assert found == {"unpaired_surrogate": 1, "prompt_in_eval": 1}


def test_refusals_of_the_template_are_findings(linted):
    picky = (
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + BOS + CHAT_TEMPLATE
    )
    rows = as_chat(clean_rows())
    rows[7]["prompt"][0]["role"] = "assistant"
    report = linted(rows, with_tokenizer=chat_tokenizer(picky))
    assert report.counts() == {"refused_by_template": 1}
    assert report.findings[0].examples[0].row == 8 and "user first" in report.findings[0].examples[0].shows


def test_special_tokens_typed_into_messages(linted):
    rows = as_chat(clean_rows(200))
    rows[3]["prompt"][0]["content"] = "one</s> two"
    rows[5]["chosen"][0]["content"] += "<|tool|> seven"
    found = linted(rows, with_tokenizer=chat_tokenizer(BOS + CHAT_TEMPLATE, "<|tool|>"))
    rows_of = {f.kind: [e.row for e in f.examples] for f in found.findings}
    assert rows_of == {"eos_in_prompt": [4], "special_token_in_message": [6]}


def test_one_row_with_tools_that_are_none_costs_one_row(linted, tmp_path):
    """What `check` finds of a template, its options and tools is what training finds, row by row."""
    template = BOS + "{% if tools %}{{ tools[0]['name'] }}{% endif %}" + CHAT_TEMPLATE
    tokenizer = chat_tokenizer(template)
    rows = as_chat(clean_rows())
    for row in rows:
        row["tools"] = json.dumps([{"name": "f", "parameters": {}}])
    rows[4]["tools"] = "not JSON"
    rows[6]["tools"] = [7]
    rows[8]["tools"] = {"name": "f"}
    report = linted(rows, with_tokenizer=tokenizer)
    assert report.counts() == {"bad_tools": 2, "refused_by_template": 1}
    loaded = load_preferences(tmp_path / "rows.jsonl").dataset
    found = tokenize_pairs(validate_rows(loaded).dataset, tokenizer, max_length=None, invalid_rows="drop")
    assert [(p.row_number, p.kind) for p in found.problems] == [
        (5, "bad_tools"), (7, "refused_by_template"), (9, "bad_tools"),
    ]  # fmt: skip
    kept = [row | {"tools": json.loads(row["tools"])} for i, row in enumerate(rows) if i not in (4, 6, 8)]
    assert found.dataset.select_columns(TOKENS).to_list() == tokenised(kept, tokenizer)


def with_lengths(tokenizer, prompt, chosen, rejected):
    """A row of so many tokens: BOS counts to the prompt, EOS to the response."""
    row = pair("x" * (prompt - 1), " " + "q" * (chosen - 2), " " + "z" * (rejected - 2))
    (ids,) = tokenised([row], tokenizer)
    assert [len(ids[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")] == [prompt, chosen, rejected]
    return row


def test_truncation_by_side(linted, tokenizer):
    # Letters that the tiny tokenizer never merges, so that lengths can be set.
    rows = [
        with_lengths(tokenizer, 10, 10, 10),  # exactly 20: whole
        with_lengths(tokenizer, 9, 12, 10),  # chosen alone is cut
        with_lengths(tokenizer, 11, 9, 12),  # rejected alone
        with_lengths(tokenizer, 12, 12, 13),  # both
        with_lengths(tokenizer, 20, 5, 6),  # nothing is left of either: TRL drops the row
        with_lengths(tokenizer, 19, 5, 6),  # one token is left, the space of both
    ]
    cut = linted(rows, max_length=20)
    kinds = {finding.kind: [example.row for example in finding.examples] for finding in cut.findings}
    kinds.pop("length_bias", None)
    assert kinds == {
        "prompt_too_long": [5],
        "identical_as_tokens": [6],
        "truncated_chosen": [2, 4, 6],
        "truncated_rejected": [3, 4, 6],
        "truncated_one_side": [2, 3],
    }
    kept_end = linted(rows, max_length=20, truncation_mode="keep_end").counts()
    kept_end.pop("length_bias", None)
    assert kept_end == {"truncated_chosen": 4, "truncated_rejected": 4, "truncated_one_side": 2}
    assert "truncated_chosen" not in linted(rows, max_length=None).counts()


def test_more_tokens_than_the_model_holds(linted):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 30
    rows = clean_rows()
    rows[3]["chosen"] = " x" * 40
    report = linted(rows, with_tokenizer=tokenizer)
    long = report.counts()["longer_than_model"]
    assert 1 <= long <= 40 and report.counts() == {"longer_than_model": long}
    tokenizer.model_max_length = 10**30
    assert linted(rows, with_tokenizer=tokenizer).counts() == {}


def test_end_tokens_come_from_tokenizer_and_generation_configuration(tmp_path):
    tokenizer = chat_tokenizer(CHATML, "<|im_start|>", "<|im_end|>")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_token_ids(tokenizer) == {tokenizer.eos_token_id, end}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 77]}')
    assert end_token_ids(tokenizer, str(tmp_path)) == {2, end, 77}
