"""Named predicates on structured answers, for what a JSON schema cannot say.

``predicate(value, row) -> 1 met, 0 not met, -1 unknown (the row lacks what it needs)``; ``value`` is the parsed JSON
answer where the row has a schema, else the answer's text. A dotted name is a function of yours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import get_object

from dro_lab.data import finqa_checks
from dro_lab.data.contract_nli_answer import LABELS, NOT_MENTIONED
from dro_lab.data.metrics import final_number
from dro_lab.errors import UserError
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.types import Check, Row

Predicate = Callable[[Any, Row], int]


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def label_is_known(value: Any, row: Row) -> int:
    """ContractNLI: ``label`` is Entailment, Contradiction or NotMentioned."""
    label = _member(value, "label")
    return YES if isinstance(label, str) and label in LABELS else NO


def evidence_exists(value: Any, row: Row) -> int:
    """ContractNLI: ``evidence`` lists different numbers from 0 to ``columns["spans"] - 1``."""
    spans, evidence = row.columns.get("spans"), _member(value, "evidence")
    if not isinstance(spans, int):
        return UNKNOWN
    if not isinstance(evidence, list) or not all(type(n) is int and 0 <= n < spans for n in evidence):
        return NO
    return YES if len(set(evidence)) == len(evidence) else NO


def evidence_iff_mentioned(value: Any, row: Row) -> int:
    """ContractNLI: ``evidence`` is empty exactly where the label is NotMentioned."""
    label, evidence = _member(value, "label"), _member(value, "evidence")
    if not isinstance(label, str) or not isinstance(evidence, list):
        return NO
    return YES if (label == NOT_MENTIONED) == (not evidence) else NO


def is_a_number(value: Any, row: Row) -> int:
    """FinQA: the answer states a number (as the metric reads it)."""
    return YES if final_number(_text(value)) is not None else NO


def has_unit(value: Any, row: Row) -> int:
    """FinQA: the number stands in ``columns["unit"]`` ("%", "million", ...); met where none is asked for."""
    unit = row.columns.get("unit")
    if not isinstance(unit, str):
        return UNKNOWN
    return YES if not unit or finqa_checks.has_unit(_text(value), unit) else NO


def has_sign(value: Any, row: Row) -> int:
    """FinQA: the number has ``columns["sign"]``: "-" below zero, "+" zero or above."""
    sign = row.columns.get("sign")
    if not isinstance(sign, str) or not sign:
        return UNKNOWN
    return YES if finqa_checks.has_sign(_text(value), sign) else NO


def is_yes_or_no(value: Any, row: Row) -> int:
    """FinQA: the answer says yes or no, and not both."""
    asked = Check(id="yes_or_no", text="yes or no?", predicate={"kind": "is_yes_or_no"})
    return finqa_checks.decide(_text(value), row, asked)


def stands_alone(value: Any, row: Row) -> int:
    """FinQA: the answer is a number with its sign and unit, or the word yes or no, and nothing else."""
    return YES if finqa_checks.stands_alone(_text(value)) else NO


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


PREDICATES: Mapping[str, Predicate] = {
    predicate.__name__: predicate
    for predicate in (
        label_is_known,
        evidence_exists,
        evidence_iff_mentioned,
        is_a_number,
        has_unit,
        has_sign,
        is_yes_or_no,
        stands_alone,
    )
}


def predicate(name: str, *, where: str) -> Predicate:
    """The predicate of a name, or the function of a dotted path.

    Args:
        where: the key or row that names it, for the message.

    Raises:
        UserError: there is none.
    """
    if name in PREDICATES:
        return PREDICATES[name]
    if isinstance(name, str) and "." in name:
        try:
            found = get_object(name)
        except Exception as error:  # importing a user's module can fail in any way
            raise UserError(
                f"{where}: the predicate {name} cannot be imported ({error}); is it on PYTHONPATH?"
            ) from error
        if callable(found):
            return found
    raise UserError(
        f"{where}: {name!r} is no predicate; choose from {', '.join(PREDICATES)}, or give the dotted path of a "
        "function (value, row) -> 1, 0 or -1"
    )
