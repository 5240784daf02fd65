"""REPRO beside the verifier alone: accuracy, reasoning length, backtracking and steps to target.

``python -m experiments.repro_vs_outcome.study`` runs what is missing on the maths twin, whose reasoning holds redundant
steps and backtracking at a known rate, then writes ``results.md``, ``curves.png`` and ``curves.csv`` beside this file.
``--seeds 0,1,2,3,4`` and ``--workers 2`` are the defaults.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.steps_to_target import ratio_of_medians, steps_to_target
from dro_lab.record.read import Run
from experiments.archive import Archive
from experiments.figures import Panel, draw_curves
from experiments.runs import Job, reported, run_all
from experiments.summaries import (
    CONFIDENCE,
    RESAMPLES,
    difference,
    evaluated,
    finished_runs,
    head,
    over,
    table,
    trained,
)

HERE = Path(__file__).parent
COMMAND = "python -m experiments.repro_vs_outcome.study"
ESTIMATORS = {"GRPO": "group_norm", "RF++-baseline": "reinforce_pp_baseline"}
NOT_CENTRED = "+ both, not centred"
ARMS: Mapping[str, Sequence[str]] = {
    "verifier": ["reward=verifier"],
    "+ magnitude": ["reward=repro_magnitude"],
    "+ stability": ["reward=repro_stability"],
    "+ both (REPRO)": ["reward=repro"],
    NOT_CENTRED: ["reward=repro", "reward.center=false"],
}
TARGETS = (0.6, 0.7)
"""Held-out accuracies, smoothed over three evaluations, whose first steps are compared."""


def arms_of(estimator: str) -> list[str]:
    """What is run under an estimator; the uncentred arm under GRPO alone."""
    return [arm for arm in ARMS if estimator == "GRPO" or arm != NOT_CENTRED]


def archive_of(root: Path) -> Archive:
    return Archive(
        HERE / "runs.jsonl",
        root,
        metrics=("rollouts/truncated_share",),
        evals=("quality", "completion_tokens", "backtracking_share", "certain_share"),
    )


def folder_of(root: Path, estimator: str, arm: str, seed: int) -> Path:
    name = "".join(c for c in f"{ESTIMATORS[estimator]}_{arm}" if c.isalnum() or c == "_")
    return root / f"{name}_s{seed}"


def jobs(root: Path, seeds: Sequence[int]) -> list[Job]:
    """Seed by seed, so that an interrupted study has whole seeds."""
    return [
        Job(
            folder=folder_of(root, estimator, arm, seed),
            overrides=["+experiments=repro_vs_outcome", *ARMS[arm], f"advantage={option}", f"seed={seed}"],
        )
        for seed in seeds
        for estimator, option in ESTIMATORS.items()
        for arm in arms_of(estimator)
    ]


def last(run: Run, metric: str) -> float:
    return evaluated(run, metric)[-1][1]


def rows_of(runs: Mapping[str, Sequence[Run]]) -> list[list[object]]:
    """One row an arm of one estimator."""
    rows: list[list[object]] = []
    alone = runs["verifier"]
    for arm, of_seeds in runs.items():
        accuracy = [last(run, "quality") for run in of_seeds]
        tokens, base = ([last(run, "completion_tokens") for run in group] for group in (of_seeds, alone))
        back, back_alone = ([last(run, "backtracking_share") for run in group] for group in (of_seeds, alone))
        compared = arm != "verifier"
        rows.append(
            [
                arm,
                over(accuracy),
                difference(accuracy, [last(run, "quality") for run in alone]) if compared else "",
                one_place(tokens),
                one_place([a - b for a, b in zip(tokens, base, strict=True)]) if compared else "",
                over(back),
                difference(back, back_alone) if compared else "",
                *(cell for target in TARGETS for cell in steps_to(target, of_seeds, alone if compared else None)),
                over([last(run, "certain_share") for run in of_seeds]),
                f"{over([trained(run, 'rollouts/truncated_share', last=8) for run in of_seeds]).mean:.0%}",
            ]
        )
    return rows


def steps_to(target: float, runs: Sequence[Run], alone: Sequence[Run] | None) -> tuple[str, str]:
    """Every seed's steps, and the verifier's median over this one's."""
    reached, reference = (
        [steps_to_target(evaluated(run, "quality"), target, window=3) for run in group] for group in (runs, alone or [])
    )
    each = " ".join("> last" if math.isinf(step) else f"{step:.0f}" for step in reached)
    return each, ratio(reference, reached) if alone else ""


def ratio(alone: Sequence[float], these: Sequence[float]) -> str:
    """Median steps of the verifier alone over those of the arm."""
    found = ratio_of_medians(alone, these, confidence=CONFIDENCE, resamples=RESAMPLES, seed=0)

    def number(value: float) -> str:
        if math.isinf(value):
            return "verifier > last"
        return "-" if math.isnan(value) else "these > last" if value == 0 else f"{value:.2f}"

    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def one_place(values: Sequence[float]) -> str:
    found = over(values)
    return f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]"


def markdown(root: Path, seeds: Sequence[int]) -> str:
    """The results page."""
    runs = {
        estimator: {
            arm: finished_runs([folder_of(root, estimator, arm, seed) for seed in seeds], archive_of(root))
            for arm in arms_of(estimator)
        }
        for estimator in ESTIMATORS
    }
    everything = [run for arms in runs.values() for of_seeds in arms.values() for run in of_seeds]
    start = [evaluated(run, "quality")[0][1] for run in everything]
    lines = head("Results", command=COMMAND, seeds=seeds, runs=everything)
    lines += [
        f"Before training: accuracy {over(start).mean:.2f}, "
        f"{over([evaluated(run, 'completion_tokens')[0][1] for run in everything]).mean:.1f} tokens an answer, "
        f"{over([evaluated(run, 'backtracking_share')[0][1] for run in everything]).mean:.2f} of the segments "
        f"backtrack. Steps to target: the first step at which the mean of three evaluations gets there; "
        "`> last` marks a run that did not arrive. Differences are paired by seed.",
        "",
    ]
    columns = ["reward", "accuracy", "less verifier's", "tokens an answer", "less verifier's", "backtracking share"]
    columns += ["less verifier's"]
    for target in TARGETS:
        columns += [f"steps to {target}, each seed", "verifier's / these"]
    columns += ["ever certain", "truncated in training"]
    for estimator, arms in runs.items():
        lines += [f"## {estimator}", "", *table(columns, rows_of(arms))]
    return "\n".join(lines)


def curves(root: Path, seeds: Sequence[int]) -> list[Panel]:
    return [
        Panel(
            title=f"{estimator}: {title}",
            curves={
                arm: [
                    evaluated(run, metric)
                    for run in finished_runs([folder_of(root, estimator, arm, s) for s in seeds], archive_of(root))
                ]
                for arm in arms_of(estimator)
            },
        )
        for estimator in ESTIMATORS
        for metric, title in (
            ("quality", "accuracy"),
            ("completion_tokens", "tokens an answer"),
            ("backtracking_share", "backtracking share"),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/repro_vs_outcome"))
    parser.add_argument("--tables-only", action="store_true", help="only redraw from what is archived")
    arguments = parser.parse_args()
    seeds, root = [int(seed) for seed in arguments.seeds.split(",")], arguments.outputs
    if not arguments.tables_only:
        run_all(jobs(root, seeds), workers=arguments.workers, archive=archive_of(root))
    text = markdown(root, seeds)
    (HERE / "results.md").write_text(text)
    draw_curves(curves(root, seeds), HERE / "curves.png", HERE / "curves.csv", ylabel="", columns=3, ylim=None)
    print(text)


if __name__ == "__main__":
    reported(main)
