"""``summary.json``: how a run ended, in numbers that a sweep, a report and a reader share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jsonschema

from dro_lab.errors import UserError
from dro_lab.record.columns import SCHEMA_VERSION
from dro_lab.record.files import finite, write_json
from dro_lab.types import Provenance, RefusedRow

PARTS = ("sampling", "scoring", "training", "evaluation", "other")
"""The parts that wall time is split into; together they make ``total``."""

Status = Literal["running", "finished", "stopped", "interrupted", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measured value with its interval ``[low, high]`` over ``n`` samples; nan = could not be measured."""

    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One line of the table *before -> after*; None where there is no such value."""

    metric: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that looked wrong while the run went on, in plain words."""

    step: int
    message: str
    monitor: str = ""  # its name in the `health` group
    action: str = "warn"  # or "stop": it ended the training


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The content of ``summary.json``. Fields that are not known yet keep their defaults."""

    status: Status
    reward: str
    dataset: str
    policy: str
    seed: int
    provenance: Provenance
    metric: str  # the name of the quality metric, as the data set gives it
    samples: int | None = None  # sampled answers a held-out row: the n of mean@n
    steps: int = 0  # optimizer steps done
    planned_steps: int = 0
    error: str | None = None
    stopped: str | None = None  # why a health monitor ended the training
    judge: str = ""  # the judge's name in the configuration
    judge_counts: Mapping[str, float] = field(default_factory=dict)  # requests, unknown verdicts, ... of the whole run
    objective: float | None = None  # what the run returned to Hydra
    confidence: float = 0.95  # level of every interval in the record
    before: Estimate | None = None
    after: Estimate | None = None
    win_rate: Estimate | None = None  # against the base policy, ties half
    comparison: Sequence[Comparison] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # by part; total is added when left out
    refused: Sequence[RefusedRow] = ()
    alarms: Sequence[Alarm] = ()
    notes: Sequence[str] = ()


REFUSED_SHOWN = 50
"""Refused rows are all counted; this many are listed."""


def to_json(summary: Summary) -> dict[str, Any]:
    """The summary as ``summary.json`` holds it: versioned, with counts and with every part of the wall time."""
    content = finite(asdict(summary))
    seconds = {part: float(summary.seconds.get(part, 0.0)) for part in PARTS}
    seconds["total"] = float(summary.seconds.get("total", sum(seconds.values())))
    unknown = set(summary.seconds) - {*PARTS, "total"}
    if unknown:
        raise ValueError(f"seconds: unknown parts {sorted(unknown)}; known are {PARTS}")
    content.update(schema_version=SCHEMA_VERSION, seconds=seconds, refused_rows=len(summary.refused))
    content["refused"] = content["refused"][:REFUSED_SHOWN]
    return content


def write_summary(path: Path, summary: Summary) -> dict[str, Any]:
    """Validate the summary and write it, whole or not at all; returns what was written.

    Raises:
        UserError: the summary does not satisfy the schema.
    """
    content = to_json(summary)
    validate_summary(content, path=path)
    write_json(path, content)
    return content


def read_summary(path: Path) -> dict[str, Any]:
    """Read and validate ``summary.json``.

    Raises:
        UserError: the file is missing, is not JSON, is of another schema version or does not satisfy the schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} holds no summary.json, so it is not a run of dro_lab. Give the folder of one run, "
            "for example outputs/<date>/<time>_r3_pararev_s1."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Restore the file or give another run.") from None
    validate_summary(content, path=path)
    return content


def validate_summary(content: Any, *, path: Path) -> None:
    """Check ``content`` against ``summary.schema.json``; ``path`` is for the message.

    Raises:
        UserError: another schema version (both are named), or the first place that does not satisfy the schema.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {version}, this dro_lab reads {SCHEMA_VERSION}. "
            "Read the run with the version of dro_lab that its env.json names."
        )
    error = jsonschema.exceptions.best_match(_validator().iter_errors(content))
    if error is not None:
        raise UserError(
            f"{path}: {error.json_path.replace('$.', '')}: {error.message}. "
            "The file was not written by this version of dro_lab, or was changed since."
        )


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(Path(__file__).with_name("summary.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)
