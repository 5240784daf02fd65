"""The probe's pictures: drawn once, kept as SVG for the page, as PNG and as the CSV of what they plot."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dro_lab.probe.findings import Findings
from dro_lab.probe.measures import Interval
from dro_lab.report.figures import STYLE, Curve, page_svg

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"
BINS = 20


def curves(findings: Findings, folder: Path) -> list[Curve]:
    """All figures that the findings give, written to ``folder``."""
    makers = (_rewards, _omega, _effective, _sigma_bars, _positions)
    return [curve for curve in (make(findings, folder) for make in makers) if curve is not None]


def _rewards(findings: Findings, folder: Path) -> Curve | None:
    labelled = bool(findings.quality.name)
    shown: list[tuple[str, Interval]] = []
    for reward in reversed(findings.rewards):  # the best on top
        found = reward.rho if labelled else reward.over_floor
        if found is not None and math.isfinite(found.value):
            shown.append((reward.title, found))
    if not shown:
        return None
    frame = pd.DataFrame(
        [{"reward": title, "value": f.value, "low": f.low, "high": f.high, "n": f.n} for title, f in shown]
    )
    words = "correlation with quality (rho)" if labelled else "spread over the noise floor"

    def draw(axes: Axes) -> None:
        places = range(len(frame))
        axes.hlines(places, frame["low"], frame["high"], color=BLUE, alpha=0.4, linewidth=5)
        axes.plot(frame["value"], places, color=BLUE, marker="o", markersize=5, linestyle="")
        axes.axvline(0.0 if labelled else 1.0, color=GREY, linewidth=1)
        axes.set_yticks(list(places), list(frame["reward"]))
        axes.set_ylim(-0.6, len(frame) - 0.4)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_title("Which reward ranks rollouts" if labelled else "Which reward reacts to the reference")

    best = frame.iloc[-1]
    caption = f"{words}: {best['reward']} leads with {best['value']:.2f}; {len(frame)} rewards with their intervals."
    height = 1.1 + 0.28 * len(frame)
    return _save("rewards", draw, frame, caption=caption, xlabel=words, findings=findings, folder=folder, height=height)


def _omega(findings: Findings, folder: Path) -> Curve | None:
    omegas = findings.omegas
    if not omegas:
        return None
    rows: list[dict[str, Any]] = []
    for found in omegas:
        rho = found.rho or Interval(value=math.nan, low=math.nan, high=math.nan, n=0)
        measured = {"measured": rho.value, "low": rho.low, "high": rho.high}
        rows.append({"omega": found.omega, **measured, "formula": found.rho_formula})
    frame = pd.DataFrame(rows)

    def draw(axes: Axes) -> None:
        x = _spaced(frame["omega"])
        if frame["measured"].notna().any():
            axes.fill_between(x, frame["low"], frame["high"], color=BLUE, alpha=0.18, linewidth=0)
            axes.plot(x, frame["measured"], color=BLUE, marker="o", markersize=4, label="measured")
        axes.plot(x, frame["formula"], color=ORANGE, linestyle="--", marker="s", markersize=3.5, label="closed formula")
        _omega_axis(axes, frame["omega"])
        axes.set_ylim(min(0.0, float(frame[["measured", "low", "formula"]].min().min()) - 0.05), 1.03)
        _legend_below(axes)
        axes.set_title("R3 by omega: correlation with quality")

    first, last = rows[0], rows[-1]
    caption = (
        f"rho by omega, formula {first['formula']:.2f} at {first['omega']:g} to {last['formula']:.2f} at "
        f"{last['omega']:g}"
        + ("." if math.isnan(first["measured"]) else f", measured {first['measured']:.2f} to {last['measured']:.2f}.")
    )
    return _save("omega", draw, frame, caption=caption, xlabel="omega", findings=findings, folder=folder)


def _effective(findings: Findings, folder: Path) -> Curve | None:
    frame = pd.DataFrame(
        [{"omega": found.omega, "effective_tokens": found.effective_tokens} for found in findings.omegas],
        columns=["omega", "effective_tokens"],
    ).dropna()
    if frame.empty:
        return None
    reflective = findings.tokens.reflective

    def draw(axes: Axes) -> None:
        axes.plot(_spaced(frame["omega"]), frame["effective_tokens"], color=GREEN, marker="o", markersize=4)
        if math.isfinite(reflective):
            axes.axhline(reflective, color=GREY, linewidth=1)
            axes.annotate(
                f"reflective: {reflective:.1f}",
                (0.01, reflective),  # the curve begins above: it falls with omega
                xycoords=("axes fraction", "data"),
                ha="left",
                va="bottom",
                fontsize=8.5,
            )
        _omega_axis(axes, frame["omega"])
        axes.set_ylim(0, 1.08 * float(frame["effective_tokens"].max()))
        axes.set_title("Tokens that carry R3's weight")

    values = frame["effective_tokens"]
    caption = f"Effective number of weighted tokens: {values.iloc[0]:.1f} to {values.iloc[-1]:.1f} as omega grows."
    return _save("effective_tokens", draw, frame, caption=caption, xlabel="omega", findings=findings, folder=folder)


def _legend_below(axes: Axes) -> None:
    """Below the words of the axis: curves and bars may lie anywhere."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), ncols=3)


def _spaced(omegas: pd.Series) -> list[float]:
    """Where an omega stands on the axis: doublings one step apart, 0 with them."""
    return [math.log2(1 + 2 * omega) for omega in omegas]


def _omega_axis(axes: Axes, omegas: pd.Series) -> None:
    places = _spaced(omegas)
    names = {place: f"{omega:g}" for place, omega in zip(places, omegas, strict=True)}
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: names.get(place, "")))


def _sigma_bars(findings: Findings, folder: Path) -> Curve | None:
    found = findings.filter
    frame = pd.DataFrame({"sigma_bar": found.sigma_bars, "kept": found.kept}).dropna()
    if frame.empty:
        return None

    def draw(axes: Axes) -> None:
        parts = [frame.loc[frame["kept"], "sigma_bar"], frame.loc[~frame["kept"], "sigma_bar"]]
        axes.hist(
            parts,
            bins=BINS,
            range=(0, max(float(frame["sigma_bar"].max()), 0.01)),
            stacked=True,
            color=[BLUE, "#dddddd"],
            label=[f"kept ({len(parts[0])})", f"dropped ({len(parts[1])})"],
        )
        if found.tau is not None:
            axes.axvline(found.tau, color=ORANGE, linewidth=1.5, linestyle="--", label=f"tau {found.tau:.3f}")
        axes.set_ylabel("queries")
        _legend_below(axes)
        axes.set_title(f"What filtering={found.name} keeps")

    caption = (
        f"sigma_bar of {len(frame)} queries, median {frame['sigma_bar'].median():.2f}; {found.kept_share:.0%} are kept."
    )
    return _save("sigma_bar", draw, frame, caption=caption, xlabel="sigma_bar", findings=findings, folder=folder)


def _positions(findings: Findings, folder: Path) -> Curve | None:
    positions = findings.tokens.positions
    if not positions:
        return None
    frame = pd.DataFrame({"position": list(positions)})

    def draw(axes: Axes) -> None:
        axes.hist(frame["position"], bins=BINS, range=(0, 1), color=GREEN)
        axes.set_xlim(0, 1)
        axes.set_ylabel("reflective tokens")
        axes.set_title("Where reflective tokens stand")

    words = "place in the reference (0: beginning, 1: end)"
    median = frame["position"].median()
    caption = f"Position of {len(frame)} reflective tokens, median {median:.2f} of the reference's length."
    return _save("positions", draw, frame, caption=caption, xlabel=words, findings=findings, folder=folder)


def _save(
    name: str,
    draw: Callable[[Axes], None],
    plotted: pd.DataFrame,
    *,
    caption: str,
    xlabel: str,
    findings: Findings,
    folder: Path,
    height: float = 2.6,
) -> Curve:
    folder.mkdir(parents=True, exist_ok=True)
    plotted.to_csv(folder / f"{name}.csv", index=False)
    with rc_context(), matplotlib.style.context(STYLE):
        figure = Figure(figsize=(4.2, max(2.0, height)))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(f"{xlabel}\n{_source(findings)}")  # whatever names the data names its source
        figure.savefig(folder / f"{name}.png", facecolor="white")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        figure.savefig(
            folder / f"{name}.svg", format="svg", facecolor="white", metadata={"Date": None, "Creator": None}
        )
    svg, rules = page_svg(buffer.getvalue(), name=name, caption=caption)
    return Curve(name=name, svg=svg, caption=caption, rules=rules)


def _source(findings: Findings) -> str:
    """Data, shortened, and size."""
    setting = findings.setting
    text = f"{setting['dataset']} ({setting['kind']}), {len(findings.queries)} queries x {setting['rollouts']} rollouts"
    return text if len(text) <= 60 else text[:59] + "…"


def rules_of(drawn: Sequence[Curve]) -> dict[str, str]:
    """The style rules of all figures."""
    return {selector: rule for curve in drawn for selector, rule in curve.rules.items()}
