r"""The procedural twin of the maths sets: short word problems with a boxed answer, with the truth known.

The rows are in `maths_rows`, what the policy is taught in `maths_chains`. Its chains hold redundant segments and
backtracking at known rates, which cost tokens and help nothing: a process reward can teach to leave them out. The data
sets gsm8k, math, aime24, aime25 and deepscaler share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dro_lab.data.backtracking import TWIN_PHRASES
from dro_lab.data.twins.maths_chains import RESTATING, draw, kinds
from dro_lab.data.twins.maths_rows import (
    FRIENDS,
    OWNERS,
    PRESETS,
    ROW_KNOBS,
    SHARED_KNOBS,
    THINGS,
    MathsTwin,
    boxed,
    decide,
    make_row,
)
from dro_lab.types import Row

GENERATOR_VERSION = "1"


def quality(answer: str, row: Row) -> float:
    r"""1 where the last ``\boxed{...}`` of the answer holds the row's answer, else 0."""
    return float(boxed(answer)[-1:] == [row.columns["answer"]])


def copied(reasoning: str, answer: str, row: Row) -> list[bool]:
    """Does the answer state the last count of the reasoning? Empty where the reasoning states none."""
    stated = [count for _, count in kinds(reasoning) if count is not None]
    return [boxed(answer)[-1:] == [str(stated[-1])]] if stated else []


def vocabulary_texts() -> list[str]:
    """Every literal piece of the grammar and the words of the prompts, for the tokenizer's training."""
    inside = ["has", "gives", "takes", "How", "many", "now", *OWNERS, *FRIENDS, *THINGS]
    heads = [phrase.split() for phrase in (*TWIN_PHRASES, *RESTATING)]
    words = [word for first, *more in heads for word in (first, *(f" {part}" for part in more))]
    marks = [".", "?", ",", " +", " -", " =", "\\boxed", "{", "}", "\n", "\n\n", "user", "assistant", "system"]
    return [*OWNERS, *FRIENDS, *(f" {word}" for word in inside), *words, *marks, *(f" {digit}" for digit in range(10))]


class Maths:
    """The twin as `dro_lab.data.twins.protocol.Twin` wants it."""

    name = "maths"
    version = GENERATOR_VERSION
    knobs_type: type = MathsTwin
    presets: Mapping[str, Any] = PRESETS
    row_knobs = ROW_KNOBS
    shared_knobs = SHARED_KNOBS
    answer_marker = ""
    metric_name = "accuracy"
    note = (
        "a procedural twin of maths word problems: one-digit counts, additions only, and reasoning that repeats itself "
        "and turns back at a known rate without being the better for it; it shows a mechanism and its size, not what a "
        "policy would reach on real problems. accuracy is the share of answers whose box holds the right number"
    )
    fact_words = frozenset(str(digit) for digit in range(10))
    max_completion = 96
    make_row = staticmethod(make_row)
    quality = staticmethod(quality)
    decide = staticmethod(decide)
    draw = staticmethod(draw)
    copied = staticmethod(copied)
    vocabulary_texts = staticmethod(vocabulary_texts)


TWIN = Maths()
