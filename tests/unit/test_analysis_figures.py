"""Training curves, reflective tokens and heat maps on records with planted numbers, and what all figures share."""

from __future__ import annotations

import itertools
import re
import sqlite3
from contextlib import closing

import matplotlib
import numpy as np
import optuna
import pandas as pd
import pytest

from analysis import curves, heatmaps, reflective
from analysis.figures import STYLE, looks, over_seeds
from dro_lab.errors import UserError
from tests.analysis_fixture import write_run
from tests.record_fixture import write_record

CURVE = [(0, 0.2), (4, 0.5)]


def test_bands_over_seeds_are_students_t():
    values = np.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]])
    mean, low, high = over_seeds(values, confidence=0.9)
    # t(0.95, 2) = 2.919986, standard error 1 / sqrt(3)
    assert mean.tolist() == [2.0, 2.0]
    assert high[0] - 2.0 == pytest.approx(2.919986 / np.sqrt(3), abs=1e-6)
    assert 2.0 - low[0] == pytest.approx(2.919986 / np.sqrt(3), abs=1e-6)
    assert (low[1], high[1]) == (2.0, 2.0)
    assert np.isnan(over_seeds(values[:1], confidence=0.9)[1]).all()


def test_twelve_labels_look_different_in_the_palette_of_the_style_file():
    found = looks([f"r{i}" for i in range(12)])
    assert len({(style["color"], str(style["linestyle"])) for style in found.values()}) == 12
    okabe_ito = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}
    assert {style["color"] for style in found.values()} == okabe_ito
    assert {
        f"#{c.lstrip('#')}" for c in matplotlib.rc_params_from_file(STYLE)["axes.prop_cycle"].by_key()["color"]
    } == (okabe_ito)


@pytest.mark.parametrize("name", ["steps_to_target", "win_rate", "curves", "heatmaps", "reflective", "coverage"])
def test_every_figure_is_a_documented_command(name, capsys):
    module = __import__(f"analysis.{name}", fromlist=["main"])
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert f"python -m analysis.{name}" in capsys.readouterr().out


def test_an_empty_outputs_folder_is_one_message(tmp_path, capsys):
    for module in (curves, heatmaps, reflective):
        assert module.main([str(tmp_path), "-o", str(tmp_path / "fig.png")]) == 2
        captured = capsys.readouterr()
        assert re.fullmatch(r"error: .*no run below it.*\n", captured.err)
        assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- curves


def test_training_curves_are_means_over_seeds_and_say_what_nobody_logged(tmp_path):
    for seed in (0, 2):
        write_run(
            tmp_path / f"r3_{seed}", CURVE, seed=seed,
            metrics=lambda step, seed=seed: {"entropy": 1.0 + seed - 0.1 * step, "gate/rejected_share": 0.0},
            evals={"reflective_share": [(0, 0.2), (4, 0.1 + 0.1 * seed)]},
        )  # fmt: skip
    write_run(tmp_path / "rouge_0", CURVE, reward="rouge", metrics=lambda step: {"entropy": 0.5})
    found = curves.draw(tmp_path, smooth=1, x="rollouts")
    r3 = found.frame[found.frame["label"] == "r3"]
    entropy = r3[r3["panel"] == "entropy"]
    assert entropy["value"].tolist() == pytest.approx([1.9, 1.8, 1.7, 1.6])  # the mean of 1 and 3, less 0.1 a step
    assert entropy["x"].tolist() == [64, 128, 192, 256]
    assert r3.loc[r3["panel"] == "reflective_share", "value"].tolist() == pytest.approx([0.2, 0.2])
    assert "| KL to the policy before training | not logged | not logged |" in found.page
    assert "| Reflective tokens, held-out share | 0.2, 0.2 [-0.431, 0.831] | not logged |" in found.page
    said = [text.get_text() for axis in found.figure.axes for text in axis.texts]
    assert said == ["nobody logged reward/sampled", "nobody logged filter/dropped_share",
                    "nobody logged rollouts/reasoning_tokens",
                    "nobody logged kl\nevaluation.kl=true measures it"]  # fmt: skip


def test_smoothing_is_a_centred_mean(tmp_path):
    write_run(tmp_path / "a", CURVE, metrics=lambda step: {"entropy": float(step**2)})
    frame = curves.draw(tmp_path, smooth=3).frame
    assert frame.loc[frame["panel"] == "entropy", "value"].tolist() == pytest.approx([2.5, 14 / 3, 29 / 3, 12.5])
    with pytest.raises(UserError, match="--smooth 0"):
        curves.draw(tmp_path, smooth=0)


# ------------------------------------------------------------------------------------------------- reflective tokens


def test_reflective_tokens_are_told_from_the_others(tmp_path):
    write_record(tmp_path / "r3", steps=6, prompts=1, group=2)
    part = tmp_path / "r3" / "tokens.parquet"
    tokens = pd.read_parquet(part)
    tokens["split"] = "test"  # the record has tokens of training rows alone
    tokens.to_parquet(part)
    found = reflective.draw(tmp_path)
    # in this record every token that depends on the reasoning has a sigma of 0.25 or more, the others below 0.06
    assert re.search(r"\| r3 \| 0 \| \d+% \| 100% \| 100% \| 9\d% \|", found.page)
    weight = found.frame[found.frame["shows"] == "weight"]
    first = tokens[tokens["step"] == 0]
    assert weight["value"].iloc[0] == pytest.approx(first.loc[first["truth"], "weight"].sum())
    sigma = found.frame[(found.frame["shows"] == "sigma") & (found.frame["label"] == "depends on the reasoning")]
    assert sigma.loc[sigma["x"] < 0.25 - 1e-9, "value"].sum() == 0
    assert sigma["value"].sum() == pytest.approx(1)


def test_runs_without_reference_tokens_are_refused(tmp_path):
    write_run(tmp_path / "rouge", CURVE, reward="rouge")
    with pytest.raises(UserError, match=r"rouge and the other runs recorded no held-out reference tokens"):
        reflective.draw(tmp_path)


# ------------------------------------------------------------------------------------------------- heat maps


def test_outcomes_by_one_key_are_means_over_seeds(tmp_path):
    for number, (omega, seed) in enumerate(itertools.product((0.0, 2.0, 8.0), (0, 1))):
        quality = {0.0: 0.4, 2.0: 0.8, 8.0: 0.5}[omega] + 0.1 * seed
        write_run(
            tmp_path / str(number), [(0, 0.2), (4, quality)], seed=seed, keys={"reward.omega": omega},
            evals={"reasoning_tokens": [(0, 30.0), (4, 30.0 - omega)]},
        )  # fmt: skip
    write_run(tmp_path / "cut", [(0, 0.2)], status="failed", error="out of memory", keys={"reward.omega": 4.0})
    write_run(tmp_path / "pruned", [(0, 0.2), (4, 0.1)], status="stopped", stopped="pruned: behind the median")
    write_run(tmp_path / "final", [(0, 0.2), (4, 0.9)], split="test", seed=7)
    found = heatmaps.draw(tmp_path)
    values = found.frame.pivot(index="outcome", columns="reward.omega", values="value")
    assert values.loc["quality"].to_dict() == pytest.approx({"0": 0.45, "2": 0.85, "8": 0.55})
    assert values.loc["reasoning_tokens"].to_dict() == pytest.approx({"0": 30, "2": 28, "8": 22})
    assert set(found.frame["runs"]) == {2}
    assert "3 runs that were pruned, did not finish or were evaluated on another split are left out" in found.page


def test_two_keys_make_a_map_and_many_values_are_gathered(tmp_path):
    for number, (low, high) in enumerate(itertools.product((0.0, 0.1), (0.8, 0.9))):
        keys = {"reward.clip_low": low, "reward.clip_high": high}
        write_run(tmp_path / "grid" / str(number), [(0, 0.2), (4, low + high)], keys=keys)
    found = heatmaps.draw(tmp_path / "grid")
    cells = {(row["reward.clip_low"], row["reward.clip_high"]): row["value"] for row in found.frame.to_dict("records")}
    assert cells == pytest.approx({("0", "0.8"): 0.8, ("0", "0.9"): 0.9, ("0.1", "0.8"): 0.9, ("0.1", "0.9"): 1.0})
    single = heatmaps.draw(tmp_path / "grid", keys=["reward.clip_low"])
    assert "Averaged over reward.clip_high as well" in single.page
    assert single.frame.loc[single.frame["outcome"] == "quality", "value"].tolist() == pytest.approx([0.85, 0.95])

    for number, omega in enumerate(np.linspace(0, 5, 21)):
        write_run(tmp_path / "many" / str(number), [(0, 0.2), (4, 0.5)], keys={"reward.omega": float(omega)})
    many = heatmaps.draw(tmp_path / "many").frame
    assert [str(name) for name in many["reward.omega"].unique()] == ["0–1", "1–2", "2–3", "3–4", "4–5"]
    assert many.loc[many["outcome"] == "quality", "runs"].sum() == 21


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"3 keys vary \(steps, reward.omega, algorithm.beta\); choose one or two"),
        ({"keys": ["reward.w"]}, "--keys reward.w: does not vary between these runs; what does: steps, reward.omega"),
        (
            {"keys": ["reward.omega"], "metric": "speed"},
            "--metric speed: not among the outcomes here, which are quality",
        ),
        ({"keys": ["steps", "reward.omega", "algorithm.beta"]}, "give one or two, got 3"),
    ],
)
def test_a_map_of_what_does_not_vary_is_refused(tmp_path, options, said):
    write_run(tmp_path / "a", CURVE)
    write_run(tmp_path / "b", CURVE, keys={"reward.omega": 4.0, "steps": 41, "algorithm.beta": 0.1})
    with pytest.raises(UserError, match=said):
        heatmaps.draw(tmp_path, **options)
    with pytest.raises(UserError, match="nothing but the seed varies"):
        heatmaps.draw(tmp_path / "a")


def test_a_sweeps_storage_is_read(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=storage, study_name="r3_omega", direction="maximize")
    for omega in (1.0, 1.0, 3.0):
        study.enqueue_trial({"reward.omega": omega})
    study.optimize(lambda trial: trial.suggest_float("reward.omega", 0, 8) * (2 - trial.number), n_trials=3)
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    found = heatmaps.draw(storage)
    assert found.frame["value"].tolist() == pytest.approx([1.5, 0.0])  # trials 0 and 1 had 2 and 1
    assert found.frame["runs"].tolist() == [2, 1]
    assert "3 finished trials, 1 others" in found.page
    with pytest.raises(UserError, match=r"--study dro: .* holds r3_omega"):
        heatmaps.draw(storage, study="dro")
    with pytest.raises(UserError, match="there is no file"):
        heatmaps.draw(f"sqlite:///{tmp_path / 'none.db'}")


def test_a_database_that_is_no_sweeps_storage_is_refused_and_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("dro_lab.sweep.storage.FIRST_WAIT", 0.1)
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE runs (id INTEGER)")
        before = file.read_bytes()
        with pytest.raises(UserError, match=r"mlflow.db is no Optuna storage"):
            heatmaps.draw(f"sqlite:///{file}")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"mlflow.db cannot be read: database is locked. Wait for the process"):
            heatmaps.draw(f"sqlite:///{file}")
        other.execute("ROLLBACK")
    assert file.read_bytes() == before
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(UserError, match=r"text.db cannot be read: file is not a database. Give a sweep's storage"):
        heatmaps.draw(f"sqlite:///{tmp_path / 'text.db'}")


def test_what_is_left_out_of_a_map_is_said_where_nothing_else_varies(tmp_path):
    write_run(tmp_path / "a", CURVE)
    write_run(tmp_path / "b", CURVE, keys={"reward.omega": 4.0}, status="running")
    with pytest.raises(UserError, match=r"nothing but the seed varies .* 1 runs that were pruned, did not finish"):
        heatmaps.draw(tmp_path)
