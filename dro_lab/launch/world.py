"""Which process of how many this is, and whether that is what ``launch=`` says.

Two launches that look right silently give one process or plain DDP (``accelerate launch --cpu --num_processes 2``, and
FSDP on a CPU), so the environment is looked at before anything is loaded, and the wrapped model before training.
Nothing heavy is imported here.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dro_lab.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"

RANK, SIZE = "RANK", "WORLD_SIZE"
"""What torch's launcher tells each process."""

NONE, DDP, FSDP, DEEPSPEED = "NO", "MULTI_GPU", "FSDP", "DEEPSPEED"
"""accelerate's names of the ways to share the work."""
KINDS = {NONE: "one process", DDP: "DDP", FSDP: "FSDP", DEEPSPEED: "DeepSpeed"}
SPLIT = frozenset({FSDP, DEEPSPEED})
"""Those that split the weights over the devices."""
SWITCHES = {FSDP: "ACCELERATE_USE_FSDP", DEEPSPEED: "ACCELERATE_USE_DEEPSPEED"}
"""The variables by which accelerate's launcher switches an engine on."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def world(environ: Mapping[str, str] = os.environ) -> World:
    """What the launcher said; one process where there was none."""
    return World(int(environ.get(RANK, "0")), int(environ.get(SIZE, "1")))


def processes(cfg: DictConfig) -> int:
    """The processes of a run, those of all machines together."""
    launch = cfg.get("launch") or {}
    return int(launch.get("num_processes") or 1)


def splits_weights(cfg: DictConfig) -> bool:
    """Whether no device holds the whole policy."""
    return (cfg.get("launch") or {}).get("distributed_type") in SPLIT


def check_launch(cfg: DictConfig, name: str, *, environ: Mapping[str, str] = os.environ) -> None:
    """Check that the processes that run are those that ``launch=`` announces.

    Args:
        cfg: the composed configuration.
        name: the chosen option of `launch`.

    Raises:
        UserError: another number of processes, another engine, or a run that these processes cannot make.
    """
    kind = str(cfg.launch.get("distributed_type", NONE))
    if kind not in KINDS:
        raise UserError(f"launch.distributed_type={kind}: must be one of {', '.join(KINDS)}; choose with launch=NAME")
    here, said = world(environ), processes(cfg)
    started = f"start it with `python -m dro_lab.launch` in the place of `python -m dro_lab.run` (launch={name})"
    if here.size != said:
        if here.size == 1:
            raise UserError(
                f"launch={name}: launch.num_processes={said}, but this is one process alone: {started}, or take "
                "launch=single"
            )
        raise UserError(
            f"launch={name}: launch.num_processes={said}, but this is process {here.rank} of {here.size}: set "
            f"launch.num_processes={here.size}" + (" and launch=ddp, fsdp or zero3" if kind == NONE else "")
        )
    if kind == NONE and here.size > 1:
        raise UserError(f"launch={name}: says one process, but {here.size} were started; choose launch=ddp")
    on = [other for other, switch in SWITCHES.items() if environ.get(switch, "false").lower() == "true"]
    if kind in SWITCHES and kind not in on:
        raise UserError(
            f"launch={name}: {KINDS[kind]} is not switched on ({SWITCHES[kind]} is not set), so plain DDP would run: "
            f"{started}, or use `accelerate launch --config_file conf/launch/{name}.yaml -m dro_lab.run`"
        )
    if on and kind not in on:
        raise UserError(
            f"launch={name}: the launcher switched {KINDS[on[0]]} on ({SWITCHES[on[0]]}=true); choose the launch "
            f"option that says so, or start the run without it"
        )
    if kind in SPLIT and not cfg.steps:
        raise UserError(
            f"steps=0 with launch={name}: weights are split for training alone; evaluate with launch=single or ddp"
        )
    check_engine(cfg.launch)


def check_engine(launch: Mapping[str, Any]) -> None:
    """Check that the engine is installed, and used as the lab knows it.

    Raises:
        UserError: DeepSpeed is not installed, or another stage of it is asked for.
    """
    if launch["distributed_type"] != DEEPSPEED:
        return
    stage = (launch.get("deepspeed_config") or {}).get("zero_stage")
    if stage != 3:
        raise UserError(
            f"launch.deepspeed_config.zero_stage={stage}: must be 3, which splits weights, gradients and the "
            "optimizer's state; launch=ddp splits none of them"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("launch=zero3: DeepSpeed is not installed; `pip install deepspeed`, or take launch=fsdp")


def check_wrapped(trainer: Any, cfg: DictConfig, name: str) -> None:
    """Check that accelerate made of the launch what it announces: the engine and, once training begins, the wrapper.

    Raises:
        UserError: it did not, for example since FSDP was asked for on a CPU.
    """
    kind, state = str(cfg.launch.get("distributed_type", NONE)), trainer.accelerator
    made = state.distributed_type.value
    fits = made.startswith("MULTI_") if kind == DDP else made == kind
    if not fits or state.num_processes != processes(cfg):
        hint = " accelerate has FSDP for accelerators only: on a CPU take launch=ddp" if kind == FSDP else ""
        raise UserError(
            f"launch={name}: accelerate made {made} with {state.num_processes} processes of it, where {kind} with "
            f"{processes(cfg)} was asked for.{hint}"
        )
    wrapper = WRAPPERS.get(kind)
    wrapped = trainer.model_wrapped
    if wrapper and wrapped is not trainer.model and wrapper not in {c.__name__ for c in type(wrapped).__mro__}:
        raise UserError(
            f"launch={name}: the policy is wrapped as {type(wrapped).__name__}, where {wrapper} was to be; "
            "see `pip show accelerate torch`"
        )


WRAPPERS = {DDP: "DistributedDataParallel", FSDP: "FSDPModule", DEEPSPEED: "DeepSpeedEngine"}


def silent_rank(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The command line for this process: one that is not the first gets Hydra's files out of everybody's way.

    Each process would make a run folder of its own by its own clock; the first one's is the run's, and the others are
    told it later (`dro_lab.launch.group.same`).
    """
    given = list(arguments)
    looking = {"--help", "-h", "--cfg", "-c", "--info", "-i", "--hydra-help"} & {a.partition("=")[0] for a in given}
    if world(environ).first or looking:
        return given
    aside = tempfile.mkdtemp(prefix="dro_lab_rank")
    atexit.register(shutil.rmtree, aside, ignore_errors=True)
    return [
        *given,
        f"hydra.run.dir={aside}",
        "hydra.output_subdir=null",
        "hydra.job_logging.loggers.dro_lab.handlers=[]",
    ]
