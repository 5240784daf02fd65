"""How long a step takes on a named GPU: FLOPs over what the device reaches of its peak, or bytes over its bandwidth.

Sampling goes token by token: each round reads all weights and the caches once, so memory bounds it, and each layer
costs the time to start its kernels. The shares of the peaks are assumptions, printed with every plan, and to be
replaced by measurements on one's own machine (``python -m dro_lab.plan ... mfu=0.4``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dro_lab.plan import flops
from dro_lab.plan.flops import Work
from dro_lab.plan.memory import BYTES, Setting
from dro_lab.plan.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device by its data sheet: dense bf16 FLOP/s, bytes/s of its memory, bytes of memory."""

    flops: float
    bandwidth: float
    memory: float


TERA, GIB = 1e12, 2**30
GPUS: Mapping[str, Gpu] = {
    "b200": Gpu(flops=2250 * TERA, bandwidth=8.0 * TERA, memory=180 * GIB),
    "h200": Gpu(flops=989 * TERA, bandwidth=4.8 * TERA, memory=131 * GIB),
    "h100": Gpu(flops=989 * TERA, bandwidth=3.35 * TERA, memory=80 * GIB),
    "a100": Gpu(flops=312 * TERA, bandwidth=2.04 * TERA, memory=80 * GIB),
    "l40s": Gpu(flops=362 * TERA, bandwidth=0.864 * TERA, memory=44 * GIB),
    "rtx4090": Gpu(flops=165 * TERA, bandwidth=1.008 * TERA, memory=24 * GIB),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What a device reaches of its data sheet.

    Args:
        mfu: share of the peak FLOP/s in training and scoring.
        bandwidth: share of the memory's bandwidth in decoding.
        launch: seconds a layer takes to start in a decoding round (transformers' generate; CUDA graphs: far less).
    """

    mfu: float
    bandwidth: float
    launch: float


def decode_bytes(shape: ModelShape, work: Work, setting: Setting) -> int:
    """Bytes that sampling reads on one device: all weights once a round of each batch, and the caches as they grow."""
    compute = BYTES[setting.compute]
    rollouts, batches = _shares(work, setting)
    weights = shape.parameters * compute * work.completion
    places = work.completion * work.prompt + flops.causal(work.completion)
    return batches * weights + rollouts * places * shape.kv_per_token * compute


def seconds(shape: ModelShape, work: Work, setting: Setting, gpu: Gpu, reached: Efficiency) -> dict[str, float]:
    """Seconds of a step by part: sampling, scoring, training."""
    rate = gpu.flops * reached.mfu * setting.devices
    read = decode_bytes(shape, work, setting) / (gpu.bandwidth * reached.bandwidth)
    _, batches = _shares(work, setting)
    started = batches * work.completion * shape.layers * reached.launch
    return {
        "sampling": max(flops.sampling(shape, work) / rate, read) + started,
        "scoring": flops.scoring(shape, work) / rate,
        "training": flops.training(shape, work) / rate,
    }


def _shares(work: Work, setting: Setting) -> tuple[int, int]:
    """Rollouts that a device samples in a step, and the batches it samples them in."""
    rollouts = -(-work.rollouts // setting.devices)
    return rollouts, -(-rollouts // max(1, setting.sampled))
