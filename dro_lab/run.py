"""The entry point: ``python -m dro_lab.run [group=option ...] [key=value ...]``.

Composes the configuration, refuses what is wrong in one message, and only then imports what is heavy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dro_lab.config import GROUPS, check
from dro_lab.errors import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"  # absolute: found also when `main` is imported, not run with -m
INTERRUPTED = 130
BAD_INPUT = 2


@hydra.main(config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one job; returns the objective to Hydra (for sweeps)."""
    try:
        return _run(cfg)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except OmegaConfBaseException as error:
        print(f"error: configuration: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(cfg: DictConfig) -> float:
    names = _names(cfg)
    check(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    from dro_lab import lab

    return lab.run(cfg, names, folder).objective


def _names(cfg: DictConfig) -> dict[str, str]:
    """The chosen option of each group; written into the configuration, so that a repeated run keeps them."""
    choices = HydraConfig.get().runtime.choices
    given = OmegaConf.to_container(cfg.names) if "names" in cfg else {}
    assert isinstance(given, dict)
    names = {group: str(given.get(group) or choices.get(group) or group) for group in GROUPS}
    with open_dict(cfg):
        cfg.names = {group: names[group] for group in GROUPS}
    return names


if __name__ == "__main__":
    main()
