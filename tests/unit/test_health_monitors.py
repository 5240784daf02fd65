"""Each monitor fires on a stream that has its fault, says it in words, and stays silent on healthy ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import dro_lab.config  # noqa: F401  (registers the typed root)
from dro_lab.errors import UserError
from dro_lab.health import Watch, build_watch

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"


def config(*overrides: str):
    """The `health` group as a run composes it."""
    with initialize_config_dir(str(ROOT / "conf")):
        return compose("config", [*overrides]).health


@pytest.fixture(scope="module")
def group():
    return config()


HEALTHY = {
    "loss": 0.01,
    "grad_norm": 0.3,
    "entropy": 0.6,
    "kl": 0.01,
    "reward/group_std": 0.2,
    "reward/unscorable_share": 0.0,
    "groups/zero_signal_share": 0.2,
    "gate/rejected_share": 0.3,
    "filter/dropped_share": 0.1,
    "rollouts/truncated_share": 0.1,
    "rollouts/malformed_share": 0.0,
    "rollouts/reasoning_tokens": 20.0,
    "rollouts/kept_share": 0.6,
    "answers/equal_input_share": 0.05,
    "answers/most_common_share": 0.1,
    "rubric/reference_failed_share": 0.0,
    "sampling/sampling_logp_difference/mean": 0.01,
    "sampling/importance_sampling_ratio/mean": 0.98,
    "eval/quality": 0.5,
    "eval/quality/start": 0.45,
}

FAULTS = {
    "no_revision": ({"answers/equal_input_share": 0.8}, "80% of the answers are the unrevised input", 3),
    "no_revision constant": ({"answers/most_common_share": 0.95}, "one and the same text", 8),
    "reasoning_collapse": ({"rollouts/reasoning_tokens": 4.0}, "shrank from 20 to 4 tokens", 3),
    "entropy_collapse": ({"entropy": 0.005}, "entropy is 0.005 nats a token, 0.600 at the start", 3),
    "entropy_collapse relative": ({"entropy": 0.03}, "stopped exploring", 3),
    "spurious_amplification": ({"grad_norm": 3.0, "reward/group_std": 0.01}, "noise is being amplified", 1),
    "rubric_drift": ({"rubric/reference_failed_share": 0.6}, "fail 24% of their own checks", 2),
    "degenerate_groups": ({"groups/zero_signal_share": 0.95}, "no spread in their rewards and taught nothing", 8),
    "zero_signal": ({"groups/zero_signal_share": 1.0}, "5 steps in a row no group had any spread", 5),
    "starvation": ({"rollouts/kept_share": 0.0, "gate/rejected_share": 1.0}, "gating.on_reject=floor", 5),
    "starvation slow": ({"rollouts/kept_share": 0.02}, "of the last 20 steps were dropped", 18),
    "kl_runaway": ({"kl": 2.0}, "away from where it started", 1),
    "truncated": ({"rollouts/truncated_share": 0.6}, "60% of the rollouts hit the completion limit", 1),
    "malformed": ({"rollouts/malformed_share": 0.6}, "or the policy does not know this kind of text", 1),
    "unscorable": ({"reward/unscorable_share": 0.9}, "90% of the rollouts could not be scored", 1),
    "non_finite": ({"grad_norm": math.nan}, "not finite", 1),
    "non_finite loss": ({"loss": math.inf}, "not finite", 1),
    "sampler_mismatch": ({"sampling/sampling_logp_difference/mean": 0.4}, "differ by 0.14 nats a token", 1),
    "sampler_mismatch ratio": ({"sampling/importance_sampling_ratio/mean": 0.1}, "ratio trainer/vLLM is 0.69", 1),
    "worse": ({"eval/quality": 0.3}, "fell from 0.45 to 0.30", 1),
}
"""By monitor: what is wrong, words of what it says, and after how many such steps it says it."""


def test_every_monitor_has_a_fault_here(group):
    assert {name.split()[0] for name in FAULTS} == set(group)


def test_a_healthy_stream_is_left_in_peace(group):
    watch = build_watch(group)
    assert [watch(HEALTHY) for _ in range(60)] == [[]] * 60
    assert watch.tag == ""
    assert set(watch.metrics().values()) == {0.0}


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_a_real_healthy_run_is_left_in_peace(group, name):
    """40 steps on the ParaRev twin; the gated one with gating=rubric filtering=r3_variance."""
    watch = build_watch(group)
    lines = (GOLDEN / f"healthy_{name}.jsonl").read_text().splitlines()
    assert len(lines) == 40
    for line in lines:
        assert watch({key: math.nan if value is None else value for key, value in json.loads(line).items()}) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_said_once_in_words_when_it_lasts_long_enough(group, name):
    change, words, after = FAULTS[name]
    monitor = name.split()[0]
    watch = build_watch(group)
    for _ in range(20):
        watch(HEALTHY)
    said = [[a for a in watch({**HEALTHY, **change}) if a.monitor == monitor] for _ in range(40)]
    assert [len(alerts) for alerts in said] == [step == after - 1 for step in range(40)]
    (alert,) = said[after - 1]
    assert words in alert.message
    assert alert.action == "warn"


@pytest.mark.parametrize("name", FAULTS)
def test_only_the_fault_itself_is_found(group, name):
    """Also where a fault has a companion: nothing kept, for example, is not called a lack of spread."""
    change, _, after = FAULTS[name]
    watch = build_watch(group)
    for _ in range(20):
        watch(HEALTHY)
    found = {alert.monitor for _ in range(after) for alert in watch({**HEALTHY, **change})}
    assert found == {name.split()[0]}


@pytest.mark.parametrize("name", [n for n, (_, _, after) in FAULTS.items() if after > 1 and n != "starvation slow"])
def test_a_fault_that_passes_before_its_time_is_not_said(group, name):
    change, _, after = FAULTS[name]
    watch = build_watch(group)
    stream = [*[HEALTHY] * 20, *[{**HEALTHY, **change}] * (after - 1), *[HEALTHY] * 20]
    assert [alert for metrics in stream for alert in watch(metrics)] == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_number_that_is_missing_neither_raises_nor_clears(group, name):
    """Steps without any number between those with the fault change nothing for those that count."""
    change, _, after = FAULTS[name]
    monitor = name.split()[0]
    watch = build_watch(group)
    assert watch({}) == []
    for _ in range(20):
        watch(HEALTHY)
    found = []
    for _ in range(after):
        assert watch({}) == []
        found += watch({**HEALTHY, **change})
    assert [alert.monitor for alert in found] == [monitor]


def test_a_spike_with_ordinary_spread_and_low_spread_without_a_spike_are_no_amplification(group):
    for change in ({"grad_norm": 3.0}, {"reward/group_std": 0.01}):
        watch = build_watch(group)
        for _ in range(20):
            watch(HEALTHY)
        assert watch({**HEALTHY, **change}) == []


def test_a_spike_in_the_first_steps_is_not_judged(group):
    watch = build_watch(group)
    for _ in range(7):
        watch(HEALTHY)
    assert watch({**HEALTHY, "grad_norm": 30.0, "reward/group_std": 0.001}) == []


@pytest.mark.parametrize("monitor", ["entropy_collapse", "kl_runaway"])
def test_steps_without_a_rollout_in_the_loss_say_nothing_of_entropy_and_kl(group, monitor):
    """TRL logs 0 there; a starving run is not one that has stopped exploring."""
    empty = {**HEALTHY, "rollouts/kept_share": 0.0, "gate/rejected_share": 1.0, "entropy": 0.0, "kl": 0.0}
    watch = build_watch(group)
    for _ in range(20):
        watch(HEALTHY)
    assert {alert.monitor for _ in range(10) for alert in watch(empty)} == {"starvation"}
    fault = {"entropy": 0.005} if monitor == "entropy_collapse" else {"kl": 0.8}
    stream = [{**HEALTHY, **fault}, empty] * 3
    assert monitor in {alert.monitor for metrics in stream for alert in watch(metrics)}, "and do not hide a fault"


def test_patience_follows_the_gate():
    assert config("gating=rubric", "gating.patience=2").starvation.patience == 2
    assert config("gating=none").starvation.patience == 5
    watch = build_watch(config("gating=rubric", "gating.patience=2"))
    assert [bool(watch({**HEALTHY, "rollouts/kept_share": 0.0})) for _ in range(2)] == [False, True]


def test_what_fires_now_stands_in_the_tag_and_in_the_metrics(group):
    watch = build_watch(group)
    bad = {**HEALTHY, "rollouts/truncated_share": 0.9, "reward/unscorable_share": 0.9}
    watch(bad)
    assert watch.tag == "! truncated, unscorable"
    assert {name for name, fires in watch.metrics().items() if fires} == {"health/truncated", "health/unscorable"}
    watch(HEALTHY)
    assert watch.tag == ""
    assert watch(bad) == [], "said once a run"
    assert watch.tag == "! truncated, unscorable", "and seen each time"


@given(st.lists(st.dictionaries(st.sampled_from(sorted(HEALTHY)), st.floats() | st.none()), max_size=30))
def test_no_stream_of_numbers_makes_a_monitor_fail_and_states_are_plain(stream):
    watch = build_watch(OmegaConf.load(ROOT / "conf/health/default.yaml") | {"starvation": STARVATION})
    for metrics in stream:
        watch(metrics)
    again = json.loads(json.dumps(watch._states))
    assert json.dumps(again) == json.dumps(watch._states)


STARVATION = {"_target_": "dro_lab.health.signal.starvation", "patience": 5, "share": 0.9, "window": 20}


def test_no_monitors_say_nothing():
    watch = build_watch(config("health=none"))
    assert watch.monitors == ()
    assert watch({**HEALTHY, "loss": math.nan}) == []
    assert watch.metrics() == {}


def test_health_stop_ends_runs_that_are_lost():
    stops = {m.name for m in build_watch(config("health=stop")).monitors if m.action == "stop"}
    assert stops == {"no_revision", "reasoning_collapse", "entropy_collapse", "starvation", "non_finite"}
    assert {m.name for m in build_watch(config("health=stop")).monitors} == set(config())


def test_a_monitor_that_is_off_does_not_look():
    watch = build_watch(config("health.truncated.action=off"))
    assert isinstance(watch, Watch)
    assert "truncated" not in {monitor.name for monitor in watch.monitors}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("health.truncated.action=die", "health.truncated.action=die: must be one of warn, stop, off"),
        ("health.truncated.share=2", r"health.truncated.share=2: must be a number in \[0, 1\]"),
        ("health.truncated.share=-0.1", "health.truncated.share=-0.1"),
        ("health.zero_signal.patience=0", "health.zero_signal.patience=0: must be a whole number of at least 1"),
        ("health.kl_runaway.limit=big", "health.kl_runaway.limit=big: must be a number of at least 0"),
        ("+health.truncated.shar=0.5", "health.truncated.shar: unknown key; truncated takes share"),
        ("~health.truncated.share", "health.truncated.share: is required by truncated"),
        ("~health.truncated._target_", "health.truncated: its yaml must name a function"),
        ("health.truncated._target_=dro_lab.health.text.nope", "cannot be imported"),
        ("+health.mine=3", "health.mine=3: must hold `_target_`"),
    ],
)
def test_what_makes_no_sense_is_refused(override, words):

    with pytest.raises(UserError, match=words):
        build_watch(config(override))
