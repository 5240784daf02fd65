"""Who wins: every setting against the policy before training, and settings against each other, ties half.

Against the base, a query's win rate is what the run's own judge said of its answers, in both orders. Between settings
the judge must be asked about pairs that no run has asked about: `judge=exact` is computed from the recorded quality,
another judge is asked on ``--ask`` (its requests cost what they cost). Intervals resample seeds and queries, each with
replacement (a crossed bootstrap). The table shows beside the win rates what else can win a judge over: the share of
pairs judged otherwise when the two answers swap places, and how much longer the answers got.

    python -m analysis.win_rate outputs/STUDY -o fig.png
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from analysis.options import answer_help

    answer_help("win_rate", __doc__)

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answers import LENGTHS, Answers, FloatArray, answers_of, pairwise
from analysis.bootstrap import crossed_mean
from analysis.command import (
    as_runs,
    check_statistics,
    origin,
    run_command,
    table,
)
from analysis.figures import GREY, Drawn, caption, grid, house_style, looks
from analysis.labels import flat_config
from analysis.load import by_label, check_comparable
from analysis.options import CONFIDENCE, FIGURES, RESAMPLES
from dro_lab.errors import UserError
from dro_lab.evaluation.wins import FREE
from dro_lab.record.read import Run

__all__ = ["draw"]

Named = str | tuple[str, str]
"""A setting by its label, or a pair of them."""
FEW = 3
"""Seeds below which the interval is too narrow where seeds differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A mean with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        if math.isnan(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def draw(
    places: Sequence[Path | str | Run] | Path | str,
    *,
    split: str | None = None,
    decoding: str = "sampled",
    ask: bool = False,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    command: str | None = None,
) -> Drawn:
    """Figure, frame and page of the win rates after training.

    Args:
        places: folders (`analysis.load.find_runs`) or loaded runs.
        split, decoding: which held-out answers; default: sampled ones on the runs' own split.
        ask: ask the runs' judge about pairs between settings, where it does not compute.

    Raises:
        UserError: bad input, said in one message.
    """
    check_statistics(confidence=confidence, resamples=resamples)
    runs = as_runs(places)
    check_comparable(runs)
    judge = judge_of(runs)
    settings = {
        label: answers_of(seeds, label, split=split, decoding=decoding) for label, seeds in by_label(runs).items()
    }

    def level(values: FloatArray) -> Level:
        found = crossed_mean(values, over=range(values.ndim), confidence=confidence, resamples=resamples, seed=seed)
        return Level(value=found[0], low=found[1], high=found[2])

    base = {label: level(answers.win_rate_SQ) for label, answers in settings.items()}
    flips: dict[Named, Level] = {label: level(answers.disagreement_SQ) for label, answers in settings.items()}
    lengths = {label: {kind: level(a.change_SQ[kind]) for kind in LENGTHS} for label, a in settings.items()}
    if all(math.isnan(found.value) for found in base.values()):
        raise UserError(
            f"judge={judge}: no run below these places has a win rate (judge=none and data without a metric give none)."
        )
    pairs = _pairs(settings, runs, judge, ask=ask)
    between = {names: level(wins) for names, (wins, _) in pairs.items()}
    for names, (_, flipped) in pairs.items():
        flips[names] = level(flipped)
    frame = _frame(settings, base, between, flips, lengths)
    page = _page(settings, base, between, flips, lengths, judge=judge, confidence=confidence, ask=ask,
                 head=origin(runs, command=command))  # fmt: skip
    over = (
        "seeds and queries" if min(len(a.seeds) for a in settings.values()) > 1 else "queries (and seeds, if several)"
    )
    said = f"Bars: {confidence:.0%} intervals over {over}. Small dots: seeds."
    return Drawn(_figure(frame, list(settings), said), frame, page)


def judge_of(runs: Sequence[Run]) -> str:
    """The runs' judge.

    Raises:
        UserError: they have different ones, so their win rates do not compare.
    """
    found = {str(flat_config(run).get("names.judge") or run.summary.get("judge")): run for run in runs}
    if len(found) > 1:
        (a, first), (b, second), *_ = found.items()
        raise UserError(
            f"{first.folder} and {second.folder} cannot be compared: judge is {a} in the first and {b} in the second. "
            "Compare runs that were judged alike."
        )
    return next(iter(found))


def _pairs(
    settings: Mapping[str, Answers], runs: Sequence[Run], judge: str, *, ask: bool
) -> dict[tuple[str, str], tuple[FloatArray, FloatArray]]:
    """Per pair of settings, the first's wins by seed, other seed and query (computed) or by seed and query (asked),
    and likewise the share judged otherwise in the other order (nan where order cannot matter)."""
    names = list(settings)
    chosen = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    if judge in FREE:
        wins = {(a, b): pairwise(settings[a], settings[b]) for a, b in chosen}
        return {names: (values, np.full_like(values, np.nan)) for names, values in wins.items()}
    if not ask or not chosen:
        return {}
    from analysis.ask import asked

    return asked(settings, chosen, runs[0])


# ------------------------------------------------------------------------------------------------- figure


def _frame(
    settings: Mapping[str, Answers],
    base: Mapping[str, Level],
    between: Mapping[tuple[str, str], Level],
    flips: Mapping[Named, Level],
    lengths: Mapping[str, Mapping[str, Level]],
) -> pd.DataFrame:
    """One row a number: win rates, their seeds', order flips, token changes."""
    rows: list[dict[str, object]] = []

    def add(shows: str, label: str, level: Level, against: str = "", seed: int | None = None) -> None:
        row = {"shows": shows, "label": label, "against": against, "seed": seed, "value": level.value}
        rows.append({**row, "low": level.low, "high": level.high})

    for label, answers in settings.items():
        add("win rate", label, base[label], "base")
        for seed, values in zip(answers.seeds, answers.win_rate_SQ, strict=True):
            value = float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
            add("win rate of a seed", label, Level(value=value, low=math.nan, high=math.nan), "base", seed)
        add("order flips", label, flips[label])
        for kind, level in lengths[label].items():
            add(f"change in {kind} tokens", label, level, "base")
    for (a, b), level in between.items():
        add("win rate", a, level, b)
        add("win rate", b, Level(value=1 - level.value, low=1 - level.high, high=1 - level.low), a)
        add("order flips", a, flips[a, b], b)
    return pd.DataFrame(rows)


def _figure(frame: pd.DataFrame, labels: Sequence[str], said: str) -> Figure:
    styles = looks(labels)
    colours = {label: str(styles[label]["color"]) for label in labels}
    against_base = frame["against"] == "base"
    pairs = frame[(frame["shows"] == "win rate") & ~against_base]
    with house_style():
        figure, panels = grid(2 + (len(pairs) > 0), height=max(2.6, 0.45 * len(labels) + 1.6))
        _dots(panels[0], frame[(frame["shows"] == "win rate") & against_base], labels, colours)
        seeds = frame[frame["shows"] == "win rate of a seed"]
        at = [labels.index(label) + 0.22 for label in seeds["label"]]
        panels[0].scatter(seeds["value"], at, s=9, c=[colours[label] for label in seeds["label"]], alpha=0.6)
        panels[0].axvline(0.5, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        panels[0].set_title("Wins against the base policy")
        panels[0].set_xlabel("win rate, ties half")
        for number, kind in enumerate(LENGTHS):
            part = frame[frame["shows"] == f"change in {kind} tokens"]
            _dots(panels[1], part, labels, colours, shift=0.3 * number - 0.15, hollow=bool(number))
        low, high = panels[1].get_xlim()
        panels[1].set_xlim(min(low, -1.0), max(high, 1.0))  # a hundredth of a token is no difference
        panels[1].axvline(0, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        panels[1].set_title("Longer than before")
        panels[1].set_xlabel("tokens an answer: reasoning (full), rest (open)")
        panels[1].set_yticks(range(len(labels)), [])
        if len(pairs):
            _matrix(panels[2], pairs, labels)
        caption(figure, said)
    return figure


def _dots(
    panel: Axes,
    part: pd.DataFrame,
    labels: Sequence[str],
    colours: Mapping[str, str],
    *,
    shift: float = 0.0,
    hollow: bool = False,
) -> None:
    for row in part.to_dict("records"):
        at, colour = labels.index(row["label"]) + shift, colours[row["label"]]
        if math.isfinite(row["low"]):
            panel.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=2)
        panel.plot([row["value"]], [at], marker="o", markersize=6, color=colour, mfc="white" if hollow else colour)
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.grid(visible=True, axis="x")
    panel.grid(visible=False, axis="y")


def _matrix(panel: Axes, pairs: pd.DataFrame, labels: Sequence[str]) -> None:
    table_ = np.full((len(labels), len(labels)), np.nan)
    for row in pairs.to_dict("records"):
        i, j = labels.index(row["label"]), labels.index(row["against"])
        table_[i, j] = row["value"]
        shown = f"{row['value']:.2f}"
        if math.isfinite(row["low"]) and len(labels) <= 5:
            shown += f"\n{row['low']:.2f}–{row['high']:.2f}"
        panel.text(j, i, shown, ha="center", va="center", fontsize=7.5, color="black")
    panel.imshow(table_, cmap="PuOr_r", vmin=-0.1, vmax=1.1, aspect="auto", alpha=0.75)
    panel.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    panel.set_yticks(range(len(labels)), labels)
    panel.grid(visible=False)
    panel.set_title("Wins of the row against the column")


# ------------------------------------------------------------------------------------------------- words


def _page(
    settings: Mapping[str, Answers],
    base: Mapping[str, Level],
    between: Mapping[tuple[str, str], Level],
    flips: Mapping[Named, Level],
    lengths: Mapping[str, Mapping[str, Level]],
    *,
    judge: str,
    confidence: float,
    ask: bool,
    head: str,
) -> str:
    first = next(iter(settings.values()))
    lines = [
        "# Win rates",
        "",
        head,
        "",
        f"Judge {judge}, {len(first.queries)} queries. Ties count half, so 0.50 is no difference; "
        f"{confidence:.0%} bootstrap intervals over seeds and queries.",
        "",
    ]
    lines += table(
        ["setting", "seeds", "wins against the base", "order flips", "reasoning tokens", "other tokens"],
        [
            [label, len(a.seeds), base[label], _flips(flips[label], judge), *map(_signed, lengths[label].values())]
            for label, a in settings.items()
        ],
    )
    if between:
        lines += table(
            ["pair", "wins of the first", "order flips", "verdict"],
            [
                [f"{a} against {b}", level, _flips(flips[a, b], judge), _verdict(a, b, level)]
                for (a, b), level in between.items()
            ],
        )
    elif len(settings) > 1:
        why = "the judge decided no pair" if ask else "--ask asks the judge now, in both orders"
        lines += [f"Win rates between settings are not in the record: judge={judge} was not asked ({why}).", ""]
    few = [label for label, answers in settings.items() if len(answers.seeds) < FEW]
    if few:
        lines += [f"Note: fewer than {FEW} seeds ({', '.join(few)}): what another seed changes is not, or hardly, in "
                  "the interval.", ""]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _flips(level: Level, judge: str) -> str:
    return f"none: judge={judge} computes" if judge in FREE else str(level)


def _signed(level: Level) -> str:
    if math.isnan(level.low):
        return f"{level.value:+.1f}"
    return f"{level.value:+.1f} [{level.low:+.1f}, {level.high:+.1f}]"


def _verdict(a: str, b: str, level: Level) -> str:
    if math.isnan(level.low):
        return "no interval"
    if level.low <= 0.5 <= level.high:
        return "no clear winner"
    return f"{a if level.low > 0.5 else b} wins"


# ------------------------------------------------------------------------------------------------- command


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and write the figure; 2 with one message for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = FIGURES["win_rate"](__doc__ or "").parse_args(given)
    command = shlex.join(["python", "-m", "analysis.win_rate", *given])
    return run_command(
        options,
        lambda: draw(
            options.places, split=options.split, decoding=options.decoding, ask=options.ask,
            confidence=options.confidence, resamples=options.resamples, seed=options.seed, command=command,
        ),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
