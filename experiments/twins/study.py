"""DRO's three parts on the four twins: does each metric improve, in how many seeds, in what time?

``python -m experiments.twins.study`` runs what is missing, then writes ``results.md``, ``curves.png`` and
``curves.csv`` beside this file. ``--seeds 0,1,2,3,4`` and ``--workers 2`` are the defaults; ``--datasets`` takes some
of the four, with commas between them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dro_lab.record.read import Run
from experiments.archive import Archive
from experiments.figures import Panel, draw_curves
from experiments.runs import Job, reported, run_all
from experiments.summaries import difference, evaluated, finished_runs, head, over, quality_curves, table, trained

HERE = Path(__file__).parent
COMMAND = "python -m experiments.twins.study"
NAMES = ("pararev", "rar_medicine", "contract_nli", "finqa")
"""The data sets of DRO; the maths twin has a study of its own (`experiments.repro_vs_outcome`)."""


def archive_of(root: Path) -> Archive:
    return Archive(HERE / "runs.jsonl", root)


def folder_of(root: Path, dataset: str, seed: int) -> Path:
    return root / f"{dataset}_s{seed}"


def jobs(root: Path, seeds: list[int], datasets: list[str]) -> list[Job]:
    """Seed by seed, so that an interrupted study has whole seeds."""
    return [
        Job(folder=folder_of(root, name, seed), overrides=["+experiments=twins", f"dataset={name}", f"seed={seed}"])
        for seed in seeds
        for name in datasets
    ]


def markdown(root: Path, seeds: list[int], datasets: list[str]) -> str:
    """The results page."""
    runs = {name: finished_runs([folder_of(root, name, seed) for seed in seeds], archive_of(root)) for name in datasets}
    rows = []
    for name, of_seeds in runs.items():
        quality = [evaluated(run, "quality") for run in of_seeds]
        before, after = [curve[0][1] for curve in quality], [curve[-1][1] for curve in quality]
        better = sum(b > a for a, b in zip(before, after, strict=True))
        longest = max(run.summary["seconds"]["total"] for run in of_seeds)
        rows.append(
            [
                f"`{name}`",
                of_seeds[0].summary["metric"],
                over(before),
                over(after),
                over(after).each,
                difference(after, before),
                f"{better} of {len(seeds)}",
                f"{_rejected(of_seeds)} / {_dropped(of_seeds)}",
                f"{longest:.0f} s",
            ]
        )
    columns = ["twin", "metric", "before", "after", "each seed", "gain", "seeds that improve"]
    columns += ["gate rejects / filter drops", "longest run"]
    everything = [run for of_seeds in runs.values() for run in of_seeds]
    return "\n".join([*head("Results", command=COMMAND, seeds=seeds, runs=everything), *table(columns, rows)])


def _rejected(runs: list[Run]) -> str:
    return f"{over([trained(run, 'gate/rejected_share') for run in runs]).mean:.0%}"


def _dropped(runs: list[Run]) -> str:
    return f"{over([trained(run, 'filter/dropped_share') for run in runs]).mean:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--datasets", default=",".join(NAMES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/twins"))
    arguments = parser.parse_args()
    seeds, datasets = [int(seed) for seed in arguments.seeds.split(",")], arguments.datasets.split(",")
    run_all(jobs(arguments.outputs, seeds, datasets), workers=arguments.workers, archive=archive_of(arguments.outputs))
    text = markdown(arguments.outputs, seeds, datasets)
    (HERE / "results.md").write_text(text)
    panels = [
        Panel(
            title=name,
            curves={
                "R3 + rubric gate + variance filter": quality_curves(
                    [folder_of(arguments.outputs, name, seed) for seed in seeds], archive_of(arguments.outputs)
                )
            },
        )
        for name in datasets
    ]
    draw_curves(panels, HERE / "curves.png", HERE / "curves.csv", ylabel="held-out quality")
    print(text)


if __name__ == "__main__":
    reported(main)
