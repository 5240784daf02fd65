"""A sweep in pictures: history, importance, slices and contours; each with the CSV of what it plots."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from dro_lab.record.files import write_atomic
from dro_lab.report.figures import STYLE
from dro_lab.sweep.ledger import Ledger

log = logging.getLogger(__name__)

SAME = 1e-9
"""Values that differ by less, relative to their size, are the same."""
BEST, EACH, FAINT = "#d55e00", "#0072b2", "#999999"


def write_figures(ledger: Ledger, *, objective: str) -> list[Path]:
    """Write the figures below ``figures/`` that the study has trials for; returns every file."""
    folder = ledger.folder / "figures"
    folder.mkdir(exist_ok=True)
    study = ledger.study
    searched = sorted({name for trial in study.trials for name in trial.params})
    figures: dict[str, Callable[[], pd.DataFrame]] = {"history": lambda: history(study, objective)}
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) > 1:
        figures["importance"] = lambda: importance(study, objective)
        figures["slice"] = lambda: slices(study, searched, objective)
        if len(searched) > 1:
            figures["contour"] = lambda: contour(study, searched, objective)
    written = []
    for name, draw in figures.items():
        try:
            with rc_context(fname=STYLE), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna's of its experimental functions
                table = draw()
                plt.savefig(folder / f"{name}.png")
        except (ValueError, RuntimeError) as error:  # for example: all values are the same, so nothing has importance
            log.warning("the sweep's figure %s could not be drawn: %s", name, error)
            continue
        finally:
            plt.close("all")
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False))
        written += [folder / f"{name}.png", folder / f"{name}.csv"]
    return written


def history(study: optuna.Study, objective: str) -> pd.DataFrame:
    """The value of each finished trial, and the best so far."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.value is not None]
    best = np.fmax if study.direction is optuna.study.StudyDirection.MAXIMIZE else np.fmin
    complete = [t.value if t.state is TrialState.COMPLETE else np.nan for t in trials]
    table = pd.DataFrame(
        {
            "trial": [t.number for t in trials],
            "state": [t.state.name.lower() for t in trials],
            "value": [t.value for t in trials],
            "best": best.accumulate(np.asarray(complete, dtype=float)),
        }
    )
    _, ax = plt.subplots(figsize=(4.8, 3.0))
    for state, colour, marker in (("complete", EACH, "o"), ("pruned", FAINT, "x")):
        part = table[table["state"] == state]
        if len(part):
            ax.plot(part["trial"], part["value"], marker, color=colour, markersize=4.5, label=f"{state} trial")
    ax.step(table["trial"], table["best"], where="post", color=BEST, label="best so far")
    ax.set(xlabel="trial", ylabel=f"{objective} (validation)", title="Search history")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)  # below: trials may lie anywhere
    return table


def importance(study: optuna.Study, objective: str) -> pd.DataFrame:
    """How much of the difference between the better trials and the others each setting explains (PED-ANOVA)."""
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    _refuse_a_constant(np.asarray(values, dtype=float))
    found = optuna.importance.get_param_importances(study)
    table = pd.DataFrame({"setting": list(found), "importance": list(found.values())})
    _, ax = plt.subplots(figsize=(4.6, 0.9 + 0.45 * len(table)))
    ax.barh(table["setting"], table["importance"], color=EACH, height=0.6)
    ax.invert_yaxis()
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.set(xlabel=f"importance for {objective}", xlim=(0, 1), title="What matters")
    return table


def _refuse_a_constant(values: NDArray[np.float64]) -> None:
    if np.ptp(values) < SAME * max(1.0, np.abs(values).max()):
        raise ValueError("every trial has the same value, so no setting matters")


def _on_log_scale(trials: list[optuna.trial.FrozenTrial], name: str) -> bool:
    return any(getattr(trial.distributions.get(name), "log", False) for trial in trials)


def _few_ticks(axis: Axis) -> None:
    """Labels of numbers that do not run into each other, also on a short logarithmic axis."""
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    elif isinstance(axis.get_major_formatter(), ScalarFormatter):
        axis.set_major_locator(MaxNLocator(4))


def slices(study: optuna.Study, searched: list[str], objective: str) -> pd.DataFrame:
    """The value over each setting by itself."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    table = pd.DataFrame([{**t.params, "value": t.value, "trial": t.number} for t in trials])
    figure, axes = plt.subplots(1, len(searched), figsize=(0.6 + 3 * len(searched), 2.7), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], searched, strict=True):
        if _on_log_scale(trials, name):
            ax.set_xscale("log")
        found = table[name] if pd.api.types.is_numeric_dtype(table[name]) else table[name].astype(str)
        ax.plot(found, table["value"], "o", color=EACH, markersize=4.5)
        ax.set(xlabel=name)
        _few_ticks(ax.xaxis)
    axes[0][0].set(ylabel=f"{objective} (validation)")
    figure.suptitle("Value by setting", x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return table


def contour(study: optuna.Study, searched: list[str], objective: str) -> pd.DataFrame:
    """Optuna's contours of the value over each pair of settings."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    table = pd.DataFrame([{**t.params, "value": t.value, "trial": t.number} for t in trials])
    if any(isinstance(d, CategoricalDistribution) for d in trials[0].distributions.values()) and len(trials) < 4:
        raise ValueError("too few trials for contours over choices")
    _refuse_a_constant(table["value"].to_numpy(dtype=float))
    made = optuna.visualization.matplotlib.plot_contour(study, params=searched, target_name=objective)
    axes = [made] if isinstance(made, Axes) else list(np.ravel(made))
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    width = 4.6 if len(axes) == 1 else 2.4 * len(searched)
    figure.set_size_inches(width, width * 0.8)
    for ax in figure.axes:  # Optuna draws in a style of its own
        ax.set_facecolor("white")
        ax.tick_params(labelsize=9, color="#999999", labelcolor="#333333")
        for words in (ax.xaxis.label, ax.yaxis.label):
            words.set(fontsize=9.5, color="#333333")
    for ax in axes:
        ax.set_title("")
        _few_ticks(ax.xaxis)
        _few_ticks(ax.yaxis)
        if len(axes) > 1:
            ax.label_outer()
    figure.suptitle(f"{objective} (validation) over settings", x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return table
