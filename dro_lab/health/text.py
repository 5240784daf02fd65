"""Monitors of what is written: completions that are not whole, and rubrics that the references fail."""

from __future__ import annotations

import math

from dro_lab.health.finding import Finding, Judged, Metrics, State, mean, number, over, recent


def truncated(state: State, metrics: Metrics, *, share: float) -> Judged:
    """Over ``share`` of the rollouts hit the completion limit."""
    value = over(metrics, "rollouts/truncated_share", share)
    if value is None:
        return None, state
    said = f"{value:.0%} of the rollouts hit the completion limit; raise rollout.max_completion_length"
    return Finding(value=value, message=said), state


def malformed(state: State, metrics: Metrics, *, share: float) -> Judged:
    """Over ``share`` of the rollouts have no whole reasoning or no answer marker."""
    value = over(metrics, "rollouts/malformed_share", share)
    if value is None:
        return None, state
    said = (
        f"{value:.0%} of the rollouts never close their reasoning or miss the answer marker. Either the format is set "
        "otherwise than the policy writes it (model.reasoning_close, dataset.answer_marker), or the policy does not "
        "know this kind of text: read some rollouts in the report, then correct the keys or choose another model"
    )
    return Finding(value=value, message=said), state


def rubric_drift(state: State, metrics: Metrics, *, share: float, window: int) -> Judged:
    """The references of the last ``window`` steps fail more than ``share`` of their own checks.

    A check that the reference fails is ill-posed: it rejects good answers. Measured only where the gate uses rubrics.
    Source: DRO (arXiv 2506.13351), failure signatures; threshold ours.
    """
    failed = number(metrics, "rubric/reference_failed_share")
    if math.isnan(failed):
        return None, state
    last = recent(state, "last", failed, length=window)
    if len(last) < window or mean(last) <= share:
        return None, {"last": last}
    said = (
        f"the references of the last {window} steps fail {mean(last):.0%} of their own checks, so the gate rejects "
        "what it should admit; write rubrics anew, each validated on its reference (`python -m dro_lab.rubrics`), or "
        "judge with another judge"
    )
    return Finding(value=mean(last), message=said), {"last": last}
