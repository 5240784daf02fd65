"""Memory of one device at its peak, by part, in bytes. Estimates: kernels' workspaces and fragmentation come on top.

What is alive when: weights and the optimizer's state always; gradients and activations in the update; the cache in
sampling; the scorer's cache and logits in scoring. The peak is the largest of the three phases.
"""

from __future__ import annotations

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
    """Bytes on one device by part: weights, optimizer, gradients, activations, logits, KV cache, scoring."""
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
        "weights": (weights + adapter + reference) // share + copies // share,
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


PHASES = {
    "sampling": ("weights", "optimizer", "KV cache", "vLLM", "vLLM while it samples"),
    "scoring": ("weights", "optimizer", "scoring", "whole copy to score with", "vLLM"),
    "training": ("weights", "optimizer", "gradients", "activations", "logits", "vLLM"),
}
"""The parts that are alive together."""


def peak(found: dict[str, int]) -> tuple[str, int]:
    """The phase that needs most, and its bytes."""
    sums = {phase: sum(found[part] for part in alive) for phase, alive in PHASES.items()}
    phase = max(sums, key=lambda name: sums[name])
    return phase, sums[phase]
