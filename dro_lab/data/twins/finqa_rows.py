"""Rows of the FinQA twin: a page about a company's balance, a table of movements, and a question about it.

The text before the table names the opening balance, the table lists movements (positive and negative), the text after
it names a rival's balance, which does not matter. The question asks for the balance after one of the movements, in
percent or millions, or whether it is above zero. Who answers has to start from the opening balance and add the table's
movements row by row until the one asked for: the number of additions is the difficulty.

Row ``i`` of a split is a pure function of ``(knobs, seed, split, i)``; splits are disjoint by the problem's content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dro_lab.data import finqa_checks
from dro_lab.data.finqa_program import execute
from dro_lab.data.finqa_text import page_prompt
from dro_lab.data.twins.knobs import check_kinds, check_ranges
from dro_lab.data.twins.protocol import SPLITS
from dro_lab.errors import UserError
from dro_lab.rubrics.checks import as_column
from dro_lab.types import Message, Row

COMPANIES = ("acme", "borealis", "cobalt", "delphi", "ember", "fjord", "garnet", "harbor")
ITEMS = ("audit", "costs", "fees", "fuel", "gifts", "grants", "loans", "rent", "sales", "taxes", "travel", "wages")
HIGHEST = 9  # balances have one digit and a sign
VALUES = tuple(range(-HIGHEST, HIGHEST + 1))
BEYOND = 2  # rows of the split `ood` ask for up to so many movements more than training does
_BUCKETS = {"train": range(2, 10), "validation": range(1, 2), "test": range(1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinqaTwin:
    """The knobs. The first block changes only the rows: one policy serves all its values."""

    # rows only
    yes_no_share: float = 0.2  # share of questions that are answered by yes or no
    percent_share: float = 0.5  # share of the others that ask for percent; the rest asks for millions
    # rows and policy
    steps_min: int = 1  # additions a question takes: mixed difficulty; the split `ood` takes 1 or 2 more than steps_max
    steps_max: int = 4
    amount_max: int = 5  # a movement is by 1 to so much, up or down
    # policy only
    error_rate: float = 0.45  # share of wrong balances per line of the warm-started reasoning

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(
            self,
            (
                ("yes_no_share", 0, 1),
                ("percent_share", 0, 1),
                ("steps_min", 1, self.steps_max),
                ("steps_max", self.steps_min, len(ITEMS) - BEYOND),
                ("amount_max", 1, HIGHEST),
                ("error_rate", 0, 0.9),
            ),
        )


ROW_KNOBS = frozenset({"yes_no_share", "percent_share"})
"""Knobs that one policy serves at all their values."""

SHARED_KNOBS = frozenset({"steps_min", "steps_max", "amount_max"})
"""Knobs of the rows that the policy must have been built with; what is in neither set changes only the policy."""

PRESETS: Mapping[str, FinqaTwin] = {
    "default": FinqaTwin(),
    "numbers": FinqaTwin(yes_no_share=0.0),
}
"""Both share one policy."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What the page says and what is asked: the balance after the first ``asked`` movements, in ``unit`` ("%",
    "million"), or ("") whether it is above zero."""

    company: str
    opening: int
    movements: tuple[tuple[str, int], ...]
    asked: int
    unit: str
    rival: tuple[str, int]

    def balances(self) -> tuple[int, ...]:
        """The balance after each movement up to the one asked for."""
        found, balance = [], self.opening
        for _, amount in self.movements[: self.asked]:
            balance += amount
            found.append(balance)
        return tuple(found)

    def page(self) -> dict[str, list]:
        """pre_text, table and post_text as FinQA's rows have them."""
        return {
            "pre_text": [f"{self.company} opens at {self.opening} ."],
            "table": [["item", "change"], *([name, str(amount)] for name, amount in self.movements)],
            "post_text": [f"{self.rival[0]} is at {self.rival[1]} ."],
        }

    def question(self) -> str:
        last = self.movements[self.asked - 1][0]
        if self.unit == "":
            return f"is the balance after {last} above zero ?"
        return f"what is the balance after {last} in {'percent' if self.unit == '%' else 'millions'} ?"

    def program(self) -> str:
        """The truth as a FinQA program."""
        first = str(self.opening)
        steps = []
        for number, (_, amount) in enumerate(self.movements[: self.asked]):
            steps.append(f"{'add' if amount > 0 else 'subtract'}({first}, {abs(amount)})")
            first = f"#{number}"
        return ", ".join(steps + ([f"greater({first}, const_0)"] if self.unit == "" else []))


def split_of(problem: Problem) -> str:
    """The split of a problem of trained difficulty, by a hash of its content (80 / 10 / 10)."""
    bucket = hashlib.sha256(repr(problem).encode()).digest()[0] % 10
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def sample_problem(knobs: FinqaTwin, split: str, rng: np.random.Generator) -> Problem:
    """A problem of the split. All balances up to the one asked for have one digit."""
    low, high = (
        (knobs.steps_max + 1, knobs.steps_max + BEYOND) if split == "ood" else (knobs.steps_min, knobs.steps_max)
    )
    while True:
        companies = rng.permutation(len(COMPANIES))[:2]
        names = rng.permutation(len(ITEMS))[: knobs.steps_max + BEYOND]
        opening, other = (int(value) for value in rng.integers(-HIGHEST, HIGHEST + 1, 2))
        balance, movements = opening, []
        for name in names:
            room = [a for a in range(-knobs.amount_max, knobs.amount_max + 1) if a and abs(balance + a) <= HIGHEST]
            amount = room[int(rng.integers(len(room)))]
            balance += amount
            movements.append((ITEMS[name], amount))
        problem = Problem(
            company=COMPANIES[companies[0]],
            opening=opening,
            movements=tuple(movements),
            asked=int(rng.integers(low, high + 1)),
            unit="" if rng.random() < knobs.yes_no_share else "%" if rng.random() < knobs.percent_share else "million",
            rival=(COMPANIES[companies[1]], other),
        )
        if split == "ood" or split_of(problem) == split:
            return problem


def prompt_of(problem: Problem) -> list[Message]:
    """The prompt, by the same rule as real rows."""
    page = problem.page()
    text, _ = page_prompt(page["pre_text"], page["table"], page["post_text"], problem.question())
    return [{"role": "user", "content": text}]


def make_row(knobs: FinqaTwin, split: str, index: int, *, seed: int) -> Row:
    """Row ``index`` of ``split``; a pure function of its arguments.

    Columns are those of FinQA's real rows (question, answer, table, program, exe_ans, ...), with ``pre_text`` and
    ``post_text``, ``truth_spans`` (the number with its sign, or the word) and ``steps``.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    problem = sample_problem(knobs, split, rng)
    page, program = problem.page(), problem.program()
    truth = execute(program, page["table"])
    stated = truth if isinstance(truth, str) else str(int(truth))
    reference = stated + {"": "", "%": "%", "million": " million"}[problem.unit]
    return Row(
        id=f"twin-{split}-{seed}-{index}",
        prompt=prompt_of(problem),
        reference=reference,
        columns={
            **page,
            "question": problem.question(),
            "answer": reference,
            "program": program,
            "exe_ans": truth,
            "executed": True,
            **finqa_checks.columns(truth, problem.unit),
            "rubric": as_column(finqa_checks.rubric(truth, unit=problem.unit)),
            "truth_spans": [[0, len(stated)]],
            "steps": problem.asked,
        },
    )
