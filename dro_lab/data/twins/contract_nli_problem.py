"""Contracts of the ContractNLI twin: periods in which something is allowed or barred, and a month to be judged.

``[1] allowed 3 months; [2] barred 4 months;`` and the hypothesis ``In month 5 sharing is allowed.``: periods follow one
another, so month 5 lies in [2], which contradicts it. A month behind the last period is not mentioned.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from dro_lab.data.contract_nli_answer import NOT_MENTIONED
from dro_lab.data.twins.knobs import check_kinds, check_ranges
from dro_lab.errors import UserError

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
ACTIONS = ("sharing", "copying", "hiring", "storage", "resale", "export")
PREAMBLE = ("Both are bound.", "Notices are written.")
ALLOWED, BARRED = "allowed", "barred"
MONTHS = 9  # the last month a hypothesis can ask for
_BUCKETS = {"train": range(2, 10), "validation": range(1, 2), "test": range(1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractNLITwin:
    """The knobs. ``steps`` are periods that have to be added up: the chain's lines."""

    # rows only
    rows_max: int = 4  # most steps of a row that is not in ood; below steps_max, ood is what the policy can do but
    # the run never trains on; at steps_max, ood is longer than anything the policy was taught
    # rows and policy
    steps_min: int = 2
    steps_max: int = 4
    preamble_max: int = 3  # spans before the first period: 1 to so many
    # policy only
    error_rate: float = 0.5  # share of wrong totals per line of the warm-started reasoning

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(
            self,
            (
                ("steps_min", 1, self.steps_max),
                ("steps_max", self.steps_min, 4),
                ("rows_max", self.steps_min, self.steps_max),
                ("preamble_max", 1, 1 + len(PREAMBLE)),
                ("error_rate", 0, 0.9),
            ),
        )


@dataclass(frozen=True, slots=True)
class Period:
    """One span of the contract: ``months`` months in which the action is allowed or barred."""

    months: int
    allowed: bool


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract and the month that the hypothesis asks for; ``first`` is the number of the first period's span."""

    names: tuple[str, str]
    action: str
    first: int
    periods: tuple[Period, ...]
    month: int

    def truth(self) -> tuple[str, int | None]:
        """Label and number of the span that decides; None where the month is not mentioned."""
        total = 0
        for place, period in enumerate(self.periods):
            total += period.months
            if total >= self.month:
                return label_for(period), self.first + place
        return NOT_MENTIONED, None

    def steps(self) -> int:
        """Periods that a reader has to add up."""
        _, span = self.truth()
        return len(self.periods) if span is None else span - self.first + 1

    def spans(self) -> list[str]:
        """The contract's text, span by span."""
        first, second = self.names
        opening = [f"{first} and {second} agree.", *PREAMBLE[: self.first - 1]]
        return [*opening, *(f"{ALLOWED if p.allowed else BARRED} {p.months} months;" for p in self.periods)]

    def hypothesis(self) -> str:
        return f"In month {self.month} {self.action} is {ALLOWED}."


def label_for(period: Period) -> str:
    """What a period says of the hypothesis that the action is allowed in it."""
    return "Entailment" if period.allowed else "Contradiction"


def split_of(contract: Contract, knobs: ContractNLITwin) -> str:
    """The split a contract belongs to: ``ood`` by its steps, the others by a hash of its content (80 / 10 / 10).

    Contracts of more than ``rows_max`` steps that the warm start may have drawn belong to no split ("taught").
    """
    bucket = hashlib.sha256(repr(asdict(contract)).encode()).digest()[0] % 10
    split = next(split for split, buckets in _BUCKETS.items() if bucket in buckets)
    if contract.steps() <= knobs.rows_max:
        return split
    return "taught" if contract.steps() <= knobs.steps_max and split == "train" else "ood"


def sample_contract(knobs: ContractNLITwin, split: str, rng: np.random.Generator) -> Contract:
    """A contract of the split. The three labels are equally likely; periods are allowed and barred in turn.

    ``ood`` asks for more steps than ``rows_max``: up to ``steps_max`` where that is more, else one or two more; its
    span numbers are those of training.
    """
    if split not in (*_BUCKETS, "ood"):
        raise UserError(f"unknown split '{split}': choose one of {', '.join((*_BUCKETS, 'ood'))}")
    low, high = knobs.steps_min, knobs.rows_max
    if split == "ood":
        low, high = high + 1, knobs.steps_max if high < knobs.steps_max else high + 2
    while True:
        contract = _draw(knobs, int(rng.integers(low, high + 1)), high, rng)
        if split_of(contract, knobs) == split:
            return contract


def _draw(knobs: ContractNLITwin, steps: int, most: int, rng: np.random.Generator) -> Contract:
    kind = int(rng.integers(3))  # 0: the deciding period allows, 1: it bars, 2: none decides
    count = steps if kind == 2 else int(rng.integers(steps, most + 1))
    # totals after each period; a month must be left behind the last one where none decides
    totals = np.sort(rng.permutation(MONTHS - (kind == 2))[:count] + 1)
    before = int(totals[steps - 2]) if steps > 1 else 0
    low, high = (int(totals[-1]), MONTHS) if kind == 2 else (before, int(totals[steps - 1]))
    parity = int(rng.integers(2)) if kind == 2 else (steps - 1 + kind) % 2
    names = rng.permutation(len(NAMES))[:2]
    last = knobs.preamble_max + knobs.steps_max - 1  # the highest span number that training shows
    return Contract(
        names=(NAMES[names[0]], NAMES[names[1]]),
        action=ACTIONS[int(rng.integers(len(ACTIONS)))],
        first=int(rng.integers(1, max(1, min(knobs.preamble_max, last - count + 1)) + 1)),
        periods=tuple(
            Period(int(months), (place + parity) % 2 == 0) for place, months in enumerate(np.diff(totals, prepend=0))
        ),
        month=int(rng.integers(low + 1, high + 1)),
    )
