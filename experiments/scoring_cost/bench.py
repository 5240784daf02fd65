"""What scoring costs beside its yardsticks, in time and memory, and what it adds to a training step.

``python -m experiments.scoring_cost.bench`` writes a csv a stage, ``sweeps.png`` and ``results.md`` beside this file.
A stage can be run alone; the others' tables stay, and the page is made anew from all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from experiments.scoring_cost import headline, memory, report, step, sweeps
from experiments.scoring_cost.arms import Arms
from experiments.scoring_cost.model import LARGE_VOCABULARY, SMALL_VOCABULARY, Shape, random_model
from experiments.scoring_cost.tables import HERE, Store

STAGES = ("headline", "two_threads", "vocabulary", "memory", "sweeps", "step")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options().parse_args(arguments)
    store = Store(options.folder)
    store.folder.mkdir(parents=True, exist_ok=True)
    shape = Shape(
        prompt=options.prompt, reasoning=options.reasoning, reference=options.reference, rollouts=options.rollouts
    )
    for stage in options.stages:
        print(stage, flush=True)
        torch.set_num_threads(2 if stage == "two_threads" else 1)
        if stage in ("headline", "two_threads", "vocabulary"):
            _headline(stage, store, shape, options)
        elif stage == "memory":
            found = memory.measure(shape, headline.KS, options.rounds)
            rows = [{"arm": arm, "bytes": value} for arm, values in found.items() for value in values]
            store.write("memory", rows, batch=memory.scoring_rows(shape))
        elif stage == "sweeps":
            _sweeps(store, shape, options)
        else:
            threads = torch.get_num_threads()
            steps = step.measure(options.steps, threads, options.overrides)
            store.write("step", steps, threads=threads, overrides=options.overrides)
    if points := store.read("sweeps"):
        drawn = Shape(**store.how()["sweeps"]["shape"])
        sweeps.draw(report.points_of(points), drawn, store.folder / "sweeps.png")
    (store.folder / "results.md").write_text(text := report.text(store))
    print(text)


def _options() -> argparse.ArgumentParser:
    usual = Shape()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--device", default="cpu", help="cuda: the times of `headline` go to the table of the GPU")
    parser.add_argument("--rounds", type=int, default=5, help="of every arm, and processes a row of the memory table")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of one forward per prefix and the released way")
    parser.add_argument("--steps", type=int, default=40, help="training steps of each trainer")
    parser.add_argument(
        "--overrides", nargs="*", default=["dataset=gsm8k"], help="of the training step's configuration"
    )
    parser.add_argument("--prompt", type=int, default=usual.prompt)
    parser.add_argument("--reasoning", type=int, default=usual.reasoning)
    parser.add_argument("--reference", type=int, default=usual.reference)
    parser.add_argument("--rollouts", type=int, default=usual.rollouts)
    parser.add_argument("--folder", type=Path, default=HERE)
    return parser


def _headline(stage: str, store: Store, shape: Shape, options: argparse.Namespace) -> None:
    large = stage == "vocabulary"
    shape = Shape(**{**asdict(shape), "vocabulary": LARGE_VOCABULARY if large else SMALL_VOCABULARY})
    arms = Arms.of(random_model(shape.vocabulary, options.device), shape)
    slow_rounds = options.slow_rounds if stage == "headline" else 0
    rounds = options.rounds if stage == "headline" else min(3, options.rounds)
    found, rows = headline.measure(arms, options.device, rounds, slow_rounds)
    timings = [
        {"arm": arm, "round": turn, "cpu": seconds.cpu, "wall": seconds.wall}
        for arm, turns in found.items()
        for turn, seconds in enumerate(turns)
    ]
    on_gpu = options.device.startswith("cuda")
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    name = "gpu" if on_gpu and stage == "headline" else stage
    store.write(name, timings, batch=rows, shape=asdict(shape), threads=torch.get_num_threads(), device=device)


def _sweeps(store: Store, shape: Shape, options: argparse.Namespace) -> None:
    model = random_model(shape.vocabulary, options.device)
    points, rows = sweeps.measure(model, shape, options.slow_rounds, options.device)
    table = [
        {"sweep": sweep, "value": value, "round": turn, "cost": cost}
        for sweep, values in points.items()
        for value, costs in values.items()
        for turn, cost in enumerate(costs)
    ]
    store.write("sweeps", table, batch=rows, shape=asdict(shape), rounds=options.slow_rounds)


if __name__ == "__main__":
    main()
