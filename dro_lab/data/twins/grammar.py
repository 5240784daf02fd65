"""Wording of the ParaRev twin: problems, reasoning lines and answers as sequences of pieces.

A `Piece` is a short literal text together with the distribution it was drawn from. The recipe of the embedded policy
trains on those distributions (soft targets), so what the warm start should learn is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from dro_lab.data.twins import words
from dro_lab.data.twins.words import Pair

EOS = "<|im_end|>"
CLOSING = "\n\n"  # the one piece between the closed reasoning and the answer


class Piece(NamedTuple):
    """A literal text and the distribution over literal texts at its place (empty: the text is certain)."""

    text: str
    options: tuple[tuple[str, float], ...] = ()


class Turn(NamedTuple):
    """One turn of the dial: up (+1) or down (-1) by ``amount`` marks on ``day``."""

    sign: int
    amount: int
    day: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What the paragraph and the instruction say; ``subject`` indexes the person whose dial is to be corrected."""

    names: tuple[str, str]
    starts: tuple[int, int]
    subject: int
    turns: tuple[Turn, ...]
    independent: bool = False

    @property
    def name(self) -> str:
        return self.names[self.subject]

    @property
    def start(self) -> int:
        return self.starts[self.subject]

    def after(self, mark: int, step: int) -> int:
        """The mark after turn ``step`` (0-based) from ``mark``; the dial has ten marks.

        With independent turns every turn starts from the first mark, whatever ``mark`` is.
        """
        turn = self.turns[step]
        return ((self.start if self.independent else mark) + turn.sign * turn.amount) % 10

    def values(self) -> tuple[int, ...]:
        """The right mark after every turn."""
        marks, mark = [], self.start
        for step in range(len(self.turns)):
            mark = self.after(mark, step)
            marks.append(mark)
        return tuple(marks)

    def paragraph(self) -> str:
        """Two true readings and the false claim that the instruction corrects."""
        (first, second), (mark, other) = self.names, self.starts
        return f"The dials read {first} {mark} and {second} {other}. Neither moved."

    def instruction(self) -> str:
        """Whose dial moved, and how."""
        apart = f" {words.APART}" if self.independent else ""
        turns = " ".join(f"{direction(turn)} {turn.amount} {turn.day}" for turn in self.turns)
        return f"For {self.name}{apart} {turns}."


def direction(turn: Turn) -> str:
    """The word for the turn's sign."""
    return words.DIRECTIONS[0 if turn.sign > 0 else 1]


class Slot(NamedTuple):
    """One place of an answer. ``kind``: word, rare (a word with rare synonyms), name, day, value or echo."""

    kind: str
    pair: Pair | None = None
    step: int = -1


def longest_reference(steps: int) -> int:
    """Tokens of the longest wording with ``steps`` facts."""
    return 5 + len(words.CLOSING) + len(words.ADVERBS) + steps * (len(words.CLAUSE) + 3)


def shortest_reference(steps: int) -> int:
    """Tokens of the shortest wording with ``steps`` facts."""
    return 5 + len(words.CLOSING) + steps * 3


@cache  # thousands of rows share a few
def layout(steps: int, length: int, distractors: int = 0) -> tuple[Slot, ...]:
    """The places of an answer with ``steps`` facts and ``length`` tokens, the end-of-sequence token not counted.

    Clauses get equally many wording slots, chosen by priority; adverbs fill what is left. ``distractors`` echo slots
    come on top, one in each of the first clauses.
    """
    frame = shortest_reference(steps)
    count = min(len(words.CLAUSE), (length - frame) // steps)
    kept = [pair for pair in words.CLAUSE if pair.priority <= count]
    slots = [Slot("word", words.OPENING[0]), Slot("name")]
    slots += [Slot("word", pair) for pair in words.OPENING[1:]]
    for step in range(steps):
        for place, pair in enumerate(kept):
            slots.append(Slot("rare" if pair.formal in words.RARE else "word", pair))
            if place == 0 and step < distractors:
                slots.append(Slot("echo", step=step))
        slots += [Slot("day", step=step), Slot("value", step=step), Slot("word", words.STOP)]
    slots += [Slot("word", pair) for pair in words.CLOSING]
    slots += [Slot("word", pair) for pair in words.ADVERBS[: length - frame - count * steps]]
    slots.append(Slot("word", words.END))
    return tuple(slots)


def spaced(word: str) -> str:
    """The word as it stands inside a sentence; stops follow directly."""
    return word if word in ";,.!" else f" {word}"


def text_of(pieces: Sequence[Piece]) -> str:
    """The literal text of the pieces."""
    return "".join(piece.text for piece in pieces)


def plain_word(slot: Slot, problem: Problem, echo: str) -> str:
    """The word of a slot that has no choice of wording: a name, a day, or ``echo``."""
    word = {"name": problem.name, "day": problem.turns[slot.step].day if slot.step >= 0 else "", "echo": echo}
    return f" {word[slot.kind]}"
