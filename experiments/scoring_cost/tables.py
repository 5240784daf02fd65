"""What was measured, on disk: a csv a stage beside this file, and how each was made in ``stages.json``."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dro_lab.record.environment import git_state

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of tables."""

    folder: Path = HERE

    def write(self, stage: str, rows: Sequence[Mapping[str, Any]], **how: Any) -> None:
        """Replace a stage's table, and say how it was made, at which commit, and how busy the machine is now."""
        with (self.folder / f"{stage}.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: _short(value) for key, value in row.items()} for row in rows)
        commit = git_state()
        told = self.how()
        told[stage] = {
            **how,
            "commit": (commit["commit"] or "unknown")[:12] + (" with local changes" if commit["dirty"] else ""),
            "load": round(os.getloadavg()[1], 1),
        }
        (self.folder / "stages.json").write_text(json.dumps(told, indent=1) + "\n")

    def read(self, stage: str) -> list[dict[str, str]]:
        """A stage's rows; none if it was not measured."""
        path = self.folder / f"{stage}.csv"
        if not path.exists():
            return []
        with path.open(newline="") as source:
            return list(csv.DictReader(source))

    def how(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "stages.json"
        return json.loads(path.read_text()) if path.exists() else {}


def _short(value: Any) -> Any:
    return f"{value:.5f}" if isinstance(value, float) else value
