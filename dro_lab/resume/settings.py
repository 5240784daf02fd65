"""What decides whether a run is the same as another, and the keys of resuming. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.checks import whole
from dro_lab.errors import UserError

AUTO, NEVER = "auto", "never"
FOR_NO_NUMBER = ("outputs", "report", "tracking", "resume", "checkpoint", "names", "hydra")
"""Keys that change no number of a run: two that differ in these alone are the same run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """``every``: optimizer steps between two checkpoints, at least; 0: none. ``keep``: how many stay."""

    every: int = 10
    keep: int = 2


def checkpoint_settings(node: Any) -> CheckpointSettings:
    """The group ``checkpoint``, checked.

    Raises:
        UserError: an unknown key, or a value that makes no sense.
    """
    if not isinstance(node, DictConfig):
        raise UserError(f"checkpoint={node}: must hold every and keep, for example checkpoint.every=10")
    values: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    if unknown := sorted(set(values) - {"every", "keep"}):
        raise UserError(f"checkpoint.{unknown[0]}={values[unknown[0]]}: unknown key; allowed are every, keep")
    whole("checkpoint.every", values.get("every", 10), low=0, todo="10 is the default, 0 is none")
    whole("checkpoint.keep", values.get("keep", 2), low=1, todo="2 is the default: a damaged one has one before it")
    return CheckpointSettings(**values)


def fingerprint(cfg: DictConfig) -> str:
    """Equal for two configurations that give the same numbers."""
    values: dict[str, Any] = {
        str(key): OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in cfg
        if key not in FOR_NO_NUMBER
    }
    if isinstance(values.get("launch"), dict):  # how processes find each other, which is another thing at each start
        values["launch"] = {
            k: v for k, v in values["launch"].items() if not k.startswith(("machine_", "main_process_"))
        }
    return sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
