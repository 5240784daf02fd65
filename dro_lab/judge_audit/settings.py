"""The audit's own keys, ``audit.KEY=VALUE`` on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from dro_lab.checks import number, whole
from dro_lab.commands import read_value
from dro_lab.errors import UserError

PREFIX = "audit."


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Which rows, how many, and where to."""

    rows: int = 32  # of the split, drawn by the seed
    split: str = "validation"
    seed: int = 0
    confidence: float = 0.9
    resamples: int = 2000  # bootstrap
    preferences: str | None = None  # a file of human preferences in ParaRev's schema
    out: str | None = None  # the JSON file; None: OUTPUTS/judge_audit/JUDGE_DATASET_TIME.json

    def __post_init__(self) -> None:
        whole("audit.rows", self.rows, low=1, todo="32 is the default")
        whole("audit.seed", self.seed, low=0, todo="any; the same seed draws the same rows")
        whole("audit.resamples", self.resamples, low=1, todo="2000 is the default")
        number("audit.confidence", self.confidence, low=0.0, high=1.0, todo="0.9 is the default")
        if self.confidence in (0, 1):
            raise UserError(f"audit.confidence={self.confidence}: must be between 0 and 1; 0.9 is the default")
        for key in ("preferences", "out", "split"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise UserError(f"audit.{key}={value}: must be a text; leave it out for the default")


def split_keys(given: Sequence[str]) -> tuple[Audit, list[str]]:
    """The audit's keys, checked, and the overrides of a run.

    Raises:
        UserError: an unknown key or option, or a value that makes no sense.
    """

    known = [field.name for field in fields(Audit)]
    own: dict[str, Any] = {}
    overrides = []
    for argument in given:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(f"{argument}: unknown option; see `python -m dro_lab.judge_audit --help`")
        if not key.lstrip("+").startswith(PREFIX):
            overrides.append(argument)
            continue
        name = key.lstrip("+").removeprefix(PREFIX)
        if name not in known or not equals:
            raise UserError(f"{argument}: unknown key; allowed are {', '.join(PREFIX + item for item in known)}")
        try:
            own[name] = value if name in ("preferences", "out", "split") else read_value(value)
        except ValueError as error:
            raise UserError(f"{argument}: cannot be read as KEY=VALUE") from error
    return Audit(**own), overrides
