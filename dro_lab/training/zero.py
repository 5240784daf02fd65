"""DeepSpeed makes its update within the backward pass, and keeps the gradients to itself: what the lab does between
backward and update is done there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def updates_itself(accelerator: Any) -> bool:
    """Whether the engine, and not the trainer, decides on updates."""
    return bool(accelerator.distributed_type.value == "DEEPSPEED")


def ask_before_updates(engine: Any, norm_of_left_out: Callable[[], float | None]) -> None:
    """Have each update asked for first.

    Args:
        engine: DeepSpeed's, of stage 3.
        norm_of_left_out: None where the update is made; else the norm of the gradient that is thrown away. All ranks
            must answer alike.
    """
    optimizer = engine.optimizer
    step = optimizer.step

    def asked(*args: Any, **kwargs: Any) -> None:
        norm = norm_of_left_out()
        if norm is None:
            step(*args, **kwargs)
            return
        # what DeepSpeed does itself with a gradient that has overflowed, but the learning rate goes on as elsewhere
        optimizer._pre_step()
        optimizer._partition_all_parameters()
        optimizer._overflow_clean_up(optimizer.loss_scale)
        optimizer.overflow = False
        optimizer._global_grad_norm = norm

    optimizer.step = asked
