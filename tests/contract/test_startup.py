"""What the command loads before it knows that there is anything to run."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from dro_lab.run import _composing

HEAVY = ("torch", "transformers", "trl", "mlflow", "pandas", "datasets", "optuna", "matplotlib", "psutil", "openai")
LIGHT = (*HEAVY, "numpy", "pyarrow", "yarl", "requests", "multiprocessing")


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


def test_collecting_goes_on_whatever_happens() -> None:
    inside = []

    def fails() -> None:
        with _composing():
            inside.append(gc.isenabled())
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    assert inside == [False]
    assert gc.isenabled()


@pytest.mark.long
def test_a_run_leaves_mlflow_to_its_tracker_unless_trl_is_to_write_there() -> None:
    code = (
        "import gc, os, sys\nfrom dro_lab.loading import load_lab\n"
        "lab = load_lab('none')\n"
        "assert 'mlflow' not in sys.modules and lab.__name__ == 'dro_lab.lab'\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"
        "assert 'DISABLE_MLFLOW_INTEGRATION' not in os.environ\n"
        "load_lab(['mlflow'])\nfrom trl.extras import profiling\n"
        "assert profiling.mlflow is sys.modules['mlflow']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
