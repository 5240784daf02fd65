"""Servers of this machine for the length of a test: vLLM's OpenAI server on a CPU, and `transformers serve`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 110
"""Until a server answers, on a busy machine; one that does not is started once more."""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextlib.contextmanager
def serving(command: Sequence[str], log: Path, **environment: str) -> Iterator[str]:
    """The address of a server that ``command`` starts; ``{port}`` in it is the port. It ends with the block."""
    process, url = _started(command, log, environment)
    if not _answers(process, url):
        _end(process, signal.SIGABRT)  # where it stands goes to the log
        process, url = _started(command, log.with_suffix(".again.txt"), environment)
    try:
        if not _answers(process, url):
            logs = "\n".join(file.read_text()[-4000:] for file in sorted(log.parent.glob(f"{log.stem}*.txt")))
            raise RuntimeError(
                f"the server did not answer within {SECONDS} s, twice (status {process.poll()}):\n{logs}"
            )
        yield url
    finally:
        _end(process, signal.SIGTERM)


def _started(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    with log.open("w") as out:
        process = subprocess.Popen(
            [word.replace("{port}", str(port)) for word in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **environment},
            start_new_session=True,  # a group of its own: its workers end with it
        )
    return process, f"http://127.0.0.1:{port}"


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
        time.sleep(0.5)
    return False


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    for sent in (how, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


def vllm_server(policy: Path, log: Path, *more: str) -> contextlib.AbstractContextManager[str]:
    """vLLM's OpenAI server, whose weights stay loadable (`tests.vllm.worker`). ``vllm serve`` itself asks for a
    distribution called vllm, which the CPU build is not."""
    command = [
        *(sys.executable, "-m"),
        "vllm.entrypoints.openai.api_server",
        *("--model", str(policy), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", "{port}"),
        *("--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--kv-cache-memory-bytes", "64M"),
        *("--max-num-seqs", "16", "--block-size", "32", "--logprobs-mode", "processed_logprobs"),
        # a random policy inside a schema would write blanks for ever
        *("--structured-outputs-config", '{"disable_any_whitespace": true, "backend": "xgrammar"}'),
        *("--worker-extension-cls", "tests.vllm.worker.Worker", *more),
    ]
    return serving(
        command, log, VLLM_SERVER_DEV_MODE="1", VLLM_LOGGING_LEVEL="INFO", VLLM_ENABLE_V1_MULTIPROCESSING="0"
    )


def transformers_server(policy: Path, log: Path) -> contextlib.AbstractContextManager[str]:
    """`transformers serve`."""
    program = str(Path(sys.executable).with_name("transformers"))
    place = ("--host", "127.0.0.1", "--port", "{port}")
    return serving([program, "serve", str(policy), *place, "--device", "cpu", "--dtype", "float32"], log)
