"""ContractNLI's figures: whether a label is right, and the official metrics over all pairs.

Source: Koreeda and Manning, "ContractNLI" (Findings of EMNLP 2021) and its released evaluation, with all pairs pooled
(its "micro label, micro document" averages): accuracy, F1 of Entailment and of Contradiction and their mean; evidence
mAP and P@R80 over the spans of the pairs whose true label is not NotMentioned. DRO (arXiv 2506.13351) reports the macro
F1 of the three labels.

Ours, since a generated answer has no scores: the k-th different span of the evidence list gets the score 1/k, a span
that is not listed 0. An answer that cannot be read (`dro_lab.data.contract_nli_answer.parse`) has no label, which is
wrong for every pair, and no evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dro_lab.data.contract_nli_answer import LABELS, NOT_MENTIONED, parse
from dro_lab.types import Row

RECALL = 0.8


def label_right(answer: str, row: Row) -> float:
    """1 where the answer can be read and its label is the row's, else 0. Evidence is not judged here."""
    parsed, _ = parse(answer, spans=row.columns["spans"])
    return float(parsed is not None and parsed.label == row.columns["label"])


def corpus_metric(answers: Sequence[str], rows: Sequence[Row]) -> Mapping[str, float]:
    """All figures of the answers together; nan where one cannot be computed (no pair of a class, no evidence known).

    ``macro_f1`` averages over the labels that some row truly has.
    """
    parsed = [parse(answer, spans=row.columns["spans"])[0] for answer, row in zip(answers, rows, strict=True)]
    true = [str(row.columns["label"]) for row in rows]
    given = [None if answer is None else answer.label for answer in parsed]
    f1 = {label: f1_of(label, true, given) for label in LABELS}
    present = [value for value in f1.values() if not math.isnan(value)]
    proved, scores = [], []
    for answer, row in zip(parsed, rows, strict=True):
        if row.columns["label"] != NOT_MENTIONED and row.columns["spans"] is not None:
            marks = np.zeros(row.columns["spans"])
            marks[list(row.columns["evidence"])] = 1
            proved.append(marks)
            scores.append(span_scores(() if answer is None else answer.evidence or (), spans=row.columns["spans"]))
    curve = precision_recall(np.concatenate(proved), np.concatenate(scores)) if proved else None
    return {
        "macro_f1": sum(present) / len(present) if present else math.nan,
        "accuracy": sum(a == b for a, b in zip(true, given, strict=True)) / len(true) if true else math.nan,
        "f1_entailment": f1["Entailment"],
        "f1_contradiction": f1["Contradiction"],
        "f1_mean": (f1["Entailment"] + f1["Contradiction"]) / 2,
        "evidence_map": average_precision(curve),
        "evidence_p_at_r80": precision_at_recall(curve),
        "unreadable_share": sum(a is None for a in parsed) / len(parsed) if parsed else math.nan,
    }


def f1_of(label: str, true: Sequence[str], given: Sequence[str | None]) -> float:
    """``2 TP / (2 TP + FP + FN)`` of one label; nan where no pair truly has it (as the official evaluation)."""
    if label not in true:
        return math.nan
    hits = sum(a == b == label for a, b in zip(true, given, strict=True))
    return 2 * hits / (true.count(label) + list(given).count(label))


def span_scores(evidence: Sequence[int], *, spans: int) -> NDArray[np.float64]:
    """Scores of a contract's spans, shape (spans,): 1/k for the k-th of the list, 0 for the rest."""
    scores = np.zeros(spans)
    for rank, number in enumerate(evidence, start=1):
        scores[number] = 1 / rank
    return scores


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def precision_recall(marks: NDArray[np.float64], scores: NDArray[np.float64]) -> Curve | None:
    """Precision and recall at every different score taken as threshold, from the highest down; None without a mark."""
    total = marks.sum()
    if not total:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(marks[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last span of each run of ties
    return hits[last] / (last + 1), hits[last] / total


def average_precision(curve: Curve | None) -> float:
    """``sum_n (R_n - R_(n-1)) P_n`` over the thresholds."""
    if curve is None:
        return math.nan
    precision, recall = curve
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def precision_at_recall(curve: Curve | None, recall_wanted: float = RECALL) -> float:
    """Precision at the highest threshold whose recall reaches the wanted one (at worst, all spans)."""
    if curve is None:
        return math.nan
    precision, recall = curve
    return float(precision[np.flatnonzero(recall >= recall_wanted)[0]])
