"""A judge whose faults are known, and people's judgements, for the tests of the audit."""

import json
from pathlib import Path

from dro_lab.judge_audit.settings import Audit
from dro_lab.judges.protocol import NO

AUDIT = Audit(rows=6, resamples=200)


class Scripted:
    """A judge by two functions."""

    name = "scripted"
    asks_reference = False

    def __init__(self, verdict=lambda question: NO, preference=lambda pair: 0.5) -> None:
        self.verdict, self.preference = verdict, preference

    def verdicts(self, questions):
        return [self.verdict(question) for question in questions]

    def preferences(self, pairs):
        return [self.preference(pair) for pair in pairs]

    def metrics(self):
        return {}

    def attach(self, **_):
        """It asks no policy."""


def by_name(figures, part):
    return {figure.name: figure for figure in figures if figure.part == part}


def judgement(preference="A", **fields):
    made = {
        "original_paragraph": "It is bad.",
        "reference_paragraph": "It is good.",
        "instruction": "Improve.",
        "model_A_paragraph": "good",
        "model_B_paragraph": "bad",
        "eval_annotation": {"preference": preference},
    }
    return {**made, **fields}


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
