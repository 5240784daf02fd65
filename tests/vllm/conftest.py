"""Tests with real vLLM, on a CPU, in an environment of their own: ``make test-vllm``.

The default suite leaves this folder out (only ``-m vllm`` takes it in); asked for without vLLM, each file is skipped
with the reason.
"""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALLED = importlib.util.find_spec("vllm") is not None

if INSTALLED:  # before anything imports vLLM
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # engine and worker in this process
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB, and it would win over the size that tests ask for


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vllm: with real vLLM; runs with `-m vllm` alone (make test-vllm)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = "vllm" in (config.option.markexpr or "")
    return True if collection_path.name.startswith("test_") and not asked else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("vllm")


@pytest.fixture
def engines(monkeypatch):
    """vLLM engines of this process, as a CPU needs them; those of an earlier test are gone before one is made."""
    from tests.vllm.engine import patch

    gc.collect()
    patch(monkeypatch)
    yield
    gc.collect()


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory):
    """A vLLM server on the tiny policy, shared by all tests that need one; weight syncs change what it holds."""
    from tests.vllm.engine import save_policy
    from tests.vllm.servers import vllm_server

    folder = tmp_path_factory.mktemp("server")
    with vllm_server(save_policy(folder / "policy"), folder / "log.txt") as url:
        yield url
