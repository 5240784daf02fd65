"""What the studies of DRO's parts compute and run: intervals, outcomes, jobs that compose, pictures with numbers."""

import contextlib
import csv
import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

from dro_lab.config import check
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.record.read import load_run
from dro_lab.record.summary import write_summary
from experiments.archive import Archive
from experiments.dro_parts import study as dro_parts
from experiments.figures import Panel, draw_curves
from experiments.filtering import study as filtering
from experiments.gating import study as gating
from experiments.runs import Job, _aside, pending, reported, run_all
from experiments.summaries import difference, evaluated, over, trained
from experiments.twins import study as twins
from tests.cli_fixture import run_main, save_policy, small_run
from tests.record_fixture import summary


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


# ------------------------------------------------------------------------------------------------ filtering's page


def planted(run: str, *, trained_on: float, **metrics: list[float]) -> str:
    """A run of 40 steps as the archive keeps it: quality .3, and .9 from step 16 on."""
    evals = [[step, "validation", "sampled", "quality", 0.9 if step >= 16 else 0.3] for step in range(0, 41, 4)]
    kept = {"filter/dropped_share": [0.0] * 40, "rollouts/kept_share": [trained_on] * 40, **metrics}
    named = {"run": run, "overrides": [], "commit": "0" * 40, "seconds": 60.0, "metric": "facts_right", "alarms": []}
    return json.dumps({**named, "evals": evals, "metrics": kept}) + "\n"


def filtering_page(root: Path, **metrics: list[float]) -> str:
    root.mkdir(exist_ok=True)
    lines = [planted(f"off_s{seed}", trained_on=1.0, **metrics) for seed in (0, 1)]
    lines += [planted(f"dynamic_s{seed}", trained_on=0.5, **metrics) for seed in (0, 1)]
    (root / "runs.jsonl").write_text("".join(lines))
    return filtering.markdown(root, [0, 1])


def test_the_filters_page_says_what_a_level_cost_in_rollouts_too(tmp_path):
    text = filtering_page(tmp_path / "quick")
    assert "Command `python -m experiments.filtering.study --quick`; 4 runs" in text
    # means of three evaluations reach .6 at step 20 (of .3, .9, .9 the mean is .7), .8 at 24: 64 rollouts a step
    assert "| off | 0.90 [0.90, 0.90] |  | 20 | 20 | 24 |" in text
    assert "| off | 1280 | 1280 | 1536 |" in text
    assert "| dynamic | 640 (2.00 [2.00, 2.00]) | 640 (2.00 [2.00, 2.00]) | 768 (2.00 [2.00, 2.00]) |" in text
    assert "60 s" in text
    assert "Tokens sampled" not in text, "rows that were archived before have no tokens"
    told = filtering_page(tmp_path / "quick", **{"cost/tokens": [1000.0 * step for step in range(1, 41)]})
    assert "Tokens sampled" in told
    assert "| off | 20000 | 20000 | 24000 |" in told


@pytest.mark.parametrize("study", [filtering, gating], ids=["filtering", "gating"])
def test_tables_of_what_is_missing_are_one_message(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["study", "--quick", "--tables-only", f"--outputs={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        reported(study.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    for word in ("_s0", "_s1", "--tables-only", str(tmp_path / "quick")):
        assert word in said
    assert not list(tmp_path.iterdir()), "something was written"


# ------------------------------------------------------------------------------------------------ running jobs


def small_record(folder: Path, made_by: list[str], **fields: Any) -> None:
    """A finished run's record, as far as a study reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_summary(folder / "summary.json", summary(status="finished", **fields))
    (folder / "env.json").write_text(json.dumps({"command": shlex.join(["dro_lab/run.py", *made_by]), "git": {}}))


class Inline:
    """A pool of workers in this process."""

    def __init__(self, workers: int, mp_context: Any) -> None:
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_study_runs_what_is_missing_and_names_what_failed(tmp_path, monkeypatch, capsys):
    jobs = [Job(folder=tmp_path / name, overrides=[f"seed={seed}"]) for seed, name in enumerate("abc")]
    small_record(jobs[0].folder, ["seed=0"])
    jobs[2].folder.mkdir()
    (jobs[2].folder / "half").touch()
    ran = []

    def run(job: Job) -> None:
        ran.append(job.folder.name)
        print("said")
        if job.folder.name == "b":
            raise ValueError("no such thing")
        small_record(job.folder, list(job.overrides))

    monkeypatch.setattr("experiments.runs.ProcessPoolExecutor", Inline)
    monkeypatch.setattr("experiments.runs.run_in_process", run)
    monkeypatch.setattr("sys.argv", ["study"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(UserError) as failed:
        run_all(jobs, workers=2)
    assert ran == ["b", "c"], "what failed ends nothing, what is finished is not run again"
    for word in ("1 of 2 jobs failed", "seed=1", "ValueError: no such thing", "b.log", "the same command"):
        assert word in str(failed.value)
    assert "Traceback" in jobs[1].log.read_text()
    assert jobs[2].log.read_text() == "said\n"
    assert (tmp_path / "c.aside" / "half").exists(), "an unfinished run is moved aside, not overwritten"
    assert "3 runs, 1 already finished, 2 side by side" in capsys.readouterr().out

    ran.clear()
    monkeypatch.setattr("experiments.runs.run_in_process", lambda job: small_record(job.folder, list(job.overrides)))
    run_all(jobs, workers=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b", "b.aside", "c", "c.aside"]


def test_what_is_moved_aside_never_covers_what_was_moved_before(tmp_path):
    for name in ("run", "run.aside", "run.aside1"):
        (tmp_path / name).mkdir()
    assert _aside(tmp_path / "run") == tmp_path / "run.aside2"


@pytest.fixture(scope="module")
def policy_run(tmp_path_factory) -> Path:
    """A finished run of two steps."""
    folder = tmp_path_factory.mktemp("study")
    with contextlib.chdir(folder):
        ended = run_main(small_run(save_policy(folder / "tiny"), ["dataset.sizes.ood=4", "report=false"]))
    assert ended.code == 0, ended.err
    return folder / "run"
