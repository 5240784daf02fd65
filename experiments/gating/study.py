"""Gates against a shortcut: where does a reward collapse, where does a gate starve it, where does it learn?

A share of the warm-started policy's rollouts skips the work and answers with words that state nothing, in the style
that the references have. ``python -m experiments.gating.study`` builds the six policies (three shares x two bonuses)
that are missing, runs what is missing, then writes ``results.md``, ``curves.png`` and ``curves.csv`` beside this file.
``--seeds 0,1,2,3,4`` and ``--workers 2`` are the defaults; ``--shares 0.3 --bonuses 0.1`` for a part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dro_lab.record.read import Run
from experiments.archive import Archive
from experiments.figures import Panel, draw_curves
from experiments.gating import policies
from experiments.runs import Job, pending, reported, run_all
from experiments.summaries import evaluated, finished_runs, head, over, quality_curves, table, trained

HERE = Path(__file__).parent
COMMAND = "python -m experiments.gating.study"
SHARES, BONUSES = (0.1, 0.2, 0.3), (0.1, 0.4)
REWARDS = {"avg_prob": ["reward=avg_prob"], "r3": ["reward=r3", "reward.omega=2"]}
GATES = {
    "no gate": ["gating=none"],
    "group rejection": ["gating=rubric", "gating.on_reject=drop"],
    "flooring": ["gating=rubric", "gating.on_reject=floor"],
}
WINDOW = 4
"""Steps at the start and at the end over which a rate is averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One policy: the share of rollouts that skip, and how much the references' style favours them."""

    share: float
    bonus: float

    @property
    def name(self) -> str:
        return f"share{self.share:g}_bonus{self.bonus:g}"

    def __str__(self) -> str:
        return f"{self.share:.0%} skip, bonus {self.bonus:g}"


QUICK = "quick"


def home(root: Path) -> Path:
    """Where page, figure and archive go: beside this file; with the runs under ``--quick``."""
    return root if root.name == QUICK else HERE


def command_of(root: Path) -> str:
    """What writes the page."""
    return f"{COMMAND} --quick" if root.name == QUICK else COMMAND


def gates_of(root: Path) -> tuple[str, ...]:
    """The gates that are compared: all of them; the first and the last under ``--quick``."""
    return (*GATES,)[:: 2 if root.name == QUICK else 1]


def rewards_of(root: Path) -> tuple[str, ...]:
    """The rewards that are compared: all of them; the one that collapses without a gate under ``--quick``."""
    return (*REWARDS,)[: 1 if root.name == QUICK else None]


def archive_of(root: Path) -> Archive:
    return Archive(home(root) / "runs.jsonl", root)


def folder_of(root: Path, setting: Setting, reward: str, gate: str, seed: int) -> Path:
    return root / setting.name / f"{reward}_{gate.replace(' ', '_')}_s{seed}"


def jobs(root: Path, seeds: Sequence[int], settings: Sequence[Setting]) -> list[Job]:
    """Seed by seed, so that an interrupted study has whole seeds."""
    return [
        Job(
            folder=folder_of(root, setting, reward, gate, seed),
            overrides=[
                "+experiments=gating",
                *REWARDS[reward],
                *GATES[gate],
                f"++dataset.twin.shortcut_share={setting.share}",
                f"++dataset.twin.shortcut_bonus={setting.bonus}",
                f"model.path={root / 'policies' / setting.name}",
                f"seed={seed}",
            ],
        )
        for seed in seeds
        for setting in settings
        for reward in rewards_of(root)
        for gate in gates_of(root)
    ]


def outcome(quality: Sequence[tuple[int, float]], rejected: float) -> str:
    """What became of a run, by held-out quality from first to last and the share of groups rejected on the way.

    learns: a gain of at least .1; collapses: a loss of at least .1; starves: neither, with over 90% rejected; else
    flat.
    """
    gain = quality[-1][1] - quality[0][1]
    if gain >= 0.1:
        return "learns"
    if gain <= -0.1:
        return "collapses"
    return "starves" if rejected > 0.9 else "flat"


def markdown(root: Path, seeds: Sequence[int], settings: Sequence[Setting]) -> str:
    """The results page."""
    lines: list[str] = []
    everything: list[Run] = []
    for setting in settings:
        rows = []
        for reward in rewards_of(root):
            for gate in gates_of(root):
                runs = finished_runs([folder_of(root, setting, reward, gate, seed) for seed in seeds], archive_of(root))
                everything += runs
                rows.append(_row(reward, gate, runs))
        lines += [f"## {setting}", "", *table(COLUMNS, rows)]
    return "\n".join([*head("Results", command=command_of(root), seeds=seeds, runs=everything), *LEGEND, *lines])


COLUMNS = ("reward", "gate", "quality before", "after", "each seed", "outcome", "faults, first / last 4 steps")
LEGEND = [
    "Outcome of each seed: *learns* gains at least .1 of held-out quality, *collapses* loses as much, *starves* does "
    "neither with over 90% of the groups rejected, *flat* neither. Faults: under group rejection the share of groups "
    "rejected, under flooring the share of rollouts floored, in the first and in the last 4 of 16 steps.",
    "",
]


def _row(reward: str, gate: str, runs: Sequence[Run]) -> list[object]:
    quality = [evaluated(run, "quality") for run in runs]
    rejected = [trained(run, "gate/rejected_share") for run in runs]
    outcomes = [outcome(curve, share) for curve, share in zip(quality, rejected, strict=True)]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
    fault = "gate/floored_share" if gate == "flooring" else "gate/rejected_share"
    first, last = (over([trained(run, fault, **{end: WINDOW}) for run in runs]).mean for end in ("first", "last"))
    after = over([curve[-1][1] for curve in quality])
    shown = "-" if gate == "no gate" else f"{first:.0%} / {last:.0%}"
    return [reward, gate, over([curve[0][1] for curve in quality]), after, after.each, counts, shown]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)))
    parser.add_argument("--bonuses", default=",".join(map(str, BONUSES)))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/gating"))
    parser.add_argument("--tables-only", action="store_true", help="write the table and figure of what is finished")
    parser.add_argument("--quick", action="store_true", help="two seeds, one policy, one reward; page with the runs")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    settings = [
        Setting(share=float(share), bonus=float(bonus))
        for bonus in arguments.bonuses.split(",")
        for share in arguments.shares.split(",")
    ]
    root = arguments.outputs
    if arguments.quick:
        seeds, settings, root = seeds[:2], [Setting(share=0.2, bonus=0.4)], root / QUICK
    if not arguments.tables_only:
        for setting in settings:
            if pending(jobs(root, seeds, [setting]), archive_of(root)):
                policies.build(setting.share, setting.bonus, root / "policies" / setting.name)
        run_all(jobs(root, seeds, settings), workers=arguments.workers, archive=archive_of(root))
    text = markdown(root, seeds, settings)
    (home(root) / "results.md").write_text(text)
    panels = [
        Panel(
            title=str(setting),
            curves={
                f"{reward}, {gate}": quality_curves(
                    [folder_of(root, setting, reward, gate, seed) for seed in seeds], archive_of(root)
                )
                for reward in rewards_of(root)
                for gate in gates_of(root)
            },
        )
        for setting in settings
    ]
    draw_curves(panels, home(root) / "curves.png", home(root) / "curves.csv", ylabel="held-out quality", columns=3)
    print(text)


if __name__ == "__main__":
    reported(main)
