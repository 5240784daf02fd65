"""Rows of the maths twin: a short word problem whose answer is one digit, reached by a chain of additions.

Somebody has a few things, friends give some and take some, and the question is how many are left. Every count on the
way has one digit. The number of friends is the difficulty.

Row ``i`` of a split is a pure function of ``(knobs, seed, split, i)``; splits are disjoint by the problem's content.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dro_lab.data.twins.knobs import check_kinds, check_ranges
from dro_lab.data.twins.protocol import SPLITS
from dro_lab.errors import UserError
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.rubrics.checks import as_column
from dro_lab.types import Check, Message, Row

OWNERS = ("Ann", "Ian", "Joy", "Max")
FRIENDS = ("Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Lee")
THINGS = ("coins", "pens", "eggs", "cards")
HIGHEST = 9  # counts have one digit
BEYOND = 2  # rows of the split `ood` take up to so many steps more than steps_max
_BUCKETS = {"train": range(2, 10), "validation": range(1, 2), "test": range(1)}
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MathsTwin:
    """The knobs. The first block changes only the rows: one policy serves all its values."""

    # rows only
    steps_min: int = 2  # additions a problem takes: mixed difficulty; the split `ood` takes 1 or 2 more than steps_max
    steps_max: int = 4
    # rows and policy
    amount_max: int = 5  # a friend gives or takes 1 to so many
    # policy only
    steps_taught: int = 6  # the warm start knows problems of 1 to so many steps
    error_rate: float = 0.25  # share of steps whose count is wrong; what follows takes it as it is
    redundancy: float = 0.4  # chance that a segment which only restates the count follows a step
    backtracking: float = 0.25  # chance that a segment which redoes the step ("Wait, ...") follows it
    slip: float = 0.08  # chance that a redundant or backtracking segment states another count: longer is no better
    correction: float = 0.2  # chance that redoing a wrong step sets it right
    conclusion: float = 0.3  # chance at a segment's start, all steps done, to state the boxed answer in the reasoning
    early: float = 0.005  # the same before all steps are done: then it is a guess
    guess: float = 0.5  # a guess is right with this chance for every step that was not written, else any digit

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(
            self,
            (
                ("steps_min", 1, self.steps_max),
                ("steps_max", self.steps_min, self.steps_taught),
                ("amount_max", 1, HIGHEST),
                ("steps_taught", self.steps_max, len(FRIENDS) - BEYOND),
                ("error_rate", 0, 0.9),
                ("redundancy", 0, 0.8),
                ("backtracking", 0, 0.8),
                ("slip", 0, 0.5),
                ("correction", 0, 1 - self.slip),
                ("conclusion", 0, 1),
                ("early", 0, 0.05),
                ("guess", 0, 1),
            ),
        )


ROW_KNOBS = frozenset({"steps_min", "steps_max"})
"""Knobs that one policy serves at all their values."""

SHARED_KNOBS = frozenset({"amount_max"})
"""Knobs of the rows that the policy must have been built with; what is in neither set changes only the policy."""

PRESETS: Mapping[str, MathsTwin] = {
    "default": MathsTwin(),
    "long": MathsTwin(steps_min=4, steps_max=6),
    "lean": MathsTwin(redundancy=0.0, backtracking=0.0),
}
"""``default`` and ``long`` share one policy; ``lean`` has the default's rows and needs a policy of its own."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Whose things are counted, how many there are at first, and what friends give (+) or take (-), in order."""

    owner: str
    thing: str
    start: int
    events: tuple[tuple[str, int], ...]

    def counts(self) -> tuple[int, ...]:
        """The right count after every event."""
        found, count = [], self.start
        for _, amount in self.events:
            count += amount
            found.append(count)
        return tuple(found)

    def question(self) -> str:
        told = " ".join(f"{name} {'gives' if amount > 0 else 'takes'} {abs(amount)}." for name, amount in self.events)
        return f"{self.owner} has {self.start} {self.thing}. {told} How many {self.thing} has {self.owner} now?"


def split_of(problem: Problem) -> str:
    """The split of a problem, by a hash of its content (80 / 10 / 10)."""
    bucket = hashlib.sha256(repr(problem).encode()).digest()[0] % 10
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def sample_problem(knobs: MathsTwin, split: str, rng: np.random.Generator, *, steps: tuple[int, int]) -> Problem:
    """A problem of the split with ``steps`` (lowest, highest) events. All counts have one digit."""
    while True:
        count = int(rng.integers(steps[0], steps[1] + 1))
        friends = rng.permutation(len(FRIENDS))[:count]
        start = total = int(rng.integers(HIGHEST + 1))
        events = []
        for friend in friends:
            room = [a for a in range(-knobs.amount_max, knobs.amount_max + 1) if a and 0 <= total + a <= HIGHEST]
            amount = room[int(rng.integers(len(room)))]
            total += amount
            events.append((FRIENDS[friend], amount))
        owner, thing = OWNERS[int(rng.integers(len(OWNERS)))], THINGS[int(rng.integers(len(THINGS)))]
        problem = Problem(owner=owner, thing=thing, start=start, events=tuple(events))
        if split == "ood" or split_of(problem) == split:
            return problem


def prompt_of(problem: Problem) -> list[Message]:
    """The problem as it is put to the policy."""
    return [{"role": "user", "content": problem.question()}]


def boxed(answer: str) -> list[str]:
    r"""What stands in the boxes ``\boxed{...}`` of an answer of this twin; it nests none."""
    return [content.strip() for content in _BOXED.findall(answer)]


def rubric() -> list[Check]:
    """Checks on an answer's form; whether the number is right is the metric's matter."""
    return [
        Check(
            id="boxed_number",
            text="Does the answer state a number in \\boxed{}?",
            predicate={"kind": "boxed_number"},
        ),
        Check(id="one_box", text="Does the answer hold exactly one \\boxed{}?", predicate={"kind": "one_box"}),
    ]


def decide(answer: str, row: Row, check: Check) -> int:
    """The literal answer to the check's text: YES or NO, UNKNOWN for a check of another kind. Reads only the answer."""
    found = boxed(answer)
    match (check.predicate or {}).get("kind"):
        case "boxed_number":
            met = any(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", content) for content in found)
        case "one_box":
            met = len(found) == 1
        case _:
            return UNKNOWN
    return YES if met else NO


def make_row(knobs: MathsTwin, split: str, index: int, *, seed: int) -> Row:
    r"""Row ``index`` of ``split``; a pure function of its arguments.

    The reference is ``\boxed{7}``. Columns: question, answer ("7"), rubric, truth_spans (the digit), steps.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    longest = knobs.steps_max
    steps = (longest + 1, longest + BEYOND) if split == "ood" else (knobs.steps_min, longest)
    problem = sample_problem(knobs, split, rng, steps=steps)
    answer = str(problem.counts()[-1])
    reference = f"\\boxed{{{answer}}}"
    place = reference.index(answer)
    return Row(
        id=f"twin-{split}-{seed}-{index}",
        prompt=prompt_of(problem),
        reference=reference,
        columns={
            "question": problem.question(),
            "answer": answer,
            "rubric": as_column(rubric()),
            "truth_spans": [[place, place + len(answer)]],
            "steps": len(problem.events),
        },
    )
