"""The studies that are grids: jobs that compose, what a level cost, pages of what is there, and the quick set."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.bootstrap import CENSORED, Ratio
from analysis.crossings import Arm, Verdict
from dro_lab.config import check
from dro_lab.data.__main__ import compose
from dro_lab.data.twins.knobs import preset
from dro_lab.data.twins.load import make_rows
from dro_lab.data.twins.protocol import twin
from dro_lab.models import shipped_policy
from dro_lab.policy.guards import limits_of
from experiments import all as whole_set
from experiments import grid, short_policies
from experiments.archive import comparable
from experiments.filtering import study as filtering
from experiments.gating import study as gating
from experiments.grid import Grid, Place
from experiments.omega import step0
from experiments.omega import study as omega
from experiments.steps_to_target import study as claim
from experiments.summaries import by_load

LAMBDA = importlib.import_module("experiments.lambda_.study")
STUDIES: dict[str, Grid] = {"steps_to_target": claim.STUDY, "omega": omega.STUDY, "lambda_": LAMBDA.STUDY}


def place_of(study: Grid, folder: Path, *, quick: bool = False) -> Place:
    return Place(
        runs=folder / "runs",
        policies=Path("outputs/short_policies"),
        page=folder / "page",
        settings=study.quick if quick else study.settings,
        quick=quick,
    )


def entry(curve: Mapping[int, float], *, tokens: int = 1000, seconds: float = 1.0) -> dict[str, Any]:
    """A run as the archive keeps it: held-out quality by step, and what a step costs."""
    steps = range(1, max(curve) + 1)
    return {
        "overrides": [],
        "commit": "0" * 40,
        "seconds": 60.0,
        "metric": "facts_right",
        "alarms": [],
        "evals": [[step, "validation", "sampled", "quality", value] for step, value in curve.items()],
        "metrics": {
            "cost/rollouts": [32.0 * step for step in steps],
            "cost/tokens": [float(tokens * step) for step in steps],
            "cost/seconds": [seconds * step for step in steps],
        },
    }


def archive(study: grid.Grid, place: Place, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Archive planted runs under the overrides that the study's jobs have."""
    place.page.mkdir(parents=True, exist_ok=True)
    every = grid.jobs(study, place, range(5))
    overrides = {place.archive.name(job.folder): comparable(job.overrides) for job in every}
    lines = [
        json.dumps({"run": name, **found, "overrides": overrides.get(name, [])}) + "\n"
        for name, found in entries.items()
    ]
    (place.page / "runs.jsonl").write_text("".join(lines))


def rising(at: int) -> dict[int, float]:
    """Quality of .3 that is .9 from step ``at`` on, on the grid of four: means of three meet .9 at ``at + 4``."""
    return {step: 0.9 if step >= at else 0.3 for step in range(0, 61, 4)}


# ------------------------------------------------------------------------------------------------ jobs


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_of_every_setting_composes_into_a_run_of_the_studys_size(name, tmp_path):
    study = STUDIES[name]
    jobs = grid.jobs(study, place_of(study, tmp_path), study.seeds)
    assert len({job.folder for job in jobs}) == len(jobs)
    assert len({tuple(job.overrides) for job in jobs}) == len(jobs)
    distinct = {job.folder.name: job for job in jobs if job.folder.name.endswith("_s0")}  # an arm once, ...
    distinct |= {job.folder.parent.name: job for job in jobs}  # ... and a setting once
    for job in distinct.values():
        cfg = compose(job.overrides)
        check(cfg)
        assert (cfg.steps, cfg.threads, cfg.credit, cfg.report) == (60, 1, "causal", False)
        assert (cfg.algorithm.num_generations, cfg.algorithm.per_device_train_batch_size) == (16, 32)
        assert (cfg.evaluation.every, cfg.evaluation.prompts, cfg.evaluation.samples) == (4, 32, 4)
        assert cfg.tracking._target_.endswith("NoTracker")


def test_the_grids_are_those_that_their_pages_speak_of(tmp_path):
    """Five rewards on ParaRev and three on four others with 5 seeds; 5 omegas on 3 settings and 9 bands with 3."""
    counted = {name: len(grid.jobs(study, place_of(study, tmp_path), study.seeds)) for name, study in STUDIES.items()}
    assert counted == {"steps_to_target": 5 * (5 + 4 * 3), "omega": 3 * 3 * 5, "lambda_": 3 * 9}
    bands = {tuple(overrides) for overrides in LAMBDA.ARMS.values()}
    assert len(bands) == 9
    assert ("reward.clip_low=0.05", "reward.clip_high=0.85") in bands
    assert omega.ARMS["omega 8"] == ["reward.omega=8"]


def test_an_interrupted_study_has_whole_seeds(tmp_path):
    jobs = grid.jobs(claim.STUDY, place_of(claim.STUDY, tmp_path), [0, 1])
    first = [job.folder.relative_to(tmp_path / "runs").as_posix() for job in jobs[:6]]
    arms = ("r3", "avg_prob", "avg_logprob", "rouge", "verifier")
    assert first == [*(f"pararev/{arm}_s0" for arm in arms), "pararev/r3_s1"]


@pytest.mark.parametrize(
    "bed", [*short_policies.BUILT, claim.SETTINGS[2].bed, claim.SETTINGS[3].bed], ids=lambda bed: bed.name
)
def test_no_answer_is_longer_than_48_tokens(bed):
    """The answer: the space before it, the reference's tokens (the policy answers in its layout), end of sequence."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shipped_policy(bed.twin))
    rows = make_rows(twin(bed.twin), preset(twin(bed.twin), "default", **bed.knobs), "validation", 48, seed=0)
    longest = max(len(tokenizer.encode(row.reference, add_special_tokens=False)) for row in rows)
    assert longest + 2 <= 48


# ------------------------------------------------------------------------------------------------ --quick


def test_quick_is_one_twin_two_seeds_and_a_dozen_short_runs(tmp_path):
    jobs = []
    for study in STUDIES.values():
        found = grid.jobs(study, place_of(study, tmp_path, quick=True), [0, 1])
        assert {job.overrides[1] for job in found} == {"dataset=pararev"}
        assert {compose(job.overrides).steps for job in found[:1]} == {grid.QUICK_STEPS}
        by_name = {setting.name: setting.arms for setting in study.settings}
        assert all(short.arms.items() <= by_name[short.name].items() for short in study.quick)
        jobs += found
    assert len(jobs) == 12
    root = tmp_path / "quick"
    short = filtering.jobs(root, [0, 1])
    assert [job.folder.name for job in short] == ["off_s0", "dynamic_s0", "off_s1", "dynamic_s1"]
    assert compose(short[1].overrides).steps == filtering.QUICK_STEPS
    gates = gating.jobs(root, [0, 1], [gating.Setting(share=0.2, bonus=0.4)])
    assert [job.folder.name for job in gates] == [
        f"avg_prob_{gate}_s{seed}" for seed in (0, 1) for gate in ("no_gate", "flooring")
    ]
    assert {compose(job.overrides).gating._target_.rpartition(".")[2] for job in gates[:2]} == {"none", "rubric"}


def test_quick_leaves_the_published_archives_alone(tmp_path):
    quick, whole = tmp_path / "quick", tmp_path / "outputs"
    for study in (filtering, gating):
        assert study.archive_of(quick).file == quick / "runs.jsonl"
        assert study.archive_of(whole).file == study.HERE / "runs.jsonl"


def test_the_whole_set_is_one_command_a_study_and_goes_on_when_one_fails(monkeypatch, capsys):
    started = []

    class Ended:
        def __init__(self, command):
            started.append(command)
            self.returncode = 1 if "experiments.omega.study" in command else 0

    monkeypatch.setattr(whole_set.subprocess, "run", Ended)
    assert whole_set.main(["--quick", "--seeds=0,1", "--workers=1", "--outputs=there"]) == 1
    assert [command[2] for command in started] == [f"experiments.{name}.study" for name in whole_set.STUDIES]
    for command, name in zip(started, whole_set.STUDIES, strict=True):
        assert importlib.util.find_spec(command[2])
        assert command[3:] == ["--workers=1", f"--outputs=there/{name}", "--seeds=0,1", "--quick"]
    assert "failed: omega" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ what a level cost


def arm(place: Place, **runs: dict[str, Any]) -> Arm:
    """The arm of these archived runs, their seeds counted from 0."""
    archive(claim.STUDY, place, {f"pararev/{name}": found for name, found in runs.items()})
    folders = [place.runs / "pararev" / name for name in runs]
    return grid.arm_of("r3", {seed: place.archive.load(folder) for seed, folder in enumerate(folders)})


def test_a_level_costs_what_was_spent_when_the_smoothed_curve_met_it(tmp_path):
    """Quality .3 up to step 16 and .9 from 20 on: means of three are .3 at 12, .5 at 16, .7 at 20 and .9 at 24."""
    found = arm(place_of(claim.STUDY, tmp_path), a=entry(rising(20), tokens=700, seconds=1.5))
    assert grid.reached(found, grid.number(0.7), "steps").tolist() == pytest.approx([20.0])
    assert grid.reached(found, grid.number(0.6), "steps").tolist() == pytest.approx([18.0])
    assert grid.reached(found, grid.number(0.6), "rollouts").tolist() == pytest.approx([18 * 32])
    assert grid.reached(found, grid.number(0.6), "tokens").tolist() == pytest.approx([18 * 700])
    assert grid.reached(found, grid.number(0.6), "seconds").tolist() == pytest.approx([27.0])
    assert grid.reached(found, grid.number(0.95), "tokens").tolist() == [CENSORED]
    assert found.final_S.tolist() == pytest.approx([0.9])


def test_an_arm_without_a_recorded_cost_has_no_such_axis(tmp_path):
    bare = entry(rising(20))
    del bare["metrics"]["cost/tokens"]
    assert set(arm(place_of(claim.STUDY, tmp_path), a=bare).x_SE) == {"steps", "rollouts", "seconds"}


def test_medians_count_a_run_that_never_arrives_as_later_than_all_others():
    assert grid.middle(np.array([10.0, CENSORED, 20.0])) == 20.0
    assert grid.middle(np.array([10.0, CENSORED])) == CENSORED
    assert (grid.show_cost(CENSORED), grid.show_cost(12_345.6, unit=1000.0)) == ("-", "12")


def ratio(value: float, low: float, high: float, *, least: float = math.nan) -> Verdict:
    """A verdict with these numbers; what is beyond the runs is at least ``least``."""
    at_least = [least if found == CENSORED else found for found in (value, low, high)]
    return Verdict(
        slow="avg_prob",
        fast="r3",
        axis="steps",
        ratio=Ratio(value=value, low=low, high=high),
        at_least=Ratio(value=at_least[0], low=at_least[1], high=at_least[2]),
        seeds=(5, 5),
    )


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (ratio(2.0, 1.5, 3.0), "2.00 [1.50, 3.00]"),
        (ratio(CENSORED, 2.0, CENSORED, least=2.5), "> 2.50 [2.00, open]"),
        (ratio(CENSORED, CENSORED, CENSORED, least=2.5), "> 2.50 [> 2.50, open]"),
        (ratio(0.0, 0.0, 1.0), "never [never, 1.00]"),
        (ratio(math.nan, math.nan, math.nan), "-"),
    ],
)
def test_a_ratio_says_who_never_got_there(found, shown):
    assert grid.show_ratio(found) == shown


@pytest.mark.parametrize(
    ("steps", "tokens", "said"),
    [
        (ratio(2.5, 2.1, 3.0), ratio(2.5, 1.9, 3.0), "yes (steps), yes, but the interval reaches below 2 (tokens)"),
        (ratio(1.5, 1.1, 1.9), ratio(1.5, 1.1, 2.2), "no (steps), no, but the interval reaches 2 (tokens)"),
        (
            ratio(CENSORED, CENSORED, CENSORED, least=2.5),
            ratio(CENSORED, CENSORED, CENSORED, least=1.5),
            "yes (steps), no, but the interval reaches 2 (tokens)",
        ),
        (ratio(0.0, 0.0, 1.0), ratio(math.nan, 0.0, CENSORED), "no (steps), nobody gets there (tokens)"),
    ],
)
def test_the_verdict_names_two_axes_and_how_sure_it_is(steps, tokens, said):
    """A ratio beyond the runs is held to its lower bound alone."""
    assert claim.verdict_of({"steps": steps, "tokens": tokens}, valid=True) == said
    assert claim.verdict_of({"steps": steps}, valid=False) == "no target: avg_prob gains less than 0.1"


# ------------------------------------------------------------------------------------------------ pages


def test_the_page_of_the_claim_has_the_planted_ratios_and_names_what_is_missing(tmp_path):
    place = place_of(claim.STUDY, tmp_path)
    runs = {f"pararev/avg_prob_s{seed}": entry(rising(36)) for seed in (0, 1)}
    runs |= {f"pararev/r3_s{seed}": entry(rising(16), tokens=2000, seconds=4.0) for seed in (0, 1)}
    runs |= {f"finqa/avg_prob_s{seed}": entry(dict.fromkeys(range(0, 61, 4), 0.5)) for seed in (0, 1)}
    runs |= {f"finqa/r3_s{seed}": entry(rising(8)) for seed in (0, 1)}
    archive(claim.STUDY, place, runs)
    text = grid.publish(claim.STUDY, place, claim.SETTINGS, [0, 1])
    # avg_prob ends at .9, which it meets at step 40, R3 at 20; a hungry R3 gains nothing in tokens, loses in seconds
    both = "2.00 [2.00, 2.00] | 1.00 [1.00, 1.00] | 0.50 [0.50, 0.50]"
    assert f"| ParaRev twin | 2 | 0.90, avg_prob's end | {both} | yes (steps), no (tokens) |" in text
    assert "| ParaRev twin | 2 | 0.84, 0.9 of its gain | 2.06 [2.06, 2.06] | 1.03 [1.03, 1.03] |" in text
    assert "| FinQA twin | 2 | none (0.50) |" in text
    assert "no target: avg_prob gains less than 0.1 |" in text
    assert "| `r3` | 20 20 | 20 | 2.00 [2.00, 2.00] | 40 | 1.00 [1.00, 1.00] | 80 |" in text
    assert "26 runs are missing (pararev/avg_logprob_s0," in text
    assert "## maths twin" not in text
    assert (place.page / "results.md").read_text() == text
    shown = (place.page / "curves.csv").read_text().splitlines()
    assert shown[1] == "ParaRev twin,r3,0,0,0.300000"
    assert len(shown) == 1 + 8 * 16
    assert (place.page / "curves.png").stat().st_size > 10_000


def test_seconds_that_tell_the_machines_load_are_left_out_of_the_claim(tmp_path):
    place = place_of(claim.STUDY, tmp_path)
    runs = {f"pararev/avg_prob_s{seed}": entry(rising(36)) for seed in (0, 1)}
    runs |= {f"pararev/r3_s{seed}": entry(rising(16), seconds=1.0 + 0.6 * seed) for seed in (0, 1)}
    runs |= {f"finqa/{arm}_s{seed}": entry(rising(8)) for seed in (0, 1) for arm in ("r3", "avg_prob")}
    archive(claim.STUDY, place, runs)
    text = grid.publish(claim.STUDY, place, claim.SETTINGS, [0, 1])
    assert "| ParaRev twin | 2 | 0.90, avg_prob's end | 2.00 [2.00, 2.00] | 2.00 [2.00, 2.00] | left out |" in text
    assert "| FinQA twin | 2 | 0.90, avg_prob's end | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 1.00" in text
    assert text.count("Seconds are left out: the slowest seed of a setting took more than 1.5 times") == 1
    assert not by_load({"r3": [2.0, 3.0], "avg_prob": [9.0]}), "1.5 times is the limit"
    assert by_load({"r3": [2.0, 3.01]})


def test_a_run_of_an_older_definition_is_missing(tmp_path):
    place = place_of(LAMBDA.STUDY, tmp_path)
    archive(LAMBDA.STUDY, place, {"pararev/0.05_to_0.85_s0": entry(rising(16))})
    assert grid.find(LAMBDA.STUDY, place, LAMBDA.SETTINGS, [0]).runs["pararev"]["0.05 to 0.85"]
    file = place.page / "runs.jsonl"
    file.write_text(file.read_text().replace("reward.clip_low=0.05", "reward.clip_low=0.06"))
    found = grid.find(LAMBDA.STUDY, place, LAMBDA.SETTINGS, [0])
    assert not found.runs["pararev"]["0.05 to 0.85"]
    assert "pararev/0.05_to_0.85_s0" in found.missing


def test_knobs_are_set_against_the_default_seed_by_seed(tmp_path):
    place = place_of(LAMBDA.STUDY, tmp_path)
    worse = {step: value - 0.1 * (step > 40) for step, value in rising(16).items()}
    runs = {f"pararev/0.05_to_0.85_s{seed}": entry(rising(16)) for seed in (0, 1)}
    archive(LAMBDA.STUDY, place, runs | {f"pararev/0_to_1_s{seed}": entry(worse) for seed in (0, 1)})
    text = grid.publish(LAMBDA.STUDY, place, LAMBDA.SETTINGS, [0, 1])
    assert "| up to 0.85 |  | 0.90 [0.90, 0.90] |  |" in text
    assert (
        "| 0 to 1 | 2 | 0.80 [0.80, 0.80] | -0.10 [-0.10, -0.10] | 14 (1.00 [1.00, 1.00]) | 14 (1.00 [1.00, 1.00]) |"
        in text
    )


def test_without_any_run_nothing_is_written(tmp_path, capsys):
    page = tmp_path / "page"
    study = Grid(experiment="omega", here=page, settings=omega.SETTINGS, quick=omega.QUICK, page=omega.page)
    grid.main(study, "", ["--tables-only", f"--outputs={tmp_path / 'runs'}"])
    assert "no run is finished yet" in capsys.readouterr().out
    assert not page.exists()


def test_a_setting_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        grid.main(omega.STUDY, "", ["--settings=chains"])
    assert ended.value.code == 2
    assert "--settings=chains: choose among chain, independent, distractors" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ policies, step 0


def test_a_policy_is_built_when_knobs_recipe_and_guards_are_the_wanted_ones(tmp_path):
    bed = short_policies.INDEPENDENT
    record: dict[str, Any] = {
        "twin": "pararev",
        "generator_version": twin("pararev").version,
        "knobs": asdict(preset(twin("pararev"), "default", **bed.knobs)),
        "phases": [asdict(phase) for phase in short_policies.phases_of(bed)],
        "guards": {name: high for name, (_, high) in limits_of(twin("pararev")).items()},
    }
    assert [phase["name"] for phase in record["phases"]] == ["chains", "noisy"]
    other = {**record, "knobs": asdict(preset(twin("pararev"), "default", **short_policies.PARAREV.knobs))}
    failed = {**record, "guards": {**record["guards"], "greedy_quality": 0.5}}
    shorter = {**record, "phases": record["phases"][1:]}
    assert not short_policies.built(bed, tmp_path)
    for found, wanted in ((record, True), (other, False), (failed, False), (shorter, False)):
        (tmp_path / "build.json").write_text(json.dumps(found))
        assert short_policies.built(bed, tmp_path) is wanted
    assert bed.overrides(tmp_path)[-1] == f"model.path={tmp_path / bed.name}"
    assert claim.SETTINGS[2].bed.overrides(tmp_path) == ["dataset=contract_nli"]


@pytest.mark.slow
def test_before_training_sharper_rewards_weigh_fewer_tokens():
    found = step0.measure(["dataset=pararev"], prompts=6, rollouts=6)
    effective = [figures["effective_tokens"] for figures in found["omegas"].values()]
    assert effective == sorted(effective, reverse=True)
    assert 40 < effective[0] <= 56  # omega 0 weighs all tokens alike that vary at all, of 56
    assert effective[-1] < 4
    assert found["sigma"]["distractors"] is None
    assert found["sigma"]["facts"] > found["sigma"]["wording"]
    table = omega.before_training(found)
    assert table[2].startswith("| before training |")
    assert len(table) == 2 + 2 + len(step0.OMEGAS) + 1


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ({"truth": True, "token": " 7"}, "facts"),
        ({"truth": False, "token": " Hence"}, "distractors"),
        ({"truth": False, "token": " then"}, "wording"),
    ],
)
def test_what_a_reference_token_is(token, kind):
    assert step0.kind_of(token) == kind
