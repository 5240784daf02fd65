"""Quality of an answer against a row, on literal cases."""

import math

import pytest

from dro_lab.data.finqa_text import agreed_reference, clean_answer, page_prompt, true_value
from dro_lab.data.metrics import exact_match, final_number, numeric_accuracy, reference_overlap
from dro_lab.types import Row


def row(reference: str = "", exe_ans: object = None) -> Row:
    return Row(id="r", prompt=[], reference=reference, columns={"exe_ans": exe_ans})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("34.7%", 34.7),
        ("$ 1,234,567.80", 1234567.8),
        ("-5", -5.0),
        ("−5.5 %", -5.5),
        ("$-5", -5.0),
        ("-$5", -5.0),
        ("(12.4)", -12.4),
        ("$ ( 12.4 )", -12.4),
        ("- 12.4", -12.4),
        ("about a third (34.7%)", 34.7),
        ("- 12 for one\n- 15 for the other", 15.0),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("it rose from 10 to 20, so by 100%", 100.0),
        ("the share was 34.7% in 2012", 34.7),
        ("2012", 2012.0),
        ("2010–2011", 2011.0),
        ("x = 10-5", 5.0),
        (r"so \boxed{34.7\%} of 329500", 34.7),
        ("The answer is 7. I checked 3 of 4 tables.", 4.0),
        ("12 then 13. Answer: 14", 14.0),
        ("the answer is unclear, maybe 3", 3.0),
        ("no number here", None),
        ("Q3 and v2", None),
        ("", None),
        ("9" * 5000, None),
        ("1e999", None),
    ],
)
def test_the_number_an_answer_ends_on(text, number):
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("answer", "truth", "quality"),
    [
        ("0.347", 0.34719, 1.0),
        ("34.7%", 0.34719, 1.0),
        ("0.00347", 0.34719, 1.0),
        ("-34.7%", 0.34719, 0.0),
        ("102", 100.0, 1.0),
        ("98", 100.0, 1.0),
        ("102.1", 100.0, 0.0),
        ("97.9", 100.0, 0.0),
        ("0", 0.0, 1.0),
        ("0.01", 0.0, 0.0),
        ("yes", 1.0, 0.0),
        ("", 1.0, 0.0),
        ("Yes, it did.", "yes", 1.0),
        ("no", "yes", 0.0),
        ("yes and no", "yes", 0.0),
        ("1", "yes", 0.0),
        ("yesterday", "yes", 0.0),
    ],
)
def test_accuracy_allows_two_percent_and_percent_forms_and_wants_yes_or_no_exactly(answer, truth, quality):
    assert numeric_accuracy(answer, row(exe_ans=truth)) == quality


@pytest.mark.parametrize("truth", [None, "maybe", math.nan, math.inf, True])
def test_accuracy_is_nan_where_the_truth_cannot_be_judged(truth):
    assert math.isnan(numeric_accuracy("1", row(exe_ans=truth)))


@pytest.mark.parametrize("answer", ["\x00", "\ud800", "((((", "%%%", "1,2,3,,4", "\\boxed{", "answer:", "-" * 2000])
def test_metrics_never_raise_on_model_output(answer):
    for judged in (row("some words", 3.0), row("some words", "yes")):
        for metric in (numeric_accuracy, reference_overlap, exact_match):
            assert 0 <= metric(answer, judged) <= 1


def test_overlap_is_twice_the_matching_words_over_all_words():
    assert reference_overlap("a b c d", row("a b c d")) == 1.0
    assert reference_overlap("A  b\nC d", row("a b c d")) == 1.0  # case and white space do not count
    assert reference_overlap("w x y z", row("a b c d")) == 0.0
    assert reference_overlap("a b", row("a b c d")) == pytest.approx(2 * 2 / 6)
    assert reference_overlap("c d a b", row("a b c d")) == pytest.approx(2 * 2 / 8)  # order counts
    assert reference_overlap("", row("a b")) == 0.0
    assert math.isnan(reference_overlap("a", row("")))


def test_exact_match_ignores_case_and_white_space_only():
    assert exact_match(" Two  words ", row("two words")) == 1.0
    assert exact_match("two words.", row("two words")) == 0.0


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        (0.5, 0.5),
        ("34.7%", 0.347),
        ("$ 1,234", 1234.0),
        ("( 12 )", -12.0),
        (" YES ", "yes"),
        ("4.9\\\\n", 4.9),
        ("101 stores", None),
        ("", None),
        (None, None),
        (True, None),
        (math.inf, None),
    ],
)
def test_the_truth_is_a_whole_number_or_yes_or_no(value, truth):
    assert true_value(value) == (pytest.approx(truth) if isinstance(truth, float) else truth)


@pytest.mark.parametrize(
    ("answer", "truth", "reference"),
    [
        ("34.7%", 0.34719, "34.7%"),
        ("-3.2%", -16.0, "-16"),
        ("", 1393.0, "1393"),
        ("", 0.5, "0.5"),
        ("", 1e-9, "1e-09"),
        ("anything", "yes", "yes"),
        ("101 stores", None, "101 stores"),
    ],
)
def test_the_reference_is_the_answer_where_it_agrees_else_the_truth(answer, truth, reference):
    assert agreed_reference(answer, truth) == reference
    if truth is not None:
        assert numeric_accuracy(reference, row(exe_ans=truth)) == 1.0


def test_clean_answer_drops_stray_escapes():
    assert clean_answer("4.9\\\\n") == "4.9"
    assert clean_answer(7) == "7"
    assert clean_answer(None) == ""


def test_cutting_takes_the_sentences_farthest_from_the_table_and_spares_table_and_question():
    pre, table, post = ["far.", "near."], [["a", "b"], ["1", "2"]], ["close.", "away.", "remote."]
    whole, cut = page_prompt(pre, table, post, "what?")
    assert (whole, cut) == ("far. near.\n\na | b\n1 | 2\n\nclose. away. remote.\n\nQuestion: what?", False)
    shorter, cut = page_prompt(pre, table, post, "what?", limit=len(whole) - 1)
    assert (shorter, cut) == ("far. near.\n\na | b\n1 | 2\n\nclose. away.\n\nQuestion: what?", True)
    least, cut = page_prompt(pre, table, post, "what?", limit=1)
    assert (least, cut) == ("a | b\n1 | 2\n\nQuestion: what?", True)
