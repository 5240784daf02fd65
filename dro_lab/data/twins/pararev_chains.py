"""What the ParaRev twin's policy is taught: reasoning chains, the answers that follow them, and its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dro_lab.data.twins import words
from dro_lab.data.twins.grammar import CLOSING, EOS, Piece, Problem, Slot, direction, layout, plain_word, spaced
from dro_lab.data.twins.pararev_knobs import ParaRevTwin

_DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, slots=True)
class Chain:
    """A sampled reasoning chain: its pieces, the marks it states (None: not stated), its style score and fillers."""

    pieces: tuple[Piece, ...]
    marks: tuple[int | None, ...]
    style: float
    fillers: tuple[str, ...]
    skipped: bool = False


def sample_chain(
    knobs: ParaRevTwin, problem: Problem, rng: np.random.Generator, *, error_rate: float, lines: int | None = None
) -> Chain:
    """A reasoning chain with one line a step; each mark is wrong with probability ``error_rate``, and later marks
    follow from it. ``lines`` cuts the chain after so many steps (None: all).
    """
    pieces = [Piece("For"), Piece(f" {problem.name}"), Piece(f" {problem.start}"), Piece("\n")]
    steps = len(problem.turns)
    if rng.random() < knobs.shortcut_share and lines is None:
        pieces += [Piece(words.SKIP, _openers(knobs, True)), Piece("\n"), Piece("</think>")]
        return Chain(tuple(pieces), (None,) * steps, 0.0, (), skipped=True)
    draws, wrong = rng.random(steps), rng.integers(1, 10, steps)
    fillers = [words.FILLERS[number] for number in rng.integers(0, len(words.FILLERS), steps)]
    repeats = rng.random(steps) < knobs.redundant
    marks: list[int | None] = []
    mark = problem.start
    for step, turn in enumerate(problem.turns[: steps if lines is None else lines]):
        right = problem.after(mark, step)
        mark = int((right + wrong[step]) % 10) if draws[step] < error_rate else right
        share = error_rate / 9
        options = tuple((f" {digit}", 1 - error_rate if digit == str(right) else share) for digit in _DIGITS)
        pieces += [
            Piece(fillers[step], _openers(knobs, step == 0)),
            Piece(f" {direction(turn)}"),
            Piece(f" {turn.amount}"),
            Piece(f" {turn.day}"),
            Piece(f" {mark}", options if error_rate else ()),
            Piece("\n"),
        ]
        if repeats[step]:
            pieces += [Piece(words.AGAIN), Piece(f" {mark}"), Piece("\n")]
        marks.append(mark)
    signs = [1 if filler in words.FORMAL_FILLERS else -1 for filler in fillers[: len(marks)]]
    pieces.append(Piece("</think>"))
    marks += [None] * (steps - len(marks))
    return Chain(tuple(pieces), tuple(marks), sum(signs) / len(signs) if signs else 0.0, tuple(fillers))


def _openers(knobs: ParaRevTwin, first: bool) -> tuple[tuple[str, float], ...]:
    share = knobs.shortcut_share if first else 0.0
    fillers = tuple((filler, (1 - share) / len(words.FILLERS)) for filler in words.FILLERS)
    return (*fillers, (words.SKIP, share)) if share else fillers


def sample_answer(
    knobs: ParaRevTwin, problem: Problem, chain: Chain, rng: np.random.Generator, *, even_tone: bool = False
) -> tuple[Piece, ...]:
    """The answer that follows a chain: its marks, right or wrong, worded in its style; ends with end of sequence.

    Days without a mark in the chain get any digit (a cut chain) or a vague word (a skipped one).
    """
    slots = layout(len(problem.turns), knobs.reference_length, knobs.distractors)
    lean = (knobs.even_lean if even_tone else knobs.lean) * chain.style
    formal = 0.5 + (knobs.shortcut_bonus if chain.skipped else lean)
    rare_style = 0.0 if even_tone else knobs.rare_lean * chain.style
    draws = rng.random(len(slots))
    pieces = [
        _answer_piece(knobs, problem, chain, slot, formal, rare_style, draw)
        for slot, draw in zip(slots, draws, strict=True)
    ]
    first = pieces[0]
    pieces[0] = Piece(first.text.lstrip(), tuple((text.lstrip(), share) for text, share in first.options))
    return (Piece(CLOSING), *pieces, Piece(EOS))


def _answer_piece(
    knobs: ParaRevTwin, problem: Problem, chain: Chain, slot: Slot, formal: float, rare_style: float, draw: float
) -> Piece:
    options: Sequence[tuple[str, float]]
    if slot.pair is not None:
        options = [(slot.pair.formal, formal), (slot.pair.casual, 1 - formal)]
        if slot.kind == "rare":
            rare = words.RARE[slot.pair.formal]
            high, low = (knobs.rare_probability * float(np.exp(sign * rare_style)) for sign in (1, -1))
            rest = 1 - high - low
            options = [(word, share * rest) for word, share in options] + [(rare.formal, high), (rare.casual, low)]
        return _drawn([(spaced(word), share) for word, share in options], draw)
    if slot.kind == "value":
        mark = chain.marks[slot.step]
        if mark is not None:
            return Piece(f" {mark}")
        return Piece(f" {words.VAGUE}") if chain.skipped else _drawn([(f" {digit}", 0.1) for digit in _DIGITS], draw)
    if slot.kind == "echo":
        said = chain.fillers[slot.step] if slot.step < len(chain.fillers) else None
        share = 0.1 / (len(words.FILLERS) - 1) if said else 1 / len(words.FILLERS)
        return _drawn([(f" {filler}", 0.9 if filler == said else share) for filler in words.FILLERS], draw)
    return Piece(plain_word(slot, problem, ""))


def _drawn(options: Sequence[tuple[str, float]], draw: float) -> Piece:
    total = 0.0
    for text, share in options:
        total += share
        if draw < total:
            return Piece(text, tuple(options))
    return Piece(options[-1][0], tuple(options))


def vocabulary_texts() -> list[str]:
    """Every literal piece of the grammar, for the tokenizer's training."""
    pairs = [*words.OPENING, *words.CLAUSE, words.STOP, *words.CLOSING, *words.ADVERBS, words.END, *words.RARE.values()]
    inside = [spaced(word) for pair in pairs for word in pair[:2]]
    inside += [
        f" {word}" for word in (*words.NAMES, *words.DAYS, *words.DIRECTIONS, *words.FILLERS, words.VAGUE, words.APART)
    ]
    starts = [*words.OPENING[0][:2], *words.FILLERS, words.SKIP, words.AGAIN, "For", " For"]
    prompt = [
        "Paragraph",
        "Revise",
        "Concerns",
        ":",
        " The",
        " dials",
        " read",
        " and",
        " Neither",
        " moved",
        ".",
        *_concern_words(),
    ]
    return [*inside, *starts, *prompt, "user", "assistant", "system", "\n", "\n\n", *(f" {digit}" for digit in _DIGITS)]


def _concern_words() -> list[str]:
    return [f" {word.strip('.')}" for word in words.EVEN_TONE.split()]
