"""The procedural twin of ContractNLI: unlimited, seeded pairs of a contract and a hypothesis, with the truth known.

Rows, prompts, JSON answers, metric and checks are those of the real set (`dro_lab.data.contract_nli`). Label and
evidence follow from adding up the contract's periods (`dro_lab.data.twins.contract_nli_problem`); every other token of
the answer is the format's and depends on nothing. There is no style noise: what separates rewards here is that two or
three tokens of twelve react to the reasoning.

Row ``i`` of a split is a pure function of ``(knobs, seed, split, i)``; splits are disjoint by the contract's content,
and ``ood`` needs more steps than any other split has: more than the policy was taught (preset ``default``), or four
where the run trains on two and three (``held_back``). One policy serves both presets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dro_lab.data import contract_nli_checks, contract_nli_metrics
from dro_lab.data.contract_nli_answer import LABELS, parse, write
from dro_lab.data.contract_nli_prompt import render_prompt
from dro_lab.data.twins.contract_nli_chains import BEFORE, DIGITS, REACHED, sample_answer, sample_chain
from dro_lab.data.twins.contract_nli_problem import (
    ACTIONS,
    ALLOWED,
    BARRED,
    NAMES,
    PREAMBLE,
    Contract,
    ContractNLITwin,
    sample_contract,
)
from dro_lab.data.twins.protocol import SPLITS, TwinExample
from dro_lab.errors import UserError
from dro_lab.types import Prompt, Row

CUT_SHARE = 0.06  # chains cut after some lines, or left out
_CONCLUSION = re.compile(rf"So ({'|'.join(LABELS)})(?: ([0-9]))?\s*$")


def prompt_of(contract: Contract) -> Prompt:
    """The contract and its hypothesis as they are put to the policy."""
    return [{"role": "user", "content": render_prompt(list(enumerate(contract.spans())), contract.hypothesis())}]


def make_row(knobs: ContractNLITwin, split: str, index: int, *, seed: int) -> Row:
    """Row ``index`` of ``split``; a pure function of its arguments.

    Columns as the real set's (`dro_lab.data.contract_nli`), with truth_spans (``[[start, end], ...]``, characters of
    label and span numbers in the reference; an empty list follows from the label and is not marked) and steps.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    contract = sample_contract(knobs, split, rng)
    label, span = contract.truth()
    evidence = [] if span is None else [span]
    spans = contract.spans()
    reference = write(label, evidence)
    start = reference.index(label)
    marks = [[start, start + len(label)], *([match.start(), match.end()] for match in re.finditer("[0-9]+", reference))]
    row_id = f"twin-{split}-{seed}-{index}"
    return Row(
        id=row_id,
        prompt=prompt_of(contract),
        reference=reference,
        columns={
            "document_id": row_id,
            "hypothesis_id": "month",
            "hypothesis": contract.hypothesis(),
            "label": label,
            "evidence": evidence,
            "shown": list(range(len(spans))),
            "truth_spans": marks,
            "steps": contract.steps(),
            **contract_nli_checks.format_columns(spans=len(spans)),
        },
    )


def draw(knobs: ContractNLITwin, phase: str, rng: np.random.Generator) -> TwinExample:
    """An example of a phase, on a contract of the training split.

    ``chains``: a right chain. ``copy``: a chain of mostly wrong totals that ends in any label and number, and the
    answer that states those, the loss on the answer alone; a quarter as in ``chains``. ``noisy``: a chain with the
    wanted error rate and its answer; a small share of the chains is cut short or left out, the loss on the answer
    alone.
    """
    contract = sample_contract(replace(knobs, rows_max=knobs.steps_max), "train", rng)
    prompt = prompt_of(contract)
    if phase == "chains" or (phase == "copy" and rng.random() < 0.25):
        return TwinExample(prompt, sample_chain(contract, rng, error_rate=0.0).pieces)
    if phase == "copy":
        label = LABELS[int(rng.integers(len(LABELS)))]
        number = int(rng.integers(contract.first, contract.first + len(contract.periods)))
        concluded = (label, None if label == LABELS[-1] else number)
        chain = sample_chain(contract, rng, error_rate=0.9, concluded=concluded)
        return TwinExample(prompt, (*chain.pieces, *sample_answer(contract, chain, rng)), first=len(chain.pieces))
    cut = bool(rng.random() < CUT_SHARE)
    lines = int(rng.integers(-1, len(contract.periods))) if cut else None
    chain = sample_chain(contract, rng, error_rate=knobs.error_rate, lines=None if lines is None else max(lines, 0))
    answer = sample_answer(contract, chain, rng)
    if lines == -1:  # thinking switched off: the template has closed the empty block already
        return TwinExample(prompt, answer[1:], thinking=False)
    return TwinExample(prompt, (*chain.pieces, *answer), first=len(chain.pieces) if cut else 0)


def copied(reasoning: str, answer: str, row: Row) -> list[bool]:
    """Whether the answer has the label, and the evidence, that the reasoning concludes with; empty without one."""
    found = _CONCLUSION.search(reasoning)
    if not found:
        return []
    label, span = found.groups()
    parsed, _ = parse(answer, spans=row.columns["spans"])
    if parsed is None:
        return [False, False]
    return [parsed.label == label, parsed.evidence == (() if span is None else (int(span),))]


def vocabulary_texts() -> list[str]:
    """Every literal piece of the grammar and the words of the prompts; the tokenizer's training cuts them itself."""
    words = (
        *NAMES,
        *ACTIONS,
        ALLOWED,
        BARRED,
        BEFORE,
        REACHED,
        *LABELS,
        "months;",
        "is",
        "agree.",
        "and",
        "In",
        "month",
    )
    prompt = render_prompt([(0, " ".join(PREAMBLE))], "In month 1.")
    texts = [prompt, *(f" {word}" for word in words), *NAMES, ALLOWED, BARRED, "So", "Month", " to", " of"]
    answers = [write(label, evidence) for label in LABELS for evidence in ([], [1])]
    return [*texts, *answers, "user", "assistant", "system", "\n", "\n\n", *DIGITS, *(f" {digit}" for digit in DIGITS)]


class ContractNLI:
    """The twin as `dro_lab.data.twins.protocol.Twin` wants it."""

    name = "contract_nli"
    version = "1"
    knobs_type: type = ContractNLITwin
    presets: Mapping[str, Any] = {"default": ContractNLITwin(), "held_back": ContractNLITwin(rows_max=3)}
    row_knobs = frozenset({"rows_max"})
    shared_knobs = frozenset({"steps_min", "steps_max", "preamble_max"})
    answer_marker = ""
    metric_name = "label_accuracy"
    note = (
        "a procedural twin of ContractNLI: short contracts whose periods add up, so it shows a mechanism and its size, "
        "not what a policy would reach on real contracts; label_accuracy is the share of right labels (chance is 1/3)"
    )
    fact_words = frozenset({*DIGITS, *LABELS, ALLOWED, BARRED, BEFORE, REACHED})
    max_completion = 96
    limits: Mapping[str, tuple[float, float]] = {"sampled_quality": (0.3, 0.6), "checks_met": (0.95, 1.0)}
    make_row = staticmethod(make_row)
    quality = staticmethod(contract_nli_metrics.label_right)
    decide = staticmethod(contract_nli_checks.decide)
    draw = staticmethod(draw)
    copied = staticmethod(copied)
    vocabulary_texts = staticmethod(vocabulary_texts)


TWIN = ContractNLI()
