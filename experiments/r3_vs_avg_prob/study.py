"""R3 against average probability on the ParaRev twin: runs, step-0 measurements, table and figure.

``python -m experiments.r3_vs_avg_prob.study`` runs what is missing (in parts, if interrupted), then writes
``results.md``, ``curves.png`` and ``curves.csv`` beside this file. ``--seeds 0,1,2,3,4`` and ``--workers 2`` are the
defaults; ``--quick`` takes two seeds of the default preset.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dro_lab.record.read import load_run
from experiments.r3_vs_avg_prob import figure, step0, table
from experiments.runs import Job, reported, run_all

HERE = Path(__file__).parent
BASELINE_STEPS, STEPS = 100, 48
"""The baseline of the default preset sets the target within 100 steps. The claim, at most half of the baseline's steps,
is decided at step 48 of the 4-step grid; without coherent noise every reward nears its plateau soon after, where a
target would measure luck."""
REWARDS = {
    "avg_prob": ["reward=avg_prob"],
    "avg_logprob": ["reward=avg_logprob"],
    "r3_w1": ["reward=r3", "reward.omega=1"],
    "r3_w2": ["reward=r3", "reward.omega=2"],
    "r3_w4": ["reward=r3", "reward.omega=4"],
    "verifier": ["reward=verifier"],
}
PRESETS = {
    "default": tuple(REWARDS),
    "mild": ("avg_prob", "r3_w2"),
    "incoherent": ("avg_prob", "r3_w2"),
}
"""The rewards each preset of the twin is trained with: all where the effect should show, two where it should not."""


def folder_of(root: Path, preset: str, reward: str, seed: int) -> Path:
    return root / preset / f"{reward}_s{seed}"


def steps_of(preset: str, reward: str) -> int:
    return BASELINE_STEPS if (preset, reward) == ("default", "avg_prob") else STEPS


def jobs(root: Path, seeds: list[int], presets: list[str]) -> list[Job]:
    """Preset by preset and seed by seed, so that an interrupted study has whole seeds."""
    return [
        Job(
            folder=folder_of(root, preset, reward, seed),
            overrides=[
                "+experiments=r3_vs_avg_prob",
                *REWARDS[reward],
                f"dataset.twin.preset={preset}",
                f"seed={seed}",
                f"steps={steps_of(preset, reward)}",
            ],
        )
        for preset in presets
        for seed in seeds
        for reward in PRESETS[preset]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/r3_vs_avg_prob"))
    parser.add_argument("--quick", action="store_true", help="two seeds, default preset")
    parser.add_argument("--tables-only", action="store_true", help="write the table and figure of what is finished")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    presets = list(PRESETS)
    if arguments.quick:
        seeds, presets = seeds[:2], ["default"]
    if not arguments.tables_only:
        run_all(jobs(arguments.outputs, seeds, presets), workers=arguments.workers)
    curves = table.load_curves(arguments.outputs, seeds, {preset: PRESETS[preset] for preset in presets})
    runs = [load_run(job.folder) for job in jobs(arguments.outputs, seeds, presets)]
    seconds = sum(run.summary["seconds"]["total"] for run in runs)
    commits = sorted({str(run.environment["git"]["commit"])[:12] for run in runs})
    measured = step0.load_or_measure(arguments.outputs / "step0.json", presets)
    text = table.markdown(curves, measured, seeds=seeds, seconds=seconds, commits=commits)
    (HERE / "results.md").write_text(text)
    figure.draw(curves, HERE / "curves.png", HERE / "curves.csv")
    print(text)


if __name__ == "__main__":
    reported(main)
