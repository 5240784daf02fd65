"""The procedural twin of ParaRev: unlimited, seeded rows in ParaRev's schema, with the truth known.

A paragraph names two people's dials and claims that neither moved; the instruction turns one dial on some days. The
revised paragraph (the reference) states the dial's mark on every day. Only those digits depend on the reasoning's
result; all other words are wording. Wording has a style, formal or casual: the policy's answer leans to the style of
its own reasoning, while the reference has a style of its own that nothing in the prompt predicts. This coherent style
noise is built in: the twin shows a mechanism and its size, not that every real data set has it.

Row ``i`` of a split is a pure function of ``(knobs, seed, split, i)``; splits are disjoint by the problem's content,
and the problems of ``ood`` have one turn more than any of the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dro_lab.data.pararev_prompt import render_prompt
from dro_lab.data.twins import knobs as shared
from dro_lab.data.twins import words
from dro_lab.data.twins.grammar import Problem, Turn, layout, plain_word, shortest_reference, spaced, text_of
from dro_lab.data.twins.pararev_chains import Chain, sample_answer, sample_chain, vocabulary_texts
from dro_lab.data.twins.pararev_knobs import AMOUNTS, PRESETS, ROW_KNOBS, SHARED_KNOBS, ParaRevTwin
from dro_lab.data.twins.protocol import SPLITS, TwinExample
from dro_lab.errors import UserError
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.rubrics.checks import as_column
from dro_lab.types import Check, Prompt, Row

GENERATOR_VERSION = "2"
CUT_SHARE = 0.06  # warm-started chains cut after some lines, or left out
_SPLIT_BUCKETS = {"train": range(2, 10), "validation": range(1, 2), "test": range(1)}


def preset(name: str, /, **overrides: Any) -> ParaRevTwin:
    """The named preset with some knobs replaced. Raises `UserError` as `dro_lab.data.twins.knobs.preset` does."""
    made: ParaRevTwin = shared.preset(TWIN, name, **overrides)
    return made


# ------------------------------------------------------------------------------------------------ rows


def split_of(problem: Problem) -> str:
    """The split a problem belongs to, by a hash of its content (80 / 10 / 10)."""
    bucket = hashlib.sha256(repr(problem).encode()).digest()[0] % 10
    return next(split for split, buckets in _SPLIT_BUCKETS.items() if bucket in buckets)


def sample_problem(knobs: ParaRevTwin, split: str, rng: np.random.Generator) -> Problem:
    """A problem of the split, uniformly drawn; one of ``ood`` has a turn more than the others may have."""
    low, high = (knobs.steps_max + 1,) * 2 if split == "ood" else (knobs.steps_min, knobs.steps_max)
    while True:
        names = rng.permutation(len(words.NAMES))[:2]
        steps = int(rng.integers(low, high + 1))
        days = rng.permutation(len(words.DAYS))[:steps]
        signs, amounts = rng.integers(0, 2, steps) * 2 - 1, 1 + rng.permutation(max(AMOUNTS, steps))[:steps]
        starts = rng.integers(0, 10, 2)
        problem = Problem(
            names=(words.NAMES[names[0]], words.NAMES[names[1]]),
            starts=(int(starts[0]), int(starts[1])),
            subject=0 if knobs.subject_first else int(rng.integers(0, 2)),
            turns=tuple(Turn(int(s), int(a), words.DAYS[d]) for s, a, d in zip(signs, amounts, days, strict=True)),
            independent=knobs.independent,
        )
        if split in ("ood", split_of(problem)):
            return problem


def reference_text(knobs: ParaRevTwin, problem: Problem, style: int, rng: np.random.Generator) -> tuple[str, list]:
    """The revised paragraph in style ``style`` (+1 formal, -1 casual) and the character spans of its fact digits."""
    slots = layout(len(problem.turns), _length(knobs, problem), knobs.distractors)
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
            text += plain_word(slot, problem, words.FILLERS[echoes[place]])
        else:
            pair = words.RARE[slot.pair.formal] if place in chosen else slot.pair
            is_formal = style > 0 if place in chosen else formal[place]
            word = pair.formal if is_formal else pair.casual
            text += word if place == 0 else spaced(word)
    return text, spans


def _length(knobs: ParaRevTwin, problem: Problem) -> int:
    """Tokens of the reference: a longer problem may need more than the knob says."""
    return max(knobs.reference_length, shortest_reference(len(problem.turns)))


def prompt_of(problem: Problem, *, even_tone: bool) -> Prompt:
    """The problem as it is put to the policy."""
    content = render_prompt(problem.paragraph(), problem.instruction(), words.EVEN_TONE if even_tone else None)
    return [{"role": "user", "content": content}]


def make_row(knobs: ParaRevTwin, split: str, index: int, *, seed: int) -> Row:
    """Row ``index`` of ``split``; a pure function of its arguments.

    Columns: paragraph, instruction, concerns (None or text), facts (``[[day, mark], ...]``), truth_spans
    (``[[start, end], ...]``, characters of the reference), style (+1 formal, -1 casual), steps, rubric (`rubric`).
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
        prompt=prompt_of(problem, even_tone=knobs.even_tone),
        reference=reference,
        columns={
            "paragraph": paragraph,
            "instruction": instruction,
            "concerns": concerns,
            "facts": [[turn.day, value] for turn, value in zip(problem.turns, problem.values(), strict=True)],
            "truth_spans": spans,
            "style": style,
            "steps": len(problem.turns),
            "rubric": as_column(rubric(problem)),
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
    return sum(_stated(answer, day) == {str(value)} for day, value in facts) / len(facts)


def _stated(answer: str, day: str) -> set[str]:
    """The numbers that directly follow any mention of the day."""
    runs = re.findall(rf"\b{re.escape(day)}((?:[ \t:,=]+[0-9]+)+)(?![0-9A-Za-z])", answer, flags=re.IGNORECASE)
    return {number for run in runs for number in re.findall(r"[0-9]+", run)}


# ------------------------------------------------------------------------------------------------ the rubric


def rubric(problem: Problem) -> list[Check]:
    """Checks of an answer's form and care, not of its marks: an empty, unrevised or vague answer meets few of them.

    One check a day, so that an answer without marks meets at most half of them; at most 8 in all.
    """
    marks = [
        Check(
            id=f"mark-{turn.day}",
            text=f"Does the text state, as a digit, the mark of the dial on {turn.day}?",
            predicate={"kind": "states_mark", "day": turn.day},
        )
        for turn in problem.turns
    ]
    return [
        *marks,
        Check(
            id="name",
            text=f"Does the text name {problem.name}?",
            predicate={"kind": "names", "name": problem.name},
        ),
        Check(
            id="revised",
            text="Does the text say something other than the paragraph did before its revision?",
            predicate={"kind": "revised"},
        ),
    ]


def decide(answer: str, row: Row, check: Check) -> int:
    """The program behind `rubric`; reads only the answer and the row's paragraph. UNKNOWN for any other check."""
    predicate = check.predicate or {}
    kind = predicate.get("kind")
    if kind == "states_mark":
        met = bool(_stated(answer, str(predicate.get("day"))))
    elif kind == "names":
        met = re.search(rf"\b{re.escape(str(predicate.get('name')))}\b", answer, flags=re.IGNORECASE) is not None
    elif kind == "revised":
        met = bool(_bare(answer)) and _bare(answer) != _bare(str(row.columns["paragraph"]))
    else:
        return UNKNOWN
    return YES if met else NO


def _bare(text: str) -> str:
    """Letters and digits alone: other spaces and stops are no revision."""
    return re.sub(r"[\W_]+", " ", text).strip().lower()


# ------------------------------------------------------------------------------------------------ the warm start


def draw(knobs: ParaRevTwin, phase: str, rng: np.random.Generator) -> TwinExample:
    """An example of a phase, on a problem of the training split.

    ``chains``: a right chain. ``copy``: a chain of random marks and the answer that states them, the loss on the answer
    alone; a quarter as in ``chains``. ``noisy``: a chain with the wanted error rate and the answer that follows it; a
    small share of the chains is cut short or left out, the loss on the answer alone.
    """
    problem = sample_problem(knobs, "train", rng)
    even = bool(rng.random() < 0.2)  # some prompts carry the even-tone concern that the mild preset uses
    prompt = prompt_of(problem, even_tone=even)
    cut = phase == "noisy" and rng.random() < CUT_SHARE
    if phase == "chains" or (phase == "copy" and rng.random() < 0.25):
        return TwinExample(prompt, sample_chain(knobs, problem, rng, error_rate=0.0).pieces)
    lines = int(rng.integers(-1, len(problem.turns))) if cut else None
    error_rate = 0.9 if phase == "copy" else knobs.error_rate
    chain = sample_chain(knobs, problem, rng, error_rate=error_rate, lines=None if lines is None else max(lines, 0))
    answer = sample_answer(knobs, problem, chain, rng, even_tone=even)
    if lines == -1:  # thinking switched off: the template has closed the empty block already
        return TwinExample(prompt, answer[1:], thinking=False)
    return TwinExample(prompt, (*chain.pieces, *answer), first=len(chain.pieces) if phase == "copy" or cut else 0)


def copied(reasoning: str, answer: str, row: Row) -> list[bool]:
    """For every day whose mark the reasoning states: does the answer state the same one first?"""
    said = {day: re.findall(rf"\b{day} (\d)\n", reasoning) for day, _ in row.columns["facts"]}
    return [re.findall(rf"\b{day} (\d)\b", answer)[:1] == marks[-1:] for day, marks in said.items() if marks]


class ParaRev:
    """The twin as `dro_lab.data.twins.protocol.Twin` wants it."""

    name = "pararev"
    version = GENERATOR_VERSION
    knobs_type: type = ParaRevTwin
    presets: Mapping[str, Any] = PRESETS
    row_knobs = ROW_KNOBS
    shared_knobs = SHARED_KNOBS
    answer_marker = ""
    metric_name = "facts_right"
    note = (
        "a procedural twin of ParaRev: its style noise is built in, so it shows a mechanism and its size, not that "
        "every real data set has it; facts_right is the share of the required facts that the answer states rightly"
    )
    fact_words = frozenset({*words.DAYS, words.VAGUE, *(str(digit) for digit in range(10))})
    max_completion = 96
    limits: Mapping[str, tuple[float, float]] = {"checks_met": (0.95, 1.0)}
    make_row = staticmethod(make_row)
    quality = staticmethod(quality)
    decide = staticmethod(decide)
    draw = staticmethod(draw)
    copied = staticmethod(copied)
    vocabulary_texts = staticmethod(vocabulary_texts)


TWIN = ParaRev()

__all__ = [
    "GENERATOR_VERSION",
    "PRESETS",
    "ROW_KNOBS",
    "SPLITS",
    "TWIN",
    "Chain",
    "ParaRevTwin",
    "copied",
    "decide",
    "draw",
    "make_row",
    "make_rows",
    "preset",
    "quality",
    "rubric",
    "sample_answer",
    "sample_chain",
    "sample_problem",
    "split_of",
    "text_of",
    "vocabulary_texts",
]
