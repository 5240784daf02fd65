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
