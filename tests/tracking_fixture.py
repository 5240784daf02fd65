"""A database with MLflow's schema: making one takes seconds, copying it does not."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from dro_lab.tracking.mlflow import open_client


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_client(f"sqlite:///{folder}/mlflow.db")
        return Path(folder, "mlflow.db").read_bytes()


def empty_database(folder: Path) -> Path:
    """``folder/mlflow.db`` with MLflow's schema and no runs; ``folder`` is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mlflow.db"
    path.write_bytes(_template())
    return path
