"""The last words of a plain grid."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dro_lab.grid_end import SayWhatNext

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@pytest.mark.parametrize(
    ("sweeper", "runs", "says"),
    [(BASIC, 2, True), (BASIC, 1, False), ("dro_lab.sweep.plugin.Sweeper", 2, False)],
)
def test_a_grid_of_several_runs_says_where_they_lie_and_how_to_compare_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sweeper: str, runs: int, says: bool
) -> None:
    for number in range(runs):
        (tmp_path / f"{number}_r3").mkdir()
        (tmp_path / f"{number}_r3" / "summary.json").write_text("{}")
    (tmp_path / "9_failed").mkdir()
    config = OmegaConf.create({"hydra": {"sweeper": {"_target_": sweeper}, "sweep": {"dir": str(tmp_path)}}})
    SayWhatNext().on_multirun_end(config)
    expected = f"grid     {runs} runs in {tmp_path}\ncompare  python -m dro_lab.report {tmp_path}\n" if says else ""
    assert capsys.readouterr().out == expected
