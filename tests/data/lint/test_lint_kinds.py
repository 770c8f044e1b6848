"""Every kind of finding: planted defects are found, all of them and nothing else; sound rows give nothing."""

import json
from pathlib import Path

import pytest
from data_rows import as_chat, clean_rows, empty_tokenizer, pair

from mallowspo.data.lint import KINDS
from mallowspo.data.lint.findings import clip
from mallowspo.data.lint.pairs import similarity
from mallowspo.data.lint.text import repaired
from mallowspo.errors import InputError
from tiny import CHAT_TEMPLATE, tiny_tokenizer

PAGE = Path(__file__).resolve().parents[3] / "docs" / "check.md"


def edited(every=None, **columns):
    """Clean rows, with columns of some replaced: {row: value} of each; `every` row gets further columns."""
    rows = [row | (every or {}) for row in clean_rows()]
    for column, values in columns.items():
        for i, value in values.items():
            rows[i] = rows[i] | {column: value}
    return rows


def appended(*rows):
    return [*clean_rows(), *rows]


ROW = clean_rows()[3]
SWAPPED = pair(ROW["prompt"], ROW["rejected"], ROW["chosen"])
NEAR = " a long enough answer with many words in it, and one more sentence at the end of it."

# What is planted, in which rows, and what is found of it; one kind under its own name where no other word is given.
PLANTED = [
    ("unparsable", appended('{"prompt": "half', "[1, 2]"), 2),
    ("malformed_row", edited(chosen={0: 7}, prompt={1: [{"content": "no role"}]}), 2),
    ("mixed_layout", appended(*as_chat(clean_rows(42)[40:])), 2),
    ("unpaired_surrogate", appended('{"prompt": "ask \\ud83d", "chosen": " a", "rejected": " b"}'), 1),
    ("empty_prompt", edited(prompt={5: " \n"}), 1),
    ("empty_response", edited(chosen={5: "", 9: None}, rejected={7: " "}), 3),
    (
        "empty_response",  # nothing that can be seen
        edited(chosen=dict(enumerate(["\u200b", "\u3164\u2800", "\u00ad\ufe0f", "\x00\ufeff", "\u00a0\u3000\u2028"]))),
        5,
    ),
    (
        "empty_response",  # no letter
        edited(chosen=dict(enumerate(["\u0301\u0302", "\ufffc", " \ufffd\ufffd", "\u093e", "\u20e3\u200b\ufffd"]))),
        5,
    ),
    (
        "near_identical_pair",  # what differs cannot be seen
        edited(
            chosen={5: " a caf\u00e9", 7: " a soft cat"},
            rejected={5: " a cafe\u0301", 7: " a so\u00adft cat"},
        ),
        2,
    ),
    (
        "near_identical_pair",  # what differs is the form; letters of another alphabet, other quotation marks count
        edited(
            chosen={5: " \uff21\uff22", 7: " \ufb01ne \uff76\uff9e", 9: " \u0410\u0412", 11: " \u201cyes\u201d"},
            rejected={5: " AB", 7: " fine \u30ac", 9: " AB", 11: ' "yes"'},
        ),
        2,
    ),
    (
        "duplicate_prompt",  # in another width
        appended(
            pair("Why are there \uff11\uff10?", " one two", " six"),
            pair("Why are there 10?", " three four", " ten"),
            pair("Why are there 1\u2070?", " seven eight", " eleven"),
        ),
        1,
    ),
    ("identical_pair", edited(chosen={5: clean_rows()[5]["rejected"]}), 1),
    ("near_identical_pair", edited(chosen={5: NEAR}, rejected={5: NEAR + "!"}), 1),
    ("both_orders", appended(SWAPPED), {"both_orders": 2, "duplicate_prompt": 1}),
    ("duplicate_row", appended(ROW, ROW), 2),
    ("duplicate_prompt", appended(pair(ROW["prompt"].upper(), " ten", " six")), 1),
    ("bos_doubled", edited(prompt={5: "<s>hello"}, rejected={6: " no<s> yes"}), 2),
    ("eos_doubled", edited(chosen={5: " one two</s> "}), 1),
    ("eos_inside", edited(chosen={5: " one</s> two three"}), 1),
    (
        "eos_in_prompt",
        edited(prompt={5: "Question</s> number five, what now?", 6: "USER: hi</s>\n\nHuman: and?"}),
        1,
    ),
    (
        "boundary_merge",
        edited(prompt={5: "Question: what is the be"}, chosen={5: "st way"}, rejected={5: " no"}),
        1,
    ),
    ("empty_as_tokens", edited(chosen={5: "</s>"}), 1),
    ("bad_votes", edited({"votes": [2, 1]}, votes={5: [-1, 2]}), 1),
    ("votes_against_label", edited({"votes": [2, 1]}, votes={5: [1, 2, 5]}), 1),
    ("bad_rankings", edited({"rankings": [[1, 2], [2, 1]]}, rankings={5: [[1, 1], [2, 1]]}), 1),
    ("bad_weight", edited({"weight": 1.0}, weight={4: None, 5: -0.5, 6: "x"}), 3),
    ("bad_margin", edited({"margin": 0.0}, margin={5: float("inf")}), 1),
    ("bad_beta", edited({"beta": 0.1}, beta={5: 0.0, 6: "x"}), 2),
    ("bad_loss_weight", edited({"loss_weight": 1.0}, loss_weight={5: -1.0}), 1),
    ("bad_dispersion", edited({"dispersion": 1.0}, dispersion={5: 0, 6: 1.5}), 2),
    ("replacement_character", edited(chosen={5: " caf\ufffd"}), 1),
    ("mojibake", edited(chosen={5: " cafÃ©"}, prompt={6: "donâ€™t"}), 2),
    ("mixed_script_word", edited(chosen={5: " f체r", 6: " pаypal"}), 2),
    ("control_character", edited(chosen={5: " a\x08b"}, prompt={6: "\ufeffhi"}), 2),
    (
        "control_character",  # marks of direction, tags, spaces without a width
        edited(chosen={5: " a \u202ecat\u202c", 6: " ok\U000e0041"}, rejected={7: " a\u200bb"}),
        3,
    ),
    ("private_use_character", edited(chosen={5: " \uf0d8 one"}), 1),
    ("html_entity", edited(chosen={5: " you &amp; me"}), 1),
    (
        "turn_in_response",
        edited(chosen={5: " yes\n\nHuman: and?", 7: " Humans: no"}, rejected={6: " Human: hi"}),
        2,
    ),
    ("odd_script", edited(chosen={5: " Здравствуй"}, rejected={5: " Прощай, мир"}), 1),
]


@pytest.mark.parametrize(("kind", "rows", "expected"), PLANTED)
def test_a_planted_defect_is_found_and_nothing_else(linted, kind, rows, expected):
    report = linted(rows)
    assert report.counts() == ({kind: expected} if isinstance(expected, int) else expected)
    assert report.rows == len(rows)
    for finding in report.findings:
        assert finding.percent == pytest.approx(100 * finding.count / len(rows))
        assert len(finding.examples) == min(finding.count, 5)
        assert finding.why.endswith(".") and finding.todo.endswith(".")
        json.dumps([example.shows for example in finding.examples]).encode("ascii")


def test_clean_rows_give_no_finding(linted):
    report = linted(clean_rows(60), eval_rows=clean_rows(90)[60:])
    assert report.findings == () and not report.has_errors
    assert report.statistics["length"]["accuracy_of_longer"] == 0.5
    assert report.statistics["evaluation"] == {"rows": 30, "prompts": 30, "prompts_in_train": 0}


def test_clean_conversations_and_implicit_prompts_give_no_finding(linted):
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    assert linted(as_chat(clean_rows()), with_tokenizer=tokenizer).findings == ()
    implicit = [{k: row["prompt"] + row[k] for k in ("chosen", "rejected")} for row in clean_rows()]
    assert linted(implicit).findings == ()


def test_ordinary_text_raises_no_alarm(linted):
    """Accents, emoji, quotes, code, tabs and amounts are not damage."""
    texts = [
        "naïve café – “quoted” …", "👩\u200d🚀 emoji 🇫🇷", "def f(x):\n\treturn x & 1", "NÃO, SÃO Â",
        "5 µm × 3 Ω", "AT&T & co",
    ]  # fmt: skip
    rows = clean_rows()
    for i, text in enumerate(texts):
        rows[i]["chosen"] = rows[i]["chosen"] + " " + text
    assert [kind for kind in linted(rows).counts() if kind != "length_bias"] == []


def test_leaks_are_found_whatever_case_and_spacing(linted):
    other = [row | {"prompt": row["prompt"].upper() + " "} for row in clean_rows()[:3]]
    report = linted(clean_rows(), eval_rows=[*other, other[0], "broken"])
    assert report.counts() == {"prompt_in_eval": 3}
    assert report.findings[0].examples[1].row == 2
    assert report.findings[0].examples[1].shows.startswith("as in evaluation row 2: ")
    assert report.statistics["evaluation"] == {"rows": 5, "prompts": 3, "prompts_in_train": 3}


def test_evaluation_data_in_another_layout_are_named(linted):
    report = linted(clean_rows(), eval_rows=as_chat(clean_rows(50)[40:]))
    (finding,) = report.findings
    assert (finding.kind, finding.count) == ("eval_in_other_layout", 10)
    assert "evaluation data are messages, the data text" in finding.detail


def test_repetitions_name_their_partner(linted):
    found = {finding.kind: finding for finding in linted(appended(SWAPPED, ROW)).findings}
    shown = found["both_orders"].examples
    assert found["both_orders"].count == 3  # the repetition contradicts the swapped row as well
    assert [(e.row, e.shows.split(":")[0]) for e in shown[:2]] == [
        (4, "the other way round in row 41"), (41, "the other way round in row 4"),
    ]  # fmt: skip
    assert [e.row for e in found["duplicate_row"].examples] == [42]


def test_the_longer_answer_that_always_wins_is_a_bias(linted):
    rows = clean_rows(100)
    for row in rows[:80]:
        row["chosen"] += " and more" * 9
    report = linted(rows)
    (finding,) = report.findings
    # 80 pairs made longer and half of the 20 others, which alternate.
    assert (finding.kind, finding.severity, finding.count) == ("length_bias", "warning", 90)
    # Wilson's interval for 90 of 100 as in Brown, Cai and DasGupta (2001): 0.8256 to 0.9448.
    assert report.statistics["length"]["interval_95"] == pytest.approx([0.8256, 0.9448], abs=1e-4)
    assert "82.6 to 94.5" in finding.detail
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    (finding,) = linted(swapped).findings
    assert (finding.kind, finding.count, finding.percent) == ("length_bias", 90, 90.0)
    assert "the shorter response" in finding.detail and "82.6 to 94.5" in finding.detail


def test_ranked_rows_are_checked_pair_by_pair(linted):
    ranked = [
        {"prompt": row["prompt"], "responses": [row["rejected"], row["chosen"], f" tie {i}"], "ranks": [2, 1, 2]}
        for i, row in enumerate(clean_rows())
    ]
    ranked[4]["responses"][2] = ranked[4]["responses"][1] + "!"
    ranked[7]["ranks"] = [1, 1, 1]
    report = linted(ranked)
    assert report.counts()["malformed_row"] == 1 and report.counts()["near_identical_pair"] == 1
    assert report.statistics["length"]["pairs"] == 2 * 39


def test_every_kind_of_the_catalogue_is_planted_somewhere_and_explained_by_the_page():
    planted = {name for name, _, _ in PLANTED}
    elsewhere = {
        "length_bias", "prompt_in_eval", "bos_missing", "eos_missing", "template_prefix_mismatch", "bad_tools",
        "refused_by_template", "prompt_too_long", "truncated_chosen", "truncated_rejected", "truncated_one_side",
        "longer_than_model", "identical_as_tokens", "unknown_token_id", "special_token_in_message",
        "eval_in_other_layout", "bad_scores",
    }  # fmt: skip
    assert planted | elsewhere == set(KINDS)
    assert len(KINDS) <= 64  # one bit each
    text = PAGE.read_text(encoding="utf-8").replace("`", "")
    for name, kind in KINDS.items():
        assert f"| {name} |" in text and kind.why in text and kind.todo in text, name


def test_similarity_repairs_and_excerpts():
    assert similarity("The sky is blue.", "the sky  is blue.") == 1
    # Seven 3-grams are shared of ten and eleven: 7 / (10 + 11 - 7).
    assert similarity("The cat sat.", "The cat sits.") == pytest.approx(0.5)
    assert repaired("cafÃ© donâ€™t SÃO") == "café don’t SÃO"
    assert (clip("once upon a time", 6), clip("once upon a time", 6, end=True)) == ("once u…", "…a time")
    assert clip("a\n\x07b") == r"a\n\x07b"


def test_the_script_of_a_row_is_that_of_most_letters(linted):
    rows = [pair(f"p{i}", text, text[:-1]) for i, text in enumerate(("Hello мир", "Привет, worlds", "Привет", "423"))]
    assert linted(rows).statistics["scripts"] == {"none": 1, "Latin": 1, "Cyrillic": 2}


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"question": "a", "answer": "b"}], {}, "rename yours"),
        ([{"question": "a", "chosen": "The sky", "rejected": "The sea"}], {}, "no column 'prompt', but .* 'question'"),
        ([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}], {}, "token ids already"),
        (clean_rows(), {"near_duplicate_threshold": 0.0}, "near_duplicate_threshold"),
        (clean_rows(), {"max_length": 1}, "max_length"),
        (clean_rows(), {"truncation_mode": "keep_middle"}, "truncation_mode"),
        (clean_rows(), {"eval_rows": [{"text": "a"}]}, "no prompt"),
        (clean_rows(), {"with_tokenizer": tiny_tokenizer(eos=False)}, "no EOS"),
        (clean_rows(), {"with_tokenizer": empty_tokenizer()}, "makes no tokens"),
        (as_chat(clean_rows()), {}, "chat template"),
        (["not a row"] * 2, {}, "none of the 2 rows can be read; row 1: not valid JSON"),
    ],
)
def test_wrong_columns_and_options_are_the_users_mistakes(linted, rows, options, said):
    with pytest.raises(InputError, match=said):
        linted(rows, **options)
