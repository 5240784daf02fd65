"""Importing what a run needs (torch, transformers, TRL, the lab's own training): seconds, so it is done late and once.

Two things make it cheaper. Imports make millions of objects and no garbage, so none is looked for meanwhile, nor among
these objects ever after. And TRL imports MLflow wherever that is installed, which the lab's tracker does by itself,
beside the run.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from hydra.core.utils import env_override

HIDE_MLFLOW = "DISABLE_MLFLOW_INTEGRATION"
"""Transformers' switch: MLflow counts as not installed."""


def load_lab(report_to: Any = None) -> ModuleType:
    """`dro_lab.lab`, imported where it was not.

    Args:
        report_to: ``algorithm.report_to``, the trackers that TRL itself writes to.
    """
    if "dro_lab.lab" not in sys.modules:
        with _nothing_collected(), env_override({HIDE_MLFLOW: "TRUE"}):
            import_module("dro_lab.lab")
    if {"mlflow", "all"} & ({report_to} if isinstance(report_to, str) else set(report_to or ())):
        _give_trl_mlflow()
    return sys.modules["dro_lab.lab"]


@contextmanager
def _nothing_collected() -> Iterator[None]:
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what was imported stays; passing over it in every full collection takes half a second each
        if before:
            gc.enable()


def _give_trl_mlflow() -> None:
    """What TRL's import of MLflow would have left behind, for a run that writes there by TRL too."""
    import mlflow

    if (profiling := sys.modules.get("trl.extras.profiling")) is not None:
        vars(profiling)["mlflow"] = mlflow
