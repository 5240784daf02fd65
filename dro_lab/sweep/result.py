"""What a sweep leaves beside its runs: ``trials.csv`` at any time, ``sweep.json`` and ``sweep.md`` at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from optuna.trial import TrialState
from scipy import stats

from dro_lab.errors import UserError
from dro_lab.record.files import finite, write_atomic, write_json
from dro_lab.record.summary import read_summary
from dro_lab.sweep.final import DEFAULT
from dro_lab.sweep.ledger import AGAIN, ERROR, INTERRUPTED, Ledger, Progress

if TYPE_CHECKING:
    from dro_lab.sweep.final import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The winner and its values on the test split."""

    study: str
    objective: str
    direction: str
    counts: Progress
    trial: int
    params: Mapping[str, Any]
    test: Mapping[int, float]  # objective by seed
    confidence: float
    chosen_by: float  # the winner's value in the search: for MLflow, not for reporting
    tied: int = 1  # finished trials with that value, the winner among them
    default: Mapping[str, Any] | None = None  # the configuration's own values, where they ran too
    default_test: Mapping[int, float] = field(default_factory=dict)  # objective by seed

    @classmethod
    def of(cls, ledger: Ledger, final: Final, cfg: DictConfig, *, default: Mapping[str, Any] | None) -> Result:
        """The result of a sweep whose runs are all done."""
        value = final.winner.value
        assert value is not None
        return cls(
            study=ledger.study.study_name,
            objective=cfg.objective,
            direction=ledger.study.direction.name.lower(),
            counts=ledger.progress(),
            trial=final.winner.number,
            params=final.winner.params,
            test=final.values(),
            confidence=cfg.evaluation.confidence,
            chosen_by=value,
            default=default,
            default_test=final.values(DEFAULT),
            tied=sum(trial.value == value for trial in ledger.study.trials if trial.state is TrialState.COMPLETE),
        )

    @property
    def interval(self) -> tuple[float, float, float]:
        """Mean, low and high end on the test split."""
        return mean_interval(list(self.test.values()), confidence=self.confidence)

    def lines(self) -> list[str]:
        """The result in words, a line each."""
        winner = f"winner   {_settings(self.params)} (trial {self.trial} of {self.counts.done}, chosen on validation)"
        return [winner, *([f"note     {self.tie}"] if self.tie else []), f"test     {self.headline}", *self.beside]

    @property
    def beside(self) -> list[str]:
        """What the configuration's own values reach on the same seeds, and the difference, where they ran."""
        if not self.default or not self.default_test:
            return []
        return [
            f"default  {_settings(self.default)}: {_mean(list(self.default_test.values()), self.confidence)}",
            f"gain     {_mean(self.differences, self.confidence, signed=True)}, winner less default seed by seed",
        ]

    @property
    def differences(self) -> list[float]:
        """Winner less default on the seeds of both."""
        return [value - self.default_test[seed] for seed, value in self.test.items() if seed in self.default_test]

    @property
    def tie(self) -> str:
        """That the search did not decide, where it did not."""
        if self.tied < 2:
            return ""
        return (
            f"{self.tied} of {self.counts.complete} finished trials have the winner's value: between them nothing was "
            "decided, and the first is taken. Train longer (steps=), or evaluate on more rows (evaluation.prompts=)"
        )

    @property
    def headline(self) -> str:
        """The one number that is reported."""
        if not self.test:
            return "not measured (hydra.sweeper.final_seeds=0)"
        seeds = "1 seed" if len(self.test) == 1 else f"{len(self.test)} fresh seeds"
        measured = _mean(list(self.test.values()), self.confidence)
        return f"{self.objective} {measured} over {seeds} on the test split"

    def to_json(self) -> dict[str, Any]:
        """The content of ``sweep.json``."""
        mean, low, high = self.interval
        content: dict[str, Any] = {
            "study": self.study,
            "objective": self.objective,
            "direction": self.direction,
            "trials": asdict(self.counts),
            "winner": {"trial": self.trial, "params": dict(self.params)},
            "test": {
                "split": "test",
                "seeds": list(self.test),
                "values": list(self.test.values()),
                "mean": mean,
                "low": low,
                "high": high,
                "confidence": self.confidence,
            },
        }
        if self.default is not None:
            content["default"] = {
                "params": dict(self.default),
                "seeds": list(self.default_test),
                "values": list(self.default_test.values()),
                "differences": self.differences,
            }
        return finite(content)

    def to_markdown(self) -> str:
        """The content of ``sweep.md``."""
        beside = self.default if self.default_test else None
        rows = [f"| {seed} | {value:.4f} |{self._default_cell(seed)}" for seed, value in self.test.items()]
        settings = [
            f"| {name} | {value} |" + ("" if beside is None else f" {beside.get(name)} |")
            for name, value in self.params.items()
        ]
        more = ("", "") if beside is None else (" default |", "---|")
        counts = self.counts
        return "\n".join(
            [
                f"# Sweep {self.study}",
                "",
                f"**{self.headline}**",
                "",
                f"{counts.done} trials, {counts.complete} finished, {counts.pruned} pruned, {counts.failed} failed; "
                f"the winner ({self.direction} {self.objective} on validation) is trial {self.trial}:",
                "",
                f"| setting | value |{more[0]}",
                f"|---|---|{more[1]}",
                *settings,
                "",
                *([f"{self.tie}.", ""] if self.tie else []),
                "Its runs on the test split, with seeds that the search did not use:",
                "",
                f"| seed | {self.objective} |{more[0]}",
                f"|---|---|{more[1]}",
                *rows,
                "",
                *(line for said in self.beside for line in (f"{_sentence(said)}.", "")),
                "Every trial: [trials.csv](trials.csv); pictures: [figures](figures).",
                "",
            ]
        )

    def _default_cell(self, seed: int) -> str:
        return f" {self.default_test[seed]:.4f} |" if seed in self.default_test else ""


def _settings(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in params.items())


def _mean(values: Sequence[float], confidence: float, *, signed: bool = False) -> str:
    """The mean with its interval, where it has one."""
    mean, low, high = mean_interval(values, confidence=confidence)
    form = "+.4f" if signed else ".4f"
    interval = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}] ({confidence:.0%} interval)"
    return f"{mean:{form}}{interval}"


def _sentence(line: str) -> str:
    """A line of the console as one of the page."""
    first, _, rest = line.partition(" ")
    return f"{first.capitalize()}: {rest.strip()}"


def mean_interval(values: Sequence[float], *, confidence: float) -> tuple[float, float, float]:
    """Mean and Student's t interval over seeds; the ends are nan for fewer than two values, the mean for none.

    Bounds: mean -+ t(confidence, n - 1) s / sqrt(n), with the sample's standard deviation s.
    """
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan, math.nan
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def trials_table(ledger: Ledger) -> pd.DataFrame:
    """A row a trial: its state, value, steps done, folder, seconds, error, what it repeats, and its parameters."""
    rows = []
    for trial in ledger.trials():
        seconds = trial.duration.total_seconds() if trial.duration is not None else math.nan
        rows.append(
            {
                "number": trial.number,
                "state": INTERRUPTED if trial.user_attrs.get(INTERRUPTED) else trial.state.name.lower(),
                "value": math.nan if trial.value is None else trial.value,
                "steps": _steps(ledger.folder / ledger.place(trial.number)),
                "folder": ledger.place(trial.number),
                "seconds": round(seconds, 1),
                "error": trial.user_attrs.get(ERROR, ""),
                "repeats": trial.user_attrs.get(AGAIN, ""),
                **(trial.params or trial.system_attrs.get("fixed_params", {})),
            }
        )
    return pd.DataFrame(rows)


def _steps(folder: Path) -> float:
    """The steps that the trial's run has done by its record; nan where it left none."""
    try:
        return float(read_summary(folder / "summary.json")["steps"])
    except UserError:
        return math.nan


def write_trials(ledger: Ledger) -> Path:
    """Write ``trials.csv``, whole or not at all."""
    path = ledger.folder / "trials.csv"
    with ledger.alone():
        write_atomic(path, trials_table(ledger).to_csv(index=False))
    return path


def write_result(ledger: Ledger, result: Result) -> list[Path]:
    """Write the result, the table of trials and the figures; returns their paths."""
    from dro_lab.sweep.figures import write_figures

    write_json(ledger.folder / "sweep.json", result.to_json())
    write_atomic(ledger.folder / "sweep.md", result.to_markdown())
    figures = write_figures(ledger, objective=result.objective)
    return [ledger.folder / "sweep.json", ledger.folder / "sweep.md", write_trials(ledger), *figures]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
