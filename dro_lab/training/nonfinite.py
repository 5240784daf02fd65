"""NaN and infinity are caught where they arise, dumped, and never reach a weight.

Looked at, in the order in which a step makes them: logits while sampling, what scoring measured, rewards (infinities by
the pipeline itself), advantages, what TRL's loss reads, logits in the update, the loss, gradients.

Of several ranks one may find what the others do not have. It says so at the next place where all of them meet
(`FiniteGuard.agree`), so that all leave the update out, or all end; one that left by itself would have the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dro_lab.errors import NonFiniteError
from dro_lab.launch.group import Ranks
from dro_lab.training.findings import DUMP, NAN_REWARDS, Finding, bad_rows, dump, listed, of_rank

Action = Literal["stop", "skip"]
"""``stop`` ends the run at once; ``skip`` leaves the update out, goes on, and ends it where that happens in a row."""


@dataclass
class FiniteGuard:
    """Watches one run.

    Args:
        action: see `Action`.
        folder: of the run, for all ranks the same; the first finding is dumped into `DUMP` there.
        say: a line for the user; ranks other than the first have nobody to say it to.
        patience: skipped updates in a row that end the run.
        ranks: those that train together; the trainer says which.
    """

    action: Action
    folder: Path
    say: Callable[[str], None]
    patience: int = 5
    ranks: Ranks = field(default_factory=Ranks)
    step: int = 0  # optimizer steps done
    found: int = 0  # findings since the start
    nan_rewards: int = 0  # rollouts since the start
    poisoned: bool = False  # the coming update must not be made
    sampling_now: bool = False
    _in_a_row: int = 0
    _unsaid: list[Finding] = field(default_factory=list)  # found here, the other ranks do not know
    _first: str = ""  # where the first finding of any rank is dumped
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
        found, decoding = getattr(output, "log_probs", None), False
        logits = getattr(output, "logits", None) if found is None else None
        if logits is not None:
            found, decoding = logits.detach().amax(-1), logits.shape[-2] == 1 and not torch.is_grad_enabled()
        if found is None:
            return
        bad = ~torch.isfinite(found.detach())
        rows = bad.reshape(len(bad), -1).any(-1)
        if logits is not None and decoding and self.sampling_now:
            logits.masked_fill_(bad[..., None], 0.0)  # to sample from nan ends one rank, or a GPU, without a word
        if decoding and self._logits and self._logits[-1].shape == rows.shape:
            self._logits[-1] |= rows  # the same rows, a token later
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

    def sampling(self, rows: Sequence[int], prompts: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> None:
        """Logits were not finite while sampling: their rows got words at random.

        Args:
            rows: in the order of the forwards: behind the sampled batch it may have been read again.
            prompts: of the batch, by row.
            completion_ids: what was sampled, by row.
        """
        self._prompts = list(prompts)
        own = sorted({row % len(prompts) for row in rows})
        sampled = {f"completion_ids_of_row_{row}": torch.tensor(completion_ids[row]) for row in own}
        self.report("sampling: logits", own, sampled, hopeless=len(own) == len(prompts))

    def evaluated(self) -> None:
        """Look at the logits of what was sampled for an evaluation; all ranks must call it.

        Raises:
            NonFiniteError: on all ranks: some were not finite, whatever ``action`` is; there is no update to leave out.
        """
        if self.bad_logits():
            todo = "The policy has no probabilities: look at its weights and at algorithm.learning_rate"
            source = "evaluation before this step: logits"
            self._add(f"{source}: not a finite number", source, [], {}, ends=True, todo=todo)
        self.agree()

    def refuse(self, error: NonFiniteError) -> None:
        """What a component refused, with step and dump; of several ranks each has its own rows to tell.

        Raises:
            NonFiniteError: there is one rank.
        """
        size = len(self._prompts)
        rows = [row % size for row in error.rows if row // size == self.ranks.index]
        if error.rows and not rows:
            return
        tensors = {}
        for name, tensor in error.tensors.items():
            prompts = len(tensor) // self.ranks.count
            tensors[name] = tensor[self.ranks.index * prompts : (self.ranks.index + 1) * prompts]
        self._add(
            f"{error}. Not finite",
            error.source,
            rows,
            tensors,
            ends=True,
            todo="on_nonfinite=skip counts such a rollout as one that cannot be scored",
        )

    def rewards(self, name: str, given: Tensor, *, infinite: Sequence[int], nan: Sequence[int]) -> None:
        """Rewards that count as those of rollouts that could not be scored.

        Args:
            name: of the reward.
            given: (P, G): what it gave.
            infinite: rows where it is infinite, under ``action=skip``.
            nan: rows where it is nan, and nothing that the reward read tells why: meant, or slipped in.
        """
        source, tensors = f"reward={name}", {"outcome_PG": given}
        if infinite:
            done = "such rollouts count as not scored and teach nothing"
            self._add(f"{source}: infinite", source, infinite, tensors, done=done)
        if nan and not self.nan_rewards:
            self._add(
                f"{source}: nan, which stands for a rollout that cannot be scored,",
                source,
                nan,
                tensors,
                file=NAN_REWARDS,
                done="such rollouts teach nothing; said once, counted in reward/unscorable_share",
            )
        self.nan_rewards += len(nan)

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
        """``advantages`` (P, G) or (P, G, C), with 0 where they are not finite; all ranks must call it."""
        if rows := bad_rows(advantages, axes=2):
            self.report("advantages", rows, {"advantages": advantages})
            advantages = advantages.masked_fill(~torch.isfinite(advantages), 0.0)
        self.agree()
        return advantages

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

    def gradients(self, parts: Mapping[str, Tensor], all_of: Callable[[str], Tensor]) -> None:
        """Look at the gradients before they are clipped: clipping by a norm that is nan spreads it over all.

        All ranks must call it, whatever they found before: each looks at its own part of a split gradient.

        Args:
            parts: by name: what this rank has of each.
            all_of: gives the whole of one; on all ranks, since it is a collective.
        """
        bad = self.agree(_not_finite(parts))
        if self.poisoned or not bad:
            return
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        self.report(f"update: gradient of {bad[0]}{more}", [], {bad[0]: all_of(bad[0])}, everywhere=True)

    # ------------------------------------------------------------------------------------------------ what follows

    def report(
        self,
        source: str,
        rows: Sequence[int],
        tensors: Mapping[str, Tensor],
        *,
        hopeless: bool = False,
        everywhere: bool = False,
    ) -> None:
        """Something is not finite: the coming update is one to leave out, or the run ends.

        Args:
            hopeless: see `Finding`.
            everywhere: all ranks report the same, and need not tell each other.

        Raises:
            NonFiniteError: the run ends, and all ranks know it.
        """
        self.poisoned = True
        self._add(
            f"{source}: not a finite number",
            source,
            rows,
            tensors,
            ends=self.action == "stop",
            hopeless=hopeless,
            everywhere=everywhere,
        )

    def _add(
        self,
        what: str,
        source: str,
        rows: Sequence[int],
        tensors: Mapping[str, Tensor],
        *,
        file: str = DUMP,
        everywhere: bool = False,
        **more: Any,
    ) -> None:
        names, several = self._names(rows, tensors), self.ranks.count > 1
        here = f", rank {self.ranks.index}" if several and not everywhere else ""
        where = f" in row{'s' if len(rows) > 1 else ''} {listed(rows)}" if rows else ""
        of = f" (prompt {listed(names)})" if names else ""
        self.found += file == DUMP
        path = self.folder / of_rank(file, 0 if everywhere else self.ranks.index)
        first = bool(tensors) and (file != DUMP or self.found == 1)
        if first:
            by_another = everywhere and self.ranks.index
            fault = "" if by_another else dump(path, source, self.step + 1, rows, names, tensors)
            dumped = f"; it could not be dumped to {path} ({fault})" if fault else f"; dumped to {path}"
        else:
            fault, dumped = "", f"; the first is dumped to {path}" if path.exists() else ""
        kept = str(path) if first and not fault and file == DUMP else ""
        finding = Finding(f"step {self.step + 1}{here}: {what}{where}{of}{dumped}", dump=kept, **more)
        if several and not everywhere:
            self._unsaid.append(finding)
        else:
            self._act([[finding]])

    def agree(self, names: Sequence[str] = ()) -> list[str]:
        """Tell each other what was found; all ranks must call it at the same places.

        Args:
            names: known to this rank.

        Returns:
            The names that any rank knows.

        Raises:
            NonFiniteError: on all ranks: the run ends.
        """
        everybody = self.ranks.all((self._unsaid, self.poisoned, list(names)))
        self._unsaid = []
        self.poisoned = any(poisoned for _, poisoned, _ in everybody)
        self._act([findings for findings, *_ in everybody])
        return list(dict.fromkeys(name for *_, known in everybody for name in known))

    def _act(self, by_rank: Sequence[Sequence[Finding]]) -> None:
        findings = [finding for found in by_rank for finding in found]
        hopeless = all(any(finding.hopeless for finding in found) for found in by_rank)
        ending = [finding for finding in findings if finding.ends or hopeless]
        self._first = next((path for path in (self._first, *(finding.dump for finding in findings)) if path), "")
        if ending:
            more = f" (and {len(ending) - 1} more of it)" if len(ending) > 1 else ""
            raise NonFiniteError(f"{ending[0].text}{more}. {ending[0].todo}", together=True)
        for finding in findings:
            self.say(f"{finding.text}; {finding.done}")

    def updated(self, *, skipped: bool) -> None:
        """An update was made or left out.

        Raises:
            NonFiniteError: as many in a row were left out as ``patience`` allows.
        """
        self.poisoned = False
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= self.patience:
            dumped = f"; the first is dumped to {self._first}" if self._first else ""
            raise NonFiniteError(
                f"step {self.step + 1}: {self._in_a_row} updates in a row were left out since something was not a "
                f"finite number (on_nonfinite=skip){dumped}. Lower algorithm.learning_rate, or look at the model and "
                "the rows",
                together=True,
            )

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        return {
            "found": self.found,
            "in_a_row": self._in_a_row,
            "nan_rewards": self.nan_rewards,
            "first": self._first,
        }

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self.found, self._in_a_row = carried["found"], carried["in_a_row"]
        self.nan_rewards, self._first = carried.get("nan_rewards", 0), carried.get("first", "")

    def _names(self, rows: Sequence[int], tensors: Mapping[str, Tensor]) -> list[str]:
        ids, mask = tensors.get("completion_ids"), tensors.get("completion_mask")
        if ids is None or mask is None:
            return list(dict.fromkeys(self._prompts[row] for row in rows if row < len(self._prompts)))
        keys = [tuple(ids[row][mask[row].bool()].tolist()) for row in rows]
        return list(dict.fromkeys(self._of_completion[key] for key in keys if key in self._of_completion))


MAY_BE_NAN = frozenset({"verifier_PG", "prefix_entropies_PGK", "sampling_per_token_logps"})
"""Where nan means that something could not be measured."""


def _not_finite(parts: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold something not finite."""
    if not parts:
        return []
    bad = ~torch.isfinite(torch.stack([norm.float() for norm in torch._foreach_norm(list(parts.values()))]))
    return [name for name, is_bad in zip(parts, bad.tolist(), strict=True) if is_bad]
