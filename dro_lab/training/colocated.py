"""What starting vLLM with the trainer changes in its process, put right, and what goes wrong there, said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import set_seed

from dro_lab.errors import UserError

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells a process. TRL writes it too, for a vLLM in this process, and it would stay: a later job of the
process would take itself for one of several."""


@contextmanager
def starting_vllm(trainer: Any) -> Iterator[None]:
    """While TRL's trainer is made: afterwards the launcher's variables are as before, and random numbers follow the
    run's seed (vLLM sets them to a seed of its own, the same for every run).

    Ranks that share one copy of vLLM draw the same numbers, as they must.

    Raises:
        UserError: a vLLM server that cannot be reached, or lacks what TRL needs of it.
    """
    before = {name: os.environ.get(name) for name in LAUNCHER}
    try:
        yield
    except (OSError, RuntimeError) as error:
        if getattr(trainer, "vllm_mode", "") != "server" or "vLLM server" not in str(error):
            raise
        raise UserError(
            f"algorithm.vllm_server_base_url: {' '.join(str(error).split())} conf/rollout/vllm_server.yaml has the "
            "command; rollout=vllm_colocate needs no server"
        ) from error
    if trainer.use_vllm and trainer.vllm_mode == "colocate":
        set_seed(trainer.args.seed + trainer.accelerator.process_index // trainer.vllm_tensor_parallel_size)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
