"""The options of every ``python -m analysis.FIGURE``. Imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

CONFIDENCE = 0.9
RESAMPLES = 10_000
AXES: dict[str, str] = {
    "steps": "training step",
    "rollouts": "rollouts sampled",
    "tokens": "tokens sampled",
    "seconds": "seconds of sampling, scoring and training",
}
"""The x axes and their words."""
CROSSINGS = ("interpolated", "evaluation")


def answer_help(name: str, about: str | None) -> None:
    """Print the command's help and leave, where that is all that is asked for."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        FIGURES[name](about or "").print_help()
        sys.exit(0)


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """The options that all figures take."""
    made = argparse.ArgumentParser(
        prog=f"python -m analysis.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("places", nargs="+", metavar="PLACE", help="a run's folder, or any folder above runs")
    made.add_argument("--skip-unfinished", action="store_true", help="leave unfinished runs out, and name them")
    made.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="figure (.png, .svg, .pdf); its csv and page go beside it"
    )
    return made


def curves(about: str) -> argparse.ArgumentParser:
    """Of `analysis.curves`."""
    made = _with_confidence(parser("curves", about))
    made.add_argument("--x", default="steps", help=f"one of {', '.join(AXES)} (default: %(default)s)")
    made.add_argument("--smooth", type=int, default=5, help="training steps in a mean (default: %(default)s)")
    return made


def reflective(about: str) -> argparse.ArgumentParser:
    """Of `analysis.reflective`."""
    return _with_confidence(parser("reflective", about))


def heatmaps(about: str) -> argparse.ArgumentParser:
    """Of `analysis.heatmaps`."""
    made = parser("heatmaps", about)
    made.add_argument("--keys", nargs="+", metavar="KEY", help="one or two keys (default: those that vary)")
    made.add_argument("--metric", default="quality", help="outcome of a map of two keys (default: %(default)s)")
    made.add_argument("--study", help="name of the study, where PLACE is an Optuna storage")
    return made


def win_rate(about: str) -> argparse.ArgumentParser:
    """Of `analysis.win_rate`."""
    made = _with_statistics(parser("win_rate", about))
    made.add_argument("--split", help="held-out split (default: the runs' own)")
    made.add_argument("--decoding", default="sampled", choices=("sampled", "greedy"), help="(default: %(default)s)")
    made.add_argument("--ask", action="store_true", help="ask the runs' judge about pairs between settings")
    return made


def steps_to_target(about: str) -> argparse.ArgumentParser:
    """Of `analysis.steps_to_target`."""
    made = _with_statistics(parser("steps_to_target", about))
    made.add_argument("--target", required=True, help="0.7, baseline:SETTING (final level) or best:SETTING")
    made.add_argument("--metric", default="quality", help="an evaluated metric (default: %(default)s)")
    made.add_argument("--x", default="steps,tokens", help=f"at least two of {','.join(AXES)} (default: %(default)s)")
    made.add_argument("--window", type=int, default=3, help="evaluations in a mean (default: %(default)s)")
    made.add_argument("--against", metavar="SETTING", help="take ratios against it (default: the baseline, or all)")
    made.add_argument("--split", help="held-out split (default: the runs' own)")
    made.add_argument(
        "--crossing",
        choices=CROSSINGS,
        default="interpolated",
        help="where the smoothed curve meets the target, or the first evaluation not below it (default: %(default)s)",
    )
    return made


def coverage(about: str) -> argparse.ArgumentParser:
    """Of `analysis.coverage`."""
    made = argparse.ArgumentParser(
        prog="python -m analysis.coverage", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--repetitions", type=int, default=1000, help="simulated comparisons (default: %(default)s)")
    made.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 8], help="seeds a setting (default: 3 5 8)")
    return made


def _with_confidence(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("--confidence", type=float, default=CONFIDENCE, help="of the intervals (default: %(default)s)")
    return made


def _with_statistics(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of figures with bootstrap intervals."""
    _with_confidence(made)
    made.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    return made


FIGURES: dict[str, Callable[[str], argparse.ArgumentParser]] = {
    "curves": curves,
    "reflective": reflective,
    "heatmaps": heatmaps,
    "win_rate": win_rate,
    "steps_to_target": steps_to_target,
    "coverage": coverage,
}
