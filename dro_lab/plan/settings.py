"""The plan's own keys, and what it reads from a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from dro_lab.build import build_pipeline
from dro_lab.checks import choice, number, whole
from dro_lab.errors import UserError
from dro_lab.launch.world import processes, splits_weights
from dro_lab.plan.flops import Work
from dro_lab.plan.memory import BYTES, Setting
from dro_lab.plan.shape import ModelShape
from dro_lab.plan.speed import GPUS, Efficiency
from dro_lab.types import Stat

READ = (Stat.REFERENCE, Stat.MASKED, Stat.RANKS, Stat.PREFIXES)
"""Statistics for which the scorer reads the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked beside the run's configuration.

    Raises:
        UserError: a value that makes no sense; the message names its key.
    """

    gpu: str = "h100"
    devices: int | None = None  # None: launch.num_processes
    sharding: str | None = None  # none, full; None: as launch= shares the weights
    prompt_tokens: int = 512
    reference_tokens: int = 128
    completion_tokens: int | None = None  # None: rollout.max_completion_length, the most it can be
    mfu: float = 0.35
    bandwidth: float = 0.6
    layer_start: float = 0.0006

    def __post_init__(self) -> None:
        choice("gpu", self.gpu, tuple(GPUS), todo="the nearest one gives the order of magnitude")
        if self.sharding is not None:
            choice("sharding", self.sharding, ("none", "full"), todo="full is FSDP's and ZeRO-3's")
        if self.devices is not None:
            whole("devices", self.devices, low=1, todo="null: launch.num_processes")
        for key in ("prompt_tokens", "reference_tokens"):
            whole(key, getattr(self, key), low=1, todo="the README's table says what it counts")
        if self.completion_tokens is not None:
            whole("completion_tokens", self.completion_tokens, low=1, todo="null: as long as the run allows")
        for key in ("mfu", "bandwidth"):
            number(key, getattr(self, key), low=0.01, high=1.0, todo="the share of the data sheet that is reached")
        number("layer_start", self.layer_start, low=0.0, todo="seconds")

    @property
    def reached(self) -> Efficiency:
        return Efficiency(mfu=self.mfu, bandwidth=self.bandwidth, launch=self.layer_start)


def devices_of(cfg: DictConfig, question: Question) -> int:
    """The devices that share a step."""
    return question.devices or processes(cfg)


def work_of(cfg: DictConfig, question: Question) -> Work:
    """One optimizer step of the run, on all devices."""
    algorithm, group = cfg.algorithm, int(cfg.algorithm.num_generations)
    accumulation = int(algorithm.get("gradient_accumulation_steps") or 1)
    rollouts = int(algorithm.per_device_train_batch_size) * accumulation * devices_of(cfg, question)
    longest = int(cfg.rollout.max_completion_length)
    completion = question.completion_tokens or longest
    if completion > longest:
        raise UserError(f"completion_tokens={completion}: longer than rollout.max_completion_length={longest} allows")
    needs = build_pipeline(cfg, {}).needs
    return Work(
        prompts=rollouts // group,
        group=group,
        prompt=question.prompt_tokens,
        completion=completion,
        reasoning=max(1, completion - question.reference_tokens),  # the answer is about as long as the reference
        reference=question.reference_tokens,
        scores_reference=any(need.stat in READ for need in needs),
        prefixes=max((need.plan.k for need in needs if need.stat is Stat.PREFIXES and need.plan), default=0),
        iterations=int(algorithm.get("num_iterations") or 1),
        checkpointing=bool(algorithm.get("gradient_checkpointing")),
        old_logps=bool(algorithm.get("num_iterations", 1) > 1 or cfg.rollout.get("use_vllm")),
        reference_model=bool(algorithm.get("beta")),
    )


def setting_of(cfg: DictConfig, question: Question, shape: ModelShape) -> Setting:
    """How the run holds its numbers."""
    algorithm = cfg.algorithm
    mixed = "bfloat16" if algorithm.get("bf16") else "float16" if algorithm.get("fp16") else str(cfg.model.dtype)
    per_device = int(algorithm.per_device_train_batch_size)
    accumulation = int(algorithm.get("gradient_accumulation_steps") or 1)
    rounds = int(algorithm.get("steps_per_generation") or accumulation)
    sharding = question.sharding or ("full" if splits_weights(cfg) else "none")
    sampled, engine = per_device * rounds, 0
    if cfg.rollout.use_vllm:
        colocated = algorithm.get("vllm_mode", "colocate") == "colocate"
        if colocated:
            engine = int(GPUS[question.gpu].memory * float(algorithm.get("vllm_gpu_memory_utilization") or 0.3))
            copy = shape.parameters * BYTES[mixed] // int(algorithm.get("vllm_tensor_parallel_size") or 1)
            rollout = (question.prompt_tokens + int(cfg.rollout.max_completion_length)) * shape.kv_per_token
            sampled = max(1, min(sampled, (engine - copy) // (rollout * BYTES[mixed])))
            engine = max(engine, copy + rollout * BYTES[mixed])
        else:
            sampled = 0  # elsewhere
    lora = cfg.model.get("lora") or {}
    return Setting(
        dtype=str(cfg.model.dtype),
        compute=mixed,
        devices=devices_of(cfg, question),
        sharding="full" if sharding == "full" else "none",
        batch=per_device,
        sampled=sampled,
        samples_midway=rounds < accumulation,
        trained=shape.adapter(int(lora["r"])) if cfg.model.get("peft") == "lora" else None,
        engine=engine,
        engine_sleeps=bool(engine and algorithm.get("vllm_enable_sleep_mode")),
        lm_head_chunk=int(cfg.scorer.lm_head_chunk),
        score_tokens=int(cfg.scorer.tokens_per_batch),
    )
