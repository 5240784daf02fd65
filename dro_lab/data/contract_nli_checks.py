"""ContractNLI's rubric: checks of an answer's form that a program decides, the same for every row.

They do not look at the truth: a gate on them asks for answers that can be read, the reward for answers that are right.
`PREDICATES` are the names under which `dro_lab.gating.predicates` knows the last three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dro_lab.data.contract_nli_answer import LABEL_SCHEMA, NOT_MENTIONED, SCHEMA, evidence_of, label_of, read
from dro_lab.rubrics.checks import as_column
from dro_lab.types import Check, Row

PREDICATES = ("label_is_known", "evidence_exists", "evidence_iff_mentioned")

CHECKS = (
    Check(id="is_json", text="Does the answer hold a JSON object?", predicate={"kind": "is_json"}),
    Check(
        id="beside",
        text="Does text stand before or after the JSON object?",
        expect="no",
        predicate={"kind": "text_beside"},
    ),
    Check(
        id="keys",
        text='Does the object have exactly the keys "label" and "evidence", each once?',
        predicate={"kind": "keys"},
    ),
    Check(
        id="label_is_known",
        text="Is the label one of Entailment, Contradiction and NotMentioned?",
        predicate={"kind": "label_is_known"},
    ),
    Check(
        id="evidence_exists",
        text="Does evidence list only numbers of spans that the contract has, none of them twice?",
        predicate={"kind": "evidence_exists"},
    ),
    Check(
        id="evidence_iff_mentioned",
        text="Is evidence empty if the label is NotMentioned, and not empty if it is another label?",
        predicate={"kind": "evidence_iff_mentioned"},
    ),
)
LABEL_CHECKS = (
    *CHECKS[:2],
    Check(id="keys", text='Does the object have exactly the key "label", once?', predicate={"kind": "keys"}),
    CHECKS[3],
)

_COLUMN, _LABEL_COLUMN = as_column(CHECKS), as_column(LABEL_CHECKS)  # made once: rows share them


def format_columns(*, spans: int | None) -> dict[str, Any]:
    """The columns that say what an answer must look like: ``rubric``, ``schema``, ``predicates``, ``spans``.

    Args:
        spans: how many spans the contract has; None: the data have none and the answer is the label alone.
    """
    if spans is None:
        return {"spans": None, "schema": LABEL_SCHEMA, "predicates": [PREDICATES[0]], "rubric": _LABEL_COLUMN}
    return {"spans": spans, "schema": SCHEMA, "predicates": list(PREDICATES), "rubric": _COLUMN}


def decide(answer: str, row: Row, check: Check) -> int:
    """The literal answer to a check: 1 yes, 0 no, -1 for a check that is not of `CHECKS`."""
    predicate: Mapping[str, Any] = check.predicate or {}
    spans = row.columns["spans"]
    reading = read(answer)
    label = label_of(reading)
    evidence = None if spans is None else evidence_of(reading, spans=spans)
    keys = {"label"} if spans is None else {"label", "evidence"}
    match predicate.get("kind"):
        case "is_json":
            found = reading.value is not None
        case "text_beside":
            found = reading.beside
        case "keys":
            found = reading.value is not None and set(reading.value) == keys and not reading.repeated
        case "label_is_known":
            found = label is not None
        case "evidence_exists":
            found = evidence is not None
        case "evidence_iff_mentioned":
            found = label is not None and evidence is not None and (label == NOT_MENTIONED) == (not evidence)
        case _:
            return -1
    return int(found)
