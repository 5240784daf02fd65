"""Where a final answer is, and whether it equals the true one: literals, properties, and outputs meant to do harm."""

import json
import os
import subprocess
import sys
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.data import maths_verifier, maths_worker
from dro_lab.data.maths_answers import cleaned, final_answer, last_boxed, plain_number, template
from dro_lab.data.maths_verifier import CHECKER, Checker, figures, judged, maths_accuracy
from dro_lab.types import Row


def row(answer: str) -> Row:
    return Row(id="r", prompt=[], reference=f"\\boxed{{{answer}}}", columns={"answer": answer})


# ------------------------------------------------------------------------------------------------ where it is


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("So \\boxed{5}.", "5"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\text{a} \\cup \\{1, 2\\}}", "\\text{a} \\cup \\{1, 2\\}"),
        ("\\boxed{ x^{2^{3}} } text", "x^{2^{3}}"),
        ("\\boxed{\\boxed{6} + 1}", "{6} + 1"),
        ("\\boxed{3} and then \\boxed{7", "3"),
        ("\\boxed{7", None),
        ("}}\\boxed{8}{{", "8"),
        ("\\fbox{4} \\framebox{9}", "9"),
        ("$\\boxed 5$", "5"),
        ("\\boxed{}", ""),
        ("", None),
    ],
)
def test_the_last_box_that_is_closed(text, wanted):
    assert last_boxed(text) == wanted


balanced = st.recursive(
    st.text("ab1 \\$,", max_size=6).filter(lambda text: "\\" not in text),
    lambda inner: st.builds("{}{{{}}}{}".format, inner, inner, inner),
    max_leaves=12,
)


@given(before=st.text("ab {\\}", max_size=20), content=balanced, after=st.text("ab }", max_size=10))
def test_a_boxs_content_comes_back_whatever_stands_around_it(before, content, after):
    # An odd run of backslashes would escape the command, and an open box before it would swallow it.
    assert last_boxed(before.rstrip("\\") + "\\boxed{" + content + "}" + after) == content.strip()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("half of 48 is 24\n#### 72", "72"),
        ("#### 71 no #### 72\nDone.", "72"),
        ("#### 71\n\\boxed{72}", "72"),
        ("The answer is $5$ because $x=3$.", "5"),
        ("Answer: 5 apples", "5 apples"),
        ("The answer is 3. No, the answer is 4, since 2 + 2 = 4.", "4"),
        ("12", "12"),
        ("\\frac{3}{4}", "\\frac{3}{4}"),
        ("First 3, then 4.\nSo the walk takes 204 minutes.", "204"),
        ("I get 1/2 as the share.", "1/2"),
        ("The area is $\\frac{1}{2}$ of it.", "\\frac{1}{2}"),
        ("It costs $1,234.50 in all.", "$1,234.50"),
        ("We had 7 of them.\nThat is all.", "7"),
        ("Evelyn", "Evelyn"),
        ("I do not know what to say here.", None),
        ("\\boxed{}", None),
        ("####", None),
        ("", None),
    ],
)
def test_where_the_final_answer_is(text, wanted):
    assert final_answer(text) == wanted


def test_a_template_of_the_users_own_is_looked_for_first():
    form = template("It is ANS, done.")
    assert final_answer("3 or 4. It is 5, done. Or 6?", form) == "5"
    assert final_answer("It is 5, done. It is \\boxed{7}, done.", form) == "7"
    assert final_answer("\\boxed{8}", form) == "8"
    assert final_answer("x = ANS 5 meters", template("ANS meters")) == "x = ANS 5"
    assert template("boxed").filled("\\frac12") == "\\boxed{\\frac12}"
    assert not template("boxed").own
    assert not template("#### ANS").own
    assert form.own


# ------------------------------------------------------------------------------------------------ what is equal

SAME = [
    ("5", "\\$5"),
    ("5", "5 cm"),
    ("5", "5\\text{ cm}"),
    ("5", "\\text{5 cm}"),
    ("5", "5\\,\\mathrm{cm}"),
    ("5", "5."),
    ("18.5", "18.5 dollars"),
    ("15\\mbox{ cm}^2", "15"),
    ("\\$32,\\!348", "32348"),
    ("58,500", "58500"),
    ("1000", "1\\,000"),
    ("1000", "1 000"),
    ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
    ("7", "7.00"),
    ("073", "73"),
    ("-3", "−3"),
    ("\\frac12", "1/2"),
    ("\\frac12", "\\dfrac{1}{2}"),
    ("\\frac12", "0.5"),
    ("1/3", "0.3333333"),
    ("1\\frac{4}{5}", "\\frac95"),
    ("50\\%", "50"),
    ("50", "50\\%"),
    ("0.5", "50\\%"),
    ("50\\%", "\\frac{1}{2}"),
    ("30^\\circ", "30"),
    ("(3,4]", "\\left(3, 4\\right]"),
    ("(3,4]", "x \\in (3,4]"),
    ("(3,4]", "3 < x \\le 4"),
    ("(0,9) \\cup (9,36)", "(9,36) \\cup (0,9)"),
    ("(12,102)", "(12, 102)"),
    ("(12{,}102, 5)", "(12102, 5)"),
    ("1,-2", "-2, 1"),
    ("1,-2", "\\{1,-2\\}"),
    ("1,-2", "x=1\\text{ and }x=-2"),
    ("3 \\pm 2\\sqrt2", "3-2\\sqrt2, 3+2\\sqrt2"),
    ("p - q", "-q + p"),
    ("x=5", "5"),
    ("y = 2x + 3", "2x+3"),
    ("52_8", "52_{8}"),
    ("\\text{Evelyn}", "Evelyn"),
    ("\\text{(C)}", "C"),
    ("\\text{even}", "\\textbf{Even}"),
    ("yes", "\\text{Yes}"),
    ("\\begin{pmatrix} 1/5 \\\\ -3 \\end{pmatrix}", "\\begin{pmatrix} 0.2 \\\\ -3 \\end{pmatrix}"),
]
DIFFERENT = [
    ("5", "-5"),
    ("5", "five"),
    ("5", "y = x + 5"),
    ("2", "2.0000001"),
    ("2", "2\\pi"),
    ("2000000", "2"),
    ("1/3", "0.333"),
    ("50", "0.5"),
    ("0.5", "50"),
    ("12", "1,2"),
    ("1,3", "1.3"),
    ("(3,4]", "(3,4)"),
    ("(1,2)", "(2,1)"),
    ("(12,102)", "12102"),
    ("(1,2)", "[1,2]"),
    ("(0,9) \\cup (9,36)", "(0,9) \\cup [9,36)"),
    ("(0,9) \\cup (9,36)", "(0,9)"),
    ("2k", "3k"),
    ("52_8", "53_8"),
    ("\\text{Evelyn}", "Navin"),
    ("\\text{east}", "seat"),
    ("\\text{(C)}", "B"),
    ("yes", "no"),
    ("\\frac12", "\\frac13"),
]


@pytest.mark.parametrize(("truth", "answer"), SAME)
def test_answers_that_are_right(truth, answer):
    assert maths_accuracy(f"so \\boxed{{{answer}}}", row(truth)) == 1.0


@pytest.mark.parametrize(("truth", "answer"), DIFFERENT)
def test_answers_that_are_wrong(truth, answer):
    assert maths_accuracy(f"so \\boxed{{{answer}}}", row(truth)) == 0.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("\\boxed{2} \\boxed{3}", True),
        ("\\boxed{3} \\boxed{2}", False),  # the last box counts, alone
        ("\\boxed{\\boxed{3}}", True),
        ("\\boxed{2 + \\boxed{1}}", True),
        ("It is 3.", True),
    ],
)
def test_several_and_nested_boxes(answer, right):
    assert judged(answer, row("3")).right is right


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("Yes, it does.", "yes", True),
        ("The sum is 3, so yes", "yes", True),
        ("No, it does not.", "\\text{Yes}", False),
        ("\\boxed{\\text{No}}", "No", True),
    ],
)
def test_yes_and_no(answer, truth, right):
    assert judged(answer, row(truth)).right is right


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9))
def test_every_way_to_write_a_whole_number_is_equal_to_it_alone(number):
    ways = [f"{number}", f"{number:,}", f"{number}.0", f"\\$ {number}".replace("$ -", "$-"), f"{number} apples"]
    for way in ways:
        assert judged(f"\\boxed{{{way}}}", row(str(number))).right, way
        assert not judged(f"\\boxed{{{way}}}", row(str(number + 1))).right, way


@settings(deadline=None, max_examples=25)
@given(st.integers(-99, 99), st.integers(2, 99))
def test_fractions_are_equal_as_python_says(top, bottom):
    same = Fraction(top, bottom)
    written = f"\\frac{{{top}}}{{{bottom}}}"
    assert judged(f"\\boxed{{{written}}}", row(f"{same.numerator}/{same.denominator}")).right
    assert not judged(f"\\boxed{{{written}}}", row(f"{same.numerator + same.denominator}/{same.denominator}")).right


@given(st.decimals(-1000, 1000, places=3, allow_nan=False))
def test_plain_numbers_are_exact(number):
    assert plain_number(cleaned(str(number))) == Fraction(number)


# ------------------------------------------------------------------------------------------------ harmful outputs

HARMFUL = [
    "",
    "\0\0",
    "\\boxed{\0}",
    "\ud800",
    "\\boxed{\ud800}",
    "9^9^9^9^9",
    "\\boxed{9^{9^{9^{9^9}}}}",
    "\\boxed{99999999999!}",
    "\\boxed{(x+1)^{100000}}",
    "\\boxed{" * 10_000,
    "{" * 10_000,
    "\\boxed{" + "{" * 400 + "}" * 400 + "}",
    "\\boxed{" + "(" * 300 + "}",
    "\\boxed{\\frac{1}{",
    "\\boxed{\\begin{pmatrix} 1 & \\end{matrix}}",
    "9" * 100_000,
    "\\boxed{" + "9" * 100_000 + "}",
    "\\boxed{\\frac{" + "9" * 900 + "}{7}}",
    "$" * 20_000,
    "\\(" * 10_000,
    "1," * 20_000,
    "answer is " * 5_000,
    "\\boxed{" + "1 a" * 300 + "!}",
    "\\boxed{1 " + "ab " * 300 + "!}",
    "\\boxed{quit()}",
    "\\boxed{__import__('os').getcwd()}",
]


@pytest.mark.parametrize("answer", HARMFUL, ids=lambda text: repr(text[:20]))
def test_outputs_meant_to_do_harm_are_wrong_and_the_next_answer_is_judged(answer):
    truth = row("\\frac{3}{7}")
    assert maths_accuracy(answer, truth) == 0.0
    assert maths_accuracy("\\boxed{\\frac{6}{14}}", truth) == 1.0


def test_a_long_answer_is_right_where_it_is_the_truth_to_the_letter():
    long = " + ".join(f"x_{n}" for n in range(300))
    assert judged(f"\\boxed{{{long}}}", row(long)).right
    assert not judged(f"\\boxed{{{long} + 0}}", row(long)).right


def test_an_answer_that_takes_too_long_is_counted_as_unparsable():
    verdict = judged("\\boxed{9^{9^{9^{9}}}}", row("\\frac{3}{7}"))
    assert (verdict.right, verdict.readable) == (False, False)


@given(st.text(max_size=200))
def test_no_text_breaks_the_search_for_the_answer(text):
    found = final_answer(text)
    assert found is None or found in text


@settings(deadline=None, max_examples=40)
@given(st.text("\\{}[]()^_$%&#0123456789xyfracsqrtboxed,.+-*/= ", max_size=60))
def test_no_formula_breaks_the_verifier(text):
    assert maths_accuracy(f"\\boxed{{{text}}}", row("\\frac{355}{113}")) in (0.0, 1.0)


def test_other_threads_are_served():
    found = {}

    def ask(number):
        found[number] = maths_accuracy(f"\\boxed{{\\frac{{{number}}}{{17}}}}", row(f"\\frac{{{2 * number}}}{{34}}"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(1, 9), 1.0)


def test_a_child_that_dies_is_replaced():
    checker = Checker()
    try:
        assert checker.compare("\\frac12", "0.5") == "same"
        checker._process.kill()
        checker._process.wait()
        assert checker.compare("\\frac12", "0.6") == "different"
        assert checker.starts == 2
    finally:
        checker.close()


def test_a_child_that_does_not_answer_is_ended_and_the_answer_is_slow(monkeypatch):
    checker = Checker()
    try:
        assert checker.compare("1/2", "0.5") == "same"
        monkeypatch.setattr(maths_verifier, "WALL_SECONDS", 0.2)
        assert checker.compare("1/2", "9^{9^{9^{9^{9}}}}") == "slow"
        monkeypatch.setattr(maths_verifier, "WALL_SECONDS", 60.0)
        assert checker.compare("1/2", "2/4") == "same"
        assert checker.starts == 2
    finally:
        checker.close()


def test_a_child_that_cannot_start_says_why(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise ImportError('no such package here')")
    monkeypatch.setattr(maths_verifier, "_WORKER", broken)
    with pytest.raises(RuntimeError, match=r"(?s)did not start.*no such package here"):
        Checker().compare("1", "2")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such signals on this system")
def test_a_computation_in_c_ends_with_the_process():
    code = (
        "from dro_lab.data import maths_worker as w\n"
        "w.SECONDS, w.KILL_SECONDS = 0.1, 0.3\n"
        "with w.limited():\n"
        "    sum(range(10**12))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True)
    assert done.returncode < 0


def test_python_code_is_interrupted_at_the_limit():
    code = (
        "from dro_lab.data import maths_worker as w\n"
        "w.SECONDS = 0.05\n"
        "try:\n"
        "    with w.limited():\n"
        "        while True: pass\n"
        "except w.Slow: print('slow')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True)
    assert done.stdout == "slow\n"


def test_the_program_answers_one_word_a_line_and_nothing_else():
    requests = [["1/2", "0.5"], ["1/2", "0.6"], ["1/2", "\\frac{"], ["\\frac{", "1"]]
    done = subprocess.run(
        [sys.executable, "-P", maths_worker.__file__],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split("\n") == ["ready", "same", "different", "unreadable", "gold", ""]
    assert done.stderr == ""


# ------------------------------------------------------------------------------------------------ figures


def test_unreadable_answers_are_counted():
    answers = ["\\boxed{1}", "no idea what this is about", "\\boxed{\\frac{}", "\\boxed{9}"]
    assert figures(answers, [row("1")] * 4) == {"unparsable_share": 0.5}
    assert figures([], []) == pytest.approx({"unparsable_share": float("nan")}, nan_ok=True)


def test_an_answer_is_compared_once(monkeypatch):
    asked = []
    real = CHECKER.compare
    monkeypatch.setattr(CHECKER, "compare", lambda gold, given: asked.append(given) or real(gold, given))
    for _ in range(3):
        assert maths_accuracy("\\boxed{\\frac{123}{456}}", row("\\frac{41}{152}")) == 1.0
    assert asked == ["\\frac{123}{456}"]
