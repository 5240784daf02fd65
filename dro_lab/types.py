"""The dataclasses that pass between stages, and the legend of shape suffixes.

Every tensor and nested sequence carries its shape in its name:

====== =========================================================
suffix axis
====== =========================================================
P      prompts in the step
G      rollouts per prompt (the group)
C      completion tokens (padded to the longest)
R      reference tokens (padded to the longest)
K      scored reasoning prefixes
V      rubric checks
B      rollouts of the step, ``B = P * G``, prompt-major
====== =========================================================

All science is a function from these frozen dataclasses to tensors: no model, config, device, rank or logger in sight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from torch import Tensor

Message = Mapping[str, str]
Prompt = Sequence[Message]
"""A conversation as chat templates take it: ``[{"role": "system"|"user", "content": ...}, ...]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroups:
    """What one step sampled; nothing is scored yet.

    ``reasonings_PG`` and ``answers_PG`` come from the one splitter (`dro_lab.scoring.split`), so that reward, gate
    and loss agree on where the reasoning ends.
    """

    prompts_P: Sequence[Prompt]
    references_P: Sequence[str]
    completions_PG: Sequence[Sequence[str]]
    reasonings_PG: Sequence[Sequence[str]]
    answers_PG: Sequence[Sequence[str]]
    truncated_PG: Tensor  # bool: no end-of-sequence token within the completion budget
    malformed_PG: Tensor  # bool: the reasoning was never closed, or the answer marker is missing
    completion_ids_PGC: Tensor  # int64
    completion_mask_PGC: Tensor  # bool: real tokens
    reasoning_mask_PGC: Tensor  # bool: tokens of the reasoning, delimiters excluded
    columns_P: Sequence[Mapping[str, Any]]  # the row's other columns: id, truth, rubric, schema, ...
    step: int = 0
    progress: float = 0.0  # share of training done, in [0, 1]

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, G)``."""
        return len(self.completions_PG), len(self.completions_PG[0]) if self.completions_PG else 0


class Stat(StrEnum):
    """What a consumer may ask the scorer and its companions for; the list grows with the methods."""

    REFERENCE = "reference"
    MASKED = "masked"
    RANKS = "ranks"
    PREFIXES = "prefixes"
    VERIFIER = "verifier"
    VERDICTS = "verdicts"


SEGMENT_ON = ("blank_line", "line")
SCORE_AT = ("start", "end")


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """Which prefixes of a reasoning the reference is scored after (REPRO, arXiv 2512.01925).

    The reasoning is cut into segments at blank lines (``segment_on="line"``: at line ends). ``score_at="start"``: a
    segment is scored just before its first token, and the first one, which has no reasoning before it, is no candidate;
    ``"end"``: just behind its last token, and the last one, which ends with the reasoning, is no candidate. The ``k``
    candidates with the highest entropy at their first token are scored, and the end of the reasoning always:
    K = k + 1 points a rollout. ``close_prefix``: the closing tag stands before the reference at inner points too, and
    where there is no reasoning; at the end of the reasoning it always does.
    """

    k: int = 10
    segment_on: Literal["blank_line", "line"] = "blank_line"
    score_at: Literal["start", "end"] = "start"
    close_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """One statistic under one policy. A consumer's needs are a function of its bound arguments.

    ``current`` stands for the policy that the run's ``scored_by`` chooses (the pipeline puts it in). ``plan`` belongs
    to `Stat.PREFIXES` alone.
    """

    stat: Stat
    policy: Literal["current", "reference", "initial", "lagged"] = "current"
    plan: PrefixPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """What was measured on the step's rollouts. Fields that nobody asked for are None.

    ``reference_logps_PGR`` are float32 log-probabilities at temperature 1 of the reference tokens, teacher-forced
    after prompt, reasoning and answer marker. ``reference_mask_PR`` marks the reference's own tokens and
    ``reference_eos_PR`` the end-of-sequence token behind them, so that each reward decides whether EOS counts; where
    both are False the value is 0.

    The prefix fields go together (`PrefixPlan`). Points stand in the order of the reasoning, the end of the reasoning
    last; places behind a rollout's last point are masked and 0. ``prefix_ends_PGK`` is the index of the completion
    token that the prefix ends with, where a point's reward sits; for the end of the reasoning its last token
    (delimiters excluded), -1 where the reasoning has no token. J of a point is the mean over ``reference_mask_PR``.
    """

    reference_logps_PGR: Tensor | None = None
    reference_mask_PR: Tensor | None = None
    reference_eos_PR: Tensor | None = None
    reference_ids_PR: Tensor | None = None
    masked_logps_PGR: Tensor | None = None  # the same, the reasoning hidden from attention, positions kept
    reference_ranks_PGR: Tensor | None = None  # float32: words of the vocabulary that are likelier; 0 = the likeliest
    prefix_logps_PGKR: Tensor | None = None  # float32: reference tokens after each scored prefix of the reasoning
    prefix_mask_PGK: Tensor | None = None  # bool: the rollout's own points
    prefix_ends_PGK: Tensor | None = None  # int64
    prefix_entropies_PGK: Tensor | None = None  # float32: of the segment's first token, nats; nan at the end
    no_reasoning_logps_PR: Tensor | None = None  # float32: reference tokens right behind the prompt
    verifier_PG: Tensor | None = None  # float32 in [0, 1]; nan = the verifier cannot judge this row
    verdicts_PGV: Tensor | None = None  # int8: 1 the answer meets the check, 0 it does not, -1 unknown
    checks_mask_PV: Tensor | None = None  # bool: the prompt's own checks; a prompt without any is not gated


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """A reward's result: one outcome per rollout and, for process rewards, credit on tokens."""

    outcome_PG: Tensor  # float32; nan = not scorable
    depends_on: Literal["completion", "reasoning"] = "completion"  # the tokens that the outcome can depend on
    process_PGC: Tensor | None = None  # raw segment rewards at the scored tokens
    process_mask_PGC: Tensor | None = None  # True where scored: 0 is a value there, not padding
    process_weight: float = 0.0  # alpha
    process_center: bool = True  # estimators subtract the mean segment reward; False: they only scale
    process_count_correction: bool = False  # estimators take a rollout's mean credit, not its sum, over its points
    token_weights_PR: Tensor | None = None  # weight of each reference token, where the reward has one (for the report)
    parts: Mapping[str, Tensor] = field(default_factory=dict)  # breakdown, each (P, G)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """A gate's decision: which groups may teach, which rollouts failed, and the (possibly floored) rewards."""

    admit_P: Tensor  # bool
    failed_PG: Tensor  # bool
    rewards: Rewards
    reasons_P: Sequence[str]  # "" where the group may teach (admitted, and not zeroed)
    rejected_P: Tensor | None = None  # bool: failed the gate, whatever becomes of it (None: those not admitted)
    zero_P: Tensor | None = None  # bool: rejected groups that stay in the loss's denominator with advantage 0
    verdicts_PG: Sequence[Sequence[Mapping[str, int]]] | None = None  # by group and rollout: check -> 1, 0, -1 unknown
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterResult:
    """A filter's decision. A dropped group is a full row of False."""

    keep_PG: Tensor  # bool
    reasons_P: Sequence[str]  # "" where kept
    metrics: Mapping[str, float] = field(default_factory=dict)


Reward = Callable[[RolloutGroups, TokenStats], Rewards]
Gate = Callable[[RolloutGroups, TokenStats, Rewards], GateResult]
Filter = Callable[[RolloutGroups, TokenStats, Rewards], FilterResult]
AdvantageEstimator = Callable[..., Tensor]
"""``(rewards, keep_PG, loss_mask_PGC, values_PGC=None) -> advantages (P, G) or (P, G, C)``."""


# ------------------------------------------------------------------------------------------------ data sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One example of a data set as training sees it."""

    id: str
    prompt: Prompt
    reference: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the rows come from: travels to banner, record, tracker, report and plots."""

    dataset: str
    kind: Literal["twin", "hub", "file"]
    location: str  # the twin's preset, the hub's repository, or the file's path
    revision: str | None = None  # the hub's pinned commit, or the twin's generator version
    sha256: str | None = None  # of the file's bytes

    def __str__(self) -> str:
        detail = f"sha256 {self.sha256[:12]}" if self.sha256 else (self.revision or "")
        return f"{self.dataset} ({self.kind}: {self.location}{', ' + detail if detail else ''})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A row that was not used, where it stands, and why. Refused rows are counted and shown, never dropped silently."""

    where: str  # "train.json row 17"
    reason: str


Metric = Callable[[str, Row], float]
"""``metric(answer, row) -> quality in [0, 1]``; nan where the row cannot be judged. Never raises on model output."""


CorpusMetric = Callable[[Sequence[str], Sequence[Row]], Mapping[str, float]]
"""``metric(answers, rows) -> figures by name`` of all answers together (macro-F1, mAP, ...), one answer a row (a row
that was sampled n times stands n times). nan where it cannot be computed. Never raises on model output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One yes/no question of a rubric about an answer to one query.

    ``text`` is asked as it stands; a good answer gets the verdict ``expect``. ``weight`` counts in rubric scores.
    ``predicate`` tells a program how to decide (its ``kind`` and arguments); None: only a judge can.
    """

    id: str
    text: str
    weight: float = 1.0
    expect: Literal["yes", "no"] = "yes"
    predicate: Mapping[str, Any] | None = None


CheckProgram = Callable[[str, Row, Check], int]
"""``program(answer, row, check) -> 1 yes, 0 no, -1 unknown``: the literal answer to ``check.text``."""

MAX_CHECKS = 10
"""Checks of a rubric at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A loaded data set: rows by split, its metric, its answer format, where it came from and what was refused."""

    name: str
    provenance: Provenance
    splits: Mapping[str, Sequence[Row]]  # "train", "validation", "test"; twins also "ood", out of distribution
    metric: Metric | None
    metric_name: str
    corpus_metric: CorpusMetric | None = None  # figures of all answers together
    check_program: CheckProgram | None = None  # decides the checks that rows carry as `rubric`, without a model
    rubric_score: bool = False  # without a metric: quality is the rubric score by the run's judge
    answer_marker: str = ""  # stands between the closed reasoning and the answer
    refused: Sequence[RefusedRow] = ()
    notes: Sequence[str] = ()  # what a reader of the numbers must know
