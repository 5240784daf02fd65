"""``--help`` lists every group of the configuration.

Hydra reads the same empty command line anew for each of them, twice over: a fifth of the time that it takes. Within
`read_once` it does so once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PARSE = "_parse_overrides_and_create_caching_repo"
"""Hydra's own, not promised to anybody: where it is gone, help takes a little longer."""


@contextmanager
def read_once() -> Iterator[None]:
    """Within, Hydra parses the command line that gives nothing once."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    parse: Any = getattr(ConfigLoaderImpl, PARSE, None)
    if parse is None:
        yield
        return
    found: dict[int, Any] = {}

    def parse_once(self: Any, config_name: str | None, overrides: Sequence[str], *more: Any, **named: Any) -> Any:
        if config_name is not None or overrides or more or named:
            return parse(self, config_name, overrides, *more, **named)
        if id(self) not in found:
            found[id(self)] = parse(self, config_name, overrides)
        return found[id(self)]

    setattr(ConfigLoaderImpl, PARSE, parse_once)
    try:
        yield
    finally:
        setattr(ConfigLoaderImpl, PARSE, parse)
