"""What watches a run: the observer with health monitors that warn or stop, and the clock."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from dro_lab.console import RunConsole
from dro_lab.evaluation.evaluate import Evaluator
from dro_lab.health import Watch
from dro_lab.health.finding import Finding
from dro_lab.health.watch import Watched
from dro_lab.judges.none import NoJudge
from dro_lab.record import Estimate, RunRecord
from dro_lab.record.read import headline_rows, load_run
from dro_lab.tracking.none import NoTracker
from dro_lab.training.clock import PartClock
from dro_lab.training.observer import RunObserver
from dro_lab.types import Provenance, Task
from tests.cli_fixture import run_main, save_policy, small_run
from tests.lab_fixture import ROWS, trainer
from tests.record_fixture import summary
from tests.unit.test_evaluation_settings import settings


def from_call(nth: int, key: str):
    """A monitor that fires from the ``nth`` time on that it sees ``key``."""

    def monitor(state, metrics):
        seen = state.get("seen", 0) + (key in metrics)
        return Finding(value=1.0, message="it is bad") if seen >= nth else None, {"seen": seen}

    return monitor


class Told(NoTracker):
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.steps: list[dict] = []
        self.parts: list[tuple] = []

    def metrics(self, values, *, step):
        self.steps.append(dict(values))

    def evaluation(self, estimates, *, step, split, decoding="sampled"):
        self.parts.append((step, split, decoding))


class Lab:
    """A run of 4 steps over a tiny policy, evaluated every 2, watched by one monitor."""

    def __init__(self, folder: Path, monitor, action: str, **changes) -> None:
        self.record, self.tracker, self.out = RunRecord(folder), Told(), io.StringIO()
        chosen = settings(samples=2, prompts=2, bootstrap=5, also=["ood"], every=2)
        self.observer = RunObserver(
            record=self.record,
            tracker=self.tracker,
            console=RunConsole(Console(file=self.out, width=200)),
            clock=PartClock(),
            evaluator=lambda: Evaluator(
                sample=self.trainer.sample,
                scoring=self.trainer.scoring,
                model=lambda: self.trainer.policy,
                rows={"validation": ROWS[:2], "ood": ROWS[2:4]},
                task=Task(
                    name="t",
                    provenance=Provenance(dataset="t", kind="file", location="f"),
                    splits={},
                    metric=None,
                    metric_name="m",
                ),
                judge=NoJudge(),
                settings=chosen,
            ),
            watch=Watch(monitors=[Watched(name="bad", action=action, call=monitor)]),
            tokenizer=None,
            every=2,
            planned=4,
            token_rows=0,
            **{"counts": lambda: {"requests": 7}, **changes},
        )
        made = trainer(
            folder / "trainer",
            observer=self.observer.rollouts,
            extra={"callbacks": [self.observer]},
            max_steps=4,
        )
        self.trainer = made
        self.observer.tokenizer = made.scoring.tokenizer
        self.observer.run_evaluation(0)
        made.train()
        self.record.close()

    @property
    def metrics(self) -> list[dict]:
        return [json.loads(line) for line in (self.record.folder / "metrics.jsonl").read_text().splitlines()]


MAIN = [("validation", "sampled")]
ALL = [*MAIN, ("validation", "greedy"), ("ood", "sampled"), ("ood", "greedy")]


def at(step: int, parts: list) -> list[tuple]:
    return [(step, *part) for part in parts]


def test_a_monitor_that_warns_is_said_once_and_the_run_goes_on(tmp_path):
    lab = Lab(tmp_path / "run", from_call(2, "loss"), "warn")
    assert lab.observer.steps_done == 4
    assert lab.observer.stopped is None
    assert [(alarm.step, alarm.monitor, alarm.action) for alarm in lab.observer.alarms] == [(2, "bad", "warn")]
    assert lab.out.getvalue().count("it is bad") == 1
    assert [row["health/bad"] for row in lab.metrics] == [0, 1, 1, 1]
    assert [values["health/bad"] for values in lab.tracker.steps] == [0, 1, 1, 1]
    assert [row["judge/requests"] for row in lab.metrics] == [7] * 4
    assert lab.tracker.parts == [*at(0, ALL), *at(2, MAIN), *at(4, ALL)], "extras before and after only"
    lines = [line for line in lab.out.getvalue().splitlines() if line.startswith("step") and "reward" in line]
    assert [line.count("! bad") for line in lines] == [0, 1, 1, 1]


@pytest.mark.slow
def test_extras_at_every_evaluation_where_asked_for(tmp_path):
    lab = Lab(tmp_path / "run", from_call(99, "loss"), "warn", extras_every=True)
    assert lab.tracker.parts == [*at(0, ALL), *at(2, ALL), *at(4, ALL)]


@pytest.mark.parametrize(
    ("monitor", "step", "parts"),
    [
        (from_call(1, "loss"), 1, [*at(0, ALL), *at(1, ALL)]),
        (from_call(2, "loss"), 2, [*at(0, ALL), *at(2, ALL)]),
        # an evaluation's own finding: its extras come once it is known to be the last
        (
            lambda s, m: (Finding(value=1, message="it is bad") if "loss" not in m else None, s),
            2,
            [*at(0, ALL), *at(2, ALL)],
        ),
    ],
    ids=["step", "step with an evaluation", "evaluation"],
)
def test_a_monitor_that_stops_ends_the_training_evaluated_and_said(tmp_path, monitor, step, parts):
    lab = Lab(tmp_path / "run", monitor, "stop")
    assert lab.observer.steps_done == len(lab.metrics) == step
    assert lab.observer.stopped == f"health.bad at step {step}: it is bad"
    assert lab.tracker.parts == parts
    assert "health.bad.action=stop: training ends here" in lab.out.getvalue()
    lab.record.summary(summary(status="stopped", stopped=lab.observer.stopped, alarms=lab.observer.alarms, steps=step))
    found = load_run(tmp_path / "run")
    assert found.summary["alarms"] == [{"step": step, "message": "it is bad", "monitor": "bad", "action": "stop"}]
    assert found.all_evals["step"].drop_duplicates().tolist() == [0, step]
    assert set(found.evals["decoding"]) == {"sampled"}
    assert set(found.evals["split"]) == {"validation"}
    assert len(found.evals) == len(headline_rows(found.all_evals)) < len(found.all_evals)


def test_a_finding_at_the_last_step_stops_nothing(tmp_path):
    lab = Lab(tmp_path / "run", from_call(4, "loss"), "stop")
    assert lab.observer.steps_done == 4
    assert lab.observer.stopped is None
    assert [alarm.step for alarm in lab.observer.alarms] == [4]


def test_parts_of_the_clock_add_up_and_an_inner_part_pauses_the_outer():
    clock = PartClock()
    with clock.part("sampling"):
        time.sleep(0.02)
        with clock.part("scoring"):
            time.sleep(0.04)
    report = clock.report()
    assert report["total"] == pytest.approx(sum(v for k, v in report.items() if k != "total"))
    assert report["scoring"] >= 0.04
    assert report["sampling"] >= 0.02
    assert report["sampling"] < report["total"] - report["scoring"] + 1e-9


def test_a_part_that_raises_is_closed():
    clock = PartClock()
    with pytest.raises(RuntimeError), clock.part("training"):
        raise RuntimeError
    with clock.part("evaluation"):
        time.sleep(0.01)
    assert clock.report()["evaluation"] >= 0.01


def estimate(name: str, value: float) -> Estimate:
    return Estimate(metric=name, value=value, low=value - 0.1, high=value + 0.1, n=4)


def table(before: dict[str, float], after: dict[str, float], **changes) -> list[str]:
    """The lines of the final table."""
    out = io.StringIO()
    estimates = [[estimate(name, value) for name, value in side.items()] for side in (before, after)]
    RunConsole(Console(file=out, width=200)).result(summary(metric="facts", **changes), *estimates)
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_the_final_table_keeps_the_parts_of_a_metric_together_and_leaves_out_what_is_everywhere_zero():
    start = {
        "quality": 0.2,
        "reward": 0.3,
        "macro_f1": 0.4,
        "pass@2": 0.5,
        "quality/ood": 0.1,
        "reasoning_tokens/ood": 9,
    }
    end = {**start, "win_rate": 0.6, "win_unknown_share": 0.0, "quality/ood": 0.3}
    lines = table(start, end)
    assert [line.split("  ")[0] for line in lines[1:-1]] == [
        "quality (facts)",
        "quality (facts), ood",
        "win rate against base",
        "right within 2 tries (pass@2)",
        "macro_f1",
        "reward",
    ]
    assert lines[0].split() == ["before", "after"]
    assert lines[2].endswith("0.100 [0.000, 0.200]  0.300 [0.200, 0.400]")
    assert any("could not decide" in line for line in table({}, {**end, "win_unknown_share": 0.25}))


def test_the_quality_of_sampled_answers_is_named_as_a_mean_over_them():
    lines = table({}, {"quality": 0.2, "quality/ood": 0.3, "quality/greedy": 0.4}, samples=16)
    assert [line.split("  ")[0] for line in lines[1:-1]] == [
        "quality (facts, mean@16)",
        "quality (facts, mean@16), ood",
        "quality (facts), greedy",
    ]


def test_reasoning_is_shown_in_counts_and_shares_and_backtracking_only_where_there_was_any():
    start = {"segments": 8.25, "backtracking_share": 0.125, "certain_at": 40.0, "certain_share": 0.5}
    lines = table(start, {**start, "backtracking_share": 0.0})
    assert [line.split()[-2:] for line in lines[1:-1]] == [
        ["8.2", "8.2"],
        ["12.5%", "0.0%"],
        ["40.0", "40.0"],
        ["50.0%", "50.0%"],
    ]
    assert lines[3].startswith("reasoning until certain (tokens, certain rollouts only)")
    silent = {**start, "backtracking_share": 0.0}
    assert len(table(silent, silent)) == len(lines) - 1


def test_nothing_to_train_gives_one_column():
    lines = table({"quality": 0.2}, {"quality": 0.2}, planned_steps=0, steps=0)
    assert "before" not in lines[0]
    assert lines[0].count("0.200") == 1


def test_a_stopped_run_says_why_under_its_table():
    assert table({}, {}, status="stopped", stopped="health.x at step 3: bad")[-1] == "stopped  health.x at step 3: bad"


def test_steps_without_an_update_are_counted_and_said_at_the_end(tmp_path, monkeypatch):
    """A random policy never closes its reasoning; where such completions are masked, nothing may teach."""
    monkeypatch.chdir(tmp_path)
    policy = save_policy(tmp_path / "policy")
    for mask, empty in ((True, [1.0, 2.0]), (False, [0.0, 0.0])):
        folder = f"mask_{mask}"
        chosen = [f"rollout.mask_malformed_completions={str(mask).lower()}", f"hydra.run.dir={folder}"]
        ended = run_main(small_run(policy, chosen))
        assert ended.code == 0, ended.err
        assert load_run(tmp_path / folder).metrics["rollouts/empty_steps"].tolist() == empty
        said = "2 of 2 steps made no update: gate, filter and masks left nothing"
        assert (said in " ".join(ended.text.split())) == mask
