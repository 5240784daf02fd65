"""Bad input to REPRO's keys: one table, each case a command as a user types it, each refused with one message."""

from pathlib import Path

import pytest

from tests.cli_fixture import assert_refused, run_main, small_run

pytestmark = pytest.mark.usefixtures("own_folder")

REPRO, MIX = "reward=repro", "reward=mix"
R3 = "reward@reward.outcome=r3"
IN_MIX = "+reward@reward.parts.steps.reward=repro"

# name: (overrides, what the message must hold)
CASES: dict[str, tuple[list[str], list[str]]] = {
    "no segments": ([REPRO, "reward.k=0"], ["reward.k=0", "whole number of at least 1", "10 is the default"]),
    "k a share": ([REPRO, "reward.k=0.5"], ["reward.k=0.5", "whole number"]),
    "k a word": ([REPRO, "reward.k=all"], ["reward.k=all", "whole number"]),
    "w above one": ([REPRO, "reward.w=1.5"], ["reward.w=1.5", "[0, 1]", "0.25 is the default"]),
    "w negative": (["reward=repro_stability", "reward.w=-1"], ["reward.w=-1", "[0, 1]"]),
    "alpha negative": ([REPRO, "reward.alpha=-1"], ["reward.alpha=-1", "[0, 10]", "0.1 is the default"]),
    "alpha a percentage": (["reward=repro_magnitude", "reward.alpha=50"], ["reward.alpha=50", "[0, 10]"]),
    "no smoothing as zero": ([REPRO, "reward.ema=0"], ["reward.ema=0", "above 0 and at most 1", "null"]),
    "smoothing above one": ([REPRO, "reward.ema=1.1"], ["reward.ema=1.1", "at most 1"]),
    "segments of words": ([REPRO, "reward.segment_on=word"], ["reward.segment_on=word", "blank_line, line"]),
    "scored in the middle": ([REPRO, "reward.score_at=middle"], ["reward.score_at=middle", "start, end"]),
    "closing a word": ([REPRO, "reward.close_prefix=maybe"], ["reward.close_prefix=maybe", "true or false"]),
    "correction a number": ([REPRO, "reward.count_correction=2"], ["reward.count_correction=2", "true or false"]),
    "centring null": ([REPRO, "reward.center=null"], ["reward.center=None", "true or false"]),
    "no floor": ([REPRO, "reward.baseline_floor=0"], ["reward.baseline_floor=0", "0.1 is the default"]),
    "floor of the wrong sign": ([REPRO, "reward.baseline_floor=-0.1"], ["reward.baseline_floor=-0.1"]),
    "unknown key": ([REPRO, "+reward.weight=1"], ["reward.weight", "unknown key", "outcome, w, alpha, k"]),
    "outcome as a value": ([REPRO, "reward.outcome=r3"], ["reward.outcome=r3", "type reward@reward.outcome=r3"]),
    "outcome null": ([REPRO, "reward.outcome=null"], ["reward.outcome=None", "reward@reward.outcome=verifier"]),
    "no such outcome": ([REPRO, "reward@reward.outcome=r33"], ["r33", "avg_logprob, avg_prob, mix, r3"]),
    "outcome's value": ([REPRO, R3, "reward.outcome.omega=-1"], ["reward.outcome.omega=-1", "at least 0"]),
    "outcome's clips crossed": ([REPRO, R3, "reward.outcome.clip_low=0.9"], ["reward.outcome.clip_low=0.9", "below"]),
    "outcome's unknown key": ([REPRO, R3, "+reward.outcome.omga=1"], ["reward.outcome.omga", "unknown key", "omega"]),
    "outcome's part": (
        [REPRO, "reward@reward.outcome=mix", "reward.outcome.parts.r3.reward.omega=-1"],
        ["reward.outcome.parts.r3.reward.omega=-1", "at least 0"],
    ),
    "outcome not importable": (
        [REPRO, "reward.outcome._target_=no.such.reward"],
        ["reward.outcome._target_=no.such.reward", "PYTHONPATH"],
    ),
    "repro in repro": (
        [REPRO, "reward@reward.outcome=repro"],
        ["reward.outcome", "repro gives process rewards", "reward@reward.outcome=verifier"],
    ),
    "repro in a mix": (
        [MIX, IN_MIX, "+reward.parts.steps.weight=0.5"],
        ["reward.parts.steps", "gives process rewards", "reward=repro reward@reward.outcome=mix"],
    ),
    "a key of repro in a mix": (
        [MIX, IN_MIX, "+reward.parts.steps.weight=0.5", "reward.parts.steps.reward.k=0"],
        ["reward.parts.steps.reward.k=0", "at least 1"],
    ),
    "repro in a mix in repro": (
        [
            REPRO,
            "reward@reward.outcome=mix",
            "+reward@reward.outcome.parts.s.reward=repro",
            "+reward.outcome.parts.s.weight=1",
        ],
        ["reward.outcome.parts.s", "gives process rewards"],
    ),
    "nobody judges the outcome": ([REPRO, "judge=none"], ["judge=none", "needs verdicts", "judge=exact"]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.tried("bad inputs")
def test_bad_input_to_repro_is_refused(name: str, policy: Path, tmp_path: Path) -> None:
    overrides, expected = CASES[name]
    ended = run_main(small_run(policy, overrides))
    assert ended.code == 2
    assert_refused(ended, tmp_path, expected)
