"""Alarms and the clock: what a run says of itself while it goes on."""

import math
import time

import pytest

from dro_lab.training.alarms import Alarms
from dro_lab.training.clock import PartClock

HEALTHY = {
    "loss": 0.01,
    "grad_norm": 0.3,
    "entropy": 0.6,
    "rollouts/truncated_share": 0.1,
    "rollouts/malformed_share": 0.0,
    "rollouts/reasoning_tokens": 20.0,
    "groups/zero_signal_share": 0.2,
    "rollouts/kept_share": 1.0,
    "reward/unscorable_share": 0.0,
}

FAULTS = {
    "truncated": ({"rollouts/truncated_share": 0.6}, "completion limit"),
    "malformed": ({"rollouts/malformed_share": 0.6}, "never close their reasoning"),
    "zero_signal": ({"groups/zero_signal_share": 1.0}, "spread in its rewards"),
    "starved": ({"rollouts/kept_share": 0.0}, "dropped by gate, filter or mask"),
    "unscorable": ({"reward/unscorable_share": 0.9}, "could not be scored"),
    "non-finite": ({"grad_norm": math.nan}, "not finite"),
    "entropy": ({"entropy": 0.001}, "stopped exploring"),
    "short reasoning": ({"rollouts/reasoning_tokens": 4.0}, "reasoning shrank from 20 to 4"),
}


def test_a_healthy_run_is_left_in_peace():
    alarms = Alarms()
    assert [alarms.step(HEALTHY) for _ in range(30)] == [[]] * 30
    assert alarms.evaluation(0.5, 0.45) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_said_once_and_in_words(fault):
    change, words = FAULTS[fault]
    alarms = Alarms()
    alarms.step(HEALTHY)
    said = [message for _ in range(10) for message in alarms.step({**HEALTHY, **change})]
    assert len(said) == 1
    assert words in said[0]


def test_five_steps_without_signal_must_be_in_a_row():
    alarms = Alarms()
    bad = {**HEALTHY, "groups/zero_signal_share": 1.0}
    assert [alarms.step(metrics) for metrics in [*[bad] * 4, HEALTHY, *[bad] * 4]] == [[]] * 9


def test_held_out_quality_that_falls_is_said():
    alarms = Alarms()
    assert "fell from 0.60 to 0.40" in alarms.evaluation(0.4, 0.6)[0]
    assert alarms.evaluation(0.3, 0.6) == []


def test_a_metric_that_is_missing_raises_nothing():
    assert Alarms().step({}) == []


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
