"""The audit's parts: each puts questions or pairs to a judge and comes to figures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from dro_lab.judge_audit.attacks import EMPTY, MASTER_KEYS, ORDERS, with_order
from dro_lab.judge_audit.cases import Case
from dro_lab.judge_audit.figures import Figure, clustered_mean, share
from dro_lab.judge_audit.settings import Audit
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Judge, Pair, Question
from dro_lab.types import Task

CONTROLS, KEYS, INJECTED = "verdicts, one check a row", "false yes to a master key", "false yes to an order"
CONTROL = "the empty answer (control)"
SENTENCE = "first sentence of another row's reference (control)"
EXACT = "agreement with judge=exact"
OTHER_ROW, SHUFFLED = "reference against another row's", "reference against its words shuffled"
SWAPPED = "choice changes with the order"


def verdict_figures(judge: Judge, cases: Sequence[Case], audit: Audit) -> list[Figure]:
    """Yes to the reference, to wrong answers, to master keys, and to wrong answers with an order behind them."""
    answers = {
        (CONTROLS, "yes to the reference"): [case.row.reference for case in cases],
        (CONTROLS, "yes to another row's reference"): [case.wrong for case in cases],
        (KEYS, CONTROL): [EMPTY for _ in cases],
        (KEYS, SENTENCE): [first_sentence(case.wrong) for case in cases],
        **{(KEYS, repr(key)): [key for _ in cases] for key in MASTER_KEYS},
        **{
            (INJECTED, name): [with_order(name, case.wrong, row=case.row, check=case.check) for case in cases]
            for name in ORDERS
        },
    }
    asked = [
        Question(row=case.row, answer=answer, check=case.check)
        for given in answers.values()
        for case, answer in zip(cases, given, strict=True)
    ]
    said = iter(judge.verdicts(asked))
    verdicts = {what: [next(said) for _ in cases] for what in answers}
    figures: list[Figure] = []
    for part in (CONTROLS, KEYS, INJECTED):
        found = {name: verdicts[kind, name] for kind, name in verdicts if kind == part}
        some = {
            name: share(
                part,
                name,
                [verdict == YES for verdict in heard if verdict != UNKNOWN],
                unknown=heard.count(UNKNOWN),
                confidence=audit.confidence,
            )
            for name, heard in found.items()
        }
        figures += some.values()
        if part != CONTROLS:
            attacks = [name for name in some if name not in (CONTROL, SENTENCE)]
            figures.append(_over(part, "mean over them", [found[name] for name in attacks], audit))
            known = [some[name] for name in attacks if some[name].n]
            worst = max(known, key=lambda figure: figure.value, default=None)
            figures += [] if worst is None else [replace(worst, name=f"worst: {worst.name}")]
    return figures


def first_sentence(text: str) -> str:
    """The text up to its first full stop, question or exclamation mark that ends a sentence; all of it without one."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


def _over(part: str, name: str, verdicts: Sequence[Sequence[int]], audit: Audit) -> Figure:
    """The mean over several answers to the same rows; the rows are resampled."""
    values = [math.nan if v == UNKNOWN else float(v == YES) for found in verdicts for v in found]
    rows = [number for found in verdicts for number in range(len(found))]
    return clustered_mean(
        part, name, values, rows, confidence=audit.confidence, resamples=audit.resamples, seed=audit.seed
    )


def both_orders(judge: Judge, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """The preference for each pair's first answer when it is shown first, and when it is shown second."""
    swapped = [replace(pair, first=pair.second, second=pair.first) for pair in pairs]
    said = judge.preferences([*pairs, *swapped])
    return [(said[i], 1 - said[len(pairs) + i]) for i in range(len(pairs))]


def order_figures(judge: Judge, cases: Sequence[Case], audit: Audit) -> list[Figure]:
    """How often the order of two answers changes the judge's mind, and whether it knows the reference."""
    kinds = {
        OTHER_ROW: [Pair(row=c.row, first=c.row.reference, second=c.wrong) for c in cases],
        SHUFFLED: [Pair(row=c.row, first=c.row.reference, second=c.corrupted) for c in cases if c.corrupted],
    }
    figures = []
    for part, pairs in kinds.items():
        orders = both_orders(judge, pairs)
        figures.append(disagreement(part, SWAPPED, orders, audit))
        for name, values in (
            ("the reference is chosen", [(first + second) / 2 for first, second in orders]),
            ("what is shown first is chosen", [(first + 1 - second) / 2 for first, second in orders]),
        ):
            figures.append(
                clustered_mean(
                    part,
                    name,
                    values,
                    range(len(orders)),
                    confidence=audit.confidence,
                    resamples=audit.resamples,
                    seed=audit.seed,
                )
            )
    return figures


def disagreement(part: str, name: str, orders: Sequence[tuple[float, float]], audit: Audit) -> Figure:
    """The share of pairs on which the two orders lead to different choices."""
    known = [(first, second) for first, second in orders if not math.isnan(first + second)]
    return share(
        part,
        name,
        [first != second for first, second in known],
        unknown=len(orders) - len(known),
        confidence=audit.confidence,
    )


def exact_figures(judge: Judge, cases: Sequence[Case], task: Task, audit: Audit) -> list[Figure]:
    """Agreement with the data set's program on all checks, on the reference, a wrong and a corrupted answer."""
    program = task.check_program
    if program is None or judge.name == "exact":
        return []
    asked = [
        (number, Question(row=case.row, answer=answer, check=check))
        for number, case in enumerate(cases)
        for check in case.checks
        for answer in dict.fromkeys((case.row.reference, case.wrong, case.corrupted or EMPTY))
    ]
    truths = [program(question.answer, question.row, question.check) for _, question in asked]
    known = [
        (number, question, truth) for (number, question), truth in zip(asked, truths, strict=True) if truth != UNKNOWN
    ]
    said = judge.verdicts([question for _, question, _ in known])
    figures = []
    for name, wanted in (("all", (YES, NO)), ("where the program says yes", (YES,)), ("where it says no", (NO,))):
        chosen = [(item, verdict) for item, verdict in zip(known, said, strict=True) if item[2] in wanted]
        figures.append(
            clustered_mean(
                EXACT,
                name,
                [math.nan if verdict == UNKNOWN else float(verdict == item[2]) for item, verdict in chosen],
                [item[0] for item, _ in chosen],
                confidence=audit.confidence,
                resamples=audit.resamples,
                seed=audit.seed,
            )
        )
    return figures
