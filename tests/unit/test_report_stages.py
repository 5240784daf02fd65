"""The report's sections on gate, filter, judge, monitors and the parts of an evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from dro_lab.record import Alarm, Estimate, RunRecord
from dro_lab.record.read import load_run
from dro_lab.report import write_report
from tests.record_fixture import summary
from tests.report_fixture import Page


def _estimates(**values: float) -> list[Estimate]:
    return [Estimate(metric=name, value=v, low=v - 0.1, high=v + 0.1, n=8) for name, v in values.items()]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """A run with gate, filter, judge, monitors and further parts of the evaluations."""
    folder = tmp_path_factory.mktemp("report") / "full"
    with RunRecord(folder) as record:
        for step in (0, 10):
            change = step / 100
            record.evaluation(_estimates(quality=0.3 + change, reward=0.5), step=step, split="test")
            record.evaluation(_estimates(quality=0.5 + change), step=step, split="test", decoding="greedy")
            record.evaluation(_estimates(quality=0.1 + change, macro_f1=0.2), step=step, split="ood")
        for step in range(1, 11):
            record.metrics(
                {
                    "loss": 0.0,
                    "gate/rejected_share": 1 - step / 10,
                    "gate/failed_share": 0.0,
                    "gate/coverage_rejected_share": 0.2,
                    "gate/yes_share": step / 10,
                    "gate/unknown_share": 0.05,
                    "gate/my_own_count": 3.0,
                    "filter/dropped_share": 0.25,
                    "filter/sigma_bar": 0.2,
                    "filter/tau": 0.1,
                    "filter/refilled_share": 0.5,
                    "rollouts/kept_share": 0.5,
                    "rubric/reference_failed_share": 0.125,
                    "health/starvation": float(step in (5, 6)),
                    "health/truncated": 0.0,
                    "health/worse": 0.0,
                },
                step=step,
            )
        record.summary(
            summary(
                status="stopped",
                steps=10,
                stopped="health.starvation at step 5: too little",
                judge="openai",
                judge_counts={"requests": 1234.0, "unknown_verdicts": 3.0, "spent": 0.25},
                alarms=[
                    Alarm(step=5, message="too little", monitor="starvation", action="stop"),
                    Alarm(step=9, message="quality fell", monitor="worse"),
                ],
            )
        )
    return folder, Page(write_report(folder))


def section(page: Page, title: str) -> str:
    """The text under a heading."""
    return page.text.split(f"\n{title}\n")[1].split("\n\n\n")[0]


def test_gate_and_filter_have_their_rates_at_start_and_end_and_their_curves(full: tuple[Path, Page]) -> None:
    folder, page = full
    gate = section(page, "What the gate did")
    assert "groups rejected85%5%45%" in gate, "first two steps, last two, all ten"
    assert "groups that fail coverage: a check that too few rollouts meet20%20%20%" in gate
    assert "checks that the reference itself fails12%12%12%" in gate
    assert "my own count3.003.003.00" in gate, "a metric that nobody foresaw is shown under its name"
    filtered = section(page, "What the filter did")
    assert "rollouts dropped25%25%25%" in filtered
    assert "groups replaced by sampling again50%50%50%" in filtered
    assert "tau: the lowest sigma_bar that is kept0.100.100.10" in filtered
    plotted = pd.read_csv(folder / "figures/verdicts.csv")
    assert plotted["gate/yes_share"].tolist() == pytest.approx([step / 10 for step in range(1, 11)])
    assert {"gate.csv", "filter.csv", "kept.csv"} <= {path.name for path in (folder / "figures").iterdir()}


def test_the_judges_counts_are_shown(full: tuple[Path, Page]) -> None:
    judge = section(full[1], "The judge")
    assert "openaiwhole run" in judge
    for line in ("requests1,234", "unknown verdicts3", "spent0.25"):
        assert line in judge


def test_every_monitor_is_listed_with_what_it_said(full: tuple[Path, Page]) -> None:
    text = full[1].text
    assert "A health monitor stopped this run at step 10 of 40: health.starvation at step 5: too little" in text
    health = section(full[1], "Health")
    assert re.search(r"starvationstopped the run\s*at step 5, true in 2 of 10 stepstoo little", health)
    assert re.search(r"worsewarned\s*at step 9quality fell", health)
    assert "Silent: truncated." in health


def test_parts_of_an_evaluation_stand_side_by_side(full: tuple[Path, Page]) -> None:
    parts = section(full[1], "By split and decoding")
    assert "test, sampledtest, greedyood, sampled" in parts
    assert "0.30 → 0.400.30 to 0.500.50 → 0.600.50 to 0.700.10 → 0.200.10 to 0.30" in parts
    assert "macro_f1" not in parts, "one part only has it"


def test_the_headline_rows_are_those_of_the_runs_own_split_and_sampling(full: tuple[Path, Page]) -> None:
    record = load_run(full[0])
    quality = record.evals[record.evals["metric"] == "quality"]
    assert quality["value"].tolist() == [0.3, 0.4]
    assert (len(record.evals), len(record.all_evals)) == (4, 10)
