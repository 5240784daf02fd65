"""What a run prints: a banner, a progress line, warnings, and the table *before -> after*."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dro_lab.record.summary import Estimate, Summary

LABELS = {
    "quality": "quality",
    "win_rate": "win rate against base",
    "order_disagreement": "pairs judged otherwise in the other order",
    "win_unknown_share": "pairs that the judge could not decide",
    "pass@": "right within",
    "reward": "reward",
    "reflective_share": "share of reflective tokens",
    "reasoning_tokens": "reasoning length (tokens)",
    "answer_tokens": "answer length (tokens)",
    "completion_tokens": "completion length (tokens)",
    "segments": "segments of a reasoning",
    "backtracking_share": "segments that backtrack",
    "certain_at": "reasoning until certain (tokens, certain rollouts only)",
    "certain_share": "rollouts ever certain of the answer",
    "gate_rejected_share": "groups rejected by the gate",
    "filter_dropped_share": "rollouts dropped by the filter",
    "kl": "KL to the start (nats a token)",
    "truncated_share": "truncated completions",
    "malformed_share": "malformed completions",
}
"""The rows of the final table, in order; a data set's own figures stand before the reward under their own names."""

SHARES = frozenset(name for name in LABELS if name.endswith("_share")) | {"win_rate", "order_disagreement"}
OF_ALL_PARTS = ("quality", "win_rate")
"""Shown of greedy answers and further splits too; report and record have the rest."""
ONLY_IF_ANY = ("order_disagreement", "win_unknown_share", "backtracking_share")
COUNTS = ("segments", "certain_at")
WITH_INTERVAL = ("quality", "win_rate", "pass@")


def label(name: str, metric_name: str = "", samples: int | None = None) -> str:
    """The words for a metric's full name: ``quality/ood/greedy`` is "quality (ITS NAME), ood, greedy".

    ``samples``: answers a row. The quality of sampled answers is their mean, the mean@n of the literature.
    """
    metric, *forms = name.split("/")
    words = LABELS.get(metric, metric)
    if metric.startswith("pass@"):
        tries = metric.removeprefix("pass@")
        words = f"{LABELS['pass@']} {tries} {'try' if tries == '1' else 'tries'} ({metric})"
    elif metric == "quality":
        mean = f"mean@{samples}" if samples and "greedy" not in forms else ""
        details = ", ".join(filter(None, (metric_name, mean)))
        words += f" ({details})" if details else ""
    return ", ".join([words, *forms])


def table_order(names: Iterable[str]) -> list[str]:
    """The names in the order in which tables show them; parts of one metric stay together."""
    ranks = {metric: rank for rank, metric in enumerate(LABELS)}

    def rank(name: str) -> float:
        metric = name.split("/")[0]
        if metric.startswith("pass@"):
            return ranks["pass@"]
        return ranks.get(metric, ranks["pass@"] + 0.5)

    return sorted(dict.fromkeys(names), key=rank)


class RunConsole:
    """Prints one run. On a terminal it shows a bar; piped, a line every few steps."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._every = 1

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """One warning, in plain words."""
        self.console.print(Text.assemble(("warning:", "yellow"), " ", text))

    def __enter__(self) -> RunConsole:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def start(self, steps: int, *, done: int = 0) -> None:
        """Begin the training bar, behind the steps that are done."""
        self._every = max(1, steps // 10)
        if self.console.is_terminal and steps:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[line]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._progress.add_task("training", total=steps, completed=done, line="")
            self._progress.start()

    def step(
        self,
        step: int,
        steps: int,
        *,
        reward: float,
        quality: float,
        reasoning: float,
        seconds_left: float,
        health: str = "",
    ) -> None:
        """One training step is done; ``health`` names the monitors that fire now."""
        line = f"reward {_number(reward)}  quality {_number(quality)}  reasoning {_number(reasoning, 0)} tokens"
        line += f"  {health}" if health else ""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, line=line)
        elif step == 1 or step % self._every == 0 or step == steps:
            self.say(f"step {step:>4}/{steps}  {line}  {seconds_left:.0f} s left")

    def evaluation(self, step: int, quality: Estimate) -> None:
        """An evaluation on held-out rows is done."""
        self.say(f"step {step:>4}  held-out quality {_estimate(quality)} on {quality.n} rows")

    def result(self, summary: Summary, before: Sequence[Estimate], after: Sequence[Estimate]) -> None:
        """The table *before -> after*; one column where nothing was to be trained."""
        first, last = {e.metric: e for e in before}, {e.metric: e for e in after}
        columns = [first, last] if summary.planned_steps else [last]
        table = Table(title=None, box=None, pad_edge=False)
        table.add_column("")
        for head in ("before", "after") if len(columns) == 2 else ("",):
            table.add_column(head, justify="right")
        for name in table_order([*first, *last]):
            found = [column.get(name) for column in columns]
            if _shown(name, found):
                words = (label(name, summary.metric, summary.samples), *(_cell(name, estimate) for estimate in found))
                table.add_row(*map(Text, words))  # as they stand: no markup
        self.console.print()
        self.console.print(table)
        rows = last.get("quality", first.get("quality"))
        n = rows.n if rows else 0
        self.say(f"[{summary.confidence:.0%} bootstrap intervals over {n} held-out rows]")
        if summary.stopped:
            self.say(f"stopped  {summary.stopped}")


def _shown(name: str, found: Sequence[Estimate | None]) -> bool:
    metric, *forms = name.split("/")
    if metric in ONLY_IF_ANY and not any(e is not None and e.value > 0 for e in found):
        return False
    return not forms or metric in OF_ALL_PARTS


def farewell(console: RunConsole, *, report: Path | None, folder: Path, compare: str, upload: str = "") -> None:
    """The last lines: where the evidence lies and what to do next."""
    if report is not None:
        console.say(f"report   {report}")
    console.say(f"record   {folder}")
    if upload:
        console.say(f"upload   {upload}")
    if compare:
        console.say(f"compare  {compare}")


def _number(value: float, digits: int = 3) -> str:
    return "-".center(digits + 2) if math.isnan(value) else f"{value:.{digits}f}"


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "not measured"
    interval = "" if math.isnan(estimate.low) else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval}"


def _cell(name: str, estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "-"
    metric = name.split("/")[0]
    if metric.startswith(WITH_INTERVAL) or metric not in LABELS:
        return _estimate(estimate)
    if metric in SHARES:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1f}" if metric.endswith("_tokens") or metric in COUNTS else f"{estimate.value:.4f}"
