"""What a report says, as plain values: headline, tokens that taught, rollouts to read. No HTML in here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from dro_lab.console import ONLY_IF_ANY, SHARES, label, table_order

MISSING = "–"
CONTEXT = 5
"""Tokens shown on either side of one that taught."""
EQUAL = 1e-4
"""Weights of a reference that differ by less than this share of the largest are equal."""

Weighting = Literal["own", "equal", "none"]
"""How a reward weighs the reference's tokens: each by a weight of its own, all the same, or not one by one."""


def number(value: float | None, *, share: bool = False) -> str:
    """A number as the report shows it: two decimals, or percent; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{100 * value:.0f}%" if share else f"{value:.2f}"


def value(estimate: Mapping[str, Any] | None, *, share: bool = False) -> str:
    """The value of an estimate; a dash where it was not measured."""
    return number(None if estimate is None else estimate["value"], share=share)


def interval(estimate: Mapping[str, Any] | None, *, share: bool = False) -> str:
    """``0.20 to 0.35``; a dash where it was not measured."""
    if estimate is None or estimate["low"] is None or estimate["high"] is None:
        return MISSING
    return f"{number(estimate['low'], share=share)} to {number(estimate['high'], share=share)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The top of the page: a title, and sentences that a newcomer understands."""

    title: str
    sentences: Sequence[str]


def headline(summary: Mapping[str, Any], evals: pd.DataFrame | None = None) -> Headline:
    """Say how the run went, from ``summary.json``; of a run cut short, ``evals`` say what was last measured."""
    before, after, win = summary["before"], summary["after"], summary["win_rate"]
    level = f"{100 * summary['confidence']:.0f}%"
    about = f"Quality is the data set's own metric, {summary['metric']}: 1 is right, 0 is wrong."
    if summary["status"] != "finished" and after is None:
        sentences = _cut_short(summary, evals, level)
        if sentences:
            return Headline(title=sentences[0], sentences=[*sentences[1:], about])
    measured = [item for item in (before, after) if item is not None and item["value"] is not None]
    if not measured:
        return Headline(title="Quality was not measured", sentences=["No evaluation of this run gave a number."])
    first = measured[0]
    rows = f"{first['n']} held-out prompts"
    if len(measured) == 1 or summary["steps"] == 0:
        sentence = f"The policy scores {number(first['value'])} on {rows} ({level} interval {interval(first)})."
        return Headline(title=f"Quality is {number(first['value'])}", sentences=[sentence, about])
    start, end = number(before["value"]), number(after["value"])
    clear, meaning = _what_it_means(before, after, win)
    verb = "rose" if after["value"] > before["value"] else "fell"
    title = f"Quality {verb} from {start} to {end}" if clear else f"Quality {start}, then {end}: no clear change"
    sentences = [
        f"Before training, the policy scored {start} on {rows} ({level} interval {interval(before)}); after "
        f"{summary['steps']} training steps with the reward {summary['reward']} it scores {end} ({interval(after)}).",
        about,
        meaning,
    ]
    if win is not None and win["value"] is not None:
        sentences.insert(
            1,
            f"Prompt by prompt, the trained policy wins {number(win['value'], share=True)} of the comparisons with the "
            f"policy it started from ({interval(win, share=True)}; ties count half, so 50% would be no change).",
        )
    return Headline(title=title, sentences=sentences)


def _cut_short(summary: Mapping[str, Any], evals: pd.DataFrame | None, level: str) -> list[str]:
    """Title and sentences for a run that ended between evaluations; empty where nothing was measured."""
    points: list[tuple[int, Mapping[str, Any]]] = [(0, summary["before"])] if summary["before"] else []
    if evals is not None and len(evals):
        metric = summary["before"]["metric"] if summary["before"] else "quality"
        found = evals[evals["metric"] == metric].sort_values("step", kind="stable").astype({"value": float})
        points = [(int(row["step"]), row) for row in found.to_dict("records")] or points
    points = [(step, point) for step, point in points if point["value"] is not None and math.isfinite(point["value"])]
    if not points:
        return []
    (first_step, first), (last_step, last) = points[0], points[-1]
    said = [
        f"{number(at['value'])} on {at['n']} held-out prompts ({level} interval {interval(at)})" for at in (first, last)
    ]
    start = "Before training" if first_step == 0 else f"At step {first_step}"
    sentence = f"{start}, the policy scored {said[0]}."
    if last_step == first_step:
        title = f"Quality was {number(first['value'])} {start[0].lower()}{start[1:]}, and was not measured again"
        return [title, f"{sentence} This run was not measured after that: what training changed is not known."]
    title = f"Quality was {number(last['value'])} at step {last_step}, when it was last measured"
    return [title, f"{sentence} It was last measured at step {last_step}: {said[1]}."]


def _what_it_means(
    before: Mapping[str, Any], after: Mapping[str, Any], win: Mapping[str, Any] | None
) -> tuple[bool, str]:
    """Whether the change is more than the choice of prompts explains, and that in words."""
    if None in (before["low"], before["high"], after["low"], after["high"]):
        return False, "One of the intervals could not be computed, so the change cannot be told from luck."
    seed = "the choice of prompts does not explain the change (another seed may)."
    if before["high"] < after["low"] or after["high"] < before["low"]:
        return True, f"The two intervals do not overlap: {seed}"
    rose = after["value"] > before["value"]
    if win is not None and None not in (win["low"], win["high"]):
        side = "above" if win["low"] > 0.5 and rose else "below" if win["high"] < 0.5 and not rose else None
        if side is not None:
            return True, f"The intervals overlap, but that of the wins, prompt by prompt, lies {side} 50%: {seed}"
    return False, "The two intervals overlap: this run alone does not show that training changed the policy."


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A token of the references that taught: its share of all weight, how often it stood there, one example."""

    token: str
    share: float
    count: int
    left: str
    right: str


def with_weights(tokens: pd.DataFrame) -> tuple[pd.DataFrame, Weighting]:
    """``tokens`` with a column ``shown``, and how the reward weighs them.

    ``shown`` is the reward's weight where that tells tokens apart. Where it does not (no weights, or equal ones within
    each reference) it is ``sigma^2`` over its sum in the reference: how strongly the token reacts to the reasoning.
    """
    weighting = _weighting(tokens)
    if weighting == "own":
        return tokens.assign(shown=tokens["weight"].fillna(0.0)), weighting
    squared = tokens["sigma"].fillna(0.0) ** 2
    total = squared.groupby([tokens["step"], tokens["prompt_id"]]).transform("sum")
    return tokens.assign(shown=(squared / total.where(total > 0)).fillna(0.0)), weighting


def _weighting(tokens: pd.DataFrame) -> Weighting:
    weight = tokens["weight"].astype(float)
    if weight.isna().all():
        return "none"
    of_reference = weight.groupby([tokens["step"], tokens["prompt_id"]])
    largest = of_reference.transform("max")
    apart = largest - of_reference.transform("min") > EQUAL * largest
    # weights of 0 alone: nothing depended on the reasoning, and a reward of equal weights would still have weighed it
    return "own" if apart.any() or not (weight > 0).any() else "equal"


def source_line(provenance: Mapping[str, Any], *, width: int = 44) -> str:
    """The data set and its source, short enough to stand under a figure; a long path keeps its end."""
    location = provenance["location"]
    location = location if len(location) <= width else "…" + location[-width:]
    mark = f", sha256 {provenance['sha256'][:8]}" if provenance["sha256"] else ""
    if provenance["kind"] == "hub" and provenance["revision"]:
        mark = f", revision {provenance['revision'][:8]}"
    return f"{provenance['dataset']} ({provenance['kind']}: {location}{mark})"


def visible(token: str) -> str:
    """A token's text without the space around it; white space alone is named."""
    names = {" ": "space", "\n": "line break", "\t": "tab", "": "part of a character"}
    return token.strip() or names.get(token, "white space")


def teachers(weighted: pd.DataFrame, *, count: int = 3) -> list[Teacher]:
    """The ``count`` token texts with the largest share of all weight, each in the place where it weighed most."""
    names = weighted["token"].map(visible)
    totals = weighted["shown"].groupby(names).agg(["sum", "size"]).sort_values("sum", ascending=False)
    found = []
    for name, row in totals[totals["sum"] > 0].head(count).iterrows():
        best = weighted.loc[weighted["shown"].where(names == name).idxmax()]
        query = weighted[(weighted["step"] == best["step"]) & (weighted["prompt_id"] == best["prompt_id"])]
        texts = query.sort_values("position")["token"].tolist()
        at = int((query["position"] < best["position"]).sum())
        left, right = "".join(texts[max(0, at - CONTEXT) : at]), "".join(texts[at + 1 : at + 1 + CONTEXT])
        left = ("…" if at > CONTEXT else "") + left + best["token"][: len(best["token"]) - len(best["token"].lstrip())]
        right += "…" if at + 1 + CONTEXT < len(texts) else ""
        share = float(row["sum"] / totals["sum"].sum())
        found.append(Teacher(token=str(name), share=share, count=int(row["size"]), left=left, right=right))
    return found


def truth_sentence(weighted: pd.DataFrame, *, shown: str = "weight") -> str:
    """How much of the weight (or what ``shown`` names) lies on the tokens known to matter; "" where nobody knows."""
    known = weighted[weighted["truth"].notna()]
    if known.empty or known["shown"].sum() == 0:
        return ""
    true = known["truth"].astype(bool)
    share, expected = known.loc[true, "shown"].sum() / known["shown"].sum(), true.mean()
    return (
        f"Underlined tokens depend on the result of the reasoning, as the data set's generator knows. They are "
        f"{expected:.0%} of the tokens and carry {share:.0%} of the {shown}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A line of the table *before -> after*; the intervals are empty where none was measured."""

    words: str
    before: str
    after: str
    before_interval: str = ""
    after_interval: str = ""


def comparison(summary: Mapping[str, Any], evals: pd.DataFrame | None = None) -> list[Change]:
    """The table *before -> after* as text, with the intervals of the first and last evaluation in ``evals``."""
    lines = {line["metric"]: line for line in summary["comparison"]}
    rows = []
    for name in table_order(lines):
        line, share = lines[name], name in SHARES
        if "/" in name or (name in ONLY_IF_ANY and not (line["before"] or line["after"])):
            continue  # other splits and decodings have a table of their own
        before, after = (
            _around(evals, name, line[end], step=step) for end, step in (("before", 0), ("after", summary["steps"]))
        )
        rows.append(
            Change(
                words=label(name, samples=summary.get("samples")),
                before=number(line["before"], share=share),
                after=number(line["after"], share=share),
                before_interval=before,
                after_interval=after,
            )
        )
    return rows


def _around(evals: pd.DataFrame | None, metric: str, value: float | None, *, step: int) -> str:
    """The interval that was measured at ``step``; empty where there is none, or it has no width."""
    if value is None or evals is None or evals.empty:
        return ""
    found = evals[(evals["metric"] == metric) & (evals["step"] == step)]
    if found.empty or not found["low"].astype(float).iloc[-1] < found["high"].astype(float).iloc[-1]:
        return ""
    return interval(found.iloc[-1].to_dict(), share=metric in SHARES)
