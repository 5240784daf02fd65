"""What Hydra, OmegaConf and submitit complain about, in the lab's own words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dro_lab.config import GROUPS, check
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.explain import explain
from tests.cli_fixture import run_main


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "scale"])
def test_a_record_says_that_it_holds_no_groups(group: str) -> None:
    cfg = OmegaConf.create(OmegaConf.to_container(compose([]), resolve=True))  # as a record holds it
    cfg[group] = "other"
    with pytest.raises(UserError) as error:
        check(cfg)
    for part in (f"{group}=other: must hold keys and values", "--config-path RUN", "no groups", "overrides.yaml"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("given", "part"),
    [("reward=avg_prob", "reward=avg_prob: must hold"), ("scale=gpu", "scale=gpu: this configuration has no scale")],
)
def test_a_group_behind_a_record_is_one_message(
    given: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    OmegaConf.save(compose(["tracking=none"]), tmp_path / "config.yaml", resolve=True)
    ended = run_main(["--config-path", str(tmp_path), "--config-name", "config", given])
    assert ended.code == 2
    assert ended.text.startswith(f"error: {part}")
    assert "The record of a run" in ended.text


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?'),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "sbatch"),
    ],
)
def test_a_machine_without_slurm_is_told_what_to_take(error: Exception) -> None:
    said = explain(error) or ""
    for part in ("hydra/launcher=slurm", "srun, sbatch", "submitit_local or joblib"):
        assert part in said


@pytest.mark.parametrize(
    "error", [RuntimeError("srun"), FileNotFoundError(errno.ENOENT, "No such file", "config.json")]
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert explain(error) is None


def test_a_grid_on_a_machine_without_slurm_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name, *_, **__: None)
    ended = run_main(["--multirun", "hydra/launcher=slurm", "tracking=none", "seed=1,2"])
    assert ended.code == 2
    assert ended.err.startswith("error: hydra/launcher=slurm: Slurm's commands")
    assert "Traceback" not in ended.text
