"""``python -m tests.browser.picture PAGE -o FILE.png``: the top of a page as a picture, as the README shows it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import executable


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the picture and print its path."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.picture", description=__doc__)
    parser.add_argument("page", type=Path, help="report.html or comparison.html")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the picture (.png)")
    parser.add_argument("--width", type=int, default=1100, help="of the window (default: %(default)s)")
    parser.add_argument("--height", type=int, default=1660, help="of the picture (default: %(default)s)")
    options = parser.parse_args(arguments)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": options.width, "height": options.height})
        page.goto(options.page.resolve().as_uri())
        page.screenshot(path=options.out)
        browser.close()
    print(options.out)


if __name__ == "__main__":
    main()
