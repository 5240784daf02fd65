"""What the processes of a run tell each other: objects, in the order of their ranks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train together.

    Args:
        index: of this one.
        count: of all.
        exchange: gives what every rank gave, in their order; all ranks must call it.
    """

    index: int = 0
    count: int = 1
    exchange: Callable[[Any], list[Any]] = lambda value: [value]

    def all(self, value: T) -> list[T]:
        """The value of every rank."""
        return [value] if self.count == 1 else self.exchange(value)


def ranks() -> Ranks:
    """The ranks of the running process group; one where there is none."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size(), _exchange)


def _exchange(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def same(value: T) -> T:
    """The first rank's value, on every rank: decisions that all must take alike."""
    if ranks().count == 1:
        return value
    found = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def join(*, cpu: bool) -> None:
    """Form the group, as the trainer would do later."""
    from accelerate.state import PartialState

    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # of names that DeepSpeed calls
    PartialState(cpu=cpu)


def leave() -> None:
    """Dissolve the group at the end of the process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
