"""``python -m dro_lab.launch launch=ddp [launch.num_processes=4] [KEY=VALUE ...]``: a run by several processes.

Checks the configuration once, prints the command of accelerate that starts the processes, and runs it. Ctrl-C is
handed on to them: they finish their step, save, and say how to go on.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.commands import checked, command
from dro_lab.errors import UserError
from dro_lab.launch.world import CONF, DEEPSPEED, FSDP, KINDS, NONE, SPLIT, check_engine

USAGE = """\
usage: python -m dro_lab.launch [--print] launch=ddp|fsdp|zero3 [launch.num_processes=8] [KEY=VALUE ...]

Starts `python -m dro_lab.run` with these overrides in several processes, by `accelerate launch`, whose command it
prints (--print: and nothing else). The keys of launch are those of accelerate's configuration, conf/launch/NAME.yaml:
  launch.num_processes=8      of all machines together: one for each device (a CPU takes part in launch=ddp)
  launch.num_machines=2       start the command on each, with
  launch.machine_rank=0       its number, and
  launch.main_process_ip=IP   the address of machine 0
All other keys are those of `python -m dro_lab.run`."""
ACCELERATE = "accelerate.commands.launch"
PATIENCE = 3600
"""Seconds that processes may take to finish a step and save it after Ctrl-C; a second Ctrl-C ends them at once."""
PORT = 29500
"""Where machine 0 of several waits for the others, unless launch.main_process_port says otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the processes; returns an exit status only for ``--print``, and 2 with one message on stderr."""
    return command(arguments, _launch, usage=USAGE, interrupted="interrupted")


def _launch(given: list[str]) -> int | None:
    overrides = [argument for argument in given if argument != "--print"]
    if several := [argument for argument in overrides if argument in ("--multirun", "-m")]:
        raise UserError(
            f"{several[0]}: processes that train together make one run. A grid has jobs of one process each: "
            "python -m dro_lab.run --multirun launch=single ... (hydra/launcher=slurm on a cluster)"
        )
    cfg = checked(overrides)
    if "--print" not in given:  # which shows the command for another machine
        check_machine(cfg)
    line = _line(cfg, overrides)
    print(shlex.join(line), flush=True)
    if "--print" in given:
        return None
    if ACCELERATE not in line:
        os.execv(line[0], line)
    return _accelerate(line[line.index(ACCELERATE) + 1 :])


def check_machine(cfg: DictConfig) -> None:
    """Check, before several processes start and each complains, that this machine has what they need.

    Raises:
        UserError: an engine, vLLM, a GPU or a number of them that is not here.
    """
    launch = cfg.launch
    if launch.distributed_type == NONE:
        return
    from dro_lab.training.arguments import check_precision, check_vllm

    use_cpu = bool(cfg.algorithm.get("use_cpu"))
    _check_devices(launch, 0 if use_cpu else devices(), use_cpu=use_cpu)
    check_engine(launch)
    if cfg.rollout.use_vllm:
        check_vllm()
    check_precision(cfg.algorithm)


def _check_devices(launch: DictConfig, found: int, *, use_cpu: bool) -> None:
    kind = str(launch.distributed_type)
    name = NAMES.get(kind, "ddp")
    here = -(-int(launch.num_processes) // int(launch.num_machines))
    if found and here > found:
        machines = int(launch.num_machines)
        raise UserError(
            f"launch.num_processes={launch.num_processes}: one process for each GPU"
            + (f", {here} on each of {machines} machines" if machines > 1 else "")
            + f", but {found} {'was' if found == 1 else 'were'} found on this machine; set "
            f"launch.num_processes={found * machines}" + (", or launch=single for one GPU" if found == 1 else "")
        )
    if found or kind not in SPLIT or (use_cpu and kind == DEEPSPEED):
        return
    why = "algorithm.use_cpu=true trains on the CPU" if use_cpu else "no GPU was found on this machine"
    raise UserError(
        f"launch={name}: {why}, and {KINDS[kind]} splits weights over GPUs. On a CPU take launch=ddp with "
        "scale=laptop; for another machine, --print shows the command, and `python -m dro_lab.plan` what it would take"
    )


NAMES = {FSDP: "fsdp", DEEPSPEED: "zero3"}
"""The options of launch that split weights."""


def devices() -> int:
    """The devices of this machine that take a process each; a Mac's is none of them."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    return 0 if kind is None or kind.type == "mps" else torch.accelerator.device_count()


def _accelerate(options: list[str]) -> int:
    """accelerate's launcher in this process; returns the status of the command.

    Ctrl-C reaches the launcher alone, whose processes have sessions of their own, and it hands it on: they finish their
    step and save, for which torch's launcher would leave them 30 seconds.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(PATIENCE))
    from accelerate.commands.launch import launch_command as start
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed import run as _loaded  # noqa: F401  (with it the loggers below)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # that a signal came and is handed on is no warning
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        start(launch_command_parser().parse_args(options))
    except SignalException as signalled:
        return 128 + int(signalled.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = int(failure.exitcode)
        how = f"ended with status {code}" if code > 0 else f"was killed by signal {-code}"
        print(f"process {rank} {how}; what it said stands above", file=sys.stderr)
        return code if code > 0 else 128 - code
    return 0


def launch_command(overrides: Sequence[str]) -> list[str]:
    """The command that starts the processes.

    Raises:
        UserError: what the run would refuse before it loads anything.
    """
    return _line(checked(overrides), overrides)


def _line(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    launch: dict[str, Any] = OmegaConf.to_container(cfg.launch, resolve=True)  # type: ignore[assignment]
    run = ["-m", "dro_lab.run", *overrides]
    if launch["distributed_type"] == NONE:
        return [sys.executable, *run]
    machines = launch["num_machines"]
    if machines > 1 and not launch["main_process_ip"]:
        raise UserError(
            f"launch.num_machines={machines}: give launch.main_process_ip, the address of the machine that is started "
            "with launch.machine_rank=0"
        )
    launch["main_process_port"] = launch["main_process_port"] or (PORT if machines > 1 else _free_port())
    given = {key: launch[key] for key in OPTIONS if launch[key] is not None}
    options = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", ACCELERATE, "--config_file", _file(launch), *options, *run]


OPTIONS = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
"""Keys of the configuration that are options of the command too."""


def _file(launch: Mapping[str, Any]) -> str:
    """The configuration for accelerate: the one that was chosen, or with changes to it a file of its own."""
    own = {key: value for key, value in launch.items() if key not in OPTIONS}
    for path in sorted((CONF / "launch").glob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(path))
        if isinstance(values, dict) and {key: value for key, value in values.items() if key not in OPTIONS} == own:
            return str(path)
    with tempfile.NamedTemporaryFile("w", prefix="dro_lab_launch_", suffix=".yaml", delete=False) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(dict(launch))))
    return file.name


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
