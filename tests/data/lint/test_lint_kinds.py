"""Every kind of finding: planted defects are found, all of them and nothing else; sound rows give nothing."""

import json

import pytest
from lint_rows import as_chat, clean_rows

from mallowspo.data.lint import KINDS
from mallowspo.errors import InputError
from tiny import CHAT_TEMPLATE, tiny_tokenizer

LONG = " " + "seven wizards box " * 30


def edited(*edits, **extra):
    """Clean rows with columns of some of them replaced: (row, column, value); `extra` adds a column to all."""
    rows = [row | extra for row in clean_rows()]
    for i, column, value in edits:
        rows[i] = rows[i] | {column: value}
    return rows


def appended(*rows):
    return [*clean_rows(), *rows]


def half_pair():
    return '{"prompt": "ask \\ud83d", "chosen": " a", "rejected": " b"}'


ROW = clean_rows()[3]
SWAPPED = {"prompt": ROW["prompt"], "chosen": ROW["rejected"], "rejected": ROW["chosen"]}
NEAR = " a long enough answer with many words in it, and one more sentence at the end of it."

PLANTED = [
    ("unparsable", appended('{"prompt": "half', "[1, 2]"), {"unparsable": 2}),
    (
        "malformed_row",
        edited((0, "chosen", 7), (1, "prompt", [{"content": "no role"}])),
        {"malformed_row": 2},
    ),
    ("mixed_layout", [*clean_rows(), *as_chat(clean_rows(42)[40:])], {"mixed_layout": 2}),
    ("unpaired_surrogate", appended(half_pair()), {"unpaired_surrogate": 1}),
    ("empty_prompt", edited((5, "prompt", " \n")), {"empty_prompt": 1}),
    ("empty_response", edited((5, "chosen", ""), (7, "rejected", " "), (9, "chosen", None)), {"empty_response": 3}),
    (
        "unseen_response",
        edited(
            *((i, "chosen", text) for i, text in enumerate(("\u200b", "\u3164\u2800", "\u00ad\ufe0f", "\x00\ufeff"))),
            (9, "rejected", "\u00a0\u3000\u2028"),
        ),
        {"empty_response": 5},
    ),
    (
        "response_without_a_letter",
        edited(
            *((i, "chosen", text) for i, text in enumerate(("\u0301\u0302", "\ufffc", " \ufffd\ufffd", "\u093e"))),
            (9, "rejected", "\u20e3\u200b\ufffd"),
        ),
        {"empty_response": 5},
    ),
    (
        "differ_unseen",
        edited(
            (5, "chosen", " a caf\u00e9"),
            (5, "rejected", " a cafe\u0301"),
            (7, "chosen", " a soft cat"),
            (7, "rejected", " a so\u00adft cat"),
        ),
        {"near_identical_pair": 2},
    ),
    (
        "differ_in_form",
        edited(
            (5, "chosen", " \uff21\uff22\uff23"),
            (5, "rejected", " ABC"),
            (7, "chosen", " \ufb01ne \uff76\uff9e"),
            (7, "rejected", " fine \u30ac"),
            # Letters of another alphabet, quotation marks of another shape: other texts.
            (9, "chosen", " \u0410\u0412\u0421"),
            (9, "rejected", " ABC"),
            (11, "chosen", " \u201cyes\u201d"),
            (11, "rejected", ' "yes"'),
        ),
        {"near_identical_pair": 2},
    ),
    (
        "prompt_in_another_width",
        [
            *clean_rows(),
            {"prompt": "Why are there \uff11\uff10?", "chosen": " one two", "rejected": " six"},
            {"prompt": "Why are there 10?", "chosen": " three four", "rejected": " ten"},
            {"prompt": "Why are there 1\u2070?", "chosen": " seven eight", "rejected": " eleven"},
        ],
        {"duplicate_prompt": 1},
    ),
    ("identical_pair", edited((5, "chosen", clean_rows()[5]["rejected"])), {"identical_pair": 1}),
    ("near_identical_pair", edited((5, "chosen", NEAR), (5, "rejected", NEAR + "!")), {"near_identical_pair": 1}),
    ("both_orders", appended(SWAPPED), {"both_orders": 2, "duplicate_prompt": 1}),
    ("duplicate_row", appended(ROW, ROW), {"duplicate_row": 2}),
    (
        "duplicate_prompt",
        appended({"prompt": ROW["prompt"].upper(), "chosen": " ten", "rejected": " six"}),
        {"duplicate_prompt": 1},
    ),
    ("bos_doubled", edited((5, "prompt", "<s>hello"), (6, "rejected", " no<s> yes")), {"bos_doubled": 2}),
    ("eos_doubled", edited((5, "chosen", " one two</s> ")), {"eos_doubled": 1}),
    ("eos_inside", edited((5, "chosen", " one</s> two three")), {"eos_inside": 1}),
    (
        "eos_in_prompt",
        edited((5, "prompt", "Question</s> number five, what now?"), (6, "prompt", "USER: hi</s>\n\nHuman: and?")),
        {"eos_in_prompt": 1},
    ),
    (
        "boundary_merge",
        edited((5, "prompt", "Question: what is the be"), (5, "chosen", "st way"), (5, "rejected", " no")),
        {"boundary_merge": 1},
    ),
    ("empty_as_tokens", edited((5, "chosen", "</s>")), {"empty_as_tokens": 1}),
    ("votes", edited((5, "votes", [-1, 2]), votes=[2, 1]), {"bad_votes": 1}),
    ("weight_missing", edited((5, "weight", None), weight=1.0), {"bad_weight": 1}),
    ("votes_against_label", edited((5, "votes", [1, 2, 5]), votes=[2, 1]), {"votes_against_label": 1}),
    ("rankings", edited((5, "rankings", [[1, 1], [2, 1]]), rankings=[[1, 2], [2, 1]]), {"bad_rankings": 1}),
    ("weight", edited((5, "weight", -0.5), (6, "weight", "x"), weight=1.0), {"bad_weight": 2}),
    ("margin", edited((5, "margin", float("inf")), margin=0.0), {"bad_margin": 1}),
    ("dispersion", edited((5, "dispersion", 0), (6, "dispersion", 1.5), dispersion=1.0), {"bad_dispersion": 2}),
    ("replacement_character", edited((5, "chosen", " caf\ufffd")), {"replacement_character": 1}),
    ("mojibake", edited((5, "chosen", " cafÃ©"), (6, "prompt", "donâ€™t")), {"mojibake": 2}),
    ("mixed_script_word", edited((5, "chosen", " f체r"), (6, "chosen", " pаypal")), {"mixed_script_word": 2}),
    ("control_character", edited((5, "chosen", " a\x08b"), (6, "prompt", "\ufeffhi")), {"control_character": 2}),
    (
        "direction_and_tags",
        edited((5, "chosen", " a \u202ecat\u202c"), (6, "chosen", " ok\U000e0041"), (7, "rejected", " a\u200bb")),
        {"control_character": 3},
    ),
    ("private_use_character", edited((5, "chosen", " \uf0d8 one")), {"private_use_character": 1}),
    ("html_entity", edited((5, "chosen", " you &amp; me")), {"html_entity": 1}),
    (
        "turn_in_response",
        edited((5, "chosen", " yes\n\nHuman: and?"), (6, "rejected", " Human: hi"), (7, "chosen", " Humans: no")),
        {"turn_in_response": 2},
    ),
    ("odd_script", edited((5, "chosen", " Здравствуй"), (5, "rejected", " Прощай, мир")), {"odd_script": 1}),
]


@pytest.mark.parametrize(("rows", "expected"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED])
def test_a_planted_defect_is_found_and_nothing_else(linted, rows, expected):
    report = linted(rows)
    assert report.counts() == expected
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
    template = "{{ bos_token }}" + CHAT_TEMPLATE
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = template
    assert linted(as_chat(clean_rows()), with_tokenizer=tokenizer).findings == ()
    implicit = [{k: row["prompt"] + row[k] for k in ("chosen", "rejected")} for row in clean_rows()]
    assert linted(implicit).findings == ()


def test_ordinary_text_raises_no_alarm(linted):
    """Accents, emoji, quotes, code, tabs and amounts are not damage."""
    texts = [
        "naïve café – “quoted” …",
        "👩‍🚀 emoji 🇫🇷",
        "def f(x):\n\treturn x & 1",
        "NÃO, SÃO Â",
        "5 µm × 3 Ω",
        "AT&T & co",
    ]
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
    assert [(e.row, e.shows[:26]) for e in found["both_orders"].examples[:2]] == [
        (4, "the other way round in row"),
        (41, "the other way round in row"),
    ]
    assert "row 41" in found["both_orders"].examples[0].shows and "row 4" in found["both_orders"].examples[1].shows
    assert found["both_orders"].count == 3  # the repetition contradicts the swapped row as well
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


def test_every_kind_of_the_catalogue_is_planted_somewhere():
    planted = {kind for _, _, expected in PLANTED for kind in expected}
    elsewhere = {
        "length_bias", "prompt_in_eval", "bos_missing", "eos_missing", "template_prefix_mismatch",
        "refused_by_template", "prompt_too_long", "truncated_chosen", "truncated_rejected", "truncated_one_side",
        "longer_than_model", "identical_as_tokens",
        "unknown_token_id",
        "bad_tools", "special_token_in_message", "eval_in_other_layout",
    }  # fmt: skip
    assert planted | elsewhere == set(KINDS)
    assert len(KINDS) <= 64  # one bit each


def test_wrong_columns_and_options_are_the_users_mistakes(linted):
    with pytest.raises(InputError, match="rename yours"):
        linted([{"question": "a", "answer": "b"}])
    with pytest.raises(InputError, match="there is no column 'prompt', but there is 'question'"):
        linted([{"question": "a", "chosen": "The sky", "rejected": "The sea"}])
    with pytest.raises(InputError, match="near_duplicate_threshold"):
        linted(clean_rows(), near_duplicate_threshold=0.0)
    with pytest.raises(InputError, match="max_length"):
        linted(clean_rows(), max_length=1)
    with pytest.raises(InputError, match="truncation_mode"):
        linted(clean_rows(), truncation_mode="keep_middle")
    with pytest.raises(InputError, match="token ids already"):
        linted([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}])
    with pytest.raises(InputError, match="no prompt"):
        linted(clean_rows(), eval_rows=[{"text": "a"}])
    with pytest.raises(InputError, match="no EOS"):
        linted(clean_rows(), with_tokenizer=tiny_tokenizer(eos=False))
    with pytest.raises(InputError, match="chat template"):
        linted(as_chat(clean_rows()))
