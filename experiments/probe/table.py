"""The results page of the study."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.steps_to_target import CENSORED
from experiments.probe.ranking import (
    CONFIDENCE,
    SHARE,
    Setting,
    agreement,
    censored,
    pairs_right,
    rank_correlation,
    slowdowns,
)
from experiments.summaries import table

KEPT = (
    "name",
    "title",
    "reason",
    "omega",
    "is_label",
    "rho",
    "rank",
    "rho_formula",
    "steps",
    "over_floor",
    "reliability",
)
"""What of a reward's finding the study keeps."""

PREDICTORS = {
    "rho": "measured correlation with quality",
    "formula": "closed formula (avg_prob and R3 alone)",
    "floor": "spread over the noise floor (no label)",
}
COMMAND = "python -m experiments.probe.study"


def markdown(settings: Sequence[Setting], probes: Mapping[str, Any], *, missing: Sequence[str]) -> str:
    """The page: agreement, bed by bed, every setting."""
    if not settings:
        return f"# Results\n\nNothing was probed yet; `{COMMAND}` does.\n"
    beds = list(dict.fromkeys(setting.bed for setting in settings))
    seconds = [probes[name]["seconds"] for name in beds]
    commits = sorted({str(probes[name]["commit"])[:12] for name in beds})
    lines = [
        "# Results",
        "",
        f"Command `{COMMAND}`; {len(settings)} settings on {len(beds)} beds; probes at commit {', '.join(commits)}, "
        f"{min(seconds):.0f} to {max(seconds):.0f} s each on a busy machine; {CONFIDENCE:.0%} bootstrap intervals.",
        "",
    ]
    if missing:
        lines += [f"Without runs so far: {', '.join(missing)}.", ""]
    lines += ["## Agreement", "", *_agreement(settings), "## Bed by bed", "", *_beds(settings, probes)]
    lines += ["## The closed formula before training", "", *_formula(probes)]
    lines += ["## Every setting", "", *_speed(settings), *_settings(settings)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _agreement(settings: Sequence[Setting]) -> list[str]:
    rows = []
    everything = [(predictor, words, settings) for predictor, words in PREDICTORS.items()]
    # decided after the first results: its outcome is coarse, and it trains the sampled answer as well
    rivals = [setting for setting in settings if setting.arm != "verifier"]
    if len(rivals) < len(settings):
        everything.append(("rho", f"{PREDICTORS['rho']}, the verifier left out (after the fact)", rivals))
    for predictor, words, of in everything:
        correlation = agreement(of, predictor, rank_correlation, over="seeds")
        rows.append(
            [
                words,
                correlation.n,
                str(correlation),
                _only_interval(agreement(of, predictor, rank_correlation, over="beds")),
                str(agreement(of, predictor, pairs_right, over="seeds")),
            ]
        )
    columns = ["the probe ranks by", "settings", "rank correlation with measured steps [over seeds]"]
    columns += ["[over beds and seeds]", "pairs ranked rightly [over seeds]"]
    return [
        f"Measured: median steps over seeds to {SHARE:.0%} of the way from the start to the best level that any reward "
        "of the bed reached, within the steps that all its rewards were trained for. A run that never got there is "
        "censored: it ranks behind all others. Steps of two beds are not comparable, so settings are ranked within "
        "their bed, and the correlation is that of those ranks over all settings. The rows do not rest on the same "
        "settings: the formula knows avg_prob and R3 alone, and another query's reference does not change a verifier. "
        "Resampled medians carry the noise of the seeds twice, which blurs ranks that are right: the intervals lie "
        "low, and a value may lie above its own.",
        "",
        *table(columns, rows),
    ]


def _only_interval(found: Any) -> str:
    return f"[{found.low:.2f}, {found.high:.2f}]"


def _beds(settings: Sequence[Setting], probes: Mapping[str, Any]) -> list[str]:
    rows = []
    for name in dict.fromkeys(setting.bed for setting in settings):
        here = [setting for setting in settings if setting.bed == name]
        known = [setting for setting in here if not math.isnan(setting.predictions["rho"])]
        correlation = rank_correlation(
            [name] * len(known), [s.predictions["rho"] for s in known], [s.median for s in known]
        )
        fastest = min(setting.median for setting in here)
        best = min(known, key=lambda setting: setting.predictions["rho"])
        first = [setting.arm for setting in here if setting.median == fastest]
        tokens = probes[name]["tokens"]
        rows.append(
            [
                here[0].title,
                f"{here[0].target:.2f} by {here[0].horizon}",
                len(here),
                "-" if math.isnan(correlation) else f"{correlation:.2f}",
                ", ".join(f"`{arm}`" for arm in first) if fastest != CENSORED else "nobody",
                f"`{best.arm}`",
                probes[name]["recommended"],
                f"{tokens['sigma_r']:.2f} / {tokens['sigma_n']:.3f}",
                "-" if tokens["together"] is None else f"{tokens['together']:.2f}",  # one reflective token a reference
            ]
        )
    columns = ["bed", "target, steps", "settings", "rank correlation", "fastest", "probe's first", "it recommends"]
    return table([*columns, "sigma_R / sigma_N", "reflective tokens together"], rows)


def _formula(probes: Mapping[str, Any]) -> list[str]:
    """rho by the formula less the measured rho, over all beds that were probed, and the threshold for reflective
    tokens against the known ones."""
    errors: dict[str, list[float]] = {}
    for probe in probes.values():
        entries = [("avg_prob", probe["rewards"].get("avg_prob", {}))]
        entries += [(f"R3, omega {found['omega']:g}", found) for found in probe["omegas"]]
        for name, entry in entries:
            if entry.get("rho") and entry.get("rho_formula") is not None:
                errors.setdefault(name, []).append(entry["rho_formula"] - entry["rho"]["value"])
    rows = [
        [
            name,
            len(of),
            f"{statistics.fmean(map(abs, of)):.3f}",
            f"{statistics.fmean(of):+.3f}",
            f"{max(of, key=abs):+.3f}",
        ]
        for name, of in errors.items()
    ]
    found = [probe["tokens"] for probe in probes.values() if probe["tokens"].get("threshold_precision") is not None]
    lines = table(["reward", "beds", "mean absolute error of rho", "mean error", "largest"], rows)
    if found:
        precision, recall = ([entry[f"threshold_{name}"] for entry in found] for name in ("precision", "recall"))
        lines += [
            f"Where reflective tokens are not known they are guessed by their sigma; against the known ones of these "
            f"{len(found)} beds the guess has a precision of {min(precision):.2f} to {max(precision):.2f} and a recall "
            f"of {min(recall):.2f} to {max(recall):.2f}.",
            "",
        ]
    return lines


def _by_bed(settings: Sequence[Setting]) -> list[list[Setting]]:
    names = dict.fromkeys(setting.bed for setting in settings)
    return [[setting for setting in settings if setting.bed == name] for name in names]


def _speed(settings: Sequence[Setting]) -> list[str]:
    """How far off the size of the predicted slowdowns is, beside their order."""
    pairs = [pair for here in _by_bed(settings) for pair in slowdowns(here).values() if pair != (1.0, 1.0)]
    if not pairs:
        return []
    factors = [math.exp(abs(math.log(predicted / measured))) for predicted, measured in pairs]
    return [
        f"Predicted slowdowns (the speed formula on the measured rho, g fitted once elsewhere) are off by a factor of "
        f"{statistics.median(factors):.2f} in the median and {max(factors):.2f} at most, over the {len(pairs)} "
        "settings that arrived behind the fastest of their bed.",
        "",
    ]


def _settings(settings: Sequence[Setting]) -> list[str]:
    found = {(here[0].bed, arm): pair for here in _by_bed(settings) for arm, pair in slowdowns(here).items()}
    rows = [
        [
            setting.title,
            f"`{setting.arm}`",
            _rho(setting.predictions["rho"]),
            _rho(setting.predictions["formula"]),
            _rho(setting.predictions["floor"]),
            "-" if setting.median == CENSORED else f"{setting.median:.0f}",
            " ".join("-" if steps == CENSORED else f"{steps:.0f}" for steps in setting.steps),
            f"{censored(setting)} of {len(setting.steps)}",
            " / ".join(f"{value:.2f}" for value in found.get((setting.bed, setting.arm), ())) or "-",
        ]
        for setting in settings
    ]
    columns = ["bed", "reward", "rho", "rho by formula", "spread / floor", "median steps", "each seed", "censored"]
    columns.append("slowdown, predicted / measured")
    return table(columns, rows)


def _rho(prediction: float) -> str:
    return "-" if math.isnan(prediction) else f"{abs(prediction):.2f}" if prediction <= 0 else f"-{prediction:.2f}"
