"""The evaluated answers of runs as arrays, seeds by queries by samples, for what is compared answer by answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dro_lab.errors import UserError
from dro_lab.record.read import Run

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """One setting's answers on the held-out rows after training: S seeds, Q queries, N samples each."""

    label: str
    seeds: tuple[int, ...]
    queries: tuple[str, ...]
    win_rate_SQ: FloatArray  # against the base policy; nan where the judge could decide no pair
    disagreement_SQ: FloatArray  # share of pairs judged otherwise in the other order; nan where order cannot matter
    quality_SQN: FloatArray
    texts_SQ: Sequence[Sequence[Sequence[str]]]
    change_SQ: Mapping[str, FloatArray]  # tokens after training less those before, by kind


LENGTHS = {"reasoning": "reasoning_tokens", "answer": "answer_tokens"}


def answers_of(seeds: Mapping[int, Run], label: str, *, split: str | None, decoding: str) -> Answers:
    """The answers of one setting's runs, queries in the same order.

    Raises:
        UserError: a run without recorded answers after training on that split.
    """
    frames = {seed: _part(run, split=split, decoding=decoding) for seed, run in seeds.items()}
    queries = tuple(sorted(next(iter(frames.values()))[1]["prompt_id"].unique()))
    for seed, (_, after) in frames.items():
        if tuple(sorted(after["prompt_id"].unique())) != queries:
            raise UserError(
                f"{seeds[seed].folder} answers other held-out rows than {next(iter(seeds.values())).folder}; "
                "compare runs with the same evaluation rows."
            )

    def per_query(frame: pd.DataFrame, column: str) -> FloatArray:
        return frame.groupby("prompt_id")[column].mean().loc[list(queries)].to_numpy(dtype=float)

    def stacked(column: str) -> FloatArray:
        return np.stack([per_query(after, column) for _, after in frames.values()])

    def samples(frame: pd.DataFrame, column: str) -> list[list[object]]:
        grouped = frame.sort_values("sample").groupby("prompt_id")[column]
        return [list(grouped.get_group(query)) for query in queries]

    return Answers(
        label=label,
        seeds=tuple(seeds),
        queries=queries,
        win_rate_SQ=stacked("row_win_rate"),
        disagreement_SQ=stacked("row_order_disagreement"),
        quality_SQN=np.array([samples(after, "quality") for _, after in frames.values()], dtype=float),
        texts_SQ=[samples(after, "answer") for _, after in frames.values()],  # type: ignore[misc]
        change_SQ={
            kind: np.stack([per_query(after, column) - per_query(before, column) for before, after in frames.values()])
            for kind, column in LENGTHS.items()
        },
    )


def _part(run: Run, *, split: str | None, decoding: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answers before training and at the last evaluation."""
    every = run.answers
    if every.empty:
        raise UserError(
            f"{run.folder} has no answers.parquet (records before schema version 3 have none, and neither has a run "
            "that was not evaluated). Run it again."
        )
    own = split or str(every["split"].iloc[0])
    part = every[(every["split"] == own) & (every["decoding"] == decoding)]
    if part.empty:
        known = sorted({f"{row.decoding} on {row.split}" for row in every[["decoding", "split"]].itertuples()})
        raise UserError(f"{run.folder} has no {decoding} answers on split {own}; it has {', '.join(known)}.")
    first, last = part["step"].min(), part["step"].max()
    if first == last:
        raise UserError(f"{run.folder} was evaluated at step {first} alone: there is nothing to compare it with.")
    return part[part["step"] == first], part[part["step"] == last]


def pairwise(ours: Answers, theirs: Answers) -> FloatArray:
    """(S, S', Q): share of pairs of samples in which ours has the higher quality, ties half; nan where none is known.

    All samples of a seed meet all of the other's, and every seed meets every seed.
    """
    a, b = ours.quality_SQN[:, None, :, :, None], theirs.quality_SQN[None, :, :, None, :]
    wins = (np.sign(a - b) + 1) / 2
    known = np.isfinite(wins)
    count = known.sum(axis=(-1, -2))
    total = np.where(known, wins, 0.0).sum(axis=(-1, -2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
