"""DRO's static filter: training rows are chosen before training, by `python -m dro_lab.prefilter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dro_lab.errors import UserError
from dro_lab.prefilter.file import Judged, content_of, read
from dro_lab.types import FilterResult, Need, Rewards, RolloutGroups, Row, Task, TokenStats


def static(groups: RolloutGroups, stats: TokenStats, rewards: Rewards, *, file: str | None = None) -> FilterResult:
    """Keeps every group: the choice was made among the training rows (`prepare`)."""
    prompts, rollouts = groups.shape
    return FilterResult(keep_PG=torch.ones(prompts, rollouts, dtype=torch.bool), reasons_P=[""] * prompts)


def prepare(task: Task, *, file: str | None = None) -> Task:
    """The data set with those training rows that ``file`` keeps, in their order; a note says how many.

    Training rows that the file does not list (a prefilter run on fewer rows) do not train either.

    Raises:
        UserError: no file, it is damaged, it belongs to another data set, it lists rows that are not there or have
            changed, or it keeps none.
    """
    if file is None:
        raise UserError(
            "filtering.file is not set: filtering=static trains on the rows that a file keeps. Make one with "
            f"`python -m dro_lab.prefilter dataset={task.name} out=FILE` and give filtering.file=FILE."
        )
    header, judged = read(Path(file), key="filtering.file")
    if (made_for := header["provenance"]["dataset"]) != task.provenance.dataset:
        raise UserError(
            f"filtering.file={file}: was made for dataset={made_for}, this run has dataset={task.provenance.dataset}. "
            f"Give a file of this data set, or run `python -m dro_lab.prefilter dataset={task.name} out=FILE`."
        )
    rows = {row.id: row for row in task.splits["train"]}
    _check_rows(file, judged, rows, made_from=header["provenance_text"], task=task)
    kept = {row.id for row in judged if row.kept}
    if not kept:
        raise UserError(
            f"filtering.file={file}: keeps none of its {len(judged)} rows, so there is nothing to train on. Make it "
            "again with `python -m dro_lab.prefilter`."
        )
    note = (
        f"filtering=static trains on {len(kept)} of {len(rows)} rows ({len(kept) / len(rows):.1%}): "
        f"{sum(row.why == 'top' for row in judged)} with the largest sigma_bar, "
        f"{sum(row.why == 'rest' for row in judged)} drawn from the rest, measured with {header['policy']['name']}"
    )
    if missing := len(rows) - len(judged):
        note += f"; {missing} rows were not measured and do not train"
    return replace(
        task,
        splits={**task.splits, "train": [row for row in task.splits["train"] if row.id in kept]},
        notes=(*task.notes, note),
    )


def _check_rows(file: str, judged: Sequence[Judged], rows: dict[str, Row], *, made_from: str, task: Task) -> None:
    again = (
        f"The file was made from {made_from}; this run has {task.provenance}. Take the same dataset.* keys and seed "
        "(a twin's training rows follow the seed), or run `python -m dro_lab.prefilter` again."
    )
    if unknown := [row.id for row in judged if row.id not in rows]:
        raise UserError(
            f"filtering.file={file}: {len(unknown)} of its {len(judged)} ids are no training rows of this run, the "
            f"first is {unknown[0]!r}. {again}"
        )
    if changed := [row.id for row in judged if row.content != content_of(rows[row.id])]:
        raise UserError(
            f"filtering.file={file}: {len(changed)} of its rows have another prompt or reference now, the first is "
            f"{changed[0]!r}. {again}"
        )


def needs(**_: Any) -> frozenset[Need]:
    """Nothing."""
    return frozenset()


def check(*, file: Any = None) -> None:
    """Check the arguments.

    Raises:
        UserError: ``file`` is no path. That it is missing is said where the data set is known.
    """
    if file is not None and not isinstance(file, str):
        raise UserError(f"filtering.file={file}: must be the path of a file that `python -m dro_lab.prefilter` wrote")
