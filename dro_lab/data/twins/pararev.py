"""The procedural twin of ParaRev: unlimited, seeded rows in ParaRev's schema, with the truth known.

A paragraph names two people's dials and claims that neither moved; the instruction turns one dial on some days. The
revised paragraph (the reference) states the dial's mark on every day. Only those digits depend on the reasoning's
result; all other words are wording. Wording has a style, formal or casual: the policy's answer leans to the style of
its own reasoning, while the reference has a style of its own that nothing in the prompt predicts. This coherent style
noise is built in: the twin shows a mechanism and its size, not that every real data set has it.

Row ``i`` of a split is a pure function of ``(knobs, seed, split, i)``; splits are disjoint by the problem's content.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dro_lab.data.pararev_prompt import render_prompt
from dro_lab.data.twins import words
from dro_lab.data.twins.grammar import (
    EOS,
    Piece,
    Problem,
    Slot,
    Turn,
    direction,
    layout,
    spaced,
    text_of,
)
from dro_lab.data.twins.knobs import AMOUNTS, PRESETS, ROW_KNOBS, ParaRevTwin, preset
from dro_lab.errors import UserError
from dro_lab.types import Row

GENERATOR_VERSION = "1"
ANSWER_MARKER = "\n\n"
SPLITS = ("train", "validation", "test")
_SPLIT_BUCKETS = {"train": range(2, 10), "validation": range(1, 2), "test": range(1)}
_DIGITS = tuple(str(digit) for digit in range(10))


# ------------------------------------------------------------------------------------------------ rows


def split_of(problem: Problem) -> str:
    """The split a problem belongs to, by a hash of its content (80 / 10 / 10)."""
    bucket = hashlib.sha256(repr(problem).encode()).digest()[0] % 10
    return next(split for split, buckets in _SPLIT_BUCKETS.items() if bucket in buckets)


def sample_problem(knobs: ParaRevTwin, split: str, rng: np.random.Generator) -> Problem:
    """A problem of the split, uniformly drawn."""
    while True:
        names = rng.permutation(len(words.NAMES))[:2]
        steps = int(rng.integers(knobs.steps_min, knobs.steps_max + 1))
        days = rng.permutation(len(words.DAYS))[:steps]
        signs, amounts = rng.integers(0, 2, steps) * 2 - 1, 1 + rng.permutation(AMOUNTS)[:steps]
        starts = rng.integers(0, 10, 2)
        problem = Problem(
            names=(words.NAMES[names[0]], words.NAMES[names[1]]),
            starts=(int(starts[0]), int(starts[1])),
            subject=0 if knobs.subject_first else int(rng.integers(0, 2)),
            turns=tuple(Turn(int(s), int(a), words.DAYS[d]) for s, a, d in zip(signs, amounts, days, strict=True)),
            independent=knobs.independent,
        )
        if split_of(problem) == split:
            return problem


def reference_text(knobs: ParaRevTwin, problem: Problem, style: int, rng: np.random.Generator) -> tuple[str, list]:
    """The revised paragraph in style ``style`` (+1 formal, -1 casual) and the character spans of its fact digits."""
    slots = layout(len(problem.turns), knobs.reference_length, knobs.distractors)
    rare_places = [place for place, slot in enumerate(slots) if slot.kind == "rare"]
    chosen = set(rng.permutation(rare_places)[: knobs.rare_words].tolist())
    formal = rng.random(len(slots)) < 0.5 + knobs.style_coherence * style
    echoes = rng.integers(0, len(words.FILLERS), len(slots))
    values = problem.values()
    text, spans = "", []
    for place, slot in enumerate(slots):
        if slot.kind == "value":
            spans.append([len(text) + 1, len(text) + 2])
            text += f" {values[slot.step]}"
        elif slot.pair is None:
            text += _plain(slot, problem, words.FILLERS[echoes[place]])
        else:
            pair = words.RARE[slot.pair.formal] if place in chosen else slot.pair
            is_formal = style > 0 if place in chosen else formal[place]
            word = pair.formal if is_formal else pair.casual
            text += word if place == 0 else spaced(word)
    return text, spans


def _plain(slot: Slot, problem: Problem, echo: str) -> str:
    word = {"name": problem.name, "day": problem.turns[slot.step].day if slot.step >= 0 else "", "echo": echo}
    return f" {word[slot.kind]}"


def make_row(knobs: ParaRevTwin, split: str, index: int, *, seed: int) -> Row:
    """Row ``index`` of ``split``; a pure function of its arguments.

    Columns: paragraph, instruction, concerns (None or text), facts (``[[day, mark], ...]``), truth_spans
    (``[[start, end], ...]``, characters of the reference), style (+1 formal, -1 casual), steps.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    problem = sample_problem(knobs, split, rng)
    style = 1 if rng.random() < knobs.style_balance else -1
    reference, spans = reference_text(knobs, problem, style, rng)
    concerns = words.EVEN_TONE if knobs.even_tone else None
    paragraph, instruction = problem.paragraph(), problem.instruction()
    return Row(
        id=f"twin-{split}-{seed}-{index}",
        prompt=[{"role": "user", "content": render_prompt(paragraph, instruction, concerns)}],
        reference=reference,
        columns={
            "paragraph": paragraph,
            "instruction": instruction,
            "concerns": concerns,
            "facts": [[turn.day, value] for turn, value in zip(problem.turns, problem.values(), strict=True)],
            "truth_spans": spans,
            "style": style,
            "steps": len(problem.turns),
        },
    )


def make_rows(knobs: ParaRevTwin, split: str, count: int, *, seed: int, start: int = 0) -> list[Row]:
    """Rows ``start`` to ``start + count - 1`` of the split."""
    return [make_row(knobs, split, index, seed=seed) for index in range(start, start + count)]


def quality(answer: str, row: Row) -> float:
    """Share of the row's facts that the answer states rightly, in [0, 1].

    A fact is stated by its day directly followed by digits. All digits that follow any mention of the day must equal
    the right mark: a day given two different marks is wrong, and so is a day that is missing.
    """
    facts = row.columns["facts"]
    right = 0
    for day, value in facts:
        runs = re.findall(rf"\b{re.escape(day)}((?:[ \t:,=]+[0-9]+)+)(?![0-9A-Za-z])", answer, flags=re.IGNORECASE)
        stated = {number for run in runs for number in re.findall(r"[0-9]+", run)}
        right += stated == {str(value)}
    return right / len(facts)


# ------------------------------------------------------------------------------------------------ what the policy does


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
    return (Piece(ANSWER_MARKER), *pieces, Piece(EOS))


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
    return Piece(_plain(slot, problem, ""))


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


__all__ = [
    "ANSWER_MARKER",
    "GENERATOR_VERSION",
    "PRESETS",
    "ROW_KNOBS",
    "SPLITS",
    "Chain",
    "ParaRevTwin",
    "make_row",
    "make_rows",
    "preset",
    "quality",
    "sample_answer",
    "sample_chain",
    "sample_problem",
    "split_of",
    "text_of",
    "vocabulary_texts",
]
