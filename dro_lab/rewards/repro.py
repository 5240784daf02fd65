"""REPRO: an outcome reward with process credit on the reasoning's segments (arXiv 2512.01925)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dro_lab import checks
from dro_lab.components import REFERENCE_NEED, Component, component
from dro_lab.errors import UserError
from dro_lab.rewards._repro import at_tokens, differences, last_value, magnitude, stability
from dro_lab.rewards._tokens import finite_mean
from dro_lab.types import SCORE_AT, SEGMENT_ON, Need, PrefixPlan, Rewards, RolloutGroups, Stat, Task, TokenStats

GIVES_PROCESS = True
NODES = ("outcome",)
ALPHA_MAX = 10.0
OUTCOME = "reward.outcome"


def repro(
    groups: RolloutGroups,
    stats: TokenStats,
    *,
    outcome: Mapping[str, Any],
    w: float = 0.25,
    alpha: float = 0.1,
    k: int = 10,
    ema: float | None = None,
    segment_on: Literal["blank_line", "line"] = "blank_line",
    score_at: Literal["start", "end"] = "start",
    close_prefix: bool = False,
    count_correction: bool = False,
    center: bool = True,
    baseline_floor: float = 0.1,
) -> Rewards:
    """The outcome of another reward, and credit where the reasoning makes the reference likelier, and steadily so.

        J_j    = mean over the reference's tokens of log p after scored prefix j;  J_b the same with no reasoning
        S_magn = 1 - tanh(J_j / min(J_b, -baseline_floor))                        in (0, 1]
        S_stab = (tau_a(J_b, J_1 .. J_j) + 1) / 2                                 in [0, 1]; ties count 0
        S_j    = (1 - w) S_magn + w S_stab
        r_1    = S_1,  r_j = S_j - S_(j-1)                                        raw; they add up to the last S

    r_j sits on the token that its prefix ends with (`PrefixPlan` says which prefixes); estimators normalise it and add
    alpha times the credit from each token on. ``ema``: J_b, J_1 .. are smoothed before tau, e_1 = x_1 and
    e_t = ema x_t + (1 - ema) e_(t-1). Differences below 1e-6 are ties.

    ``baseline_floor`` is a guard of ours: where the reference is known without reasoning (J_b near 0) the ratio would
    blow up the smallest change of J. With it |dS/dJ| is at most 1 / baseline_floor per nat, and reasoning that leaves J
    at J_b keeps 1 - tanh(J_b / -baseline_floor), nearly 1. ``known_without_reasoning_share`` counts these prompts.

    Deviations. The paper prints tanh(Delta + 1) + 1 for the magnitude, which falls in J (a sign slip); this is what the
    released code computes. Not taken from that code: it leaves the stability out of the sum, adds the baseline's 0 on
    the last column to every mean, and reads a score of 0 as padding (here `process_mask_PGC` says what is scored).

    A reference without tokens, and a rollout with a value that is not finite, has no scored points; a reasoning without
    tokens has a score (in ``parts``) but no token to put it on. The outcome's parts and metrics appear under its name.

    Raises:
        ValueError: the prefixes were not scored (the module's needs() was not honoured).
        UserError: the outcome gives process rewards itself.
    """
    result = _outcome(outcome)(groups, stats)
    if result.process_PGC is not None:
        raise _outcome_gives_process(_name(outcome))
    logps_PGK, baseline_P, mask_PGK = _series(stats)
    magnitude_PGK = magnitude(logps_PGK, baseline_P, floor=baseline_floor)
    stability_PGK = stability(logps_PGK, baseline_P, ema=ema)
    gained_PGK = differences((1 - w) * magnitude_PGK + w * stability_PGK)
    assert stats.prefix_ends_PGK is not None
    tokens = groups.completion_ids_PGC.shape[-1]
    process_PGC, scored_PGC = at_tokens(gained_PGK, stats.prefix_ends_PGK, mask_PGK, tokens)
    scored_PGC = scored_PGC & groups.reasoning_mask_PGC.to(scored_PGC.device)  # never behind the reasoning
    process_PGC = process_PGC.float().where(scored_PGC, 0.0)
    own = {"magnitude": magnitude_PGK, "stability": stability_PGK, "gain": logps_PGK - baseline_P[:, None, None]}
    known_P = (baseline_P > -baseline_floor).double().where(baseline_P.isfinite(), torch.nan)
    prefix = _name(outcome)
    return replace(
        result,
        process_PGC=process_PGC,
        process_mask_PGC=scored_PGC,
        process_weight=float(alpha),
        process_center=center,
        process_count_correction=count_correction,
        parts={name: last_value(values_PGK, mask_PGK).float() for name, values_PGK in own.items()}
        | {f"{prefix}/{key}": value for key, value in result.parts.items()},
        metrics={
            "scored_points": finite_mean(scored_PGC.sum(-1).double()),
            "baseline_logprob": finite_mean(baseline_P.where(baseline_P.isfinite(), torch.nan)),
            "known_without_reasoning_share": finite_mean(known_P),
            "negative_process_share": finite_mean((process_PGC[scored_PGC] < 0).double()),
            "unscored_share": finite_mean((~scored_PGC.any(-1)).double()),
        }
        | {f"{prefix}/{key}": value for key, value in result.metrics.items()},
    )


def _series(stats: TokenStats) -> tuple[Tensor, Tensor, Tensor]:
    """``(J (P, G, K), J_b (P,), points that count (P, G, K))``, float64; J is 0 where a point does not count.

    In double precision, so that wider padding cannot change the order of a series by rounding.
    """
    logps_PGKR, mask_PGK, mask_PR = stats.prefix_logps_PGKR, stats.prefix_mask_PGK, stats.reference_mask_PR
    baseline_PR = stats.no_reasoning_logps_PR
    if logps_PGKR is None or mask_PGK is None or baseline_PR is None or mask_PR is None:
        raise ValueError("no scored prefixes: the reward needs Stat.PREFIXES, and the scorer did not deliver it")
    tokens_P = mask_PR.sum(-1).double()  # 0: the means below are nan
    baseline_P = baseline_PR.double().where(mask_PR, 0.0).sum(-1) / tokens_P
    logps_PGK = logps_PGKR.double().where(mask_PR[:, None, None], 0.0).sum(-1) / tokens_P[:, None, None]
    whole_PG = (logps_PGK.isfinite() | ~mask_PGK).all(-1) & baseline_P.isfinite()[:, None]
    counted_PGK = mask_PGK & whole_PG[..., None]
    return logps_PGK.where(counted_PGK, 0.0), baseline_P, counted_PGK


def _name(outcome: Mapping[str, Any]) -> str:
    """The outcome's own name, that of its function."""
    return str(outcome["_target_"]).rsplit(".", 1)[-1]


def _outcome(outcome: Mapping[str, Any]) -> Component:
    """The outcome's reward; what its check refuses is said with the key as it stands here."""
    try:
        return component(OUTCOME, OmegaConf.create(dict(outcome)), name="outcome", default_needs=REFERENCE_NEED)
    except UserError as error:
        raise UserError(re.sub(r"(?<![\w.])reward\.(?!outcome\b)", f"{OUTCOME}.", str(error))) from error


def _outcome_gives_process(name: str) -> UserError:
    return UserError(
        f"{OUTCOME}: {name} gives process rewards (credit on tokens) itself, and reward=repro takes an outcome; choose "
        "one without, for example reward@reward.outcome=verifier"
    )


def needs(
    *,
    outcome: Mapping[str, Any],
    k: int = 10,
    segment_on: Literal["blank_line", "line"] = "blank_line",
    score_at: Literal["start", "end"] = "start",
    close_prefix: bool = False,
    **_: Any,
) -> frozenset[Need]:
    """The outcome's needs, and the reference after prefixes of the reasoning."""
    plan = PrefixPlan(k=k, segment_on=segment_on, score_at=score_at, close_prefix=close_prefix)
    return _outcome(outcome).needs | {Need(Stat.PREFIXES, plan=plan)}


def prepare(task: Task, *, outcome: Mapping[str, Any], **_: Any) -> Task:
    """The data set as the outcome wants it."""
    return _outcome(outcome).prepare(task)


def check(
    *,
    outcome: Any,
    w: Any = 0.25,
    alpha: Any = 0.1,
    k: Any = 10,
    ema: Any = None,
    segment_on: Any = "blank_line",
    score_at: Any = "start",
    close_prefix: Any = False,
    count_correction: Any = False,
    center: Any = True,
    baseline_floor: Any = 0.1,
) -> None:
    """Check the arguments, and the outcome as a reward of its own.

    Raises:
        UserError: a value out of its range, an outcome that is no reward's yaml, that its own check refuses, or that
            gives process rewards.
    """
    checks.number("reward.w", w, low=0, high=1, todo="0.25 is the default; 0 is magnitude alone, 1 stability alone")
    checks.number("reward.alpha", alpha, low=0, high=ALPHA_MAX, todo="0.1 is the default; 0 leaves the outcome alone")
    checks.whole("reward.k", k, low=1, todo="10 is the default; the end of the reasoning is scored besides")
    if ema is not None:
        checks.share("reward.ema", ema, todo="or null, the default, for no smoothing")
    checks.choice("reward.segment_on", segment_on, SEGMENT_ON, todo="blank_line is the default")
    checks.choice("reward.score_at", score_at, SCORE_AT, todo="start is the default")
    checks.flag("reward.close_prefix", close_prefix, todo="false is the default")
    checks.flag("reward.count_correction", count_correction, todo="false is the default")
    checks.flag("reward.center", center, todo="true is the default")
    checks.number(
        "reward.baseline_floor", baseline_floor, low=1e-6, high=10, todo="0.1 is the default, in nats a reference token"
    )
    if not isinstance(outcome, Mapping):
        option = outcome if isinstance(outcome, str) and outcome.isidentifier() else "verifier"
        raise UserError(
            f"{OUTCOME}={outcome}: must be a reward's yaml, not a value; type reward@{OUTCOME}={option} to choose it"
        )
    if _outcome(outcome).gives_process:
        raise _outcome_gives_process(_name(outcome))
