"""The variance filter: off, dynamic, and static at three shares, on prompts of mixed difficulty.

``python -m experiments.filtering.study`` samples the training rows for the static filter, runs what is missing, then
writes ``results.md``, ``curves.png`` and ``curves.csv`` beside this file. ``--seeds 0,1,2,3,4`` and ``--workers 2`` are
the defaults.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.bootstrap import CENSORED, Ratio, ratio_of_medians
from analysis.target_curves import steps_to_target
from dro_lab.prefilter.choose import choose
from dro_lab.record.read import Run
from experiments.archive import METRICS, Archive
from experiments.figures import Panel, draw_curves
from experiments.grid import COSTS
from experiments.runs import Job, pending, reported, run_all
from experiments.summaries import (
    CONFIDENCE,
    LOADED,
    by_load,
    difference,
    evaluated,
    finished_runs,
    head,
    over,
    quality_curves,
    table,
    trained,
)

HERE = Path(__file__).parent
COMMAND = "python -m experiments.filtering.study"
ROWS, ROLLOUTS, REST = 512, 8, 0.1
SHARES = (0.1, 0.25, 0.5)
LEVELS = (0.6, 0.7, 0.8)
WINDOW = 3
BATCH = 64
"""Rollouts of a step, refills left out."""
TRAINED_ON = "rollouts/kept_share"
COSTLY = {TRAINED_ON: "Rollouts trained on", "cost/rollouts": "Rollouts sampled", "cost/tokens": "Tokens sampled"}
"""Axes beside steps, by metric; runs archived before these were kept have the first alone."""
OFF = "off"
FILTERS = (OFF, "dynamic", "dynamic, refill", *(f"static {share:g}" for share in SHARES))
QUICK, QUICK_FILTERS, QUICK_STEPS = "quick", FILTERS[:2], 16


def home(root: Path) -> Path:
    """Where page, figure and archive go: beside this file; with the runs under ``--quick``."""
    return root if root.name == QUICK else HERE


def prefilter_file(root: Path, share: float, seed: int) -> Path:
    return root / "prefilter" / f"share{share:g}_s{seed}.jsonl"


def prefilter(root: Path, seeds: Sequence[int]) -> None:
    """The rows each static run trains on; one sampling a seed serves all shares."""
    for seed in seeds:
        for share in SHARES:
            file = prefilter_file(root, share, seed)
            if file.exists():
                continue
            command = [sys.executable, "-m", "dro_lab.prefilter", "dataset=pararev", f"dataset.sizes.train={ROWS}"]
            command += [f"seed={seed}", f"rollouts={ROLLOUTS}", f"keep_share={share}", f"rest_share={REST}"]
            subprocess.run([*command, f"out={file}"], check=True)


def overrides(root: Path, name: str, seed: int) -> list[str]:
    """What chooses a filter."""
    kind, _, share = name.partition(" ")
    if kind == "static":
        return ["filtering=static", f"filtering.file={prefilter_file(root, float(share), seed).resolve()}"]
    if name == OFF:
        return ["filtering=none"]
    return ["filtering=r3_variance", *(["filtering.refill=true"] if share else [])]


def archive_of(root: Path) -> Archive:
    return Archive(home(root) / "runs.jsonl", root, metrics=(*METRICS, *COSTS.values()))


def command_of(root: Path) -> str:
    """What writes the page."""
    return f"{COMMAND} --quick" if root.name == QUICK else COMMAND


def folder_of(root: Path, name: str, seed: int) -> Path:
    return root / f"{name.replace(', ', '_').replace(' ', '_')}_s{seed}"


def filters_of(root: Path) -> tuple[str, ...]:
    return QUICK_FILTERS if root.name == QUICK else FILTERS


def jobs(root: Path, seeds: Sequence[int]) -> list[Job]:
    """Seed by seed, so that an interrupted study has whole seeds."""
    shorter = [f"steps={QUICK_STEPS}"] if root.name == QUICK else []
    return [
        Job(
            folder=folder_of(root, name, seed),
            overrides=[
                "+experiments=filtering",
                *overrides(root, name, seed),
                f"dataset.sizes.train={ROWS}",
                *shorter,
                f"seed={seed}",
            ],
        )
        for seed in seeds
        for name in filters_of(root)
    ]


def markdown(root: Path, seeds: Sequence[int]) -> str:
    """The results page."""
    archive = archive_of(root)
    runs = {name: finished_runs([folder_of(root, name, seed) for seed in seeds], archive) for name in filters_of(root)}
    curves = {name: [evaluated(run, "quality") for run in of_seeds] for name, of_seeds in runs.items()}
    final = {name: [curve[-1][1] for curve in of_seeds] for name, of_seeds in curves.items()}
    reached = {
        name: {level: [steps_to_target(curve, level, window=WINDOW) for curve in of_seeds] for level in LEVELS}
        for name, of_seeds in curves.items()
    }
    seconds = {name: [run.summary["seconds"]["total"] for run in of_seeds] for name, of_seeds in runs.items()}
    loaded = by_load(seconds)
    rows = []
    for name, of_seeds in runs.items():
        hard = over([evaluated(run, "quality", split="ood")[-1][1] for run in of_seeds if _has_ood(run)])
        rows.append(
            [
                name,
                over(final[name]),
                "" if name == OFF else difference(final[name], final[OFF]),
                *(_cost(reached[name][level], reached[OFF][level], name) for level in LEVELS),
                hard,
                f"{over([trained(run, 'filter/dropped_share') for run in of_seeds]).mean:.0%}",
                f"{over([BATCH * float(run.metrics[TRAINED_ON].sum()) for run in of_seeds]).mean:.0f}",
                *([] if loaded else [f"{statistics.median(seconds[name]):.0f} s"]),
            ]
        )
    columns = ["filter", "final quality", "against off", *(f"steps to {level}" for level in LEVELS)]
    columns += ["out of distribution", "dropped", "rollouts trained on", *([] if loaded else ["median run time"])]
    everything = [run for of_seeds in runs.values() for run in of_seeds]
    note = (
        "Steps: medians over seeds of the first evaluation whose mean of the last 3 reaches the level (a dash: the "
        "median run never did), in brackets off's median over this one with its interval. Out of distribution: on "
        "problems with one turn more than training ever draws."
    )
    if root.name != QUICK:
        kept = ", ".join(f"{share:g}: {_kept(share)}" for share in SHARES)
        note += f" Rows that static kept: {kept} (of {ROWS} rows, {REST:.0%} of the rest added)."
    lines = [*head("Results", command=command_of(root), seeds=seeds, runs=everything), *table(columns, rows), note, ""]
    lines += _costs(runs, reached)
    lines += [LOADED] if loaded else []
    return "\n".join(lines).rstrip("\n") + "\n"


def _costs(runs: Mapping[str, Sequence[Run]], reached: Mapping[str, Mapping[float, Sequence[float]]]) -> list[str]:
    """What each level cost on the axes beside steps that all runs recorded."""
    lines = []
    for axis, words in COSTLY.items():
        if axis != TRAINED_ON and not all(axis in run.metrics for of_seeds in runs.values() for run in of_seeds):
            continue
        spent = {
            name: {
                level: [_spent(run, axis, step) for run, step in zip(of_seeds, reached[name][level], strict=True)]
                for level in LEVELS
            }
            for name, of_seeds in runs.items()
        }
        rows = [[name, *(_cost(spent[name][level], spent[OFF][level], name) for level in LEVELS)] for name in spent]
        lines += [f"{words}, medians over seeds to the same evaluation (in brackets off's over this one's):", ""]
        lines += table(["filter", *(f"to {level}" for level in LEVELS)], rows)
    return lines


def _spent(run: Run, axis: str, step: float) -> float:
    """What the run had spent after ``step`` steps; `CENSORED` for a level that it never reached."""
    if step == CENSORED:
        return CENSORED
    part = run.metrics[run.metrics["step"] <= step]
    return BATCH * float(part[axis].sum()) if axis == TRAINED_ON else float(part[axis].to_numpy().max(initial=0.0))


def _has_ood(run: Run) -> bool:
    return "ood" in set(run.all_evals["split"])


def _kept(share: float) -> int:
    """Rows that the static filter keeps: how many is the shares' business alone, which ones is the sampling's."""
    return sum(why is not None for why in choose([0.0] * ROWS, keep_share=share, rest_share=REST))


def _cost(mine: Sequence[float], off: Sequence[float], name: str) -> str:
    median = statistics.median_high(mine)
    shown = "-" if median == CENSORED else f"{median:.0f}"
    if name == OFF:
        return shown
    ratio: Ratio = ratio_of_medians(off, mine, confidence=CONFIDENCE, resamples=10_000, seed=0)
    if math.isnan(ratio.value):  # neither gets there
        return shown
    return f"{shown} ({ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/filtering"))
    parser.add_argument("--tables-only", action="store_true", help="write the table and figure of what is finished")
    parser.add_argument("--quick", action="store_true", help="two seeds of two filters, shorter; page with the runs")
    arguments = parser.parse_args()
    seeds, root = [int(seed) for seed in arguments.seeds.split(",")], arguments.outputs
    if arguments.quick:
        seeds, root = seeds[:2], root / QUICK
    page, archive = home(root), archive_of(root)
    if not arguments.tables_only:
        if any("filtering=static" in job.overrides for job in pending(jobs(root, seeds), archive)):
            prefilter(root, seeds)
        run_all(jobs(root, seeds), workers=arguments.workers, archive=archive)
    text = markdown(root, seeds)
    (page / "results.md").write_text(text)
    curves = {
        name: quality_curves([folder_of(root, name, seed) for seed in seeds], archive) for name in filters_of(root)
    }
    panels = [Panel(title="ParaRev twin, 2 to 4 turns", curves=curves)]
    draw_curves(panels, page / "curves.png", page / "curves.csv", ylabel="held-out quality")
    print(text)


if __name__ == "__main__":
    reported(main)
