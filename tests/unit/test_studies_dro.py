"""What the studies of DRO's parts compute and run: intervals, outcomes, jobs that compose, pictures with numbers."""

import contextlib
import csv
import math
import shlex
from pathlib import Path

import pytest

from dro_lab.config import check
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.record.read import load_run
from experiments.archive import Archive
from experiments.dro_parts import study as dro_parts
from experiments.figures import Panel, draw_curves
from experiments.filtering import study as filtering
from experiments.gating import study as gating
from experiments.runs import Job, pending
from experiments.summaries import difference, evaluated, over, trained
from experiments.twins import study as twins
from tests.cli_fixture import run_main, save_policy, small_run


def test_a_mean_over_seeds_has_an_interval_that_covers_it_and_leaves_out_what_was_not_measured():
    found = over([1.0, 2.0, 3.0, math.nan])
    assert found.mean == 2.0
    half = 2.919986 / math.sqrt(3)  # t of 95% with 2 degrees of freedom, a standard deviation of 1
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.each == "1.00 2.00 3.00 -"
    assert str(over([0.5, 0.5])) == "0.50 [0.50, 0.50]"
    assert math.isnan(over([math.nan]).mean)
    assert str(over([0.5, math.nan])) == "0.50", "one seed has no interval"


def test_differences_are_taken_seed_by_seed():
    found = difference([0.9, 0.5], [0.8, 0.4])
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-9)  # unpaired, it would be as wide as the seeds differ


@pytest.mark.parametrize(
    ("first", "last", "rejected", "named"),
    [
        (0.3, 0.41, 0.0, "learns"),
        (0.3, 0.39, 0.0, "flat"),
        (0.3, 0.19, 0.99, "collapses"),
        (0.3, 0.31, 0.91, "starves"),
        (0.3, 0.31, 0.9, "flat"),
        (0.3, 0.5, 0.95, "learns"),
    ],
)
def test_what_became_of_a_run(first, last, rejected, named):
    assert gating.outcome([(0, first), (8, 0.9), (16, last)], rejected) == named


ROOT = Path("outputs/somewhere")
SEEDS = [0, 1, 2, 3, 4]
JOBS = {
    "gating": gating.jobs(
        ROOT, SEEDS, [gating.Setting(share=s, bonus=b) for s in gating.SHARES for b in gating.BONUSES]
    ),
    "dro_parts": dro_parts.jobs(ROOT, SEEDS),
    "filtering": filtering.jobs(ROOT, SEEDS),
    "twins": twins.jobs(ROOT, SEEDS, list(twins.NAMES)),
}


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_folder_of_its_own_and_composes(name):
    jobs = JOBS[name]
    assert len({job.folder for job in jobs}) == len(jobs)
    distinct = {tuple(o for o in job.overrides if not o.startswith("seed=")): job for job in jobs}
    for job in list(distinct.values())[:12]:
        cfg = compose(job.overrides)
        check(cfg)
        assert cfg.tracking._target_.endswith("NoTracker")


def test_the_gating_study_crosses_rewards_gates_shares_and_bonuses():
    assert len(JOBS["gating"]) == 5 * 3 * 2 * 2 * 3
    assert [job.folder.parts[-1][-2:] for job in JOBS["gating"][:36]] == ["s0"] * 36  # seed by seed


def test_curves_are_drawn_with_the_numbers_they_show(tmp_path):
    panels = [Panel(title="one", curves={"a": [[(0, 0.1), (4, 0.2)], [(0, 0.3), (4, 0.4)]]})]
    draw_curves(panels, tmp_path / "c.png", tmp_path / "c.csv", ylabel="quality")
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert [(row["run"], row["step"], float(row["value"])) for row in rows] == [
        ("0", "0", 0.1),
        ("0", "4", 0.2),
        ("1", "0", 0.3),
        ("1", "4", 0.4),
    ]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------ archives


def test_an_archived_run_gives_the_figures_of_its_record(tmp_path, policy_run):
    archive = Archive(tmp_path / "runs.jsonl", policy_run.parent)
    overrides = ["reward=r3", "seed=0", "model.path=/somewhere/else"]
    assert not archive.holds(policy_run, overrides)
    archive.keep(policy_run, overrides)
    assert archive.holds(policy_run, ["reward=r3", "seed=0", "model.path=/another/place"])
    assert not archive.holds(policy_run, ["reward=r3", "seed=1"])
    stored, whole = archive.load(policy_run), load_run(policy_run)
    for split, decoding in (("validation", "sampled"), ("validation", "greedy"), ("ood", "sampled")):
        for metric in ("quality", "win_rate"):
            kept = dict(evaluated(stored, metric, split=split, decoding=decoding))
            assert kept == pytest.approx(dict(evaluated(whole, metric, split=split, decoding=decoding)), abs=1e-5)
            assert set(kept) == ({0, 2} if metric == "quality" else {2})
    for metric in ("gate/rejected_share", "rollouts/kept_share"):
        for part in ({}, {"first": 1}, {"last": 1}):
            assert trained(stored, metric, **part) == pytest.approx(trained(whole, metric, **part), abs=1e-5)
    assert stored.environment["git"]["commit"] == whole.environment["git"]["commit"]
    archive.keep(policy_run, overrides)
    assert len(archive.entries()) == 1  # kept once, whatever happens twice


def test_a_finished_run_of_other_overrides_is_not_taken_for_the_jobs(tmp_path, policy_run):
    archive = Archive(tmp_path / "runs.jsonl", policy_run.parent)
    made = [word for word in shlex.split(load_run(policy_run).environment["command"]) if "=" in word]
    own = [word for word in made if not word.startswith("hydra.run.dir=")]
    changed = Job(folder=policy_run, overrides=[*own, "reward.omega=4"])
    assert pending([changed], archive) == [changed]
    assert archive.entries() == {}
    assert pending([Job(folder=policy_run, overrides=own)], archive) == []
    assert archive.holds(policy_run, own)


def test_what_is_neither_archived_nor_finished_is_an_error(tmp_path):
    with pytest.raises(UserError):
        Archive(tmp_path / "runs.jsonl", tmp_path).load(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def policy_run(tmp_path_factory) -> Path:
    """A finished run of two steps."""
    folder = tmp_path_factory.mktemp("study")
    with contextlib.chdir(folder):
        ended = run_main(small_run(save_policy(folder / "tiny"), ["dataset.sizes.ood=4", "report=false"]))
    assert ended.code == 0, ended.err
    return folder / "run"
