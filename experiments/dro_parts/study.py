"""DRO's parts, one by one: the paper's ablation in miniature.

``python -m experiments.dro_parts.study`` runs what is missing on the policy that can skip the work (20% of its rollouts
do, `experiments.gating.policies`), then writes ``results.md``, ``curves.png`` and ``curves.csv`` beside this file.
``--seeds 0,1,2,3,4`` and ``--workers 2`` are the defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.archive import Archive
from experiments.figures import Panel, draw_curves
from experiments.gating import policies
from experiments.runs import Job, reported, run_all
from experiments.summaries import difference, evaluated, finished_runs, head, over, quality_curves, table, trained

HERE = Path(__file__).parent
COMMAND = "python -m experiments.dro_parts.study"
SHARE, BONUS = 0.2, 0.1
GATE, FILTER = ["gating=rubric"], ["filtering=r3_variance"]
PARTS = {
    "avg_prob": ["reward=avg_prob"],
    "avg_logprob": ["reward=avg_logprob"],
    "gates only (avg_prob)": ["reward=avg_prob", *GATE],
    "filter only (avg_prob)": ["reward=avg_prob", *FILTER],
    "R3 only": ["reward=r3"],
    "all": ["reward=r3", *GATE, *FILTER],
    "all, flooring": ["reward=r3", *GATE, "gating.on_reject=floor", *FILTER],
    "verifier (ceiling)": ["reward=verifier"],
}
PUBLISHED = {
    "avg_logprob": "49.5",
    "R3 only": "57.8",
    "all": "63.7",
}
"""Win rate against the base policy on ParaRev (arXiv 2506.13351). Its "rubric only", 55.9, has no counterpart here: it
rewards the rubric itself, which is not the same as gating average probability."""


def archive_of(root: Path) -> Archive:
    return Archive(HERE / "runs.jsonl", root)


def folder_of(root: Path, part: str, seed: int) -> Path:
    name = "".join(c if c.isalnum() else "_" for c in part)
    return root / f"{name}_s{seed}"


def jobs(root: Path, seeds: Sequence[int]) -> list[Job]:
    """Seed by seed, so that an interrupted study has whole seeds."""
    return [
        Job(
            folder=folder_of(root, part, seed),
            overrides=[
                "+experiments=dro_parts",
                *overrides,
                f"++dataset.twin.shortcut_share={SHARE}",
                f"++dataset.twin.shortcut_bonus={BONUS}",
                f"model.path={root / 'policy'}",
                f"seed={seed}",
            ],
        )
        for seed in seeds
        for part, overrides in PARTS.items()
    ]


def markdown(root: Path, seeds: Sequence[int]) -> str:
    """The results page."""
    runs = {part: finished_runs([folder_of(root, part, seed) for seed in seeds], archive_of(root)) for part in PARTS}
    final = {part: [evaluated(run, "quality")[-1][1] for run in of_seeds] for part, of_seeds in runs.items()}
    rows = []
    for part, of_seeds in runs.items():
        wins = over([100 * evaluated(run, "win_rate")[-1][1] for run in of_seeds])
        rejected, dropped = (
            over([trained(run, key) for run in of_seeds]).mean
            for key in ("gate/rejected_share", "filter/dropped_share")
        )
        rows.append(
            [
                part,
                f"{wins.mean:.1f} [{wins.low:.1f}, {wins.high:.1f}]",
                PUBLISHED.get(part, ""),
                over(final[part]),
                over(final[part]).each,
                "" if part == "R3 only" else difference(final[part], final["R3 only"]),
                f"{rejected:.0%} / {dropped:.0%}",
            ]
        )
    columns = ["parts", "win rate (%)", "published (ParaRev)", "final quality", "each seed", "against R3 only"]
    columns += ["gate rejects / filter drops"]
    everything = [run for of_seeds in runs.values() for run in of_seeds]
    return "\n".join([*head("Results", command=COMMAND, seeds=seeds, runs=everything), *table(columns, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/dro_parts"))
    arguments = parser.parse_args()
    seeds, root = [int(seed) for seed in arguments.seeds.split(",")], arguments.outputs
    policies.build(SHARE, BONUS, root / "policy")
    run_all(jobs(root, seeds), workers=arguments.workers, archive=archive_of(root))
    text = markdown(root, seeds)
    (HERE / "results.md").write_text(text)
    curves = {part: quality_curves([folder_of(root, part, seed) for seed in seeds], archive_of(root)) for part in PARTS}
    panels = [Panel(title="ParaRev twin, 20% of the rollouts skip", curves=curves)]
    draw_curves(panels, HERE / "curves.png", HERE / "curves.csv", ylabel="held-out quality")
    print(text)


if __name__ == "__main__":
    reported(main)
