"""FinQA's rubric: yes/no checks on an answer's form, and the program that decides them.

Form means: the answer states a number (or says yes or no), in the unit asked for, with the right sign, and nothing
else. Whether the number itself is right is the metric's matter, never the rubric's: a gate that knew it would be the
verifier. The same program serves real rows and the twin's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dro_lab.data.finqa_program import ProgramError, execute, find_program, parse
from dro_lab.data.metrics import final_number
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.types import Check, Row

_PERCENT = re.compile(r"%|\bper ?cent\b", re.IGNORECASE)
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_ALONE = re.compile(
    r"\(?\s*[-+−–]?\s*(?:(?:us)?[$€£])?\s*[-−–]?\s*\(?\s*[0-9][0-9,]*(?:\.[0-9]+)?\s*%?\s*\)?\s*%?"
    r"(?:\s*(?:per ?cent|dollars?|(?:thousand|million|billion)s?(?:\s+dollars)?))?\s*\.?",
    re.IGNORECASE,
)
_ALONE_WORD = re.compile(r"(?:yes|no)\s*\.?", re.IGNORECASE)


def asked_unit(question: str) -> str:
    """The unit that a question asks for by name: "%", "million", "billion", "thousand" or "" (none)."""
    text = question.lower()
    if re.search(r"\bpercent(?:age|ual)?s?\b|\bper cent\b|\bin %", text):
        return "%"
    scale = re.search(r"\(?\bin (thousand|million|billion)s?\b", text)
    return scale[1] if scale else ""


def sign_of(truth: float) -> str:
    """The sign as the checks name it: "-" for numbers below zero, "+" for all others."""
    return "-" if truth < 0 else "+"


def rubric(truth: float | str, *, unit: str = "") -> list[Check]:
    """The checks on an answer whose truth is a number, or yes or no."""
    if isinstance(truth, str):
        return [
            Check(
                id="yes_or_no",
                text="Does the answer say either yes or no, and not both?",
                predicate={"kind": "is_yes_or_no"},
            ),
            Check(id="alone", text="Is the answer nothing but that word?", predicate={"kind": "stands_alone"}),
        ]
    sign = sign_of(truth)
    checks = [Check(id="number", text="Does the answer state a number?", predicate={"kind": "is_a_number"})]
    if unit:
        text = "as a percentage" if unit == "%" else f"in {unit}s"
        checks.append(
            Check(
                id="unit",
                text=f"Does the answer give the number {text}?",
                predicate={"kind": "has_unit", "unit": unit},
            )
        )
    return [
        *checks,
        Check(
            id="sign",
            text=f"Is the number in the answer {'below zero' if sign == '-' else 'zero or above'}?",
            predicate={"kind": "has_sign", "sign": sign},
        ),
        Check(
            id="alone",
            text="Is the answer nothing but a number with its sign and unit?",
            predicate={"kind": "stands_alone"},
        ),
    ]


def program_rubric() -> list[Check]:
    """The checks on an answer that has to be a program."""
    return [
        Check(
            id="program",
            text="Does the answer hold a FinQA program that can be run on the table?",
            predicate={"kind": "is_a_program"},
        ),
        Check(id="alone", text="Is the answer nothing but a program?", predicate={"kind": "is_one_program"}),
    ]


def decide(answer: str, row: Row, check: Check) -> int:
    """The literal answer to the check's text: YES or NO, UNKNOWN for a check of another kind. Reads only the answer."""
    predicate = check.predicate or {}
    match predicate.get("kind"):
        case "is_a_number":
            met = final_number(answer) is not None
        case "has_unit":
            met = has_unit(answer, str(predicate.get("unit")))
        case "has_sign":
            met = has_sign(answer, str(predicate.get("sign")))
        case "is_yes_or_no":
            met = len({word.lower() for word in _YES_NO.findall(answer)}) == 1
        case "stands_alone":
            met = stands_alone(answer)
        case "is_a_program":
            return is_a_program(answer, row)
        case "is_one_program":
            met = is_one_program(answer)
        case _:
            return UNKNOWN
    return YES if met else NO


def has_unit(answer: str, unit: str) -> bool:
    """Whether the answer gives its number in the unit ("%": also the word percent; else the unit's word)."""
    if final_number(answer) is None:
        return False
    if unit == "%":
        return _PERCENT.search(answer) is not None
    return re.search(rf"\b{re.escape(unit)}s?\b", answer, re.IGNORECASE) is not None


def has_sign(answer: str, sign: str) -> bool:
    """Whether the answer's number is below zero ("-") or not ("+")."""
    value = final_number(answer)
    return value is not None and sign_of(value) == sign


def stands_alone(answer: str) -> bool:
    """Whether the answer is one number with its sign and unit, or one word yes or no, and nothing else."""
    text = answer.strip()
    return _ALONE.fullmatch(text) is not None or _ALONE_WORD.fullmatch(text) is not None


def well_posed(checks: Sequence[Check], row: Row) -> tuple[list[Check], int]:
    """The checks that the row's own reference meets, and how many it does not: those would be ill-posed."""
    met = [check for check in checks if (decide(row.reference, row, check) == YES) == (check.expect == "yes")]
    return met, len(checks) - len(met)


def columns(truth: float | str, unit: str) -> dict[str, Any]:
    """What `gating=schema` reads from a row: the answer's ``unit`` and ``sign`` and the ``predicates`` to hold."""
    if isinstance(truth, str):
        return {"unit": "", "sign": "", "predicates": ["is_yes_or_no", "stands_alone"]}
    names = ["is_a_number", *(["has_unit"] if unit else []), "has_sign", "stands_alone"]
    return {"unit": unit, "sign": sign_of(truth), "predicates": names}


PROGRAM_COLUMNS: dict[str, Any] = {"unit": "", "sign": "", "predicates": ["dro_lab.data.finqa_checks.is_a_program"]}
"""The same for rows whose answers are programs."""


def is_a_program(answer: Any, row: Row) -> int:
    """YES where the last program in the answer can be run on the row's table, else NO."""
    program = find_program(str(answer))
    if program is None:
        return NO
    try:
        execute(program, row.columns.get("table") or ())
    except ProgramError:
        return NO
    return YES


def is_one_program(answer: str) -> bool:
    """Whether the whole answer is one program."""
    try:
        parse(answer)
    except ProgramError:
        return False
    return True
