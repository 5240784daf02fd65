"""The class that Hydra finds for ``hydra/sweeper=dro_lab``. Optuna is imported when a sweep begins, not before."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper


class LabSweeper(OptunaSweeper):
    """Hydra's Optuna sweeper, continued after an interruption (see `dro_lab.sweep.search.Search`)."""

    def __init__(self, **options: Any) -> None:
        from dro_lab.sweep.search import Search

        self.sweeper = Search(**options)


def register() -> None:
    """Make the sweeper known to Hydra. It lies in no ``hydra_plugins`` package, so a checkout needs no installation."""
    Plugins.instance().register(LabSweeper)
