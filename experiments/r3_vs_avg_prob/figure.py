"""Learning curves: every seed thin, their mean bold, one panel a preset of the twin."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import dro_lab.report
from analysis.steps_to_target import baseline_target, seed_average
from experiments.r3_vs_avg_prob.table import BASELINE, MINIMUM_GAIN, WINDOW, Curves

STYLE = Path(dro_lab.report.__file__).with_name("style.mplstyle")
COLOURS = {  # Okabe and Ito: told apart by colour-blind readers
    "avg_prob": "#D55E00",
    "avg_logprob": "#CC79A7",
    "r3_w1": "#56B4E9",
    "r3_w2": "#0072B2",
    "r3_w4": "#009E73",
    "verifier": "#000000",
}
LABELS = {
    "avg_prob": "average probability",
    "avg_logprob": "average log-probability",
    "r3_w1": "R3, omega 1",
    "r3_w2": "R3, omega 2",
    "r3_w4": "R3, omega 4",
    "verifier": "verifier (ceiling)",
}


def draw(curves: Curves, picture: Path, data: Path) -> None:
    """Write the figure and the numbers it shows."""
    with data.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["preset", "reward", "seed", "step", "quality"])
        for preset, rewards in curves.items():
            for reward, by_seed in rewards.items():
                for seed, curve in by_seed.items():
                    writer.writerows([preset, reward, seed, step, f"{value:.6f}"] for step, value in curve)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1, len(curves), figsize=(4.6 * len(curves), 3.8), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, (preset, rewards) in zip(axes[0], curves.items(), strict=True):
            for reward, by_seed in rewards.items():
                for curve in by_seed.values():
                    axis.plot(*zip(*curve, strict=True), color=COLOURS[reward], linewidth=0.6, alpha=0.35)
                axis.plot(
                    *zip(*seed_average(by_seed), strict=True), color=COLOURS[reward], linewidth=2, label=LABELS[reward]
                )
            target = baseline_target(rewards[BASELINE], window=WINDOW, minimum_gain=MINIMUM_GAIN)
            axis.axhline(target.level, color="#888888", linestyle=":", linewidth=1)
            axis.set(title=f"ParaRev twin, {preset}", xlabel="training step", ylim=(0, 1))
        axes[0][0].set_ylabel("held-out quality (facts right)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
        figure.savefig(picture, dpi=150)
        plt.close(figure)
