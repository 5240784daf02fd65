"""NaN and infinity are caught where they arise, dumped, and never reach a weight.

Looked at, in the order in which a step makes them: logits while sampling, what scoring measured, rewards (by the
pipeline itself), advantages, what TRL's loss reads, logits in the update, the loss, gradients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dro_lab.errors import NonFiniteError

Action = Literal["stop", "skip"]
"""``stop`` ends the run at once; ``skip`` leaves the update out, goes on, and ends it where that happens in a row."""

DUMP = "nonfinite.safetensors"
SHOWN = 4


@dataclass
class FiniteGuard:
    """Watches one run.

    Args:
        action: see `Action`.
        folder: of the run; the first finding is dumped into `DUMP` there.
        say: a line for the user.
        patience: skipped updates in a row that end the run.
    """

    action: Action
    folder: Path
    say: Callable[[str], None]
    patience: int = 5
    step: int = 0  # optimizer steps done
    found: int = 0  # findings since the start
    poisoned: bool = False  # the coming update must not be made
    _in_a_row: int = 0
    _logits: list[Tensor] = field(default_factory=list)  # by forward: rows whose logits are not finite, on the device
    _prompts: list[str] = field(default_factory=list)  # by rollout of the step, in the order of sampling
    _of_completion: dict[tuple[int, ...], str] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ logits

    def watch(self, model: nn.Module) -> None:
        """Note, without waiting for the device, which rows of each forward have logits that are not finite.

        In the update TRL's fused LM head gives log-probabilities in the place of logits. A masked word's logit of -inf
        is a number here: a row counts where the largest logit of a position is none.
        """
        model.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        found = getattr(output, "log_probs", None)
        if found is None:
            logits = getattr(output, "logits", None)
            if logits is None:
                return
            found = logits.detach().amax(-1)
        bad = ~torch.isfinite(found.detach())
        rows = bad.reshape(len(bad), -1).any(-1)
        if self._logits and self._logits[-1].shape == rows.shape and not torch.is_grad_enabled():
            self._logits[-1] |= rows  # decoding: the same rows, a token later
        else:
            self._logits.append(rows)

    def forget_logits(self) -> None:
        """Begin a new phase."""
        self._logits.clear()

    def bad_logits(self) -> list[int]:
        """The rows noted since the phase began, in the order of its forwards."""
        rows = torch.cat(self._logits).nonzero().flatten().tolist() if self._logits else []
        self.forget_logits()
        return rows

    # ------------------------------------------------------------------------------------------------ findings

    def rollouts(self, prompt_ids: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> None:
        """The rollouts of this step, so that a row of a later, shuffled batch can be named."""
        self._prompts = list(prompt_ids)
        self._of_completion = {tuple(ids): name for ids, name in zip(completion_ids, prompt_ids, strict=True)}

    def sampling(self, rows: Sequence[int], prompts: Sequence[str], *, fatal: bool) -> None:
        """Logits were not finite while sampling; ``fatal``: nothing could be sampled, so there is nothing to skip.

        Raises:
            NonFiniteError: under ``action=stop``, and where it is fatal.
        """
        self._prompts = list(prompts)
        if fatal:
            self.action = "stop"
        self.report("sampling: logits", rows, {})

    def refuse(self, error: NonFiniteError) -> NoReturn:
        """What a component refused, with step and dump.

        Raises:
            NonFiniteError: always.
        """
        names = self._names(error.rows, error.tensors)
        self._dump(error.source, error.rows, names, error.tensors)
        raise NonFiniteError(
            f"step {self.step + 1}: {error}. Rows {_listed(error.rows)} (prompt {_listed(names)}), dumped to "
            f"{self.folder / DUMP}. on_nonfinite=skip counts such a rollout as one that cannot be scored"
        ) from error

    def measured(self, stats: Any) -> None:
        """Look at everything that scoring measured; nan is a value where `dro_lab.types.TokenStats` says so."""
        for entry in fields(stats):
            value = getattr(stats, entry.name)
            if isinstance(value, Tensor) and value.is_floating_point() and entry.name not in MAY_BE_NAN:
                axes = 2 if entry.name.rpartition("_")[2].startswith("PG") else 1
                if rows := bad_rows(value, axes=axes):
                    group = 1 if axes == 2 else len(self._prompts) // len(value)
                    self.report(f"scoring: {entry.name}", [row * group for row in rows], {entry.name: value})

    def advantages(self, advantages: Tensor) -> Tensor:
        """``advantages`` (P, G) or (P, G, C), with 0 where they are not finite."""
        if not (rows := bad_rows(advantages, axes=2)):
            return advantages
        self.report("advantages", rows, {"advantages": advantages})
        return advantages.masked_fill(~torch.isfinite(advantages), 0.0)

    def loss(self, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Look at the loss; where it is not finite, find out which of its inputs or logits began it."""
        if torch.isfinite(loss):
            self.forget_logits()
            return
        of_logits, size = self.bad_logits(), len(batch["completion_ids"])
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        for name, value in tensors.items():
            per_row = value.is_floating_point() and value.dim() and len(value) == size and name not in MAY_BE_NAN
            if per_row and (rows := bad_rows(value)):
                self.report(f"update: {name}", rows, tensors)
                return
        source = "update: logits" if of_logits else "update: loss"
        self.report(source, of_logits, {**tensors, "loss": loss})

    def gradients(self, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        """Look at the gradients before they are clipped: clipping by a norm that is nan spreads it over all."""
        having = [(name, parameter.grad) for name, parameter in named if parameter.grad is not None]
        if self.poisoned or not having:
            return
        norms = torch.stack([norm.float() for norm in torch._foreach_norm([grad for _, grad in having])])
        if not torch.isfinite(norms).all():
            bad = [name for (name, _), norm in zip(having, norms.tolist(), strict=True) if not math.isfinite(norm)]
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            self.report(f"update: gradient of {bad[0]}{more}", [], {bad[0]: dict(having)[bad[0]]})

    def report(self, source: str, rows: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Something is not finite: dump it if it is the first, then stop, or mark the update as one to leave out.

        Raises:
            NonFiniteError: under ``action=stop``.
        """
        self.found += 1
        self.poisoned = True
        names = self._names(rows, tensors)
        where = f" in row{'s' if len(rows) > 1 else ''} {_listed(rows)}" if rows else ""
        of = f" (prompt {_listed(names)})" if names else ""
        message = f"step {self.step + 1}: {source}: not a finite number{where}{of}"
        if self.found == 1:
            self._dump(source, rows, names, tensors)
        message += f"; dumped to {self.folder / DUMP}" if (self.folder / DUMP).exists() else ""
        if self.action == "stop":
            raise NonFiniteError(
                f"{message}. No weight was changed by it. Lower algorithm.learning_rate, look at these rows, or leave "
                "such updates out with on_nonfinite=skip"
            )
        self.say(f"{message}; the update is left out")

    def updated(self, *, skipped: bool) -> None:
        """An update was made or left out.

        Raises:
            NonFiniteError: as many in a row were left out as ``patience`` allows.
        """
        self.poisoned = False
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= self.patience:
            raise NonFiniteError(
                f"step {self.step + 1}: {self._in_a_row} updates in a row were left out since something was not a "
                f"finite number (on_nonfinite=skip); the first is dumped to {self.folder / DUMP}. Lower "
                "algorithm.learning_rate, or look at the model and the rows"
            )

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        return {"found": self.found, "in_a_row": self._in_a_row}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self.found, self._in_a_row = carried["found"], carried["in_a_row"]

    def _names(self, rows: Sequence[int], tensors: Mapping[str, Tensor]) -> list[str]:
        ids, mask = tensors.get("completion_ids"), tensors.get("completion_mask")
        if ids is None or mask is None:
            return list(dict.fromkeys(self._prompts[row] for row in rows if row < len(self._prompts)))
        keys = [tuple(ids[row][mask[row].bool()].tolist()) for row in rows]
        return list(dict.fromkeys(self._of_completion[key] for key in keys if key in self._of_completion))

    def _dump(self, source: str, rows: Sequence[int], names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        about = {"source": source, "step": self.step + 1, "rows": list(rows), "prompts": list(names)}
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(kept, str(self.folder / DUMP), metadata={"found": json.dumps(about)})
        except OSError as error:
            self.say(f"{self.folder / DUMP} could not be written ({error.strerror or error})")


MAY_BE_NAN = frozenset({"verifier_PG", "prefix_entropies_PGK", "sampling_per_token_logps"})
"""Where nan means that something could not be measured."""


def bad_rows(values: Tensor, *, axes: int = 1) -> list[int]:
    """The rows that hold something not finite; the first ``axes`` axes, flattened, are the rows."""
    bad = (~torch.isfinite(values)).reshape(*values.shape[:axes], -1).any(-1)
    found: list[int] = bad.flatten().nonzero().flatten().tolist()
    return found


def _listed(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return shown + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
