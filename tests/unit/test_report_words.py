"""The report's sentences: how the run went, also one that was cut short, and before and after."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dro_lab.record import Comparison, Estimate, RunRecord
from dro_lab.report import content, write_report
from tests.record_fixture import summary
from tests.report_fixture import Page


@pytest.mark.parametrize(
    ("changes", "title", "sentence"),
    [
        ({}, "Quality rose from 0.27 to 0.71", "The two intervals do not overlap"),
        ({"after": (0.15, 0.05, 0.19)}, "Quality fell from 0.27 to 0.15", "The two intervals do not overlap"),
        ({"after": (0.34, 0.28, 0.40)}, "Quality rose from 0.27 to 0.34", "prompt by prompt, lies above 50%"),
        (
            {"after": (0.34, 0.28, 0.40), "win_rate": None},
            "Quality 0.27, then 0.34: no clear change",
            "overlap: this run",
        ),
        ({"after": (0.20, 0.14, 0.26)}, "Quality 0.27, then 0.20: no clear change", "does not show that training"),
        ({"after": (0.2701, 0.2, 0.35), "win_rate": None}, "Quality 0.27, then 0.27: no clear change", "overlap"),
        ({"after": (0.5, float("nan"), 0.6)}, "Quality 0.27, then 0.50: no clear change", "cannot be told from luck"),
        ({"steps": 0, "after": None}, "Quality is 0.27", "The policy scores 0.27 on 128 held-out prompts"),
        ({"before": None, "after": None}, "Quality was not measured", "No evaluation of this run gave a number."),
        ({"before": (float("nan"),) * 3, "after": None}, "Quality was not measured", "No evaluation"),
    ],
)
def test_the_headline_says_what_happened(tmp_path: Path, changes: dict, title: str, sentence: str) -> None:
    for key in ("before", "after"):
        if isinstance(changes.get(key), tuple):
            value, low, high = changes[key]
            changes = changes | {key: Estimate(metric="q", value=value, low=low, high=high, n=128)}
    with RunRecord(tmp_path / "run") as record:
        written = record.summary(summary(**changes))
    found = content.headline(written)
    assert found.title == title
    assert any(sentence in said for said in found.sentences)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"status": "interrupted", "steps": 17}, "This run was interrupted at step 17 of 40."),
        ({"status": "failed", "error": "no memory", "steps": 3}, "This run failed at step 3 of 40: no memory"),
        ({"status": "running", "steps": 0}, "This run has not ended, or was killed"),
    ],
)
def test_an_unfinished_run_says_so(tmp_path: Path, changes: dict, text: str) -> None:
    with RunRecord(tmp_path / "run") as record:
        record.summary(summary(after=None, win_rate=None, **changes))
    page = Page(write_report(tmp_path / "run"))
    assert text in page.text
    assert page.data == {}, "there is nothing to browse"
    assert not any("data-widget" in attributes for _, attributes in page.tags)
    assert "three tokens" not in page.text


@pytest.mark.parametrize(
    ("steps", "title", "sentence"),
    [
        (
            (0,),
            "Quality was 0.20 before training, and was not measured again",
            "Before training, the policy scored 0.20 on 32 held-out prompts (95% interval 0.10 to 0.30).",
        ),
        (
            (0, 8, 16),
            "Quality was 0.36 at step 16, when it was last measured",
            "It was last measured at step 16: 0.36 on 32 held-out prompts (95% interval 0.26 to 0.46).",
        ),
    ],
)
@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_a_run_cut_short_claims_no_after(tmp_path: Path, steps: tuple, title: str, sentence: str, status: str) -> None:
    """Also a killed one, whose summary is that of its start."""
    ended = {"steps": 17, "before": _estimate(0)} if status != "running" else {"steps": 0, "before": None}
    with RunRecord(tmp_path / "run") as record:
        for step in steps:
            record.evaluation([_estimate(step)], step=step, split="test")
        record.metrics({"loss": 0.0}, step=17)
        error = "no memory" if status == "failed" else None
        record.summary(summary(status=status, error=error, after=None, win_rate=None, objective=None, **ended))
    page = Page(write_report(tmp_path / "run"))
    assert f"\n{title}\n" in page.text
    assert sentence in page.text
    assert "step 17 of 40" in page.text
    assert "17 training steps" not in page.text
    assert "after 17 steps" not in page.text
    assert "it scores" not in page.text


def _estimate(step: int) -> Estimate:
    value = 0.2 + step / 100
    return Estimate(metric="quality", value=value, low=value - 0.1, high=value + 0.1, n=32)


def test_before_and_after_name_the_samples_and_show_backtracking_that_is_gone(tmp_path: Path) -> None:
    lines = [("quality", 0.25, 0.5), ("backtracking_share", 0.2, 0.0), ("win_unknown_share", None, 0.0)]
    found = [Comparison(metric=name, before=before, after=after) for name, before, after in lines]
    with RunRecord(tmp_path / "run") as record:
        written = record.summary(summary(comparison=found, samples=16))
    assert content.comparison(written) == [
        content.Change(words="quality (mean@16)", before="0.25", after="0.50"),
        content.Change(words="segments that backtrack", before="20%", after="0%"),
    ]
    evals = pd.DataFrame(
        [(0, "quality", 0.25, 0.2, 0.31), (40, "quality", 0.5, 0.4, 0.6), (0, "backtracking_share", 0.2, 0.1, 0.3)],
        columns=["step", "metric", "value", "low", "high"],
    )
    assert [(line.before_interval, line.after_interval) for line in content.comparison(written, evals)] == [
        ("0.20 to 0.31", "0.40 to 0.60"),
        ("10% to 30%", ""),
    ]
    del written["samples"]  # a record of before there was such a key
    assert content.comparison(written)[0].words == "quality"
