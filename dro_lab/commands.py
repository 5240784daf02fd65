"""What the commands beside ``python -m dro_lab.run`` share: one message where something is wrong, own keys, a checked
configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from dro_lab.errors import UserError
from dro_lab.judges.keys import refuse_keys
from dro_lab.secrets import hide

BAD_INPUT = 2
INTERRUPTED = 130

Own = TypeVar("Own")


def command(
    arguments: Sequence[str] | None,
    work: Callable[[list[str]], int | None],
    *,
    usage: str,
    interrupted: str | None = None,
) -> int:
    """Run a command and return its exit status: that of ``work`` (None: 0), or 2 with one message on stderr.

    Args:
        arguments: None: the process's own.
        usage: printed for ``--help``.
        interrupted: what Ctrl-C says, with status 130; None: Ctrl-C is the caller's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(usage)
        return 0
    try:
        refuse_keys(given)  # what is given is recorded, and stands in pages and error texts
        return work(given) or 0
    except UserError as error:
        print(f"error: {hide(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        if interrupted is None:
            raise
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def read_value(text: str) -> Any:
    """A value of the command line as OmegaConf reads it: a number, true, null, a list, a mapping, or the text itself.

    Raises:
        ValueError: it cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"{text}: cannot be read") from error
    return read["value"]


def own_keys(
    given: Sequence[str],
    kind: Callable[..., Own],
    *,
    texts: Collection[str] = (),
    refused: Mapping[str, str] = {},
) -> tuple[Own, list[str]]:
    """The command's own keys as ``kind``, a dataclass that checks itself, and the overrides of a run.

    Args:
        texts: keys whose value is taken as it stands; all others are read as YAML.
        refused: keys of a run that mean nothing to the command, and why.

    Raises:
        UserError: a refused key, an unknown option, or a value that cannot be read.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    own: dict[str, Any] = {}
    overrides = []
    for argument in given:
        key, _, value = argument.partition("=")
        if key in names:
            try:
                own[key] = value if key in texts else read_value(value)
            except ValueError:
                raise UserError(f"{argument}: cannot be read; give {key} one value") from None
        elif (root := key.lstrip("+~")) in refused:
            raise UserError(f"{argument}: cannot be given here, {refused[root]}. Leave it out.")
        elif argument.startswith("-"):
            raise UserError(f"{argument}: unknown option. Allowed: --help, {', '.join(sorted(names))}, and overrides.")
        else:
            overrides.append(argument)
    return kind(**own), overrides


def checked(overrides: Sequence[str]) -> Any:
    """The configuration of a run with these overrides, past `dro_lab.config.check`.

    Raises:
        UserError: what composing or checking refuses.
    """
    from omegaconf.errors import OmegaConfBaseException

    from dro_lab.config import check
    from dro_lab.data.__main__ import compose
    from dro_lab.explain import explain

    cfg = compose(overrides)
    try:
        check(cfg)
    except OmegaConfBaseException as error:
        raise UserError(explain(error) or str(error)) from error
    return cfg
