"""Monitors of a policy that gives up: on revising, on reasoning, on exploring, on what it could do."""

from __future__ import annotations

import math

from dro_lab.health.finding import Finding, Judged, Metrics, State, in_a_row, mean, nothing_kept, number, recent


def no_revision(
    state: State, metrics: Metrics, *, share: float, patience: int, constant_share: float, constant_patience: int
) -> Judged:
    """No-revision collapse: the answer is the input, or one constant whatever the prompt.

    ``share`` of the answers equal their input for ``patience`` steps in a row, or ``constant_share`` of a step's
    answers are one text that stands under several prompts, for ``constant_patience`` steps (longer, since answers from
    a few labels agree by chance). Source: DRO (arXiv 2506.13351), failure signatures; thresholds ours.
    """
    copied, constant = number(metrics, "answers/equal_input_share"), number(metrics, "answers/most_common_share")
    copies = in_a_row(state, "copies", copied >= share) if not math.isnan(copied) else state.get("copies", 0)
    constants = (
        in_a_row(state, "constants", constant >= constant_share)
        if not math.isnan(constant)
        else state.get("constants", 0)
    )
    new = {"copies": copies, "constants": constants}
    advice = "the reward pays for it: try gating=rubric, gating.on_reject=floor or a higher reward.omega"
    if copies >= patience:
        return Finding(value=copied, message=f"{copied:.0%} of the answers are the unrevised input; {advice}"), new
    if constants >= constant_patience:
        said = f"{constant:.0%} of the answers are one and the same text, whatever the prompt; {advice}"
        return Finding(value=constant, message=said), new
    return None, new


def reasoning_collapse(state: State, metrics: Metrics, *, share: float, window: int) -> Judged:
    """The reasoning's mean length over the last ``window`` steps is below ``share`` of that over the first.

    Source: DRO (arXiv 2506.13351): aggregate log-prob rewards collapse the reasoning below 100 tokens.
    """
    tokens = number(metrics, "rollouts/reasoning_tokens")
    if math.isnan(tokens):
        return None, state
    first = state.get("first", [])
    first = [*first, tokens] if len(first) < window else first
    last = recent(state, "last", tokens, length=window)
    new = {"first": first, "last": last}
    if len(last) == window and mean(last) < share * mean(first):
        said = (
            f"reasoning shrank from {mean(first):.0f} to {mean(last):.0f} tokens: the policy may be answering without "
            "working it out; try reward=r3 or a lower algorithm.learning_rate"
        )
        return Finding(value=mean(last), message=said), new
    return None, new


def entropy_collapse(state: State, metrics: Metrics, *, floor: float, share: float, window: int) -> Judged:
    """The policy's entropy (nats a token, mean of the last ``window`` steps) is below ``floor``, or below ``share`` of
    its mean over the first ``window`` steps. TRL measures it on the rollouts in the loss: a step without any says
    nothing (there it logs 0)."""
    entropy = number(metrics, "entropy")
    if math.isnan(entropy) or nothing_kept(metrics):
        return None, state
    first = state.get("first", [])
    first = [*first, entropy] if len(first) < window else first
    last = recent(state, "last", entropy, length=window)
    new = {"first": first, "last": last}
    if len(last) == window and (mean(last) < floor or mean(last) < share * mean(first)):
        said = (
            f"the policy's entropy is {mean(last):.3f} nats a token, {mean(first):.3f} at the start: it has stopped "
            "exploring; try a lower algorithm.learning_rate, or algorithm.beta above 0"
        )
        return Finding(value=mean(last), message=said), new
    return None, new


def kl_runaway(state: State, metrics: Metrics, *, limit: float, window: int) -> Judged:
    """TRL's KL to the reference policy (nats a token; logged where ``algorithm.beta`` is above 0), mean of the last
    ``window`` steps with rollouts in the loss, is above ``limit``."""
    kl = number(metrics, "kl")
    if math.isnan(kl) or nothing_kept(metrics):
        return None, state
    last = recent(state, "last", kl, length=window)
    new = {"last": last}
    if len(last) == window and mean(last) > limit:
        said = (
            f"the policy is {mean(last):.2f} nats a token away from where it started; try a higher algorithm.beta or a "
            "lower algorithm.learning_rate"
        )
        return Finding(value=mean(last), message=said), new
    return None, new


def worse(state: State, metrics: Metrics, *, drop: float) -> Judged:
    """Quality on held-out rows is more than ``drop`` below that of the policy before training."""
    now, start = number(metrics, "eval/quality"), number(metrics, "eval/quality/start")
    if not now < start - drop:
        return None, state
    return Finding(
        value=now, message=f"quality on held-out rows fell from {start:.2f} to {now:.2f} since the start"
    ), state
