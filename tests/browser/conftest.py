"""One Chromium for all tests of the report's pages, and the pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from dro_lab.report import write_comparison, write_report
from tests.record_fixture import write_record
from tests.report_fixture import write_compared, write_hostile

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """The system's Chromium; without one the test is skipped, or fails where DRO_LAB_REQUIRE_BROWSER=1."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = f"no browser: none of {', '.join(BROWSERS)} is installed"
        if os.environ.get("DRO_LAB_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{reason}, and DRO_LAB_REQUIRE_BROWSER=1")
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Opened:
    """A page in the browser, and what it said and asked for since it was opened."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def hacked(self) -> bool:
        return bool(self.page.evaluate("window.hacked === 1"))


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Open a file: ``visit(path, width=360)``."""
    contexts = []

    def open_file(path: Path, *, width: int = 1280, **options: object) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        opened = Opened(page=context.new_page())
        opened.page.set_default_timeout(20_000)
        opened.page.on("console", lambda message: opened.console.append(message.text))
        opened.page.on("pageerror", lambda error: opened.console.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("dialog", lambda dialog: (opened.console.append(dialog.message), dialog.dismiss()))
        opened.page.goto(path.resolve().as_uri())
        return opened

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, 96 rollouts."""
    folder = tmp_path_factory.mktemp("browser") / "run"
    write_record(folder, steps=3)
    return write_report(folder)


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_hostile(tmp_path_factory.mktemp("browser") / "hostile"))


@pytest.fixture(scope="session")
def comparison_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rewards, the first with two seeds."""
    folder = tmp_path_factory.mktemp("browser") / "runs"
    for reward, seed, after in (("r3", 0, 0.70), ("r3", 1, 0.74), ("avg_prob", 0, 0.5)):
        write_compared(folder / f"{reward}_s{seed}", reward=reward, seed=seed, after=after)
    return write_comparison([folder])
