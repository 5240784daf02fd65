"""What a comparison of runs says, as plain values: levels over seeds, the verdict, costs, differences, alarms.

Seeds of one setting are averaged; the interval over them is Student's t (`analysis.figures.over_seeds`), clipped to
what a share can be. A setting with one seed has its run's own interval over held-out prompts, which does not cover
the choice of seed, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dro_lab.console import OF_ALL_PARTS, SHARES, label, table_order
from dro_lab.record.read import Run
from dro_lab.report.content import MISSING, number

Groups = Mapping[str, Mapping[int, Run]]
"""Runs by label and seed, as `analysis.load.by_label` gives them."""

COSTS = {"rollouts": "rollouts", "tokens": "tokens sampled", "seconds": "seconds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A number of one setting: the mean over its seeds, the interval, and what the interval is over."""

    value: float
    low: float
    high: float
    seeds: int
    agree: bool = False  # seeds whose estimates are the same: their common interval is over prompts

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def text(self, *, share: bool = False) -> str:
        around = f" [{number(self.low, share=share)}, {number(self.high, share=share)}]" if self.known else ""
        return number(self.value, share=share) + around


NOTHING = Level(value=math.nan, low=math.nan, high=math.nan, seeds=0)


def level(
    rows: Sequence[Mapping[str, Any] | None], *, confidence: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> Level:
    """The mean of the seeds' estimates, with the interval over seeds, or the one seed's own.

    Seeds that agree exactly (the policy before training, which they share) have their common interval over prompts.
    """
    values = [_float(row, "value") for row in rows]
    if not values or not all(map(math.isfinite, values)):
        return NOTHING
    if len(set(values)) == 1:
        low, high = _float(rows[0], "low"), _float(rows[0], "high")
        return Level(value=values[0], low=low, high=high, seeds=len(values), agree=True)
    mean, low, high = over_seeds(values, confidence=confidence)
    return Level(value=mean, low=max(low, bounds[0]), high=min(high, bounds[1]), seeds=len(values))


def over_seeds(values: Sequence[float], *, confidence: float) -> tuple[float, float, float]:
    """Mean and Student's t interval."""
    from analysis.figures import over_seeds as of_points

    mean, low, high = of_points(np.asarray(values, dtype=float)[:, None], confidence=confidence)
    return float(mean[0]), float(low[0]), float(high[0])


def _float(row: Mapping[str, Any] | None, name: str) -> float:
    value = None if row is None else row[name]
    return math.nan if value is None else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One setting in the headline table."""

    label: str
    seeds: Sequence[int]
    before: Level
    after: Level
    costs: Mapping[str, str]
    alarms: int


def best_first(groups: Groups) -> dict[str, Mapping[int, Run]]:
    """The settings by the mean quality of their ends; those without one last."""

    def quality(runs: Mapping[int, Run]) -> float:
        value = level([run.summary["after"] for run in runs.values()], confidence=0.5).value
        return value if math.isfinite(value) else -math.inf

    return dict(sorted(groups.items(), key=lambda item: -quality(item[1])))


def lines(groups: Groups, *, confidence: float) -> list[Line]:
    """The headline table, in the order of the settings."""
    return [
        Line(
            label=name,
            seeds=list(runs),
            before=level([run.summary["before"] for run in runs.values()], confidence=confidence),
            after=level([run.summary["after"] for run in runs.values()], confidence=confidence),
            costs={cost: _cost(list(runs.values()), cost) for cost in COSTS},
            alarms=sum(len(run.summary["alarms"]) for run in runs.values()),
        )
        for name, runs in groups.items()
    ]


def _cost(runs: Sequence[Run], cost: str) -> str:
    """Mean over seeds of what a run had taken at its end; a dash where a record does not say."""
    column = f"cost/{cost}"
    known = [run.metrics[column].dropna() for run in runs if column in run.metrics]
    if len(known) < len(runs) or any(values.empty for values in known):
        return MISSING
    mean = float(np.mean([values.iloc[-1] for values in known]))
    return f"{mean:,.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The top of the page."""

    title: str
    sentences: Sequence[str]


def verdict(found: Sequence[Line], groups: Groups, *, metric: str, confidence: float) -> Verdict:
    """Which setting ends highest, by how much, and how sure that is: best against second best."""
    percent = f"{100 * confidence:.0f}%"
    about = f"Quality is the data set's own metric, {metric}: 1 is right, 0 is wrong."
    measured = [line for line in found if math.isfinite(line.after.value)]
    if not measured:
        return Verdict(title="Quality was not measured", sentences=["No run ended with a number."])
    best = measured[0]
    if len(measured) == 1:
        title = f"{best.label} ends at {number(best.after.value)}"
        return Verdict(title=title, sentences=[_level_sentence(best, percent), about])
    second = measured[1]
    clear, how_sure = _difference(groups, best, second, percent=percent, confidence=confidence)
    values = f"{best.label} {number(best.after.value)}, {second.label} {number(second.after.value)}"
    title = {"yes": f"{best.label} ends highest: {values}", "no": f"No clear winner: {values}"}.get(
        clear, f"{values}, {clear}"
    )
    if max(best.after.seeds, second.after.seeds) > 1:
        about += " An interval over seeds says what another seed would change; the choice of held-out prompts, which "
        about += "all runs share, is not in it."
    sentences = [f"{_level_sentence(best, percent)} {_level_sentence(second, percent)}", how_sure, about]
    if len(measured) > 2:
        sentences.insert(
            2, f"The best of {len(measured)} settings is flattered by being chosen: run it again with fresh seeds."
        )
    return Verdict(title=title, sentences=sentences)


def _level_sentence(line: Line, percent: str) -> str:
    if line.after.seeds > 1 and line.after.agree:
        over = f"seeds {', '.join(map(str, line.seeds))} agree; {percent} interval over held-out prompts"
    elif line.after.seeds > 1:
        over = f"mean of seeds {', '.join(map(str, line.seeds))}; {percent} interval over seeds"
    else:
        over = f"seed {line.seeds[0]} alone; {percent} interval over held-out prompts"
    said = (
        f"{number(line.after.low)} to {number(line.after.high)}" if line.after.known else "which could not be computed"
    )
    return f"{line.label} ends at {number(line.after.value)} ({over} {said})."


ONE_SEED = "one seed alone"


def _difference(groups: Groups, best: Line, second: Line, *, percent: str, confidence: float) -> tuple[str, str]:
    """Whether the lead is more than seeds explain ("yes", "no", `ONE_SEED` where nobody can tell), and why.

    Seed by seed where both settings have at least two seeds in common.
    """
    ours, theirs = groups[best.label], groups[second.label]
    shared = [seed for seed in ours if seed in theirs]
    if len(shared) > 1:
        pairs = [ours[seed].summary["after"]["value"] - theirs[seed].summary["after"]["value"] for seed in shared]
        mean, low, high = over_seeds(pairs, confidence=confidence)
        said = f"Seed by seed the difference is {mean:+.2f} ({percent} interval {low:+.2f} to {high:+.2f})"
        if low > 0:
            return "yes", f"{said}: more than the choice of seed explains."
        return "no", f"{said}: these seeds do not show that one is better."
    apart = best.after.known and second.after.known and best.after.low > second.after.high
    alone = 1 in (best.after.seeds, second.after.seeds)
    caveat = " How much another seed would change is not known from one: run more." if alone else ""
    if apart:
        return ONE_SEED if alone else "yes", f"The two intervals do not overlap.{caveat}"
    return "no", f"The two intervals overlap: these runs do not show that one is better.{caveat}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Every evaluated number at the end, by setting: heads of the columns, and a row a metric."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    further: Sequence[tuple[str, Sequence[str]]]  # other metrics of greedy answers and further splits


def measures(groups: Groups, *, metric_name: str, confidence: float, without: Sequence[str] = ()) -> Measures:
    """The last value of every metric, split and decoding that at least two settings have, but ``without`` some."""
    found: dict[str, dict[str, Level]] = {}
    for name, runs in groups.items():
        ends = [_ends(run) for run in runs.values()]
        for part in dict.fromkeys(key for end in ends for key in end):
            share = part.split("/")[0] in SHARES or part.split("/")[0].startswith(("quality", "pass@"))
            bounds = (0.0, 1.0) if share else (-math.inf, math.inf)
            estimates = [end.get(part) for end in ends]
            found.setdefault(part, {})[name] = level(estimates, confidence=confidence, bounds=bounds)
    rows: list[tuple[str, list[str]]] = []
    further: list[tuple[str, list[str]]] = []
    for part in table_order(set(found) - set(without)):
        cells = [found[part].get(name, NOTHING) for name in groups]
        if sum(math.isfinite(cell.value) for cell in cells) > 1 and any(cell.value for cell in cells):
            metric = part.split("/")[0]
            line = (label(part, metric_name), [cell.text(share=metric in SHARES) for cell in cells])
            (rows if metric == part or metric in OF_ALL_PARTS else further).append(line)
    return Measures(heads=list(groups), rows=rows, further=further)


def _ends(run: Run) -> dict[str, Mapping[str, Any]]:
    """The last measurement of each metric: ``quality``, ``quality/greedy``, ``quality/ood``, ..."""
    if run.all_evals.empty:
        return {}
    own = run.all_evals["split"].iloc[0]
    last = run.all_evals.sort_values("step", kind="stable").groupby(
        ["metric", "split", "decoding"], sort=False, as_index=False
    )
    found: dict[str, Mapping[str, Any]] = {}
    for row in last.tail(1).to_dict("records"):
        forms = [str(row["split"])] * (row["split"] != own) + [str(row["decoding"])] * (row["decoding"] != "sampled")
        found["/".join([str(row["metric"]), *forms])] = {str(key): value for key, value in row.items()}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key whose values differ between runs, and what each setting has there; ``is_key`` of the configuration."""

    name: str
    is_key: bool
    values: Sequence[str]


def differences(groups: Groups) -> list[Difference]:
    """The keys of ``config.yaml`` that differ between any two runs, then what else differs: commit, versions, machine.

    A setting whose seeds differ in a key shows all of its values.
    """
    from analysis.labels import flat_config

    every = [
        (True, {name: [flat_config(run) for run in runs.values()] for name, runs in groups.items()}),
        (False, {name: [_surroundings(run) for run in runs.values()] for name, runs in groups.items()}),
    ]
    rows = []
    for is_key, facts in every:
        for key in dict.fromkeys(key for settings in facts.values() for setting in settings for key in setting):
            values = [[_text(s[key]) if key in s else MISSING for s in settings] for settings in facts.values()]
            if len({value for found in values for value in found}) > 1:
                shown = [", ".join(dict.fromkeys(found)) for found in values]
                rows.append(Difference(name=key, is_key=is_key, values=shown))
    return rows


def _surroundings(run: Run) -> dict[str, Any]:
    environment = run.environment
    git = environment.get("git") or {}
    commit = git.get("commit")
    versions = environment.get("versions") or {}
    return {
        "commit": None if commit is None else commit[:12] + (" with local changes" if git.get("dirty") else ""),
        "machine": environment.get("platform"),
        **{f"{name} version": version for name, version in versions.items()},
    }


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def alarms(groups: Groups) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Every run, and what its monitors said on the way."""
    return [
        (run_name(name, seed), run.summary["alarms"]) for name, runs in groups.items() for seed, run in runs.items()
    ]


def run_name(name: str, seed: int) -> str:
    """How the page calls a run."""
    return f"{name}, seed {seed}"


def joined(runs: Sequence[Run], table: str) -> pd.DataFrame:
    """One table of all runs, with the column ``run``: its place among them."""
    frames = [getattr(run, table).assign(run=place) for place, run in enumerate(runs)]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
