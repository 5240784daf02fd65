"""Keys stand in the environment alone: a configuration is recorded, printed and shared."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dro_lab.errors import UserError
from dro_lab.secrets import refuse_secrets

JUDGES = "judge.api_key"
KEY_IN_CONFIGURATION = (
    f"{JUDGES}: a key must not stand in the configuration, which is recorded; export it, for example as "
    "OPENAI_API_KEY, and name the variable with judge.api_key_env"
)
GIVEN = re.compile(r"api_?key\W*[=:]|authorization\W*[=:]", re.IGNORECASE)
SET = re.compile(r"env_set\W+\w*(?:key|token|password|secret)\w*\W*[=:]", re.IGNORECASE)
"""Hydra's way to set a variable for a job, which it records."""


def refuse_keys(arguments: Sequence[str]) -> None:
    """Raises `UserError` where an override would put a key into the configuration; the key is not shown."""
    for argument in arguments:
        if GIVEN.search(argument):
            key = argument.partition("=")[0].lstrip("+~")
            raise UserError(
                KEY_IN_CONFIGURATION.replace(JUDGES, key if re.search(r"key$|authorization$", key) else JUDGES)
            )
    if any(SET.search(argument) for argument in arguments):
        raise UserError("hydra.job.env_set: must not hold a key, since it is recorded; export the variable instead")
    refuse_secrets(arguments)
