"""What Hydra and OmegaConf complain about, as the one message that a user reads."""

from __future__ import annotations

import re

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

HELP = "`python -m dro_lab.run --help` shows the groups and keys."
NOISE = re.compile(r"^\s*(full_key|object_type|reference_type|key|index|See https?):?\s?.*$")


def explain(error: Exception) -> str | None:
    """The message for an error of the configuration; None for any other error.

    Keeps what Hydra says of the key, the value and what is allowed, and leaves out its search path and internals.
    """
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as KEY=VALUE; quote a value with spaces or symbols. {HELP}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(map(str, error.options)) or "none"
        return f"{group}={option}: no such option; there are {options}. {HELP}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        texts = dict.fromkeys(str(item) for item in (error, error.__cause__) if item is not None)
        lines = [line.strip() for text in texts for line in text.splitlines() if line.strip() and not NOISE.match(line)]
        return f"configuration: {' '.join(line if line[-1] in '.?:' else line + '.' for line in lines)} {HELP}"
    return None
