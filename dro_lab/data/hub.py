"""Rows from the Hugging Face hub at a pinned revision, or one message within 20 seconds when it cannot be reached."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dro_lab.data.sources import Loaded, Record, files_sha256
from dro_lab.errors import UserError
from dro_lab.secrets import beginning

REACH_SECONDS = 6.0
"""How long the hub may take to say which commit a revision is; a name lookup alone can block longer than that.

A run imports for 5 to 8 seconds before it asks, and its message must come within 20 seconds of the command.
"""


def read(
    repo: str,
    *,
    revision: str | None,
    files: str | Sequence[str] | Mapping[str, Any] | None = None,
    config: str | None = None,
    has_twin: bool = True,
    key: str = "dataset",
) -> tuple[dict[str, list[Record]], str | None, str | None]:
    """Rows of every split of a hub repository, through ``datasets.load_dataset``.

    Args:
        repo: the repository, ``owner/name``; a local folder in the hub's layout is read the same way.
        revision: commit, tag or branch; it is resolved to a commit first, and that commit is what is read.
        files: the repository's data files to read (``data_files``); None: those its card names.
        config: the repository's configuration, where its card has several.
        has_twin: whether the error may point to ``dataset.source=twin``.
        key: what stands before ``repo``, ``revision`` and ``files`` in the configuration, for messages.

    Returns:
        ``(rows by split as the repository names them, commit, sha256)``: a commit for the hub, a hash for a folder.

    Raises:
        UserError: unreachable (in under 20 s), no such repository, revision or file, or not readable without running
            the repository's own code.
    """
    local = Path(repo).expanduser().is_dir()
    commit = None if local else _commit(repo, revision, has_twin=has_twin, key=key)

    from datasets import DownloadConfig, load_dataset

    data_files = list(files) if isinstance(files, Sequence) and not isinstance(files, str) else files
    try:
        loaded = load_dataset(
            repo,
            config,
            data_files=data_files,
            revision=commit,
            download_config=DownloadConfig(max_retries=1, disable_tqdm=True),
        )
    except Exception as error:  # download, card, schema and file errors have many types; the user needs one sentence
        raise UserError(
            f"dataset.source=hub: {repo} at {commit or 'this folder'} could not be loaded "
            f"({type(error).__name__}: {_first_line(error)}). Next: check {key}.repo, {key}.revision and "
            f"{key}.files (a repository with a loading script needs revision refs/convert/parquet), or "
            f"{_way_out(has_twin)}."
        ) from error
    rows = {
        str(split): [Record(f"{split} row {n}", dict(row)) for n, row in enumerate(part, start=1)]
        for split, part in loaded.items()
    }
    digest = files_sha256([p for p in Path(repo).rglob("*") if p.is_file()]) if local else None
    return rows, commit, digest


def merged(rows: Mapping[str, Sequence[Record]], repo: str) -> Loaded:
    """The splits as if they were files: for data sets whose own split rule replaces the repository's."""
    return Loaded(Path(repo), rows, "")


def _commit(repo: str, revision: str | None, *, has_twin: bool, key: str = "dataset") -> str:
    """The commit behind a revision: also the one quick attempt that tells whether the hub can be reached."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"dataset.source=hub: the environment says HF_HUB_OFFLINE, so {repo} cannot be read. "
            f"Next: unset it, or {_way_out(has_twin)}."
        )
    result: list[str | None] = []
    failure: list[Exception] = []

    def ask() -> None:
        try:
            result.append(HfApi().dataset_info(repo, revision=revision, timeout=REACH_SECONDS / 2).sha)
        except Exception as error:  # handed to the caller's thread, where it becomes one message
            failure.append(error)

    # A daemon thread: a blocked name lookup cannot be interrupted, and must not keep the process alive either.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if result and result[0]:
        return result[0]
    error = failure[0] if failure else TimeoutError(f"no reply within {REACH_SECONDS:.0f} s")
    if isinstance(error, RepositoryNotFoundError):
        raise UserError(
            f"dataset.source=hub: the hub has no data set {repo!r} that you may read. Next: correct {key}.repo, log "
            f"in where it is private, or {_way_out(has_twin)}."
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise UserError(
            f"{key}.revision={revision}: {repo} has no such commit, tag or branch. Next: take one from the data "
            f"set's history on the hub, or {_way_out(has_twin)}."
        ) from error
    raise UserError(
        f"dataset.source=hub: {repo} cannot be reached ({type(error).__name__}: {_first_line(error)}). "
        f"Next: check the network, or {_way_out(has_twin)}."
    ) from error


def _way_out(has_twin: bool) -> str:
    twin = "use dataset.source=twin, which needs no network, or " if has_twin else ""
    return f"{twin}give local files with dataset.source=PATH"


def _first_line(error: BaseException) -> str:
    return beginning((str(error).strip().splitlines() or [""])[0], 300)
