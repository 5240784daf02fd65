"""What Hydra and OmegaConf complain about, as the one message that a user reads."""

from __future__ import annotations

import re

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

HELP = "`python -m dro_lab.run --help` shows the groups and keys."
NO_GROUPS = (
    "The record of a run (--config-path RUN --config-name config) holds values and no groups: keys can be changed "
    "behind it (steps=80, reward.omega=4), groups cannot. To choose another option, give the command that made the run "
    "with it (RUN/.hydra/overrides.yaml lists its overrides)."
)
NO_SLURM = (
    "hydra/launcher=slurm: Slurm's commands (srun, sbatch) were not found on this machine: give the command on a "
    "cluster's login node. hydra/launcher=submitit_local or joblib runs the jobs of a grid on this machine."
)
PRESET = re.compile(r"Could not override '(scale|experiments)'.*\+(\S+=[^\s.]+)", re.DOTALL)
"""What Hydra says where a preset, which changes several groups, is given to a configuration without groups."""
NOISE = re.compile(r"^\s*(full_key|object_type|reference_type|key|index|See https?):?\s?.*$")


def explain(error: Exception) -> str | None:
    """The message for an error of the configuration or of what it needs here; None for any other error.

    Keeps what Hydra says of the key, the value and what is allowed, and leaves out its search path and internals.
    """
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as KEY=VALUE; quote a value with spaces or symbols. {HELP}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(map(str, error.options)) or "none"
        return f"{group}={option}: no such option; there are {options}. {HELP}"
    if preset := PRESET.search(str(error)):
        return f"{preset[2]}: this configuration has no {preset[1]}. {NO_GROUPS}"
    if _no_slurm(error):
        return NO_SLURM
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        texts = dict.fromkeys(str(item) for item in (error, error.__cause__) if item is not None)
        lines = [line.strip() for text in texts for line in text.splitlines() if line.strip() and not NOISE.match(line)]
        return f"configuration: {' '.join(line if line[-1] in '.?:' else line + '.' for line in lines)} {HELP}"
    return None


def _no_slurm(error: Exception) -> bool:
    """Whether submitit looked for a command of Slurm and found none."""
    if isinstance(error, FileNotFoundError):
        return error.filename in ("srun", "sbatch")
    return isinstance(error, RuntimeError) and 'Could not detect "srun"' in str(error)
