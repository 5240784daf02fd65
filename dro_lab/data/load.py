"""From the configuration's `dataset` to a Task. Needs neither transformers nor TRL: bad data is refused at once."""

from __future__ import annotations

import inspect

from omegaconf import DictConfig

from dro_lab.components import bound_function, resolve
from dro_lab.errors import UserError
from dro_lab.types import Task

FUNCTIONS = {"metric": ("answer", "row"), "check_program": ("answer", "row", "check")}
"""Keys of a data set that name a function of the user's, and what it is called with."""


def load_task(cfg: DictConfig) -> Task:
    """Load the chosen data set. A function among its keys (`dataset.metric._target_`) is bound, not called."""
    functions = {
        key: bound_function(f"dataset.{key}", cfg.dataset[key], takes=takes) if cfg.dataset[key]._target_ else None
        for key, takes in FUNCTIONS.items()
        if isinstance(cfg.dataset.get(key), DictConfig) and "_target_" in cfg.dataset[key]
    }
    loader, bound = resolve("dataset", cfg.dataset, leave=functions)
    bound |= functions
    allowed = set(inspect.signature(loader).parameters)
    if wrong := sorted(set(bound) - allowed):
        raise UserError(f"dataset.{wrong[0]}: unknown key; {loader.__module__} takes {', '.join(sorted(allowed))}")
    return loader(**{"seed": cfg.seed, **bound})
