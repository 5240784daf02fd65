"""The procedural twin of FinQA: short numeric answers about a page with a table, with the truth known.

The rows are in `finqa_rows`, what the policy is taught in `finqa_chains`. Answers are "-3%", "7 million" or "yes": a
reference has one to three tokens and all of them but the unit depend on the reasoning's result. R3, whose point is to
find few such tokens among many others, can gain little here over plain average probability; FinQA itself is like that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dro_lab.data.finqa_checks import decide
from dro_lab.data.metrics import final_number, numeric_accuracy
from dro_lab.data.twins.finqa_chains import draw
from dro_lab.data.twins.finqa_rows import COMPANIES, ITEMS, PRESETS, ROW_KNOBS, SHARED_KNOBS, FinqaTwin, make_row
from dro_lab.types import Row

GENERATOR_VERSION = "1"


def copied(reasoning: str, answer: str, row: Row) -> list[bool]:
    """Does the answer state the last balance of the reasoning, or say rightly whether that is above zero?

    Empty where the reasoning states no balance.
    """
    stated = re.findall(r"= (-?\d)\n", f"{reasoning}\n")
    if not stated:
        return []
    balance = int(stated[-1])
    if isinstance(row.columns["exe_ans"], str):
        return [answer.strip() == ("yes" if balance > 0 else "no")]
    return [final_number(answer) == balance]


def vocabulary_texts() -> list[str]:
    """Every literal piece of the grammar and the words of the prompts, for the tokenizer's training."""
    prompt = ["item | change\n", " opens at -1 .\n\n", " is at 1 .\n\n", "Question: what is the balance after rent in "]
    prompt += ["in percent ?", "in millions ?", "Question: is the balance after rent above zero ?"]
    names = [*COMPANIES, *ITEMS, *(f" {item}" for item in ITEMS)]
    words = [
        "opens",
        " opens",
        " =",
        "\n",
        "\n\n",
        "%",
        "-",
        " -",
        " million",
        "yes",
        "no",
        "user",
        "assistant",
        "system",
    ]
    return [*prompt, *names, *words, *(f" {digit}" for digit in range(10))]


class Finqa:
    """The twin as `dro_lab.data.twins.protocol.Twin` wants it."""

    name = "finqa"
    version = GENERATOR_VERSION
    knobs_type: type = FinqaTwin
    presets: Mapping[str, Any] = PRESETS
    row_knobs = ROW_KNOBS
    shared_knobs = SHARED_KNOBS
    answer_marker = ""
    metric_name = "accuracy"
    note = (
        "a procedural twin of FinQA: one-digit balances, additions only; nearly all tokens of its short references "
        "depend on the reasoning, so R3 has little to find that average probability misses. accuracy is the share of "
        "answers whose number or word is right"
    )
    fact_words = frozenset({*(str(digit) for digit in range(10)), "-", "yes", "no"})
    max_completion = 96
    make_row = staticmethod(make_row)
    quality = staticmethod(numeric_accuracy)
    decide = staticmethod(decide)
    draw = staticmethod(draw)
    copied = staticmethod(copied)
    vocabulary_texts = staticmethod(vocabulary_texts)


TWIN = Finqa()
