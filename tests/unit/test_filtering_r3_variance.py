"""The variance filter on numbers that one can compute by hand, its memory, and the trap that it does not catch."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dro_lab.components import component
from dro_lab.errors import UserError
from dro_lab.filtering import r3_variance as module
from dro_lab.filtering.r3_variance import r3_variance
from dro_lab.rewards.r3 import r3
from dro_lab.types import Need, Rewards, Stat
from tests.tiny_step import groups_of, stats_of

EOS = 0.5
FRESH = module.initial_state()


def group(*sigmas: float) -> list[list[float]]:
    """Two rollouts whose tokens have these population standard deviations, around 0.4, and an EOS that varies most."""
    return [[*(0.4 - s for s in sigmas), 0.01], [*(0.4 + s for s in sigmas), 0.99]]


def judged(*groups, step=0, state=FRESH, **arguments):
    rollouts = groups_of(len(groups), len(groups[0]))
    outcome = Rewards(outcome_PG=torch.zeros(rollouts.shape))
    return r3_variance(replace(rollouts, step=step), stats_of(groups), outcome, state=state, **arguments)


def test_a_group_below_tau_goes_whole_with_its_numbers_as_the_reason():
    result, _ = judged(group(0.012), group(0.2), tau=0.03)
    assert result.keep_PG.tolist() == [[False, False], [True, True]]
    assert list(result.reasons_P) == ["sigma_bar 0.012 < tau 0.03", ""]
    assert result.metrics["sigma_bar"] == pytest.approx(0.106)
    assert result.metrics["tau"] == 0.03


def test_sigma_bar_is_the_mean_over_the_top_tenth_rounded_up():
    eleven = group(0.3, 0.1, *[0.0] * 9)  # the top 2 of 11
    assert judged(eleven, tau=0.19)[0].keep_PG.all()
    assert not judged(eleven, tau=0.21)[0].keep_PG.any()
    ten = group(0.3, 0.1, *[0.0] * 8)  # the top 1 of 10
    assert judged(ten, tau=0.29)[0].keep_PG.all()
    assert not judged(ten, tau=0.06, top_share=1.0)[0].keep_PG.any()  # all of them: 0.04


def test_a_group_at_tau_is_kept_and_tau_0_keeps_groups_without_any_variance():
    exact = [[0.25, EOS], [0.75, EOS]]  # sigma 0.25 without rounding
    assert judged(exact, tau=0.25, include_eos=False)[0].keep_PG.all()
    assert judged(group(0.0), tau=0)[0].keep_PG.all()
    assert not judged(group(0.0), tau=1e-6)[0].keep_PG.any()


def test_sigma_is_the_one_that_r3_weighs_with():
    outside = [[0.86, EOS], [0.99, EOS]]  # both above the clip band: no signal for R3
    assert not judged(outside, tau=0.01)[0].keep_PG.any()
    assert judged(outside, tau=0.01, sigma_on="raw")[0].keep_PG.all()
    assert judged(outside, tau=0.01, clip_high=0.95)[0].keep_PG.all()
    lively = [group(0.2, 0.05), group(0.01, 0.3)]
    for arguments in ({}, {"sigma_on": "raw"}, {"include_eos": True}, {"clip_low": 0.2, "clip_high": 0.5}):
        got = judged(*lively, tau=0.1, **arguments)[0].metrics["sigma_bar"]
        assert got == pytest.approx(r3(groups_of(2, 2), stats_of(lively), **arguments).metrics["sigma_bar"])


def test_a_reference_without_tokens_is_dropped_and_says_so():
    result, state = judged([[EOS], [EOS]], tau="auto")
    assert not result.keep_PG.any()
    assert "no tokens" in result.reasons_P[0]
    assert state["window"] == []


# ------------------------------------------------------------------------------------------------ tau=auto


def test_auto_keeps_everything_until_the_window_is_full_and_then_drops_the_lowest_share():
    state, settings = FRESH, {"window": 4, "refresh": 100, "reject_percentile": 0.25}
    for step, sigmas in enumerate([(0.0, 0.1), (0.2, 0.3)]):
        result, state = judged(*map(group, sigmas), step=step, state=state, **settings)
        assert result.keep_PG.all()
        assert result.metrics["tau"] == 0.0
    want = float(np.quantile([0.0, 0.1, 0.2, 0.3], 0.25))
    assert state["threshold"] == pytest.approx(want)
    result, state = judged(group(want - 0.01), group(want + 0.01), step=2, state=state, **settings)
    assert result.keep_PG[:, 0].tolist() == [False, True]
    assert result.metrics["tau"] == pytest.approx(want)


def test_auto_sets_its_first_tau_after_refresh_steps_where_the_window_is_not_full_by_then():
    state = FRESH
    for step in range(3):
        result, state = judged(group(0.1), step=step, state=state, refresh=3, reject_percentile=0.5)
        assert result.metrics["tau"] == 0.0
    assert state["threshold"] == pytest.approx(0.1)


def test_auto_takes_tau_anew_every_refresh_steps_from_the_last_window_groups_dropped_ones_included():
    state, taus = FRESH, []
    for step in range(9):
        result, state = judged(
            group(0.3 - 0.03 * step), step=step, state=state, window=2, refresh=3, reject_percentile=0.5
        )
        taus.append(result.metrics["tau"])
        assert len(state["window"]) <= 2
    # full after step 1: the median of 0.30 and 0.27; anew after steps 4 and 7, from two dropped groups each
    assert taus == pytest.approx([0, 0, 0.285, 0.285, 0.285, 0.195, 0.195, 0.195, 0.105])


@given(st.lists(st.floats(0, 0.3), min_size=8, max_size=24), st.floats(0.05, 0.9))
def test_auto_drops_no_more_than_its_share_of_the_groups_that_set_tau(sigmas, share):
    _, state = judged(*map(group, sigmas), window=64, refresh=1, reject_percentile=share)
    result, _ = judged(*map(group, sigmas), step=1, state=state, window=64, refresh=1, reject_percentile=share)
    dropped = int((~result.keep_PG[:, 0]).sum())
    assert dropped <= math.ceil(share * (len(sigmas) - 1))


def test_the_memory_is_json_and_a_resumed_run_goes_on_as_if_never_stopped():
    straight = resumed = FRESH
    for step in range(6):
        groups = [group(0.05 * step), group(0.3 - 0.04 * step)]
        one, straight = judged(*groups, step=step, state=straight, window=4, refresh=2)
        two, resumed = judged(*groups, step=step, state=json.loads(json.dumps(resumed)), window=4, refresh=2)
        assert torch.equal(one.keep_PG, two.keep_PG)
        assert straight == resumed


def test_the_memory_given_is_left_as_it_was():
    state = {"window": [0.1], "threshold": None, "refreshed": None}
    judged(group(0.2), state=state)
    assert state == {"window": [0.1], "threshold": None, "refreshed": None}


# ------------------------------------------------------------------------------------------------ keys


def test_needs():
    assert module.needs(tau=0.1) == {Need(Stat.REFERENCE)}


BAD = [
    ({"tau": 0.6}, r"filtering\.tau=0\.6: must be auto or a number in \[0, 0\.5\]"),
    ({"tau": -0.1}, r"filtering\.tau=-0\.1"),
    ({"tau": float("nan")}, r"filtering\.tau=nan"),
    ({"tau": "automatic"}, r"filtering\.tau=automatic"),
    ({"tau": True}, r"filtering\.tau=True"),
    ({"tau": None}, r"filtering\.tau=None"),
    ({"reject_percentile": 25}, r"filtering\.reject_percentile=25: must be a share above 0 and below 1; 0\.25 drops"),
    ({"reject_percentile": 1}, r"filtering\.reject_percentile=1"),
    ({"reject_percentile": 0}, r"filtering\.reject_percentile=0"),
    ({"window": 0}, r"filtering\.window=0"),
    ({"refresh": 2.5}, r"filtering\.refresh=2\.5"),
    ({"top_share": 0}, r"filtering\.top_share=0: must be a share above 0 and at most 1"),
    ({"clip_low": 0.9}, r"filtering\.clip_low=0\.9 with filtering\.clip_high=0\.85"),
    ({"sigma_on": "both"}, r"filtering\.sigma_on=both"),
    ({"include_eos": 1}, r"filtering\.include_eos=1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        module.check(**arguments)


@pytest.mark.parametrize("tau", [0, 0.5, "auto"])
def test_the_ends_of_taus_range_pass(tau):
    module.check(tau=tau)


def test_the_component_remembers():
    node = OmegaConf.create({"_target_": "dro_lab.filtering.r3_variance.r3_variance", "window": 2})
    part = component("filtering", node, name="r3_variance")
    rollouts = groups_of(2, 2)
    stats = stats_of([group(0.1), group(0.2)])
    _, state = part.remember(rollouts, stats, Rewards(outcome_PG=torch.zeros(2, 2)), state=None)
    assert state["window"] == pytest.approx([0.1, 0.2])
