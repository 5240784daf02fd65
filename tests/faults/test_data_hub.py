"""The hub: read through the `datasets` library from a folder in the hub's layout; unreachable in one quick message."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from dro_lab.data import finqa, hub, pararev
from dro_lab.errors import UserError

LOADER_SECONDS = 8.0  # the loader's own share of a run's 20 seconds without a network
CARD = """---
configs:
- config_name: pararev_full
  data_files: pararev_full_without_annotation.jsonl
- config_name: pararev_annot_subset
  data_files: pararev_manual_annot_subset.jsonl
---
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def pararev_repo(tmp_path):
    """ParaRev's repository: two files whose columns differ, told apart by its card."""
    folder = tmp_path / "pararev"
    folder.mkdir()
    rows = [
        {
            "id_paragraph": f"s{n}.r{n}.00",
            "id_source": f"s{n}",
            "parag_1": f"old {n}",
            "parag_2": f"new {n}",
            "annot_1": {"annotation": ["Concision"], "instruction": "Shorten.", "annotator": "annotator_01"},
            "annot_2": {"annotation": [], "instruction": None, "annotator": "annotator_02"},
        }
        for n in range(40)
    ]
    plain = [{key: value for key, value in row.items() if "annot" not in key} for row in rows]
    for name, part in (("pararev_manual_annot_subset", rows), ("pararev_full_without_annotation", plain)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.mark.parametrize("chosen", [{"files": "pararev_manual_annot_subset.jsonl"}, {"config": "pararev_annot_subset"}])
def test_pararevs_annotated_file_is_read_by_name_or_by_configuration(pararev_repo, chosen):
    task = pararev.load(source="hub", repo=str(pararev_repo), **chosen)
    assert sum(map(len, task.splits.values())) == 40
    assert all(task.splits.values())
    assert len(task.refused) == 40
    assert task.provenance.kind == "hub"
    assert len(task.provenance.sha256) == 64


def test_pararevs_full_file_needs_an_instruction(pararev_repo):
    with pytest.raises(UserError, match=r"no usable row is left of 40.*no instruction.*dataset\.instruction=TEXT"):
        pararev.load(source="hub", repo=str(pararev_repo), config="pararev_full")
    task = pararev.load(source="hub", repo=str(pararev_repo), config="pararev_full", instruction="Improve.")
    assert sum(map(len, task.splits.values())) == 40


def test_finqas_parquet_layout_keeps_the_hubs_splits(tmp_path):
    import pandas

    for split, count in (("train", 5), ("validation", 2), ("test", 3)):
        folder = tmp_path / "finqa" / "default" / split
        folder.mkdir(parents=True)
        page = {"pre_text": ["a ."], "post_text": ["b ."], "table": [["", "x"], ["y", "1"]], "answer": "34.7%"}
        rows = [{"id": f"{split}-{n}", "question": f"{n}?", **page} for n in range(count)]
        pandas.DataFrame(rows).to_parquet(folder / "0000.parquet")
    task = finqa.load(source="hub", repo=str(tmp_path / "finqa"))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 5, "validation": 2, "test": 3}
    assert task.splits["test"][0].columns["exe_ans"] == pytest.approx(0.347)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [({}, "Config name is missing"), ({"files": "nope.jsonl"}, "nope.jsonl"), ({"config": "nope"}, "nope")],
)
@pytest.mark.tried("bad inputs")
def test_what_the_library_cannot_load_is_one_clear_message(pararev_repo, arguments, wanted):
    with pytest.raises(UserError) as caught:
        pararev.load(source="hub", repo=str(pararev_repo), **arguments)
    assert wanted in str(caught.value)
    assert "dataset.files" in str(caught.value)
    assert "dataset.source=twin" in str(caught.value)


def test_a_revision_is_resolved_to_the_commit_that_is_read(pararev_repo, monkeypatch):
    import datasets
    import huggingface_hub

    asked = {}

    class Api:
        def dataset_info(self, repo, *, revision, timeout):
            asked["resolved"] = (repo, revision)
            return type("Info", (), {"sha": "f" * 40})

    def load_dataset(repo, config, *, data_files, revision, download_config):
        asked["loaded"] = (repo, config, data_files, revision)
        return real(str(pararev_repo), config, data_files=data_files)

    real = datasets.load_dataset
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = pararev.load(source="hub", revision="v1", files="pararev_manual_annot_subset.jsonl")
    assert asked["resolved"] == ("taln-ls2n/pararev", "v1")
    assert asked["loaded"] == ("taln-ls2n/pararev", None, "pararev_manual_annot_subset.jsonl", "f" * 40)
    assert task.provenance.revision == "f" * 40
    assert task.provenance.location == "taln-ls2n/pararev"


@pytest.mark.parametrize("error", ["RepositoryNotFoundError", "RevisionNotFoundError"])
@pytest.mark.tried("bad inputs")
def test_an_unknown_repository_or_revision_is_named(error, monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    def missing(*args, **kwargs):
        kind = getattr(errors, error)
        raise kind.__new__(kind)  # without the HTTP response that its constructor wants

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", missing)
    with pytest.raises(UserError) as caught:
        finqa.load(source="hub", repo="a/b", revision="main2")
    wanted = "no data set 'a/b'" if error.startswith("Repo") else r"dataset.revision=main2"
    assert wanted in str(caught.value)
    assert "dataset.source=PATH" in str(caught.value)
    assert "dataset.source=twin" in str(caught.value)


def test_without_a_network_the_message_comes_at_once_and_names_the_way_out(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"taln-ls2n/pararev cannot be reached.*dataset\.source=twin.*dataset\.source=PATH"
    ):
        pararev.load(source="hub", revision="main")
    assert time.monotonic() - start < 15


def test_a_name_lookup_that_never_returns_does_not_hold_the_run_up(monkeypatch):
    import huggingface_hub

    released = threading.Event()
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **kwargs: released.wait(60))
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached.*no reply within"):
        pararev.load(source="hub", revision="main")
    assert time.monotonic() - start < 5
    released.set()


def test_the_loader_leaves_a_run_time_for_its_imports():
    assert hub.REACH_SECONDS <= LOADER_SECONDS - 2


def test_the_offline_switch_is_named(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE.*dataset\.source=twin"):
        pararev.load(source="hub")


@pytest.mark.long
def test_a_hub_that_accepts_and_never_answers_ends_in_one_message_within_twenty_seconds(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        code = (
            "import atexit, time, huggingface_hub\n"
            "from dro_lab.data import pararev\n"
            "start = time.monotonic()\n"
            "atexit.register(lambda: print(time.monotonic() - start))\n"
            "pararev.load(source='hub', revision='main')"
        )
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert time.monotonic() - start < 20
    assert float(done.stdout) <= LOADER_SECONDS
    assert re.search(r"UserError: dataset\.source=hub: taln-ls2n/pararev cannot be reached", done.stderr)
