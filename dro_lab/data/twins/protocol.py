"""What a procedural twin is: rows in a data set's schema, the truth about them, and what its policy is taught.

A twin is one module ``dro_lab/data/twins/NAME.py`` with an object ``TWIN`` that fulfils `Twin`; NAME is the data set's.
Its shipped policy lies in ``dro_lab/policy/NAME/`` and is built by ``python -m dro_lab.policy.build --twin NAME``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dro_lab.data.twins.grammar import Piece
from dro_lab.types import Check, Prompt, Row

NAMES = ("pararev", "rar_medicine", "contract_nli", "finqa", "maths")
"""The data sets that have a twin."""

SPLITS = ("train", "validation", "test", "ood")
"""Splits of a twin: disjoint by the problem's content; ``ood`` holds problems that training never draws (harder)."""


@dataclass(frozen=True, slots=True)
class TwinExample:
    """One example of the warm start.

    ``pieces`` is the completion, one token a piece: reasoning, ``</think>``, `dro_lab.data.twins.grammar.CLOSING`,
    answer marker, answer, `dro_lab.data.twins.grammar.EOS`. The loss counts from piece ``first`` on. ``thinking``
    False: the chat template has closed an empty thinking block, and ``pieces`` begins behind `CLOSING`.
    """

    prompt: Prompt
    pieces: Sequence[Piece]
    first: int = 0
    thinking: bool = True


class Twin(Protocol):
    """A seeded, unlimited generator of rows. Row ``i`` of a split is a pure function of ``(knobs, seed, split, i)``.

    A twin may also have, read by the policy's recipe where they are there:

    ``limits``: guard figures whose limits differ from `dro_lab.policy.guards.LIMITS`, ``{figure: (low, high)}``;
    ``architecture``: fields of the policy's `Qwen3Config` that differ from `dro_lab.policy.build.ARCHITECTURE`;
    ``budgets``: phases by budget that differ from `dro_lab.policy.warmstart.BUDGETS`, ``{budget: (Phase, ...)}``
    with phases as plain ``(name, steps, batch, lr)``.
    """

    name: str
    version: str
    knobs_type: type  # a frozen dataclass of all knobs, with defaults; checks itself
    presets: Mapping[str, Any]  # by name, "default" among them: knobs_type objects
    row_knobs: frozenset[str]  # one policy serves all their values
    shared_knobs: frozenset[str]  # rows and policy alike; a knob in neither set changes only the policy
    answer_marker: str  # stands after the closed reasoning and its blank line, before the answer ("": nothing)
    metric_name: str
    note: str  # what a reader of the numbers must know
    fact_words: frozenset[str]  # completion words whose loss weighs more: few, and hard to copy
    max_completion: int  # tokens within which the policy's completions end

    def make_row(self, knobs: Any, split: str, index: int, *, seed: int) -> Row:
        """Columns hold at least ``truth_spans`` (characters of the reference that depend on the reasoning's result,
        ``[[start, end], ...]``), ``steps`` (difficulty) and ``rubric`` (`dro_lab.rubrics.checks.as_column`)."""
        ...

    def quality(self, answer: str, row: Row) -> float:
        """The twin's exact metric, in [0, 1]."""
        ...

    def decide(self, answer: str, row: Row, check: Check) -> int:
        """The program behind the rubric: 1 yes, 0 no, -1 for a check it does not know."""
        ...

    def draw(self, knobs: Any, phase: str, rng: np.random.Generator) -> TwinExample:
        """An example of a phase of the warm start (``chains``, ``copy``, ``noisy``), on a problem of ``train``."""
        ...

    def copied(self, reasoning: str, answer: str, row: Row) -> list[bool]:
        """For every result that the reasoning states: does the answer state the same one? (a guard's figure)"""
        ...

    def vocabulary_texts(self) -> list[str]:
        """Every literal piece of the grammar and the words of its prompts, for the tokenizer's training."""
        ...


def twin(name: str) -> Twin:
    """The twin of a data set, one of `NAMES`."""
    found: Twin = importlib.import_module(f"dro_lab.data.twins.{name}").TWIN
    return found
