"""What a sweep or a grid found, as heat maps: outcomes by one key's values, or one outcome by two keys.

The keys that vary are read from the runs' configurations (seeds are averaged over), so any set of runs will do: the
folder of a sweep, a `--multirun` grid, a study. One key that varies (`reward.omega`) gives a map of outcomes by its
values, each outcome on a colour scale of its own; two (`reward.clip_low`, `reward.clip_high`) give one map of
``--metric``. A sweep's Optuna storage serves too, for the sweep's objective. Runs that were pruned or did not finish
are left out, and so are a sweep's last runs on the test split: nothing is chosen there.

    python -m analysis.heatmaps outputs/SWEEP --keys reward.clip_low reward.clip_high -o fig.png
    python -m analysis.heatmaps sqlite:///outputs/sweeps/r3_omega/study.db -o fig.png
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from analysis.options import answer_help

    answer_help("heatmaps", __doc__)

import math
import shlex
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import origin, run_command, table
from analysis.figures import Drawn, caption, grid, house_style
from analysis.labels import flat_config, varying
from analysis.load import ENDED, check_comparable, load_runs
from analysis.options import FIGURES
from dro_lab.errors import UserError
from dro_lab.record.read import Run
from dro_lab.sweep.trial import PRUNED

__all__ = ["draw", "trials_of"]

OUTCOMES = ("quality", "win_rate", "reflective_share", "reasoning_tokens", "gate_rejected_share")
"""Rows of the map of one key, where the runs measured them."""
MOST = 10
"""Values of a key beyond which they are gathered into intervals."""
COLOURS = "cividis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One row a run or trial: its keys' values (``key:NAME``), its outcomes, and where it comes from."""

    rows: pd.DataFrame
    keys: Sequence[str]  # those that vary
    outcomes: Sequence[str]
    head: str
    left: str = ""  # what is not among them


def draw(
    places: Sequence[Path | str | Run] | Path | str,
    *,
    keys: Sequence[str] | None = None,
    metric: str = "quality",
    study: str | None = None,
    command: str | None = None,
) -> Drawn:
    """Figure, frame and page.

    Args:
        places: folders of runs, loaded runs, or an Optuna storage's URL (``sqlite:///FILE``).
        keys: one or two keys; default: those that vary, where they are one or two. Others are averaged over.
        metric: the outcome of a map of two keys: an evaluated metric, or ``objective``.
        study: the study's name in the storage; default: its only one.

    Raises:
        UserError: bad input, said in one message.
    """
    given = [places] if isinstance(places, (str, Path)) else list(places)
    stored = [place for place in given if "://" in str(place)]
    found = trials_of(str(stored[0]), study, command=command) if stored else _runs(given, metric, command=command)
    if stored and metric == "quality":
        metric = "objective"
    if metric not in found.outcomes:
        raise UserError(f"--metric {metric}: not among the outcomes here, which are {', '.join(found.outcomes)}.")
    chosen = _chosen(found, keys)
    rows = found.rows.assign(**{f"at:{key}": _values(found.rows[f"key:{key}"], key) for key in chosen})
    if len(chosen) == 1:
        frame, figure = _outcomes(rows, chosen[0], found.outcomes)
    else:
        frame, figure = _map(rows, chosen, metric)
    rest = [key for key in found.keys if key not in chosen]
    return Drawn(figure, frame, _page(frame, chosen, rest, head=found.head))


# ------------------------------------------------------------------------------------------------- runs and trials


def _runs(places: Sequence[Path | str | Run], metric: str, *, command: str | None) -> Table:
    """Every finished run on the split that most were evaluated on; the others are counted."""
    loaded = [place for place in places if isinstance(place, Run)]
    every = loaded or load_runs([place for place in places if not isinstance(place, Run)], finished=False)
    ended = [run for run in every if run.summary["status"] in ENDED and not _pruned(run)]
    if not ended:
        raise UserError(f"{', '.join(map(str, places))}: none of its {len(every)} runs is finished.")
    splits = Counter(map(_split, ended))
    runs = [run for run in ended if _split(run) == splits.most_common(1)[0][0]]
    check_comparable(runs)
    configs = [flat_config(run) for run in runs]
    evaluated = [{str(m) for m in run.evals["metric"]} if len(run.evals) else set() for run in runs]
    everywhere = set.intersection(*evaluated)
    outcomes = list(dict.fromkeys(m for m in (*OUTCOMES, metric) if m in everywhere))
    keys = [key for key in varying(configs) if not key.startswith("names.") and not key.endswith("_target_")]
    rows = [
        {
            "run": run.folder.as_posix(),
            "seed": int(run.summary["seed"]),
            **{f"key:{key}": config.get(key) for key in keys},
            **{outcome: _last(run, outcome) for outcome in outcomes},
            "objective": run.summary["objective"],
        }
        for run, config in zip(runs, configs, strict=True)
    ]
    lost = len(every) - len(runs)
    left = f" {lost} runs that were pruned, did not finish or were evaluated on another split are left out."
    head = origin(runs, command=command) + left * bool(lost)
    return Table(
        rows=pd.DataFrame(rows), keys=keys, outcomes=[*outcomes, "objective"], head=head, left=left * bool(lost)
    )


def _pruned(run: Run) -> bool:
    return str(run.summary.get("stopped") or "").startswith(PRUNED)


def _split(run: Run) -> str:
    return str(run.evals["split"].iloc[0]) if len(run.evals) else ""


def _last(run: Run, metric: str) -> float:
    rows = run.evals[run.evals["metric"] == metric].sort_values("step")
    return float(rows["value"].iloc[-1])


def trials_of(storage: str, study: str | None, *, command: str | None = None) -> Table:
    """The finished trials of an Optuna study, their objective as the outcome.

    Raises:
        UserError: the storage or study is not there or cannot be read, or no trial is finished.
    """
    import optuna

    _check_sqlite(storage)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        names = optuna.get_all_study_names(storage)
        if study is None and len(names) != 1:
            raise UserError(f"{storage} holds {len(names)} studies ({', '.join(names)}); choose one with --study.")
        loaded = optuna.load_study(study_name=study or names[0], storage=storage)
    except KeyError:
        raise UserError(f"--study {study}: {storage} holds {', '.join(names) or 'no study'}.") from None
    except Exception as error:  # SQLAlchemy's own errors differ by database
        if isinstance(error, UserError):
            raise
        raise UserError(f"{storage} cannot be read as an Optuna storage ({type(error).__name__}).") from None
    trials = [t for t in loaded.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if not trials:
        raise UserError(f"{storage}: the study {loaded.study_name} has no finished trial yet.")
    keys = sorted({key for trial in trials for key in trial.params})
    rows = [
        {"run": f"trial {t.number}", "seed": 0, **{f"key:{k}": t.params.get(k) for k in keys}, "objective": t.value}
        for t in trials
    ]
    lost = len(loaded.trials) - len(trials)
    command_ = f"Command `{command}`; " if command else ""
    head = f"{command_}study {loaded.study_name}: {len(trials)} finished trials" + (
        f", {lost} others." if lost else "."
    )
    return Table(rows=pd.DataFrame(rows), keys=keys, outcomes=["objective"], head=head)


def _check_sqlite(storage: str) -> None:
    """Refuse a file that is not there, locked, or no Optuna storage: opening it, Optuna would add its tables to it.

    Raises:
        UserError: naming the storage.
    """
    from dro_lab.sweep.storage import FIRST_WAIT, SQLITE, STUDIES

    file = storage.removeprefix(SQLITE)
    if file == storage:
        return
    if not Path(file).is_file():
        raise UserError(f"{storage}: there is no file {file}; give the storage that the sweep's configuration names.")
    try:
        with closing(sqlite3.connect(file, timeout=FIRST_WAIT)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        todo = "Wait for the process that holds it" if "locked" in str(error) else "Give a sweep's storage"
        raise UserError(f"{storage} cannot be read: {error}. {todo}, or give the sweep's folder.") from None
    if STUDIES not in tables:
        raise UserError(f"{storage} is no Optuna storage; give the one that the sweep's configuration names.")


def _chosen(found: Table, keys: Sequence[str] | None) -> list[str]:
    if not found.keys:
        raise UserError(
            f"nothing but the seed varies between these runs: a heat map needs runs of different settings.{found.left}"
        )
    listed = ", ".join(found.keys)
    if keys is None:
        if len(found.keys) > 2:
            raise UserError(f"{len(found.keys)} keys vary ({listed}); choose one or two with --keys.")
        return list(found.keys)
    wrong = [key for key in keys if key not in found.keys]
    if wrong:
        raise UserError(f"--keys {wrong[0]}: does not vary between these runs; what does: {listed}.")
    if len(keys) not in (1, 2):
        raise UserError(f"--keys: give one or two, got {len(keys)}.")
    return list(keys)


def _values(column: pd.Series, key: str) -> pd.Series:
    """The key's values as ordered categories: as they are, or numbers in equal intervals where they are many."""
    known = column.dropna()
    numeric = len(known) > 0 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)
    if not numeric:
        text = column.map(str)
        return pd.Categorical(text, categories=sorted(text.unique()), ordered=True)
    numbers = column.astype(float)
    if numbers.nunique() <= MOST:
        kinds = sorted(numbers.dropna().unique())
        named = {value: f"{value:g}" for value in kinds}
        text = numbers.map(lambda value: named.get(value, "none"))
        extra = ["none"] if numbers.isna().any() else []
        return pd.Categorical(text, categories=[*named.values(), *extra], ordered=True)
    edges = np.linspace(numbers.min(), numbers.max(), MOST // 2 + 1)
    names = [f"{low:.3g}–{high:.3g}" for low, high in pairwise(edges)]
    return pd.cut(numbers, edges, labels=names, include_lowest=True)


# ------------------------------------------------------------------------------------------------- maps


def _outcomes(rows: pd.DataFrame, key: str, outcomes: Sequence[str]) -> tuple[pd.DataFrame, Figure]:
    """Outcomes by one key."""
    shown = [outcome for outcome in outcomes if rows[outcome].notna().any()]
    if "quality" in shown and np.allclose(rows["quality"], rows["objective"].astype(float), equal_nan=True):
        shown.remove("objective")  # the same numbers twice
    grouped = rows.groupby(f"at:{key}", observed=True)
    parts = [
        pd.DataFrame({"outcome": outcome, key: list(grouped.groups), "value": grouped[outcome].mean().to_numpy(),
                      "runs": grouped[outcome].count().to_numpy()})
        for outcome in shown
    ]  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    values = frame.pivot_table(index="outcome", columns=key, values="value", sort=False).loc[shown]
    low, high = values.min(axis=1), values.max(axis=1)
    scaled = values.sub(low, axis=0).div((high - low).replace(0.0, 1.0), axis=0)
    with house_style():
        width = max(4.6, 0.75 * values.shape[1] + 2.6)
        figure, (panel,) = grid(1, width=width, height=0.5 * len(shown) + 1.5)
        _cells(panel, scaled.to_numpy(float), values.to_numpy(float), counts=None)
        panel.set_xticks(range(values.shape[1]), list(values.columns))
        panel.set_yticks(range(len(shown)), [name.replace("_", " ") for name in shown])
        panel.set_xlabel(key)
        caption(figure, "Means over runs at the end; each row's own scale, yellow is its highest.")
    return frame, figure


def _map(rows: pd.DataFrame, keys: Sequence[str], metric: str) -> tuple[pd.DataFrame, Figure]:
    """One outcome by two keys."""
    across, down = (f"at:{key}" for key in keys)
    grouped = rows.groupby([down, across], observed=True)[metric]
    frame = pd.DataFrame({"value": grouped.mean(), "runs": grouped.count()}).reset_index()
    frame = frame.rename(columns={down: keys[1], across: keys[0]}).assign(outcome=metric)
    values = frame.pivot(index=keys[1], columns=keys[0], values="value").sort_index(ascending=False)
    counts = frame.pivot(index=keys[1], columns=keys[0], values="runs").reindex_like(values).to_numpy(dtype=float)
    matrix = values.to_numpy(float)
    span = np.nanmax(matrix) - np.nanmin(matrix)
    with house_style():
        width = max(4.6, 0.8 * values.shape[1] + 2.0)
        figure, (panel,) = grid(1, width=width, height=0.55 * len(values) + 1.6)
        _cells(panel, (matrix - np.nanmin(matrix)) / (span or 1.0), matrix, counts=counts)
        panel.set_xticks(range(values.shape[1]), list(values.columns))
        panel.set_yticks(range(len(values)), list(values.index))
        panel.set_xlabel(keys[0])
        panel.set_ylabel(keys[1])
        panel.set_title(metric.replace("_", " "))
        caption(figure, "Means over runs at the end" + ("; below, how many." if _differ(counts) else "."))
    return frame[["outcome", *keys, "value", "runs"]], figure


def _cells(panel: Axes, scaled: np.ndarray, values: np.ndarray, *, counts: np.ndarray | None) -> None:
    panel.imshow(scaled, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if math.isfinite(value):
            red, green, blue, _ = colormaps[COLOURS](float(scaled[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
            if counts is not None and _differ(counts):
                text += f"\n{counts[i, j]:.0f}"
            panel.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    panel.set_xticks(np.arange(values.shape[1] - 1) + 0.5, minor=True)
    panel.set_yticks(np.arange(values.shape[0] - 1) + 0.5, minor=True)
    panel.grid(visible=False)
    panel.grid(visible=True, which="minor", color="white", linewidth=1.5)
    panel.set_axisbelow(False)
    panel.tick_params(which="both", length=0)
    panel.spines[["left", "bottom"]].set_visible(False)


def _differ(counts: np.ndarray) -> bool:
    return len(np.unique(counts[np.isfinite(counts)])) > 1


def _page(frame: pd.DataFrame, keys: Sequence[str], rest: Sequence[str], *, head: str) -> str:
    columns = ["outcome", *keys, "mean", "runs"]
    rows = [
        [
            row["outcome"],
            *(row[key] for key in keys),
            "–" if pd.isna(row["value"]) else f"{row['value']:.3g}",
            row["runs"],
        ]
        for row in frame.to_dict("records")
    ]
    averaged = [f"Averaged over {', '.join(rest)} as well, which vary too.", ""] if rest else []
    return "\n".join([f"# {' and '.join(keys)}", "", head, "", *averaged, *table(columns, rows)]).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the cells and write the figure; 2 with one message for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = FIGURES["heatmaps"](__doc__ or "").parse_args(given)
    command = shlex.join(["python", "-m", "analysis.heatmaps", *given])
    return run_command(
        options,
        lambda: draw(options.places, keys=options.keys, metric=options.metric, study=options.study, command=command),
    )


if __name__ == "__main__":
    sys.exit(main())
