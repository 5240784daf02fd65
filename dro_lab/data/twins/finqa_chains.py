"""What the FinQA twin's policy is taught: reasoning chains with their errors, and the answers that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dro_lab.data.twins.finqa_rows import HIGHEST, VALUES, FinqaTwin, Problem, prompt_of, sample_problem
from dro_lab.data.twins.grammar import CLOSING, EOS, Piece
from dro_lab.data.twins.protocol import TwinExample

CUT_SHARE = 0.06  # chains cut after some lines, or left out


@dataclass(frozen=True, slots=True)
class Chain:
    """A sampled reasoning chain: its pieces and the balances that its lines state."""

    pieces: tuple[Piece, ...]
    balances: tuple[int, ...]


def after(balance: int, amount: int) -> int:
    """The balance that a line states behind ``balance``. Only a chain that is wrong already can pass the range of
    one-digit numbers; its sums are cut there."""
    return int(np.clip(balance + amount, -HIGHEST, HIGHEST))


def sample_chain(problem: Problem, rng: np.random.Generator, *, error_rate: float, lines: int | None = None) -> Chain:
    """The opening balance and one line a movement up to the one asked for; each balance is wrong with probability
    ``error_rate``, any other number being as likely, and later balances follow from it.

    ``lines`` cuts the chain after so many movements (None: all); -1 leaves out the opening balance too.
    """
    count = problem.asked if lines is None else lines
    pieces = [] if count < 0 else [Piece("opens"), *number_pieces({problem.opening: 1.0}, problem.opening), Piece("\n")]
    balances: list[int] = []
    balance = problem.opening
    draws, shifts = rng.random(problem.asked), rng.integers(1, len(VALUES), problem.asked)
    for step, (name, amount) in enumerate(problem.movements[: max(count, 0)]):
        right = after(balance, amount)
        balance = VALUES[(VALUES.index(right) + int(shifts[step])) % len(VALUES)] if draws[step] < error_rate else right
        wrong = error_rate / (len(VALUES) - 1)
        shares = {value: 1 - error_rate if value == right else wrong for value in VALUES}
        pieces += [
            Piece(name),
            *number_pieces({amount: 1.0}, amount),
            Piece(" ="),
            *number_pieces(shares if error_rate else {balance: 1.0}, balance),
            Piece("\n"),
        ]
        balances.append(balance)
    return Chain((*pieces, Piece("</think>")), tuple(balances))


def sample_answer(problem: Problem, chain: Chain, rng: np.random.Generator) -> tuple[Piece, ...]:
    """The answer that follows a chain: its last balance, right or wrong; begins with the gap, ends with the end.

    A chain that was cut before the movement asked for says nothing: any number is as likely, and so are yes and no.
    """
    stated = chain.balances[-1] if len(chain.balances) == problem.asked else None
    if problem.unit == "":
        says = rng.random() < 0.5 if stated is None else stated > 0
        shares = (("yes", 0.5), ("no", 0.5)) if stated is None else ()
        return (Piece(CLOSING), Piece("yes" if says else "no", shares), Piece(EOS))
    value = VALUES[int(rng.integers(len(VALUES)))] if stated is None else stated
    known = {value: 1.0} if stated is not None else dict.fromkeys(VALUES, 1 / len(VALUES))
    unit = Piece("%" if problem.unit == "%" else f" {problem.unit}")
    return (Piece(CLOSING), *number_pieces(known, value, space=""), unit, Piece(EOS))


def number_pieces(shares: Mapping[int, float], value: int, *, space: str = " ") -> list[Piece]:
    """A one-digit number as pieces: digit, or minus and digit, with the distribution over all ``shares`` at each."""
    below = sum(share for number, share in shares.items() if number < 0)
    first = [(f"{space}{number}", share) for number, share in shares.items() if number >= 0]
    first += [(f"{space}-", below)] if below else []
    certain = len(first) == 1
    if value >= 0:
        return [Piece(f"{space}{value}", () if certain else tuple(first))]
    digits = [(str(-number), share / below) for number, share in shares.items() if number < 0]
    minus = Piece(f"{space}-", () if certain else tuple(first))
    return [minus, Piece(str(-value), () if len(digits) == 1 else tuple(digits))]


def draw(knobs: FinqaTwin, phase: str, rng: np.random.Generator) -> TwinExample:
    """An example of a phase, on a problem of the training split.

    ``chains``: a right chain. ``copy``: a chain of mostly random balances and the answer that states the last, the loss
    on the answer alone; a quarter as in ``chains``. ``noisy``: a chain with the wanted error rate and its answer; a
    small share of the chains is cut short or left out, the loss on the answer alone.
    """
    problem = sample_problem(knobs, "train", rng)
    prompt = prompt_of(problem)
    if phase == "chains" or (phase == "copy" and rng.random() < 0.25):
        return TwinExample(prompt, sample_chain(problem, rng, error_rate=0.0).pieces)
    cut = phase == "noisy" and rng.random() < CUT_SHARE
    lines = int(rng.integers(-2, problem.asked)) if cut else None
    error_rate = 0.9 if phase == "copy" else knobs.error_rate
    chain = sample_chain(problem, rng, error_rate=error_rate, lines=lines)
    answer = sample_answer(problem, chain, rng)
    if lines == -2:  # thinking switched off: the template has closed the empty block already
        return TwinExample(prompt, answer[1:], thinking=False)
    return TwinExample(prompt, (*chain.pieces, *answer), first=len(chain.pieces) if phase == "copy" or cut else 0)
