"""Starting two processes on a CPU as accelerate's launcher does, and what they report."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from dro_lab.launch.world import CONF

ROOT = Path(__file__).parents[2]


def launcher_env(name: str) -> dict[str, str]:
    """The variables by which accelerate's launcher hands ``conf/launch/NAME.yaml`` to the processes."""
    file = str(CONF / "launch" / f"{name}.yaml")
    before = dict(os.environ)
    args = launch_command_parser().parse_args(["--config_file", file, "--num_processes", "2", "script.py"])
    args = _validate_launch_command(args)[0]
    if name == "zero3":
        args.deepspeed_fields_from_accelerate_config = ",".join(load_config_from_file(file).deepspeed_config)
        env = prepare_deepspeed_cmd_env(args)[1]
    else:
        env = prepare_multi_gpu_env(args)
    os.environ.clear()
    os.environ.update(before)
    return {key: str(value) for key, value in env.items() if before.get(key) != value}


@dataclass(frozen=True)
class Ended:
    """How the two processes ended."""

    codes: list[int | None]
    texts: list[str]
    seconds: float


def run_two(folder: Path, jobs: Sequence[Mapping[str, Any]], *, timeout: float) -> Ended:
    """Run ``jobs`` one after the other in two processes that train together; one that fails ends the other.

    Processes that are alive after ``timeout`` seconds are killed; their code is None.
    """
    file = folder / "jobs.json"
    file.write_text(json.dumps(list(jobs)))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start, running, logs = time.monotonic(), [], []
    for rank in range(2):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        logs.append((folder / f"rank{rank}.txt").open("w"))
        line = [sys.executable, "-m", "tests.launch.worker", str(file)]
        running.append(subprocess.Popen(line, cwd=folder, env=env, stdout=logs[-1], stderr=subprocess.STDOUT))
    while any(one.poll() is None for one in running) and time.monotonic() - start < timeout:
        if any(one.poll() not in (None, 0) for one in running):
            time.sleep(2)
            break
        time.sleep(0.1)
    codes = [one.poll() for one in running]
    for one, log in zip(running, logs, strict=True):
        one.kill()
        one.wait()
        log.close()
    texts = [(folder / f"rank{rank}.txt").read_text() for rank in range(2)]
    return Ended(codes, texts, time.monotonic() - start)
