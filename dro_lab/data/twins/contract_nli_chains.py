"""What the ContractNLI twin's policy is taught: chains that read the contract period by period, and JSON answers.

A chain copies the month asked for, then one line a period: its number, what it says, its length, the months covered so
far, the month asked for, and whether that is still before it. The line that reaches the month decides; the chain says
label and span number, and the answer copies them. Only the running total can be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dro_lab.data.contract_nli_answer import LABELS, NOT_MENTIONED
from dro_lab.data.twins.contract_nli_problem import ALLOWED, BARRED, Contract, label_for
from dro_lab.data.twins.grammar import CLOSING, EOS, Piece

BEFORE, REACHED = "before", "reached"
DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, slots=True)
class Chain:
    """A sampled reasoning chain: its pieces, and the label and span number it concludes with (None: it was cut)."""

    pieces: tuple[Piece, ...]
    label: str | None
    span: int | None


def sample_chain(
    contract: Contract,
    rng: np.random.Generator,
    *,
    error_rate: float,
    lines: int | None = None,
    concluded: tuple[str, int | None] | None = None,
) -> Chain:
    """A chain whose totals are each wrong with probability ``error_rate``; what follows takes them as they are.

    Totals are taken modulo ten, which matters only after a wrong one.

    Args:
        lines: cut the chain after so many lines, without a conclusion (None: not cut).
        concluded: say this label and span number whatever the lines say (for the copy phase).
    """
    pieces = [Piece("Month"), Piece(f" {contract.month}"), Piece("\n")]
    total, label, span = 0, NOT_MENTIONED, None
    for place, period in enumerate(contract.periods[:lines] if lines is not None else contract.periods):
        right = (total + period.months) % 10
        total = int((right + rng.integers(1, 10)) % 10) if rng.random() < error_rate else right
        share = error_rate / 9
        options = tuple((f" {digit}", 1 - error_rate if digit == str(right) else share) for digit in DIGITS)
        reached = total >= contract.month
        number = contract.first + place
        pieces += [
            Piece("["),
            Piece(str(number)),
            Piece("]"),
            Piece(f" {ALLOWED if period.allowed else BARRED}"),
            Piece(f" {period.months}"),
            Piece(" to"),
            Piece(f" {total}", options if error_rate else ()),
            Piece(" of"),
            Piece(f" {contract.month}"),
            Piece(f" {REACHED if reached else BEFORE}"),
            Piece("\n"),
        ]
        if reached:
            label, span = label_for(period), number
            break
    if lines is not None:
        return Chain((*pieces, Piece("</think>")), None, None)
    label, span = concluded or (label, span)
    pieces += [Piece("So"), Piece(f" {label}"), *([] if span is None else [Piece(f" {span}")]), Piece("\n")]
    return Chain((*pieces, Piece("</think>")), label, span)


def sample_answer(contract: Contract, chain: Chain, rng: np.random.Generator) -> tuple[Piece, ...]:
    """The JSON answer that states the chain's conclusion; after a cut chain any label and any period's number.

    Begins with `CLOSING`, ends with the end of sequence.
    """
    label, span = chain.label, chain.span
    labels: Sequence[tuple[str, float]] = ()
    numbers: Sequence[tuple[str, float]] = ()
    if label is None:
        labels = [(name, 1 / len(LABELS)) for name in LABELS]
        label = LABELS[int(rng.integers(len(LABELS)))]
        if label != NOT_MENTIONED:
            spans = range(contract.first, contract.first + len(contract.periods))
            numbers = [(str(number), 1 / len(spans)) for number in spans]
            span = int(rng.choice(spans))
    head = [Piece('{"'), Piece("label"), Piece('":'), Piece(' "'), Piece(label, tuple(labels)), Piece('",')]
    key = [Piece(' "'), Piece("evidence"), Piece('":')]
    listed = [Piece(" []}")] if span is None else [Piece(" ["), Piece(str(span), tuple(numbers)), Piece("]}")]
    return (Piece(CLOSING), *head, *key, *listed, Piece(EOS))
