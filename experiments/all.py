"""The studies of R3, its knobs, its gate and its filter, one after the other; finished runs are skipped on restart.

``python -m experiments.all`` runs `steps_to_target`, `omega`, `lambda_`, `filtering` and `gating`; ``--quick`` takes
one twin, two seeds and a part of each within a quarter of an hour, and leaves the published pages alone. One of them
alone: ``python -m experiments.NAME.study``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STUDIES = ("steps_to_target", "omega", "lambda_", "filtering", "gating")
"""The whole set, the paper's claim first."""


def command(study: str, options: argparse.Namespace) -> list[str]:
    """The command of one study; without ``--seeds`` each takes its own."""
    return [
        sys.executable,
        "-m",
        f"experiments.{study}.study",
        f"--workers={options.workers}",
        f"--outputs={options.outputs / study}",
        *([f"--seeds={options.seeds}"] if options.seeds else []),
        *(["--quick"] if options.quick else []),
        *(["--tables-only"] if options.tables_only else []),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; returns 1 where one failed (the others run all the same)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one twin, two seeds, a part of each study")
    parser.add_argument("--seeds", default="", help="for example 0,1,2,3,4,5,6,7,8,9; default: each study's own")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default %(default)s)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--tables-only", action="store_true", help="write pages and figures of what is finished")
    options = parser.parse_args(arguments)
    failed, begin = [], time.monotonic()
    for study in STUDIES:
        print(f"== {study}", flush=True)
        if subprocess.run(command(study, options)).returncode:
            failed.append(study)
        print(f"== {study}: {(time.monotonic() - begin) / 60:.1f} minutes so far", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
