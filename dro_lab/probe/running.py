"""What training would meet on these rollouts: the filter, and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from dro_lab.build import Built
from dro_lab.filtering._sigma import r3_sigma
from dro_lab.probe import measures
from dro_lab.probe.findings import CostFinding, FilterFinding
from dro_lab.probe.rollouts import Sampled, only
from dro_lab.rewards._tokens import sigma_bar
from dro_lab.types import Rewards

LATE = 10**6
"""A step at which every filter's warm-up is over."""


def filter_finding(
    sampled: Sampled, built: Built, rewards: Rewards | None, sigma_keys: Mapping[str, Any], fallback: Any
) -> FilterFinding:
    """What the run's filter keeps of the probe's queries once they have filled its memory.

    Two passes over the same groups: the first fills the memory, the second is judged by it.

    Args:
        rewards: of any reward, for filters that read one.
        sigma_keys: those of R3's sigma, and ``top_share``.
        fallback: the variance filter with its defaults, for a run that has no filter.
    """
    configured = built.pipeline.filter.name != "none"
    method = built.pipeline.filter if configured else fallback
    stats = only(sampled.stats, frozenset(replace(need, policy="current") for need in method.needs))
    assert rewards is not None
    groups = replace(sampled.groups, step=LATE)
    _, state = method.remember(groups, stats, rewards, state=None)
    result, _ = method.remember(groups, stats, rewards, state=state)
    kept_P = result.keep_PG.any(1)
    keys = dict(sigma_keys)
    share = keys.pop("top_share")
    sigma_bar_P = sigma_bar(*r3_sigma(sampled.stats, **keys), share=share)
    varied_P = measures.varies(sampled.label.values_PG).double() if sampled.label.name else None

    def varied(of_P: Tensor) -> float | None:
        return None if varied_P is None or not of_P.any() else float(varied_P[of_P].mean())

    tau = result.metrics.get("tau")
    return FilterFinding(
        name=method.name,
        configured=configured,
        tau=None if tau is None else float(tau),
        kept=kept_P.tolist(),
        sigma_bars=sigma_bar_P.double().tolist(),
        varied_kept=varied(kept_P),
        varied_dropped=varied(~kept_P),
    )


def cost_finding(sampled: Sampled) -> CostFinding:
    """Seconds and tokens per thousand rollouts."""
    groups = sampled.groups
    rollouts = groups.shape[0] * groups.shape[1]
    per_thousand = 1000 / rollouts
    return CostFinding(
        sampling_seconds=sampled.sampling_seconds * per_thousand,
        scoring_seconds=sampled.scoring_seconds * per_thousand,
        judging_seconds=sampled.judging_seconds * per_thousand,
        completion_tokens=float(groups.completion_mask_PGC.sum()) * per_thousand,
        reasoning_tokens=float(groups.reasoning_mask_PGC.sum()) / rollouts,
        truncated=float(groups.truncated_PG.double().mean()),
        malformed=float(groups.malformed_PG.double().mean()),
    )
