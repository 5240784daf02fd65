"""Memory of one device at its peak, by part, in bytes. Estimates: kernels' workspaces and fragmentation come on top.

What is alive when: weights and the optimizer's state always; gradients and activations in the update; the cache in
sampling; the scorer's cache and logits in scoring. Gradients are alive in all phases where a step samples more than
once: those of its earlier rollouts wait for the optimizer. The peak is the largest of the three phases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dro_lab.plan.flops import Work
from dro_lab.plan.shape import ModelShape

Sharding = Literal["none", "full"]
"""``none``: a whole copy on each device (one device, DDP); ``full``: split over the devices (FSDP, ZeRO-3)."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the numbers of a model are held.

    Args:
        dtype: of the weights (and so of gradients and the optimizer's two moments).
        compute: of activations and caches.
        devices: devices that share the work.
        sharding: see `Sharding`.
        batch: rollouts of one forward and backward on a device.
        sampled: rollouts that a device samples at once.
        samples_midway: whether a step samples more than once, so that gradients wait meanwhile.
        trained: parameters that are trained; None: all of them (an adapter's are held in float32).
        engine: bytes that a vLLM in the process takes, its copy of the weights included; 0: there is none.
        engine_sleeps: whether it gives them back while the policy scores and learns.
        lm_head_chunk: reference positions that the scorer puts through the head at once.
        score_tokens: padded tokens of one forward of the scorer.
    """

    dtype: str = "float32"
    compute: str = "bfloat16"
    devices: int = 1
    sharding: Sharding = "none"
    batch: int = 16
    sampled: int = 256
    samples_midway: bool = False
    trained: int | None = None
    engine: int = 0
    engine_sleeps: bool = False
    lm_head_chunk: int = 1024
    score_tokens: int = 2048


LOGITS_CHUNK = 32768
"""Positions that TRL 1.16 puts through the LM head at once in an update."""


def activations_per_token(shape: ModelShape, *, compute: int) -> int:
    """Bytes that one layer keeps of one token for its backward, as transformers' layers are written.

    A norm keeps its input and what it scaled in float32 and its result in ``compute`` bytes, for the matrices behind
    it; so do the norms of queries and keys. Queries and keys after their rotation, values, the attention's result, and
    four tensors of the MLP (gate, its activation, up, product) are kept in ``compute`` bytes.
    """
    inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * shape.hidden * (2 * 4 + compute) + (2 * 4 * (inner + kv) if shape.qk_norm else 0)
    return norms + compute * (2 * inner + 2 * kv + 4 * shape.intermediate)


def parts(shape: ModelShape, work: Work, setting: Setting) -> dict[str, int]:
    """Bytes on one device by part; `LABELS` says what each is, `phases` when it is alive."""
    held, compute = BYTES[setting.dtype], BYTES[setting.compute]
    share = setting.devices if setting.sharding == "full" else 1
    weights = shape.parameters * held
    adapter = (setting.trained or 0) * BYTES["float32"]
    trained = adapter or weights
    reference = weights if work.reference_model and setting.trained is None else 0  # an adapter is switched off
    copies = shape.parameters * compute if setting.compute != setting.dtype else 0  # autocast's copies in a forward
    length = work.prompt + work.completion
    layer = activations_per_token(shape, compute=compute) * length * setting.batch
    if work.checkpointing:
        borders = shape.layers * shape.hidden * compute * length * setting.batch
        activations = borders + layer
    else:
        activations = shape.layers * layer
    # a chunk of logits and its float32 copy: TRL's fused LM head never holds more
    logits = min(setting.batch * work.completion, LOGITS_CHUNK) * shape.vocab * (compute + 4)
    cache = shape.kv_per_token * compute
    reads = work.scores_reference
    scoring = (setting.score_tokens * cache + setting.lm_head_chunk * shape.vocab * (compute + 4)) if reads else 0
    return {
        "weights": (weights + adapter) // share,
        "reference": reference // share,
        "cast": copies // share,
        "optimizer": 2 * trained // share,
        "gradients": trained // share,
        "activations": activations,
        "logits": logits,
        "KV cache": 0 if setting.engine else setting.sampled * length * cache,
        "scoring": scoring,
        "whole copy to score with": shape.parameters * compute if share > 1 and reads else 0,
        "vLLM": 0 if setting.engine_sleeps else setting.engine,
        "vLLM while it samples": setting.engine if setting.engine_sleeps else 0,
    }


LABELS = {
    "weights": "policy, {dtype}",
    "reference": "reference policy (beta > 0), {dtype}",
    "cast": "{compute} copies while weights are used (autocast)",
    "optimizer": "optimizer's two moments",
    "gradients": "gradients",
    "activations": "activations",
    "logits": "logits of an update",
    "KV cache": "KV cache of sampling",
    "scoring": "scorer's cache and logits",
    "whole copy to score with": "whole copy to score with, {compute}",
    "vLLM": "vLLM: weights and cache",
    "vLLM while it samples": "vLLM while it samples: weights and cache",
}
"""What each part is, for the table."""

ALWAYS = ("weights", "reference", "cast", "optimizer", "vLLM")
PHASES = {
    "sampling": (*ALWAYS, "KV cache", "vLLM while it samples"),
    "scoring": (*ALWAYS, "scoring", "whole copy to score with"),
    "training": (*ALWAYS, "gradients", "activations", "logits"),
}
"""The parts that are alive together."""


def phases(setting: Setting) -> dict[str, tuple[str, ...]]:
    """`PHASES`, with the gradients that wait while the same step samples and scores more rollouts."""
    if not setting.samples_midway:
        return dict(PHASES)
    return {phase: alive if "gradients" in alive else (*alive, "gradients") for phase, alive in PHASES.items()}


def sums(found: Mapping[str, int], setting: Setting) -> dict[str, int]:
    """Bytes of each phase."""
    return {phase: sum(found[part] for part in alive) for phase, alive in phases(setting).items()}


def peak(found: Mapping[str, int], setting: Setting) -> tuple[str, int]:
    """The phase that needs most, and its bytes."""
    return max(sums(found, setting).items(), key=lambda item: item[1])
