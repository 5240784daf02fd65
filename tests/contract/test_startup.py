"""What the command loads before it knows that there is anything to run."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from dro_lab.run import _composing, _may_sweep

HEAVY = ("torch", "transformers", "trl", "mlflow", "pandas", "datasets", "optuna", "matplotlib", "psutil", "openai")
LIGHT = (*HEAVY, "numpy", "pyarrow", "hydra_plugins.hydra_optuna_sweeper", "asyncio", "multiprocessing")


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["--cfg", "job", "reward=repro", "tracking=none"]])
def test_looking_loads_nothing_that_a_run_needs(flags: list[str]) -> None:
    code = (
        "import sys\nfrom dro_lab.run import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        f"print(sorted(set({LIGHT}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


@pytest.mark.parametrize(
    "given",
    [
        ["--multirun"],
        ["-m", "seed=1,2"],
        ["-cm"],
        ["+sweep=dro"],
        ["hydra/sweeper=dro_lab"],
        ["hydra.mode=MULTIRUN"],
        ["--hydra-help"],
        ["--config-path", "x"],
    ],
)
def test_where_a_sweep_can_come_its_plugin_is_loaded(given: list[str]) -> None:
    assert _may_sweep(given)


@pytest.mark.parametrize("given", [[], ["--help"], ["--cfg", "job"], ["-c", "job", "model=tiny"], ["seed=-1"]])
def test_else_it_is_not(given: list[str]) -> None:
    assert not _may_sweep(given)


def test_collecting_goes_on_whatever_happens() -> None:
    with pytest.raises(ValueError, match="x"), _composing():
        assert not gc.isenabled()
        raise ValueError("x")
    assert gc.isenabled()
