"""Keys and passwords: they stand in the environment alone, and reach no configuration, record, log or message.

A secret is the value of an environment variable that is named like one (``OPENAI_API_KEY``, ``HF_TOKEN``,
``PGPASSWORD``) or that the configuration names as a key's (``judge.api_key_env``), and what a configuration holds under
the name of a key. Imports nothing heavy.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError

NAMED = re.compile(
    r"(?:(?:^|_)(?:KEYS?|PASS|CREDENTIALS?)|_PWD|(?:API|ACCESS|AUTH)_?KEYS?|TOKEN|PASSWORDS?|PASSWD|PASSPHRASE|SECRETS?)"
    r"\d*(?:_|$)",
    re.IGNORECASE,
)
"""Environment variables that hold a secret."""
NAMES_ONE = re.compile(r"(?:^|_)(?:key|token|password|secret)_env$", re.IGNORECASE)
"""Keys of a configuration whose value is the name of such a variable."""
GIVEN_NAME = re.compile(r"^[+~]*(?P<key>[\w.@/]+)=['\"]?(?P<name>\w+)['\"]?$")
"""An override that gives one word."""
HELD = re.compile(
    r"^(?:.*_)?(?:(?:api|access|secret|private)_?key|authorization|passw(?:or)?d|secret|credentials)$"
    r"|^(?:.*_)?(?:hub|hf|api|auth|access|bearer|refresh)_token$|^token$",
    re.IGNORECASE,
)
"""Keys of a configuration that would hold one (an ``eos_token`` is none)."""
SET = re.compile(r"^[+]*(?P<key>[\w.@/]+)=(?P<value>.+)$", re.DOTALL)
"""An override that gives a value."""
NO_VALUE = ("null", "None", "''", '""', "true", "false")
SHAPED = re.compile(r"\b(?:sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16})\b")
"""What known services' keys look like."""
USERINFO = re.compile(r"[a-z][a-z0-9+.\\-]*://[^/@\s'\"]*:[^/@\s'\"]+@", re.IGNORECASE)
"""An address with a password."""
LEAST = 8
"""Characters of a secret at least: hiding every "1" or "true" would hide what has to be read."""
HIDDEN = "***"
WHAT_TO_DO = (
    "must not hold a key or a password, since the configuration is recorded. Export it, for example as OPENAI_API_KEY, "
    "HF_TOKEN or MLFLOW_TRACKING_PASSWORD, and leave it out here"
)


_variables: set[str] = set()
"""Variables that are a key's whatever they are called: the configuration of a run of this process names them."""


def holds_a_secret(variable: str) -> None:
    """From here on the value of this environment variable is a secret."""
    _variables.add(variable)


def secrets() -> list[str]:
    """The secrets of the environment, the longest first (one may be part of another)."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if (NAMED.search(name) or name in _variables)
        and len(value.strip()) >= LEAST
        and not value.strip().startswith(("/", "~"))
    }
    return sorted(found, key=lambda value: (-len(value), value))


def hide(text: str) -> str:
    """``text`` without the environment's secrets and without passwords in addresses."""
    for secret in secrets():
        text = text.replace(secret, HIDDEN)
    text = SHAPED.sub(HIDDEN, text)
    return USERINFO.sub(lambda found: found.group().split("://")[0] + f"://{HIDDEN}@", text)


def beginning(text: str, most: int) -> str:
    """The first ``most`` characters of `hide`'s text: of a secret across the cut only a part would be left to see."""
    return hide(text)[:most]


def refuse_secrets(arguments: Sequence[str]) -> None:
    """Raises `UserError` where an argument holds a secret, by its value or by the name of its key."""
    for argument in arguments:
        if (given := GIVEN_NAME.match(argument)) and NAMES_ONE.search(given["key"]):
            holds_a_secret(given["name"])
    for argument in arguments:
        if hide(argument) != argument:
            key = re.split(r"[=:]", argument, maxsplit=1)[0].lstrip("+~")
            raise UserError(f"{hide(key)}: {WHAT_TO_DO}")
        given = SET.match(argument)
        if given and given["value"] not in NO_VALUE and HELD.search(given["key"].rpartition(".")[2]):
            raise UserError(f"{given['key']}: {WHAT_TO_DO}")


def refuse_recorded(config: Mapping[str, Any], *, noted: Sequence[Path] = ()) -> None:
    """Refuse a composed and resolved configuration that holds a secret, wherever it came from.

    Args:
        noted: folders in which Hydra has noted the configuration already; the notes are removed.

    Raises:
        UserError: naming the key, not the value.
    """
    for key, value in _texts(config):
        if NAMES_ONE.search(key):
            holds_a_secret(value)
    for key, value in _texts(config):
        if hide(value) != value or (value and HELD.search(key.rsplit(".", 1)[-1])):
            for folder in noted:
                for name in ("config.yaml", "overrides.yaml", "hydra.yaml", "multirun.yaml"):
                    (folder / name).unlink(missing_ok=True)
            raise UserError(f"{key}: {WHAT_TO_DO}")


def _texts(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _texts(value, f"{prefix}.{number}")
    elif isinstance(node, str):
        yield prefix, node


class HidingFormatter(logging.Formatter):
    """Formats as another formatter does, tracebacks included, without secrets."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return hide(self.inner.format(record))


def hide_in_logs() -> None:
    """From here on no handler of this process writes a secret; those that were added since the last call join."""
    loggers = [
        logging.root,
        *(found for found in logging.root.manager.loggerDict.values() if hasattr(found, "handlers")),
    ]
    for logger in loggers:
        for handler in logger.handlers:
            if not isinstance(handler.formatter, HidingFormatter):
                handler.setFormatter(HidingFormatter(handler.formatter))
