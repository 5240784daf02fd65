"""Finding, checking and naming the runs of a comparison."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.curves import main as curves_main
from analysis.load import (
    by_label,
    check_comparable,
    curves,
    find_runs,
    finished_runs,
    label_of,
    load_runs,
    metrics_of,
)
from dro_lab.errors import UserError
from dro_lab.report.__main__ import main as report_main
from dro_lab.types import Provenance
from tests.analysis_fixture import TWIN, learning_curve, write_run

SUFFIX = {curves_main: ".png", report_main: ".html"}
CURVE = [(0, 0.2), (4, 0.5), (8, 0.7)]


def test_runs_are_found_at_and_below_a_place_once_and_sorted(tmp_path):
    for name in ("day/b", "day/a", "sweep/deep/c"):
        write_run(tmp_path / name, CURVE)
    (tmp_path / "day/a/policy").mkdir()
    (tmp_path / ".trash").mkdir()
    write_run(tmp_path / ".trash/d", CURVE)
    write_run(tmp_path / "day/mlflow-artifacts/e", CURVE)
    places = [tmp_path / "sweep", tmp_path / "day", tmp_path / "day/b"]
    assert [folder.name for folder in find_runs(places)] == ["a", "b", "c"]


def test_no_run_no_folder_and_unfinished_runs_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no run below it"):
        load_runs([tmp_path])
    with pytest.raises(UserError, match="missing is not a folder"):
        load_runs([tmp_path / "missing"])
    write_run(tmp_path / "whole", CURVE)
    write_run(tmp_path / "cut", CURVE, status="interrupted", planned_steps=40)
    write_run(tmp_path / "watched", CURVE, status="stopped", stopped="reasoning collapsed")
    with pytest.raises(
        UserError, match=r"cut is 'interrupted' at step 8 of 40: .*python -m dro_lab.run seed=0"
    ) as said:
        load_runs([tmp_path])
    assert "whole" not in str(said.value)
    assert "watched" not in str(said.value)
    assert "--skip-unfinished" in str(said.value)
    assert len(load_runs([tmp_path], finished=False)) == 3


def test_unfinished_runs_are_left_out_by_name_where_that_is_asked_for(tmp_path, capsys):
    write_run(tmp_path / "whole", CURVE)
    write_run(tmp_path / "cut", CURVE, status="interrupted", planned_steps=40)
    write_run(tmp_path / "watched", CURVE, status="stopped", stopped="reasoning collapsed")
    assert [folder.name for folder in finished_runs([tmp_path])] == ["watched", "whole"]
    assert capsys.readouterr().err.strip() == f"left out, unfinished: {tmp_path / 'cut'} (interrupted)"
    with pytest.raises(UserError, match=r"none of 1 runs is finished \(.*cut \(interrupted\)\)"):
        finished_runs([tmp_path / "cut"])
    (tmp_path / "empty").mkdir()
    assert finished_runs([tmp_path / "empty"]) == [tmp_path / "empty"], "which is refused as it is without"


def test_the_commands_leave_unfinished_runs_out(tmp_path, capsys):
    write_run(tmp_path / "a", CURVE)
    write_run(tmp_path / "b", CURVE, keys={"seed": 1}, seed=1)
    write_run(tmp_path / "cut", CURVE, status="interrupted", planned_steps=40)
    for command in (curves_main, report_main):
        assert command([str(tmp_path)]) == 2
        assert "--skip-unfinished" in capsys.readouterr().err
        assert command([str(tmp_path), "--skip-unfinished", "-o", str(tmp_path / ("x" + SUFFIX[command]))]) == 0
        assert "left out, unfinished" in capsys.readouterr().err


def test_a_label_says_the_least_that_tells_settings_apart(tmp_path):
    settings = {
        "a": ("r3", {}),
        "b": ("r3", {"reward.omega": 4.0, "reward.clip_low": 0.1}),
        "c": ("avg_prob", {}),
    }
    for name, (reward, keys) in settings.items():
        for seed in (0, 1):
            write_run(tmp_path / f"{name}{seed}", CURVE, reward=reward, keys=keys, seed=seed)
    runs = load_runs([tmp_path])

    def labels(*names: str) -> list[str]:
        chosen = [run for run in runs if run.folder.name in names]
        return [label_of(chosen)[run.folder] for run in chosen]

    assert labels("a0", "a1") == ["r3", "r3"]
    assert labels("a0", "c1") == ["r3", "avg_prob"]
    assert labels("a0", "a1", "b0", "c0") == [
        "r3 omega=2 clip_low=0.05",
        "r3 omega=2 clip_low=0.05",
        "r3 omega=4 clip_low=0.1",
        "avg_prob",
    ]


def test_a_group_and_a_repeated_key_are_named_once(tmp_path):
    plain = write_run(tmp_path / "a", CURVE)
    gated = write_run(tmp_path / "b", CURVE, keys={"names.gating": "rubric", "gating.tau": 0.5})
    longer = write_run(tmp_path / "c", CURVE, keys={"steps": 60, "algorithm.max_steps": 60})
    labels = label_of(load_runs([tmp_path]))
    assert labels == {
        plain: "r3 gating=none steps=40",
        gated: "r3 gating=rubric steps=40",
        longer: "r3 gating=none steps=60",
    }


def test_keys_that_change_together_are_both_named(tmp_path):
    """What made the difference cannot be told, so a label must not say that it was one of them."""
    gated = {"names.gating": "rubric", "gating.tau": 0.5, "steps": 60, "algorithm.max_steps": 60}
    plain = write_run(tmp_path / "a", CURVE)
    longer = write_run(tmp_path / "b", CURVE, keys=gated)
    rival = write_run(tmp_path / "c", CURVE, reward="avg_prob", keys={"steps": 60, "algorithm.max_steps": 60})
    assert label_of(load_runs([plain, longer])) == {
        plain: "r3 gating=none steps=40",
        longer: "r3 gating=rubric steps=60",
    }
    assert label_of(load_runs([plain, rival])) == {plain: "r3 steps=40", rival: "avg_prob steps=60"}
    warm = {"reward.omega": 1.0, "rollout.temperature": 1.0}
    cold = {"reward.omega": 0.5, "rollout.temperature": 0.5}
    one, other = (write_run(tmp_path / name, CURVE, keys=keys) for name, keys in (("d", warm), ("e", cold)))
    assert label_of(load_runs([one, other])) == {one: "r3 omega=1 temperature=1", other: "r3 omega=0.5 temperature=0.5"}


def test_another_data_sets_own_sizes_are_not_part_of_a_label(tmp_path):
    sizes = {"names.dataset": "finqa", "rollout.max_completion_length": 96, "algorithm.max_completion_length": 96}
    one, other = write_run(tmp_path / "a", CURVE), write_run(tmp_path / "b", CURVE, keys=sizes)
    assert label_of(load_runs([one, other])) == {one: "r3 dataset=pararev", other: "r3 dataset=finqa"}


def test_two_runs_of_one_seed_are_not_two_samples(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_run(tmp_path / name, CURVE, seed=seed)
    assert list(by_label(load_runs([tmp_path]))["r3"]) == [0, 1]
    write_run(tmp_path / "c", CURVE, seed=1)
    with pytest.raises(UserError, match=r"b and .*c are both r3 with seed 1"):
        by_label(load_runs([tmp_path]))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"metric": "accuracy"}, "metric is required facts in the first and accuracy in the second"),
        (
            {"provenance": Provenance(dataset="pararev", kind="file", location="rows.jsonl", sha256="ab12")},
            "sha256 ab12",
        ),
        ({"provenance": replace(TWIN, revision="generator 2")}, "generator 1, .* generator 2"),
        ({"split": "test"}, "evaluation split is validation .* test"),
        ({"rows": 64}, "number of held-out rows is 32 .* 64"),
        ({"samples": 8}, "sampled answers a row is 4 .* 8"),
        ({"confidence": 0.95}, "interval level is 0.9 .* 0.95"),
        ({"curve": [(0, 0.2), (2, 0.3), (8, 0.7)]}, "list of evaluation steps is 0, 4, 8 .* 0, 2, 8"),
        ({"answers": [{"prompt": "How few?"}]}, "held-out rows is 1 .* fingerprint"),
    ],
)
def test_runs_whose_numbers_mean_something_else_are_refused(tmp_path, other, said):
    write_run(tmp_path / "a", CURVE, answers=[{}])
    write_run(tmp_path / "b", CURVE, seed=1)
    check_comparable(load_runs([tmp_path]))
    write_run(tmp_path / "c", **({"curve": CURVE, "answers": [{}]} | other))
    with pytest.raises(UserError, match=rf"a and .*c cannot be compared: .*{said}"):
        check_comparable(load_runs([tmp_path]))


def test_a_stopped_run_may_end_early_and_another_may_not(tmp_path):
    write_run(tmp_path / "a", learning_curve(half=8, last=12))
    write_run(tmp_path / "b", [(0, 0.2), (4, 0.1), (7, 0.0)], status="stopped", stopped="collapse")
    check_comparable(load_runs([tmp_path]))
    write_run(tmp_path / "c", [(0, 0.2), (4, 0.1)])
    with pytest.raises(UserError, match="evaluation steps"):
        check_comparable(load_runs([tmp_path]))


def test_curves_are_tidy_on_every_axis(tmp_path):
    write_run(tmp_path / "a", CURVE, tokens_a_step=100)
    write_run(tmp_path / "b", CURVE, reward="avg_prob", seed=3, tokens_a_step=50)
    runs = load_runs([tmp_path])
    frame = curves(runs)
    assert list(frame.columns) == ["run", "label", "seed", "step", "x", "value", "low", "high"]
    assert frame[["label", "seed", "step", "x", "value"]].to_numpy().tolist()[3:] == [
        ["avg_prob", 3, 0, 0.0, 0.2],
        ["avg_prob", 3, 4, 4.0, 0.5],
        ["avg_prob", 3, 8, 8.0, 0.7],
    ]
    assert curves(runs, x="tokens")["x"].tolist() == [0, 400, 800, 0, 200, 400]
    assert curves(runs, x="rollouts")["x"].tolist() == [0, 256, 512] * 2
    assert curves(runs, x="seconds")["x"].tolist() == [0, 6, 12] * 2


def test_an_unknown_metric_or_axis_and_an_old_record_are_refused(tmp_path):
    write_run(tmp_path / "a", CURVE, cost=False)
    runs = load_runs([tmp_path])
    assert len(curves(runs)) == 3
    with pytest.raises(UserError, match=r"metric=speed: .*it has quality"):
        curves(runs, "speed")
    with pytest.raises(UserError, match="none for greedy answers on split validation"):
        curves(runs, decoding="greedy")
    with pytest.raises(UserError, match="x=hours: not an axis; choose among steps, rollouts, tokens, seconds"):
        curves(runs, x="hours")
    with pytest.raises(UserError, match="did not log cost/tokens"):
        curves(runs, x="tokens")


def test_training_metrics_are_tidy_and_absent_where_nobody_logged_them(tmp_path):
    write_run(tmp_path / "a", CURVE, metrics=lambda step: {"entropy": 1.0 / step})
    write_run(tmp_path / "b", CURVE, reward="avg_prob")
    runs = load_runs([tmp_path])
    frame = metrics_of(runs, "entropy", x="rollouts")
    assert frame["label"].unique().tolist() == ["r3"]
    assert frame[["step", "x", "value"]].to_numpy().tolist()[:2] == [[1, 64, 1.0], [2, 128, 0.5]]
    assert metrics_of(runs, "kl").empty
