"""The work behind ``python -m dro_lab.rubrics``: what is asked for, who writes, what is kept, what is shown."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dro_lab.checks import choice, flag, whole
from dro_lab.errors import UserError
from dro_lab.rubrics.file import Entry, Header, content_key, read
from dro_lab.rubrics.validate import FAILED, Tally, validated
from dro_lab.rubrics.writers import FromEndpoint, FromPolicy, FromRows, Writer
from dro_lab.types import Need, Row, Stat, Task

BATCH = 32
"""Queries after which what was written is on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The command's own keys; `dro_lab.rubrics.__main__.USAGE` says what they mean."""

    out: str
    overwrite: bool = False
    split: str = "train"
    limit: int | None = None
    checks: str = "write"
    max_tokens: int = 1024
    examples: int = 3


def wanted(given: Sequence[str]) -> tuple[Wanted, list[str]]:
    """The command's own keys, and the rest: overrides of a run's configuration. Raises `UserError` for bad values."""
    known = {item.name for item in fields(Wanted)}
    own: dict[str, Any] = {}
    rest = []
    for argument in given:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(f"{argument}: unknown option; see `python -m dro_lab.rubrics --help`")
        if equals and key in known:
            own[key] = value if key == "out" else _value(key, value)
        else:
            rest.append(argument)
    if not own.get("out"):
        raise UserError("out is not set: give the file to write with out=FILE, for example out=rubrics.jsonl")
    made = Wanted(**own)
    flag("overwrite", made.overwrite, todo="true begins the file anew")
    choice("checks", made.checks, ("write", "rows"), todo="rows takes those that the rows carry")
    if made.limit is not None:
        whole("limit", made.limit, low=1, todo="the first so many rows, or null for all")
    whole("max_tokens", made.max_tokens, low=1, todo="1024 is the default")
    whole("examples", made.examples, low=0, todo="3 is the default")
    return made, rest


def _value(key: str, text: str) -> Any:
    try:
        return OmegaConf.from_dotlist([f"{key}={text}"])[key]
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{key}={text}: cannot be read; see `python -m dro_lab.rubrics --help`") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a command works with."""

    task: Task
    rows: Sequence[Row]
    judge_name: str
    model: str
    template: str
    data: Sequence[str]  # the overrides that chose the data set
    make: Any  # () -> (writer, judge), once something has to be written


def run(own: Wanted, overrides: Sequence[str], *, arguments: Sequence[str], output: TextIO | None = None) -> int:
    """Write what is missing and report. Returns 0, or 1 where the file holds no usable check."""
    output = sys.stdout if output is None else output
    parts = _parts(own, overrides)
    header = Header(
        dataset=parts.task.name,
        judge=parts.judge_name,
        model=parts.model,
        template=parts.template,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "dro_lab.rubrics", *arguments]),
        commit=_commit(),
    )
    path = Path(own.out)
    present = _present(path, header, own)
    keys = {content_key(row, parts.template): row for row in parts.rows}
    missing = [row for key, row in keys.items() if key not in present]
    tally = Tally()
    print(
        f"{parts.task.provenance}: {len(keys)} queries of {own.split}, {len(keys) - len(missing)} of them in {path} "
        f"already, {len(missing)} to write by {parts.judge_name} ({parts.model})",
        file=output,
    )
    found = [present[key] for key in keys if key in present]
    if missing:
        writer, judge = parts.make()
        _start(path, header, anew=own.overwrite or not path.exists())
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            entries = validated(some, writer.write(some), judge, template=parts.template)
            tally.unanswered += len(some) - len(entries)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(entry.line() + "\n" for entry in entries)
            found += entries
        counts = ", ".join(f"{name} {value:g}" for name, value in judge.metrics().items() if value)
        print(f"judge    {counts or 'nothing was asked'}", file=output)
    for entry in found:
        tally.add(entry)
    report(found, tally, path, parts, own, output)
    return 0 if tally.kept else 1


def _parts(own: Wanted, overrides: Sequence[str]) -> Parts:
    from dro_lab.build import load_task
    from dro_lab.components import component
    from dro_lab.config import check
    from dro_lab.data.__main__ import compose

    cfg = compose(overrides)
    check(cfg)
    name = OmegaConf.select(cfg, "judge._target_", default="").rsplit(".", 1)[-1]
    if name == "none":
        raise UserError("judge=none: rubrics need a judge to try them on the reference; choose openai, policy or exact")
    judge_part = component("judge", cfg.judge, name=name, supplied=frozenset({"needs"}))
    task = load_task(cfg)
    rows = list(task.splits.get(own.split, ()))[: own.limit]
    if not rows:
        raise UserError(f"split={own.split}: {task.name} has no rows in it; it has {', '.join(task.splits)}")
    carried = name == "exact" or own.checks == "rows"
    if carried and not any(row.columns.get("rubric") for row in rows):
        raise UserError(
            f"{'judge=exact' if name == 'exact' else 'checks=rows'} with dataset {task.name}: its rows carry no "
            "rubric; let a model write them with judge=openai or judge=policy"
        )
    spec = _spec(cfg)
    models = {"exact": f"the program of {task.name}", "openai": str(cfg.judge.get("model")), "policy": spec.name}
    from dro_lab.rubrics.writing import VERSION

    def make() -> tuple[Writer, Any]:
        judge = judge_part(task, needs=frozenset({Need(Stat.VERDICTS)}))
        policy = tokenizer = None
        if judge.asks_reference:
            policy, tokenizer = _policy(spec)
        judge.attach(policy=policy, tokenizer=tokenizer, chat_template_kwargs=spec.chat_template_kwargs)
        if carried:
            return FromRows(), judge
        if policy is None:
            return FromEndpoint(judge.endpoint, max_tokens=own.max_tokens), judge
        from dro_lab.models import context_length

        return (
            FromPolicy(
                policy,
                tokenizer,
                chat_template_kwargs=spec.chat_template_kwargs,
                context=context_length(policy.config),
                max_tokens=own.max_tokens,
            ),
            judge,
        )

    return Parts(
        task=task,
        rows=rows,
        judge_name=name,
        model=models.get(name, name),
        template=FromRows.template if carried else VERSION,
        data=[argument for argument in overrides if argument.startswith("dataset")] or [f"dataset={task.name}"],
        make=make,
    )


def _spec(cfg: Any) -> Any:
    from dro_lab.data.twins.knobs import dataset_name
    from dro_lab.models import policy_spec

    return policy_spec(cfg.model, dataset=dataset_name(cfg.dataset))


def _policy(spec: Any) -> tuple[Any, Any]:
    from dro_lab.models import load_to_ask, load_tokenizer

    tokenizer = load_tokenizer(spec)
    return load_to_ask(spec), tokenizer


def _commit() -> str:
    from dro_lab.record.environment import git_state

    state = git_state()
    return (state["commit"] or "unknown") + (", with changes" if state["dirty"] else "")


def _present(path: Path, header: Header, own: Wanted) -> dict[str, Entry]:
    """What the file holds already. Raises `UserError` where somebody else wrote it."""
    if own.overwrite or not path.exists():
        return {}
    there = read(path, key="out")
    for name in ("dataset", "judge", "model", "template"):
        old, new = getattr(there.header, name), getattr(header, name)
        if old != new:
            raise UserError(
                f"out={path}: was written with {name}={old}, now it is {new}; rubrics are never rewritten silently. "
                "Give another file, or overwrite=true to begin it anew"
            )
    return dict(there.entries)


def _start(path: Path, header: Header, *, anew: bool) -> None:
    if not anew:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(header), ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={path}: cannot be written ({error.strerror or error}); give another file") from error


def report(entries: Sequence[Entry], tally: Tally, path: Path, parts: Parts, own: Wanted, output: TextIO) -> None:
    """Say what was kept, what was dropped and why, with examples."""

    def say(text: str) -> None:
        print(text, file=output)

    say(f"checks   {tally.kept} kept of {tally.written} that could be read, for {tally.queries} queries")
    for reason, count in tally.dropped.most_common():
        say(f"dropped  {count} checks: {reason}")
    for reason, count in tally.malformed.most_common():
        say(f"nothing  {count} queries: {reason}")
    if tally.ungated:
        say(f"ungated  {tally.ungated} of {tally.queries} queries are left without a check and will not be gated")
    if tally.unanswered:
        say(f"missing  {tally.unanswered} queries got no reply or no verdict and are not in the file; run it again")
    if parts.judge_name == "exact" or own.checks == "rows":
        for name, count in tally.asked.most_common(20):
            say(f"         check {name}: the reference meets {tally.passed[name]} of {count}")
    shown = [(entry.id, item) for entry in entries for item in entry.dropped]
    shown.sort(key=lambda pair: pair[1]["reason"] != FAILED)
    for row, item in shown[: own.examples]:
        say(f"example  {row}: {item['check'].get('text')!r}: {item['reason']}")
    for entry in [entry for entry in entries if entry.reply][: own.examples]:
        say(f"example  {entry.id}: {entry.malformed}: {entry.reply!r}")
    if tally.kept:
        line = shlex.join([*parts.data, "gating=rubric", f"gating.rubrics.file={path}"])
        say(f"use it   python -m dro_lab.run {line}")
    else:
        say(
            f"nothing usable was written: {parts.model} gave no check that its reference meets. A small or untrained "
            "policy writes no rubrics: take judge=openai, or a real model with judge=policy model=NAME"
        )
