"""results.md from the tables: every bound, the measured value, and whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.scoring_cost import headline, memory, step, sweeps
from experiments.scoring_cost.arms import tokens
from experiments.scoring_cost.model import Shape
from experiments.scoring_cost.tables import Store
from experiments.scoring_cost.timing import CONFIDENCE, paired

VARIANTS = ("headline", "two_threads", "vocabulary", "gpu")


def text(store: Store) -> str:
    """The page, of the stages that were measured."""
    how = store.how()
    parts = [
        "# Results",
        "",
        "A ratio is the median over rounds of the ratios within a round, with a "
        f"{CONFIDENCE:.0%} bootstrap interval over rounds. CPU: seconds of the process on all its threads; wall: on "
        "the clock; fastest: least CPU seconds over least CPU seconds. The verdict is on CPU seconds unless a table "
        "says otherwise.",
    ]
    for variant in VARIANTS:
        if rows := store.read(variant):
            parts += _headline(variant, rows, how[variant])
    if rows := store.read("memory"):
        parts += _memory(rows, how["memory"])
    if rows := store.read("sweeps"):
        parts += _sweeps(rows, how["sweeps"])
    if rows := store.read("step"):
        parts += _step(rows, how["step"])
    return "\n".join(parts) + "\n"


def _made(how: Mapping[str, Any]) -> str:
    return f"Commit {how['commit']}; load of the machine at the end {how['load']}."


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**fails**"


def _headline(variant: str, rows: Sequence[Mapping[str, str]], how: Mapping[str, Any]) -> list[str]:
    shape = Shape(**how["shape"])
    seconds: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        kinds = seconds.setdefault(row["arm"], {"cpu": [], "wall": []})
        for kind, values in kinds.items():
            values.append(float(row[kind]))
    chosen = ", ".join(f"{name} {count}" for name, count in how["batch"].items())
    by = "wall" if variant in ("gpu", "two_threads") else "cpu"
    made = [
        "",
        f"## {_title(variant, how)}",
        "",
        f"Prompt {shape.prompt}, reasoning {shape.reasoning}, reference {shape.reference}, G {shape.rollouts}, "
        f"vocabulary {shape.vocabulary:,}; yardsticks at their best micro-batch of "
        f"{', '.join(map(str, headline.ROWS))} rollouts: {chosen}. {_made(how)}",
        "",
        "| way | tokens | CPU s, median | CPU s, least | wall s, median | rounds |",
        "|---|---|---|---|---|---|",
    ]
    for arm, kinds in seconds.items():
        cpu, wall = kinds["cpu"], kinds["wall"]
        made.append(
            f"| {arm} | {tokens(shape, arm):,} | {statistics.median(cpu):.2f} | {min(cpu):.2f} | "
            f"{statistics.median(wall):.2f} | {len(cpu)} |"
        )
    made += [
        "",
        f"| ratio | bound | by tokens | CPU | wall | fastest | verdict (by {by}) |",
        "|---|---|---|---|---|---|---|",
    ]
    for bound in headline.BOUNDS:
        if bound.numerator not in seconds:
            continue
        over, under = seconds[bound.numerator], seconds[bound.denominator]
        found = {kind: paired(*headline.same_rounds(over[kind], under[kind])) for kind in ("cpu", "wall")}
        counted = tokens(shape, bound.numerator) / tokens(shape, bound.denominator)
        made.append(
            f"| {bound.numerator} / {bound.denominator} | at {'most' if bound.at_most else 'least'} {bound.limit} | "
            f"{counted:.2f} | {found['cpu']} | {found['wall']} | {found['cpu'].of_minima:.3f} | "
            f"{_verdict(bound.holds(found[by].median))} |"
        )
    return made


def _title(variant: str, how: Mapping[str, Any]) -> str:
    if variant == "gpu":
        return f"Time on {how['device']}"
    threads = f"{how['threads']} thread{'s' if how['threads'] > 1 else ''}"
    return f"Time, vocabulary {how['shape']['vocabulary']:,}, {threads}"


def _memory(rows: Sequence[Mapping[str, str]], how: Mapping[str, Any]) -> list[str]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(int(row["bytes"]) / 2**20)
    made = [
        "",
        "## Peak memory",
        "",
        f"Rise of the resident memory at its peak over its value before the call, one fresh process a value, "
        f"{len(found['cached'])} processes a row, micro-batches of {how['batch']} rollouts in all. {_made(how)}",
        "",
        "| way | MiB, median (least to most) | over the plain forward with a cache | bound | verdict |",
        "|---|---|---|---|---|",
    ]
    for arm, values in found.items():
        cells = f"| {_memory_name(arm)} | {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) |"
        if arm == "cached":
            made.append(f"{cells} 1 | | |")
            continue
        ratio = paired(values, found["cached"])
        made.append(f"{cells} {ratio} | at most {memory.LIMIT} | {_verdict(ratio.median <= memory.LIMIT)} |")
    return made


def _memory_name(arm: str) -> str:
    return "plain forward with a cache" if arm == "cached" else f"REPRO k={arm}"


def _sweeps(rows: Sequence[Mapping[str, str]], how: Mapping[str, Any]) -> list[str]:
    shape = Shape(**how["shape"])
    points = points_of(rows)
    made = [
        "",
        "## Slopes",
        "",
        f"Cost in tokens of the plain forward (its CPU seconds a token at prompt {shape.prompt}, reasoning "
        f"{shape.reasoning}, reference {shape.reference}, G {shape.rollouts}, micro-batch {how['batch']}, run in every "
        f"round); medians of {how['rounds']} rounds; k = {sweeps.K} where k is not varied. {_made(how)}",
        "",
        "| against | values | measured slope | counted slope | measured / counted |",
        "|---|---|---|---|---|",
    ]
    for line in sweeps.lines(points, shape):
        values = ", ".join(map(str, line.values))
        made.append(
            f"| {line.sweep.label} | {values} | {line.measured:.4g} | {line.predicted:.4g} | "
            f"{line.measured / line.predicted:.2f} |"
        )
    return [*made, "", "![cost against k, G and the reasoning's length](sweeps.png)"]


def points_of(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[int, list[float]]]:
    points: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        points.setdefault(row["sweep"], {}).setdefault(int(row["value"]), []).append(float(row["cost"]))
    return points


def _step(rows: Sequence[Mapping[str, str]], how: Mapping[str, Any]) -> list[str]:
    columns = {key: [float(row[key]) for row in rows] for key in rows[0]}
    wall, cpu = (paired(columns[f"repro{kind}"], columns[f"bare{kind}"]) for kind in ("", "_cpu"))
    repro = statistics.mean(columns["repro"])
    made = [
        "",
        "## A training step",
        "",
        f"`reward=repro {' '.join(how['overrides'])}` at the laptop scale, {how['threads']} thread(s), {len(rows)} "
        f"steps of each, in turns on the same completions. {_made(how)}",
        "",
        "| | seconds a step, median | CPU seconds of its thread, median |",
        "|---|---|---|",
        *(
            f"| {label} | {statistics.median(columns[name]):.3f} | {statistics.median(columns[f'{name}_cpu']):.3f} |"
            for name, label in (("bare", "bare TRL, constant reward"), ("repro", "lab, reward=repro"))
        ),
        "",
        f"Ratio: wall {wall}, CPU {cpu}; at most {step.LIMIT} wanted; by wall it "
        f"{_verdict(wall.median <= step.LIMIT)}.",
        "",
        "| where a step of the lab goes | seconds, mean | share |",
        "|---|---|---|",
    ]
    for part in step.PARTS:
        mean = statistics.mean(columns[part])
        made.append(f"| {part} | {mean:.3f} | {mean / repro:.0%} |")
    return made
