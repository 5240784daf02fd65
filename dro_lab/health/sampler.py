"""Monitor of the sampler: vLLM's probabilities of what it sampled, beside the trainer's."""

from __future__ import annotations

import math

from dro_lab.health.finding import Finding, Judged, Metrics, State, mean, number, recent


def sampler_mismatch(state: State, metrics: Metrics, *, limit: float, taken_out_share: float, window: int) -> Judged:
    """vLLM and the trainer disagree on the sampled tokens, or the correction takes out what was sampled.

    Fires where, over the last ``window`` steps, the mean difference ``|log p_trainer - log p_vLLM|`` is above ``limit``
    (nats a token), or the mean importance ratio has fallen by more than ``taken_out_share`` below 1 (a completion out
    of bounds counts 0 in TRL's masking modes). TRL measures both under ``rollout=vllm_*`` while
    ``algorithm.vllm_importance_sampling_correction`` is true. ``rollout.top_p`` below 1 adds up to -log(top_p) nats by
    itself: vLLM's probabilities are those after the cut. Thresholds ours.
    """
    apart = number(metrics, "sampling/sampling_logp_difference/mean")
    ratio = number(metrics, "sampling/importance_sampling_ratio/mean")
    if math.isnan(apart) or math.isnan(ratio):
        return None, state
    new = {
        "apart": recent(state, "apart", apart, length=window),
        "ratio": recent(state, "ratio", ratio, length=window),
    }
    if len(new["apart"]) < window:
        return None, new
    advice = (
        "read rollouts in the report; equal dtypes (model.dtype), rollout.top_p=1 and a vLLM that gets every update "
        "bring them together"
    )
    if (value := mean(new["apart"])) > limit:
        said = f"vLLM's and the trainer's log-probabilities differ by {value:.3g} nats a token (mean); {advice}"
        return Finding(value=value, message=said), new
    if 1 - (value := mean(new["ratio"])) > taken_out_share:
        said = (
            f"the mean importance ratio trainer/vLLM is {value:.2f}: the correction takes much of what was sampled out "
            f"of the loss; {advice}"
        )
        return Finding(value=value, message=said), new
    return None, new
