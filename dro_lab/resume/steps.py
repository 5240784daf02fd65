"""Checkpoints as the trainer meets them: when one is due, what is in it, and where training goes on.

They lie at the borders of generation batches: TRL restores neither its inner step nor the batch that several updates
share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dro_lab.record.writer import RunRecord
from dro_lab.resume.checkpoint import Checkpoints, link_folder, write_state
from dro_lab.resume.interrupt import Interrupt
from dro_lab.resume.split import (
    SCHEDULER,
    load_optimizer,
    load_weights,
    load_zero,
    save_optimizer,
    save_weights,
    save_zero,
)

LAGGED = "lagged.safetensors"
BEST = "best"


class Carried(Protocol):
    """A part of a run with memory."""

    def carried(self) -> Mapping[str, Any]:
        """What it must know to go on, as plain JSON."""

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on from there."""


class ResumableSteps:
    """Stands before TRL's trainer in the order of classes, and makes its checkpoints whole or not there at all."""

    saving: Saving | None = None
    accelerator: Any
    args: Any
    state: Any
    policy: Any
    optimizer: Any
    lr_scheduler: Any
    model_wrapped: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the lab keeps its own record."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's, with the lab's own beside it."""
        saving, ranks, step = self.saving, self.accelerator, self.state.global_step
        assert saving is not None
        self.state.log_history = []  # it is in metrics.jsonl, and would be written anew each time

        def fill() -> Path:
            ranks.wait_for_everyone()
            super(ResumableSteps, self)._save_checkpoint(model, trial)  # type: ignore[misc]
            made = Path(self.args.output_dir) / f"checkpoint-{step}"
            saving.fill(made, step=step, rank=ranks.process_index)
            ranks.wait_for_everyone()
            return made

        if ranks.is_main_process:
            saving.checkpoints.write(step, fill)
        else:
            fill()
            saving.checkpoints.last = step
        ranks.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Transformers'; split weights in a form of our own."""
        folder = Path(output_dir or self.args.output_dir)
        if self.is_fsdp_enabled:
            save_weights(self.policy, folder, writes=self.accelerator.is_main_process)
        elif self.is_deepspeed_enabled:
            save_zero(self.model_wrapped, folder, rank=self.accelerator.process_index)
        else:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        first, folder = self.accelerator.is_main_process, Path(output_dir)
        if self.is_fsdp_enabled:
            save_optimizer(self.policy, self.optimizer, folder, writes=first)
        elif not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        if first:
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)  # type: ignore[misc]
        made = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[misc]
        if resume_from_checkpoint is not None:
            ranks = self.accelerator
            folder = Path(resume_from_checkpoint)
            load_zero(self.model_wrapped, folder, rank=ranks.process_index, ranks=ranks.num_processes)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return made

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            load_weights(self.policy, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if self.is_fsdp_enabled and checkpoint is not None:  # of which transformers has found nothing that it knows
            folder = Path(checkpoint)
            load_optimizer(self.policy, self.optimizer, folder, first=self.accelerator.is_main_process)
            self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))


@dataclass
class Saving(TrainerCallback):
    """Decides when to save, and knows what.

    Args:
        every: optimizer steps between two checkpoints, at least; 0: none but on Ctrl-C.
        planned: optimizer steps of the run; after the last nothing is saved, since the run ends.
        parts: of the run with memory, by name.
        best: the folder of the best policy so far, where the run keeps it.
        lagged: the lagged policy's weights; none where nobody asks for it.
        about: written beside, to be compared when the run goes on.
    """

    checkpoints: Checkpoints
    record: RunRecord
    every: int
    planned: int
    parts: Callable[[], Mapping[str, Carried]]
    best: Callable[[], Path | None]
    lagged: Callable[[], Mapping[str, torch.Tensor]]
    about: Mapping[str, Any]
    interrupt: Interrupt
    trainer: Any = None
    _first: int = 0  # step at which this process began

    def fill(self, made: Path, *, step: int, rank: int) -> None:
        """Write the lab's own state into a checkpoint that is being made."""
        parts = {name: part.carried() for name, part in self.parts().items()}
        state = {"step": step, **self.about, "parts": parts, "record": self.record.mark()}
        write_state(made, state, rank=rank)
        if rank == 0:
            if tensors := self.lagged():
                save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, made / LAGGED)
            if (best := self.best()) is not None:
                link_folder(best, made / BEST)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first = state.global_step
        advance_sampler(kwargs["train_dataloader"], step=state.global_step, rounds=args.gradient_accumulation_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Behind the observer, which has recorded the step and evaluated: a checkpoint holds all of its step."""
        if not logs or "loss" not in logs:
            return
        asked = self._asked()
        if control.should_training_stop or state.global_step >= self.planned:
            if asked:
                raise KeyboardInterrupt
            self.interrupt.at_once = True
            return
        last = max(self.checkpoints.last or 0, self._first)
        due = self.every and state.global_step // self.every > last // self.every
        if (asked or due) and self._at_border():
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._asked():
            raise KeyboardInterrupt

    def _at_border(self) -> bool:
        """Whether the next update samples anew."""
        step, shared = self.trainer._step, self.trainer.args.steps_per_generation * self.trainer.num_iterations
        return bool(step % shared == 0)

    def _asked(self) -> bool:
        """Whether Ctrl-C reached any rank: all save together."""
        ranks = self.trainer.accelerator
        if ranks.num_processes == 1:
            return self.interrupt.asked
        return bool(ranks.gather(torch.tensor([int(self.interrupt.asked)], device=ranks.device)).any())


def advance_sampler(loader: Any, *, step: int, rounds: int) -> None:
    """Bring TRL's sampler to the epoch of ``step``: it draws an order each epoch from numbers of its own, which the
    trainer, who skips the batches within the epoch, knows nothing of."""
    sampler = loader.batch_sampler
    while hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    sampler = sampler.sampler
    for _ in range(step // max(1, math.ceil(len(loader) / rounds))):
        torch.randperm(sampler.num_samples, generator=sampler.generator)
