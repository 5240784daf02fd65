"""groups -> stats -> rewards -> gate -> filter -> advantages: the order in which a step's rollouts are judged.

Pure: it sees tensors and text, never a model, a trainer or a logger. Stage A (`score`) runs while TRL asks for
rewards; stage B (`advantages`) after TRL has built the batch, when the loss mask is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from dro_lab.components import Component
from dro_lab.errors import NonFiniteError, UserError
from dro_lab.types import AdvantageEstimator, FilterResult, GateResult, Need, Rewards, RolloutGroups, TokenStats

State = Mapping[str, Mapping[str, Any]]
"""What methods with memory remember, by part of the pipeline (``gate``, ``filter``); plain values."""

Policy = Literal["current", "reference", "lagged"]
"""Whose probabilities count: the policy's as it is, as it was at the start, or as it was some steps ago."""

Credit = Literal["completion", "causal"]
"""Which tokens an outcome teaches: all of the completion, or those that it can depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A step's rollouts after stage A."""

    groups: RolloutGroups
    stats: TokenStats
    sampled: Rewards  # as the reward gave them
    gate: GateResult  # its rewards are the ones that teach (a gate may floor some)
    filtered: FilterResult
    keep_PG: Tensor  # admitted and kept: in the loss
    teach_PG: Tensor  # kept, and not silenced by a gate that zeroes advantages
    reasons_PG: tuple[tuple[str, ...], ...]  # why a rollout teaches nothing; "" where it does
    state: State = field(default_factory=dict)  # of the methods with memory, after this step
    given: Rewards | None = None  # as the reward gave them, where it gave an infinite one that counts as not scored

    @property
    def rewards(self) -> Rewards:
        return self.gate.rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The chosen reward, gate, filter and advantage estimator."""

    reward: Component
    gate: Component
    filter: Component
    advantage: Component
    credit: Credit = "completion"
    scored_by: Policy = "current"
    mask_malformed: bool = False  # malformed completions are scored and counted, but teach nothing
    mask_truncated: bool = False  # likewise the truncated
    infinite: Literal["refuse", "unscorable"] = "refuse"  # what becomes of a reward that is infinite

    @property
    def needs(self) -> frozenset[Need]:
        """The union of what the components read: computed once per step."""
        declared = self.reward.needs | self.gate.needs | self.filter.needs
        return frozenset(replace(n, policy=self.scored_by) if n.policy == "current" else n for n in declared)

    def score(self, groups: RolloutGroups, stats: TokenStats, state: State | None = None) -> Scored:
        """Stage A: rewards, then the gate, then the filter; ``state`` as the last step left it."""
        state = state or {}
        given = sampled = self.reward(groups, stats)
        if self.infinite == "unscorable":
            sampled = unscorable_where_infinite(given)
        check_rewards(sampled, groups, self.reward.name)
        gate, gate_state = self.gate.remember(groups, stats, sampled, state=state.get("gate"))
        filtered, filter_state = self.filter.remember(groups, stats, gate.rewards, state=state.get("filter"))
        remembered = {"gate": gate_state, "filter": filter_state}
        keep_PG = filtered.keep_PG & gate.admit_P[:, None]
        masks = {
            "malformed": groups.malformed_PG & self.mask_malformed,
            "truncated": groups.truncated_PG & self.mask_truncated,
        }
        for masked_PG in masks.values():
            keep_PG = keep_PG & ~masked_PG
        group_reasons = [a or b for a, b in zip(gate.reasons_P, filtered.reasons_P, strict=True)]
        reasons = tuple(
            tuple(
                reason or next((name for name, masked_PG in masks.items() if masked_PG[p, g]), "")
                for g in range(groups.shape[1])
            )
            for p, reason in enumerate(group_reasons)
        )
        return Scored(
            groups=groups,
            stats=stats,
            sampled=sampled,
            gate=gate,
            filtered=filtered,
            keep_PG=keep_PG,
            teach_PG=keep_PG if gate.zero_P is None else keep_PG & ~gate.zero_P[:, None],
            reasons_PG=reasons,
            state={part: value for part, value in remembered.items() if value is not None},
            given=given if infinite_PG(given).any() else None,
        )

    def advantages(
        self,
        scored: Scored,
        loss_mask_PGC: Tensor,
        everywhere: Callable[[AdvantageEstimator], AdvantageEstimator] = lambda estimate: estimate,
    ) -> Tensor:
        """Stage B: advantages (P, G) or (P, G, C); 0 where nothing is kept or nothing could be scored.

        With ``credit="causal"`` a reward that cannot depend on the rollout's own answer (the reference stands in its
        place) gives the answer's tokens no advantage. Their policy gradient is 0 in expectation: leaving it out keeps
        the expected gradient, removes its noise, and keeps long training from unlearning how to answer.
        ``everywhere`` lets the estimator see what other ranks sampled.
        """
        if scored.rewards.process_PGC is not None:
            self._check_process_is_taken()
            loss_mask_PGC = _as_wide_as(loss_mask_PGC, scored.rewards.process_PGC)
        advantages = everywhere(self.advantage)(scored.rewards, scored.teach_PG, loss_mask_PGC)
        if self.credit == "completion" or scored.rewards.depends_on == "completion":
            return advantages
        spread = advantages if advantages.dim() == 3 else advantages[..., None]
        return spread * _reasoning_and_its_end(scored.groups)

    def _check_process_is_taken(self) -> None:
        """`build_pipeline` refuses the pair already where the reward's module says that it gives process rewards."""
        if not self.advantage.takes_process:
            raise UserError(
                f"reward={self.reward.name} with advantage={self.advantage.name}: the reward gave process rewards "
                "(credit on tokens), and this estimator does not take them. Choose one that does, for example "
                "advantage=group_norm; a reward's module says GIVES_PROCESS = True and an estimator's TAKES_PROCESS = "
                "True, so that this is known before training"
            )


NO_SPREAD = 1e-6
"""Rewards of a group that differ by less give no advantages."""


def has_signal(rewards: Rewards) -> Tensor:
    """(P,): groups whose outcomes differ, or whose process rewards do: they have something to teach by comparison.

    Process rewards that are not centred teach wherever they are not 0. Nothing scored: no signal.
    """
    outcome_PG = rewards.outcome_PG
    scorable_PG = ~outcome_PG.isnan()
    signal_P = _span(outcome_PG, scorable_PG) > NO_SPREAD
    if rewards.process_PGC is None or rewards.process_mask_PGC is None or not rewards.process_weight:
        return signal_P
    mask_PN = (rewards.process_mask_PGC & scorable_PG[..., None]).flatten(1)
    values_PN = rewards.process_PGC.flatten(1)
    if rewards.process_center:
        return signal_P | (_span(values_PN, mask_PN) > NO_SPREAD)
    return signal_P | (torch.where(mask_PN, values_PN, 0.0).abs().amax(1) > NO_SPREAD)


def _span(values_PN: Tensor, mask_PN: Tensor) -> Tensor:
    """(P,): the largest less the smallest of the marked values; not above 0 where none is marked."""
    return values_PN.masked_fill(~mask_PN, -torch.inf).amax(1) - values_PN.masked_fill(~mask_PN, torch.inf).amin(1)


def _as_wide_as(mask_PGC: Tensor, process_PGC: Tensor) -> Tensor:
    """The loss mask on the completions' own width: TRL may pad its batch further (pad_to_multiple_of)."""
    return pad(mask_PGC, (0, process_PGC.shape[-1] - mask_PGC.shape[-1]))


def unscorable_where_infinite(rewards: Rewards) -> Rewards:
    """Infinite outcomes become nan, and process rewards that are no numbers are masked: such a rollout teaches nothing.

    What is no `Rewards` of tensors is left for the check behind this.
    """
    outcome, process, mask = (
        getattr(rewards, name, None) for name in ("outcome_PG", "process_PGC", "process_mask_PGC")
    )
    if isinstance(outcome, Tensor):
        rewards = replace(rewards, outcome_PG=outcome.masked_fill(torch.isinf(outcome), torch.nan))
    if isinstance(process, Tensor) and isinstance(mask, Tensor) and process.shape == mask.shape:
        finite = torch.isfinite(process)
        rewards = replace(rewards, process_PGC=process.masked_fill(~finite, 0.0), process_mask_PGC=mask & finite)
    return rewards


def infinite_PG(rewards: Rewards) -> Tensor:
    """(P, G): rollouts whose outcome is infinite, or one of whose scored process rewards is not a finite number."""
    infinite = torch.isinf(rewards.outcome_PG)
    if rewards.process_PGC is None or rewards.process_mask_PGC is None:
        return infinite
    return infinite | (~torch.isfinite(rewards.process_PGC) & rewards.process_mask_PGC).any(-1)


def unexplained_nan(scored: Scored) -> Tensor:
    """(P, G): outcomes that are nan though nothing that the reward read says that the rollout cannot be scored.

    It says so by a reference without tokens, a reasoning without a scored point, and an answer that the verifier cannot
    judge. A reward may have reasons of its own, so this is no error.
    """
    stats, nan_PG = scored.stats, scored.sampled.outcome_PG.isnan()
    if scored.given is not None:
        nan_PG = nan_PG & ~infinite_PG(scored.given)
    if stats.reference_mask_PR is not None:
        nan_PG = nan_PG & stats.reference_mask_PR.any(-1, keepdim=True)
    if stats.prefix_mask_PGK is not None:
        nan_PG = nan_PG & stats.prefix_mask_PGK.any(-1)
    if stats.verifier_PG is not None:
        nan_PG = nan_PG & ~stats.verifier_PG.isnan()
    return nan_PG


def check_rewards(rewards: Rewards, groups: RolloutGroups, name: str) -> None:
    """A user's reward fails here with a sentence, not three calls later with a broadcast.

    Raises:
        UserError: it is no `Rewards`, or its outcomes have another shape or type, or are infinite.
    """
    prompts, group = groups.shape
    expected = f"expected dro_lab.types.Rewards with outcome_PG of shape (P, G) = ({prompts}, {group}) in torch.float32"
    found = None
    if not isinstance(rewards, Rewards):
        found = f"a {type(rewards).__name__}"
    elif not isinstance(rewards.outcome_PG, Tensor):
        found = f"outcomes that are a {type(rewards.outcome_PG).__name__}"
    elif tuple(rewards.outcome_PG.shape) != groups.shape:
        found = f"outcomes of shape {tuple(rewards.outcome_PG.shape)}"
    elif rewards.outcome_PG.dtype != torch.float32:
        found = f"outcomes of type {rewards.outcome_PG.dtype}"
    if found is not None:
        raise UserError(f"reward={name}: the function returned {found}; {expected}. Mend the reward's return value.")
    if torch.isinf(rewards.outcome_PG).any():
        raise NonFiniteError(
            f"reward={name}: the function returned infinity; give nan for a rollout that cannot be scored",
            source=f"reward={name}",
            rows=torch.isinf(rewards.outcome_PG).flatten().nonzero().flatten().tolist(),
            tensors={"outcome_PG": rewards.outcome_PG},
        )
    if rewards.process_PGC is not None or rewards.process_mask_PGC is not None:
        _check_process(rewards, groups, name)


def _check_process(rewards: Rewards, groups: RolloutGroups, name: str) -> None:
    """The same for process rewards: both tensors, on the completions' tokens, a number wherever one was scored.

    Raises:
        UserError: one is missing, or of another shape or type, or holds nan or infinity at a scored token.
    """
    shape = tuple(groups.completion_mask_PGC.shape)
    wanted = {"process_PGC": torch.float32, "process_mask_PGC": torch.bool}
    for field_name, dtype in wanted.items():
        value = getattr(rewards, field_name)
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != dtype:
            got = f"{tuple(value.shape)} in {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UserError(
                f"reward={name}: {field_name} is {got}; process rewards are process_PGC in torch.float32 and "
                f"process_mask_PGC in torch.bool, both of shape (P, G, C) = {shape}. Mend the reward's return value."
            )
    process_PGC, mask_PGC = rewards.process_PGC, rewards.process_mask_PGC
    assert process_PGC is not None
    assert mask_PGC is not None
    if not torch.isfinite(process_PGC[mask_PGC]).all():
        bad_PG = (~torch.isfinite(process_PGC) & mask_PGC).any(-1)
        raise NonFiniteError(
            f"reward={name}: process_PGC is nan or infinite where process_mask_PGC is True; set the mask to False at a "
            "token that cannot be scored",
            source=f"process rewards of reward={name}",
            rows=bad_PG.flatten().nonzero().flatten().tolist(),
            tensors={"process_PGC": process_PGC, "process_mask_PGC": mask_PGC},
        )


def _reasoning_and_its_end(groups: RolloutGroups) -> Tensor:
    """(P, G, C): everything up to the reasoning's last token, and the token after it, which is the decision to stop."""
    inside = groups.reasoning_mask_PGC
    places_C = torch.arange(inside.shape[-1])
    end_PG1 = torch.where(inside, places_C + 1, 0).amax(-1, keepdim=True)
    return (places_C <= end_PG1) & groups.completion_mask_PGC


def rejected(gate: GateResult) -> Tensor:
    """(P,): the groups that failed the gate, whatever becomes of them."""
    return ~gate.admit_P if gate.rejected_P is None else gate.rejected_P


def _mean(values: Tensor) -> float:
    finite = values[torch.isfinite(values)]
    return finite.float().mean().item() if finite.numel() else float("nan")


def step_metrics(scored: Scored, name: str) -> Mapping[str, float]:
    """What a step's rollouts look like: *sampled* counts every rollout, *trained* only those that teach."""
    outcome, kept = scored.sampled.outcome_PG, scored.rewards.outcome_PG[scored.teach_PG]
    groups = scored.groups
    centred = outcome - outcome.nanmean(1, keepdim=True)  # a rollout that could not be scored hides no group
    spread_P = centred.square().nanmean(1).sqrt()
    metrics = {
        "reward/sampled": _mean(outcome),
        "reward/trained": _mean(kept),
        "reward/group_std": _mean(spread_P),
        "reward/unscorable_share": torch.isnan(outcome).float().mean().item(),
        "groups/zero_signal_share": (~has_signal(scored.sampled)).float().mean().item(),
        "gate/rejected_share": rejected(scored.gate).float().mean().item(),
        "gate/failed_share": scored.gate.failed_PG.float().mean().item(),
        "filter/dropped_share": 1.0 - scored.filtered.keep_PG.float().mean().item(),
        "rollouts/kept_share": scored.teach_PG.float().mean().item(),
        "rollouts/truncated_share": groups.truncated_PG.float().mean().item(),
        "rollouts/malformed_share": groups.malformed_PG.float().mean().item(),
        "rollouts/reasoning_tokens": groups.reasoning_mask_PGC.sum(-1).float().mean().item(),
        "rollouts/completion_tokens": groups.completion_mask_PGC.sum(-1).float().mean().item(),
    }
    metrics.update({f"rewards/{name}/{key}": value for key, value in scored.sampled.metrics.items()})
    metrics.update({f"rewards/{name}/{key}": _mean(value) for key, value in scored.sampled.parts.items()})
    metrics.update({f"gate/{key}": value for key, value in scored.gate.metrics.items()})
    metrics.update({f"filter/{key}": value for key, value in scored.filtered.metrics.items()})
    return metrics
