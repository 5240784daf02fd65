"""Monitors of the training signal: too little of it, none of it, or noise blown up to full size."""

from __future__ import annotations

import math
from statistics import median

from dro_lab.health.finding import Finding, Judged, Metrics, State, in_a_row, mean, number, over, recent


def spurious_amplification(
    state: State, metrics: Metrics, *, spike: float, low: float, window: int, warmup: int
) -> Judged:
    """Spurious advantage amplification: the gradient's norm is more than ``spike`` times its median over the last
    ``window`` steps while the rewards' spread within groups is below ``low`` times its own median.

    Group normalisation divides by that spread, so noise of almost equal rewards becomes advantages of full size. The
    first ``warmup`` steps only fill the medians. Source: DRO (arXiv 2506.13351), failure signatures; thresholds ours.
    """
    norm, spread = number(metrics, "grad_norm"), number(metrics, "reward/group_std")
    if not (math.isfinite(norm) and math.isfinite(spread)) or norm == 0:  # 0: a step without an update
        return None, state
    norms, spreads = state.get("norms", []), state.get("spreads", [])
    new = {
        "norms": recent(state, "norms", norm, length=window),
        "spreads": recent(state, "spreads", spread, length=window),
    }
    if len(norms) < warmup or not (norm > spike * median(norms) and spread < low * median(spreads)):
        return None, new
    said = (
        f"the gradient's norm jumped to {norm:.3g} (median {median(norms):.3g}) while rewards hardly differ (standard "
        f"deviation in a group {spread:.2g}, median {median(spreads):.2g}): noise is being amplified; try "
        "filtering=r3_variance or a larger advantage.eps"
    )
    return Finding(value=norm, message=said), new


def degenerate_groups(state: State, metrics: Metrics, *, share: float, window: int) -> Judged:
    """Over the last ``window`` steps at least ``share`` of the groups had rewards without any spread."""
    flat = number(metrics, "groups/zero_signal_share")
    if math.isnan(flat):
        return None, state
    last = recent(state, "last", flat, length=window)
    if len(last) < window or mean(last) < share:
        return None, {"last": last}
    said = (
        f"{mean(last):.0%} of the groups of the last {window} steps had no spread in their rewards and taught nothing; "
        "try more rollouts a group (algorithm.num_generations), harder or easier rows, or filtering.refill=true"
    )
    return Finding(value=mean(last), message=said), {"last": last}


def zero_signal(state: State, metrics: Metrics, *, patience: int) -> Judged:
    """``patience`` steps in a row no group had any spread in its rewards."""
    flat = number(metrics, "groups/zero_signal_share")
    if math.isnan(flat):
        return None, state
    count = in_a_row(state, "count", flat >= 1.0)
    if count < patience:
        return None, {"count": count}
    said = f"{count} steps in a row no group had any spread in its rewards: nothing is learned"
    return Finding(value=flat, message=said), {"count": count}


def starvation(state: State, metrics: Metrics, *, patience: int, share: float, window: int) -> Judged:
    """``patience`` steps in a row nothing was kept, or over ``share`` of the rollouts were taken out across ``window``
    steps: by gate, filter or mask. Such steps make no update; they are counted, not hidden.

    Source: the DRO paper's group rejection starves at a shortcut share of 30%; the rule is ours.
    """
    kept = number(metrics, "rollouts/kept_share")
    if math.isnan(kept):
        return None, state
    count = in_a_row(state, "count", kept == 0)
    last = recent(state, "last", kept, length=window)
    new = {"count": count, "last": last}
    if count >= patience:
        what = f"{count} steps in a row every rollout was dropped by gate, filter or mask"
    elif len(last) == window and 1 - mean(last) > share:
        what = f"{1 - mean(last):.0%} of the rollouts of the last {window} steps were dropped by gate, filter or mask"
    else:
        return None, new
    rates = ", ".join(
        f"{name} {number(metrics, key):.0%}"
        for name, key in (("gate", "gate/rejected_share"), ("filter", "filter/dropped_share"))
        if not math.isnan(number(metrics, key))
    )
    said = (
        f"{what} ({rates or 'no rates'} now): hardly anything is learned. Try gating.on_reject=floor, a lower "
        "gating.nu or gating.rho, a lower filtering.tau, filtering.refill=true, or gating=none"
    )
    return Finding(value=1 - mean(last), message=said), new


def unscorable(state: State, metrics: Metrics, *, share: float) -> Judged:
    """Over ``share`` of the rollouts could not be scored."""
    value = over(metrics, "reward/unscorable_share", share)
    if value is None:
        return None, state
    return Finding(value=value, message=f"{value:.0%} of the rollouts could not be scored; their advantage is 0"), state


def non_finite(state: State, metrics: Metrics) -> Judged:
    """The loss or the gradient's norm is not a finite number."""
    for key in ("loss", "grad_norm"):
        value = metrics.get(key)
        if value is not None and not math.isfinite(value):
            said = "the loss or the gradient is not finite: lower algorithm.learning_rate"
            return Finding(value=value, message=said), state
    return None, state
