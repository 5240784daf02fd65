"""Samples the probe's queries with the initial policy and scores them once, by a run's own engine, scorer and judge."""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from dro_lab.build import Built
from dro_lab.errors import UserError
from dro_lab.judges.quality import asked_once, quality
from dro_lab.prefilter.measure import sampling_trainer
from dro_lab.probe.label import Label, label_of
from dro_lab.probe.measures import varies
from dro_lab.probe.settings import Settings
from dro_lab.scoring.split import SplitGroups
from dro_lab.scoring.stats import FIELDS, collect
from dro_lab.types import Need, RolloutGroups, Row, Stat, TokenStats

COST_ROWS = 4
"""Queries on which the scorer's time is measured for each reward's needs."""

JUDGED = frozenset({Stat.VERIFIER, Stat.VERDICTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The same rollouts, scored against other queries' references."""

    groups: RolloutGroups
    stats: TokenStats
    usable_P: Tensor  # bool: a reference of another wording was there


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The probe's rollouts and everything that was measured on them."""

    rows: Sequence[Row]
    groups: RolloutGroups
    stats: TokenStats
    label: Label
    floor: Floor | None
    cost: Mapping[frozenset[Need], float]  # scorer's seconds per thousand rollouts, by what is asked for
    sampling_seconds: float
    scoring_seconds: float
    judging_seconds: float


def queries(built: Built, settings: Settings, *, seed: int) -> list[Row]:
    """``rows`` queries of the split, drawn by the seed; all of them where there are no more.

    Raises:
        UserError: the split is not there or empty.
    """
    rows = list(built.task.splits.get(settings.split, ()))
    if not rows:
        there = ", ".join(f"{name} ({len(part)})" for name, part in built.task.splits.items() if part) or "none"
        raise UserError(
            f"probe.split={settings.split}: dataset={built.task.name} has no usable rows in it; it has {there}. "
            "`python -m dro_lab.data` lists what was refused."
        )
    if len(rows) <= settings.rows:
        return rows
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), settings.rows))]


def sample_and_score(
    built: Built, rows: Sequence[Row], needs: Iterable[frozenset[Need]], settings: Settings, *, seed: int
) -> Sampled:
    """Sample ``settings.rollouts`` completions of each row and measure the union of ``needs`` on them, once.

    Args:
        built: the checked run; its judge, gate and filter are used, its reward is not.
        rows: the queries.
        needs: of each reward, gate and filter.
        seed: of the sampling.
    """
    needs = [*needs]
    union = frozenset[Need]().union(*needs)
    asked = frozenset(need for need in union if need.stat not in JUDGED)
    with tempfile.TemporaryDirectory() as folder:
        trainer = sampling_trainer(built, rows, folder)
        print(f"sampling {len(rows) * settings.rollouts:,} rollouts", flush=True)
        started = time.perf_counter()
        completions = _sample(trainer, rows, built, settings, seed=seed)
        sampling = time.perf_counter() - started
        print(f"scoring  their references, for all rewards at once (sampling took {sampling:.0f} s)", flush=True)
        groups, split = trainer.scoring.split(rows, completions, group_size=settings.rollouts)
        score = _scorer(built, trainer, rows)
        with trainer.accelerator.autocast():
            started = time.perf_counter()
            stats = score(asked, groups, split)
            scoring = time.perf_counter() - started
            cost = _costs(score, needs, groups, split)
            print(f"judging  and ranking (scoring took {scoring:.0f} s)", flush=True)
            started = time.perf_counter()
            stats, label = _judged(built, trainer, union, groups, stats, settings)
            judging = time.perf_counter() - started
            # a label that never varies ranks nothing either
            unranked = not bool(varies(label.values_PG).any())
            wanted = settings.floor is True or (settings.floor == "auto" and unranked)
            floor = _floor(score, asked, groups, split, stats) if wanted else None
    return Sampled(
        rows=rows,
        groups=groups,
        stats=stats,
        label=label,
        floor=floor,
        cost=cost,
        sampling_seconds=sampling,
        scoring_seconds=scoring,
        judging_seconds=judging,
    )


def _sample(trainer: Any, rows: Sequence[Row], built: Built, settings: Settings, *, seed: int) -> list[list[int]]:
    size = built.evaluation.batch_size
    per_batch = max(1, size // settings.rollouts)
    batches = [rows[start : start + per_batch] for start in range(0, len(rows), per_batch)]
    completions: list[list[int]] = []
    for batch in track(batches, description="sampling", transient=True, disable=not sys.stdout.isatty()):
        # another seed for each batch: equal ones would give all batches the same draws
        drawn = int.from_bytes(hashlib.sha256(f"probe {seed} {batch[0].id}".encode()).digest()[:4], "big")
        completions += trainer.sample(trainer.scoring.prompt_ids(batch), settings.rollouts, batch_size=size, seed=drawn)
    return completions


Score = Callable[[frozenset[Need], RolloutGroups, SplitGroups], TokenStats]


def _scorer(built: Built, trainer: Any, rows: Sequence[Row]) -> Score:
    prompt_ids = trainer.scoring.prompt_ids(list(rows))

    def score(needs: frozenset[Need], groups: RolloutGroups, split: SplitGroups) -> TokenStats:
        return collect(
            needs,
            groups,
            split,
            models={"current": trainer.policy},
            prompt_ids_P=prompt_ids[: groups.shape[0]],
            scorer=built.scorer,
            quality=_never,
            verdicts=_never,
        )

    return score


def _never(_: RolloutGroups) -> Any:
    raise AssertionError("the judge is asked apart from the scorer")


def _costs(
    score: Score, needs: Sequence[frozenset[Need]], groups: RolloutGroups, split: SplitGroups
) -> dict[frozenset[Need], float]:
    """Seconds per thousand rollouts that the scorer takes for each set of needs, on a few queries."""
    count = min(COST_ROWS, groups.shape[0])
    few, few_split = _first(groups, count), _first_split(split, count)
    found: dict[frozenset[Need], float] = {}
    for asked in {frozenset(need for need in part if need.stat not in JUDGED) for part in needs}:
        started = time.perf_counter()
        if asked:
            score(asked, few, few_split)
        found[asked] = (time.perf_counter() - started) * 1000 / (count * groups.shape[1]) if asked else 0.0
    return found


def scorer_needs(needs: frozenset[Need]) -> frozenset[Need]:
    """What of it the scorer measures: the key of `Sampled.cost`."""
    return frozenset(need for need in needs if need.stat not in JUDGED)


def _first(groups: RolloutGroups, count: int) -> RolloutGroups:
    cut = {name: getattr(groups, name)[:count] for name in groups.__dataclass_fields__ if name not in _SCALARS}
    return replace(groups, **cut)


_SCALARS = ("step", "progress")


def _first_split(split: SplitGroups, count: int) -> SplitGroups:
    return replace(split, **{name: getattr(split, name)[:count] for name in split.__dataclass_fields__})


# ------------------------------------------------------------------------------------------------ quality


def _judged(
    built: Built, trainer: Any, needs: frozenset[Need], groups: RolloutGroups, stats: TokenStats, settings: Settings
) -> tuple[TokenStats, Label]:
    """What judge and metric say: the statistics that rewards or gate read, and the label."""
    built.judge.attach(
        policy=trainer.policy if built.judge.asks_reference else None,
        tokenizer=built.tokenizer,
        chat_template_kwargs=built.spec.chat_template_kwargs,
    )
    ask = asked_once(built.judge)
    wanted = {need.stat for need in needs}
    values_PG = quality(groups, built.task, built.judge, ask=ask)
    if Stat.VERIFIER in wanted:
        stats = replace(stats, verifier_PG=values_PG)
    if Stat.VERDICTS in wanted:
        verdicts_PGV, mask_PV = ask(groups)
        stats = replace(stats, verdicts_PGV=verdicts_PGV, checks_mask_PV=mask_PV)
    return stats, label_of(built, groups, values_PG, settings)


# ------------------------------------------------------------------------------------------------ noise floor


def partners(references: Sequence[str], lengths: Sequence[int]) -> list[int | None]:
    """For each query another one whose reference differs, next in length; None where all are the same.

    Alike in length, so that the floor is about what a reference says. The choice does not depend on the order of the
    queries, but for equal lengths.
    """
    order = sorted(range(len(references)), key=lambda p: (lengths[p], references[p]))
    found: list[int | None] = [None] * len(references)
    for place, p in enumerate(order):
        later = (order[(place + shift) % len(order)] for shift in range(1, len(order)))
        found[p] = next((other for other in later if references[other] != references[p]), None)
    return found


def _floor(score: Score, needs: frozenset[Need], groups: RolloutGroups, split: SplitGroups, stats: TokenStats) -> Floor:
    assert stats.reference_mask_PR is not None
    lengths = stats.reference_mask_PR.sum(1).tolist()
    others = partners(groups.references_P, lengths)
    swapped = [groups.references_P[p if other is None else other] for p, other in enumerate(others)]
    moved = replace(groups, references_P=swapped)
    return Floor(
        groups=moved,
        stats=score(needs, moved, split),
        usable_P=torch.tensor([other is not None for other in others]),
    )


def only(stats: TokenStats, needs: frozenset[Need]) -> TokenStats:
    """What was declared, and nothing that others asked for."""
    fields = {name for need in needs for name in FIELDS[need.stat]}
    return TokenStats(**{name: getattr(stats, name) for name in fields})
