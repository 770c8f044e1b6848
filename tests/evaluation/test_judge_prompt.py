"""How a judge's reply is read: the last line that holds a verdict, in every form that judges write."""

import re
import time

import pytest

from mallowspo.evaluation.judge_prompt import DEFAULT_TEMPLATE, JudgeTemplate, parse_verdict, without_thinking

ALONE = {
    "A": ["[[A]]", "**[[A]]**", "[[A]].", "> [[A]]", "- [[ A ]]", "[[**A**]]", "`[[A]]`", "```\n[[A]]\n```", "[[A]]。",
          "```text\n[[A]]\n```", "~~~\n[[A]]\n~~~", "[[Answer A]]", "[[Winner: A]]", "[[A>B]]", "[[A >> B]]",
          "[[B<A]]",
          "\\[[A\\]]", "［［Ａ］］。", "【【A】】", "⟦A⟧", "[A]", "(A)", "A.", "**A**", "__A__", "“A”", "## A",
          "A > B", "Answer A", "**Response A**", "It's A.", "<b>A</b>", "👉 A", "$\\boxed{A}$", "\\boxed{\\text{A}}",
          "\\boxed{[[A]]}", "The answer is \\boxed{A}.", "<verdict>A</verdict>", "<verdict>\n[[A]]\n</verdict>",
          "<final_verdict>Answer A</final_verdict>", "[[A]]\n---", "[[A]] (9/10)", "A: 8/10, B: 6/10 -> [[A]]",
          "I choose [[A]] over [[B]].", "[[A]], not [[B]]", "[[A]] is better than [[B]]"],
    "B": ["Verdict: B", "**Verdict:** B", "**Verdict: B**", "**Verdict**: **B**", "### Verdict: B", "### Verdict\nB",
          "## Final Verdict\n\n**Answer B**", "Verdict:\n[[B]]", "VERDICT B", "Verdict - B", "Verdict — B",
          "Verdict -> B", "Verdict => [[B]]", "| Verdict | **B** |", "Final verdict (A/B/tie): B", "Winner: B",
          "🏆 **Winner: Response B**", "Winner: B!", "1. Winner: B", "Winner = B", "So the winner is B.",
          "The winner is [[B]].", "Answer: [[B]]", "Answer: B", "Final answer: **B**", "The better answer is B.",
          "Better: B", "Overall: B", "Overall winner: B", "My verdict is: Answer B", "Ranking: B > A",
          "Verdict: B (8/10 against 6/10)", "Winner: B (A: 6/10, B: 8/10)", "Winner: B, 8/10", "Verdict: (B)",
          "Verdict: B, because it is right", "Verdict: B - it is right", "Verdict: B. It is a clear case.",
          "Answer A is short. Answer B is right. Verdict: B", "Answer B is better.", "Response B wins!",
          "Answer B is clearly better than answer A.", "Urteil: B", "**Mein Urteil:** Antwort B", "Verdict : B",
          "**Le gagnant est B**", "Veredicto final: B", "Il vincitore è B", "Vencedor: B", "Вердикт: B",
          "**Победитель:** ответ B", "最终结论：B", "**判断：回答B**", "判定は【【B】】", "결론: B", '"winner": "B"',
          "Chosen: B\nRejected: A", "Winner: B\nLoser: A"],
    "tie": ["[[tie]]", "[[Tie]].", "[[TIE]]", "[[tied]]", "[[draw]]", "[[A=B]]", "[[a tie]]", "[[neither]]", "tie",
            "It's a tie.", "**Draw**", "Verdict: tie", "Verdict: a tie", "Winner: neither", "Verdict: it's a tie.",
            "Urteil: Unentschieden", "$\\boxed{\\text{tie}}$", "Verdict : égalité", "结论：平局",
            "[[tie]]: neither [[A]] nor [[B]]"],
    "undecided": ["", "[[A]] [[B]]", "[[A]] or [[B]]", "[[C]]", "[[A]] [[C]]", "[[A/B]]", "A or B", "A?", "A\nB",
                  "- A\n- B\n- tie", "Verdict: A or B", "Verdict: A/B", "Verdict: A, or perhaps B", "Verdict: A?",
                  "Is the verdict A? Hard to say.", "Verdict: A. No, wait, B.", "Verdict: A. Verdict: B.",
                  "The better answer is not A", "The better answer is a detailed one.", "The result is a (close) call",
                  "The winner is A if you like it short", "Result: A-level work", "Result: A: 9, B: 7",
                  "Result: A (9), B (7)", "Result: A 9, B 7", "Result: A - 9, B - 7", "Answer A: 8, answer B: 6",
                  "Answer A: fine\nAnswer B: fine", "Answer A:\nfine\nAnswer B:\nbad", "Answer A:\nIt is fine.",
                  "### Answer A\nfine\n### Answer B\nbad", "Second best: B", "Answer A is worse.",
                  "[[A]] is worse than [[B]].",
                  "I did not choose [[A]].", "Answer A: [[8]]\nAnswer B: [[6]]", "B+", "[[if",
                  "My verdict is that A is better than B."],
}  # fmt: skip
SWAP = str.maketrans("ABＡ", "BAＢ")
BEFORE = ("", "Answer A is long, answer B is right.\n\n", "<think>[[A]] or [[B]]?</think>\n")


@pytest.mark.parametrize(("verdict", "reply"), [(verdict, reply) for verdict in ALONE for reply in ALONE[verdict]])
def test_every_form_of_a_verdict_is_read_below_reasons_too(verdict, reply):
    swapped = re.sub("(?<![A-Za-z])[ABＡ](?![A-Za-z])", lambda name: name[0].translate(SWAP), reply)
    for before in BEFORE:
        assert parse_verdict(before + reply) == verdict
        assert parse_verdict(before + swapped) == (verdict.translate(SWAP) if verdict in "AB" else verdict), swapped


@pytest.mark.parametrize("early", ["[[A]] was my first thought.", "[[A]]", "Verdict: A", "Better: A", "\\boxed{A}",
                                   "Reply with [[A]] if the first is better.", "Choose [[A]], [[B]] or [[tie]].",
                                   "Answer A is better.", '{"verdict": "A"}', "<verdict>A</verdict>", "[[tie]]?",
                                   "A\nis what I say at first, but no:"])  # fmt: skip
@pytest.mark.parametrize("late", ["[[B]]", "Verdict: B", "**Final verdict: B**", "B", "Answer: [[B]]", "\\boxed{B}",
                                  "Answer B is better.", '{"verdict": "B", "reason": "[[A]] is short"}',
                                  "<winner>B</winner>"])  # fmt: skip
@pytest.mark.parametrize("after", ["", "\n---\n", "\n\nConfidence: 90 %", "\nTell me if I can do more!"])
def test_the_last_line_that_holds_a_verdict_decides(early, late, after):
    if late == "B" and any(letter.isalpha() for letter in after):
        late = "Verdict:\nB"  # a letter alone says something where it ends the reply or stands below its label
    assert parse_verdict(f"{early}\nSome reasons.\n{late}{after}") == "B"


@pytest.mark.parametrize(
    "reply",
    ["[[A]]\nNote that [[B]] was close.", "Verdict: A\nReason: [[B]] is too long.", "A\n\nReason: [[B]] is too long.",
     "[[A]]\nOthers may well say [[B]]", "[[A]]\n[[C]]", "[[A]]\nVerdict: A or B"],
)  # fmt: skip
def test_what_is_said_in_passing_below_a_verdict_leaves_a_doubt(reply):
    assert parse_verdict(reply) == "undecided"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('{"verdict": "A", "reason": "[[B]] is long"}', "A"),
        ('{"reason": "[[B]] is long", "verdict": "A"}', "A"),
        ('Here it is:\n```json\n{\n  "verdict": "A",\n  "reason": "[[B]] is {too} long\\nVerdict: B"\n}\n```', "A"),
        ('[{"winner": "Answer A", "reason": "\\"verdict\\": \\"B\\""}]', "A"),
        ('{"evaluation": {"finalVerdict": "[[A]]", "why": "[[B]]"}}', "A"),
        ('{"score_a": 8, "score_b": 6, "best-answer": "assistant A"}', "A"),
        ('{"verdict": "Answer A is better", "reason": "[[B]]"}', "A"),
        ('{"verdict": "A", "reason_for_choice": "B is long. [[B]]"}', "A"),
        ('{"verdict": "A", "reason": "[[B]] is lo', "A"),
        ('{\n"verdict": "A",\n"reason": "[[B]] is long and', "A"),
        ("{'verdict': 'A', 'reason': '[[B]] is long'}", "A"),
        ('{"reason": "B is long. [[A]]"}', "A"),
        ('{"verdict": "unclear", "reason": "[[B]] is long"}', "undecided"),
        ('{"verdict": "A", "winner": "B"}', "undecided"),
        ('{"winner": "answer_a", "loser": "answer_b"}', "A"),
        ("{'verdict': 'A', 'winner': 'B'}", "undecided"),
        ('{"verdict": null}', "undecided"),
        ('{"verdict": "A"}\n{"verdict": "B"}', "B"),
    ],
)
def test_an_object_stands_for_its_verdict_field(reply, verdict):
    assert parse_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "spoken"),
    [
        ("Let me see.\n<think>[[A]] is better, or perhaps", "Let me see.\n"),
        ("<|thinking|>[[A]]<|/thinking|>[[B]]", "[[B]]"),
        ("<|begin_of_thought|>x<|end_of_thought|>y", "y"),
        ("<|think|>x<|end_think|>y", "y"),
        ('<think time="3">x</think>y', "y"),
        ("<thought_process>x</thought_process>y", "y"),
        ("<seed:think>x</seed:think>y", "y"),
        ("<thinking>x</thinking>y", "y"),
        ("<reasoning>x</reasoning>y", "y"),
        ("[THINK]x[/THINK]y", "y"),
        ("◁think▷x◁/think▷y", "y"),
        ("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>y", "y"),
        ("<|channel|>analysis<|message|>x or", ""),
        ("x</think>y", "y"),
        ("x</think>y</think>z", "z"),
        ("<think>x<think>y</think>z</think>[[A]]", "[[A]]"),
        ("<verdict>A</verdict><reasoning>[[B]]</reasoning>", "<verdict>A</verdict>"),
        ("<think>a</think>b<think>c</think>d<think>e", "bd"),
        ("Answer A leaves a `<think>` in. [[B]]", "Answer A leaves a `<think>` in. [[B]]"),
        ("Answer A ends with `</think>`. [[B]]", "Answer A ends with `</think>`. [[B]]"),
    ],
)
def test_thinking_is_taken_away_wherever_it_stands(reply, spoken):
    assert without_thinking(reply) == spoken


def test_an_answer_that_holds_a_place_stays_what_it_is():
    assert JudgeTemplate("{prompt}|{answer_a}|{answer_b}", "1").fill("p", "{answer_b}", "b") == "p|{answer_b}|b"
    assert DEFAULT_TEMPLATE.fill("p", "x", "{prompt}").count("{prompt}") == 1


def test_a_small_letter_at_the_end_is_a_verdict():
    assert parse_verdict("Reasons.\nb") == "B"


@pytest.mark.parametrize(
    "piece",
    ["[[", "<think>", "</think>", "<think>x</think>", "[[A]] ", "Verdict: A. ", " ", "\n", " \n\u2003", '{"a": ', '{"',
     "verdict", "my the is ", "<verdict>!", '"verdict": "', "not the ", "A\n", "\\boxed{", "\\boxed{\\text{",
     "verdict (", "a", "*", '{"verdict": "x"}', "1. "],
)  # fmt: skip
def test_no_reply_takes_the_square_of_its_length(piece):
    started = time.process_time()
    for wrap in ("{}", "verdict{}", "<verdict>{}x", '"verdict": "{}'):
        parse_verdict(wrap.replace("{}", piece * (60_000 // len(piece))))
    # A pattern that tries every way to share such a run takes minutes; each of these takes a second or two.
    assert time.process_time() - started < 8
