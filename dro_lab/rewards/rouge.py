"""ROUGE-L of the sampled answer against the reference: the text overlap that DRO compares itself with as RL-F1."""

from __future__ import annotations

import math
import sys
from functools import cache
from typing import Any

import torch

from dro_lab import checks
from dro_lab.rewards._tokens import finite_mean
from dro_lab.types import Need, Rewards, RolloutGroups, TokenStats


def rouge(groups: RolloutGroups, stats: TokenStats, *, stemmer: bool = False) -> Rewards:
    """F1 of the longest common subsequence of words (Lin 2004; computed by the rouge-score library).

        P = LCS / |answer|,  R = LCS / |reference|,  r_i = 2 P R / (P + R)        in [0, 1]; 0 where LCS = 0

    Words are runs of a-z and 0-9 in lower case, as that library has them: accents split words, and a reference without
    any such word (another script) gives nan. An answer that was never reached is empty and gets 0. No probabilities
    are read.
    """
    rows = []
    for reference, answers_G in zip(groups.references_P, groups.answers_PG, strict=True):
        scores = {answer: rouge_l(answer, reference, stemmer=stemmer) for answer in dict.fromkeys(answers_G)}
        rows.append([scores[answer] for answer in answers_G])
    outcome_PG = torch.tensor(rows, dtype=torch.float32).reshape(groups.shape)
    return Rewards(
        outcome_PG=outcome_PG,
        depends_on="completion",
        metrics={"no_overlap_share": finite_mean((outcome_PG == 0).float())},
    )


def rouge_l(answer: str, reference: str, *, stemmer: bool = False) -> float:
    """ROUGE-L F1 of one answer; nan for a reference without words."""
    scorer = _scorer(stemmer)
    if not scorer._tokenizer.tokenize(reference):
        return math.nan
    return float(scorer.score(reference, answer)["rougeL"].fmeasure)


@cache
def _scorer(stemmer: bool) -> Any:
    from absl import logging as absl_logging
    from rouge_score.rouge_scorer import RougeScorer  # imports a second's worth of packages

    # absl's log handler keeps the stderr of its import, and closes it when logging is configured anew
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)

    return RougeScorer(["rougeL"], use_stemmer=stemmer)


def needs(**_: Any) -> frozenset[Need]:
    """Nothing: the texts are at hand."""
    return frozenset()


def check(*, stemmer: Any = False) -> None:
    """Check the arguments.

    Raises:
        UserError: ``stemmer`` is neither true nor false.
    """
    checks.flag("reward.stemmer", stemmer, todo="false is the default; true reduces English words to their stems")
