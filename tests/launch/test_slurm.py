"""A grid through submitit: what is handed to Slurm, and the same grid by submitit's local executor."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.cli_fixture import run_main, save_policy, small_run

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")


def test_the_configuration_shows_what_slurm_is_asked_for() -> None:
    ended = run_main(["--cfg", "hydra", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"])
    assert ended.code == 0, ended.text
    launcher = OmegaConf.create(ended.out).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node, launcher.tasks_per_node) == ("gpu", 1, 1)


def test_the_batch_script_asks_for_a_gpu_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a machine without Slurm goes: submitit writes the script, and `sbatch` is a program that takes it."""
    import submitit

    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script.sh\necho Submitted batch job 7\n')
    (fake / "srun").write_text("#!/bin/sh\n")
    for program in fake.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:/usr/bin:/bin")
    ended = run_main(["--cfg", "hydra", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"])
    launcher = OmegaConf.create(ended.out).hydra.launcher
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="slurm")
    own = ("timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb", "tasks_per_node", "nodes")
    executor.update_parameters(**{key: launcher[key] for key in own}, slurm_partition=launcher.partition)
    executor.submit(print)
    script = (tmp_path / "script.sh").read_text()
    for line in ("--partition=gpu", "--gpus-per-node=1", "--time=1440", "--cpus-per-task=8", "--mem=64GB"):
        assert f"#SBATCH {line}" in script


@pytest.mark.long
def test_a_grid_by_submitit_runs_its_jobs_in_one_folder_and_says_why_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = save_policy(tmp_path / "policy")
    own = ["report=false", "steps=0", "evaluation.greedy=false", "evaluation.also=[]"]
    given = [one for one in small_run(policy, own) if not one.startswith("hydra.run.dir")]
    grid = ["--multirun", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    ended = run_main([*grid, *given, "evaluation.split=validation,nowhere"])
    assert ended.code != 0
    assert "evaluation.split=nowhere" in ended.text
    (folder,) = (tmp_path / "outputs").glob("*/*_multirun*")
    (summary,) = folder.glob("*/summary.json")
    assert json.loads(summary.read_text())["status"] == "finished"
    command = json.loads((summary.parent / "env.json").read_text())["command"]
    assert command.startswith("python -m dro_lab.run ")
    assert "evaluation.split=validation" in shlex.split(command), "the job alone, as it can be typed"
