"""``--help`` reads its groups once, and says what it says without that."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from dro_lab import listing, run
from tests.cli_fixture import run_main


def test_help_says_the_same_and_reads_the_empty_command_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = getattr(ConfigLoaderImpl, listing.PARSE)
    read: list[str | None] = []

    def counted(self, config_name, overrides, *more, **named):
        read.append(config_name)
        return parse(self, config_name, overrides, *more, **named)

    monkeypatch.setattr(ConfigLoaderImpl, listing.PARSE, counted)
    once = run_main(["--help"])
    assert read.count(None) == 1
    assert getattr(ConfigLoaderImpl, listing.PARSE) is counted, "put back"
    read.clear()
    monkeypatch.setattr(run, "read_once", nullcontext)
    each = run_main(["--help"])
    assert read.count(None) > 50, "what it is for"
    assert once.out == each.out
    assert "reward: avg_logprob" in once.out


def test_a_hydra_without_that_method_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PARSE", "_gone")
    with listing.read_once():
        assert not hasattr(ConfigLoaderImpl, "_gone")
