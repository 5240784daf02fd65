"""The plan of a run: computed from its configuration, printed as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from dro_lab.models import policy_spec
from dro_lab.plan import flops
from dro_lab.plan.flops import Work
from dro_lab.plan.memory import LABELS, Setting, parts, peak, phases, sums
from dro_lab.plan.settings import Question, setting_of, work_of
from dro_lab.plan.shape import ModelShape, shape_of
from dro_lab.plan.speed import GPUS, Gpu, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would take on the device that was asked about."""

    model: str
    shape: ModelShape
    work: Work
    setting: Setting
    question: Question
    memory: Mapping[str, int]  # bytes on one device by part
    flops: Mapping[str, int]  # of a step on all devices by part
    seconds: Mapping[str, float]  # of a step by part
    on_cpu: bool = False  # the run itself would use no GPU

    @property
    def gpu(self) -> Gpu:
        return GPUS[self.question.gpu]

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that needs most memory on one device, and its bytes."""
        return peak(self.memory, self.setting)

    @property
    def fits(self) -> bool:
        return self.peak[1] <= self.gpu.memory


def plan(cfg: DictConfig, question: Question) -> Plan:
    """Compute the plan.

    Raises:
        UserError: the model's configuration cannot be read, or the batch is no whole number of groups.
    """
    spec = policy_spec(cfg.model, dataset=str(cfg.dataset.get("name") or "") or None)
    shape = shape_of(spec.path, revision=spec.revision)
    work, setting = work_of(cfg, question), setting_of(cfg, question, shape)
    return Plan(
        model=spec.name,
        shape=shape,
        work=work,
        setting=setting,
        question=question,
        memory=parts(shape, work, setting),
        flops={
            "sampling": flops.sampling(shape, work),
            "scoring": flops.scoring(shape, work),
            "training": flops.training(shape, work),
        },
        seconds=seconds(shape, work, setting, GPUS[question.gpu], question.reached),
        on_cpu=bool(cfg.algorithm.get("use_cpu")),
    )


def show(found: Plan, console: Console, *, steps: int) -> None:
    """Print the plan: memory by part, the step's tokens, FLOPs and time, and what the numbers assume."""
    work, setting, question, shape = found.work, found.setting, found.question, found.shape
    say = console.print
    devices = "1 device" if setting.devices == 1 else f"{setting.devices} devices, weights {_split(setting)}"
    say(f"model    {found.model}: {shape.parameters / 1e9:.3g} B parameters, {shape.layers} layers, {setting.dtype}")
    say(f"device   {question.gpu}, {devices}; computes in {setting.compute}")
    if found.on_cpu:
        say("note     this configuration trains on a CPU (algorithm.use_cpu=true); the figures are the device's")
    say(
        f"step     {work.prompts} prompts x {work.group} rollouts; {work.sampled_tokens:,} tokens sampled, "
        f"{work.trained_tokens:,} trained on (prompt {work.prompt}, completion {work.completion}, reference "
        f"{work.reference} tokens" + (f", {work.prefixes} prefixes" if work.prefixes else "") + ")"
    )
    say(_memory(found))
    phase, most = found.peak
    verdict = "fits" if found.fits else "DOES NOT FIT"
    say(f"peak     {most / 2**30:.2f} GiB, in {phase}: {verdict} in {found.gpu.memory / 2**30:.0f}")
    if not found.fits:
        say(f"smaller  {REMEDIES[phase]}")
    table = Table(box=None, pad_edge=False, header_style="")
    for column in ("a step", "TFLOP", "seconds", "share"):
        table.add_column(column, justify="left" if column == "a step" else "right")
    total = sum(found.seconds.values())
    for name, count in found.flops.items():
        spent = found.seconds[name]
        table.add_row(name, f"{count / 1e12:,.3g}", f"{spent:,.3g}", f"{spent / total:.0%}")
    table.add_row("all", f"{sum(found.flops.values()) / 1e12:,.3g}", f"{total:,.3g}", "100%")
    say(table)
    say(f"run      {steps} steps: {_duration(total * steps)}, evaluations not counted")
    say(
        f"[assumed: {question.mfu:.0%} of the device's FLOP/s (mfu=), {question.bandwidth:.0%} of its bandwidth "
        f"(bandwidth=), {question.layer_start * 1000:g} ms a layer and sampled token (layer_start=); every "
        "completion as long as said. Estimates: measure a few steps before you rely on them]",
        markup=False,
    )


def _memory(found: Plan) -> Table:
    """A row a part and a column a phase, since not all parts are alive together."""
    alive, setting = phases(found.setting), found.setting
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("GiB of one device while it is in", no_wrap=True)
    for phase in alive:
        table.add_column(phase, justify="right", no_wrap=True)
    for part, size in found.memory.items():
        if size:
            label = LABELS[part].format(dtype=setting.dtype, compute=setting.compute)
            if part == "gradients" and setting.samples_midway:
                label += " (they wait while a step samples more)"
            table.add_row(label, *(f"{size / 2**30:.2f}" if part in held else "" for held in alive.values()))
    table.add_row("together", *(f"{size / 2**30:.2f}" for size in sums(found.memory, setting).values()))
    return table


REMEDIES = {
    "sampling": "completion_tokens= if completions are shorter than rollout.max_completion_length allows, else lower "
    "that, or algorithm.steps_per_generation (null: gradient_accumulation_steps): a device samples so many times "
    "per_device_train_batch_size rollouts at once; with rollout=vllm_colocate algorithm.vllm_gpu_memory_utilization",
    "scoring": "lower scorer.tokens_per_batch and scorer.lm_head_chunk",
    "training": "lower algorithm.per_device_train_batch_size, set algorithm.gradient_checkpointing=true, or split the "
    "weights (launch=fsdp)",
}
"""What makes a phase smaller."""


def _split(setting: Setting) -> str:
    return "split over them" if setting.sharding == "full" else "on each"


def _duration(spent: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if spent >= 2 * size:
            return f"{spent / size:.1f} {name}"
    return f"{spent:.0f} seconds"
