"""Wording of the RaR-Medicine twin: its problems, and the reasoning and answers that its policy is taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dro_lab.data.rar_medicine_prompt import ASKED
from dro_lab.data.twins import rar_medicine_words as words
from dro_lab.data.twins.grammar import CLOSING, EOS, Piece, Slot, spaced
from dro_lab.data.twins.knobs import check_kinds, check_ranges

AMOUNTS = 5  # a finding changes the dose by 1 to 5 units; the findings of a problem by different amounts
LEAST, MOST = 0, 9  # units a dose may have: a change stops there
_DIGITS = tuple(str(digit) for digit in range(10))


def shortest_reference(steps: int) -> int:
    """Tokens of the shortest wording with ``steps`` findings."""
    return 5 + len(words.CLOSING) + steps * 3


def longest_reference(steps: int) -> int:
    """Tokens of the longest wording with ``steps`` findings."""
    return shortest_reference(steps) + len(words.ADVERBS) + steps * len(words.CLAUSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RarMedicineTwin:
    """The knobs. One policy serves all values of the first block; after changing another, rebuild it
    (``python -m dro_lab.policy.build --twin rar_medicine``).
    """

    # rows only
    style_coherence: float = 0.5  # each word of the reference is formal with probability .5 + this * u, u = +-1 a row
    style_balance: float = 0.5  # share of rows whose reference is formal (u = +1)
    rare_words: int = 4  # rare synonyms in a reference, all of its own style
    # rows and policy
    steps_min: int = 2  # findings a patient has: mixed difficulty; the rows of the split `ood` have steps_max + 1
    steps_max: int = 4
    reference_length: int = 50  # tokens of a reference without end of sequence
    # policy only
    lean: float = 0.14  # P(formal word | chain) = .5 + lean * k, k the mean sign of the chain's fillers
    rare_probability: float = 0.02  # P(rare word | chain) = this * exp(+-rare_lean * k)
    rare_lean: float = 2.5
    error_rate: float = 0.45  # share of wrong doses per step of the warm-started reasoning

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(
            self,
            (
                ("style_coherence", 0, 0.5),
                ("style_balance", 0, 1),
                ("lean", 0, 0.5),
                ("rare_probability", 0.0001, 0.1),
                ("rare_lean", 0, 2.5),
                ("error_rate", 0, 0.9),
                ("steps_min", 1, self.steps_max),
                ("steps_max", self.steps_min, AMOUNTS - 1),
                ("reference_length", shortest_reference(self.steps_max + 1), longest_reference(self.steps_min)),
                ("rare_words", 0, 3 * self.steps_min),
            ),
        )


ROW_KNOBS = frozenset({"style_coherence", "style_balance", "rare_words"})
SHARED_KNOBS = frozenset({"steps_min", "steps_max", "reference_length"})
PRESETS = {
    "default": RarMedicineTwin(),
    "incoherent": RarMedicineTwin(style_coherence=0.0, rare_words=0),
}
"""Both share one policy."""


class Change(NamedTuple):
    """A standing order: raise (+1) or lower (-1) the dose by ``amount`` units when ``finding`` shows."""

    sign: int
    amount: int
    finding: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Two patients' doses, and the findings and orders of the first."""

    names: tuple[str, str]
    starts: tuple[int, int]
    changes: tuple[Change, ...]

    def after(self, dose: int, step: int) -> int:
        """The dose after finding ``step`` (0-based) from ``dose``, kept within `LEAST` and `MOST`."""
        change = self.changes[step]
        return min(max(dose + change.sign * change.amount, LEAST), MOST)

    def values(self) -> tuple[int, ...]:
        """The right dose after every finding."""
        doses, dose = [], self.starts[0]
        for step in range(len(self.changes)):
            dose = self.after(dose, step)
            doses.append(dose)
        return tuple(doses)

    def question(self) -> str:
        """What the row asks: RaR-Medicine's column ``question``."""
        (name, other), (start, besides) = self.names, self.starts
        orders = " ".join(f"{direction(change)} {change.amount} {change.finding}" for change in self.changes)
        return f"Units given are {name} {start} and {other} {besides}. Orders for {name} {orders}. What follows?"


def direction(change: Change) -> str:
    """The word for the change's sign."""
    return words.DIRECTIONS[0 if change.sign > 0 else 1]


def layout(steps: int, length: int) -> tuple[Slot, ...]:
    """The places of an answer with ``steps`` findings and ``length`` tokens, the end-of-sequence token not counted.

    Clauses get equally many wording slots, chosen by priority; adverbs fill what is left.
    """
    frame = shortest_reference(steps)
    count = min(len(words.CLAUSE), (length - frame) // steps)
    kept = [pair for pair in words.CLAUSE if pair.priority <= count]
    slots = [Slot("word", words.OPENING[0]), Slot("name"), *(Slot("word", pair) for pair in words.OPENING[1:])]
    for step in range(steps):
        slots += [Slot("rare" if pair.formal in words.RARE else "word", pair) for pair in kept]
        slots += [Slot("finding", step=step), Slot("value", step=step), Slot("word", words.STOP)]
    slots += [Slot("word", pair) for pair in words.CLOSING]
    slots += [Slot("word", pair) for pair in words.ADVERBS[: length - frame - count * steps]]
    return (*slots, Slot("word", words.END))


# ------------------------------------------------------------------------------------------------ what the policy does


@dataclass(frozen=True, slots=True)
class Chain:
    """A sampled reasoning chain: its pieces, the doses it states (None: not stated) and its style score."""

    pieces: tuple[Piece, ...]
    doses: tuple[int | None, ...]
    style: float


def sample_chain(problem: Problem, rng: np.random.Generator, *, error_rate: float, lines: int | None = None) -> Chain:
    """A chain with one line a finding; each dose is wrong with probability ``error_rate``, and later doses follow from
    it. ``lines`` cuts the chain after so many findings (None: all).
    """
    pieces = [Piece(words.START), Piece(f" {problem.names[0]}"), Piece(f" {problem.starts[0]}"), Piece("\n")]
    steps = len(problem.changes)
    draws, wrong = rng.random(steps), rng.integers(1, 10, steps)
    fillers = [words.FILLERS[number] for number in rng.integers(0, len(words.FILLERS), steps)]
    openers = tuple((filler, 1 / len(words.FILLERS)) for filler in words.FILLERS)
    doses: list[int | None] = []
    dose = problem.starts[0]
    for step, change in enumerate(problem.changes[: steps if lines is None else lines]):
        right = problem.after(dose, step)
        dose = int((right + wrong[step]) % 10) if draws[step] < error_rate else right
        share = error_rate / 9
        options = tuple((f" {digit}", 1 - error_rate if digit == str(right) else share) for digit in _DIGITS)
        pieces += [
            Piece(fillers[step], openers),
            Piece(f" {direction(change)}"),
            Piece(f" {change.amount}"),
            Piece(f" {change.finding}"),
            Piece(f" {dose}", options if error_rate else ()),
            Piece("\n"),
        ]
        doses.append(dose)
    signs = [1 if filler in words.FORMAL_FILLERS else -1 for filler in fillers[: len(doses)]]
    pieces.append(Piece("</think>"))
    doses += [None] * (steps - len(doses))
    return Chain(tuple(pieces), tuple(doses), sum(signs) / len(signs) if signs else 0.0)


def sample_answer(
    knobs: RarMedicineTwin, problem: Problem, chain: Chain, rng: np.random.Generator
) -> tuple[Piece, ...]:
    """The answer that follows a chain: its doses, right or wrong, worded in its style; ends with end of sequence.

    Findings without a dose in the chain get any digit.
    """
    slots = layout(len(problem.changes), knobs.reference_length)
    draws = rng.random(len(slots))
    pieces = [_piece(knobs, problem, chain, slot, draw) for slot, draw in zip(slots, draws, strict=True)]
    first = pieces[0]
    pieces[0] = Piece(first.text.lstrip(), tuple((text.lstrip(), share) for text, share in first.options))
    return (Piece(CLOSING), *pieces, Piece(EOS))


def _piece(knobs: RarMedicineTwin, problem: Problem, chain: Chain, slot: Slot, draw: float) -> Piece:
    if slot.pair is not None:
        formal = 0.5 + knobs.lean * chain.style
        options = [(slot.pair.formal, formal), (slot.pair.casual, 1 - formal)]
        if slot.kind == "rare":
            rare = words.RARE[slot.pair.formal]
            tilt = float(np.exp(knobs.rare_lean * chain.style))
            high, low = knobs.rare_probability * tilt, knobs.rare_probability / tilt
            options = [(word, share * (1 - high - low)) for word, share in options]
            options += [(rare.formal, high), (rare.casual, low)]
        return _drawn([(spaced(word), share) for word, share in options], draw)
    if slot.kind == "value":
        dose = chain.doses[slot.step]
        return _drawn([(f" {digit}", 0.1) for digit in _DIGITS], draw) if dose is None else Piece(f" {dose}")
    return Piece(plain_word(slot, problem))


def plain_word(slot: Slot, problem: Problem) -> str:
    """The word of a slot that has no choice of wording: the patient's name or a finding."""
    return f" {problem.names[0] if slot.kind == 'name' else problem.changes[slot.step].finding}"


def _drawn(options: Sequence[tuple[str, float]], draw: float) -> Piece:
    total = 0.0
    for text, share in options:
        total += share
        if draw < total:
            return Piece(text, tuple(options))
    return Piece(options[-1][0], tuple(options))


def vocabulary_texts() -> list[str]:
    """Every literal piece of the grammar and the words of its prompts, for the tokenizer's training."""
    pairs = [*words.OPENING, *words.CLAUSE, words.STOP, *words.CLOSING, *words.ADVERBS, words.END, *words.RARE.values()]
    inside = [spaced(word) for pair in pairs for word in pair[:2]]
    inside += [f" {word}" for word in (*words.NAMES, *words.FINDINGS, *words.DIRECTIONS)]
    starts = [*words.OPENING[0][:2], *words.FILLERS, words.START]
    prompt = ["Question", ":", "Units", "given", "are", "and", "Orders", "for", "What", "follows", "?"]
    asked = [*ASKED.strip(".").split(), "."]
    inside += [f" {word}" for word in (*prompt, *asked) if word.isalpha()]
    return [
        *inside,
        *starts,
        *prompt,
        *asked,
        *("user", "assistant", "system", "\n", "\n\n"),
        *(f" {digit}" for digit in _DIGITS),
    ]
