"""Reflective tokens: which reference tokens the reasoning decides, and whether the reward's weight goes to them.

Sigma of a reference token is the standard deviation of its probability over the rollouts of a group. Where the data set
knows which tokens depend on the reasoning (a twin does), sigma should be high on these and low on the others.

    python -m analysis.reflective outputs/STUDY -o fig.png
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from analysis.options import answer_help

    answer_help("reflective", __doc__)

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.command import as_runs, check_statistics, origin, run_command, table
from analysis.figures import GREY, Drawn, caption, grid, house_style, legend, looks, over_seeds
from analysis.labels import flat_config
from analysis.load import by_label, check_comparable
from analysis.options import CONFIDENCE, FIGURES
from dro_lab.errors import UserError
from dro_lab.record.read import Run

__all__ = ["draw"]

SIGMA = 0.2
"""A token is reflective from this sigma on, unless the runs' configuration says otherwise."""
BINS = np.linspace(0, 0.5, 21)
"""The standard deviation of numbers between 0 and 1 is at most 0.5."""
KINDS = {True: "depends on the reasoning", False: "does not", None: "all tokens"}


def draw(
    places: Sequence[Path | str | Run] | Path | str,
    *,
    confidence: float = CONFIDENCE,
    command: str | None = None,
) -> Drawn:
    """Figure, frame and page: sigma of the reference's tokens, their reflective share and their weight over training.

    Raises:
        UserError: bad input, or runs of which none recorded reference tokens.
    """
    check_statistics(confidence=confidence, resamples=100)
    runs = as_runs(places)
    check_comparable(runs)
    settings = by_label(runs)
    tokens = _tokens(settings)
    threshold = _threshold(runs)
    labels = list(dict.fromkeys(tokens["label"]))
    sigma = _histogram(tokens)
    share = _over_steps(tokens.assign(value=(tokens["sigma"] >= threshold).astype(float)), "reflective", confidence)
    known = tokens[tokens["truth"].notna() & tokens["weight"].notna()]
    weight = _over_steps(
        known.assign(value=known["weight"].where(known["truth"].astype(bool), 0.0)), "weight", confidence, total=True
    )
    frame = pd.concat([sigma, share, weight], ignore_index=True)
    styles = looks(labels)
    with house_style():
        figure, panels = grid(3, width=4.0, height=3.2)
        marks = _bars(panels[0], sigma, threshold)
        titles = (f"Reflective (sigma from {threshold:g}): share", "Weight on reasoning-dependent tokens")
        for panel, part, title in zip(panels[1:], (share, weight), titles, strict=True):
            panel.set_title(title)
            panel.set_xlabel("training step")
            if part.empty:
                panel.text(
                    0.5, 0.5, "no such weights in these runs", transform=panel.transAxes, ha="center", color=GREY
                )
            for label in labels:
                rows = part[part["label"] == label]
                x, value, low, high = (rows[name].to_numpy(dtype=float) for name in ("x", "value", "low", "high"))
                panel.fill_between(x, low, high, color=styles[label]["color"], alpha=0.15, linewidth=0)
                panel.plot(x, value, marker=".", **styles[label])  # type: ignore[arg-type]
            panel.set_ylim(bottom=0)
        legend(figure, labels, extra=marks)
        caption(figure, f"Held-out rows. Lines: means over seeds with {confidence:.0%} intervals over seeds.")
    return Drawn(figure, frame, _page(tokens, labels, threshold, head=origin(runs, command=command)))


def _tokens(settings: Mapping[str, Mapping[int, Run]]) -> pd.DataFrame:
    """The reference tokens of held-out rows, with label and seed."""
    frames = [
        run.tokens[run.tokens["split"] != "train"].assign(label=label, seed=seed)
        for label, seeds in settings.items()
        for seed, run in seeds.items()
    ]
    found = pd.concat([frame for frame in frames if len(frame)], ignore_index=True) if any(map(len, frames)) else None
    if found is None:
        first = next(iter(next(iter(settings.values())).values()))
        raise UserError(
            f"{first.folder} and the other runs recorded no held-out reference tokens (evaluation.token_rows=0, or a "
            "reward that scores no reference). Give runs of reward=r3 or another that reads the reference."
        )
    return found


def _threshold(runs: Sequence[Run]) -> float:
    found = {float(flat_config(run).get("evaluation.reflective_sigma", SIGMA)) for run in runs}
    if len(found) > 1:
        raise UserError(
            f"evaluation.reflective_sigma is {min(found):g} in some runs and {max(found):g} in others, so reflective "
            "means different things. Compare runs with the same."
        )
    return found.pop()


def _histogram(tokens: pd.DataFrame) -> pd.DataFrame:
    """Share of tokens by sigma before training, of each kind."""
    first = tokens[tokens["step"] == tokens["step"].min()]
    kinds = [True, False] if first["truth"].notna().any() else [None]
    rows = []
    for kind in kinds:
        part = first if kind is None else first[first["truth"].notna() & (first["truth"] == kind)]
        counts, _ = np.histogram(part["sigma"], bins=BINS)
        rows += [
            {"shows": "sigma", "label": KINDS[kind], "x": low, "value": count / max(1, counts.sum()), "n": len(part)}
            for low, count in zip(BINS, counts, strict=False)
        ]
    return pd.DataFrame(rows)


def _over_steps(tokens: pd.DataFrame, shows: str, confidence: float, *, total: bool = False) -> pd.DataFrame:
    """Mean over rows and seeds at each step; ``total`` sums over a row's tokens first."""
    rows = []
    for label, part in tokens.groupby("label", sort=False):
        per_row = part.groupby(["seed", "step", "prompt_id"])["value"]
        per_run = (per_row.sum() if total else per_row.mean()).groupby(["seed", "step"]).mean().unstack("step")
        whole = per_run.columns[per_run.notna().all(axis=0)]
        mean, low, high = over_seeds(per_run[whole].to_numpy(dtype=float), confidence=confidence)
        rows.append(pd.DataFrame({"shows": shows, "label": label, "x": whole, "value": mean, "low": low, "high": high}))
    columns = ["shows", "label", "x", "value", "low", "high"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def _bars(panel: Axes, sigma: pd.DataFrame, threshold: float) -> list[Line2D]:
    """The histogram; returns what the legend says of it."""
    panel.set_title("Sigma of reference tokens before training")
    panel.set_xlabel("sigma")
    panel.set_ylabel("share of tokens")
    marks = []
    for (name, part), (hatch, shade) in zip(
        sigma.groupby("label", sort=False), (("//", "#ffffff"), ("", "#bbbbbb")), strict=False
    ):
        panel.bar(
            part["x"], part["value"], width=BINS[1], align="edge", color=shade, alpha=0.75, edgecolor=GREY, hatch=hatch,
            linewidth=0.8, zorder=3 if hatch else 2,
        )  # fmt: skip
        marks.append(
            Line2D([], [], linestyle="", marker="s", markersize=8, mfc=shade, mec=GREY, label=f"token: {name}")
        )
    panel.axvline(threshold, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    return marks


def _page(tokens: pd.DataFrame, labels: Sequence[str], threshold: float, *, head: str) -> str:
    rows = []
    for label in labels:
        part = tokens[tokens["label"] == label]
        for step in (part["step"].min(), part["step"].max()):
            at = part[part["step"] == step]
            reflective = at["sigma"] >= threshold
            known = at["truth"].notna()
            truth = at["truth"].where(known, False).astype(bool)
            weighed = at[at["weight"].notna() & known]
            on_truth = weighed["weight"].where(truth[weighed.index], 0.0).sum()
            rows.append(
                [
                    label,
                    step,
                    _share(reflective.mean()),
                    _share(
                        (truth & reflective).sum() / reflective.sum() if known.any() and reflective.any() else math.nan
                    ),
                    _share((truth & reflective).sum() / truth.sum() if truth.any() else math.nan),
                    _share(on_truth / weighed["weight"].sum() if len(weighed) else math.nan),
                ]
            )
    columns = ["setting", "step", "reflective tokens", "of these, depend on the reasoning", "of those that depend, "
               "reflective", "weight on those that depend"]  # fmt: skip
    return "\n".join(["# Reflective tokens", "", head, "", *table(columns, rows)]).rstrip() + "\n"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and write the figure; 2 with one message for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = FIGURES["reflective"](__doc__ or "").parse_args(given)
    command = shlex.join(["python", "-m", "analysis.reflective", *given])
    return run_command(options, lambda: draw(options.places, confidence=options.confidence, command=command))


if __name__ == "__main__":
    sys.exit(main())
