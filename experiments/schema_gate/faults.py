"""Sound and faulty answers to a twin's rows: each is the row's reference, changed in one way. No policy is sampled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np

from dro_lab.data.contract_nli_answer import LABELS, NOT_MENTIONED, write
from dro_lab.types import Row

Change = Callable[[Row, np.random.Generator], str | None]
"""``change(row, rng) -> answer``; None where it makes no sense for the row."""

PROSE = (
    " So this is my answer.",
    " I am sure of it.",
    "\n\nThis follows from what is given above.",
    " (checked twice)",
)


def _value(row: Row) -> dict:
    return dict(json.loads(row.reference))


def label_outside(row: Row, rng: np.random.Generator) -> str:
    """A label that is none of the three."""
    words = ("Neutral", "entailment", "Entails", "Contradicted", "Not mentioned", "Unknown", "")
    return json.dumps({**_value(row), "label": words[rng.integers(len(words))]})


def index_out_of_range(row: Row, rng: np.random.Generator) -> str | None:
    """A span number that the contract does not have, in the place of the right one."""
    if not _value(row)["evidence"]:
        return None
    return json.dumps({**_value(row), "evidence": [int(row.columns["spans"] + rng.integers(0, 10))]})


def evidence_with_not_mentioned(row: Row, rng: np.random.Generator) -> str:
    """NotMentioned, and a span that is said to prove it."""
    evidence = _value(row)["evidence"] or [int(rng.integers(row.columns["spans"]))]
    return json.dumps({"label": NOT_MENTIONED, "evidence": evidence})


def duplicate_key(row: Row, rng: np.random.Generator) -> str:
    """The label twice: half the time the same, half the time two different ones."""
    value = _value(row)
    others = [label for label in LABELS if label != value["label"]]
    first = value["label"] if rng.random() < 0.5 else others[rng.integers(len(others))]
    return f'{{"label": {json.dumps(first)}, {row.reference[1:]}'


def trailing_prose(row: Row, rng: np.random.Generator) -> str:
    """A sentence behind the answer."""
    return row.reference + PROSE[rng.integers(len(PROSE))]


def reference(row: Row, rng: np.random.Generator) -> str:
    """The reference itself."""
    return row.reference


def laid_out(row: Row, rng: np.random.Generator) -> str:
    """The same object, keys in the other order or on lines of their own."""
    value = _value(row)
    turned = dict(reversed(value.items()))
    return json.dumps(turned) if rng.random() < 0.5 else json.dumps(value, indent=2) + "\n"


def wrong_but_sound(row: Row, rng: np.random.Generator) -> str:
    """Another label with evidence to match: the metric's matter, not the gate's."""
    others = [label for label in LABELS if label != _value(row)["label"]]
    label = others[rng.integers(len(others))]
    return write(label, [] if label == NOT_MENTIONED else [int(rng.integers(row.columns["spans"]))])


def _number(row: Row) -> bool:
    return "is_a_number" in row.columns["predicates"]


def no_number(row: Row, rng: np.random.Generator) -> str:
    """A word in the place of the number (of yes or no)."""
    words = ("unchanged", "not stated", "some", "it rises", "")
    return words[rng.integers(len(words))]


def unit_missing(row: Row, rng: np.random.Generator) -> str | None:
    """The number in another unit than the one asked for, or in none."""
    unit = row.columns["unit"]
    if not unit:
        return None
    other = "" if rng.random() < 0.5 else " million" if unit == "%" else "%"
    return row.reference.replace(unit, "").strip() + other


def sign_turned(row: Row, rng: np.random.Generator) -> str | None:
    """The number with the opposite sign (not of 0)."""
    if not _number(row) or row.columns["exe_ans"] == 0:
        return None
    return row.reference[1:] if row.reference.startswith("-") else f"-{row.reference}"


def given_twice(row: Row, rng: np.random.Generator) -> str:
    """The answer, and the answer again, half the time another one."""
    again = row.reference if rng.random() < 0.5 else wrong_number(row, rng)
    return f"{row.reference} {again}"


def full_stop(row: Row, rng: np.random.Generator) -> str:
    """The reference with a full stop."""
    return row.reference + "."


def wrong_number(row: Row, rng: np.random.Generator) -> str:
    """Another number of the same sign and unit, or the other of yes and no."""
    if not _number(row):
        return "no" if row.reference == "yes" else "yes"
    size = int(abs(row.columns["exe_ans"])) + 1 + int(rng.integers(0, 5))
    unit = row.columns["unit"]
    return f"{'-' if row.columns['sign'] == '-' else ''}{size}{unit if unit == '%' else f' {unit}' if unit else ''}"


FAULTS: Mapping[str, Mapping[str, Change]] = {
    "contract_nli": {
        "label outside the set": label_outside,
        "index out of range": index_out_of_range,
        "evidence with NotMentioned": evidence_with_not_mentioned,
        "duplicate key": duplicate_key,
        "trailing prose": trailing_prose,
    },
    "finqa": {
        "no number, no yes or no": no_number,
        "another unit or none": unit_missing,
        "sign turned": sign_turned,
        "answer given twice": given_twice,
        "trailing prose": trailing_prose,
    },
}
SOUND: Mapping[str, Mapping[str, Change]] = {
    "contract_nli": {"reference": reference, "laid out otherwise": laid_out, "wrong but well-formed": wrong_but_sound},
    "finqa": {"reference": reference, "with a full stop": full_stop, "wrong but well-formed": wrong_number},
}
