"""Reading a run's record: one function, and one object that holds everything as frames."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dro_lab.errors import UserError
from dro_lab.record.columns import ANSWERS, ROLLOUTS, TOKENS
from dro_lab.record.files import NONFINITE, read_parts
from dro_lab.record.summary import read_summary

EVAL_COLUMNS = ("step", "split", "decoding", "metric", "value", "low", "high", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run's record as read: json as dictionaries, tables as frames (empty where nothing was written).

    ``evals`` are the headline rows, sampled answers on the run's own split: one a step and metric. ``all_evals`` hold
    greedy answers and further splits too.
    """

    folder: Path
    summary: dict[str, Any]
    environment: dict[str, Any]
    config: str
    metrics: pd.DataFrame
    evals: pd.DataFrame
    all_evals: pd.DataFrame
    rollouts: pd.DataFrame
    tokens: pd.DataFrame
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)


def load_run(folder: Path, *, require_finished: bool = False) -> Run:
    """Read ``folder`` as a run.

    An interrupted or failed run is read as far as it came; ``require_finished`` refuses it.

    Raises:
        UserError: no such folder, not a run's folder, an unknown schema version, a summary that does not satisfy the
            schema, a damaged table, or an unfinished run where a finished one is required.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the folder of one run, as printed at its end.")
    summary = read_summary(folder / "summary.json")
    if require_finished and summary["status"] != "finished":
        raise UserError(
            f"{folder}: the run's status is {summary['status']!r} at step {summary['steps']} of "
            f"{summary['planned_steps']}, and a finished run is needed. Run it again: {_command(folder)}"
        )
    all_evals = _lines(folder / "evals.jsonl", columns=EVAL_COLUMNS)
    return Run(
        folder=folder,
        summary=summary,
        environment=_json(folder / "env.json"),
        config=(folder / "config.yaml").read_text(encoding="utf-8") if (folder / "config.yaml").exists() else "",
        metrics=_lines(folder / "metrics.jsonl", columns=("step", "seconds")),
        evals=headline_rows(all_evals),
        all_evals=all_evals,
        rollouts=_table(folder / "rollouts.parquet", ROLLOUTS),
        tokens=_table(folder / "tokens.parquet", TOKENS),
        answers=_table(folder / "answers.parquet", ANSWERS),
    )


def headline_rows(evals: pd.DataFrame) -> pd.DataFrame:
    """Sampled answers on the run's own split, which is the one that was written first."""
    if evals.empty:
        return evals
    chosen = (evals["decoding"] == "sampled") & (evals["split"] == evals["split"].iloc[0])
    return evals[chosen].reset_index(drop=True)


def _command(folder: Path) -> str:
    return str(_json(folder / "env.json").get("command", "its command is not recorded"))


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Restore the file or give another run.") from None


def _lines(path: Path, *, columns: tuple[str, ...]) -> pd.DataFrame:
    rows = json_rows(path)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def json_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file of the record, with the numbers that JSON cannot hold; none where it is missing.

    Raises:
        UserError: a whole row is not valid JSON.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # a kill can cut the last row; every whole row ends with a newline
                break
            raise UserError(f"{path} line {number} is not valid JSON ({error}). Restore the file.") from None
        odd = {key: float(text) for key, text in row.pop(NONFINITE, {}).items()}
        rows.append({**row, **odd})
    return rows


def _table(path: Path, schema: Any) -> pd.DataFrame:
    try:
        table = read_parts(path, schema)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path} cannot be read as parquet ({error}). Restore the file or give another run.") from None
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the columns {missing}: it was not written by this version of dro_lab.")
    return table.to_pandas()
