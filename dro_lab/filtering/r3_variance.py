"""DRO's dynamic variance filter: groups in which no reference token reacts to the reasoning teach nothing.

arXiv 2506.13351. The paper gives no tau and no way to follow it; ``reject_percentile``, ``window`` and ``refresh`` are
ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dro_lab import checks
from dro_lab.errors import UserError
from dro_lab.filtering import _running
from dro_lab.filtering._sigma import check_part, check_sigma, r3_sigma
from dro_lab.rewards._tokens import finite_mean, sigma_bar
from dro_lab.types import FilterResult, Need, Rewards, RolloutGroups, Stat, TokenStats


def r3_variance(
    groups: RolloutGroups,
    stats: TokenStats,
    rewards: Rewards,
    *,
    tau: float | str = "auto",
    reject_percentile: float = 0.25,
    window: int = 64,
    refresh: int = 16,
    top_share: float = 0.1,
    clip_low: float = 0.05,
    clip_high: float = 0.85,
    sigma_on: str = "clipped",
    include_eos: bool = False,
    state: Mapping[str, Any],
) -> tuple[FilterResult, Mapping[str, Any]]:
    """Drops a group whose ``sigma_bar`` is below ``tau``.

        sigma_bar = mean of sigma_j over the top max(1, ceil(top_share R)) reference tokens by sigma

    sigma_j as R3 has it (`dro_lab.rewards.r3`), whatever the run's reward is; in [0, 0.5].

    ``tau="auto"``: the ``reject_percentile`` quantile of the last ``window`` groups' sigma_bar. It is set first when
    the window is full or ``refresh`` steps are done, whichever comes first; until then every group is kept. Every
    sampled group enters the window, also those that this filter dropped (else tau could only rise) and those that the
    gate rejected: the filter stands behind the gate and sees its rewards, not its decision, and a group that both
    refuse carries the gate's reason. A reference without tokens has no sigma and is dropped.

    It is no gate: a group whose rollouts all failed varies too. Combine it with one. Fewer rollouts have a smaller
    sigma on average: the share that tau drops in an evaluation of smaller groups is not that of training.
    """
    sigma_PR, mask_PR = r3_sigma(
        stats, clip_low=clip_low, clip_high=clip_high, sigma_on=sigma_on, include_eos=include_eos
    )
    spread_P = sigma_bar(sigma_PR, mask_PR, share=top_share)
    limit = float((state["threshold"] or 0.0) if tau == "auto" else tau)
    keep_P = (spread_P.double() >= limit).tolist()  # nan, a reference without tokens, is not
    reasons = ["" if keep else _reason(spread, limit) for keep, spread in zip(keep_P, spread_P.tolist(), strict=True)]
    result = FilterResult(
        keep_PG=(spread_P.double() >= limit)[:, None].expand(groups.shape).clone(),
        reasons_P=reasons,
        metrics={"sigma_bar": finite_mean(spread_P), "tau": limit},
    )
    if tau != "auto":
        return result, state
    return result, _running.remember(
        state, spread_P.tolist(), step=groups.step, percentile=reject_percentile, window=window, refresh=refresh
    )


def _reason(spread: float, limit: float) -> str:
    return f"sigma_bar {spread:.4g} < tau {limit:.4g}" if spread == spread else "sigma_bar: the reference has no tokens"


def needs(**_: Any) -> frozenset[Need]:
    """The reference's token probabilities."""
    return frozenset({Need(Stat.REFERENCE)})


def initial_state(**_: Any) -> Mapping[str, Any]:
    """No group seen; a fixed tau needs no memory and leaves it empty."""
    return _running.empty()


def check(
    *,
    tau: Any = "auto",
    reject_percentile: Any = 0.25,
    window: Any = 64,
    refresh: Any = 16,
    top_share: Any = 0.1,
    clip_low: Any = 0.05,
    clip_high: Any = 0.85,
    sigma_on: Any = "clipped",
    include_eos: Any = False,
) -> None:
    """Check the arguments.

    Raises:
        UserError: tau outside [0, 0.5], or another value out of its range.
    """
    fixed = isinstance(tau, int | float) and not isinstance(tau, bool) and 0 <= tau <= 0.5
    if tau != "auto" and not fixed:
        raise UserError(
            f"filtering.tau={tau}: must be auto or a number in [0, 0.5] (no probability's standard deviation is "
            "larger); auto drops the lowest filtering.reject_percentile of the last groups"
        )
    check_part("filtering.reject_percentile", reject_percentile, todo="0.25 drops the lowest quarter of the groups")
    _running.check(window=window, refresh=refresh)
    checks.share("filtering.top_share", top_share, todo="0.1 is the paper's")
    check_sigma(clip_low=clip_low, clip_high=clip_high, sigma_on=sigma_on, include_eos=include_eos)
