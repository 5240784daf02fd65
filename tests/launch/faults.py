"""What tests plant in a run of two processes."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch

from dro_lab.types import GateResult, Rewards, RolloutGroups, TokenStats


def second_half(groups: RolloutGroups, stats: TokenStats, rewards: Rewards) -> GateResult:
    """A gate that rejects the second half of a step's prompts: all of the second rank's."""
    prompts = groups.shape[0]
    admit_P = torch.arange(prompts) < prompts // 2
    return GateResult(
        admit_P=admit_P,
        failed_PG=~admit_P[:, None].expand(groups.shape),
        rewards=rewards,
        reasons_P=["" if admit else "the second rank's" for admit in admit_P.tolist()],
    )


def score_through_fsdp(rank: int) -> None:
    """What the lab does not do: each rank scores its own texts by forwards of the split policy."""
    import dro_lab.scoring.plain as plain
    from dro_lab.training.trainer import LabTrainer

    plain.plain_head = lambda model: False  # through the model's own forward, where FSDP gathers weights

    def readable(self: Any) -> Any:
        return self.policy

    LabTrainer.readable = readable


def score_unequally_through_fsdp(rank: int) -> None:
    """The same, and the first rank reads one text a forward where the second reads all at once."""
    from dro_lab.scoring.plain import PlainEngine

    score_through_fsdp(rank)
    score = PlainEngine.score

    def unequally(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._tokens_per_batch = 1 if rank == 0 else 10**6
        return score(self, *args, **kwargs)

    PlainEngine.score = unequally


def die(rank: int) -> None:
    """The second rank fails while it scores."""
    from dro_lab.training.trainer import LabTrainer

    if rank == 1:

        def readable(self: Any) -> Any:
            raise RuntimeError("planted")

        LabTrainer.readable = readable


def kill_in_step_5(rank: int) -> None:
    """Behind the checkpoint of step 4: both processes are gone."""
    _at_the_end_of_step_5(signal.SIGKILL)


def interrupt_in_step_5(rank: int) -> None:
    """Ctrl-C reaches the second process alone."""
    _at_the_end_of_step_5(signal.SIGINT if rank == 1 else None)


def _at_the_end_of_step_5(number: int | None) -> None:
    from dro_lab.training.observer import RunObserver

    ended = RunObserver.on_step_end

    def signalled(self: Any, args: Any, state: Any, *rest: Any, **named: Any) -> Any:
        if state.global_step == 5:
            RunObserver.on_step_end = ended
            if number is not None:
                os.kill(os.getpid(), number)
        return ended(self, args, state, *rest, **named)

    RunObserver.on_step_end = signalled
