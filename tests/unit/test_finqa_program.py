"""FinQA's program language: what programs mean, what is none, and the official execution accuracy."""

from __future__ import annotations

import json
import math
import operator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.data.finqa_metrics import execution_accuracy, figures, program_accuracy
from dro_lab.data.finqa_program import ProgramError, Step, execute, execution_match, find_program, number, parse
from dro_lab.types import Row

TABLE = [
    ["item", "2017", "2018"],
    ["net sales", "$ 1,234.5", "2000"],
    ["margin", "27.9%", "25%"],
    ["hedges", "-8683 ( 8683 )", "-10 ( 10 )"],
    ["price (per share), diluted", "4", "6"],
    ["note", "n/a", "1"],
    ["net sales", "1", "2"],
]
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "finqa"


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("add(1, 2)", 3.0),
        ("subtract(5829, 5735)", 94.0),
        ("subtract(5829, 5735), divide(#0, 5735)", 0.01639),
        ("multiply(245.7, 49.9%), multiply(#0, const_1000000)", 122604300.0),
        ("divide(637, const_5)", 127.4),
        ("multiply(351, const_m1), add(#0, 538)", 187.0),
        ("divide(6.9%, const_100), add(const_1, #0), exp(#1, 10), multiply(4273.1, #2)", 4302.67611),
        ("exp(2, 10)", 1024.0),
        ("greater(3, 2)", "yes"),
        ("greater(2, 2)", "no"),
        ("add(1,234.5, $ 1)", 1235.5),
        ("add(1, 1,234.5)", 1235.5),
        ("add(1,2)", 3.0),
        ("subtract(62%, 61%)", 0.01),
        ("divide(1, 3)", 0.33333),
        ("table_max(margin, none)", 0.279),
        ("table_min(hedges, none)", -8683.0),
        ("table_sum(hedges, none)", -8693.0),
        ("table_average(margin, none), table_max(margin, none), subtract(#1, #0)", 0.0145),
        ("table_average(price (per share), diluted, none)", 5.0),
        ("table_sum(net sales, none)", 3.0),  # of two rows with one name the last counts
        ("add(1, 2), add(10, 20), subtract(#1, #0), multiply(#2, #0)", 81.0),
    ],
)
def test_a_program_gives_the_result_of_its_last_step(program, result):
    assert execute(program, TABLE) == result


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("", "does not begin with an operation"),
        ("7", "does not begin with an operation"),
        ("root(4, 2)", "does not begin with an operation"),
        ("add(1)", "does not begin"),
        ("add(, 2)", "does not begin"),
        ("add(1, 2", "does not begin"),
        ("add(1, 2) is 3", "after step 1 stands ' is 3'"),
        ("add(1, 2), root(4, 2)", "after step 1 stands"),
        ("add(#0, 2)", "#0 refers to a step that has not run"),
        ("add(1, 2), add(#1, 1)", "#1 refers to a step that has not run"),
        ("add(one, 2)", "'one' is not a number"),
        ("add(nan, 2)", "'nan' is not a number"),
        ("add(1_0, 2)", "'1_0' is not a number"),
        ("divide(1, 0)", "zero"),
        ("exp(10, 1000)", "divide|range|large"),
        ("exp(-8, 0.5)", "not a finite real number"),
        ("exp(0, const_m1)", "zero|0.0"),
        ("multiply(1e300, 1e300)", "not a finite real number"),
        ("greater(2, 1), add(#0, 1)", "#0 is 'yes', not a number"),
        ("table_max(no such row, none)", "no row of the table is called 'no such row'"),
        ("table_max(note, none)", "not only numbers"),
        ("add(1, 2), table_max(#0, none)", "no row of the table is called '#0'"),
    ],
)
def test_what_is_no_program_or_cannot_be_run_is_an_error_that_says_why(program, words):
    with pytest.raises(ProgramError, match=words):
        execute(program, TABLE)
    assert not execution_match(program, TABLE, 3.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12.0),
        ("-3.5", -3.5),
        ("$ 1,234", 1234.0),
        ("36%", 0.36),
        ("- 3", None),
        ("const_1000", 1000.0),
        ("const_m1", -1.0),
        ("const_x", None),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("", None),
        ("%", None),
        ("1e999", None),
    ],
)
def test_numbers_as_programs_write_them(text, value):
    assert number(text) == value


OPERATIONS = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul}


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(-99, 99), st.integers(0, 8)), min_size=1, max_size=6
    )
)
def test_chained_steps_equal_pythons_own_arithmetic(drawn):
    steps, results = [], []
    for operation, constant, reference in drawn:
        if results:
            place = reference % len(results)
            steps.append(f"{operation}(#{place}, {constant})")
            results.append(OPERATIONS[operation](results[place], constant))
        else:
            steps.append(f"{operation}({constant}, {reference})")
            results.append(OPERATIONS[operation](constant, reference))
    program = ", ".join(steps)
    assert execute(program) == results[-1]
    assert parse(", ".join(map(str, parse(program)))) == parse(program)
    assert find_program(f"So the answer (see 3) is {program}. Done, add it up.") == program


def test_steps_are_read_as_written():
    assert parse("table_max(price (per share), diluted, none), exp(#0,2)") == (
        Step("table_max", "price (per share), diluted", "none"),
        Step("exp", "#0", "2"),
    )


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("no program, add it (yourself)", None),
        ("add(1, 2) and then subtract(#0, 1)", "subtract(#0, 1)"),
        ("first add(1, 2), divide(#0, 3)!", "add(1, 2), divide(#0, 3)"),
        ("add(1, 2), add(3", "add(1, 2)"),
        ("badd(1, 2)", None),
        ("add(" * 9 + "x" * 600 + ")" * 9, None),
    ],
)
def test_the_last_program_in_a_text_is_found(text, program):
    assert find_program(text) == program


def row(truth, **columns) -> Row:
    return Row(id="a", prompt=[], reference="x", columns={"exe_ans": truth, "table": TABLE, **columns})


def test_execution_accuracy_wants_the_result_exactly_and_accuracy_within_two_percent():
    exact, near, wrong = "divide(1, 3)", "divide(0.99, 3)", "divide(2, 3)"
    assert [execution_accuracy(answer, row(0.33333)) for answer in (exact, near, wrong, "0.33333", "")] == [
        1,
        0,
        0,
        0,
        0,
    ]
    assert [program_accuracy(answer, row(0.33333)) for answer in (exact, near, wrong, "0.33333", "")] == [1, 1, 0, 1, 0]
    assert program_accuracy("divide(1, 0)", row(0.33333)) == 0
    assert program_accuracy("the answer is greater(2, 1)", row("yes")) == 1
    assert program_accuracy("greater(1, 2)", row("yes")) == 0
    assert program_accuracy("add(1, 2)", row("yes")) == 0
    assert program_accuracy("greater(2, 1)", row(3.0)) == 0
    assert math.isnan(program_accuracy(exact, row(None)))
    assert math.isnan(execution_accuracy(exact, row(None)))
    assert math.isnan(execution_accuracy(exact, row(0.333, executed=False)))


def test_figures_of_all_answers_together():
    rows = [row(3.0), row("yes"), row(0.333, executed=False)]
    answers = ["add(1, 2)", "yes", "divide(1, 3)"]
    assert figures(answers, rows) == {"execution_accuracy": 0.5, "program_share": 2 / 3}
    assert math.isnan(figures(["3", "yes", "0.3"], rows)["execution_accuracy"])
    assert figures(["3", "yes", "0.3"], rows, programs_asked=True) == {"execution_accuracy": 0.0, "program_share": 0.0}
    assert all(map(math.isnan, figures([], [], programs_asked=True).values()))


@pytest.mark.parametrize(
    ("name", "count"),
    [("official_schema_train_100.json", 100), ("official_schema_dev_200.json", 200), ("packed_dev.jsonl", 883)],
)
def test_every_published_program_gives_its_exe_ans(name, count):
    file = DATA / name
    if not file.exists():
        pytest.skip(f"the published rows are not here ({file})")
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert len(rows) == count
    missed = []
    for fields in rows:
        qa = fields.get("qa", fields)
        if not execution_match(qa["program"], fields["table"], qa["exe_ans"]):
            missed.append((qa["program"], qa["exe_ans"]))
        assert find_program(f"It is {qa['program']}.") == ", ".join(map(str, parse(qa["program"])))
    assert missed == []
