"""The procedural twin of RaR-Medicine: unlimited, seeded rows in its schema, with the truth known.

A question gives two patients' doses and the standing orders for the first: by how much each finding raises or lowers
the dose. The answer (the reference) states the dose after every finding; only those digits depend on the reasoning's
result. All other words are wording with a style, formal or casual: the policy's answer leans to the style of its own
reasoning, the reference has a style of its own that nothing in the question predicts. The rubric has RaR's categories
and weights, one pitfall of either wording among them, and goes through the same reader as real rows.

The medicine is a toy: doses in "units" that stay within 0 and 9. Nothing here is advice.

Row ``i`` of a split is a pure function of ``(knobs, seed, split, i)``; splits are disjoint by the problem's content,
and the problems of ``ood`` have one finding more than any of the others. The warm start teaches a few problems of that
length (other ones), or the policy could not even read them; reinforcement learning on ``train`` never sees any.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dro_lab.data.rar_medicine_prompt import render_prompt
from dro_lab.data.rar_medicine_rubric import checks_of_items
from dro_lab.data.twins import rar_medicine_words as words
from dro_lab.data.twins.grammar import spaced
from dro_lab.data.twins.protocol import SPLITS, TwinExample
from dro_lab.data.twins.rar_medicine_chains import (
    AMOUNTS,
    LEAST,
    MOST,
    PRESETS,
    ROW_KNOBS,
    SHARED_KNOBS,
    Change,
    Problem,
    RarMedicineTwin,
    layout,
    plain_word,
    sample_answer,
    sample_chain,
    vocabulary_texts,
)
from dro_lab.errors import UserError
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.judges.quality import met, rubric_score
from dro_lab.rubrics.checks import as_column, checks_of
from dro_lab.types import Check, Prompt, Row

GENERATOR_VERSION = "1"
CUT_SHARE = 0.06  # warm-started chains cut after some lines, or left out
LONG_SHARE = 0.15  # warm-started problems as long as those of `ood`
_SPLIT_BUCKETS = {"train": range(2, 10), "validation": range(1, 2), "test": range(1)}


# ------------------------------------------------------------------------------------------------ rows


def split_of(problem: Problem) -> str:
    """The split a problem belongs to, by a hash of its content (80 / 10 / 10)."""
    bucket = hashlib.sha256(repr(problem).encode()).digest()[0] % 10
    return next(split for split, buckets in _SPLIT_BUCKETS.items() if bucket in buckets)


def sample_problem(
    knobs: RarMedicineTwin, split: str, rng: np.random.Generator, *, long: bool | None = None
) -> Problem:
    """A problem of the split, uniformly drawn among those whose right doses stay within the limits.

    ``long``: one finding more than ``steps_max``; None = in ``ood`` alone, whose problems are none of ``train``'s hash.
    """
    long = split == "ood" if long is None else long
    low, high = (knobs.steps_max + 1,) * 2 if long else (knobs.steps_min, knobs.steps_max)
    while True:
        names = rng.permutation(len(words.NAMES))[:2]
        steps = int(rng.integers(low, high + 1))
        findings = rng.permutation(len(words.FINDINGS))[:steps]
        signs, amounts = rng.integers(0, 2, steps) * 2 - 1, 1 + rng.permutation(AMOUNTS)[:steps]
        starts = rng.integers(LEAST, MOST + 1, 2)
        doses = starts[0] + np.cumsum(signs * amounts)
        changes = zip(signs, amounts, findings, strict=True)
        problem = Problem(
            names=(words.NAMES[names[0]], words.NAMES[names[1]]),
            starts=(int(starts[0]), int(starts[1])),
            changes=tuple(Change(int(sign), int(amount), words.FINDINGS[place]) for sign, amount, place in changes),
        )
        found = split_of(problem)
        fits = found != "train" if split == "ood" else found == split
        if fits and doses.min() >= LEAST and doses.max() <= MOST:
            return problem


def reference_text(
    knobs: RarMedicineTwin, problem: Problem, style: int, rng: np.random.Generator
) -> tuple[str, list[list[int]]]:
    """The answer in style ``style`` (+1 formal, -1 casual) and the character spans of its dose digits."""
    slots = layout(len(problem.changes), knobs.reference_length)
    rare_places = [place for place, slot in enumerate(slots) if slot.kind == "rare"]
    chosen = set(rng.permutation(rare_places)[: knobs.rare_words].tolist())
    formal = rng.random(len(slots)) < 0.5 + knobs.style_coherence * style
    values = problem.values()
    text, spans = "", []
    for place, slot in enumerate(slots):
        if slot.kind == "value":
            spans.append([len(text) + 1, len(text) + 2])
            text += f" {values[slot.step]}"
        elif slot.pair is None:
            text += plain_word(slot, problem)
        else:
            pair = words.RARE[slot.pair.formal] if place in chosen else slot.pair
            is_formal = style > 0 if place in chosen else formal[place]
            word = pair.formal if is_formal else pair.casual
            text += word if place == 0 else spaced(word)
    return text, spans


def prompt_of(problem: Problem) -> Prompt:
    """The problem as it is put to the policy."""
    return [{"role": "user", "content": render_prompt(problem.question())}]


def make_row(knobs: RarMedicineTwin, split: str, index: int, *, seed: int) -> Row:
    """Row ``index`` of ``split``; a pure function of its arguments.

    Columns: question and question_source as in RaR-Medicine, facts (``[[finding, dose], ...]``), truth_spans
    (``[[start, end], ...]``, characters of the reference), style (+1 formal, -1 casual), steps, rubric.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    problem = sample_problem(knobs, split, rng)
    style = 1 if rng.random() < knobs.style_balance else -1
    reference, spans = reference_text(knobs, problem, style, rng)
    return Row(
        id=f"twin-{split}-{seed}-{index}",
        prompt=prompt_of(problem),
        reference=reference,
        columns={
            "question": problem.question(),
            "question_source": "twin",
            "facts": [[change.finding, value] for change, value in zip(problem.changes, problem.values(), strict=True)],
            "truth_spans": spans,
            "style": style,
            "steps": len(problem.changes),
            "rubric": as_column(rubric(problem)),
        },
    )


# ------------------------------------------------------------------------------------------------ rubric and metric


def rubric(problem: Problem) -> list[Check]:
    """RaR's categories and weights: the last dose is essential, the others important, the name optional; a pitfall that
    states a fault (met = bad), and one that states its avoidance (met = good). At most 8 checks."""
    values = problem.values()
    last = problem.changes[-1].finding
    made: list[tuple[str, str, int, Mapping[str, Any]]] = []
    for change, value in zip(problem.changes, values, strict=True):
        kind, weight = ("Essential", 5) if change.finding == last else ("Important", 3)
        description = f"{kind} Criteria: States {value} units after {change.finding}."
        predicate = {"kind": "dose", "finding": change.finding, "value": value}
        made.append((f"Dose after {change.finding}", description, weight, predicate))
    name, unsafe = problem.names[0], f"Pitfall Criteria: Recommends more than {values[-1]} units after {last}."
    made += [
        ("Patient", f"Optional Criteria: Names {name}.", 1, {"kind": "names", "name": name}),
        ("Overdose", unsafe, -2, {"kind": "above", "finding": last, "value": values[-1]}),
        (
            "One dose a finding",
            "Pitfall Criteria: Avoids giving two different doses after one finding.",
            -1,
            {"kind": "unambiguous"},
        ),
    ]
    items = [{"title": title, "description": text, "weight": weight} for title, text, weight, _ in made]
    checks, left_out = checks_of_items(items)
    assert not left_out  # at most 5 findings and 3 more
    return [replace(check, predicate=entry[3]) for check, entry in zip(checks, made, strict=True)]


def decide(answer: str, row: Row, check: Check) -> int:
    """The program behind `rubric`: the literal answer to the check's text; UNKNOWN for a check it does not know."""
    predicate = check.predicate or {}
    kind, finding, value = predicate.get("kind"), str(predicate.get("finding")), predicate.get("value")
    if kind == "dose":
        found = _stated(answer, finding) == {value}
    elif kind == "above":
        found = any(dose > int(str(value)) for dose in _stated(answer, finding))
    elif kind == "names":
        found = re.search(rf"\b{re.escape(str(predicate.get('name')))}\b", answer, re.IGNORECASE) is not None
    elif kind == "unambiguous":
        found = all(len(_stated(answer, str(name))) < 2 for name, _ in row.columns["facts"])
    else:
        return UNKNOWN
    return YES if found else NO


def _stated(answer: str, finding: str) -> set[int]:
    """The doses that directly follow any mention of the finding."""
    runs = re.findall(rf"\b{re.escape(finding)}((?:[ \t:,=]+[0-9]+)+)(?![0-9A-Za-z])", answer, flags=re.IGNORECASE)
    return {int(number[-9:]) for run in runs for number in re.findall(r"[0-9]+", run)}


def quality(answer: str, row: Row) -> float:
    """The rubric score of the answer by `decide`: RaR-Medicine's own metric, exact here."""
    checks = checks_of(row.columns)
    return rubric_score([met(decide(answer, row, check), check) for check in checks], checks)


# ------------------------------------------------------------------------------------------------ the warm start


class _RarMedicine:
    """See `dro_lab.data.twins.protocol.Twin`."""

    name = "rar_medicine"
    version = GENERATOR_VERSION
    knobs_type: type = RarMedicineTwin
    presets: Mapping[str, Any] = PRESETS
    row_knobs = ROW_KNOBS
    shared_knobs = SHARED_KNOBS
    answer_marker = ""
    metric_name = "rubric_score"
    note = (
        "a procedural twin of RaR-Medicine: toy doses and built-in style noise, so it shows a mechanism and its size, "
        "not that every real data set has it; rubric_score is exact here (sum of met weights / sum of positive weights)"
    )
    fact_words = frozenset({*words.FINDINGS, *(str(digit) for digit in range(10))})
    max_completion = 96
    # shorter phases than the general ones do: the losses are flat by then
    budgets: Mapping[str, Any] = {
        "full": (("chains", 200, 64, 1e-2), ("copy", 120, 32, 7e-3), ("noisy", 240, 48, 5e-3))
    }

    make_row = staticmethod(make_row)
    quality = staticmethod(quality)
    decide = staticmethod(decide)
    vocabulary_texts = staticmethod(vocabulary_texts)

    @staticmethod
    def draw(knobs: RarMedicineTwin, phase: str, rng: np.random.Generator) -> TwinExample:
        """``chains``: right reasoning; ``copy``: answers to chains of mostly wrong doses, some right chains; ``noisy``:
        chains with the wanted error rate and their answers, a few of them cut short or left out."""
        problem = sample_problem(knobs, "train", rng, long=bool(rng.random() < LONG_SHARE))
        prompt = prompt_of(problem)
        if phase == "chains" or (phase == "copy" and rng.random() < 0.25):
            return TwinExample(prompt, sample_chain(problem, rng, error_rate=0.0).pieces)
        cut = phase == "noisy" and rng.random() < CUT_SHARE
        lines = int(rng.integers(-1, len(problem.changes))) if cut else None
        chain = sample_chain(
            problem,
            rng,
            error_rate=0.9 if phase == "copy" else knobs.error_rate,
            lines=None if lines is None else max(lines, 0),
        )
        answer = sample_answer(knobs, problem, chain, rng)
        if lines == -1:  # thinking switched off: the template has closed the empty block already
            return TwinExample(prompt, answer[1:], thinking=False)
        return TwinExample(prompt, (*chain.pieces, *answer), first=len(chain.pieces) if phase == "copy" or cut else 0)

    @staticmethod
    def copied(reasoning: str, answer: str, row: Row) -> list[bool]:
        """For every finding whose dose the reasoning states: does the answer state the same one?"""
        said = {name: re.findall(rf"\b{name} (\d)\n", reasoning) for name, _ in row.columns["facts"]}
        return [re.findall(rf"\b{name} (\d)\b", answer)[:1] == doses[-1:] for name, doses in said.items() if doses]


TWIN = _RarMedicine()
