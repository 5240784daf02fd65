"""What a probe found: plain values, as probe.json holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dro_lab.probe.measures import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFinding:
    """One reward on the probe's rollouts. What could not be measured is None."""

    name: str
    title: str  # with what tells it from others of its kind: "r3 (omega 2)"
    omega: float | None = None
    reason: str = ""  # why it cannot be computed; everything below is then None
    is_label: bool = False  # it is the quality that the others are held against
    notes: Sequence[str] = ()
    rank: Interval | None = None  # Spearman's correlation with quality within a group
    rho: Interval | None = None  # correlation of group z-scores with centred quality
    behind: Interval | None = None  # rho less than the best computable reward's, paired over queries
    rho_formula: float | None = None  # of the closed formula; avg_prob and r3 alone
    steps: float | None = None  # to a target, over the oracle's: from the measured rho, else from what stands in for it
    steps_formula: float | None = None
    zero_signal: float | None = None  # share of groups in which it teaches nothing
    unscorable: float | None = None  # share of rollouts without a reward
    spread: float | None = None  # mean standard deviation within a group
    floor: float | None = None  # the same against other queries' references
    over_floor: Interval | None = None
    reliability: float | None = None  # sqrt(1 - (floor / spread)^2)
    gate_rejected: float | None = None  # share of groups
    scoring_seconds: float | None = None  # of the scorer, per thousand rollouts

    @property
    def computed(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class OmegaFinding:
    """R3 at one exponent."""

    omega: float
    rho: Interval | None
    rho_formula: float
    steps: float | None
    steps_formula: float
    effective_tokens: float
    over_floor: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFinding:
    """Reflective tokens and the rest, means over queries."""

    known: bool  # from the rows' truth_spans; False: by the threshold
    source: str  # in words
    tokens: float  # of a reference
    reflective: float
    share: float
    positions: Sequence[float]  # of each reflective token: 0 the reference's beginning, 1 its end
    sigma_r: float
    sigma_n: float
    s_r: float
    s_n: float
    coherence: float
    together: float  # mean correlation of two reflective tokens; nan with one
    shrink: float
    threshold_precision: float | None  # of the threshold rule against truth_spans
    threshold_recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterFinding:
    """sigma_bar of each query, and what the filter does with them once its memory is full."""

    name: str
    configured: bool  # False: the run has none, and this is what r3_variance would do
    tau: float | None
    kept: Sequence[bool]
    sigma_bars: Sequence[float]
    varied_kept: float | None  # share of the kept queries on which quality varies
    varied_dropped: float | None

    @property
    def kept_share(self) -> float:
        return sum(self.kept) / len(self.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFinding:
    """The label."""

    name: str  # "" where there is none
    note: str
    mean: float | None
    varied: float | None  # share of the groups in which it varies
    oracle: float | None  # rho of quality itself
    zero_spread_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFinding:
    """Seconds, measured here; tokens as sampled."""

    sampling_seconds: float  # per thousand rollouts
    scoring_seconds: float  # the one pass over all that was asked for, per thousand rollouts
    judging_seconds: float  # metric, judge and rubrics, per thousand rollouts
    completion_tokens: float  # per thousand rollouts
    reasoning_tokens: float  # mean of a rollout
    truncated: float
    malformed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TopToken:
    """A reference token that moves with the reasoning, and where it stands."""

    query: str
    before: str
    token: str
    after: str
    sigma: float
    mean_prob: float
    known: bool | None  # inside the row's truth_spans; None where it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that a probe found."""

    setting: Mapping[str, Any]  # data, policy, seed, sizes, command, commit
    quality: QualityFinding
    rewards: Sequence[RewardFinding]  # the best first
    omegas: Sequence[OmegaFinding]
    omega_measured: float | None  # the smallest that is as good as the best, by the measured rho
    omega_formula: float | None
    formula_notes: Sequence[str]  # where the closed formula does not hold
    tokens: TokenFinding
    filter: FilterFinding
    gate: str  # "" where none is configured
    cost: CostFinding
    top_tokens: Sequence[TopToken]
    queries: Sequence[Mapping[str, Any]]  # one a query: its numbers under every reward
    g: float  # at the run's prompts a step
    prompts: int  # a step
    notes: Sequence[str] = field(default=())
