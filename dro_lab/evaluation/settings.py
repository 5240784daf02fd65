"""The `evaluation` group, checked without importing anything heavy, and the names of what an evaluation measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dro_lab.checks import choice, number, whole
from dro_lab.errors import UserError

METRICS = (
    "quality",
    "reward",
    "win_rate",
    "reflective_share",
    "reasoning_tokens",
    "completion_tokens",
    "gate_rejected_share",
    "filter_dropped_share",
    "truncated_share",
    "malformed_share",
)
"""What an evaluation estimates: the values `objective` may take, and the rows of evals.jsonl."""

SPLITS = ("validation", "test", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """The `evaluation` group; see conf/evaluation/default.yaml for the fields."""

    split: str
    prompts: int
    samples: int
    every: int
    batch_size: int
    confidence: float
    bootstrap: int
    seed: int
    reflective_sigma: float
    token_rows: int


def evaluation_settings(values: Mapping[str, Any]) -> EvaluationSettings:
    """Check the group and return it.

    Raises:
        UserError: a key is unknown or missing, or a value makes no sense.
    """
    fields = list(EvaluationSettings.__dataclass_fields__)
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(f"evaluation.{unknown[0]}={values[unknown[0]]}: unknown key; allowed are {', '.join(fields)}")
    if missing := [name for name in fields if values.get(name) is None]:
        raise UserError(
            f"evaluation.{missing[0]} is not set: it needs a value; conf/evaluation/default.yaml says what it means"
        )
    for name, low, todo in (
        ("prompts", 1, "the number of held-out rows, 32 by default"),
        ("samples", 1, "sampled answers a row, 4 by default"),
        ("every", 1, "steps between evaluations; a number above `steps` evaluates before and after only"),
        ("batch_size", 1, "samples generated at once, 256 by default"),
        ("bootstrap", 1, "resamples of an interval, 2000 by default"),
        ("seed", 0, "evaluations draw from it, the same each time"),
        ("token_rows", 0, "rows whose reference tokens are kept, 8 by default"),
    ):
        whole(f"evaluation.{name}", values[name], low=low, todo=todo)
    number("evaluation.reflective_sigma", values["reflective_sigma"], low=0.0, todo="0.2 is the default")
    confidence = values["confidence"]
    number("evaluation.confidence", confidence, low=0.0, high=1.0, todo="for example 0.9")
    if confidence in (0, 1):
        raise UserError(f"evaluation.confidence={confidence}: must lie strictly between 0 and 1; for example 0.9")
    choice("evaluation.split", values["split"], SPLITS, todo="held-out rows are in validation and test")
    return EvaluationSettings(**values)


def check_objective(objective: str, *, steps: int, samples: int) -> None:
    """Refuse an objective that no evaluation of this run will have.

    Raises:
        UserError: naming the metrics there are.
    """
    choice("objective", objective, METRICS, todo="it names what the run returns to a sweep; quality is the default")
    if objective == "win_rate" and steps == 0:
        raise UserError("objective=win_rate with steps=0: nothing is trained, so there is no policy to compare with")
    if objective == "reflective_share" and samples == 1:
        raise UserError(
            "objective=reflective_share with evaluation.samples=1: it compares the answers to one prompt; "
            "set evaluation.samples to at least 2"
        )
