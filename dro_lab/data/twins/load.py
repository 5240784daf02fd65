"""A twin as a loaded data set: the one call that every loader makes for ``source=twin``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dro_lab.data.rows import conversation
from dro_lab.data.splits import check_sizes
from dro_lab.data.twins.knobs import configured
from dro_lab.data.twins.protocol import SPLITS, Twin, twin
from dro_lab.types import CorpusMetric, Provenance, Row, Task

SIZES = {"train": 4096, "validation": 512, "test": 512, "ood": 512}
"""Rows by split where ``dataset.sizes`` says null."""


def make_rows(made_for: Twin, knobs: Any, split: str, count: int, *, seed: int, start: int = 0) -> list[Row]:
    """Rows ``start`` to ``start + count - 1`` of the split."""
    return [made_for.make_row(knobs, split, index, seed=seed) for index in range(start, start + count)]


def load_twin(
    name: str,
    knobs: object,
    *,
    sizes: Mapping[str, int | None] | None = None,
    system_prompt: str | None = None,
    answer_marker: str | None = None,
    seed: int = 0,
    corpus_metric: CorpusMetric | None = None,
    title: str | None = None,
) -> Task:
    """The twin of a data set as a Task.

    Args:
        name: of the data set whose twin it is.
        knobs: the configuration's ``dataset.twin``: ``preset`` and single knobs; None = the default preset.
        sizes: rows by split (train, validation, test, ood), null = `SIZES`.
        system_prompt: goes before every row's prompt; the shipped policy was not taught any.
        answer_marker: stands between the closed reasoning and the answer; None = the twin's own.
        seed: draws the training rows. Held-out rows do not follow it, so that runs of different seeds are judged on the
            same rows.
        corpus_metric: figures of all answers together, where the data set has them.
        title: the task's name, where several data sets share one twin; None = ``name``.

    Raises:
        UserError: unknown preset, knob or split, or a value out of range; the message names the key.
    """
    made_for = twin(name)
    preset, given, values = configured(name, knobs)
    wanted = check_sizes(sizes, splits=SPLITS)
    system = conversation("", system_prompt=system_prompt)[:-1]
    splits = {}
    for split, size in wanted.items():
        count = SIZES[split] if size is None else size
        rows = make_rows(made_for, values, split, count, seed=seed if split == "train" else 0)
        splits[split] = [replace(row, prompt=[*system, *row.prompt]) for row in rows] if system else rows
    marker = made_for.answer_marker if answer_marker is None else answer_marker
    notes = [made_for.note]
    if marker != made_for.answer_marker:
        notes.append(
            f"dataset.answer_marker={marker!r}: the twin's policy was taught {made_for.answer_marker!r} and will not "
            "use another by itself"
        )
    changed = "".join(f", {key}={value}" for key, value in given.items())
    return Task(
        name=title or name,
        provenance=Provenance(
            dataset=title or name, kind="twin", location=preset + changed, revision=f"generator {made_for.version}"
        ),
        splits=splits,
        metric=made_for.quality,
        metric_name=made_for.metric_name,
        corpus_metric=corpus_metric,
        check_program=made_for.decide,
        answer_marker=marker,
        notes=tuple(notes),
    )
