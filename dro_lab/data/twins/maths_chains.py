"""What the maths twin's policy is taught: reasoning in segments, with its errors, repetitions and second thoughts.

A reasoning is a sequence of segments, each closed by a blank line (one token). Of four kinds:

``step``          "Bob +3 = 7": the next friend, what he gave, and the count; necessary, one a friend
``redundant``     "So far 7": the count again; no progress
``backtracking``  "Wait, Bob +3 = 7": the last step again; confirms it, corrects a wrong one at times, or spoils it
``conclusion``    "\\boxed{7}": the answer, before the reasoning closes; without all steps done it is a guess

`kinds` and `count_segments` read them from a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from dro_lab.data.backtracking import TWIN_PHRASES
from dro_lab.data.twins.grammar import CLOSING, EOS, Piece
from dro_lab.data.twins.maths_rows import FRIENDS, HIGHEST, MathsTwin, Problem, prompt_of, sample_problem
from dro_lab.data.twins.protocol import TwinExample

T = TypeVar("T")
CUT_SHARE = 0.2  # chains cut after some segments, or left out; half of them answer without closing the reasoning
BREAK = "\n\n"  # closes a segment
RESTATING = ("So far", "We have")
STEP, REDUNDANT, BACKTRACKING, CONCLUSION, OTHER = "step", "redundant", "backtracking", "conclusion", "other"
_LINE = rf"({'|'.join(FRIENDS)}) [+-][0-9] = ([0-9])"
_STEP = re.compile(_LINE)
_BACKTRACKING = re.compile(rf"(?:{'|'.join(TWIN_PHRASES)}), {_LINE}")
_REDUNDANT = re.compile(rf"(?:{'|'.join(RESTATING)}) ([0-9])")
_CONCLUSION = re.compile(r"\\boxed\{([0-9])\}")


# ------------------------------------------------------------------------------------------------ reading a text


@dataclass(frozen=True, slots=True)
class SegmentCounts:
    """How many segments of each kind a reasoning has."""

    necessary: int = 0
    redundant: int = 0
    backtracking: int = 0
    conclusion: int = 0
    other: int = 0


def kinds(reasoning: str) -> list[tuple[str, int | None]]:
    """Kind and stated count of every segment of a reasoning, in order.

    A step whose friend had one already is ``redundant``; what the grammar does not know is ``other`` and states None.
    """
    found: list[tuple[str, int | None]] = []
    seen: set[str] = set()
    for segment in re.split(r"\n\s*\n", reasoning):
        text = segment.strip()
        if not text:
            continue
        if match := _STEP.fullmatch(text):
            found.append((REDUNDANT if match[1] in seen else STEP, int(match[2])))
            seen.add(match[1])
        elif match := _BACKTRACKING.fullmatch(text):
            found.append((BACKTRACKING, int(match[2])))
        elif match := _REDUNDANT.fullmatch(text):
            found.append((REDUNDANT, int(match[1])))
        elif match := _CONCLUSION.fullmatch(text):
            found.append((CONCLUSION, int(match[1])))
        else:
            found.append((OTHER, None))
    return found


def count_segments(reasoning: str) -> SegmentCounts:
    """The truth about a reasoning: its necessary, redundant and backtracking segments, conclusions and the rest."""
    names = [kind for kind, _ in kinds(reasoning)]
    return SegmentCounts(
        necessary=names.count(STEP),
        redundant=names.count(REDUNDANT),
        backtracking=names.count(BACKTRACKING),
        conclusion=names.count(CONCLUSION),
        other=names.count(OTHER),
    )


# ------------------------------------------------------------------------------------------------ writing


@dataclass(frozen=True, slots=True)
class Place:
    """The start of a segment: the index of its first piece, the count so far and the steps done."""

    piece: int
    count: int
    done: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A sampled reasoning: its pieces with the closing tag, the last count it states, and where its segments start.

    The last place is where the reasoning ends, or where its conclusion starts.
    """

    pieces: tuple[Piece, ...]
    count: int
    places: tuple[Place, ...]


def after(count: int, amount: int) -> int:
    """The right count behind ``count``. Only a chain that is wrong already can leave the digits; it is cut there."""
    return int(np.clip(count + amount, 0, HIGHEST))


def step_shares(right: int, error_rate: float) -> dict[int, float]:
    """The counts that a step states: any wrong one is as likely."""
    return {digit: 1 - error_rate if digit == right else error_rate / HIGHEST for digit in range(HIGHEST + 1)}


def redo_shares(stated: int, right: int, *, correction: float, slip: float) -> dict[int, float]:
    """The counts that a backtracking segment states about a step that has stated ``stated``."""
    if stated == right:
        return step_shares(right, slip)
    named = {stated: 1 - correction - slip, right: correction}
    return {digit: named.get(digit, slip / (HIGHEST - 1)) for digit in range(HIGHEST + 1)}


def guess_shares(problem: Problem, place: Place, guess: float) -> dict[int, float]:
    """The answers at a place: the count itself where all steps are done, else what the other steps would make of it,
    with chance ``guess`` a step, or any digit."""
    count = place.count
    rest = problem.events[place.done :]
    for _, amount in rest:
        count = after(count, amount)
    sure = guess ** len(rest)
    return {digit: sure * (digit == count) + (1 - sure) / (HIGHEST + 1) for digit in range(HIGHEST + 1)}


def next_shares(knobs: MathsTwin, *, last: str, finished: bool, going_on: str) -> dict[str, float]:
    r"""The kinds of segment that may start behind one of kind ``last`` ("": none yet), with ``going_on`` for what
    happens otherwise: the next step, or the end.

    A step is followed by backtracking with chance ``backtracking``, and, behind that or not, by a redundant segment
    with chance ``redundancy``. The chance of ``\boxed`` is the same behind every kind, so that it says nothing about
    it: conclusion or early, or all that is left.
    """
    back = knobs.backtracking if last == STEP else 0.0
    again = (1 - back) * knobs.redundancy if last in (STEP, BACKTRACKING) else 0.0
    least = (1 - knobs.backtracking) * (1 - knobs.redundancy)
    concluding = min(knobs.conclusion if finished else knobs.early, least)
    return {BACKTRACKING: back, REDUNDANT: again, CONCLUSION: concluding, going_on: 1 - back - again - concluding}


def digit_piece(shares: Mapping[int, float], digit: int, *, space: str = " ") -> Piece:
    """A count with its distribution; nothing is noted where it is certain."""
    options = tuple((f"{space}{value}", share) for value, share in shares.items() if share > 0)
    return Piece(f"{space}{digit}", options if len(options) > 1 else ())


def sample_chain(knobs: MathsTwin, problem: Problem, rng: np.random.Generator) -> Chain:
    """A reasoning about the problem, as the knobs say."""
    pieces: list[Piece] = []
    places: list[Place] = []
    last, count, done, before = "", problem.start, 0, problem.start
    while True:
        places.append(Place(len(pieces), count, done))
        finished = done == len(problem.events)
        going_on = "end" if finished else STEP
        shares = next_shares(knobs, last=last, finished=finished, going_on=going_on)
        kind = _choose(shares, rng)
        head = _first_word(problem, done, shares)
        if kind == "end":
            return Chain((*pieces, Piece("</think>", head)), count, tuple(places))
        if kind == CONCLUSION:
            options = guess_shares(problem, places[-1], knobs.guess)
            count = _choose(options, rng)
            pieces += [*_box(options, count, head), Piece(BREAK), Piece("</think>")]
            return Chain(tuple(pieces), count, tuple(places))
        if kind == STEP:
            before = count
            options = step_shares(after(count, problem.events[done][1]), knobs.error_rate)
            count = _choose(options, rng)
            pieces += [Piece(problem.events[done][0], head), *_line(problem.events[done][1], options, count)]
            done += 1
        elif kind == BACKTRACKING:
            name, amount = problem.events[done - 1]
            right = after(before, amount)
            options = redo_shares(count, right, correction=knobs.correction, slip=knobs.slip)
            count = _choose(options, rng)
            pieces += [*_phrase(TWIN_PHRASES, head, rng), Piece(","), Piece(f" {name}"), *_line(amount, options, count)]
        else:
            options = step_shares(count, knobs.slip)
            count = _choose(options, rng)
            pieces += [*_phrase(RESTATING, head, rng), digit_piece(options, count), Piece(BREAK)]
        last = kind


def _choose(shares: Mapping[T, float], rng: np.random.Generator) -> T:
    return list(shares)[int(np.searchsorted(np.cumsum(list(shares.values())), rng.random() * sum(shares.values())))]


def _first_word(problem: Problem, done: int, shares: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """The distribution over the first words of what may come next."""
    words: list[tuple[str, float]] = []
    for kind, share in shares.items():
        if share <= 0:
            continue
        if kind in (BACKTRACKING, REDUNDANT):
            phrases = TWIN_PHRASES if kind == BACKTRACKING else RESTATING
            words += [(phrase.split()[0], share / len(phrases)) for phrase in phrases]
        else:
            words.append(({CONCLUSION: "\\boxed", "end": "</think>"}.get(kind) or problem.events[done][0], share))
    return tuple(words) if len(words) > 1 else ()


def _phrase(phrases: Sequence[str], head: tuple[tuple[str, float], ...], rng: np.random.Generator) -> list[Piece]:
    """One of the phrases, all as likely, word by word."""
    first, *more = phrases[int(rng.integers(len(phrases)))].split()
    return [Piece(first, head), *(Piece(f" {word}") for word in more)]


def _line(amount: int, shares: Mapping[int, float], count: int) -> list[Piece]:
    """What stands behind the friend's name in a step."""
    sign = " +" if amount > 0 else " -"
    return [Piece(sign), Piece(str(abs(amount))), Piece(" ="), digit_piece(shares, count), Piece(BREAK)]


def _box(shares: Mapping[int, float], digit: int, head: tuple[tuple[str, float], ...] = ()) -> list[Piece]:
    return [Piece("\\boxed", head), Piece("{"), digit_piece(shares, digit, space=""), Piece("}")]


def answer_pieces(shares: Mapping[int, float], digit: int) -> tuple[Piece, ...]:
    """The answer behind the closed reasoning; begins with the gap, ends with the end of sequence."""
    return (Piece(CLOSING), *_box(shares, digit), Piece(EOS))


# ------------------------------------------------------------------------------------------------ examples


def draw(knobs: MathsTwin, phase: str, rng: np.random.Generator) -> TwinExample:
    """An example of a phase, on a problem of the training split with 1 to ``steps_taught`` steps.

    ``chains``: a right chain, with redundant and backtracking segments. ``copy``: a chain of mostly random counts and
    the answer that states the last one, the loss on the answer alone; a quarter as in ``chains``. ``noisy``: a chain as
    the knobs say and its answer; a fifth of the chains is cut (`cut_example`).
    """
    problem = sample_problem(knobs, "train", rng, steps=(1, knobs.steps_taught))
    prompt = prompt_of(problem)
    if phase == "chains" or (phase == "copy" and rng.random() < 0.25):
        right = replace(knobs, error_rate=0.0, slip=0.0)
        return TwinExample(prompt, sample_chain(right, problem, rng).pieces)
    if phase == "copy":
        chain = sample_chain(replace(knobs, error_rate=0.9, slip=0.5, correction=0.0), problem, rng)
    else:
        chain = sample_chain(knobs, problem, rng)
        if rng.random() < CUT_SHARE:
            return cut_example(knobs, problem, chain, rng)
    answer = answer_pieces({chain.count: 1.0}, chain.count)
    return TwinExample(prompt, (*chain.pieces, *answer), first=len(chain.pieces) if phase == "copy" else 0)


def cut_example(knobs: MathsTwin, problem: Problem, chain: Chain, rng: np.random.Generator) -> TwinExample:
    r"""The chain cut at the start of a segment, and the answer known there (`guess_shares`), the loss on that alone.

    Half of the cut chains close the reasoning and answer. The other half write the answer at once, as references are
    scored behind a prefix of the reasoning that is not closed, and close the reasoning behind it; ``\boxed`` itself is
    left out of their loss, since its share at a segment's start is what `next_shares` says.
    """
    place = chain.places[int(rng.integers(len(chain.places)))]
    shares = guess_shares(problem, place, knobs.guess)
    digit = _choose(shares, rng)
    prompt, kept = prompt_of(problem), chain.pieces[: place.piece]
    if rng.random() < 0.5:
        said = (*_box(shares, digit), Piece(BREAK), Piece("</think>"), *answer_pieces({digit: 1.0}, digit))
        return TwinExample(prompt, (*kept, *said), first=len(kept) + 1)
    answer = answer_pieces(shares, digit)
    if not kept and rng.random() < 0.5:  # thinking switched off: the template has closed the empty block already
        return TwinExample(prompt, answer[1:], thinking=False)
    return TwinExample(prompt, (*kept, Piece("</think>"), *answer), first=len(kept) + 1)
