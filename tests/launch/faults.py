"""What tests plant in a run of two processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
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


_undo: list[Callable[[], None]] = []


def _until_the_next(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """A method replaced by what is made of it; jobs of one process come one after the other."""
    undo()
    own, inherited = getattr(owner, name), name not in vars(owner)
    setattr(owner, name, make(own))
    _undo.append(lambda: delattr(owner, name) if inherited else setattr(owner, name, own))


def undo() -> None:
    """What was replaced is as before."""
    while _undo:
        _undo.pop()()


def nan_loss_on_the_second(rank: int) -> None:
    """In step 2, in the first of the batches that make one update."""
    from dro_lab.training.trainer import LabTrainer

    def make(own: Any) -> Any:
        steps: list[int] = []

        def compute(self: Any, model: Any, inputs: Any) -> Any:
            steps.append(self.state.global_step)
            return own(self, model, inputs) * (torch.nan if rank == 1 and steps.count(1) == steps[-1] == 1 else 1.0)

        return compute

    _until_the_next(LabTrainer, "_compute_loss", make)


def nan_gradient_on_the_second(rank: int) -> None:
    """In step 2, in the part of one gradient that the second process has."""
    from dro_lab.training.nonfinite import FiniteGuard

    def make(own: Any) -> Any:
        def gradients(self: Any, parts: Any, all_of: Any) -> None:
            if rank == 1 and self.step == 1:
                next(part for name, part in parts.items() if name.endswith("0.mlp.up_proj.weight")).fill_(torch.nan)
            own(self, parts, all_of)

        return gradients

    _until_the_next(FiniteGuard, "gradients", make)


def nothing_to_learn_in_step_2(rank: int) -> None:
    """Advantages of 0, so a gradient of 0."""
    from dro_lab.pipeline import Pipeline

    def make(own: Any) -> Any:
        steps: list[int] = []

        def advantages(*args: Any, **named: Any) -> Any:
            steps.append(len(steps) + 1)
            return own(*args, **named) * (0.0 if steps[-1] == 2 else 1.0)

        return advantages

    _until_the_next(Pipeline, "advantages", make)
