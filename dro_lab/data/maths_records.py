"""Mathematics rows in each of their schemas, from the hub or from files; nothing is prompted here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dro_lab.data import hub, sources
from dro_lab.data.maths_answers import is_expression, last_boxed
from dro_lab.data.rows import text_problem, unknown_schema
from dro_lab.data.split_names import split_named, splits_named
from dro_lab.data.splits import SPLITS
from dro_lab.errors import UserError

SUFFIXES = (".jsonl", ".json", ".parquet")
SCHEMA = (
    "question and answer (GSM8K: the answer ends in `#### 72`); problem and answer; or problem and solution (the "
    "answer in its last \\boxed{})"
)
HUB_KEYS = ("repo", "revision", "config", "files", "split")
_SENTENCE = re.compile(r"[^0-9\\$]*[A-Za-z]{2}[^0-9\\$]*\s[^0-9\\$]*[A-Za-z]{2}[^0-9\\$]*[.!?]")  # words, no number
_NUMBER = re.compile(r"[-+]?\$?\s?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Parts:
    """Records by split; "" where the source names no splits. With where they came from, and notes."""

    records: Mapping[str, Sequence[sources.Record]]
    location: str
    revision: str | None
    sha256: str | None
    notes: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------ files


def read_path(path: Path) -> Parts:
    """A file, or the data files of a folder; the split is what their names speak of, if all of them speak of one."""
    loaded = sources.read(path, suffixes=SUFFIXES)
    if path.is_file():
        split = split_named(path.name)
        named = {path.name: split} if split else None
    else:
        named = splits_named(loaded.files)
    records: dict[str, list[sources.Record]] = {}
    for file, rows in loaded.files.items():
        records.setdefault(named[file] if named else "", []).extend(rows)
    notes = []
    if named:
        notes.append(f"splits as named: {', '.join(f'{file} = {split}' for file, split in named.items())}")
    if loaded.unread:
        notes.append(f"files not read in {path.name}: {', '.join(loaded.unread)}")
    return Parts(records, str(path), None, loaded.sha256, notes)


# ------------------------------------------------------------------------------------------------ the hub


def check_hub(spec: object) -> dict[str, dict[str, Any]]:
    """What ``dataset.hub`` says by split: repo, revision, config (one or a list), files, split.

    Raises:
        UserError: an unknown split or key, no repository, or a value of another kind.
    """
    if not isinstance(spec, Mapping):
        raise _hub_error("dataset.hub", spec, f"keys among {', '.join(SPLITS)}")
    parts: dict[str, dict[str, Any]] = {}
    for split, given in spec.items():
        if split not in SPLITS:
            raise _hub_error(f"dataset.hub.{split}", given, f"under a key among {', '.join(SPLITS)}")
        if given is None:
            continue
        if not isinstance(given, Mapping) or not set(given) <= set(HUB_KEYS):
            raise _hub_error(f"dataset.hub.{split}", given, f"null, or keys among {', '.join(HUB_KEYS)}")
        part = {key: given.get(key) for key in HUB_KEYS}
        if not isinstance(part["repo"], str) or not part["repo"].strip():
            raise _hub_error(f"dataset.hub.{split}.repo", part["repo"], "a repository of the hub, owner/name")
        for key in ("revision", "split"):
            if not isinstance(part[key], str | None):
                raise _hub_error(f"dataset.hub.{split}.{key}", part[key], "a text or null")
        configs = part["config"] if _is_list(part["config"]) else [part["config"]]
        if not configs or not all(isinstance(config, str | None) for config in configs):
            raise _hub_error(f"dataset.hub.{split}.config", part["config"], "a text, a list of texts, or null")
        parts[split] = {**part, "config": list(configs), "split": part["split"] or split}
    if not parts:
        raise _hub_error("dataset.hub", dict(spec), "at least one split with a repository")
    return {split: parts[split] for split in SPLITS if split in parts}


def read_hub(spec: object) -> Parts:
    """The rows of ``dataset.hub``, each split from its own repository, configurations and split there."""
    asked = check_hub(spec)
    commits: dict[tuple[str, str | None], str | None] = {}
    digests: dict[str, str | None] = {}
    read: dict[tuple[str, str | None, str | None, str], Mapping[str, Sequence[sources.Record]]] = {}
    records: dict[str, list[sources.Record]] = {}
    for split, part in asked.items():
        repo, revision = part["repo"], part["revision"]
        for config in part["config"]:
            key = (repo, revision, config, repr(part["files"]))
            if key not in read:
                read[key], commit, digests[repo] = hub.read(
                    repo,
                    revision=commits.get((repo, revision)) or revision,
                    files=part["files"],
                    config=config,
                    key=f"dataset.hub.{split}",
                )
                commits[repo, revision] = commit
            if part["split"] not in read[key]:
                has = f"its splits are {', '.join(read[key])}"
                raise _hub_error(f"dataset.hub.{split}.split", part["split"], f"one that {repo} has; {has}")
            before = f"{repo} {config} " if len(part["config"]) > 1 else f"{repo} "
            found = read[key][part["split"]]
            records.setdefault(split, []).extend(sources.Record(before + row.where, row.fields) for row in found)
    known = [digest for digest in digests.values() if digest]
    return Parts(
        records,
        " + ".join(dict.fromkeys(part["repo"] for part in asked.values())),
        " + ".join(dict.fromkeys(commit for commit in commits.values() if commit)) or None,
        known[0] if len(known) == 1 else hashlib.sha256("\n".join(known).encode()).hexdigest() if known else None,
        ["hub: " + ", ".join(f"{split} = {part['repo']} {part['split']}" for split, part in asked.items())],
    )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _hub_error(key: str, value: object, allowed: str) -> UserError:
    return UserError(f"{key}={value}: must be {allowed}. Next: see conf/dataset/gsm8k.yaml for an example.")


# ------------------------------------------------------------------------------------------------ one row


def problem_of(record: sources.Record, source: str) -> dict[str, Any] | str:
    """The fields of one row, whichever schema it has; a text says why the row is refused.

    Raises:
        UserError: the row follows no schema.
    """
    # published copies of AIME spell their columns Problem, Solution, Answer
    fields = {**{name.lower(): value for name, value in record.fields.items()}, **record.fields}
    if not {"problem", "question"} & set(fields):
        raise unknown_schema(source, record.where, record.fields, SCHEMA, dataset="gsm8k, math and their like")
    key = "problem" if fields.get("problem") is not None else "question"
    if problem := text_problem(fields.get(key)):
        return f"{key} {problem}"
    answer = _bare(fields)
    if not answer[0]:
        return answer[1]
    own_id = next((fields[name] for name in ("id", "unique_id", "ID") if fields.get(name) not in (None, "")), None)
    level, subject = fields.get("level"), fields.get("subject", fields.get("type"))
    rationale = fields.get("solution") or (fields["answer"] if "####" in str(fields.get("answer")) else None)
    columns = {"question": fields[key], "answer": answer[0]}
    if level is not None:
        columns["level"] = int(match[1]) if (match := re.fullmatch(r"(?:Level\s*)?([0-9]+)", str(level))) else level
    if subject is not None:
        columns["subject"] = subject
    if isinstance(rationale, str):
        columns["solution"] = rationale
    return {"id": None if own_id is None else str(own_id), "columns": columns}


def _bare(fields: Mapping[str, Any]) -> tuple[str, str]:
    """The final answer alone, or "" and why there is none."""
    answer: Any = fields.get("answer")
    key = "answer"
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = f"{answer:.0f}" if isinstance(answer, float) and answer.is_integer() else repr(answer)
    if answer is None:
        answer, key = fields.get("solution"), "solution"
        if answer is None:
            return "", "no final answer: neither answer nor solution"
    if problem := text_problem(answer):
        return "", f"no final answer: {key} {problem}"
    if key == "answer" and "####" in answer:
        bare = answer.rsplit("####", 1)[1].strip()
        bare = re.sub(r"[$,\s]", "", bare) if _NUMBER.fullmatch(bare) else bare
        return bare, "no final answer: nothing stands behind #### in answer"
    boxed = last_boxed(answer)
    if boxed is not None:
        return boxed, f"no final answer: the last \\boxed{{}} of {key} is empty"
    if key == "solution":
        return "", "no final answer: the solution holds no closed \\boxed{}"
    if "problem" not in fields and (not is_expression(answer.strip()) or _SENTENCE.fullmatch(answer.strip())):
        return "", "no final answer: answer is a text without #### or \\boxed{}"
    return answer.strip(), ""
