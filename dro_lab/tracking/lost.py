"""The tracker of a job whose grid or sweep had a store that went away: the job runs, and its record is sent later."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dro_lab.components import instantiate_checked
from dro_lab.errors import UserError
from dro_lab.tracking.note import NOTE

log = logging.getLogger(__name__)


def tracker_of(node: DictConfig, folder: Path) -> Any:
    """The tracker that the group ``tracking`` describes.

    A store that cannot be used at the start of a run is an error, before anything is spent. One that an earlier job of
    the same grid or sweep could use was lost on the way: what comes after is worth no less than the run it was lost in.

    Args:
        node: the group.
        folder: the run's.

    Raises:
        UserError: the store refuses, or a value makes no sense.
    """
    try:
        return instantiate_checked("tracking", node)
    except UserError as error:
        if node.get("offline") is not False or not had_it_before(folder):
            raise
        log.warning("%s This job goes on without it; `python -m dro_lab.sync %s` uploads it later.", error, folder)
        return instantiate_checked("tracking", OmegaConf.merge(node, {"offline": True}))  # type: ignore[arg-type]


def had_it_before(folder: Path) -> bool:
    """Whether the run is a job of a grid or sweep of which another has been mirrored."""
    if not HydraConfig.initialized() or HydraConfig.get().mode is not RunMode.MULTIRUN:
        return False
    return any(note.parent.name != folder.name for note in folder.parent.glob(f"*/{NOTE}"))
