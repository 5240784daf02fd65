"""Sampling again until a step has its groups (DAPO's dynamic sampling, arXiv 2503.14476), at most n rounds.

Groups that gate, filter or masks took out whole, or whose rewards do not differ, are replaced in place by groups of
further prompts; the number of rows stays, so TRL's loss sees an ordinary batch. What was replaced is recorded as
dropped, and what it cost is a metric.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dro_lab.pipeline import Scored, has_signal, rejected
from dro_lab.training.dropped import loss_mask
from dro_lab.training.rollouts import ScoredStep

Batch = dict[str, Any]
Sample = Callable[[list[dict[str, Any]]], tuple[Batch, ScoredStep]]
"""TRL's own generation of a batch from examples, and what was scored on it."""


@dataclass
class Prompts:
    """Row indices in seeded random order, without end. ``position`` is all there is to checkpoint."""

    rows: int
    seed: int
    position: int = 0

    def take(self, count: int, *, avoid: frozenset[int] = frozenset(), rank: int = 0, ranks: int = 1) -> list[int]:
        """The next ``count`` indices; those of ``avoid`` are passed over as long as there are others.

        Of several ranks each takes every ``ranks``-th place of the one order, so that they sample different prompts.
        """
        taken: list[int] = []
        passed = 0
        while len(taken) < count:
            index = self._at(self.position * ranks + rank)
            self.position += 1
            if index in avoid and passed < self.rows:
                passed += 1
                continue
            taken.append(index)
        return taken

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        return {"position": self.position}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self.position = int(carried["position"])

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.rows)
        return int(np.random.default_rng([self.seed, 71, epoch]).permutation(self.rows)[place])


@dataclass
class Refill:
    """Replaces the groups that teach nothing.

    Args:
        max_rounds: sampling rounds after the first, at most.
        prompts: where further prompts come from.
    """

    max_rounds: int
    prompts: Prompts

    def __call__(self, batch: Batch, step: ScoredStep, *, sample: Sample, trainer: Any) -> tuple[Batch, ScoredStep]:
        """The batch and the step with as many groups replaced as the rounds allow.

        Args:
            batch: TRL's, with rows of whole groups.
            step: what was scored on it.
            sample: samples and scores a list of examples.
            trainer: for the data set, the ranks and TRL's metrics.
        """
        accelerator, data = trainer.accelerator, trainer.train_dataset
        own = {name: list(values) for name, values in trainer._metrics["train"].items()}
        (prompts, group_size), before = step.scored.groups.shape, time.perf_counter()
        first_kept = 1 - len(empty_groups(step)) / prompts
        replaced: list[tuple[ScoredStep, tuple[int, ...]]] = []
        sampled = [step.scored]
        rounds = extra = 0
        used = frozenset(step.rows)
        while rounds < self.max_rounds and (missing := _agreed(empty_groups(step), accelerator)):
            rounds += 1
            indices = self.prompts.take(
                missing, avoid=used, rank=accelerator.process_index, ranks=accelerator.num_processes
            )
            used |= frozenset(indices)
            more, found = sample([dict(data[index]) for index in indices for _ in range(group_size)])
            extra += missing * group_size
            sampled.append(found.scored)
            kept = [p for p, teaches in enumerate(teaching(found)) if teaches]
            places = empty_groups(step)[: len(kept)]
            kept = kept[: len(places)]
            unused = tuple(p for p in range(missing) if p not in kept)
            replaced += [(step, tuple(places)), (found, unused)]
            into, out_of = _rows(places, group_size), _rows(kept, group_size)
            batch = merge_batches(batch, more, into, out_of, pad_id=trainer._tokenizer.pad_token_id)
            step = _merge_steps(step, found, places, kept)
        metrics = {
            "filter/refill_rounds": float(rounds),
            "filter/first_kept_share": first_kept,
            "filter/refilled_share": sum(len(places) for _, places in replaced[::2]) / prompts,
            "filter/refill_rollouts": float(extra),
            "filter/refill_seconds": time.perf_counter() - before,
            **_rates(sampled),
        }
        trainer._metrics["train"].clear()  # of TRL's metrics those of the first round stay
        trainer._metrics["train"].update(own)
        batch["num_items_in_batch"] = accelerator.gather(loss_mask(batch).sum()).sum()
        return batch, replace(step, replaced=tuple(replaced), metrics={**step.metrics, **metrics})


def _rates(sampled: Sequence[Scored]) -> Mapping[str, float]:
    """What gate and filter refused of all groups sampled: the step's own, once refilled, would show hardly any."""
    rejected_N = torch.cat([rejected(scored.gate) for scored in sampled])
    kept_N = torch.cat([scored.filtered.keep_PG.flatten() for scored in sampled])
    return {
        "gate/rejected_share": rejected_N.float().mean().item(),
        "filter/dropped_share": 1.0 - kept_N.float().mean().item(),
    }


def teaching(step: ScoredStep) -> list[bool]:
    """By group: whether some rollout may teach, and the group's rewards differ (a group all right or all wrong has no
    advantages, unless its process rewards differ: what DAPO samples again for)."""
    teaches: list[bool] = (step.scored.teach_PG.any(1) & has_signal(step.scored.rewards)).tolist()
    return teaches


def empty_groups(step: ScoredStep) -> list[int]:
    """The groups that teach nothing."""
    return [p for p, teaches in enumerate(teaching(step)) if not teaches]


def _rows(groups: Sequence[int], size: int) -> list[int]:
    return [p * size + g for p in groups for g in range(size)]


PADDING = {"ref_per_token_logps": -1e4}
"""Places behind a completion are masked, but TRL's KL term takes ``exp(reference - policy)`` there first: with 0 it
overflows where the policy's log-probability of padding is below -88, and infinity times the mask is nan."""


def merge_batches(batch: Batch, more: Batch, places: Sequence[int], taken: Sequence[int], *, pad_id: int) -> Batch:
    """``batch`` with the rows ``places`` replaced by the rows ``taken`` of ``more``.

    Tensors of one row a rollout are widened to the wider of the two: prompts on the left, all else on the right, ids
    with ``pad_id``, all else with 0 or what `PADDING` says.
    """
    rows = len(batch["completion_ids"])
    merged = dict(batch)
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == rows and isinstance(more.get(key), Tensor):
            fill = PADDING.get(key, pad_id if key.endswith("_ids") else 0)
            both = _equally_wide(value, more[key], fill=fill, left=key.startswith("prompt"))
            merged[key] = both[0].clone()
            merged[key][list(places)] = both[1][list(taken)].to(value.dtype)
    return merged


def _equally_wide(a: Tensor, b: Tensor, *, fill: float, left: bool = False) -> tuple[Tensor, Tensor]:
    """Both tensors, padded so that all axes but the first agree."""
    sizes = [max(x, y) for x, y in zip(a.shape[1:], b.shape[1:], strict=True)]
    made = []
    for value in (a, b):
        widths: list[int] = []
        for have, want in zip(reversed(value.shape[1:]), reversed(sizes), strict=True):
            widths += [want - have, 0] if left else [0, want - have]
        made.append(pad(value, widths, value=fill))
    return made[0], made[1]


def _merge_steps(step: ScoredStep, more: ScoredStep, places: Sequence[int], taken: Sequence[int]) -> ScoredStep:
    """The scored step with the groups ``places`` replaced by the groups ``taken`` of ``more``."""
    return replace(
        step,
        rows=tuple(_merged_list(step.rows, more.rows, places, taken)),
        scored=_merged(step.scored, more.scored, places, taken),
        stats_for_reports=_merged(step.stats_for_reports, more.stats_for_reports, places, taken),
        quality_PG=_merged_tensor(step.quality_PG, more.quality_PG, places, taken),
    )


def _merged(a: Any, b: Any, places: Sequence[int], taken: Sequence[int]) -> Any:
    """A dataclass of step values: what has a prompt axis (the suffix says so) is merged, all else is the first's."""
    values: dict[str, Any] = {}
    for field in fields(a):
        one, two = getattr(a, field.name), getattr(b, field.name)
        axes = field.name.rpartition("_")[2]
        if one is None or two is None:
            values[field.name] = one
        elif is_dataclass(one):
            values[field.name] = _merged(one, two, places, taken)
        elif field.name == "parts":
            values[field.name] = _merged_parts(one, two, places, taken)
        elif axes.isupper() and axes.startswith("P"):
            merge = _merged_tensor if isinstance(one, Tensor) else _merged_list
            values[field.name] = merge(one, two, places, taken)
        else:
            values[field.name] = two if field.name == "state" else one
    return replace(a, **values)


def _merged_parts(
    one: Mapping[str, Tensor], two: Mapping[str, Tensor], places: Sequence[int], taken: Sequence[int]
) -> dict[str, Tensor]:
    return {key: _merged_tensor(one[key], two[key], places, taken) for key in one}


def _merged_tensor(a: Tensor, b: Tensor, places: Sequence[int], taken: Sequence[int]) -> Tensor:
    # padding: ids and verdicts of padded places are masked, so 0 serves all
    left, right = _equally_wide(a, b, fill=0)
    merged = left.clone()
    merged[list(places)] = right[list(taken)]
    return merged


def _merged_list(a: Sequence[Any], b: Sequence[Any], places: Sequence[int], taken: Sequence[int]) -> Sequence[Any]:
    merged = list(a)
    for place, source in zip(places, taken, strict=True):
        merged[place] = b[source]
    return type(a)(merged) if isinstance(a, tuple) else merged


def _agreed(empty: Sequence[int], accelerator: Any) -> int:
    """The largest number of empty groups over all ranks: every rank must sample as often and as much."""
    return int(accelerator.gather(torch.tensor([len(empty)], device=accelerator.device)).max())
