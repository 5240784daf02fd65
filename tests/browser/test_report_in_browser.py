"""The pages in Chromium: a policy's text is shown and not run, and everything works from the keyboard, for everyone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

from tests.browser.conftest import Opened, executable
from tests.report_fixture import HOSTILE

Visit = Callable[..., Opened]


def section(page: Page, heading: str) -> Locator:
    """The widget below a heading."""
    return page.locator(f"h2:text-is('{heading}') ~ [data-widget]").first


def open_all(page: Page) -> None:
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    page.locator("details.row:not(:has(.opened))").first.wait_for(state="detached")


def test_a_missing_browser_skips_with_a_reason_and_fails_where_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("DRO_LAB_REQUIRE_BROWSER", "0")
    with pytest.raises(pytest.skip.Exception, match="none of chromium, chromium-browser, google-chrome is installed"):
        executable()
    monkeypatch.setenv("DRO_LAB_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        executable()


def test_hostile_text_is_shown_and_not_run(visit: Visit, hostile_page: Path) -> None:
    opened = visit(hostile_page)
    open_all(opened.page)
    for heading, kinds in (("Rollouts", 4), ("Held-out answers", 4)):
        widget = section(opened.page, heading)
        for text in HOSTILE:
            shown = widget.locator(".text").evaluate_all("(all) => all.map((one) => one.textContent)")
            assert shown.count(text) >= kinds
    verdicts = section(opened.page, "Rollouts").locator(".verdicts td:first-child").all_text_contents()
    assert set(verdicts) >= set(HOSTILE)
    tokens = section(opened.page, "Which reference tokens count").locator("[role=option]").all_text_contents()
    assert set(tokens) == set(HOSTILE)
    assert opened.page.locator("main script, main img, main [onerror], main [onload], main a").count() == 0
    assert not opened.hacked
    opened.page.set_viewport_size({"width": 360, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert opened.console == []
    assert opened.requests == [hostile_page.resolve().as_uri()], "the page asks for nothing but itself"


def test_even_markup_that_got_into_the_page_would_not_run(visit: Visit, run_page: Path) -> None:
    """The policy is the second wall: it stops what escaping would have let through."""
    opened = visit(run_page)
    opened.page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked=1'>");
            const script = document.createElement("script");
            script.textContent = "window.hacked=1";
            document.body.append(script);
        }"""
    )
    opened.page.wait_for_timeout(100)
    assert not opened.hacked
    assert any("Content Security Policy" in line for line in opened.console)


@pytest.mark.parametrize("which", ["run_page", "comparison_page"])
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_no_serious_finding_of_axe_and_no_sideways_scrolling(
    visit: Visit, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    opened = visit(request.getfixturevalue(which), width=width, color_scheme=scheme)
    opened.page.evaluate(
        "document.querySelectorAll('ul.rows > li:first-child > details').forEach((d) => d.open = true)"
    )
    opened.page.wait_for_timeout(50)
    found = Axe().run(opened.page).response["violations"]
    said = [(each["impact"], each["id"], each["nodes"][0]["html"][:200]) for each in found]
    assert [each for each in said if each[0] in ("serious", "critical")] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.console == []


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Page, words: str) -> None:
    """Press Tab until the control with this accessible name has the focus, as who has no mouse does."""
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(
            """() => {
                const at = document.activeElement;
                const named = [at.getAttribute("aria-label"), at.labels && at.labels[0] && at.labels[0].textContent];
                return [...named, at.textContent].filter(Boolean)[0].trim();
            }"""
        )
        if name == words:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"{words}: the focus is not visible"
            return
    raise AssertionError(f"{words} cannot be reached with Tab")


def status(widget: Locator, expected: str) -> None:
    widget.get_by_role("status").filter(has_text=expected).wait_for()


def test_rollouts_are_filtered_sorted_and_paged_from_the_keyboard(visit: Visit, run_page: Path) -> None:
    page = visit(run_page).page
    widget = section(page, "Rollouts")
    rewards = lambda: [float(text) for text in widget.locator("summary b:nth-child(1)").all_text_contents()[1::2]]  # noqa: E731
    status(widget, "1 to 20 of 96 that match, of 96 rollouts on this page.")
    tab_to(page, "order")
    press(page, *"reward, highest")
    assert rewards() == sorted(rewards(), reverse=True)
    highest = rewards()[0]
    tab_to(page, "next")
    press(page, "Enter", "Enter")
    status(widget, "41 to 60 of 96 that match")
    assert max(rewards()) <= highest
    tab_to(page, "last")
    press(page, "Space")
    status(widget, "81 to 96 of 96 that match")
    press(page, "Enter")  # there is no further page: the button keeps the focus and does nothing
    status(widget, "81 to 96 of 96 that match")
    page.locator("h1").click()
    tab_to(page, "lowest step")
    press(page, "2")
    status(widget, "1 to 20 of 32 that match")
    tab_to(page, "highest reward")
    press(page, *"0.4")
    widget.get_by_role("status").filter(has_text="of 32").wait_for(state="detached")
    assert 0 < len(rewards()) < 32
    assert max(rewards()) <= 0.4
    page.locator("h1").click()
    tab_to(page, "text in prompt, reasoning, answer or reference")
    press(page, *"no such text")
    status(widget, "Nothing matches, of 96 rollouts on this page.")


def test_a_rollout_opens_from_the_keyboard_and_tells_all(visit: Visit, run_page: Path) -> None:
    page = visit(run_page).page
    widget = section(page, "Rollouts")
    tab_to(page, "order")
    press(page, "Tab", "Enter")
    opened = widget.locator("details[open]")
    opened.locator(".text").first.wait_for()
    text = opened.inner_text()
    for part in (
        "prompt",
        "reasoning",
        "answer",
        "reference",
        "verdicts on the answer",
        "Kept: it taught.",
        "advantage",
    ):
        assert part in text
    assert "Instruction: correct the claim." in text


def test_the_heat_map_tells_its_numbers_on_focus_and_under_the_pointer(visit: Visit, run_page: Path) -> None:
    page = visit(run_page).page
    widget = section(page, "Which reference tokens count")
    numbers = widget.locator(".numbers")
    page.keyboard.press("Tab")
    tab_to(page, "tokens of the reference; the arrow keys move, the numbers stand below")
    assert numbers.inner_text().startswith("1 of ")
    press(page, "ArrowRight")
    assert numbers.inner_text().startswith("2 of ")
    for part in ("weight ", "sigma 0.", "mean probability 0.", "does not depend on the result"):
        assert part in numbers.inner_text()
    press(page, "End")
    assert "“.”" in numbers.inner_text()
    widget.locator(".truth").first.hover()
    assert "depends on the reasoning's result" in numbers.inner_text()
    colours = lambda: widget.locator(".ink").evaluate_all("(all) => all.map((ink) => ink.className)")  # noqa: E731
    by_weight = colours()
    assert "ink h10" in by_weight, "the largest is darkest"
    widget.get_by_label("sigma").check()
    assert colours() != by_weight
    assert "sigma shown" in widget.inner_text()


def test_compared_runs_stand_side_by_side_for_one_query(visit: Visit, comparison_page: Path) -> None:
    page = visit(comparison_page).page
    widget = section(page, "The runs side by side")
    columns = widget.locator(".column")
    assert columns.locator("h3").all_text_contents() == ["r3, seed 0", "avg_prob, seed 0"]
    widget.get_by_label("query").select_option("validation-0")
    for column, reward in ((columns.nth(0), "r3"), (columns.nth(1), "avg_prob")):
        assert "held-out answers: 4" in column.inner_text()
        assert f"{reward} says 0 at 8" in column.inner_text()
        assert column.locator("[role=option]").count() > 10
        assert "reference, step 8" in column.inner_text(), "this query's heat map and no other"
    widget.get_by_label("r3, seed 1").focus()
    press(page, "Space")
    assert columns.locator("h3").all_text_contents() == ["r3, seed 0", "r3, seed 1", "avg_prob, seed 0"]
    widget.get_by_label("query").select_option("train-0")
    assert "training rollouts: 4" in columns.nth(1).inner_text()
    more = columns.nth(1).get_by_role("button", name="1 more")
    more.focus()
    press(page, "Enter")
    assert columns.nth(1).locator("details.row").count() == 4
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY", "the focus stands on the first of the new rows"
