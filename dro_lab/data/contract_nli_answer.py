"""ContractNLI's answer: one JSON object with a label and the numbers of the spans that prove it.

``{"label": "Entailment" | "Contradiction" | "NotMentioned", "evidence": [span numbers]}``, evidence empty where, and
only where, the label is NotMentioned. One parser serves metrics, rubric and schema gate. It takes the whole answer or
nothing: a code fence or a sentence beside the object, a key given twice, a label outside the set or a span that the
contract does not have make the answer wrong. Nothing here raises on model output.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LABELS = ("Entailment", "Contradiction", "NotMentioned")
NOT_MENTIONED = "NotMentioned"

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": list(LABELS)},
        "evidence": {"type": "array", "items": {"type": "integer", "minimum": 0}, "uniqueItems": True},
    },
    "required": ["label", "evidence"],
    "additionalProperties": False,
}
"""What every answer must look like; `LABEL_SCHEMA` where the data have no spans."""

LABEL_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": list(LABELS)}},
    "required": ["label"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A well-formed answer. ``evidence`` in the order given; None where the data have no spans."""

    label: str
    evidence: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The JSON object found in an answer: its values, the keys that stand twice, whether other text stands beside it.

    ``value`` None: there is no object.
    """

    value: Mapping[str, Any] | None
    repeated: tuple[str, ...] = ()
    beside: bool = True


def write(label: str, evidence: Sequence[int] | None) -> str:
    """The answer's text: what a reference is."""
    return json.dumps({"label": label} if evidence is None else {"label": label, "evidence": list(evidence)})


def read(text: str) -> Reading:
    """The whole answer as a JSON object, else the first object that begins in it."""
    stripped = text.strip()
    pairs_of: list[list[tuple[str, Any]]] = []  # hooks run from the inside out: the last is the outermost object's

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs_of.append(pairs)
        return dict(pairs)

    decoder = json.JSONDecoder(object_pairs_hook=hook)
    start = stripped.find("{")
    if start < 0:
        return Reading(None)
    try:
        value, end = decoder.raw_decode(stripped, start)
    except (ValueError, RecursionError):  # broken JSON, a number of thousands of digits, a thousand nested brackets
        return Reading(None)
    keys = [key for key, _ in pairs_of[-1]]
    repeated = tuple(dict.fromkeys(key for key in keys if keys.count(key) > 1))
    return Reading(value, repeated, beside=start > 0 or end < len(stripped))


def label_of(reading: Reading) -> str | None:
    """The label, if it is one of the three and stands once."""
    label = None if reading.value is None or "label" in reading.repeated else reading.value.get("label")
    return label if isinstance(label, str) and label in LABELS else None


def evidence_of(reading: Reading, *, spans: int) -> tuple[int, ...] | None:
    """The span numbers, if they are a list of different numbers from 0 to ``spans - 1`` that stands once."""
    numbers = None if reading.value is None or "evidence" in reading.repeated else reading.value.get("evidence")
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < spans for n in numbers):
        return None
    return tuple(numbers) if len(set(numbers)) == len(numbers) else None


@functools.lru_cache(maxsize=4096)  # bootstrap intervals read the same answers again and again
def parse(text: str, *, spans: int | None) -> tuple[Answer | None, str]:
    """The answer, or None and what is wrong with it ("" where nothing is).

    Evidence that does not fit the label is no fault of form: the rubric and the schema gate ask for it by themselves.

    Args:
        text: the sampled answer.
        spans: how many spans the contract has, numbered from 0; None: the data have none, the label stands alone.
    """
    reading = read(text)
    if reading.value is None:
        return None, "no JSON object"
    if reading.beside:
        return None, "text beside the JSON object"
    if reading.repeated:
        return None, f"the key {reading.repeated[0]!r} stands twice"
    wanted = {"label"} if spans is None else {"label", "evidence"}
    if set(reading.value) != wanted:
        return None, f"the keys are {sorted(reading.value)}, must be {sorted(wanted)}"
    label = label_of(reading)
    if label is None:
        return None, f"label is {_short(reading.value['label'])}, must be one of {', '.join(LABELS)}"
    if spans is None:
        return Answer(label, None), ""
    evidence = evidence_of(reading, spans=spans)
    if evidence is None:
        given = _short(reading.value["evidence"])
        return None, f"evidence is {given}, must list different span numbers from 0 to {spans - 1}"
    return Answer(label, evidence), ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
