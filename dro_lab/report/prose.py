"""The pages of the analyses (win rates, steps to target) as blocks of the comparison's page.

An analysis says what it found as a short page of markdown: a title, where the numbers come from, then sentences and
tables. Those are read here, so that the report says the same words and the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dro_lab.errors import UserError
from dro_lab.record.read import Run

RESAMPLES = 2_000
WINDOW = 3
"""Evaluations that steps to target are smoothed over; 1 where there are fewer than two windows of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A paragraph, or a table: then ``rows`` holds its cells, the head first."""

    text: str = ""
    strong: bool = False
    rows: Sequence[Sequence[str]] = ()


def blocks(page: str) -> list[Block]:
    """The paragraphs and tables of a page behind its title and the line on where its numbers come from."""
    found = []
    for part in re.split(r"\n\s*\n", page.strip()):
        lines = part.splitlines()
        if lines[0].startswith("|"):
            cells = [
                [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
            ]
            found.append(Block(rows=[row for number, row in enumerate(cells) if number != 1]))
        elif not lines[0].startswith("#"):
            text = " ".join(lines).replace("`", "")
            strong = text.startswith("**") and text.endswith("**")
            found.append(Block(text=text.strip("*") if strong else text, strong=strong))
    return found[1:]


def win_rates(runs: Sequence[Run], *, confidence: float) -> list[Block]:
    """Against the policy before training and between settings, with order flips and lengths."""
    from analysis.win_rate import draw

    return _said(lambda: draw(runs, confidence=confidence, resamples=RESAMPLES).page)


def steps_to_target(runs: Sequence[Run], *, baseline: str, confidence: float) -> list[Block]:
    """What each setting takes to the level at which ``baseline`` ends, on steps and on every cost."""
    from analysis.load import AXES
    from analysis.steps_to_target import draw

    evaluations = min(len(run.evals[run.evals["metric"] == "quality"]) for run in runs)
    window = WINDOW if evaluations >= 2 * WINDOW else 1
    return _said(
        lambda: (
            draw(
                runs,
                target=f"baseline:{baseline}",
                x=list(AXES),
                window=window,
                confidence=confidence,
                resamples=RESAMPLES,
            ).page
        )
    )


def _said(page: Callable[[], str]) -> list[Block]:
    """What the analysis says; where these runs do not allow it, why."""
    try:
        return blocks(page())
    except UserError as error:
        return [Block(text=f"Not known of these runs: {error}")]
