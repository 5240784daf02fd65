"""From scored rollouts to findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dro_lab.build import Built
from dro_lab.pipeline import has_signal, rejected
from dro_lab.probe import formula, measures
from dro_lab.probe.contenders import Contender, computed
from dro_lab.probe.findings import OmegaFinding, QualityFinding, RewardFinding
from dro_lab.probe.measures import Interval, TokenParts
from dro_lab.probe.rollouts import Sampled, only, scorer_needs
from dro_lab.probe.settings import Settings
from dro_lab.probe.tokens import mean, predicted, probabilities
from dro_lab.rewards.r3 import r3
from dro_lab.types import Rewards

FORMULA_REWARDS = {"avg_prob": 0.0}
"""Rewards beside R3 that the closed formula knows, as an omega."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What turns tensors into intervals and speeds."""

    index_DP: Tensor
    confidence: float
    g: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A reward's tensors."""

    contender: Contender
    rewards: Rewards
    sums: measures.Sums
    floor_PG: Tensor | None


def scale_of(sampled: Sampled, settings: Settings, *, prompts: int) -> Scale:
    """Draws of queries, and g at so many prompts a step."""
    return Scale(
        index_DP=measures.draws(len(sampled.rows), resamples=settings.bootstrap, seed=0),
        confidence=settings.confidence,
        g=formula.gradient_snr(prompts, g=settings.g),
    )


# ------------------------------------------------------------------------------------------------ quality


def quality_finding(sampled: Sampled) -> QualityFinding:
    """The label's mean, where it varies, and its own correlation rho_oracle."""
    values_PG = sampled.label.values_PG
    if not sampled.label.name:
        return QualityFinding(name="", note=sampled.label.note, mean=None, varied=None, oracle=None)
    varied_P = measures.varies(values_PG)
    oracle = float(measures.z_sums(values_PG, values_PG).correlation()) if varied_P.any() else math.nan
    return QualityFinding(
        name=sampled.label.name,
        note=sampled.label.note,
        mean=float(values_PG.nanmean()),
        varied=float(varied_P.double().mean()),
        oracle=oracle,
    )


# ------------------------------------------------------------------------------------------------ rewards


def measure(sampled: Sampled, contenders: Sequence[Contender]) -> tuple[list[Measured], list[RewardFinding]]:
    """Every reward on the rollouts; those that cannot be computed come back as findings with the reason."""
    done, failed = [], []
    for contender in contenders:
        reason = contender.reason
        if not reason:
            rewards = computed(contender, sampled.groups, only(sampled.stats, contender.needs))
            if isinstance(rewards, str):
                reason = rewards
            elif rewards.outcome_PG.isnan().all():
                reason = "no rollout got a reward: it gave nan for all of them"
            else:
                done.append(
                    Measured(
                        contender=contender,
                        rewards=rewards,
                        sums=measures.z_sums(rewards.outcome_PG, sampled.label.values_PG),
                        floor_PG=_floor(sampled, contender),
                    )
                )
        if reason:
            failed.append(RewardFinding(name=contender.name, title=contender.name, reason=reason))
    return done, failed


def _floor(sampled: Sampled, contender: Contender) -> Tensor | None:
    """The reward against other queries' references, (P, G); nan where there was no other."""
    if sampled.floor is None or contender.judged:
        return None
    rewards = computed(contender, sampled.floor.groups, only(sampled.floor.stats, contender.needs))
    if isinstance(rewards, str):
        return None
    return rewards.outcome_PG.masked_fill(~sampled.floor.usable_P[:, None], math.nan)


def title_of(contender: Contender) -> str:
    """The reward's name, with its omega."""
    return contender.name if contender.omega is None else f"{contender.name} (omega {contender.omega:g})"


def reward_findings(
    sampled: Sampled,
    measured: Sequence[Measured],
    *,
    parts: TokenParts,
    quality: QualityFinding,
    scale: Scale,
    built: Built,
) -> list[RewardFinding]:
    """Numbers of each reward, the best first: by measured rho, else by its spread over the noise floor."""
    found = [_one(sampled, item, parts=parts, quality=quality, scale=scale, built=built) for item in measured]
    found.sort(key=lambda finding: -_merit(finding))
    best = next((f for f in found if not f.is_label and f.rho is not None), None)
    if best is None:
        return found
    sums = {item.contender.name: item.sums for item in measured}
    return [replace(f, behind=_behind(sums[best.name], sums[f.name], scale, n=best.rho.n)) for f in found]  # type: ignore[union-attr]


def _merit(finding: RewardFinding) -> float:
    value = finding.rho or finding.over_floor
    return value.value if value is not None and math.isfinite(value.value) else -math.inf


def _behind(best: measures.Sums, other: measures.Sums, scale: Scale, *, n: int) -> Interval:
    """rho of the best less rho of the other, on the same draws of queries."""
    value = float(best.correlation() - other.correlation())
    drawn_D = best.correlation(scale.index_DP) - other.correlation(scale.index_DP)
    return measures.interval(value, drawn_D, confidence=scale.confidence, n=n)


def _one(
    sampled: Sampled, item: Measured, *, parts: TokenParts, quality: QualityFinding, scale: Scale, built: Built
) -> RewardFinding:
    contender, outcome_PG = item.contender, item.rewards.outcome_PG
    label_PG, labelled = sampled.label.values_PG, bool(quality.name)
    omega = contender.omega if contender.omega is not None else FORMULA_REWARDS.get(contender.name)
    rho = _rho(item.sums, label_PG, scale) if labelled else None
    rho_formula = None
    if omega is not None:
        weights_P = measures.spread(label_PG) if labelled else None
        rho_formula = predicted(parts, omega, oracle=quality.oracle, weights_P=weights_P)
    over = _over_floor(outcome_PG, item.floor_PG, scale)
    reliability = None if over is None else measures.reliability(over.value)
    notes = []
    if item.rewards.process_PGC is not None:
        notes.append("ranked by its outcome alone; its process rewards give credit on the steps besides")
    is_label = labelled and bool(torch.equal(outcome_PG.nan_to_num(-1.0), label_PG.nan_to_num(-1.0)))
    if is_label:
        notes.append("it is the quality that the others are held against")
    gate = built.pipeline.gate
    rejected_P = None
    if gate.name != "none":
        gate_stats = only(sampled.stats, frozenset(replace(n, policy="current") for n in gate.needs))
        rejected_P = rejected(gate.remember(sampled.groups, gate_stats, item.rewards, state=None)[0])
    return RewardFinding(
        name=contender.name,
        title=title_of(contender),
        omega=contender.omega,
        is_label=is_label,
        notes=tuple(notes),
        rank=measures.mean_interval(
            measures.rank_correlation(outcome_PG, label_PG), scale.index_DP, confidence=scale.confidence
        )
        if labelled
        else None,
        rho=rho,
        rho_formula=rho_formula,
        steps=_steps(rho, rho_formula, reliability, quality, scale),
        steps_formula=_relative(rho_formula, quality, scale),
        zero_signal=float((~has_signal(item.rewards)).double().mean()),
        unscorable=float(outcome_PG.isnan().double().mean()),
        spread=mean(measures.spread(outcome_PG)),
        floor=None if item.floor_PG is None else mean(measures.spread(item.floor_PG)),
        over_floor=over,
        reliability=reliability,
        gate_rejected=None if rejected_P is None else float(rejected_P.double().mean()),
        scoring_seconds=sampled.cost.get(scorer_needs(contender.needs)),
    )


def _rho(sums: measures.Sums, label_PG: Tensor, scale: Scale) -> Interval:
    return measures.interval(
        float(sums.correlation()),
        sums.correlation(scale.index_DP),
        confidence=scale.confidence,
        n=int(measures.varies(label_PG).sum()),
    )


def _relative(rho: float | None, quality: QualityFinding, scale: Scale) -> float | None:
    if rho is None or not math.isfinite(rho) or (quality.oracle is not None and not quality.oracle > 0):
        return None
    return float(formula.relative_steps(rho / (quality.oracle or 1.0), g=scale.g))


def _steps(
    rho: Interval | None, rho_formula: float | None, reliability: float | None, quality: QualityFinding, scale: Scale
) -> float | None:
    """By the measured correlation; without a label by the reliability, and failing that by the formula."""
    if rho is not None:
        return _relative(rho.value, quality, scale)
    return _relative(rho_formula if reliability is None or math.isnan(reliability) else reliability, quality, scale)


def _over_floor(outcome_PG: Tensor, floor_PG: Tensor | None, scale: Scale) -> Interval | None:
    if floor_PG is None:
        return None
    above_P, below_P = measures.spread(outcome_PG), measures.spread(floor_PG)
    if not (below_P.nan_to_num(0.0) > 0).any():
        return None
    return measures.ratio_interval(above_P, below_P, scale.index_DP, confidence=scale.confidence)


# ------------------------------------------------------------------------------------------------ omega


def omega_findings(
    sampled: Sampled,
    omegas: Sequence[float],
    keys: Mapping[str, Any],
    *,
    parts: TokenParts,
    quality: QualityFinding,
    scale: Scale,
) -> list[OmegaFinding]:
    """R3 at each omega with its other keys; no model is asked again."""
    label_PG, labelled = sampled.label.values_PG, bool(quality.name)
    keys = {**keys, "weighting": "power"}
    weights_P = measures.spread(label_PG) if labelled else None
    probs_PGR, mask_PR = probabilities(sampled.stats)
    clipped = keys.get("sigma_on", "clipped") == "clipped"
    band = (keys.get("clip_low", 0.05), keys.get("clip_high", 0.85)) if clipped else (0.0, 1.0)
    tokens = measures.effective_tokens(probs_PGR.clamp(*band).float(), mask_PR, omegas)
    found = []
    for omega, effective in zip(omegas, tokens, strict=True):
        bound = {**keys, "omega": omega}
        outcome_PG = r3(sampled.groups, sampled.stats, **bound).outcome_PG
        floor_PG = None
        if sampled.floor is not None:
            usable_P1 = sampled.floor.usable_P[:, None]
            floor_PG = r3(sampled.floor.groups, sampled.floor.stats, **bound).outcome_PG.masked_fill(
                ~usable_P1, math.nan
            )
        rho = _rho(measures.z_sums(outcome_PG, label_PG), label_PG, scale) if labelled else None
        over = _over_floor(outcome_PG, floor_PG, scale)
        expected = predicted(parts, omega, oracle=quality.oracle, weights_P=weights_P)
        reliability = None if over is None else measures.reliability(over.value)
        found.append(
            OmegaFinding(
                omega=omega,
                rho=rho,
                rho_formula=expected,
                steps=_steps(rho, expected, reliability, quality, scale),
                steps_formula=_relative(expected, quality, scale) or math.nan,
                effective_tokens=effective,
                over_floor=None if over is None else over.value,
            )
        )
    return found
