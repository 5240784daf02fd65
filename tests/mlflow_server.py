"""A real MLflow server in a process of its own that can be killed: MLflow's application, without its job workers.

As a program: ``python -m tests.mlflow_server FOLDER PORT`` serves ``FOLDER/mlflow.db`` and ``FOLDER/artifacts``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.tracking_fixture import empty_database


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class MlflowServer:
    """The server of ``folder``; `start` and `kill` may be called again and again."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "mlflow.db").exists():
            empty_database(folder)
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mlflow_server", str(self.folder), str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "the server does not answer within two minutes"
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)

    def kill(self) -> None:
        """kill -9, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def serve(folder: Path, port: int) -> None:
    """Serve until killed."""
    from mlflow.server import (
        ARTIFACT_ROOT_ENV_VAR,
        ARTIFACTS_DESTINATION_ENV_VAR,
        BACKEND_STORE_URI_ENV_VAR,
        SERVE_ARTIFACTS_ENV_VAR,
    )
    from werkzeug.serving import make_server

    os.environ[BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ[ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[ARTIFACTS_DESTINATION_ENV_VAR] = (folder / "artifacts").as_uri()
    os.environ[SERVE_ARTIFACTS_ENV_VAR] = "true"
    from mlflow.server import app

    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
